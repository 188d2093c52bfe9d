"""A bench that spreads runs over several processes, GPUs or machines by Ray, where the user has it. Decides nothing.

Results are those of one process: outcomes come in the jobs' order, and each case's dense run is made once and given to
all. Ray is imported only when a search is spread.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ...errors import AstraeaError, SearchError
from ..problem import Bench, Job, Outcome, Recording, SamplingConfig

HOW_TO_GET = "Ray is not installed, by which a search is spread. Install it (pip install ray) or leave --workers out."
MAX_TRIES = 2
MAX_REASON_LENGTH = 200  # letters of an error that are told


class SharedRunner(Bench, Protocol):
    """A bench whose dense runs may come from another one of the same setting."""

    def known(self, case: int) -> Any:
        """All that is known of a case's dense run, made at the first call; can be pickled."""
        ...

    def load_reference(self, case: int, known: Any) -> None:
        """Take a case's dense run from another bench."""
        ...


@dataclass(frozen=True)
class Factory:
    """How a worker comes by its bench: a function of a Python file, called with plain values and tensors.

    The file must be there under the same path on every machine, and bring the pack into the process under the name that
    it has here: what is sent to and fro is its classes.
    """

    file: Path
    function: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Where workers run. address: of a running Ray, None for one of this machine's own (or what RAY_ADDRESS names).

    gpus: whether every worker gets a GPU of its own, where Ray has any.
    """

    workers: int
    address: str | None = None
    gpus: bool = True

    @property
    def elsewhere(self) -> bool:
        """Whether it is a Ray that runs already."""
        return self.address is not None or "RAY_ADDRESS" in os.environ


@dataclass(eq=False)
class _Task:
    """A call of a worker's method for a case. tries: workers that it was given to."""

    method: str
    case: int
    arguments: tuple[Any, ...] = ()
    tries: int = 0
    done: bool = False
    value: Any = None


@dataclass(eq=False)
class _Worker:
    """actor: Ray's handle; cases: those whose dense run it has."""

    actor: Any
    cases: set[int] = field(default_factory=set)


class RayRunner:
    """Fulfils `search.problem.Bench` with a bench in each of several workers.

    Raises SearchError without Ray, where it has too little for the workers, where their settings differ, and where a
    run fails on two workers. `close` ends the workers at once, whatever they do.
    """

    def __init__(self, factory: Factory, cluster: Cluster):
        self._ray, self._own = _started(cluster)
        self._workers: list[_Worker] = []
        self._free: deque[_Worker] = deque()
        self._queue: deque[_Task] = deque()
        self._running: dict[Any, tuple[_Worker, _Task]] = {}
        self._dense: dict[int, _Task] = {}
        self._known: dict[int, Any] = {}  # references to what workers adopt
        self._small_cases = 0
        try:
            kind = self._ray.remote(**_share(self._ray, cluster, self._own))(_worker_class())
            self._workers = [_Worker(kind.remote()) for _ in range(cluster.workers)]
            self._setting = self._begun(factory)
        except BaseException:
            self.close()
            raise
        self._free.extend(self._workers)

    @property
    def setting(self) -> SamplingConfig:
        return self._setting

    def dense(self, case: int) -> Recording:
        """As in `Bench`, small clips being the cases after. Idle workers make the next cases' meanwhile."""
        self._ask_dense(case)
        end = self._setting.cases + (self._small_cases if case >= self._setting.cases else 0)
        for following in range(case + 1, end):
            if len(self._queue) < len(self._free):
                self._ask_dense(following)
        task = self._dense[case]
        self._finish(task)
        return task.value[0]

    def smaller(self, pairs: int) -> RayProxyRunner | None:
        """As in `Bench`: the workers' own small clips."""
        begun = [worker.actor.begin_small.remote(pairs) for worker in self._workers]
        setting = self._ray.get(begun)[0]
        if setting is None:
            return None
        self._small_cases = setting.cases
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
        """End the workers, and the Ray that was started for them."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers, self._running = [], {}
        if self._own:
            self._ray.shutdown()

    def _ask_dense(self, case: int) -> None:
        if case not in self._dense:
            self._dense[case] = _Task("dense", case)
            self._queue.append(self._dense[case])

    def _begun(self, factory: Factory) -> SamplingConfig:
        arguments = (str(factory.file), factory.function, self._ray.put(factory.arguments))
        begun = [worker.actor.begin.remote(*arguments) for worker in self._workers]
        try:
            settings = self._ray.get(begun)
        except self._ray.exceptions.RayError as error:
            raise _as_search_error(error, "A worker cannot begin") from None
        if len({setting.identity for setting in settings}) > 1:
            raise SearchError(
                "The workers do not sample alike: their models, precisions or versions differ. Spread a search over "
                "machines with the same files and the same kind of device."
            )
        return settings[0]

    def _finish(self, task: _Task) -> None:
        """Hand out what is to be done, in its order, until this is."""
        while not task.done:
            while self._queue and self._free:
                self._dispatch(self._free.popleft(), self._queue.popleft())
            ready, _ = self._ray.wait(list(self._running))
            for reference in ready:
                self._collect(reference)

    def _dispatch(self, worker: _Worker, task: _Task) -> None:
        known = None
        if task.method == "measure" and task.case not in worker.cases:
            known = self._known[task.case]
        worker.cases.add(task.case)
        task.tries += 1
        reference = getattr(worker.actor, task.method).remote(task.case, known, *task.arguments)
        self._running[reference] = worker, task

    def _collect(self, reference: Any) -> None:
        worker, task = self._running.pop(reference)
        try:
            task.value, task.done = self._ray.get(reference), True
        except self._ray.exceptions.RayTaskError as error:
            self._free.append(worker)
            if task.method == "dense":
                del self._dense[task.case]
            raise _as_search_error(error, "A run failed") from None
        except self._ray.exceptions.RayError as error:
            self._on_worker_lost(worker, task, error)
            return
        if task.method == "dense":
            recording, known = task.value
            task.value = (recording,)
            self._known[task.case] = self._ray.put(known)  # from here: it outlives the worker
        self._free.append(worker)

    def _on_worker_lost(self, worker: _Worker, task: _Task, error: Exception) -> None:
        """The worker is gone: another one makes its run, once."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        if task.tries >= MAX_TRIES:
            raise SearchError(
                f"A run ended two workers, so the search stops ({_first_line(error)}). Often it is memory that runs "
                "out: try fewer workers, or smaller videos."
            )
        if not self._workers:
            raise SearchError(f"No worker is left, the last one has ended ({_first_line(error)}).")
        self._queue.appendleft(task)


class RayProxyRunner:
    """The small clips of a spread bench's workers."""

    def __init__(self, whole: RayRunner, setting: SamplingConfig):
        self._whole, self.setting = whole, setting

    def dense(self, case: int) -> Recording:
        return self._whole.dense(self._whole.setting.cases + case)

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        first = self._whole.setting.cases
        return self._whole.measure([replace(job, case=first + job.case) for job in jobs])

    def smaller(self, pairs: int) -> None:
        """None: small enough."""


def _started(cluster: Cluster) -> tuple[Any, bool]:
    """Ray's module, ready, and whether it is this search's own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the user wants it
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise SearchError(HOW_TO_GET) from None
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
    try:
        if cluster.elsewhere:
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        else:
            ray.init(address="local", num_cpus=max(cluster.workers, os.cpu_count() or 1), **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f" at '{cluster.address}'" if cluster.address else ""
        raise SearchError(f"Ray{where} cannot be reached or started ({_first_line(error)}).") from None
    return ray, True


def _share(ray: Any, cluster: Cluster, own: bool) -> dict[str, Any]:
    """What each worker asks of Ray. Raises SearchError where there is not as much."""
    there = ray.cluster_resources()
    use_gpus = cluster.gpus and there.get("GPU", 0) >= 1
    what = "GPU" if use_gpus else "CPU"
    if cluster.workers > there.get(what, 0):
        raise SearchError(f"Ray has {there.get(what, 0):.0f} {what}s: it has no place for {cluster.workers} workers.")
    if use_gpus:
        return {"num_gpus": 1, "max_restarts": 0}
    # On this machine alone the workers share its cores, which are also their torch threads.
    cores = int(there["CPU"]) // cluster.workers if own and not cluster.elsewhere else 1
    return {"num_cpus": cores, "max_restarts": 0}


def _worker_class() -> type:
    """Made here, so that Ray sends all of it: a worker's process has no pack before `begin` has loaded it."""

    class Worker:
        """One bench, in a process of its own."""

        bench: Any
        small: Any = None

        def begin(self, file: str, function: str, arguments: tuple) -> Any:
            """Make the bench; returns its setting."""
            import importlib.util

            import torch

            spec = importlib.util.spec_from_file_location("astraea_worker", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            with torch.inference_mode():
                self.bench = getattr(module, function)(*arguments)
                return self.bench.setting

        def begin_small(self, pairs: int) -> Any:
            """Make the bench of small clips; returns its setting, None where there are none."""
            import torch

            with torch.inference_mode():
                self.small = self.bench.smaller(pairs)
                return None if self.small is None else self.small.setting

        def dense(self, case: int, known: None) -> tuple:
            """A case's recording and all that is known of it."""
            import torch

            bench, own = self.place_of(case)
            with torch.inference_mode():
                return bench.dense(own), bench.known(own)

        def place_of(self, case: int) -> tuple[Any, int]:
            """Which bench's which case it is: small clips come after the others."""
            large = self.bench.setting.cases
            return (self.bench, case) if case < large else (self.small, case - large)

        def measure(self, case: int, known: Any, job: Any) -> Any:
            """One outcome. known: the case's dense run, None where the bench has it."""
            import dataclasses

            import torch

            bench, own = self.place_of(case)
            with torch.inference_mode():
                if known is not None:
                    bench.load_reference(own, known)
                return next(iter(bench.measure([dataclasses.replace(job, case=own)])))

    return Worker


def _as_search_error(error: Exception, what: str) -> Exception:
    """The worker's own error where it is one to be shown, else one that tells of it."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, AstraeaError):
        return cause
    return SearchError(f"{what}: {type(cause).__name__}: {_first_line(cause)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:MAX_REASON_LENGTH].rstrip(".")
