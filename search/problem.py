"""What a search asks of sampling, and what a run tells it. The host fulfils `Bench`; tests do with small models.

Losses are mean square errors over the square of the dense result's range, so that PSNR is −10 lg loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..schedules import Schedule

MAX_SAMPLED = 8192  # latent values that recordings keep of each step


@dataclass(frozen=True)
class SamplingConfig:
    """The sampling that schedules are searched for.

    sigmas: noise levels including the last; evaluations: model calls of each step; cases: prompt–seed pairs.
    weights: `weights[k][n]` is what 1 more in the prediction of step n adds to the latents after step k, `[K, K]`; None
        where a step has several calls or the sampler is not linear, so that nothing can be replayed.
    starts: what 1 more in the latents that a run begins with adds to them at each step's beginning and at the end,
        `[K + 1]`; None where unknown.
    identity: a digest of everything results depend on; outcomes of one identity may be reused.
    facts: what a found schedule tells of how it was found, plain JSON values.
    share: what a dense run takes, in dense runs of the clips that are searched for: less than 1 for small clips.
    """

    sigmas: tuple[float, ...]
    evaluations: tuple[int, ...]
    cases: int
    family: str
    weights: tuple[tuple[float, ...], ...] | None
    identity: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    starts: tuple[float, ...] | None = None
    share: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


@dataclass(frozen=True)
class Recording:
    """A dense run, at D sampled latent values: the same places in every recording of a case.

    latents: what the model was given at each step, `[K, D]`; predictions: of each conditioning, `[K, G, D]`;
    told: what the sampler made of them (guidance), `[K, D]`; final: the latents after the last step, `[D]`, in the same
    space; peak: largest minus smallest value of all of them; seconds: in the model, by step.
    """

    latents: Tensor
    predictions: Tensor
    told: Tensor
    final: Tensor
    peak: float
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """A run to make. limits: the most loss after each step at which it is still worth going on, None: always."""

    case: int
    schedule: Schedule
    limits: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run came to. Plain values, kept in the memo.

    loss: of the final latents, infinite where the run was given up or was not finite.
    steps: how many were made; losses: by step, of what the sampler was told against the dense run, at the sampled
    values; computed: full steps' worth of tokens that were computed.
    seconds, kinds: by step, in the model ("full", "token", "reuse").
    responses: by step, how much the predictions were off for what the latents were off (ratio of norms), None where
    nothing was computed or nothing was off.
    """

    loss: float
    steps: int
    losses: tuple[float, ...]
    computed: float
    seconds: tuple[float, ...]
    kinds: tuple[str, ...]
    responses: tuple[float | None, ...] = ()


class Bench(Protocol):
    """Where candidates are run."""

    @property
    def setting(self) -> SamplingConfig: ...

    def dense(self, case: int) -> Recording:
        """The dense run of a case, made at the first call and kept."""
        ...

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Outcomes in the jobs' order, each as soon as it and all before it are there."""
        ...

    def smaller(self, pairs: int) -> Bench | None:
        """The same sampling on small clips, the prompts in turn with seeds of their own; None where there is no such.

        The first of more pairs are those of fewer.
        """
        ...
