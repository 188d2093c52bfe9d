"""raylight's workers behind proxies, which put plans on them for the length of each sampler call.

raylight's workers keep what is patched onto their model even after the node is gone from the graph. So nothing stays
there: each sampler call is one round of plans on, sample, plans off and report, in all workers. Ray keeps the order of
one caller's calls to an actor.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comfy.model_management import (
    InterruptProcessingException,
    interrupt_current_processing,
    processing_interrupted,
)

from ...engine.planning.plan import Plan
from ...engine.report import ReportHandle
from ...engine.report.writer import pass_through_report
from ...engine.sparse.plan import SparsePlan
from ...errors import InputError, WorkerError
from ...version import VERSION
from .actors import POLL_SECONDS, START_ANEW, Actors
from .messages import ACCELERATE, SPARSE, Degrees, merged, plan_values, report_from, sparse_values

SAMPLER_CALLS = {"common_ksampler", "custom_sampler", "custom_sampler_advanced"}
PIPELINED = "raylight's PipeFusion carries results from step to step itself"
STOP_SECONDS = 10.0  # in which all workers stop, if one has
STILL_WAITING = "The other GPUs still wait for it."
OTHER_MODEL = (
    "Another of raylight's model loaders has put its model into the same workers since: the clip would be of that one. "
    "Change a value of the loader before this sampler, so that it loads its model again."
)


@dataclass(frozen=True)
class WorkerPlan:
    """A plan for workers. values: plain data; name: for the report of workers that sample without it."""

    values: dict[str, Any]
    handle: ReportHandle
    name: str = ""


def accelerate_workers(ray_actors: Any, plan: Plan, handle: ReportHandle) -> dict[str, Any]:
    """Return RAY_ACTORS whose sampler calls follow the plan and report into the handle.

    An earlier plan is replaced. Raises InputError for a value that is no RAY_ACTORS, WorkerError where a worker does
    not answer, has no model, another version of the pack or another model than the others.
    """
    return _with_plan(ray_actors, ACCELERATE, WorkerPlan(plan_values(plan), handle, plan.name))


def attend_sparsely_in_workers(ray_actors: Any, plan: SparsePlan, handle: ReportHandle) -> dict[str, Any]:
    """Return RAY_ACTORS whose sampler calls attend sparsely by the plan. Otherwise as `accelerate_workers`."""
    return _with_plan(ray_actors, SPARSE, WorkerPlan(sparse_values(plan), handle))


def _with_plan(ray_actors: Any, kind: str, plan: WorkerPlan) -> dict[str, Any]:
    found = ray_actors.get("workers") if isinstance(ray_actors, Mapping) else None
    workers: Sequence[Any] = found if isinstance(found, (list, tuple)) else ()
    if not workers or not all(hasattr(_actor_of(worker), "get_parallel_dict") for worker in workers):
        raise InputError("The input 'ray_actors' takes the output of one of raylight's model loaders.")
    earlier = workers[0].plans if isinstance(workers[0], WorkerProxy) else {}
    planned = PlannedWorkers([_actor_of(worker) for worker in workers], {**earlier, kind: plan})
    if reason := planned.reason_to_pass():
        note = f"passed through: {reason}"
        logging.warning(f"Astraea: {note}.")
        plan.handle.add(pass_through_report(plan.name, note))
    return {**ray_actors, "workers": planned.proxies}


def _new_stop_file() -> Path:
    return Path(tempfile.gettempdir(), f"astraea-stop-{os.getpid()}-{uuid.uuid4().hex}")


def _actor_of(worker: Any) -> Any:
    return worker.actor if isinstance(worker, WorkerProxy) else worker


class PlannedWorkers:
    """The workers of one node: rounds of sampler calls, one call to each.

    The call to the last worker of a round waits for all, as raylight's sampler nodes do next: so an interrupt reaches
    the workers, an error is said in words, and the report is there when the sampler's node ends.

    plans: by kind.
    """

    def __init__(self, actors: Sequence[Any], plans: Mapping[str, WorkerPlan]):
        self.plans = dict(plans)
        self._actors = Actors(actors)
        settings = self._actors.answers([self._actors.call(0, "get_parallel_dict")])[0]
        self._degrees = Degrees.of(len(actors), settings)
        self._models: list[int] = []  # numbers of the models in the workers, as the node found them
        self._stop_file = _new_stop_file()  # of the round: once it exists, all stop
        self._results: dict[int, Any] = {}  # of the round's sampler calls, by rank
        self._ends: dict[int, Any] = {}  # the reports that follow them
        self.proxies = [WorkerProxy(self, rank, actor) for rank, actor in enumerate(actors)]

    def reason_to_pass(self) -> str:
        """Return why the workers sample without a plan; "" if they do with it.

        Raises WorkerError unless all have this version of the pack, and the same model.
        """
        described = self._actors.in_all("describe")
        for rank, each in enumerate(described):
            which = self._actors.name(rank)
            if each["version"] != VERSION:
                raise WorkerError(f"{which} has Astraea {each['version']}, ComfyUI has {VERSION}. {START_ANEW}.")
            if not each["model"]:
                raise WorkerError(f"{which} has no model: connect the output of one of raylight's model loaders.")
            if {**each, "number": 0} != {**described[0], "number": 0}:
                raise WorkerError(f"{which} has a {each['model']}, GPU 1 a {described[0]['model']}. {START_ANEW}.")
        models = [each["number"] for each in described]
        self._models = self._models or models
        if models != self._models:
            raise WorkerError(OTHER_MODEL)
        return PIPELINED if self._degrees.pipeline else str(described[0]["reason"])

    def sample(self, rank: int, method: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Submit one worker's sampler call; returns Ray's handle of its result. The last of a round waits for all."""
        if not self._results or rank in self._results:
            self._begin_round()
        try:
            self._results[rank] = method.remote(*args, **kwargs)
        except BaseException:
            self._take_off()
            raise
        self._ends[rank] = self._actors.send(rank, "end")
        result = self._results[rank]
        if len(self._results) == len(self._actors):
            self._finish_round()
        return result

    def _begin_round(self) -> None:
        """Put the plan on all workers, and wait: one that samples without it would leave the others waiting."""
        self._take_off()
        passes = bool(self.reason_to_pass())  # other models may have been loaded since
        self._stop_file.unlink(missing_ok=True)  # all have answered: nobody looks for it any more
        self._stop_file = _new_stop_file()
        if passes:
            return
        plans, degrees = {kind: plan.values for kind, plan in self.plans.items()}, asdict(self._degrees)
        ranks, file = range(len(self._actors)), str(self._stop_file)
        put_on = [self._actors.send(rank, "begin", plans, degrees, rank, file) for rank in ranks]
        try:
            self._actors.answers(put_on)
        except BaseException:
            self._take_off()
            raise

    def _take_off(self) -> None:
        """Take the plan off the workers whose sampler call did not come, and forget the round."""
        for rank in range(len(self._actors)):
            if rank not in self._ends:
                self._actors.send(rank, "end")
        self._results, self._ends = {}, {}

    def _finish_round(self) -> None:
        ranks = range(len(self._actors))
        results, ends = [self._results[rank] for rank in ranks], [self._ends[rank] for rank in ranks]
        self._results, self._ends = {}, {}
        try:
            self._wait_for(results)
        except (InterruptProcessingException, WorkerError) as error:
            self._stop_file.touch()  # where each GPU has a clip of its own, the others go on without it
            ended = self._actors.all_end(results, STOP_SECONDS)
            if ended:
                self._stop_file.unlink(missing_ok=True)
            if isinstance(error, InterruptProcessingException):
                interrupt_current_processing(False)  # the host's mark of it, which would stop what follows
            if ended and isinstance(error, InterruptProcessingException):
                self._add_reports(ends)
            if ended or self._degrees.data == len(self._actors):
                raise
            raise WorkerError(f"{str(error) or 'The run was interrupted.'} {STILL_WAITING} {START_ANEW}.") from error
        self._add_reports(ends)

    def _wait_for(self, results: Sequence[Any]) -> None:
        """Wait for the results of a round; passes the user's interrupt on. Raises for the first worker that fails."""
        pending = list(results)
        while pending:
            for result in self._actors.ready(pending, POLL_SECONDS):
                self._actors.value(results.index(result), result, 0.0)
                pending.remove(result)
            if processing_interrupted():
                self._stop_file.touch()

    def _add_reports(self, ends: Sequence[Any]) -> None:
        answers = self._actors.answers(ends)
        for kind, plan in self.plans.items():
            for of_one_run in zip(*(answer.get(kind, ()) for answer in answers), strict=False):
                report = merged([report_from(each) for each in of_one_run], self._degrees)
                logging.info(f"Astraea: {report.devices}: {report.summary()}")
                plan.handle.add(report)


class WorkerProxy:
    """A worker whose sampler calls follow plans; everything else of it is the worker's own."""

    def __init__(self, workers: PlannedWorkers, rank: int, actor: Any):
        self._workers, self._rank, self.actor = workers, rank, actor

    @property
    def plans(self) -> dict[str, WorkerPlan]:
        return self._workers.plans

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        return SamplerMethod(self._workers, self._rank, method) if name in SAMPLER_CALLS else method

    def __reduce__(self) -> Any:
        return self.actor.__reduce__()  # raylight's guiders carry their workers into each worker

    def __eq__(self, other: object) -> bool:
        return bool(self.actor == _actor_of(other))

    def __hash__(self) -> int:
        return hash(self.actor)


class SamplerMethod:
    """A sampler method of a proxy, called as Ray's are: `method.remote(…)`."""

    def __init__(self, workers: PlannedWorkers, rank: int, method: Any):
        self._workers, self._rank, self._method = workers, rank, method

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self._workers.sample(self._rank, self._method, args, kwargs)
