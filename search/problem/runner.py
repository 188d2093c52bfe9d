"""Data that pass between a search and the sampling that it runs, which a `Runner` makes: in ComfyUI, or in tests.

Losses are mean square errors over the square of the dense result's value range, so that PSNR is −10 lg loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ...schedules import SamplerSteps, Schedule

MAX_SAMPLED = 8192  # latent values of each step kept in a recording


@dataclass(frozen=True)
class SamplingConfig:
    """The sampling that schedules are searched for.

    sigmas: noise levels including the last; calls_per_step: model calls per step; cases: number of prompt–seed pairs.
    weights: `weights[k][n]` is the change of the latents after step k per unit change of the prediction at step n,
        `[K, K]`. None if a step has several calls or the sampler is not linear: then nothing can be replayed.
    placement: the sampler's steps as a placement needs them, those of several calls, too; None: follow from `weights`.
    starts: change of the latents at each step's beginning and at the end per unit change of the initial latents,
        `[K + 1]`; None if unknown.
    identity: digest of everything that results depend on; outcomes of one identity may be reused.
    facts: plain JSON values for the provenance of a found schedule.
    relative_cost: cost of a dense run in full-size dense runs; below 1 for proxy cases.
    has_token_steps: the model can compute a part of its tokens; else candidates have whole steps alone.
    """

    sigmas: tuple[float, ...]
    calls_per_step: tuple[int, ...]
    cases: int
    family: str
    weights: tuple[tuple[float, ...], ...] | None
    identity: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    starts: tuple[float, ...] | None = None
    placement: SamplerSteps | None = None
    relative_cost: float = 1.0
    has_token_steps: bool = True

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def sampler_steps(self) -> SamplerSteps | None:
        """The steps as a placement needs them; None where the weights of predictions are unknown."""
        if self.placement is not None or self.weights is None:
            return self.placement
        levels = self.sigmas
        return SamplerSteps(levels, self.calls_per_step, levels[:-1], tuple(range(self.steps)), self.weights)

    @property
    def cfg(self) -> float | None:
        """Guidance scale; None if the facts do not state it."""
        cfg = self.facts.get("sampling", {}).get("cfg")
        return None if cfg is None else float(cfg)


@dataclass(frozen=True)
class Recording:
    """A dense run at D sampled latent values, the same ones in every recording of a case.

    latents: the model's input at each step, `[K, D]`; predictions: of each conditioning, `[K, G, D]`;
    guided: predictions after guidance, as the sampler gets them, `[K, D]`; final: latents after the last step, `[D]`,
    in the same space; peak: largest minus smallest value of all final latents; seconds: in the model, by step.
    """

    latents: Tensor
    predictions: Tensor
    guided: Tensor
    final: Tensor
    peak: float
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """A run to make. limits: largest loss after each step; a run that exceeds one is aborted. None: never."""

    case: int
    schedule: Schedule
    limits: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a run: plain values, saved in the run log under these names.

    loss: of the final latents; infinite if the run was aborted or not finite.
    steps: steps that were made; losses: by step, of the guided prediction against the dense run's, at the sampled
    values; computed: full steps' worth of tokens that were computed.
    seconds, kinds: by step, in the model ("full", "token", "reuse").
    responses: by step, norm of the predictions' error over norm of the latents' error; None if nothing was computed or
    the latents had no error.
    """

    loss: float
    steps: int
    losses: tuple[float, ...]
    computed: float
    seconds: tuple[float, ...]
    kinds: tuple[str, ...]
    responses: tuple[float | None, ...] = ()


class Runner(Protocol):
    """Runs candidates on cases."""

    @property
    def setting(self) -> SamplingConfig: ...

    def dense(self, case: int) -> Recording:
        """Return the dense run of a case, made at the first call and kept."""
        ...

    def measure(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield outcomes in the jobs' order, each as soon as it and all before it are known."""
        ...

    def proxy(self, cases: int) -> Runner | None:
        """Return a runner of small clips: the same sampling and prompts, other seeds. None if there are no small clips.

        Runners of different numbers begin with the same cases.
        """
        ...
