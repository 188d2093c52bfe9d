"""One sampler call, from its first sigma to its last: decides what each model call computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..schedules import PredictionPrior, without_partial_steps
from .blocks.interface import RowGroup
from .blocks.selection import selected_count
from .calls import ModelCall, PaperFullCall, PaperReuseCall, PaperTokenCall, RecordingCall, ReuseCall, TokenCall
from .calls.context import CallInfo, CallRequest, CondRows, RunContext
from .planning.cost import WHOLE_STEPS, BlockCost
from .planning.plan import Plan
from .planning.resolve import RunFacts, RunSettings, resolve
from .report import Report
from .report.device_timer import DeviceTimer
from .report.writer import ReportWriter
from .sampler.call_tracker import CallPosition, CallTracker
from .sampler.profile import SamplerProfile
from .state.cond_state import CondStates
from .state.residual_store import StoreSize, alone

NOTHING_KEPT = "nothing had been kept for their conditioning"
TOKENS_CHANGED = "the number of tokens changed"


class TokenCounts:
    """Tokens that the calls of a step compute: the same count for all calls, with rounding carried to later steps.

    All conditionings of a step have the same input: with the same count they select the same tokens. Guidance would
    amplify the difference between two selections.
    """

    def __init__(self) -> None:
        self._rounding_carry = 0.0
        self._counts: dict[int, int] = {}

    def begin_step(self) -> None:
        self._counts = {}

    def count(self, budget: float, video: int) -> int:
        """Return the tokens to compute of `video` ones at this step's budget."""
        if video not in self._counts:
            self._counts[video] = selected_count(budget, video, self._rounding_carry)
            self._rounding_carry += budget * video - self._counts[video]
        return self._counts[video]


class Run:
    """Mutable state of one sampler call; dropped when it ends. Calls may come from one thread per device."""

    def __init__(self, settings: RunSettings, facts: RunFacts, *, seed: int = 0, agree: Callable[[int], int] = alone):
        self.settings = settings
        self.context = RunContext(
            mode=settings.mode,
            cache=settings.cache,
            profile=facts.profile,
            prior=PredictionPrior(settings.forecast),
            seed=seed,
            agree=agree,
        )
        self.budgets = list(settings.budgets)
        self.states = CondStates()
        self.writer = ReportWriter(settings, facts.profile, facts.family)
        self._tracker = CallTracker(facts.profile)
        self._counts = TokenCounts()
        self._lock = threading.RLock()
        self._finished = self._store_failed = False
        self._step = -1  # of the newest call

    @classmethod
    def of(
        cls,
        plan: Plan,
        sigmas: Sequence[float],
        *,
        profile: SamplerProfile | None = None,
        cost: BlockCost = WHOLE_STEPS,
        family: str = "",
        seed: int = 0,
        guidance: float | None = None,
        has_runner: bool = True,
        limit: str = "",
        agree: Callable[[int], int] = alone,
    ) -> Run:
        """Resolve a plan for these noise levels and begin its run.

        sigmas: including the last one; profile: of the sampler, default one call a step with Euler's weights; agree:
        see `RunContext`. The rest as in `RunFacts`.
        """
        profile = profile or SamplerProfile.of([float(sigma) for sigma in sigmas])
        facts = RunFacts(profile, family, guidance, cost, has_runner, limit)
        return cls(resolve(plan, facts), facts, seed=seed, agree=agree)

    @property
    def report(self) -> Report:
        return self.writer.report

    @property
    def profile(self) -> SamplerProfile:
        return self.context.profile

    @property
    def needs_store(self) -> bool:
        """Tell whether any step needs residuals per block."""
        return any(0.0 < b < 1.0 for b in self.budgets) or (self.context.mode.per_block and min(self.budgets) < 1.0)

    def store_bytes(self, rows: int, tokens: int, dim: int, blocks: int, dtype: torch.dtype, latent_bytes: int) -> int:
        """Return the bytes that the run will allocate for `rows` rows in total, by its first cache policy.

        latent_bytes: those of one row's latents, as they are sampled.
        """
        total, mode = 0, self.context.mode
        if self.needs_store:
            size = StoreSize(blocks * mode.slots, rows, tokens, dim)
            total += size.bytes(self.context.cache.ladder()[0], dtype)
            if mode.per_block:
                total += 2 * blocks * rows * tokens * 4
            else:
                total += rows * tokens * (dim * dtype.itemsize + 4) + mode.token_estimator.state_bytes(rows, tokens)
        if min(self.budgets) == 0.0 and not mode.per_block:
            kept = min(2, sum(b > 0.0 for b in self.budgets))
            if mode.corrects:
                kept += self.profile.memory
            total += kept * rows * latent_bytes
        return total

    def on_step(self, step: int) -> None:
        """Take the sampler's report that the first call of this step is done."""
        with self._lock:
            self._tracker.on_step(step)

    def begin_call(self, request: CallRequest) -> ModelCall:
        """Decide what a model call computes; the caller runs the model through it and then ends it."""
        with self._lock:
            if self._finished:  # another device's call ended the run by an error: nothing may be kept any more
                return ModelCall(self.context, self._info(request, 0, ()))
            positions = [self._tracker.locate(group.key, request.sigma) for group in request.groups]
            step = positions[0].step if positions else self.profile.step_of(request.sigma)
            self._begin_step(step)
            conds = tuple(map(self._cond_rows, request.groups, positions))
            return self._new_call(step, request, conds)

    def _cond_rows(self, group: RowGroup, position: CallPosition) -> CondRows:
        return CondRows(group, self.states.get((group.key, position.ordinal), group.count), position.call)

    def _begin_step(self, step: int) -> None:
        """Begin the step of a call, unless it is begun; drop the state of conditionings that went out of use."""
        if step == self._step:
            return
        if self._store_failed:
            self._continue_without_store(step)
        if step < self._step - 1:
            self.states.clear()  # noise was added back: nothing kept fits any more
        self.states.begin_step()
        self._counts.begin_step()
        self._step = step

    def _new_call(self, step: int, request: CallRequest, conds: tuple[CondRows, ...]) -> ModelCall:
        context, budget, video = self.context, self.budgets[step], request.layout.video
        if request.full_reason:
            return ModelCall(context, self._info(request, step, conds, request.full_reason))
        reason = self._full_reason(budget, request.layout.total, conds)
        if reason or budget >= 1.0:
            return self._full_call(step, request, conds, reason)
        if budget == 0.0:
            info = self._info(request, step, conds, keeps_prediction=False)
            return PaperReuseCall(context, info) if context.mode.per_block else ReuseCall(context, info)
        count = self._counts.count(budget, video)
        if count >= video:
            return self._full_call(step, request, conds, "")
        info = self._info(request, step, conds)
        return (PaperTokenCall if context.mode.per_block else TokenCall)(context, info, count)

    def _full_reason(self, budget: float, tokens: int, conds: tuple[CondRows, ...]) -> str:
        """Return why a call below budget 1 must be computed in full; "" if it need not."""
        if budget >= 1.0:
            return ""
        if budget == 0.0 and not self.context.mode.per_block:
            return "" if all(cond.state.history for cond in conds) else NOTHING_KEPT
        stores = [cond.state.kept.store if cond.state.kept is not None else None for cond in conds]
        if None in stores:
            return NOTHING_KEPT
        same = all(store is not None and store.size.tokens == tokens for store in stores)
        return "" if same else TOKENS_CHANGED

    def _full_call(self, step: int, request: CallRequest, conds: tuple[CondRows, ...], reason: str) -> ModelCall:
        context, info = self.context, self._info(request, step, conds, reason)
        if not self.settings.is_full:
            if context.mode.per_block and min(self.budgets[step:]) < 1.0:
                return PaperFullCall(context, info)
            if not context.mode.per_block and self._token_step_follows(step):
                return RecordingCall(context, info)
            for cond in conds:
                cond.state.invalidate()
        return ModelCall(context, info)

    def _info(
        self,
        request: CallRequest,
        step: int,
        conds: tuple[CondRows, ...],
        reason: str = "",
        keeps_prediction: bool | None = None,
    ) -> CallInfo:
        """Complete a request. keeps_prediction: by default, true if a later step of the run is skipped."""
        if keeps_prediction is None:
            keeps_prediction = bool(conds) and self._skipped_step_follows(step) and not self.context.mode.per_block
        return CallInfo(
            **vars(request),
            step=step,
            conds=conds,
            started=DeviceTimer(request.device).mark(),
            reason=reason,
            keeps_prediction=keeps_prediction,
        )

    def _token_step_follows(self, step: int) -> bool:
        """Tell whether the next step that is not skipped computes a part of the tokens, from what this one keeps."""
        if 0.0 < self.budgets[step] < 1.0:
            return True
        following = next((b for b in self.budgets[step + 1 :] if b > 0.0), 1.0)
        return following < 1.0

    def _skipped_step_follows(self, step: int) -> bool:
        return min(self.budgets[step:]) == 0.0

    def _continue_without_store(self, step: int) -> None:
        """Replan from `step` on without partial steps, at about the same mean budget; in mode `paper`, in full."""
        self._store_failed = False
        if self.context.mode.per_block:
            self.budgets[step:] = [1.0] * (self.profile.steps - step)
        else:
            if not self._skipped_step_follows(self._step):
                self.budgets[step] = 1.0  # no prediction was kept so far
            self.budgets = without_partial_steps(self.budgets, self.profile.calls_per_step, step)
        for state in self.states:
            state.release_store()

    def end_call(self, call: ModelCall, prediction: Tensor, answered: bool = False) -> Tensor:
        """End a call with its prediction, the denoised latents `[B, …]`; returns what the sampler is to get.

        answered: another pack has answered in the model's place.
        """
        with self._lock:
            if self._finished:  # another device's call ended the run by an error
                return prediction
            result = call.end(prediction)
            timer = DeviceTimer(prediction.device)
            record = call.record(self.budgets[call.info.step], answered)
            self.writer.add(record, timer.between(call.info.started, timer.mark()))
            self.writer.cache(self.states.nbytes, self.states.cache_policy)
            self._take_notes(call)
            return result

    def _take_notes(self, call: ModelCall) -> None:
        """Write down a call's remarks. If nothing can be kept per block, all from the next step on is planned anew."""
        for note in call.notes:
            self.writer.note(note)
        if call.store_failure:
            instead = "everything is computed" if self.context.mode.per_block else "whole steps are skipped"
            self.writer.note(f"{instead} instead of tokens: {call.store_failure}")
            self.writer.withdraw_expectation()
            self._store_failed = True

    def finish(self) -> Report:
        """Resolve the durations, drop everything kept, return the report."""
        with self._lock:
            self._finished = True
            self.states.clear()
            return self.writer.finish(self._tracker.steps_without_call, self._tracker.levels_differ)
