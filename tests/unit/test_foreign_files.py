"""Files that others wrote or put there: numbers no search can mean, and things that are no files."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from astraea.errors import ScheduleError, SearchError
from astraea.schedules import (
    Schedule,
    config_distance,
    expected_of,
    forecast_for,
    guidance_of,
    list_schedules,
    load,
    load_schedules,
    parse,
    pick,
    save,
    serialise,
)
from astraea.search.evaluation.run_log import FORMAT, RunLog
from astraea.search.problem.runner import Outcome

GOOD = Schedule("good", ((1.0, 1.0), (0.5, 0.0)))
OUTCOME = Outcome(1e-5, 2, (0.0, 1e-4), 1.0, (1.0, 0.0), ("full", "reuse"), (None, None))
LINE = {"key": "bad", "loss": 1e-5, "steps": 2, "losses": [0.0, 1e-4], "computed": 1.0}
LINE |= {"seconds": [1.0, 0.0], "kinds": ["full", "reuse"], "responses": [None, 0.5]}
HUGE, ENDLESS = 10**400, float("inf")
FIFOS = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
# Tiny numbers vanish where they are divided by usual ones, and large ones make others vanish.
NO_GUIDANCE = [5e-324, 1e-300, 10**29, 1e300, -1.0]


def in_time(work: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What the work returns or raises; fails where it waits for something that never comes."""
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            ended.append((work(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert ended, "it still waits"
    result, error = ended[0]
    if error is not None:
        raise error
    return result


@pytest.fixture(params=["FIFO", "folder", "socket", "device", "link to a FIFO"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Puts something that is no regular file where a file is looked for."""
    listening = socket.socket(socket.AF_UNIX) if request.param == "socket" else None

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "FIFO":
            os.mkfifo(path)
        elif request.param == "folder":
            path.mkdir()
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "link to a FIFO":
            os.mkfifo(tmp_path / "far away")
            path.symlink_to(tmp_path / "far away")
        else:
            assert listening is not None
            listening.bind(str(path))
        return path

    yield put
    if listening is not None:
        listening.close()


@FIFOS
def test_only_regular_files_are_schedules(tmp_path: Path, no_file: Callable[[Path], Path]) -> None:
    folder = tmp_path / "s"
    save(GOOD, folder)
    path = no_file(folder / "bad.json")
    assert list_schedules(folder) == {"good": folder / "good.json"}
    assert in_time(lambda: pick(0.5, "wan", load_schedules([folder]))) == GOOD
    with pytest.raises(ScheduleError, match=r"Schedule file 'bad\.json' cannot be read"):
        in_time(lambda: load(path))


@FIFOS
def test_a_link_to_a_schedule_is_one(tmp_path: Path) -> None:
    (tmp_path / "linked.json").symlink_to(save(GOOD, tmp_path / "elsewhere"))
    assert list_schedules(tmp_path) == {"linked": tmp_path / "linked.json"}
    assert load(tmp_path / "linked.json") == GOOD


@FIFOS
def test_a_memo_is_a_regular_file(tmp_path: Path, no_file: Callable[[Path], Path]) -> None:
    path = no_file(tmp_path / "m" / "memo.jsonl")
    with pytest.raises(SearchError, match="cannot be read") as told:
        in_time(lambda: RunLog(path, "mine"))
    assert str(path) in str(told.value)
    late = RunLog(None, "mine")
    late.path = path  # it came there after the search had begun
    with pytest.raises(SearchError, match="cannot be written"):
        in_time(lambda: late.put("key", OUTCOME))


@pytest.mark.parametrize("value", NO_GUIDANCE)
@pytest.mark.parametrize("where", ["guidance", "promise"])
def test_a_schedule_of_impossible_guidance_is_passed_over(tmp_path: Path, where: str, value: float) -> None:
    told = value if where == "guidance" else {"psnr_db": 40.0, "speedup": 2.0, "cfg": value}
    save(Schedule("bad", GOOD.points, "wan", provenance={where: told}), tmp_path)
    with pytest.raises(ScheduleError, match="No schedule"):
        pick(0.5, "wan", load_schedules([tmp_path]))
    save(GOOD, tmp_path)
    assert pick(0.5, "wan", load_schedules([tmp_path]), 20, 3.0) == GOOD
    assert load_schedules([tmp_path]) == (GOOD,)
    bad = load(tmp_path / "bad.json")  # chosen by its name it runs as one that does not say
    assert guidance_of(bad) == guidance_of(GOOD)
    assert config_distance(bad, 20, 3.0) == config_distance(GOOD, 20, 3.0)
    assert forecast_for(bad, None) == GOOD.forecast


def test_guidance_of_zero_says_nothing(tmp_path: Path) -> None:
    save(Schedule("none", GOOD.points, "wan", provenance={"guidance": 0.0, "promise": {"cfg": 0}}), tmp_path)
    assert pick(0.5, "wan", load_schedules([tmp_path])).name == "none"


@pytest.mark.parametrize("guidance", [0.0, 5e-324, 1e300, ENDLESS])
def test_any_guidance_of_a_run_has_a_distance(guidance: float) -> None:
    assert 0.0 < config_distance(GOOD, 20, guidance) < 1e3


@pytest.mark.parametrize("name", ["psnr_db", "speedup", "seconds", "dense_seconds", "cfg"])
def test_figures_too_small_to_be_measured_are_no_promise(name: str) -> None:
    figures = {"psnr_db": 40.0, "speedup": 2.0, "seconds": 1.0, "dense_seconds": 2.0, "cfg": 3.0}
    text = serialise(Schedule("s", GOOD.points, provenance={"promise": figures | {name: 5e-324}}))
    promise = expected_of(parse(text))
    assert promise is None if name in ("psnr_db", "speedup") else getattr(promise, name) is None


def checked(text: str) -> str:
    """A memo's line as a memo writes it."""
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


BAD_LINES = {
    "a loss beyond floats": {"loss": HUGE},
    "a negative loss": {"loss": -1e-5},
    "endless steps": {"steps": ENDLESS},
    "too many steps": {"steps": HUGE},
    "negative steps": {"steps": -2},
    "steps in part": {"steps": 1.5},
    "losses beyond floats": {"losses": [0.0, HUGE]},
    "no losses": {"losses": []},
    "endless work": {"computed": ENDLESS},
    "work beyond floats": {"computed": HUGE},
    "endless seconds": {"seconds": [1.0, ENDLESS]},
    "seconds beyond floats": {"seconds": [1.0, HUGE]},
    "negative seconds": {"seconds": [1.0, -1.0]},
    "endless responses": {"responses": [None, ENDLESS]},
    "responses beyond floats": {"responses": [None, HUGE]},
    "kinds of steps that were not made": {"kinds": ["full"]},
    "truth for a number": {"computed": True},
    "text for a number": {"loss": "0.1"},
    "text for a list": {"losses": "12"},
}


@pytest.mark.parametrize("changes", BAD_LINES.values(), ids=BAD_LINES)
def test_a_memo_s_line_of_impossible_numbers_is_passed_over(tmp_path: Path, changes: dict) -> None:
    path = tmp_path / "memo.jsonl"
    RunLog(path, "mine").put("good", OUTCOME)
    with path.open("a", encoding="utf-8") as file:
        file.write(checked(json.dumps(LINE | {"key": "usual"})))
        file.write(checked(json.dumps(LINE | changes)))
        file.write(checked(json.dumps({"format": FORMAT, "identity": "mine"})))
    memo = RunLog(path, "mine")
    assert (memo.get("good"), memo.get("bad"), memo.skipped) == (OUTCOME, None, 1)
    assert memo.get("usual") is not None


@pytest.mark.parametrize("provenance", [{"a": ["\ud83d"]}, {"\udc80": 1}, {"a": {"b\ud800": None}}])
def test_provenance_of_half_letters_is_refused(provenance: dict) -> None:
    """No file in UTF-8 holds them, so such a schedule could not be saved again; escaped they come through JSON."""
    data = json.loads(serialise(GOOD)) | {"provenance": provenance}
    with pytest.raises(ScheduleError, match="the text: provenance holds text that is not Unicode"):
        parse(json.dumps(data))
    assert parse(json.dumps(data | {"provenance": {"é💥": "é💥"}})).provenance == {"é💥": "é💥"}


def test_a_schedule_that_could_not_be_loaded_again_is_not_saved(tmp_path: Path) -> None:
    """Numbers take more room as they are saved than as somebody may write them."""
    data = json.loads(serialise(GOOD)) | {"provenance": {"n": []}}
    made = parse(json.dumps(data).replace('"n": []', f'"n": [{",".join(["1e9"] * 60_000)}]'))
    with pytest.raises(ScheduleError, match="would be larger than 256 KiB"):
        save(made, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_a_saved_schedule_has_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = save(GOOD, tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        path.chmod(0o600)
        assert stat.S_IMODE(save(GOOD, tmp_path, overwrite=True).stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)


DEVICES = [
    "con",
    "CON",
    "Prn",
    "aux",
    "NUL",
    "com1",
    "COM9",
    "lpt1",
    "LPT9",
    "con.txt",
    "nul.tar.gz",
    "Com1 .x",
    "aux ",
]


@pytest.mark.parametrize("name", DEVICES)
def test_names_of_devices_on_windows_are_refused(name: str) -> None:
    with pytest.raises(ScheduleError, match="not a usable schedule name"):
        Schedule(name, GOOD.points)


@pytest.mark.parametrize("name", ["console", "con-0.50", "com", "com10", "lpt 1", "my con", "null", "0con"])
def test_names_like_those_of_devices_are_not(name: str) -> None:
    assert Schedule(name, GOOD.points).name == name


LONG_TEXT = "x" * 10_000


@pytest.mark.parametrize(
    "entries",
    [{"name": LONG_TEXT}, {"family": LONG_TEXT}, {"mode": LONG_TEXT}, {"version": LONG_TEXT}, {LONG_TEXT: 1}]
    + [{"mean_budget": LONG_TEXT}, {"forecast": {"reach": LONG_TEXT}}, {"forecast": {LONG_TEXT: 1.0}}],
    ids=lambda entries: str(entries)[:24],
)
def test_a_long_wrong_value_is_not_repeated_whole(entries: dict) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse(json.dumps(json.loads(serialise(GOOD)) | entries))
    assert len(str(caught.value)) < 400
