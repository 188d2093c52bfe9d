"""Options of a search, and the names of its methods. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

ASTRAEA, PAPER = "astraea", "paper"
# For the command's help and the provenance of schedules that a method found.
METHOD_DESCRIPTIONS = {
    ASTRAEA: "small clips where possible, else evolution by replay; successive halving",
    PAPER: "the paper's evolutionary search (arXiv 2506.05096, section 3.3)",
}


@dataclass(frozen=True)
class SearchConfig:
    """Options of one search.

    budgets: mean budgets, searched for one after the other; effort: dense-run equivalents to spend, dense runs
    included; seed: of the search's own choices.
    method: a key of METHOD_DESCRIPTIONS.
    partial_step_overhead: least cost of a partial step in full steps (see `step_cost`); None: measure it. Only if it is
    given will a repeated search make the same choices among candidates with partial steps.
    use_proxy: run candidates on small clips first, if the runner has any and the effort allows enough of them.
    """

    budgets: tuple[float, ...]
    effort: float
    seed: int
    method: str = ASTRAEA
    partial_step_overhead: float | None = None
    use_proxy: bool = True
