"""The choice of a backend: it passes the self-test, is accurate enough and was timed fastest."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from stand_ins import PROBLEM, REFERENCE, K, Q, V, backend, base_two, off_by_a_little, own_folder, timed  # noqa: F401

from astraea.kernels import (
    MANY_QUERIES,
    Constraints,
    Problem,
    attend_reference,
    autotune,
    autotune_cache,
    dispatch,
    selftest,
)
from astraea.kernels import race as race_module
from astraea.kernels.dispatch import ATTENTION_ENV, Dispatcher, describe_choice


def test_the_fastest_is_chosen_by_real_timing():
    def slow(*args, **options):
        torch.randn(400, 400) @ torch.randn(400, 400)
        return attend_reference(*args, **options)

    dispatcher = Dispatcher([backend("slow", slow), backend("quick"), REFERENCE])
    choice = dispatcher.choose(Q, K, V, PROBLEM)
    assert choice.backend.name == "quick"
    assert choice.milliseconds["quick"] < choice.milliseconds["slow"]
    assert choice.ratio_to("slow") > 1.0
    assert "reference" not in choice.milliseconds  # the last resort is not timed where another backend can run


@pytest.mark.parametrize(("own", "expected"), [(0.80, "own"), (0.97, "host"), (1.30, "host")])
def test_the_hosts_attention_is_kept_unless_a_backend_is_clearly_faster(monkeypatch, own, expected):
    timed(monkeypatch, {"own": own, "host": 1.0})
    host = backend("host")
    assert Dispatcher([backend("own")]).choose(Q, K, V, PROBLEM, host=host).backend.name == expected
    assert Dispatcher([backend("own")]).choose(Q, K, V, PROBLEM, "host", host).backend is host


def test_less_accurate_backends_are_used_only_under_fast(monkeypatch, caplog):
    caplog.set_level("DEBUG")
    timed(monkeypatch, {"coarse": 0.1, "exact": 1.0})
    dispatcher = Dispatcher([backend("coarse", off_by_a_little, exact=False), backend("exact")])
    choice = dispatcher.choose(Q, K, V, PROBLEM)
    assert choice.backend.name == "exact"
    assert "'coarse' is not timed: less accurate" in caplog.text
    assert dispatcher.choose(Q, K, V, PROBLEM, "fast").backend.name == "coarse"


def test_a_choice_is_kept_for_calls_of_the_same_kind_and_for_later_processes(monkeypatch):
    calls = []
    timed(monkeypatch, {"one": 1.0, "two": 0.5}, calls)
    pair = [backend("one"), backend("two")]
    dispatcher = Dispatcher(pair)
    assert dispatcher.choose(Q, K, V, PROBLEM).backend.name == "two"
    more_rows = Problem.of(Q.repeat(2, 2, 1, 1), K.repeat(2, 1, 1, 1), V.repeat(2, 1, 1, 1), need_lse=True)
    assert dispatcher.known(more_rows) is not None
    later = Dispatcher(pair).choose(Q, K, V, PROBLEM)
    assert later.backend.name == "two"
    assert later.milliseconds == {"one": 1.0, "two": 0.5}
    assert not later.measured
    assert len(calls) == 1
    many = Problem.of(Q.repeat(1, 200, 1, 1), K, V, need_lse=True)
    assert many.has_many_queries
    assert dispatcher.known(many) is None  # another backend may be faster for few rows
    longer = torch.cat([K, K], 1)
    assert dispatcher.known(Problem.of(Q, longer, longer, need_lse=True)) is None
    assert dispatcher.known(replace(PROBLEM, need_lse=False)) is None


def test_devices_time_one_after_another(monkeypatch):
    """Each in a thread: two choices of a backend, and a race of sparse against dense attention."""
    running, at_once = [], []

    def timing(*_, **__):
        running.append(1)
        at_once.append(len(running))
        time.sleep(0.05)
        running.pop()
        return 1.0

    def time_backends(backends, *tensors, **options):
        return dict.fromkeys([each.name for each in backends], timing())

    monkeypatch.setattr(autotune, "time_backends", time_backends)
    monkeypatch.setattr(race_module, "time_call", timing)
    monkeypatch.setattr(race_module, "_known", {})
    dispatcher, ready = Dispatcher([backend("one"), backend("two")]), threading.Barrier(3)
    works = [
        lambda: dispatcher.choose(Q, K, V, PROBLEM),
        lambda: dispatcher.choose(Q, K, V, replace(PROBLEM, device=torch.device("cpu", 1))),
        lambda: race_module.race(PROBLEM, 0.3, sparse=Q.clone, dense=Q.clone),
    ]

    def work(number):
        ready.wait()
        return works[number]()

    with ThreadPoolExecutor(3) as pool:
        one, other, raced = pool.map(work, range(3))
    assert one.measured != other.measured  # equal devices: the later one finds it saved
    assert other.milliseconds == one.milliseconds
    assert raced == race_module.Timing(1.0, 1.0)
    assert set(at_once) == {1}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 2, "choices": {}}',
        '{"format": 1, "choices": []}',
        '{"format": 1, "choices": {"KEY": 3}}',
        '{"format": 1, "choices": {"KEY": {"backend": "gone", "milliseconds": {"gone": 1.0}}}}',
        '{"format": 1, "choices": {"KEY": {"backend": ["one"], "milliseconds": {}}}}',
        '{"format": 1, "choices": {"KEY": {"backend": "one", "milliseconds": {"one": "soon"}}}}',
        '{"format": 1, "choices": {"KEY": {"backend": "wrong", "milliseconds": {"wrong": 0.1}}}}',
    ],
)
def test_a_damaged_or_outdated_record_is_made_anew(monkeypatch, content):
    timed(monkeypatch, {"one": 1.0, "two": 0.5})
    autotune_cache.folder().mkdir(parents=True)
    key = autotune_cache.key(PROBLEM, "auto")
    autotune_cache.path().write_text(content.replace("KEY", json.dumps(key)[1:-1]), "utf-8")
    choice = Dispatcher([backend("wrong", base_two), backend("one"), backend("two")]).choose(Q, K, V, PROBLEM)
    assert choice.backend.name == "two"
    assert autotune_cache.read()[key]["backend"] == "two"


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    timed(monkeypatch, {"one": 1.0, "two": 0.5})
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv(autotune_cache.FOLDER_VARIABLE, str(blocked / "below"))
    assert Dispatcher([backend("one"), backend("two")]).choose(Q, K, V, PROBLEM).backend.name == "two"


def test_a_record_is_replaced_as_a_whole_and_leaves_no_other_file():
    for number in range(autotune_cache.MAX_ENTRIES + 20):
        if number in (0, 1, 2) or number >= autotune_cache.MAX_ENTRIES:
            autotune_cache.write(f"key {number}", {"backend": "one", "milliseconds": {"one": 1.0}})
    assert list(autotune_cache.folder().iterdir()) == [autotune_cache.path()]
    assert "key 2" in autotune_cache.read()
    if os.name == "posix":
        assert stat.S_IMODE(autotune_cache.path().stat().st_mode) & 0o077 == 0


def test_the_environment_overrides_the_preference(monkeypatch):
    timed(monkeypatch, {"one": 0.5, "two": 1.0})
    monkeypatch.setattr(dispatch, "BACKEND_CHOICES", ("auto", "host", "fast", "one", "two"))
    dispatcher = Dispatcher([backend("one"), backend("two")])
    monkeypatch.setenv(ATTENTION_ENV, "two")
    assert dispatcher.choose(Q, K, V, PROBLEM, "one").backend.name == "two"
    monkeypatch.delenv(ATTENTION_ENV)
    assert dispatcher.choose(Q, K, V, PROBLEM).backend.name == "one"


def test_an_unknown_name_in_the_environment_is_logged_and_ignored(monkeypatch, caplog):
    timed(monkeypatch, {"one": 1.0})
    monkeypatch.setenv(ATTENTION_ENV, "nonsense")
    dispatch._warned.clear()
    with caplog.at_level(logging.WARNING):
        assert Dispatcher([backend("one")]).choose(Q, K, V, PROBLEM).backend.name == "one"
    assert "nonsense" in caplog.text


def test_a_named_backend_that_cannot_run_is_replaced(caplog):
    elsewhere = backend("elsewhere", constraints=Constraints(devices=frozenset({"xpu"})))
    with caplog.at_level(logging.WARNING):
        choice = Dispatcher([elsewhere, REFERENCE]).choose(Q, K, V, PROBLEM, "elsewhere")
    assert choice.backend is REFERENCE
    assert "runs on xpu, not on cpu" in caplog.text


def test_a_backend_that_fails_in_a_run_is_replaced_for_good(monkeypatch, caplog):
    timed(monkeypatch, {"frail": 0.1, "sound": 1.0})
    small = [0]

    def frail(q, k, v, *, scale, need_lse):
        if q.shape[1] == Q.shape[1]:
            small[0] += 1
            raise RuntimeError("misaligned address")
        return attend_reference(q, k, v, scale=scale, need_lse=need_lse)

    dispatcher = Dispatcher([backend("frail", frail), backend("sound"), REFERENCE])
    with caplog.at_level(logging.WARNING):
        out, lse = dispatcher.attend(Q, K, V, need_lse=True)
    assert torch.equal(out, attend_reference(Q, K, V)[0])
    assert lse is not None
    assert "misaligned address" in caplog.text
    dispatcher.attend(Q, K, V, need_lse=True)
    assert small[0] == 1
    assert dispatcher.unsupported_reason(dispatcher.named("frail"), PROBLEM).startswith("failed in a run")


def test_out_of_memory_is_raised_to_the_caller(monkeypatch):
    def hungry(q, k, v, *, scale, need_lse):
        if q.shape[1] == Q.shape[1]:
            raise torch.OutOfMemoryError("no room")
        return attend_reference(q, k, v, scale=scale, need_lse=need_lse)

    timed(monkeypatch, {"hungry": 0.1})
    with pytest.raises(torch.OutOfMemoryError):
        Dispatcher([backend("hungry", hungry), REFERENCE]).attend(Q, K, V)


def test_a_backend_that_fails_while_it_is_timed_does_not_win(caplog):
    caplog.set_level("DEBUG")

    def shy(q, k, v, *, scale, need_lse):
        if q.shape[1] == Q.shape[1]:
            raise RuntimeError("not at this size")
        return attend_reference(q, k, v, scale=scale, need_lse=need_lse)

    choice = Dispatcher([backend("shy", shy), backend("sound")]).choose(Q, K, V, PROBLEM)
    assert choice.backend.name == "sound"
    assert "'shy' was not timed: failed when it was timed" in caplog.text


def test_the_sample_that_is_timed_stays_short():
    q, k = (torch.empty(2, 9000, 64, 128, device="meta") for _ in range(2))
    sampled, keys, _ = autotune.take_sample(q, k, k)
    assert sampled.shape[0] == keys.shape[0] == 1
    assert sampled.shape[1] == MANY_QUERIES
    assert keys.shape[1] == 9000
    assert sampled.shape[2] == keys.shape[2] < 64
    assert Problem.of(sampled, keys, keys).operations <= autotune.MAX_OPERATIONS_ELSEWHERE * 2


def test_a_much_slower_backend_is_not_run_again():
    runs = {"slow": 0, "quick": 0}

    def counted(name, repeats):
        def run(q, k, v, *, scale, need_lse):
            runs[name] += 1
            for _ in range(repeats):
                out = attend_reference(q, k, v, scale=scale, need_lse=need_lse)
            return out

        return backend(name, run)

    found = autotune.time_backends([counted("slow", 30), counted("quick", 1)], Q, K, V, scale=0.125, need_lse=True)
    assert found["quick"] < found["slow"]
    assert runs["slow"] < runs["quick"]


def test_a_preference_for_the_host_times_nothing_anew_where_it_has_no_attention(monkeypatch):
    calls = []
    timed(monkeypatch, {"own": 1.0, "other": 2.0}, calls)
    dispatcher = Dispatcher([backend("own"), backend("other")])
    assert dispatcher.choose(Q, K, V, PROBLEM).backend.name == "own"
    monkeypatch.setenv(ATTENTION_ENV, "host")
    assert dispatcher.choose(Q, K, V, PROBLEM).backend.name == "own"
    assert len(calls) == 1
    assert len(autotune_cache.read()) == 1


def test_times_without_lists_of_key_tiles_decide_nothing_with_them(monkeypatch):
    timed(monkeypatch, {"first": 2.0, "second": 1.0})
    dispatcher = Dispatcher([backend("first"), backend("second")])
    assert dispatcher.choose(Q, K, V, PROBLEM).backend.name == "second"
    tiled = Problem.of(Q, K, V, need_lse=True, key_tiles=True)
    assert dispatcher.choose(Q, K, V, tiled).backend.name == "first"


def test_while_a_graph_is_captured_nothing_is_tested_timed_or_kept(monkeypatch):
    def untouchable(*args, **options):
        raise AssertionError("would wait for the device")

    monkeypatch.setattr(dispatch, "_is_capturing", lambda device: True)
    monkeypatch.setattr(autotune, "time_backends", untouchable)
    monkeypatch.setattr(selftest, "check", untouchable)
    host, quick = backend("host"), backend("quick")
    dispatcher = Dispatcher([backend("coarse", exact=False), quick, REFERENCE])
    assert dispatcher.choose(Q, K, V, PROBLEM).backend is REFERENCE  # nothing else is tested
    assert dispatcher.choose(Q, K, V, PROBLEM, host=host).backend is host
    monkeypatch.undo()
    assert not dispatcher.unsupported_reason(quick, PROBLEM)
    monkeypatch.setattr(dispatch, "_is_capturing", lambda device: True)
    assert dispatcher.choose(Q, K, V, PROBLEM).backend is quick
    assert dispatcher.known(PROBLEM) is None


BAD_NUMBERS = {
    "beyond floats": "1" + "0" * 400,
    "more digits than Python reads": "1" * 5000,
    "endless": "Infinity",
    "overflowing": "1e999",
    "not a number": "NaN",
    "nested without end": "[" * 100_000 + "]" * 100_000,
}


@pytest.mark.parametrize("number", BAD_NUMBERS.values(), ids=BAD_NUMBERS)
def test_a_record_of_impossible_numbers_is_made_anew(monkeypatch, number):
    timed(monkeypatch, {"one": 1.0, "two": 0.5})
    autotune_cache.folder().mkdir(parents=True)
    key = json.dumps(autotune_cache.key(PROBLEM, "auto"))
    entry = f'{{"backend": "one", "milliseconds": {{"one": {number}}}}}'
    autotune_cache.path().write_text(
        f'{{"format": 1, "choices": {{{key}: {entry}}}, "trials": {{"t": {entry}}}}}', "utf-8"
    )
    assert autotune_cache.read() == autotune_cache.read(autotune_cache.ATTEMPTS) == {}
    choice = Dispatcher([backend("one"), backend("two")]).choose(Q, K, V, PROBLEM)
    assert choice.backend.name == "two"
    assert describe_choice(choice, PROBLEM)
    assert autotune_cache.read()[json.loads(key)]["backend"] == "two"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_no_record(monkeypatch):
    timed(monkeypatch, {"one": 1.0, "two": 0.5})
    autotune_cache.folder().mkdir(parents=True)
    os.mkfifo(autotune_cache.path())
    # A writer at the other end: opening the FIFO as a file fails here instead of waiting for ever.
    writer = os.open(autotune_cache.path(), os.O_RDWR | os.O_NONBLOCK)
    os.write(writer, b'{"format": 1, "choices": {"key": {}}}')
    threading.Timer(1.0, os.close, [writer]).start()
    assert autotune_cache.read() == {}
    assert Dispatcher([backend("one"), backend("two")]).choose(Q, K, V, PROBLEM).backend.name == "two"
    assert stat.S_ISREG(autotune_cache.path().stat().st_mode)
