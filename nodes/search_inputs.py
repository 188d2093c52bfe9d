"""Checks the widgets of `Astraea Search`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..host.search.samplers import sampler_names, scheduler_names
from ..limits import MAX_CFG, MAX_SEED, MAX_STEPS
from ..search.problem.budgets import check_search_name, parse_budgets
from .checks import number, one_of, text, whole_number

EFFORTS = {"instant (3 clips)": 3.0, "quick (10 clips)": 10.0, "good (30 clips)": 30.0, "thorough (100 clips)": 100.0}
DEFAULT_EFFORT = "good (30 clips)"
# Choices of former versions, as saved workflows hold them.
FORMER_EFFORTS = {name.replace("clips", "dense runs"): name for name in EFFORTS}
MIN_STEPS, MAX_CASES = 2, 16
STEPS_HINT = "Use the number of your finished videos; there is little to gain below 12."
CFG_HINT = "Use that of your sampler."
CASES_HINT = "4 are enough for most searches."


@dataclass(frozen=True)
class SearchInputs:
    """The widgets' values. steps and scheduler are not used if noise levels are linked."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    first_seed: int
    budgets: str
    effort: str
    cases: int
    name: str


def check_inputs(inputs: SearchInputs) -> SearchInputs:
    """Return the inputs with checked values. Raises InputError, SearchError or ScheduleError for one that is wrong."""
    parse_budgets(text("budgets", inputs.budgets))
    return replace(
        inputs,
        steps=whole_number("steps", inputs.steps, MIN_STEPS, MAX_STEPS, STEPS_HINT),
        cfg=number("cfg", inputs.cfg, 0.0, MAX_CFG, CFG_HINT),
        sampler_name=one_of("sampler_name", inputs.sampler_name, sampler_names()),
        scheduler=one_of("scheduler", inputs.scheduler, scheduler_names()),
        first_seed=whole_number("first_seed", inputs.first_seed, 0, MAX_SEED),
        effort=_known_effort(inputs.effort),
        cases=whole_number("cases", inputs.cases, 1, MAX_CASES, CASES_HINT),
        name=check_search_name(text("name", inputs.name)),
    )


def _known_effort(effort: str) -> str:
    """Return one of EFFORTS, also for a choice of former versions. Raises InputError."""
    former = FORMER_EFFORTS.get(effort) if isinstance(effort, str) else None
    return former or one_of("effort", effort, list(EFFORTS))
