"""Runner that distributes runs over several processes, GPUs or machines by Ray, an optional package.

Results are those of one process: outcomes come in the jobs' order, and each case's dense run is made once and sent to
all workers. Ray is imported only when a search is distributed. No decisions are made here.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import AstraeaError, SearchError
from ..problem.runner import Job, Outcome, Recording, SamplingConfig

HOW_TO_GET = "Ray is not installed, which --workers needs. Install it (pip install ray) or leave --workers out."
MAX_TRIES = 2
MAX_REASON_LENGTH = 200  # letters of an error that are shown


@dataclass(frozen=True)
class Factory:
    """Makes a worker's runner: a function of a Python file, called with plain values and tensors.

    The file must have the same path on every machine, and load the pack under the name that it has here, as its classes
    are sent in both directions. Besides `Runner`, the runner implements `reference(case)`, which returns a case's dense
    run to be pickled, and `load_reference(case, reference)`, which takes that of another worker.
    """

    file: Path
    function: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Workers to start. address: of a running Ray; None: the one that RAY_ADDRESS names, else a new one here.

    gpus: each worker gets a GPU of its own, if Ray has any.
    """

    workers: int
    address: str | None = None
    gpus: bool = True

    @property
    def is_running(self) -> bool:
        """Tell whether it is a Ray that runs already."""
        return self.address is not None or "RAY_ADDRESS" in os.environ


@dataclass(eq=False)
class _Task:
    """A call of a worker's method for a case. tries: number of workers it was sent to."""

    method: str
    case: int
    arguments: tuple[Any, ...] = ()
    tries: int = 0
    done: bool = False
    value: Any = None


@dataclass(eq=False)
class _Worker:
    """actor: Ray's handle; cases: those whose dense runs it has."""

    actor: Any
    cases: set[int] = field(default_factory=set)


class RayRunner:
    """Implements `search.problem.Runner` with a runner in each of several workers.

    Raises SearchError without Ray, if it has too few devices, if the workers' settings differ, and if a run fails on
    two workers. `close` ends the workers at once.
    """

    def __init__(self, factory: Factory, cluster: Cluster):
        self._ray, self._made_connection = _start_ray(cluster)
        self._workers: list[_Worker] = []
        self._free: deque[_Worker] = deque()
        self._queue: deque[_Task] = deque()
        self._running: dict[Any, tuple[_Worker, _Task]] = {}
        self._dense: dict[int, _Task] = {}
        self._references: dict[int, Any] = {}  # Ray's handles of dense runs, by case
        self._proxy_cases = 0
        try:
            kind = self._ray.remote(**_resources(self._ray, cluster, self._made_connection))(_worker_class())
            self._workers = [_Worker(kind.remote()) for _ in range(cluster.workers)]
            self._setting = self._begin(factory)
        except BaseException:
            self.close()
            raise
        self._free.extend(self._workers)

    @property
    def setting(self) -> SamplingConfig:
        return self._setting

    def dense(self, case: int) -> Recording:
        """Implement `Runner.dense`; proxy cases follow the others. Idle workers make the next cases' dense runs."""
        self._request_dense(case)
        end = self._setting.cases + (self._proxy_cases if case >= self._setting.cases else 0)
        for following in range(case + 1, end):
            if len(self._queue) < len(self._free):
                self._request_dense(following)
        task = self._dense[case]
        self._finish(task)
        return task.value[0]

    def proxy(self, cases: int) -> RayProxyRunner | None:
        """Implement `Runner.proxy` by the workers' own small clips."""
        begun = [worker.actor.begin_proxy.remote(cases) for worker in self._workers]
        try:
            setting = self._ray.get(begun)[0]
        except self._ray.exceptions.RayError as error:
            raise _as_search_error(error, "Small clips cannot be made") from None
        if setting is None:
            return None
        self._proxy_cases = setting.cases
        return RayProxyRunner(self, setting)

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for case in dict.fromkeys(job.case for job in jobs):
            self.dense(case)
        tasks = [_Task("measure", job.case, (job,)) for job in jobs]
        self._queue.extend(tasks)
        try:
            for task in tasks:
                self._finish(task)
                yield task.value
        finally:
            self._queue = deque(task for task in self._queue if task not in tasks)

    def close(self) -> None:
        """End the workers, and the connection to Ray if it was made for them."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers, self._running = [], {}
        if self._made_connection:
            self._ray.shutdown()

    def _request_dense(self, case: int) -> None:
        if case not in self._dense:
            self._dense[case] = _Task("dense", case)
            self._queue.append(self._dense[case])

    def _begin(self, factory: Factory) -> SamplingConfig:
        arguments = (str(factory.file), factory.function, self._ray.put(factory.arguments))
        begun = [worker.actor.begin.remote(*arguments) for worker in self._workers]
        try:
            settings = self._ray.get(begun)
        except self._ray.exceptions.RayError as error:
            raise _as_search_error(error, "A worker cannot begin") from None
        if len({setting.identity for setting in settings}) > 1:
            raise SearchError(
                "The workers do not sample alike: their models, precisions or versions differ. Use machines with the "
                "same files and the same kind of device."
            )
        return settings[0]

    def _finish(self, task: _Task) -> None:
        """Dispatch tasks in their order until this one is done."""
        while not task.done:
            while self._queue and self._free:
                self._dispatch(self._free.popleft(), self._queue.popleft())
            ready, _ = self._ray.wait(list(self._running))
            for handle in ready:
                self._collect(handle)

    def _dispatch(self, worker: _Worker, task: _Task) -> None:
        sent = None
        if task.method == "measure" and task.case not in worker.cases:
            sent = self._references[task.case]
        worker.cases.add(task.case)
        task.tries += 1
        handle = getattr(worker.actor, task.method).remote(task.case, sent, *task.arguments)
        self._running[handle] = worker, task

    def _collect(self, handle: Any) -> None:
        worker, task = self._running.pop(handle)
        try:
            task.value, task.done = self._ray.get(handle), True
        except self._ray.exceptions.RayTaskError as error:
            self._free.append(worker)
            if task.method == "dense":
                del self._dense[task.case]
            raise _as_search_error(error, "A run failed") from None
        except self._ray.exceptions.RayError as error:
            self._on_worker_lost(worker, task, error)
            return
        if task.method == "dense":
            recording, reference = task.value
            task.value = (recording,)
            self._references[task.case] = self._ray.put(reference)  # from here: it outlives the worker
        self._free.append(worker)

    def _on_worker_lost(self, worker: _Worker, task: _Task, error: Exception) -> None:
        """Give the run of a worker that has ended to another one, once."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        if task.tries >= MAX_TRIES:
            raise SearchError(
                f"A run ended two workers, so the search stops ({_first_line(error)}). The usual reason is too little "
                "memory: try fewer workers, or smaller videos."
            )
        if not self._workers:
            raise SearchError(f"No worker is left, the last one has ended ({_first_line(error)}).")
        self._queue.appendleft(task)


class RayProxyRunner:
    """The small clips of a RayRunner's workers."""

    def __init__(self, full_size: RayRunner, setting: SamplingConfig):
        self._full_size, self.setting = full_size, setting

    def dense(self, case: int) -> Recording:
        return self._full_size.dense(self._full_size.setting.cases + case)

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        first = self._full_size.setting.cases
        return self._full_size.measure([replace(job, case=first + job.case) for job in jobs])

    def proxy(self, cases: int) -> None:
        """Return None: there are no smaller clips."""


def _start_ray(cluster: Cluster) -> tuple[Any, bool]:
    """Return Ray's module, connected, and whether this call made the connection, which `close` then ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to anybody unless the user wants them
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise SearchError(HOW_TO_GET) from None
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
    try:
        if cluster.is_running:
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        else:
            ray.init(address="local", num_cpus=max(cluster.workers, os.cpu_count() or 1), **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f" at '{cluster.address}'" if cluster.address else ""
        raise SearchError(f"Ray{where} cannot be reached or started ({_first_line(error)}).") from None
    return ray, True


def _resources(ray: Any, cluster: Cluster, own: bool) -> dict[str, Any]:
    """Return the resources of each worker. Raises SearchError if there are not enough."""
    available = ray.cluster_resources()
    use_gpus = cluster.gpus and available.get("GPU", 0) >= 1
    kind = "GPU" if use_gpus else "CPU"
    if cluster.workers > available.get(kind, 0):
        raise SearchError(
            f"Ray has {available.get(kind, 0):.0f} {kind}s: it has no place for {cluster.workers} workers."
        )
    if use_gpus:
        return {"num_gpus": 1, "max_restarts": 0}
    # On this machine alone the workers share its cores, which are also their torch threads.
    cores = int(available["CPU"]) // cluster.workers if own and not cluster.is_running else 1
    return {"num_cpus": cores, "max_restarts": 0}


def _worker_class() -> type:
    """Define the class here, so that Ray sends all of it: the pack is not loaded in a worker before `begin`."""

    class Worker:
        """One runner, in a process of its own."""

        runner: Any
        proxy: Any = None

        def begin(self, file: str, function: str, arguments: tuple) -> Any:
            """Make the runner; returns its setting."""
            import importlib.util

            import torch

            spec = importlib.util.spec_from_file_location("astraea_worker", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            with torch.inference_mode():
                self.runner = getattr(module, function)(*arguments)
                return self.runner.setting

        def begin_proxy(self, cases: int) -> Any:
            """Make the runner of small clips; returns its setting, None if there are no small clips."""
            import torch

            with torch.inference_mode():
                self.proxy = self.runner.proxy(cases)
                return None if self.proxy is None else self.proxy.setting

        def dense(self, case: int, sent: None) -> tuple:
            """Return a case's recording, and its dense run for other workers."""
            import torch

            runner, own = self.locate(case)
            with torch.inference_mode():
                return runner.dense(own), runner.reference(own)

        def locate(self, case: int) -> tuple[Any, int]:
            """Return the runner of a case and its number there: proxy cases follow the others."""
            full_size = self.runner.setting.cases
            return (self.runner, case) if case < full_size else (self.proxy, case - full_size)

        def measure(self, case: int, reference: Any, job: Any) -> Any:
            """Return one outcome. reference: the case's dense run, None if the runner has it."""
            import dataclasses

            import torch

            runner, own = self.locate(case)
            with torch.inference_mode():
                if reference is not None:
                    runner.load_reference(own, reference)
                return next(iter(runner.measure([dataclasses.replace(job, case=own)])))

    return Worker


def _as_search_error(error: Exception, failure: str) -> Exception:
    """Return the worker's own error if it is meant for users, else one that describes it."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, AstraeaError):
        return cause
    return SearchError(f"{failure}: {type(cause).__name__}: {_first_line(cause)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:MAX_REASON_LENGTH].rstrip(".")
