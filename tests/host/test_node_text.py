"""After a run the node that accelerated it says what came of it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import zoo
from sampling import sample
from server import PromptServer
from test_box import strange

from astraea.engine.report import CallRecord, Report
from astraea.nodes.accelerate import AstraeaAccelerate
from astraea.nodes.node_text import node_text, shows_on
from astraea.nodes.plots.run_report import draw_report
from astraea.nodes.report_text import UNEVEN, clock


@pytest.fixture
def shown(monkeypatch):
    """`[(text, node id)]` that the host was asked to show."""
    texts: list[tuple[str, str]] = []
    server = SimpleNamespace(send_progress_text=lambda text, node: texts.append((text, node)))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    monkeypatch.setattr(AstraeaAccelerate, "hidden", SimpleNamespace(unique_id="17"))
    return texts


def accelerated(model, budget=0.5):
    return AstraeaAccelerate.execute(model, "auto", budget, 0.0).result[0]


def test_the_gain_is_told_after_each_run(load_tiny, shown):
    fast = accelerated(load_tiny())
    assert not shown
    for _ in range(2):
        sample(fast, steps=20)
    assert [node for _, node in shown] == ["17", "17"]
    gain = rf"(\d\.\d× · [\d.]+ s instead of about [\d.]+ s|[\d.]+ s, {UNEVEN})"
    assert re.match(rf"{gain}\n10 of 20 steps computed", shown[0][0])  # on a busy machine it may be no faster


def test_why_there_are_whole_steps_alone(shown):
    sampled = strange()
    zoo.sample(sampled, accelerated(sampled.model), steps=20)
    assert "whole steps; token steps need an adapter for StrangeModel" in shown[0][0].splitlines()


def test_a_refused_model_is_told_at_once(shown, load_tiny):
    model = load_tiny()
    model.model.diffusion_model.init_kv_caches = lambda: None
    accelerated(model)
    assert shown[0][0].startswith("passed through: ")


def test_without_the_host_s_node_or_server_nothing_is_shown(monkeypatch, load_tiny):
    assert shows_on(None) is None
    monkeypatch.setattr(PromptServer, "instance", SimpleNamespace(), raising=False)
    assert shows_on(SimpleNamespace(unique_id="17")) is None
    sample(accelerated(load_tiny()), steps=4)


def test_a_run_that_was_stopped():
    calls = [CallRecord(0, 1.0, 1.0, "full", 4, 4), CallRecord(1, 0.9, 0.0, "reuse", 0, 4)]
    report = Report(steps=2, calls=calls, notes=["a", "b"])
    assert node_text(report) == "stopped early: 1 of 2 steps computed\na\nb"
    assert node_text(Report()) == "Nothing has been run yet."


def test_the_gain_is_told_in_times_of_the_whole_sampler():
    calls = [CallRecord(n, 1.0, 1.0, "full", 9, 9, 8.0) for n in range(12)]
    calls += [CallRecord(n, 0.5, 0.0, "reuse", 0, 9) for n in range(12, 30)]
    report = Report(steps=30, calls=calls, seconds=101.0, finished=True)
    assert node_text(report) == "2.4× · 1:41 instead of about 4:05\n12 of 30 steps computed"


def test_what_a_first_call_takes_to_warm_up_it_takes_without_acceleration_too():
    calls = [CallRecord(0, 1.0, 1.0, "full", 9, 9, 6.0)]
    calls += [CallRecord(n, 0.5, 1.0, "full", 9, 9, 1.0) for n in range(1, 3)]
    calls += [CallRecord(n, 0.5, 0.0, "reuse", 0, 9) for n in range(3, 6)]
    report = Report(steps=6, calls=calls, seconds=8.0, finished=True)
    assert node_text(report) == "1.4× · 8.0 s instead of about 11 s\n3 of 6 steps computed"


def test_a_run_that_was_slower_is_not_called_faster():
    calls = [CallRecord(n, 1.0, 1.0, "full", 9, 9, 1.0) for n in range(2)]
    calls += [CallRecord(n, 0.5, 0.5, "token", 4, 9, 1.5) for n in range(2, 4)]
    report = Report(steps=4, calls=calls, seconds=5.0, finished=True)
    assert node_text(report) == "no faster · 5.0 s, about 4.0 s in full\n72% of the tokens computed"


def test_steps_that_took_unequally_long_are_not_compared():
    calls = [CallRecord(n, 1.0, 1.0, "full", 9, 9, seconds) for n, seconds in enumerate((1.0, 1.0, 1.0, 9.0))]
    calls += [CallRecord(n, 0.5, 0.0, "reuse", 0, 9) for n in range(4, 8)]
    report = Report(steps=8, calls=calls, seconds=13.0, finished=True)
    assert node_text(report).splitlines() == [f"13 s, {UNEVEN}", "4 of 8 steps computed"]
    assert draw_report(report).height > 100
    for call in calls[4:]:
        call.seconds = 2.0  # a ControlNet that runs at skipped steps
    assert node_text(report).startswith("no faster · 13 s, about ")


@pytest.mark.parametrize(
    ("seconds", "shown_as"), [(0.84, "0.8 s"), (9.96, "10 s"), (59.6, "1:00"), (101.4, "1:41"), (3725, "1:02:05")]
)
def test_durations_read_as_on_a_player(seconds, shown_as):
    assert clock(seconds) == shown_as
