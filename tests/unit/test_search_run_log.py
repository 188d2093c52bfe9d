"""The run log: outcomes survive any crash, and an error says what to do if they cannot be written."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from astraea.errors import SearchError
from astraea.schedules import Forecast, Schedule
from astraea.search.evaluation import run_log as run_log_module
from astraea.search.evaluation.run_log import RunLog, key_of
from astraea.search.problem.runner import Outcome

FULL_DEVICE = Path("/dev/full")
OUTCOMES = {
    "complete": Outcome(
        1.25e-5, 3, (0.0, 1e-4, 2e-5), 2.0, (1.0, 0.01, 1.0), ("full", "reuse", "full"), (None, None, 0.5)
    ),
    "aborted": Outcome(math.inf, 2, (0.0, 0.3), 1.0, (1.0, 0.01), ("full", "reuse"), (None, None)),
    "not finite": Outcome(math.inf, 2, (0.0, math.inf), 1.3, (1.0, 0.3), ("full", "token"), (None, 0.25)),
}


def filled(path: Path, identity: str = "mine") -> RunLog:
    run_log = RunLog(path, identity)
    for key, outcome in OUTCOMES.items():
        run_log.put(key, outcome)
    run_log.close()
    return run_log


def outcomes_in(run_log: RunLog) -> dict[str, Outcome]:
    return {key: outcome for key in [*OUTCOMES, "later"] if (outcome := run_log.get(key)) is not None}


def test_outcomes_are_there_again(tmp_path):
    filled(tmp_path / "runs.jsonl")
    again = RunLog(tmp_path / "runs.jsonl", "mine")
    assert outcomes_in(again) == OUTCOMES
    assert len(again) == len(OUTCOMES)
    assert again.skipped == 0


def test_an_outcome_is_on_disk_when_put_returns(tmp_path):
    run_log = RunLog(tmp_path / "runs.jsonl", "mine")
    for number, (key, outcome) in enumerate(OUTCOMES.items(), start=1):
        run_log.put(key, outcome)
        assert len(RunLog(tmp_path / "runs.jsonl", "mine")) == number


def test_folders_are_made_when_the_first_outcome_is_put(tmp_path):
    run_log = RunLog(tmp_path / "a" / "b" / "runs.jsonl", "mine")
    assert not (tmp_path / "a").exists()
    run_log.put("complete", OUTCOMES["complete"])
    assert len(RunLog(run_log.path, "mine")) == 1


def test_the_newest_outcome_of_a_key_counts(tmp_path):
    run_log = filled(tmp_path / "runs.jsonl")
    run_log.put("aborted", OUTCOMES["complete"])
    assert RunLog(run_log.path, "mine").get("aborted") == OUTCOMES["complete"]


def test_outcomes_of_another_identity_are_not_taken(tmp_path):
    filled(tmp_path / "runs.jsonl", "theirs")
    assert len(RunLog(tmp_path / "runs.jsonl", "mine")) == 0


def test_each_identity_finds_its_own_in_a_shared_file(tmp_path):
    filled(tmp_path / "runs.jsonl", "theirs")
    mine = RunLog(tmp_path / "runs.jsonl", "mine")
    mine.put("later", OUTCOMES["complete"])
    assert outcomes_in(RunLog(tmp_path / "runs.jsonl", "mine")) == {"later": OUTCOMES["complete"]}
    assert outcomes_in(RunLog(tmp_path / "runs.jsonl", "theirs")) == OUTCOMES


def test_a_log_without_a_path_stays_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_log = RunLog()
    run_log.put("complete", OUTCOMES["complete"])
    assert run_log.get("complete") == OUTCOMES["complete"]
    assert not list(tmp_path.iterdir())


def test_a_last_line_cut_off_anywhere_costs_no_other_outcome(tmp_path):
    path = tmp_path / "runs.jsonl"
    filled(path)
    content = path.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    others = {key: OUTCOMES[key] for key in ("complete", "aborted")}
    for cut in range(last, len(content)):
        path.write_bytes(content[:cut])
        run_log = RunLog(path, "mine")
        assert outcomes_in(run_log) | others == outcomes_in(run_log), f"cut off at byte {cut}"
        run_log.put("later", OUTCOMES["not finite"])
        run_log.close()
        again = RunLog(path, "mine")
        assert outcomes_in(again) == outcomes_in(run_log), f"appended to after a cut at byte {cut}"
        assert again.get("later") == OUTCOMES["not finite"]


def test_a_first_line_cut_off_anywhere_does_not_prevent_writing(tmp_path):
    path = tmp_path / "runs.jsonl"
    filled(path)
    head = path.read_bytes().split(b"\n")[0]
    for cut in range(len(head) + 1):
        path.write_bytes(head[:cut])
        run_log = RunLog(path, "mine")
        run_log.put("later", OUTCOMES["complete"])
        run_log.close()
        assert outcomes_in(RunLog(path, "mine")) == {"later": OUTCOMES["complete"]}, f"cut off at byte {cut}"


@pytest.mark.parametrize("damage", [b"\x00", b"\xff", b"\n", b"\r", b"}", "\u2028".encode(), b"\x1c"])
def test_damage_in_the_middle_costs_only_the_line_it_is_in(tmp_path, damage):
    path = tmp_path / "runs.jsonl"
    filled(path)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    begin = len(lines[0]) + len(lines[1])
    for place in range(begin, begin + len(lines[2]) - 1, 7):
        path.write_bytes(content[:place] + damage + content[place + 1 :])
        run_log = RunLog(path, "mine")
        kept = {key: OUTCOMES[key] for key in ("complete", "not finite")}
        assert outcomes_in(run_log) == kept, f"damaged at byte {place}"
        assert run_log.skipped >= 1


def test_a_file_of_something_else_is_skipped(tmp_path):
    (tmp_path / "runs.jsonl").write_bytes(bytes(range(256)) * 20)
    run_log = RunLog(tmp_path / "runs.jsonl", "mine")
    assert len(run_log) == 0
    run_log.put("complete", OUTCOMES["complete"])
    assert len(RunLog(tmp_path / "runs.jsonl", "mine")) == 1


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "runs.jsonl").mkdir()
    with pytest.raises(SearchError, match="cannot be read") as caught:
        RunLog(tmp_path / "runs.jsonl", "mine")
    assert str(tmp_path / "runs.jsonl") in str(caught.value)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" / "runs.jsonl"
    with pytest.raises(SearchError, match="make the folder writable") as caught:
        RunLog(path, "mine").put("complete", OUTCOMES["complete"])
    assert str(path) in str(caught.value)


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported_with_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    path.symlink_to(FULL_DEVICE)
    monkeypatch.setattr(run_log_module, "open_regular", lambda path, flags=os.O_RDONLY: os.open(path, flags))
    run_log = RunLog(None, "mine")
    run_log.path = path  # the device never ends when it is read
    with pytest.raises(SearchError, match=r"No space left on device.*Free some disk space") as caught:
        run_log.put("complete", OUTCOMES["complete"])
    assert str(path) in str(caught.value)
    assert run_log.get("complete") == OUTCOMES["complete"], "what was measured still counts for the search that goes on"


class FullDisk:
    """A file that takes some bytes of what is written, then none: as a disk does."""

    def __init__(self, path: Path, room: int):
        self._file, self._room = path.open("ab"), room

    def write(self, text: str) -> None:
        self._file.write(text.encode()[: self._room])

    def flush(self) -> None:
        self._file.flush()
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self._file.close()


@pytest.mark.parametrize("room", [0, 1, 9, 40])
def test_after_a_full_disk_the_log_can_be_used_again(tmp_path, room):
    run_log = filled(tmp_path / "runs.jsonl")
    run_log._file = FullDisk(run_log.path, room)  # type: ignore[assignment]
    with pytest.raises(SearchError, match="No space left"):
        run_log.put("lost", OUTCOMES["complete"])
    run_log.put("later", OUTCOMES["complete"])
    again = RunLog(run_log.path, "mine")
    assert outcomes_in(again) == OUTCOMES | {"later": OUTCOMES["complete"]}


WAYS = ((0.05,), (0.015, 1.0), (0.015, 2.0, 0.5), (0.015, 2.0, 0.8, 3.0))


def test_keys_differ_by_all_that_an_outcome_depends_on():
    def schedule(budgets=(1.0, 0.3, 1.0), **changes) -> Schedule:
        return Schedule("s", tuple(zip((0.9, 0.5, 0.2), budgets, strict=True)), **changes)

    keys = [
        key_of(0, schedule()),
        key_of(1, schedule()),
        key_of(0, schedule((1.0, 0.4, 1.0))),
        key_of(0, schedule(mode="hold")),
        *(key_of(0, schedule(forecast=Forecast(*each))) for each in WAYS),
    ]
    assert len(set(keys)) == len(keys)


def test_keys_do_not_depend_on_a_schedules_name():
    points = ((0.9, 1.0), (0.2, 1.0))
    assert key_of(0, Schedule("a", points)) == key_of(0, Schedule("b", points))
