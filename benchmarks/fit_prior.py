"""Does the expected error rank placements as measured? And what if one of its constants were another?

python benchmarks/fit_prior.py [--comfyui TREE]     # after placement.py

Over the placements that `placement.py` has measured, on the cases that the constants of `CautiousPrior` were fitted on
and on all others. By value of a constant: the rank correlation of expected error and PSNR, and the dB lost by taking
the placement of the least expected error instead of the best one measured; means over cases and budgets.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.quality.cases import CASES, Case
from lib.quality.tables import HOST, prior_markdown
from lib.results import RESULTS, read_json, write_json

# By name: the attribute of CautiousPrior, the place in it (None: it is one number), and values around that in use.
CONSTANTS: dict[str, tuple[str, int | None, tuple[float, ...]]] = {
    "reach, factor": ("wider_reach", None, (1.0, 1.4, 2.6, 4.0)),
    "response, factor": ("weaker_response", None, (0.6, 0.75, 1.0, 1.2)),
    "misaligned": ("misaligned", None, (0.0, 0.5, 0.8)),
    "decided at": ("decided", 0, (-4.0, -2.0, -1.0)),
    "decided over": ("decided", 1, (1.5, 2.5, 8.0)),
    "steady at": ("steady", 0, (-4.0, -2.0, -1.0)),
    "steady over": ("steady", 1, (1.0, 3.0)),
    "swing with guidance": ("guided", 1, (0.0, 1.0, 4.0, 8.0)),
    "swing without": ("distilled", 1, (0.0, 1.0, 2.0, 5.0)),
    "onset, factor without guidance": ("distilled", 0, (0.5, 1.0, 1.5)),
}
MIN_PLACEMENTS = 6  # of a case and budget


@contextmanager
def changed(attribute: str, place: int | None, value: float) -> Iterator[float]:
    """Replace a constant; gives the one in use."""
    from astraea.schedules.placement import CautiousPrior

    before = getattr(CautiousPrior, attribute)
    after: Any = value
    if place is not None:
        after = tuple(value if n == place else each for n, each in enumerate(before))
    setattr(CautiousPrior, attribute, after)
    try:
        yield before if place is None else before[place]
    finally:
        setattr(CautiousPrior, attribute, before)


class Measured:
    """The placements of one case and budget: the steps computed and the PSNR of each."""

    def __init__(self, case: Case, steps: Any, forecast: Any, point: dict[str, Any]):
        placed = {p["steps"]: statistics.fmean(p["psnr"]) for p in (point["auto"], point["even"], *point["random"])}
        self.fitted, self._steps, self._forecast = case.fitted, steps, forecast
        self._choices = [frozenset(n for n, kind in enumerate(each) if kind == "F") for each in placed]
        self.psnr = list(placed.values())

    def rank(self) -> tuple[float, float]:
        """Rank correlation, and the dB lost by the placement of the least expected error."""
        from astraea.schedules.placement import ExpectedError

        error = ExpectedError(self._steps, self._forecast)
        expected = [-math.log(max(1e-300, error.of(choice))) for choice in self._choices]
        taken = max(range(len(expected)), key=expected.__getitem__)
        return correlation(ranks(expected), ranks(self.psnr)), max(self.psnr) - self.psnr[taken]


def ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    return [float(order.index(n)) for n in range(len(values))]


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.correlation(one, other) if len(set(one)) > 1 and len(set(other)) > 1 else 0.0


def load(args: argparse.Namespace) -> list[Measured]:
    """All measured placements of samplers whose weights are known."""
    from lib.quality.models import make_row
    from lib.quality.runners import runner_of, searched_pairs

    from astraea.schedules import usual_forecast

    found = []
    by_name = {case.name: case for case in CASES}
    for row in (read_json(args.results) or {"rows": []})["rows"]:
        case = by_name.get(row["case"])
        if case is None:
            continue
        benched = make_row(case.setting, case.clips)
        setting = runner_of(benched, searched_pairs(benched.testbed)[:1]).setting
        if setting.weights is None or len(setting.weights) != setting.steps:
            continue
        forecast = usual_forecast(case.setting.cfg)
        points = [Measured(case, setting.sampler_steps, forecast, point) for point in row["points"]]
        found += [point for point in points if len(point.psnr) >= MIN_PLACEMENTS]
    return found


def figures(measured: Sequence[Measured]) -> dict[str, float]:
    """Means over the fitted and over the other cases."""
    found = [(each.fitted, *each.rank()) for each in measured]
    result: dict[str, float] = {}
    for name, which in (("fitted", True), ("others", False)):
        own = [(rank, lost) for fitted, rank, lost in found if fitted is which]
        if own:
            result |= {f"{name}: rank correlation": statistics.fmean(rank for rank, _ in own)}
            result |= {f"{name}: dB lost": statistics.fmean(lost for _, lost in own)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--results", type=Path, default=RESULTS / f"placement-{HOST}.json")
    args = parser.parse_args()
    host = process.start(args, cpu=True)
    measured = load(args)
    rows = [{"constant": "all as in use", "value": None, "in use": None, **figures(measured)}]
    print(rows[0], flush=True)
    for name, (attribute, place, values) in CONSTANTS.items():
        for value in values:
            with changed(attribute, place, value) as before:
                rows.append({"constant": name, "value": value, "in use": before, **figures(measured)})
            print(rows[-1], flush=True)
    result = {"benchmark": "prior", "environment": environment(host, args, "cpu"), "placements": len(measured)}
    path = args.out / f"prior-{host.version}.json"
    write_json(path, {**result, "rows": rows})
    path.with_suffix(".md").write_text(prior_markdown({**result, "rows": rows}), "utf-8")
    print(f"written: {path} and .md")


if __name__ == "__main__":
    main()
