"""Markdown tables of `quality.py`, `placement.py` and `search.py`. Standard library only."""

from __future__ import annotations

import statistics
from typing import Any

from ..markdown import heading, table
from .compare import AUTO, EASYCACHE, compared, of_family
from .settings import LISTED, SETTINGS

HOST = "0.33.0"  # of the figures in README and docs

Row = dict[str, Any]


def in_order(rows: list[Row]) -> list[Row]:
    """Rows in the order of the settings and their models."""
    places = [(setting.name, clips) for setting in LISTED for clips in setting.models]
    known = [row for row in rows if (row["setting"], row["clips"]) in places]
    return sorted(known, key=lambda row: places.index((row["setting"], row["clips"])))


def signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1f}"


def leads(rows: list[Row]) -> str:
    """`auto` against all else, by row and number of calls."""
    header = ["setting, clips", "calls", "PSNR", "flicker", "seconds", "− EasyCache", "same time", "flicker −"]
    header += ["− fewer dense steps", "− paper", "− best control", "which is"]
    lines = []
    for row in in_order(rows):
        setting = SETTINGS[row["setting"]]
        for calls in setting.calls:
            own = compared(row, calls)
            flicker = [lead for lead in (own["easycache_flicker"], own["fewer_flicker"]) if lead is not None]
            lines.append([
                f"{setting.title}, {row['clips']}", f"{calls} of {setting.steps}", f"{own['psnr']:.1f}",
                f"{own['flicker']:.1f}", f"{own['seconds']:.1f} of {row['dense_seconds']:.1f}",
                signed(own["easycache"]), signed(own["easycache_time"]), signed(min(flicker, default=None)),
                signed(own["fewer"]), signed(own["paper"]), signed(own["best"]), own["best_control"],
            ])  # fmt: skip
    return table(header, lines)


def usual(rows: list[Row]) -> str:
    """One line for each setting at its usual number of calls, mean over the models measured."""
    header = ["what people run", "sampling", "calls", "PSNR", "− EasyCache", "− fewer dense steps", "− paper's mode"]
    lines = []
    for setting in LISTED:
        own = [compared(row, setting.usual) for row in in_order(rows) if row["setting"] == setting.name]
        if own:
            known = [[each[key] for each in own if each[key] is not None] for key in ("easycache", "fewer", "paper")]
            extent = _extent([each["psnr"] for each in own])
            calls = f"{setting.usual} of {setting.steps}"
            lines.append([setting.title, setting.described, calls, extent, *map(_mean_and_extent, known)])
    return table(header, lines)


def expected(rows: list[Row]) -> str:
    """Results to expect of `auto` at budget 0.5, by setting: the speed-up if steps alone took time, and the PSNR."""
    header = ["what people run", "sampling", "steps computed", "at most", "dB on the test models"]
    lines = []
    for setting in LISTED:
        own = [compared(row, setting.usual)["psnr"] for row in in_order(rows) if row["setting"] == setting.name]
        if own:
            calls, speedup = f"{setting.usual} of {setting.steps}", f"{setting.steps / setting.usual:.1f}×"
            lines.append([setting.title, setting.described, calls, speedup, _extent(own)])
    return table(header, lines)


def _extent(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ({min(values):.0f}…{max(values):.0f})"


def _mean_and_extent(values: list[float]) -> str | None:
    return f"{statistics.fmean(values):+.1f} ({min(values):+.0f}…{max(values):+.0f})" if values else None


def points(row: Row) -> str:
    """All contestants of a row: PSNR by calls; EasyCache's by threshold."""
    calls = SETTINGS[row["setting"]].calls
    known: dict[str, dict[float, float]] = {}
    for point in row["points"]:
        if point["family"] != EASYCACHE:
            known.setdefault(point["family"], {})[point["setting"]] = point["psnr"]["mean"]
    text = table(["", *(f"{each} calls" for each in calls)], [[f, *map(v.get, calls)] for f, v in known.items()])
    cache = [
        [f"{p['setting']:g}", p["share"], p["psnr"]["mean"], p["speedup"]["total"]] for p in of_family(row, EASYCACHE)
    ]
    return text + "\n" + table(["EasyCache, threshold", "share computed", "PSNR", "speed-up"], cache)


def quality_markdown(result: Row) -> str:
    text = heading("Quality", result["environment"])
    text += "PSNR in dB against the dense run of the same seed, mean over pairs; see benchmarks/README.md.\n"
    text += f"\n## `{AUTO}` against all else\n\n" + leads(result["rows"])
    for row in in_order(result["rows"]):
        setting = SETTINGS[row["setting"]]
        text += f"\n## {setting.title}, {row['clips']}\n\n{setting.described}; {row['pairs']} pairs; dense "
        text += f"{row['dense_seconds']:.2f} s\n\n" + points(row)
    return text


def placement_markdown(result: Row) -> str:
    text = heading("Placement of computed steps", result["environment"])
    text += "PSNR in dB against the dense run, mean over pairs; drawn: at random.\n\n"
    header = ["case", "budget", "steps of `auto`", "best steps drawn"]
    lines = [
        [row["case"], point["budget"], f"`{point['auto']['steps']}`", _steps(best_drawn(point))]
        for row in result["rows"]
        for point in row["points"]
    ]
    return text + placements(result["rows"]) + "\n" + table(header, lines)


def _steps(drawn: Row | None) -> str | None:
    return None if drawn is None else f"`{drawn['steps']}`"


def best_drawn(point: Row) -> Row | None:
    return max(point["random"], key=lambda each: statistics.fmean(each["psnr"]), default=None)


def placements(rows: list[Row]) -> str:
    """`auto` beside even and random placements, by case and budget, and the means."""
    header = ["case", "budget", "`auto`", "even", "best of those drawn", "drawn", "− even", "− best drawn"]
    lines, leads_of = [], ([], [])  # type: ignore[var-annotated]
    for row in rows:
        for point in row["points"]:
            best = best_drawn(point)
            own, even = (statistics.fmean(point[name]["psnr"]) for name in ("auto", "even"))
            drawn = None if best is None else statistics.fmean(best["psnr"])
            leads_of[0].append(own - even)
            leads_of[1].extend([] if drawn is None else [own - drawn])
            line = [f"{row['case']}: {row['sampling']}", f"{point['budget']:g}", f"{own:.1f}", f"{even:.1f}"]
            line += [None if drawn is None else f"{drawn:.1f}", len(point["random"]), signed(own - even)]
            lines.append([*line, None if drawn is None else signed(own - drawn)])
    means = [signed(statistics.fmean(values)) if values else None for values in leads_of]
    return table(header, [*lines, ["mean", "", "", "", "", "", *means]])


def placed_by_clip(rows: list[Row]) -> str:
    """A sentence on the largest possible gain of one placement for each clip."""
    gains = []
    for point in (point for row in rows for point in row["points"]):
        listed = [each["psnr"] for each in (point["auto"], point["even"], *point["random"])]
        gains.append(statistics.fmean(map(max, zip(*listed, strict=True))) - max(map(statistics.fmean, listed)))
    mean, median = statistics.fmean(gains), statistics.median(gains)
    return (
        f"The closest of these placements for each clip, chosen with the result known, is {mean:.1f} dB closer\n"
        f"(median {median:.1f}) than the one that is closest on average in its case.\n"
    )


def search_markdown(result: Row) -> str:
    text = heading("What a search adds", result["environment"])
    return (
        text + "PSNR in dB on held-out pairs; gain over `auto`, mean over searches.\n\n" + search_gains(result["rows"])
    )


def search_gains(rows: list[Row]) -> str:
    """Gains of each search over `auto` on held-out pairs, by setting and budget, and their means."""
    names = list(dict.fromkeys(row["contestant"] for row in rows if row["contestant"] != AUTO))
    keys = list(dict.fromkeys((row["setting"], row["clips"], row["budget"]) for row in rows))
    lines: list[list[Any]] = []
    gains: dict[str, list[float]] = {name: [] for name in names}
    for setting, clips, budget in keys:
        own = [row for row in rows if (row["setting"], row["clips"], row["budget"]) == (setting, clips, budget)]
        usual_psnr = next(statistics.fmean(row["psnr"]) for row in own if row["contestant"] == AUTO)
        line: list[Any] = [f"{SETTINGS[setting].title}, {clips}", f"{budget:g}", f"{usual_psnr:.1f}"]
        for name in names:
            values = [statistics.fmean(row["psnr"]) - usual_psnr for row in own if row["contestant"] == name]
            gains[name] += values
            line.append(signed(statistics.fmean(values)) if values else None)
        lines.append(line)
    lines.append(["mean", "", "", *(signed(statistics.fmean(gains[name])) for name in names)])
    spent = [statistics.fmean(row["spent"] for row in rows if row["contestant"] == name) for name in names]
    lines.append(["dense-run equivalents", "", "", *(f"{value:.1f}" for value in spent)])
    return table(["setting, clips", "budget", "`auto`", *names], lines)


def search_means(rows: list[Row]) -> str:
    """The means of `search_gains`, over all settings and budgets."""
    header, rule, *_, means, spent = search_gains(rows).splitlines(keepends=True)
    return header + rule + means + spent


def prior_markdown(result: Row) -> str:
    text = heading("Constants of the prior of placements", result["environment"])
    names = [name for name in result["rows"][0] if ":" in name]
    header = ["constant", "value", "in use", *names]
    return text + table(header, [[row[key] for key in header] for row in result["rows"]])
