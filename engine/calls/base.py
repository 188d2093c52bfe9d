"""The base of all model calls: the model runs as the host wrote it, and its prediction is kept and corrected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..blocks.interface import BlockCall, BlockRunner
from ..estimators import ComputedPrediction
from ..report import ANSWERED, FULL, CallRecord
from ..sampler.solver import Solver
from .context import CallInfo, CondRows, RunContext

EXTERNALLY_PATCHED = "another node has replaced its forward"
CAPTURED = "ComfyUI records it as a CUDA graph"
RUN_AGAIN = "another node runs the model several times in one call"


class ModelCall:
    """One model call, constructed when it begins and dropped when it ends.

    kind: one of `engine.report.KINDS`; runs_blocks: `run_block` runs the model's blocks, which else run untouched.
    notes: remarks for the report; store_failure: why nothing can be kept per block, or "".
    """

    kind = FULL
    runs_blocks = False

    def __init__(self, context: RunContext, info: CallInfo, tokens: int | None = None):
        """tokens: video tokens per row to compute; default all."""
        self.context, self.info = context, info
        self.tokens = info.layout.video if tokens is None else tokens
        self.blocks_run = self.blocks_full = 0  # blocks that ran; of these, blocks that had to run for all tokens
        self.blocks_full_reason = ""
        self._blocks_seen: set[int] = set()
        self.notes: list[str] = []
        self.store_failure = ""

    @property
    def runner(self) -> BlockRunner:
        assert self.info.runner is not None, "a model without a runner has no blocks to run"
        return self.info.runner

    def run_block(self, call: BlockCall) -> Any:
        """Run a block in this call's way; returns what the block would return."""
        if call.index in self._blocks_seen:
            return self._run_again(call)
        self._blocks_seen.add(call.index)
        hidden = self.runner.entry(call)
        self.blocks_run += 1
        if self.blocks_run == 1:
            with self.info.allocating():
                self.begin(hidden)
        result = self.forward(call, hidden)
        if self.blocks_run == self.info.blocks:
            with self.info.allocating():
                self.end_blocks()
        return result

    def _run_again(self, call: BlockCall) -> Any:
        """Run a block that has run before in this call: as it is, since its input is another one.

        What was kept of the first input is no ground for later calls, whose order of inputs nobody knows.
        """
        self.blocks_run += 1
        self.blocks_full += 1
        self.blocks_full_reason = self.store_failure = RUN_AGAIN
        return call.run()

    def run_captured(self, call: BlockCall) -> Any:
        """Run a block as it is, because the host records it as a CUDA graph: replays in later calls repeat all of it.

        Replays do not come here, so what was kept per block is no longer brought up to date, and discarded.
        """
        self.blocks_run += 1
        if self.kind != FULL:
            self.blocks_full += 1
            self.blocks_full_reason = CAPTURED
        for cond in self.info.conds:
            cond.state.invalidate()
        return call.run()

    def begin(self, hidden: Tensor) -> None:
        """Prepare with the first block's input `[B, N, dim]`; what this allocates may outlive the model's forward."""

    def end_blocks(self) -> None:
        """Drop, after the last block, what the blocks shared: the model's own tensors may be among it."""

    def forward(self, call: BlockCall, hidden: Tensor) -> Any:
        """Run one block, whose hidden states are `[B, N, dim]`."""
        return call.run()

    def full_block_reason(self, call: BlockCall) -> str:
        """Return why a block must run as it is, for all tokens; "" if it need not."""
        return EXTERNALLY_PATCHED if call.externally_patched else self.runner.unsupported_reason(call)

    def pack(self, call: BlockCall, hidden: Tensor, output: Tensor) -> Any:
        """Return what the block would return for `output [B, N, dim]`; blocks that work in place return their input."""
        return self.runner.pack(hidden.copy_(output) if self.runner.in_place else output, call)

    def run_for_all_tokens(self, call: BlockCall, hidden: Tensor, reason: str = "") -> tuple[Any, Tensor, Tensor]:
        """Run a block as it is; returns its result, and the hidden states `[B, N, dim]` before and after it.

        reason: why it had to run so in a token step, for the report.
        """
        if reason:
            self.blocks_full += 1
            self.blocks_full_reason = reason
        before = hidden.clone() if self.runner.in_place else hidden
        result = call.run()
        return result, before, self.runner.exit(result)

    def record(self, budget: float, answered: bool = False) -> CallRecord:
        """Return the report's record of this call, once it is over.

        budget: planned for its step; answered: another pack has answered in the model's place.
        """
        info, reason, kind, computed = self.info, self.info.reason, self.kind, self.tokens
        if answered or (self.runs_blocks and not self.blocks_run):
            kind, reason, computed = ANSWERED, "", 0
        elif self.blocks_full:
            partial = (self.blocks_run - self.blocks_full) * self.tokens
            computed = round((partial + self.blocks_full * info.layout.video) / self.blocks_run)
            kind = FULL if computed >= info.layout.video else kind
            reason = f"{self.blocks_full} of {self.blocks_run} blocks: {self.blocks_full_reason}"
        rows = info.rows
        return CallRecord(info.step, info.sigma, budget, kind, computed * rows, info.layout.video * rows, reason=reason)

    def end(self, prediction: Tensor) -> Tensor:
        """Keep the model's prediction, the denoised latents `[B, …]`; returns the corrected one for the sampler."""
        parts = [prediction[cond.rows] for cond in self.info.conds]
        ended = [self._end_rows(cond, part) for cond, part in zip(self.info.conds, parts, strict=True)]
        if all(result is part for result, part in zip(ended, parts, strict=True)):
            return prediction
        return ended[0] if len(ended) == 1 else torch.cat(ended)

    def _end_rows(self, cond: CondRows, prediction: Tensor) -> Tensor:
        """Keep the prediction of one conditioning; returns the corrected one, itself where there is nothing to correct.

        Kept is what right latents would have led to: later estimates build on it.
        """
        info, state = self.info, cond.state
        known = self._known_call(cond)
        seen = self._seen(cond, prediction, *known) if known is not None else None
        right = prediction if seen is None else seen.right
        correction = None
        if known is not None:
            correction = state.corrections.after_computed(*known, seen.errors if seen is not None else None)
        if info.keeps_prediction:
            # The host may change the returned tensor in place.
            state.push_prediction(self.info.sigma, prediction.clone() if right is prediction else right, info.step)
        return right if correction is None else right + correction.to(right.dtype)

    def _seen(self, cond: CondRows, prediction: Tensor, solver: Solver, call: int) -> ComputedPrediction | None:
        """Return what a computed prediction tells of the skipped ones before it; None where none was skipped."""
        skipped, history = cond.state.corrections.skipped, cond.state.history
        if not skipped or not history:
            return None
        weights = [solver.input_weight(step.call, call) for step in skipped]
        return ComputedPrediction(self.context.prior, history, self.info.sigma, prediction, skipped, weights)

    def _known_call(self, cond: CondRows) -> tuple[Solver, int] | None:
        """Return the solver and the index of this call among the sampler's; None where nothing can be corrected.

        A correction needs the sampler's weights of predictions, and the index to look them up. Without these, or where
        they do not tell enough, what is still to be corrected for the conditioning is forgotten.
        """
        call, solver, mode = cond.sampler_call, self.context.profile.solver, self.context.mode
        if call is None or solver is None or call >= solver.calls or solver.is_steep(call) or not mode.corrects:
            cond.state.corrections.reset()
            return None
        return solver, call
