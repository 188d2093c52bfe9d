"""The search node: widgets, progress, and what is saved however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import pytest
import torch
from sampling import PROMPT, conditioning
from searches import found

from astraea.errors import AstraeaError, ScheduleError, SearchError
from astraea.host.folders import find_schedule, schedule_names, user_schedule_folder, user_search_folder
from astraea.host.search import session
from astraea.host.search.progress import NodeView, draw_preview, progress_text
from astraea.host.search.samplers import sigmas_of
from astraea.host.search.session import make_cases
from astraea.nodes.search import AstraeaSearch
from astraea.nodes.search_inputs import EFFORTS
from astraea.schedules import load, save
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem.budgets import SO_FAR, check_search_name, parse_budgets
from astraea.search.problem.config import SearchConfig
from astraea.search.problem.result import Progress
from astraea.search.problem.runner import Outcome

QUICK = list(EFFORTS)[1]


@pytest.fixture(autouse=True)
def _no_schedules_before() -> Iterator[None]:
    yield
    for folder in (user_schedule_folder(), user_search_folder()):
        for path in folder.glob("*") if folder.is_dir() else ():
            path.unlink()


@pytest.mark.parametrize(
    ("text", "budgets"),
    [("0.5, 0.4, 0.3", (0.5, 0.4, 0.3)), ("0.5", (0.5,)), (" .4;0.95  0.10,\n", (0.4, 0.95, 0.1)), ("0.333", (0.333,))],
)
def test_budgets_are_read_in_their_order(text: str, budgets: tuple[float, ...]) -> None:
    assert parse_budgets(text) == budgets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "There is no budget"),
        (" , ", "There is no budget"),
        ("abc", "'abc' is not a budget"),
        ("50%", "'50%' is not a budget"),
        ("0,5", "Write decimals with a point"),
        ("0.09", "outside 0.1...0.95"),
        ("1.0", "outside 0.1...0.95"),
        ("nan", "outside"),
        ("inf", "outside"),
        ("0.5, 0.500", "0.50 is listed twice"),
        ("0.3, 0.301", "0.30 is listed twice"),
        (", ".join(f"0.{n}" for n in range(21, 30)), "9 budgets are too many"),
    ],
)
def test_budgets_that_cannot_work_are_named(text: str, message: str) -> None:
    with pytest.raises(SearchError, match=message.replace(".", r"\.")):
        parse_budgets(text)


@pytest.mark.parametrize("name", ["", "a/b", "..", "auto", "x" * 69, "ends with dot.", "con", "LPT1.x"])
def test_a_name_that_cannot_carry_a_budget_is_refused(name: str) -> None:
    with pytest.raises((ScheduleError, SearchError)):
        check_search_name(name)
    assert check_search_name("x" * 68) == "x" * 68


@pytest.mark.parametrize("budgets", ["abc", "", "0.5, 0.09"])
def test_budgets_are_refused_when_they_are_queued(budgets: str) -> None:
    with pytest.raises(SearchError) as caught:
        parse_budgets(budgets)
    assert AstraeaSearch.validate_inputs(budgets=budgets) == str(caught.value)
    assert AstraeaSearch.validate_inputs(budgets="0.5") is True
    assert AstraeaSearch.validate_inputs(budgets=None) is True  # linked: not known yet


def test_clips_take_the_prompts_in_turn_and_the_next_seed() -> None:
    cases = make_cases(["a", "b"], "none", {}, 2**64 - 2, 5)
    assert [(case.positive, case.seed) for case in cases] == [
        ("a", 2**64 - 2),
        ("b", 2**64 - 1),
        ("a", 0),
        ("b", 1),
        ("a", 2),
    ]
    assert [case.positive for case in make_cases(["a", "b", "c"], "none", {}, 0, 1)] == ["a", "b", "c"]


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpm_2"])
def test_noise_levels_are_those_of_ksampler(sampler: str, load_tiny: Callable) -> None:
    model = load_tiny()
    assert torch.equal(
        sigmas_of(model, 9, sampler, "simple"), comfy.samplers.KSampler(model, 9, "cpu", sampler, "simple", 1.0).sigmas
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Any]]:
    """Values, totals and previews shown by ComfyUI's progress bar."""
    shown_: list[tuple[int, int, Any]] = []
    hook = lambda value, total, preview, node_id=None: shown_.append((value, total, preview))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return shown_


CONFIG = SearchConfig(budgets=(0.4,), effort=10.0, seed=0)


def outcome(computed: float) -> Outcome:
    return Outcome(0.1, 4, (0.1,) * 4, computed, (0.1,) * 4, ("full",) * 4, ())


def stub_runner(latest: torch.Tensor | None) -> Any:
    """All that a view asks of a runner."""
    return SimpleNamespace(latest=latest, setting=SimpleNamespace(steps=4, cases=2, calls_per_step=(1,) * 4))


def test_the_bar_moves_and_a_new_best_has_a_preview(shown: list) -> None:
    view = NodeView()
    view.begin(stub_runner(torch.randn(1, 16, 3, 6, 8)), RunLog(), CONFIG)
    view.update(Progress("dense run 1 of 2", 0.0, 10.0, None, ()))
    time.sleep(0.15)  # newer hosts tell the browser ten times a second at most
    view.update(Progress("budget 0.4", 5.0, 10.0, 90.0, (found(0.4, 31.0),), improved=True))
    time.sleep(0.15)
    view.update(Progress("budget 0.4", 12.0, 10.0, 0.0, ()))
    assert [value / total for value, total, _ in shown] == pytest.approx([0.0, 0.5, 1.0], abs=0.002)
    assert all(value < total for value, total, _ in shown)
    kind, image, side = shown[1][2]
    assert (kind, image.size, side) == ("JPEG", (8, 6), 512)
    assert [preview is None for *_, preview in shown] == [True, False, True]


def test_the_progress_text_says_how_long_it_takes() -> None:
    text = progress_text(Progress("budget 0.4", 5.0, 30.0, 7200.0, (found(0.4, 31.04),)))
    assert text == "5 of 30 clips, 2.0 h left (budget 0.4)\nbest 0.40: 31.0 dB at 2.5×"
    assert "left" not in progress_text(Progress("original 1 of 2", 0.0, 30.0, None, ()))
    assert "left" not in progress_text(Progress("done", 29.0, 30.0, 9.0, ()))


def test_a_resumed_search_begins_where_it_was_stopped(shown: list) -> None:
    known = RunLog()
    for case in range(6):
        known.put(f"{case}|default|", outcome(computed=2.0))
    known.put("small 0|default|", outcome(computed=2.0))  # of a small clip
    view = NodeView()
    view.begin(stub_runner(None), known, CONFIG)
    assert [value for value, *_ in shown] == [300]  # six runs of two steps in four, of ten clips
    time.sleep(0.15)
    progress = Progress("original 1 of 2", 0.0, 10.0, 20.0, ())
    view.update(progress)
    assert shown[-1][0] == 300
    assert progress_text(progress, known=3.0).startswith("3 of 10 clips, 14 s left")


def test_the_bar_moves_within_a_run_and_never_back(shown: list) -> None:
    view = NodeView()
    view.begin(stub_runner(None), RunLog(), CONFIG)
    view.update(Progress("dense run 1 of 2", 0.0, 10.0, None, ()))
    for _ in range(4):
        time.sleep(0.15)
        view.on_step()
    assert [value for value, *_ in shown] == [0, 25, 50, 75, 100]
    time.sleep(0.15)
    view.update(Progress("dense run 2 of 2", 0.6, 10.0, None, ()))
    assert shown[-1][0] == 100


@pytest.mark.parametrize("shape", [(1, 16, 3, 6, 8), (2, 48, 1, 6, 8), (1, 5, 2, 6, 8)])
def test_any_latents_have_a_picture(shape: tuple[int, ...]) -> None:
    assert draw_preview(torch.randn(shape)).size == (8, 6)


def run(model: Any, **changes: Any) -> Any:
    """A small search through the node; `changes` replace its inputs."""
    inputs: dict[str, Any] = {
        "positive": conditioning(PROMPT),
        "negative": conditioning(""),
        "latent": {"samples": torch.zeros(1, 16, 2, 8, 8)},
        "steps": 8,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "first_seed": 1,
        "budgets": "0.6, 0.4",
        "effort": QUICK,
        "cases": 2,
        "name": "mine",
    }
    return AstraeaSearch.execute(model, **(inputs | changes))


def test_a_search_saves_what_it_found_and_does_not_measure_twice(load_tiny: Callable) -> None:
    model = load_tiny()
    schedule, plots, text = run(model).args
    assert {"mine-0.60", "mine-0.40"} <= set(schedule_names())
    assert find_schedule("mine-0.60").budgets == schedule.budgets
    assert schedule.provenance["promise"]["speedup"] > 1.2
    assert plots.shape == (4, 660, 1040, 3)
    assert "taken from before" not in text
    again = run(model).args
    assert again[0].budgets == schedule.budgets
    runs, cached = (int(word) for word in again[2].split("(")[1].split() if word.isdigit())
    assert runs == cached > 0


class Cancelled(NodeView):
    """The user cancels after some candidates have been run."""

    after = 8

    def update(self, progress: Progress) -> None:
        super().update(progress)
        if progress.best:
            self.after -= 1
        if self.after <= 0:
            comfy.model_management.interrupt_current_processing()


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(session, "NodeView", Cancelled)
    yield
    comfy.model_management.interrupt_current_processing(False)


@pytest.mark.usefixtures("cancelled")
def test_what_was_found_before_an_interrupt_is_saved(load_tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_tiny()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model)
    saved = find_schedule("mine-0.60")
    assert "interrupted after" in saved.provenance["found"]
    monkeypatch.undo()
    text = run(model).args[2]
    assert "of them taken from before" in text
    assert "interrupted" not in find_schedule("mine-0.60").provenance["found"]


@pytest.mark.usefixtures("cancelled")
def test_an_interrupted_search_leaves_a_finished_ones_schedule(load_tiny: Callable) -> None:
    finished = found(0.5, 30.0).schedule.renamed("mine-0.60")
    path = save(finished, user_schedule_folder())
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(load_tiny())
    assert load(path).budgets == finished.budgets
    assert "interrupted after" in find_schedule(f"mine-0.60{SO_FAR}").provenance["found"]


@pytest.mark.parametrize("folder", [user_schedule_folder, user_search_folder])
def test_a_folder_that_cannot_be_written_stops_it_before_it_starts(
    folder: Callable[[], Path], load_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder()
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        place.rmdir()
    place.write_text("in the way", "utf-8")
    monkeypatch.setattr(session, "ComfyRunner", None)  # is not reached
    try:
        with pytest.raises(SearchError, match=r"Nothing can be written to .* Nothing has been run yet"):
            run(load_tiny())
    finally:
        place.unlink()


def test_a_full_disk_is_reported_and_leaves_no_partial_file(
    load_tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise ScheduleError("The schedule cannot be written to 'there' (No space left on device).")

    monkeypatch.setattr(session, "save", full)
    with pytest.raises(SearchError, match=r"No space left on device.* finished candidate runs are logged"):
        run(load_tiny())
    assert list(user_schedule_folder().iterdir()) == []


def test_lines_that_a_crash_cut_off_are_measured_again(load_tiny: Callable) -> None:
    model = load_tiny()
    schedule = run(model).args[0]
    (run_log,) = user_search_folder().iterdir()
    content = run_log.read_bytes()
    run_log.write_bytes(content[: len(content) // 2] + b"\x00\xff{broken\n")
    again, _, text = run(model).args
    assert again.budgets == schedule.budgets
    assert "of them taken from before" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive": []}, "positive conditioning is empty"),
        ({"latent": {"samples": torch.ones(1, 4, 8, 8)}}, "4 channels and the model takes 16"),
        ({"sigmas": torch.tensor([1.0])}, "no steps to save"),
        ({"sigmas": torch.tensor([])}, "no steps to save"),
        ({"steps": 1}, "'steps' takes a whole number from 2 to 1000, not 1"),
        ({"budgets": "none"}, "not a budget"),
    ],
)
def test_what_only_shows_when_it_runs_is_named_as_clearly(changes: dict, message: str, load_tiny: Callable) -> None:
    with pytest.raises(AstraeaError, match=message):
        run(load_tiny(), **changes)
    assert not list(user_schedule_folder().glob("*.json"))
