"""Records a run's latents and predictions at a sample of their values. Knows nothing of budgets or losses."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import torch
from torch import Tensor

from ...engine.blocks.interface import RowGroup
from ...errors import SearchError

PARTIAL = (
    "a conditioning covers only a part of the latents (an area, or context windows): a search needs conditionings for "
    "the whole video"
)


def choose_sample_indices(sampled: Tensor, limit: int) -> Tensor:
    """Choose the indices `[D]` of values to keep: up to `limit` in the mask `sampled`, the same at every call."""
    candidates = sampled.reshape(-1).nonzero()[:, 0]
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))
    return candidates[order[:limit]].sort().values


class Recorder:
    """Recording of a run, filled by `on_model_call` and `on_step`.

    elements: number of values of the latents `[B, C, T, H, W]`; sample_indices `[D]`: of the values to keep.
    guided: by step, the guided prediction that the sampler got, `[D]` on the CPU.
    """

    def __init__(self, sample_indices: Tensor, elements: int):
        self._sample_indices, self._elements = sample_indices, elements
        self._latents: dict[int, Tensor] = {}
        self._predictions: dict[int, dict[Hashable, Tensor]] = {}
        self._order: dict[Hashable, int] = {}
        self.guided: dict[int, Tensor] = {}

    def on_model_call(self, step: int, x: Tensor, denoised: Tensor, groups: tuple[RowGroup, ...]) -> None:
        """Record a call's input and prediction `[B, C, T, H, W]`; of a conditioning's calls in a step the first counts.

        Samples stay on the device until the sampler has made its step, so that no call waits for a copy.
        """
        if not groups:
            raise SearchError("ComfyUI does not say which conditionings a model call holds; a search needs that.")
        kept = self._predictions.setdefault(step, {})
        for group in groups:
            if group.key in kept:
                continue
            self._order.setdefault(group.key, len(self._order))
            if step not in self._latents:
                self._latents[step] = self.sampled(x[group.rows])
            kept[group.key] = self.sampled(denoised[group.rows])

    def on_step(self, step: int, denoised: Tensor) -> None:
        """Record the guided prediction `[B, C, T, H, W]` of a step that the sampler has made."""
        self.guided[step] = self.sampled(denoised).cpu()
        for done in [recorded for recorded in self._latents if recorded <= step]:
            self._latents[done] = self._latents[done].cpu()
            self._predictions[done] = {key: value.cpu() for key, value in self._predictions[done].items()}

    def sampled(self, latents: Tensor) -> Tensor:
        """Return the values to keep, `[D]` in fp32 on the latents' device."""
        if latents.numel() != self._elements:
            raise SearchError(f"This cannot be searched: {PARTIAL}.")
        if self._sample_indices.device != latents.device:
            self._sample_indices = self._sample_indices.to(latents.device)
        return latents.reshape(-1)[self._sample_indices].float()

    def latents(self, step: int) -> Tensor | None:
        """Return the model's input at a step, `[D]`; None if it was not called."""
        found = self._latents.get(step)
        return found.cpu() if found is not None else None

    def predictions(self, step: int) -> Tensor | None:
        """Return predictions of each conditioning at a step, `[G, D]`, 0 for a missing one; None if none was computed.

        Positive ones come first, then in the order they were first seen, which unlike ids is the same in all runs.
        """
        found = self._predictions.get(step)
        if found is None:
            return None
        keys = sorted(self._order, key=lambda key: (cast(tuple, key)[1], self._order[key]))
        blank = torch.zeros(len(next(iter(found.values()))))
        return torch.stack([found[key].cpu() if key in found else blank for key in keys])
