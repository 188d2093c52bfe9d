"""One sampler call, from its first sigma to its last: which call computes what, and what it remembers."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schedules import Schedule, budgets_for, flow_sigmas, forecast_for, steps_as_fine, whole_steps, without_fractions
from .call_tracker import CallTracker, Place
from .calls.base import Call, FullCall, ReuseCall, TokenCall
from .calls.paper import PaperFullCall, PaperTokenCall
from .cond_state import Branch
from .cost import BlockCost, budget_for_speedup
from .device_timer import Clock
from .estimators import TIMES, Curves, Trial
from .interface import Attend, BlockRunner, RowGroup, TokenLayout
from .plan import Plan
from .report import Report
from .report_writer import RunRecords
from .residual_store import StoreSize
from .sampler_profile import SIGMA_TOLERANCE, SamplerProfile
from .selection import selected_count

FEW_STEPS = 8
USUAL_STEPS = 30
LEVELS_DIFFER = "the model was given other noise levels than the sampler's: steps were counted by the sampler"
NOTHING_KEPT = "nothing had been kept for their conditioning"


@dataclass(frozen=True)
class CallSite:
    """What the host knows about a model call.

    why_full: a reason to run it in full whatever the schedule says, or "".
    """

    sigma: float
    groups: tuple[RowGroup, ...]
    layout: TokenLayout
    runner: BlockRunner
    attend: Attend
    blocks: int
    device: torch.device
    why_full: str = ""

    @property
    def rows(self) -> int:
        return sum(group.count for group in self.groups)


class Run:
    """Mutable state of one sampler call; dropped when it ends. Calls may come from one thread per device.

    sigmas: the sampler's noise levels including the last one. profile: how the sampler goes about them, by default
    with one call a step and Euler's weights. cost: sizes of one block, needed for a target speed-up and for the ideal
    figure in the report. guidance: its scale where the host tells.
    """

    def __init__(
        self,
        plan: Plan,
        sigmas: Sequence[float],
        *,
        profile: SamplerProfile | None = None,
        cost: BlockCost | None = None,
        family: str = "",
        seed: int = 0,
        guidance: float | None = None,
    ):
        self.profile = profile or SamplerProfile.of([float(s) for s in sigmas])
        self.sigmas, self.steps = list(self.profile.levels), self.profile.steps
        self.evaluations = list(self.profile.evaluations)
        self.plan = plan.for_run(steps_as_fine(plan.schedule, self.sigmas), guidance)
        self.seed = seed
        self.branches: dict[Hashable, Branch] = {}
        self.budgets = self._plan_budgets(cost)
        self.forecast = forecast_for(self.plan.schedule, self.sigmas, self.budgets, guidance)
        self.curves = Curves(TIMES[self.forecast.along], TIMES[self.forecast.corrected_along], self.forecast.bend)
        self.trial = self._new_trial()
        self.report = self._new_report(cost, family, plan.budget)
        promise, self.report.promise_note = self.plan.promise_for(self.budgets, guidance)
        self.report.promise = promise.as_dict() if promise is not None else None
        self._records = RunRecords(self.report, self.sigmas, self.evaluations, self._spends_whole_steps)
        self._tracker = CallTracker(self.profile)
        self._lock = threading.RLock()
        self._finished = self._gives_up_store = False
        self._last_step = -1
        self._visits = 0
        self._owed = 0.0
        self._counts: dict[int, int] = {}

    def _new_trial(self) -> Trial:
        return Trial(self.forecast.expected, self.curves.along)

    def _plan_budgets(self, cost: BlockCost | None) -> list[float]:
        plan = self.plan
        if self.is_full:
            return [1.0] * self.steps

        def at(mean: float | None) -> list[float]:
            schedule = plan.schedule
            if self._places_evenly:
                mean = schedule.mean_budget if mean is None else mean
                schedule = self._evenly_placed(mean)
            budgets = budgets_for(schedule, self.sigmas, evaluations=self.evaluations, mean=mean)
            return budgets if plan.cache.name != "none" else without_fractions(budgets, self.evaluations)

        if plan.target_speedup is not None and cost is not None:
            return at(budget_for_speedup(plan.target_speedup, cost, at, self.evaluations))
        return at(plan.budget)

    @property
    def _places_evenly(self) -> bool:
        """Whether full steps are spread evenly instead of where the automatically chosen schedule puts them.

        That placement relies on corrections, and was found on the host's noise levels, not on a sampler's own.
        """
        chosen = bool(self.plan.choice) and not self.plan.schedule.has_fractions
        known = self.profile.solver is not None and not self.profile.own_levels
        return chosen and self.plan.mode.corrects and not known

    def _evenly_placed(self, mean: float) -> Schedule:
        return whole_steps("even", max(2, round(1.0 / mean)), flow_sigmas(USUAL_STEPS))

    def _new_report(self, cost: BlockCost | None, family: str, budget: float | None) -> Report:
        plan = self.plan
        weighted = sum(b * w for b, w in zip(self.budgets, self.evaluations, strict=True))
        planned = weighted / max(1, sum(self.evaluations))
        asked = plan.schedule.mean_budget if budget is None else budget
        report = Report(
            schedule=plan.schedule.name,
            choice=plan.choice,
            mode=plan.mode.name,
            family=family,
            steps=self.steps,
            asked_budget=asked if plan.target_speedup is None else planned,
            target_speedup=plan.target_speedup,
            ideal_speedup=cost.speedup(self.budgets, self.evaluations) if cost is not None else 1.0,
        )
        report.note(self.profile.full_reason)
        if self.forecast != plan.schedule.forecast and not self.is_full:
            found_on = "finer steps or with milder guidance than these"
            report.note(f"'{plan.schedule.name}' was found on {found_on}: forecasts are made in the standard way")
        if self.is_full:
            return report
        if self.steps <= FEW_STEPS:
            report.note(f"a run of {self.steps} steps leaves little to reuse: gains are small")
        if plan.mode.corrects and min(self.budgets) == 0.0:
            report.note(self.profile.uncorrected_reason)
        return report

    @property
    def is_full(self) -> bool:
        """Whether every step is to be computed in full."""
        return self.plan.is_full or bool(self.profile.full_reason)

    @property
    def _spends_whole_steps(self) -> bool:
        """Whether a budget was asked for that is spent on whole steps alone, which rarely come to just as much."""
        return not self.is_full and self.plan.target_speedup is None and set(self.budgets) == {0.0, 1.0}

    def seed_of(self, step: int) -> int:
        """For what is drawn by chance at a step."""
        return (self.seed * 1_000_003 + step) % 2**63

    @property
    def needs_store(self) -> bool:
        """Whether any step needs residuals per block."""
        return any(0.0 < b < 1.0 for b in self.budgets) or (self.plan.mode.per_block and min(self.budgets) < 1.0)

    def store_bytes(self, rows: int, tokens: int, dim: int, blocks: int, dtype: torch.dtype, latent_bytes: int) -> int:
        """Bytes that the run will allocate for all its branches (`rows` in total), by its first cache policy.

        latent_bytes: those of one row's latents, as they are sampled.
        """
        total = 0
        if self.needs_store:
            size = StoreSize(blocks * self.plan.mode.stores_per_block, rows, tokens, dim)
            total += size.bytes(self.plan.cache.ladder()[0], dtype)
            if self.plan.mode.per_block:
                total += 2 * blocks * rows * tokens * 4
            else:
                total += rows * tokens * (dim * dtype.itemsize + 4)
            if self.plan.mode.token_estimator == "forecast":
                total += 2 * rows * tokens * 4
        if min(self.budgets) == 0.0 and not self.plan.mode.per_block:
            kept = min(2, sum(b > 0.0 for b in self.budgets))
            if self.plan.mode.corrects:
                kept += self.profile.memory
            total += kept * rows * latent_bytes
        return total

    def ends_at(self, step: int) -> bool:
        """Whether the sampler takes the prediction of this step for the result."""
        return step == self.steps - 1 and self.sigmas[-1] <= SIGMA_TOLERANCE

    def on_step(self, step: int) -> None:
        """The sampler has reported that the first call of this step is done."""
        with self._lock:
            self._tracker.on_step(step)

    def open_call(self, site: CallSite) -> Call:
        """Decide what a model call computes; the caller runs the model through it and then closes it."""
        with self._lock:
            if self._finished:  # another device's call ended the run by an error: nothing may be kept any more
                return Call(self, site.sigma, [], [], site.layout, site.runner, site.attend, site.blocks)
            places = [self._tracker.locate(group.key, site.sigma) for group in site.groups]
            step = places[0].step if places else self.profile.step_of(site.sigma)
            self._visit(step)
            pairs = [(group, self._branch(group, place)) for group, place in zip(site.groups, places, strict=True)]
            common = (self, site.sigma, places, pairs, site.layout, site.runner, site.attend, site.blocks)
            call, reason = self._make_call(step, site, pairs, common)
            call.step, call.reason = step, reason
            call.keeps_denoised = self._reuse_follows(step) and not self.plan.mode.per_block and call.kind != "reuse"
        call.start = Clock(site.device).mark()
        return call

    def _visit(self, step: int) -> None:
        """Forget what cannot be continued when a call belongs to another step than the one before."""
        if step == self._last_step:
            return
        if self._gives_up_store:
            self._go_on_without_store(step)
        if step < self._last_step - 1:
            self.branches.clear()  # noise was added back: nothing kept fits any more
            self.trial = self._new_trial()
        # A conditioning that two steps in a row went without (a window that moved on) would only hold memory.
        self.branches = {key: b for key, b in self.branches.items() if b.last_visit >= self._visits - 1}
        self._counts = {}
        self._visits += 1
        self._last_step = step

    def _branch(self, group: RowGroup, place: Place) -> Branch:
        key = (group.key, place.ordinal)
        branch = self.branches.get(key)
        if branch is None or branch.rows != group.count:
            branch = self.branches[key] = Branch(group.count)
        branch.last_visit = self._visits
        return branch

    def _make_call(self, step: int, site: CallSite, pairs: list, common: tuple) -> tuple[Call, str]:
        budget, per_block = self.budgets[step], self.plan.mode.per_block
        if site.why_full:
            return Call(*common), site.why_full
        if budget >= 1.0:
            return self._full_call(step, pairs, common), ""
        if budget == 0.0 and not per_block:
            if all(branch.denoised for _, branch in pairs):
                return ReuseCall(*common), ""
            return self._full_call(step, pairs, common), NOTHING_KEPT
        kept = [branch.kept for _, branch in pairs]
        if any(entry is None for entry in kept):
            return self._full_call(step, pairs, common), NOTHING_KEPT
        if any(entry is not None and entry.store.size.tokens != site.layout.total for entry in kept):
            return self._full_call(step, pairs, common), "the number of tokens changed"
        if budget == 0.0:
            return PaperTokenCall(*common, count=0), ""
        count = self._count(budget, site.layout.video)
        if count >= site.layout.video:
            return self._full_call(step, pairs, common), ""
        return (PaperTokenCall if per_block else TokenCall)(*common, count=count), ""

    def _count(self, budget: float, video: int) -> int:
        """How many tokens a call computes: the same for all calls of a step.

        The change of the input is the same for all conditionings. Given the same count they choose the same tokens,
        and guidance, which blows up what differs between them, finds no difference that the choice has made.
        """
        if video not in self._counts:
            self._counts[video] = selected_count(budget, video, self._owed)
            self._owed += budget * video - self._counts[video]
        return self._counts[video]

    def _full_call(self, step: int, pairs: list, common: tuple) -> Call:
        if self.is_full:
            return Call(*common)
        if self.plan.mode.per_block and min(self.budgets[step:]) < 1.0:
            return PaperFullCall(*common)
        if not self.plan.mode.per_block and self._store_follows(step):
            return FullCall(*common)
        for _, branch in pairs:
            branch.outdate()
        return Call(*common)

    def _store_follows(self, step: int) -> bool:
        """Whether the next computed step reads what this one keeps per block."""
        if 0.0 < self.budgets[step] < 1.0:
            return True
        following = next((b for b in self.budgets[step + 1 :] if b > 0.0), 1.0)
        return following < 1.0

    def _reuse_follows(self, step: int) -> bool:
        return min(self.budgets[step:]) == 0.0

    def give_up_store(self, reason: str) -> None:
        """Nothing can be kept per block: go on with full and reuse steps at about the same mean; mode paper, in full.

        From the next step on: all calls of a step do alike, in whatever order they come.
        """
        with self._lock:
            instead = "everything is computed" if self.plan.mode.per_block else "whole steps are reused"
            self.report.note(f"{instead} instead of tokens: {reason}")
            self.report.promise = None
            self._gives_up_store = True

    def _go_on_without_store(self, step: int) -> None:
        self._gives_up_store = False
        if self.plan.mode.per_block:
            self.budgets[step:] = [1.0] * (self.steps - step)
        else:
            if not self._reuse_follows(self._last_step):
                self.budgets[step] = 1.0  # no prediction was kept so far
            self.budgets = without_fractions(self.budgets, self.evaluations, step)
        for branch in self.branches.values():
            branch.drop_store()

    def close_call(self, call: Call, denoised: Tensor) -> Tensor:
        """The call is over and this is its prediction, the denoised latents `[B, …]`; returns what to go on with."""
        with self._lock:
            if self._finished:  # another device's call ended the run by an error
                return denoised
            result = call.close(denoised)
            self._records.add(call, self.budgets[call.step], denoised.device)
            kept = sum(branch.nbytes for branch in self.branches.values())
            self.report.cache_bytes = max(self.report.cache_bytes, kept)
            stores = [branch.store.policy for branch in self.branches.values() if branch.store is not None]
            self.report.cache_policy = stores[-1] if stores else "whole steps" if kept else "none"
            return result

    def finish(self) -> Report:
        """Resolve the durations, drop everything kept, return the report."""
        with self._lock:
            self._finished = True
            self.branches.clear()
            self.trial = self._new_trial()
            if self._tracker.levels_differ and not self.is_full:
                self.report.note(LEVELS_DIFFER)
            self._records.finish(self._tracker.without_call)
            return self.report
