"""What one run gave the model and got from it, at a few places of the latents. Knows nothing of budgets or losses."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import torch
from torch import Tensor

from ...engine.blocks.interface import RowGroup
from ...errors import SearchError

PARTIAL = (
    "a conditioning covers a part of the latents only (an area, or context windows): searching needs conditionings for "
    "all of the video at once"
)


def places_of(sampled: Tensor, most: int) -> Tensor:
    """Which of the latents' values are kept, `[D]`: up to `most` in the mask `sampled`, at every call the same ones."""
    candidates = sampled.reshape(-1).nonzero()[:, 0]
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))
    return candidates[order[:most]].sort().values


class Recorder:
    """Filled while a run goes on: by the model's calls through `observe`, by the sampler through `tell`.

    elements: number of values of the latents `[B, C, T, H, W]`; places `[D]`: those to keep.
    told: by step, what the sampler was told, `[D]` on the CPU.
    """

    def __init__(self, places: Tensor, elements: int):
        self._places, self._elements = places, elements
        self._latents: dict[int, Tensor] = {}
        self._predictions: dict[int, dict[Hashable, Tensor]] = {}
        self._order: dict[Hashable, int] = {}
        self.told: dict[int, Tensor] = {}

    def observe(self, step: int, x: Tensor, denoised: Tensor, groups: tuple[RowGroup, ...]) -> None:
        """A computed model call: its input and prediction `[B, C, T, H, W]`. Later evaluations of a step are passed by.

        What is picked stays on the device until the sampler has made its step, so that no call waits for a copy.
        """
        if not groups:
            raise SearchError("The host does not say which conditionings a model call holds; searching needs that.")
        kept = self._predictions.setdefault(step, {})
        for group in groups:
            if group.key in kept:
                continue
            self._order.setdefault(group.key, len(self._order))
            if step not in self._latents:
                self._latents[step] = self.sampled(x[group.rows])
            kept[group.key] = self.sampled(denoised[group.rows])

    def tell(self, step: int, denoised: Tensor) -> None:
        """The sampler was told this, `[B, C, T, H, W]`, and goes on to the next step."""
        self.told[step] = self.sampled(denoised).cpu()
        for done in [known for known in self._latents if known <= step]:
            self._latents[done] = self._latents[done].cpu()
            self._predictions[done] = {key: value.cpu() for key, value in self._predictions[done].items()}

    def sampled(self, latents: Tensor) -> Tensor:
        """The kept values `[D]` in fp32, on the latents' device."""
        if latents.numel() != self._elements:
            raise SearchError(f"This cannot be searched: {PARTIAL}.")
        if self._places.device != latents.device:
            self._places = self._places.to(latents.device)
        return latents.reshape(-1)[self._places].float()

    def latents(self, step: int) -> Tensor | None:
        """What the model was given at a step, `[D]`; None where it was not asked."""
        found = self._latents.get(step)
        return found.cpu() if found is not None else None

    def predictions(self, step: int) -> Tensor | None:
        """Of each conditioning at a step, `[G, D]`, 0 for those that do not hold at it; None where none was computed.

        Positive ones come first, then by when they first were seen: ids are new in every run, this order is not.
        """
        found = self._predictions.get(step)
        if found is None:
            return None
        keys = sorted(self._order, key=lambda key: (cast(tuple, key)[1], self._order[key]))
        blank = torch.zeros(len(next(iter(found.values()))))
        return torch.stack([found[key].cpu() if key in found else blank for key in keys])
