"""Files that anybody may have written, by the thousand: each is a valid one, or refused or passed over in words.

Valid ones are made at random or taken from those that ship, then changed: in what they say, in how it is written, or
byte by byte. See `fuzzing` for long runs and for running one case again.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from itertools import pairwise
from pathlib import Path

from damaged_files import ODD_NAMES, SLOWEST, change, damaged, put_file, some_content, some_run, written
from fuzzing import Generator, run_cases, some_promise, some_schedule

from astraea.errors import ScheduleError, SearchError
from astraea.schedules import (
    ExpectedResult,
    Schedule,
    budgets_for,
    config_distance,
    equivalent_steps,
    expected_from,
    expected_of,
    flow_sigmas,
    forecast_for,
    guidance_of,
    list_schedules,
    load,
    load_schedules,
    parse,
    periodic,
    pick,
    save,
    serialise,
    usual_forecast,
    without_partial_steps,
)
from astraea.schedules.density import BUDGET_TOLERANCE
from astraea.schedules.expected import describe
from astraea.schedules.format import MAX_BYTES
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem.runner import Outcome


def check_schedule(rng: Generator, schedule: Schedule) -> None:
    """All that a schedule must hold, wherever it comes from."""
    levels, budgets = schedule.sigmas, schedule.budgets
    assert 1 <= len(levels) <= 1000
    assert all(type(level) is float and math.isfinite(level) and level > 0.0 for level in levels)
    assert all(after < before for before, after in pairwise(levels))
    assert all(type(budget) is float and 0.0 <= budget <= 1.0 for budget in budgets)
    text = serialise(schedule)
    if len(text.encode()) <= MAX_BYTES:
        assert parse(text) == schedule
    promise = expected_of(schedule)
    if promise is not None:
        check_promise(promise)
    for _ in range(3):
        check_placed(rng, schedule)


def check_placed(rng: Generator, schedule: Schedule) -> None:
    """The schedule on a run's noise levels."""
    sigmas, mean = some_run(rng), rng.choice([None, None, rng.uniform(0.1, 1.0), 0.1, 0.5])
    steps = len(sigmas) - 1
    weights = [1] * steps if rng.random() < 0.6 else [rng.choice([1, 2, 3]) for _ in range(steps)]
    budgets = budgets_for(schedule, sigmas, calls_per_step=weights, mean=mean)
    assert len(budgets) == steps
    assert all(math.isfinite(budget) and 0.0 <= budget <= 1.0 for budget in budgets)
    asked = (schedule.mean_budget if mean is None else mean) * sum(weights)
    spent = sum(budget * weight for budget, weight in zip(budgets, weights, strict=True))
    least = weights[0] + weights[-1]  # has to be computed whatever is asked for
    if mean is not None and set(budgets) <= {0.0, 1.0}:
        assert spent <= max(asked * (1.0 + BUDGET_TOLERANCE), least) + 1e-6, f"{spent} for {asked}"
    elif mean is not None or tuple(budgets) != schedule.budgets:
        assert spent <= max(asked, least + 0.02 * sum(weights)) + max(weights) + BUDGET_TOLERANCE * asked, (
            f"{spent} for {asked}"
        )
    whole = without_partial_steps(budgets, weights)
    assert set(whole) <= {0.0, 1.0}
    assert len(whole) == steps
    guidance = rng.choice([None, 1.0, 3.0, 7.0])
    assert forecast_for(schedule, guidance) in (schedule.forecast, usual_forecast(guidance))
    assert 0.0 < guidance_of(schedule) < 1e6
    assert math.isfinite(config_distance(schedule, equivalent_steps(schedule, sigmas), guidance or 0.0))


def check_promise(promise: ExpectedResult) -> None:
    numbers = (promise.psnr_db, promise.speedup, promise.seconds, promise.dense_seconds, promise.cfg)
    assert all(number is None or (math.isfinite(number) and number > 0.0) for number in numbers)
    assert expected_from(promise.as_dict()) == promise
    line = describe(promise)
    assert line.isprintable()
    assert len(line) < 300


def test_schedule_texts() -> None:
    def check(rng: Generator) -> None:
        text = some_content(rng).decode("utf-8", "surrogateescape")
        try:
            schedule = parse(text, "the text")
        except ScheduleError:
            return
        check_schedule(rng, schedule)

    run_cases("schedule texts", 400, check, slowest=SLOWEST)


def test_schedules_made_at_random_are_read_back() -> None:
    """That most of what is changed above was valid before."""

    def check(rng: Generator) -> None:
        schedule = some_schedule(rng)
        assert parse(serialise(schedule)) == schedule
        check_schedule(rng, schedule)

    run_cases("schedules", 150, check, slowest=SLOWEST)


def test_schedule_files() -> None:
    def check(rng: Generator) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path = put_file(rng, folder, rng.choice(["a.json", *ODD_NAMES]))
            listed = list_schedules(folder)
            assert set(listed.values()) <= {path}
            assert not listed or path.is_file()
            try:
                schedule = load(path)
            except ScheduleError:
                return
            check_schedule(rng, schedule)
            try:
                saved = save(schedule, folder / "saved")
            except ScheduleError:
                assert len(serialise(schedule).encode()) > MAX_BYTES
                return
            assert load(saved) == schedule

    run_cases("schedule files", 180, check, slowest=SLOWEST)


def test_picking_from_folders() -> None:
    good = periodic("good", [0.0, 1.0], flow_sigmas(20))

    def check(rng: Generator) -> None:
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name) / "a", Path(name) / "b"]
            for folder in folders:
                folder.mkdir()
                for number in range(rng.randrange(6)):
                    put_file(rng, folder, f"{number}.json")
            if rng.random() < 0.5:
                save(good, folders[0])
            budget, guidance = rng.uniform(0.1, 1.0), rng.choice([1.0, 6.0])
            library = load_schedules(folders)
            try:
                picked = pick(budget, "wan", library, rng.choice([1, 8, 30, 1000]), guidance)
            except ScheduleError:
                assert not (folders[0] / "good.json").exists()
                return
            assert picked.family in ("any", "wan")
            assert picked in library
            for schedule in library:
                check_schedule(rng, schedule)

    run_cases("folders", 60, check, slowest=2 * SLOWEST)


def test_promises() -> None:
    def check(rng: Generator) -> None:
        data = {"promise": some_promise(rng)}
        for _ in range(rng.randrange(4)):
            change(rng, data)
        try:
            value = json.loads(written(data))
        except (ValueError, RecursionError):
            return  # never comes as far as this
        for told in (value, *(value.values() if isinstance(value, dict) else ())):
            promise = expected_from(told)
            if promise is not None:
                check_promise(promise)

    run_cases("promises", 180, check, slowest=SLOWEST)


# --- what a search remembers ------------------------------------------------------------------------------------------


def some_outcome(rng: Generator) -> Outcome:
    steps = rng.randrange(12)
    responses = tuple(rng.choice([None, rng.random()]) for _ in range(steps if rng.random() < 0.7 else 0))
    losses = [rng.random() for _ in range(steps)]
    if steps and rng.random() < 0.2:
        losses[-1] = rng.choice([math.nan, math.inf])
    return Outcome(
        rng.choice([10.0 ** rng.uniform(-12, 3), 0.0, math.inf]),
        steps,
        tuple(losses),
        rng.uniform(0.0, 50.0),
        tuple(rng.random() for _ in range(steps)),
        tuple(rng.choice(["full", "token", "reuse"]) for _ in range(steps)),
        responses,
    )


def check_outcome(outcome: Outcome) -> None:
    assert outcome.loss >= 0.0
    assert 0.0 <= outcome.computed < math.inf
    assert len(outcome.losses) == len(outcome.seconds) == len(outcome.kinds) == outcome.steps
    assert len(outcome.responses) in (0, outcome.steps)
    assert all(math.isfinite(value) and value >= 0.0 for value in outcome.seconds)
    assert all(value is None or (math.isfinite(value) and value >= 0.0) for value in outcome.responses)
    assert all(isinstance(kind, str) for kind in outcome.kinds)


def changed_line(rng: Generator, line: bytes) -> bytes:
    """What a line says, changed, with a checksum that is right: from somebody who writes such files."""
    data = json.loads(line.partition(b" ")[2])
    change(rng, data)
    text = written(data).encode("utf-8", "replace")
    return b"%08x %s" % (zlib.crc32(text), text)


def test_what_a_search_remembers() -> None:
    def check(rng: Generator) -> None:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "memo.jsonl"
            known: dict[str, Outcome] = {}
            first = RunLog(path, "mine")
            for number in range(rng.randrange(1, 8)):
                known[f"{number}"] = some_outcome(rng)
                first.put(f"{number}", known[f"{number}"])
            first.close()
            lines = path.read_bytes().splitlines()
            header, intact = lines[0], dict(zip(known, lines[1:], strict=True))
            for key in list(intact):
                if rng.random() < 0.5:
                    line = intact.pop(key)
                    place = lines.index(line)
                    lines[place] = changed_line(rng, line) if rng.random() < 0.6 else damaged(rng, line)
            path.write_bytes(b"\n".join(lines) + (b"\n" if rng.random() < 0.5 else b""))
            # A changed line may say that others follow it: only what stands before is sure to be found then.
            told_anew = any(b'"format"' in line for line in lines if line != header)
            memo = RunLog(path, "mine")
            assert len(memo) + memo.skipped <= sum(map(len, lines)) + 1
            for key in intact if not told_anew else ():
                assert repr(memo.get(key)) == repr(known[key])
            for outcome in memo._outcomes.values():
                check_outcome(outcome)
            fresh = some_outcome(rng)
            memo.put("fresh", fresh)
            memo.close()
            assert repr(RunLog(path, "mine").get("fresh")) == repr(fresh)
            assert RunLog(path, "another").get("fresh") is None

    run_cases("memos", 170, check, slowest=SLOWEST)


def test_anything_in_place_of_what_a_search_remembers() -> None:
    def check(rng: Generator) -> None:
        with tempfile.TemporaryDirectory() as name:
            path = put_file(rng, Path(name), "memo.jsonl")
            try:
                memo = RunLog(path, "mine")
                memo.put("key", some_outcome(rng))
                memo.close()
            except SearchError:
                return
            assert RunLog(path, "mine").get("key") is not None

    run_cases("no memos", 40, check, slowest=8 * SLOWEST)
