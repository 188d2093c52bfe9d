"""A search in Ray workers finds what one process finds; workers may end, and errors are one line."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
from toy_runner import ToyRunner

from astraea.errors import SearchError
from astraea.schedules import Schedule
from astraea.search.driver import Search
from astraea.search.evaluation import ray_runner
from astraea.search.evaluation.ray_runner import Cluster, Factory, RayRunner
from astraea.search.evaluation.run_log import RunLog
from astraea.search.problem.config import SearchConfig
from astraea.search.problem.runner import Job

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: searching in workers was NOT TESTED (pip install ray)", allow_module_level=True)

TOY = Path(__file__).with_name("toy_worker.py")
STEPS, CASES = 8, 3
SMALL = Factory(TOY, "runner_with_small_clips", (STEPS, CASES))


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """One Ray for all tests: a second is not started where there is one."""
    ray, own = ray_runner._start_ray(Cluster(workers=2))
    assert own
    yield
    ray.shutdown()


def toy_in_workers(*arguments, workers=2):
    return RayRunner(Factory(TOY, "runner", (STEPS, CASES, *arguments)), Cluster(workers))


def searched(runner):
    return Search(runner, RunLog(), SearchConfig(budgets=(0.5, 0.35), effort=16.0, seed=3)).run()


def jobs(runner, count=7):
    """Runs that differ in which step is reused."""
    sigmas = runner.setting.sigmas
    budgets = [[0.0 if step == 1 + n % (STEPS - 2) else 1.0 for step in range(STEPS)] for n in range(count)]
    return [Job(n % CASES, Schedule("tried", tuple(zip(sigmas, b, strict=False)))) for n, b in enumerate(budgets)]


def test_two_workers_find_what_one_process_finds(tmp_path):
    runner = toy_in_workers(-1, str(tmp_path))
    try:
        assert searched(runner) == searched(ToyRunner(STEPS, CASES))
        assert sorted(path.name.split("-")[1] for path in tmp_path.glob("dense-*")) == ["0", "1", "2"]
        assert len({path.name.split("-")[2] for path in tmp_path.glob("dense-*")}) == 2
        tried = jobs(runner)
        assert list(runner.measure(tried)) == list(ToyRunner(STEPS, CASES).measure(tried))
        next(unfinished := runner.measure(tried))
        unfinished.close()
        assert list(runner.measure(tried[:1])) == list(ToyRunner(STEPS, CASES).measure(tried[:1]))
    finally:
        runner.close()


def test_small_clips_run_in_workers_too():
    found = {}
    for name, runner in (("workers", RayRunner(SMALL, Cluster(2))), ("alone", ToyRunner(STEPS, CASES, proxy_cost=0.1))):
        try:
            search = Search(runner, RunLog(), SearchConfig(budgets=(0.5,), effort=30.0, seed=3, use_proxy=True))
            found[name] = search.run(), search.effort.runs
            assert search.method.evaluators[1].outcomes
        finally:
            runner.close() if name == "workers" else None
    assert found["workers"] == found["alone"]


def test_a_run_whose_worker_ends_is_made_by_another(tmp_path):
    runner = toy_in_workers(2, str(tmp_path), 1)
    try:
        assert list(runner.measure(jobs(runner))) == list(ToyRunner(STEPS, CASES).measure(jobs(runner)))
        assert len(list(tmp_path.glob("dead-*"))) == 1
    finally:
        runner.close()


def test_a_run_that_ends_two_workers_ends_the_search(tmp_path):
    runner = toy_in_workers(2, str(tmp_path), 9)
    try:
        with pytest.raises(SearchError, match="ended two workers"):
            list(runner.measure(jobs(runner, 3)))
    finally:
        began = time.monotonic()
        runner.close()
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize(
    ("function", "message"),
    [("refused", "^This model cannot be searched.$"), ("broken", "^A worker cannot begin: KeyError: 'weights'$")],
)
def test_what_keeps_a_worker_from_beginning_is_said(function, message):
    with pytest.raises(SearchError, match=message):
        RayRunner(Factory(TOY, function), Cluster(1))


def test_what_keeps_small_clips_from_being_made_is_said():
    runner = RayRunner(Factory(TOY, "runner_whose_small_clips_fail", (STEPS, CASES)), Cluster(1))
    try:
        with pytest.raises(SearchError, match=r"^Small clips cannot be made: KeyError: 'clips'$"):
            runner.proxy(4)
    finally:
        runner.close()


def test_workers_that_do_not_sample_alike_are_refused(tmp_path):
    with pytest.raises(SearchError, match="do not sample alike"):
        RayRunner(Factory(TOY, "other_by_process", (str(tmp_path),)), Cluster(2))
    assert len(list(tmp_path.iterdir())) == 2


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(SearchError, match="no place for 1000 workers"):
        toy_in_workers(workers=1000)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(ray_runner.importlib, "import_module", missing)
    with pytest.raises(SearchError, match=r"Ray is not installed.*pip install ray"):
        toy_in_workers()
