"""A backend that kills the device or the process is not tried again, and no other backend is blamed for it."""

from __future__ import annotations

import pytest
from stand_ins import PROBLEM, K, Q, V, backend, own_folder, timed  # noqa: F401

from astraea.kernels import attend_reference, autotune_cache, crash_guard
from astraea.kernels.dispatch import Dispatcher


@pytest.fixture
def losable(monkeypatch):
    """The CPU as a device that a kernel can make unusable; calling the fixture does so."""
    lost = []
    monkeypatch.setattr(crash_guard, "_can_be_lost", lambda device: True)
    monkeypatch.setattr(crash_guard, "_still_works", lambda device: not lost)
    return lambda: lost.append(True)


def hours_later(monkeypatch):
    now = crash_guard.time.time()
    monkeypatch.setattr(crash_guard.time, "time", lambda: now + 3600.0)


def test_a_backend_that_returns_is_recorded_once(losable, monkeypatch):
    assert Dispatcher([]).unsupported_reason(backend("sound"), PROBLEM) == ""
    (entry,) = autotune_cache.read(autotune_cache.ATTEMPTS).values()
    assert entry == {"came back": True}
    monkeypatch.setattr(autotune_cache, "write", lambda *arguments: pytest.fail("wrote although nothing is new"))
    hours_later(monkeypatch)
    assert Dispatcher([]).unsupported_reason(backend("sound"), PROBLEM) == ""


def test_a_backend_that_kills_the_device_is_not_tried_again(losable, monkeypatch):
    runs = []

    def fatal(q, k, v, *, scale, need_lse):
        runs.append(True)
        losable()
        raise RuntimeError("an illegal memory access was encountered")

    assert "restart ComfyUI" in Dispatcher([]).unsupported_reason(backend("fatal", fatal), PROBLEM)
    hours_later(monkeypatch)
    monkeypatch.setattr(crash_guard, "_still_works", lambda device: True)  # after a restart
    assert "never returned" in Dispatcher([]).unsupported_reason(backend("fatal", fatal), PROBLEM)
    assert len(runs) == 1
    assert Dispatcher([]).unsupported_reason(backend("another"), PROBLEM) == ""


def test_a_backend_that_kills_the_process_is_not_tried_again(losable, monkeypatch):
    def killing(q, k, v, *, scale, need_lse):
        raise KeyboardInterrupt  # the closest that a test comes to a killed process

    with pytest.raises(KeyboardInterrupt):
        Dispatcher([]).unsupported_reason(backend("killing", killing), PROBLEM)
    hours_later(monkeypatch)
    assert "never returned" in Dispatcher([]).unsupported_reason(backend("killing", killing), PROBLEM)


def test_a_backend_that_runs_after_the_culprit_is_not_blamed(losable, monkeypatch):
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


def test_a_backend_that_kills_the_device_at_the_real_size_is_not_timed_again(losable, monkeypatch, caplog):
    caplog.set_level("DEBUG")

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
    assert "'fatal' was not timed: it never returned" in caplog.text


def test_a_backend_that_another_process_tries_now_may_be_tried(losable):
    autotune_cache.write(
        autotune_cache.attempt_key(PROBLEM, "sound"), {"began": crash_guard.time.time() - 1.0}, autotune_cache.ATTEMPTS
    )
    assert Dispatcher([]).unsupported_reason(backend("sound"), PROBLEM) == ""


def test_choices_and_attempts_share_a_file_without_losing_entries(losable, monkeypatch):
    timed(monkeypatch, {"one": 1.0, "two": 0.5})
    Dispatcher([backend("one"), backend("two")]).choose(Q, K, V, PROBLEM)
    assert len(autotune_cache.read(autotune_cache.ATTEMPTS)) == 2  # self-tests only: the timing is a stand-in
    assert len(autotune_cache.read(autotune_cache.CHOICES)) == 1
