"""What takes the device or the process with it is not tried again, and nothing else is blamed for it."""

from __future__ import annotations

import pytest
from stand_ins import PROBLEM, K, Q, V, backend, own_folder, timed  # noqa: F401

from astraea.kernels import attend_reference, autotune_cache, crash_guard
from astraea.kernels.dispatch import Dispatcher


@pytest.fixture
def losable(monkeypatch):
    """The CPU as a device that a kernel can take with it: `lose()` does."""
    lost = []
    monkeypatch.setattr(crash_guard, "_can_be_lost", lambda device: True)
    monkeypatch.setattr(crash_guard, "_still_works", lambda device: not lost)
    return lambda: lost.append(True)


def hours_later(monkeypatch):
    now = crash_guard.time.time()
    monkeypatch.setattr(crash_guard.time, "time", lambda: now + 3600.0)


def test_a_backend_that_comes_back_is_written_down_once(losable, monkeypatch):
    assert Dispatcher([]).unsupported_reason(backend("sound"), PROBLEM) == ""
    (entry,) = autotune_cache.read(autotune_cache.TRIALS).values()
    assert entry == {"came back": True}
    monkeypatch.setattr(autotune_cache, "write", lambda *arguments: pytest.fail("nothing new to write"))
    hours_later(monkeypatch)
    assert Dispatcher([]).unsupported_reason(backend("sound"), PROBLEM) == ""


def test_what_takes_the_device_with_it_is_not_tried_again(losable, monkeypatch):
    runs = []

    def fatal(q, k, v, *, scale, need_lse):
        runs.append(True)
        losable()
        raise RuntimeError("an illegal memory access was encountered")

    assert "restart ComfyUI" in Dispatcher([]).unsupported_reason(backend("fatal", fatal), PROBLEM)
    hours_later(monkeypatch)
    monkeypatch.setattr(crash_guard, "_still_works", lambda device: True)  # after a restart
    assert "did not come back" in Dispatcher([]).unsupported_reason(backend("fatal", fatal), PROBLEM)
    assert len(runs) == 1
    assert Dispatcher([]).unsupported_reason(backend("another"), PROBLEM) == ""


def test_what_kills_the_process_is_not_tried_again(losable, monkeypatch):
    def killing(q, k, v, *, scale, need_lse):
        raise KeyboardInterrupt  # as near to a killed process as a test can come

    with pytest.raises(KeyboardInterrupt):
        Dispatcher([]).unsupported_reason(backend("killing", killing), PROBLEM)
    hours_later(monkeypatch)
    assert "did not come back" in Dispatcher([]).unsupported_reason(backend("killing", killing), PROBLEM)


def test_what_comes_after_the_culprit_is_not_blamed(losable, monkeypatch):
    def fatal(q, k, v, *, scale, need_lse):
        losable()
        raise RuntimeError("an illegal memory access was encountered")

    innocent = backend("innocent")
    dispatcher = Dispatcher([backend("fatal", fatal), innocent])
    assert "restart ComfyUI" in dispatcher.unsupported_reason(dispatcher.named("fatal"), PROBLEM)
    assert "restart ComfyUI" in dispatcher.unsupported_reason(innocent, PROBLEM)
    hours_later(monkeypatch)
    monkeypatch.setattr(crash_guard, "_still_works", lambda device: True)  # after a restart
    assert Dispatcher([]).unsupported_reason(innocent, PROBLEM) == ""


def test_what_takes_the_device_with_it_at_the_real_size_takes_no_part_in_later_races(losable, monkeypatch):
    def fatal(q, k, v, *, scale, need_lse):
        if q.shape[1] == Q.shape[1]:
            losable()
            raise RuntimeError("an illegal memory access was encountered")
        return attend_reference(q, k, v, scale=scale)

    racing = [backend("sound"), backend("fatal", fatal), backend("innocent")]
    with pytest.raises(RuntimeError, match=r"attention 'fatal'.*restart ComfyUI"):
        Dispatcher(racing).choose(Q, K, V, PROBLEM)
    hours_later(monkeypatch)
    monkeypatch.setattr(crash_guard, "_still_works", lambda device: True)  # after a restart
    choice = Dispatcher(racing).choose(Q, K, V, PROBLEM)
    assert set(choice.milliseconds) == {"sound", "innocent"}
    assert "did not come back" in choice.reasons["fatal"]


def test_what_another_process_is_trying_just_now_may_be_tried(losable):
    autotune_cache.write(
        autotune_cache.trial_key(PROBLEM, "sound"), {"began": crash_guard.time.time() - 1.0}, autotune_cache.TRIALS
    )
    assert Dispatcher([]).unsupported_reason(backend("sound"), PROBLEM) == ""


def test_choices_and_trials_share_a_file_without_losing_each_other(losable, monkeypatch):
    timed(monkeypatch, {"one": 1.0, "two": 0.5})
    Dispatcher([backend("one"), backend("two")]).choose(Q, K, V, PROBLEM)
    assert len(autotune_cache.read(autotune_cache.TRIALS)) == 2  # self-tests only: the race was not a real one
    assert len(autotune_cache.read(autotune_cache.CHOICES)) == 1
