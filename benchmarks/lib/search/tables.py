"""Tables from the results of `search.py` and `find_schedules.py`. Standard library only."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Sequence
from typing import Any

from ..markdown import table
from ..quality.derived import value_at
from ..results import RESULTS

Row = dict[str, Any]
HAND_MADE = ("uniform", "whole steps", "token rhythm")
SEARCHED = ("ours", "paper's search")
SPLITS = 400


def is_hand_made(row: Row) -> bool:
    return row["contestant"].startswith(HAND_MADE)


def best_hand_made(rows: Sequence[Row], budget: float) -> Row | None:
    """The hand-made schedule that is best on the held-out pairs themselves: in its favour."""
    rows = [row for row in rows if row["budget"] == budget and is_hand_made(row)]
    return max(rows, key=lambda row: row["psnr"], default=None)


def mean_loss_db(row: Row) -> float:
    """PSNR of the mean square error over the pairs, which the worst of them dominate."""
    return -10.0 * math.log10(statistics.fmean(10.0 ** (-value / 10.0) for value in row["psnr_all"]))


def of_contestant(rows: Sequence[Row], budget: float, contestant: str) -> list[Row]:
    return [row for row in rows if row["budget"] == budget and row["contestant"] == contestant]


def over_seeds(values: Sequence[float], signed: bool = False) -> str | None:
    """The mean, with minimum and maximum of several values."""
    if not values:
        return None
    form = "+.1f" if signed else ".1f"
    spread = f" ({min(values):{form}}…{max(values):{form}})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def contest(result: dict[str, Any]) -> str:
    """All contestants at each budget on the held-out pairs."""
    rows = result["rows"]
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    lines = [_line("best hand-made", [[best_hand_made(rows, b)] for b in budgets])]
    names = dict.fromkeys(row["contestant"] for row in rows if not is_hand_made(row))
    lines += [_line(name, [of_contestant(rows, b, name) for b in budgets]) for name in sorted(names, key=_order)]
    header = [""]
    for budget in budgets:
        header += [f"{budget:g}: PSNR", "of the mean error", "work"]
    return table(header, lines)


def _order(name: str) -> tuple[int, str, float]:
    kind = next((i for i, start in enumerate(SEARCHED) if name.startswith(start)), len(SEARCHED))
    effort = name.rpartition("effort ")[2]
    return (-kind, name.partition(",")[0], float(effort) if effort.replace(".", "").isdigit() else 0.0)


def _line(name: str, by_budget: Sequence[Sequence[Row | None]]) -> list[Any]:
    line: list[Any] = [name]
    for rows in by_budget:
        known = [row for row in rows if row is not None]
        work = over_seeds([row["spent"] for row in known if row["spent"]])
        line += [over_seeds([row["psnr"] for row in known]), over_seeds([mean_loss_db(row) for row in known]), work]
    return line


def ahead(result: dict[str, Any]) -> str:
    """Gain of the search with 30 dense-run equivalents over hand-made schedules, the paper's search and EasyCache."""
    rows = result["rows"]
    budgets = sorted({row["budget"] for row in rows if row["contestant"] == "ours, effort 30"}, reverse=True)
    header = ["budget", "PSNR", "− best hand-made", "± over pairs", "− hand-made, chosen on other pairs"]
    header += ["− paper's search", "with work of", "− EasyCache, same time", "seeds"]
    lines = []
    for budget in budgets:
        own = of_contestant(rows, budget, "ours, effort 30")
        values = [row["psnr"] for row in own]
        means = {"psnr_all": [statistics.fmean(pair) for pair in zip(*(row["psnr_all"] for row in own), strict=True)]}
        baseline = best_hand_made(rows, budget)
        gain = None if baseline is None else gain_over_pairs(means, baseline)
        papers = [row for row in rows if row["budget"] == budget and row["contestant"].startswith("paper's search,")]
        most = max((row["spent"] for row in papers), default=None)
        paper = [row["psnr"] for row in papers if row["contestant"] == _most_work(papers)]
        cached = _easycache(result, budget)
        lines.append(
            [
                f"{budget:g}",
                over_seeds(values),
                None if baseline is None else over_seeds([value - baseline["psnr"] for value in values], True),
                None if gain is None else f"{gain[1]:.1f}",
                _over_chosen(means["psnr_all"], rows, budget),
                over_seeds([value - statistics.fmean(paper) for value in values], True) if paper else None,
                None if most is None else f"{most:.0f}",
                None if cached is None else f"{cached:+.1f}",
                len(own),
            ]
        )
    return table(header, lines)


def _over_chosen(own: Sequence[float], rows: Sequence[Row], budget: float) -> str | None:
    """The gain on one half of the pairs over the hand-made schedule that is best on the other half; mean over splits.

    The best of many schedules on the very pairs of the comparison is partly luck.
    """
    baselines = [row["psnr_all"] for row in rows if row["budget"] == budget and is_hand_made(row)]
    baselines = [values for values in baselines if len(values) == len(own)]
    if not baselines:
        return None
    order, gains = random.Random(0), []
    for _ in range(SPLITS):
        pairs = order.sample(range(len(own)), len(own))
        chosen_on, held_out = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
        baseline = max(baselines, key=lambda values: sum(values[pair] for pair in chosen_on))
        gains.append(statistics.fmean(own[pair] - baseline[pair] for pair in held_out))
    return f"{statistics.fmean(gains):+.1f}"


def _most_work(papers: Sequence[Row]) -> str:
    return max(papers, key=lambda row: row["spent"])["contestant"]


def _easycache(result: dict[str, Any], budget: float) -> float | None:
    """Lead over EasyCache in the same time, in dB."""
    timed = result.get("easycache", [])
    own = next((row for row in timed if row["name"] == f"ours {budget:g}"), None)
    points = [(row["speedup"], row["psnr"]) for row in timed if row["name"].startswith("EasyCache")]
    if own is None or not points:
        return None
    value, _ = value_at(points, own["speedup"])
    return None if value is None else own["psnr"] - value


def gain_over_pairs(row: Row, base: Row) -> tuple[float, float] | None:
    """Mean gain in dB, pair by pair, and its standard error; None if the pairs differ."""
    own, other = row["psnr_all"], base["psnr_all"]
    if len(own) != len(other):
        return None
    gains = [a - b for a, b in zip(own, other, strict=True)]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))


def found_for_all() -> str:
    """Results of `find_schedules.py` against hand-made schedules, on its control pairs."""
    header = ["steps", "guidance", "budget", "gain, dB", "± over pairs"]
    header += ["prior gain, axis, curvature", "which steps", "bundled"]
    lines: list[list[Any]] = []
    for path in sorted(RESULTS.glob("schedules-*.json")):
        for row in json.loads(path.read_text("utf-8"))["rows"]:
            gains, forecast = row["gain"]["all"], row["forecast"]
            groups = {name: row["psnr_by"][name] - psnr for name, psnr in row["psnr_by_drawn"].items()}
            lines.append(
                [
                    row["steps"],
                    f"{row['guidance']:g}",
                    f"{row['budget']:g}",
                    f"{row['gain']['mean']:+.1f}",
                    f"{statistics.stdev(gains) / math.sqrt(len(gains)):.1f}",
                    *(f"{gain:+.1f}" for gain in groups.values()),
                    f"{forecast['expected']:g}, {forecast['along']}, {forecast['bend']:g}",
                    _which_steps(row),
                    "yes" if row["bundled"] else "no",
                ]
            )
            header[5:-3] = list(groups)
    return table(header, lines) if lines else ""


def _which_steps(row: Row) -> str:
    if row["budgets"] == row["budgets_drawn"]:
        return "hand-made"
    return "some partial" if any(0.0 < budget < 1.0 for budget in row["budgets"]) else "others"


def on_the_same_pairs(result: dict[str, Any]) -> dict[str, Any]:
    """The result without rows of other pairs than are held out now."""
    now = result["settings"]["held_out_pairs"], result["settings"].get("held_out_seeds_from")
    rows = [row for row in result["rows"] if (len(row["psnr_all"]), row.get("held_out_seeds_from")) == now]
    return {**result, "rows": rows}


def of_result(testbed: str, steps: int, make: Any, tag: str = "") -> str:
    """A table of one result of `search.py`; "" if it was not measured."""
    for path in sorted(RESULTS.glob("search-*.json")):
        if re.match(rf"search-{testbed}-{steps}-steps{tag}-\d", path.name):
            return make(on_the_same_pairs(json.loads(path.read_text("utf-8"))))
    return ""


TABLES: dict[str, Any] = {
    "ahead": ahead,
    "contest": contest,
}
