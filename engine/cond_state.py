"""What is remembered for the rows of one conditioning between steps. Everything here dies with the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .estimators import Estimated
from .residual_store import ResidualStore, StoreSize, allocate


@dataclass
class KeptTokens:
    """What a token step continues from.

    reference: the first block's input when each token was last computed, `[rows, N, dim]`; ages: steps since then,
    `[rows, N]`; computed_at: sigmas of each token's last two computations, `[2, rows, N]`, for the token forecast only.
    """

    store: ResidualStore
    reference: Tensor
    ages: Tensor
    computed_at: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        yield from (t for t in (self.reference, self.ages, self.computed_at) if t is not None)


@dataclass
class KeptBlocks:
    """What a token step of mode `paper` continues from: per block log-sum-exp (head mean) and ages, `[rows, N]`."""

    store: ResidualStore
    lse: dict[int, Tensor] = field(default_factory=dict)
    ages: dict[int, Tensor] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        yield from (*self.lse.values(), *self.ages.values())


class Branch:
    """State of one conditioning's rows: what token steps need, and the predictions that reuse steps need."""

    def __init__(self, rows: int):
        self.rows = rows
        self.last_visit = 0  # the run's count of steps when it was last part of a call
        self.tokens: KeptTokens | None = None
        self.blocks: KeptBlocks | None = None
        self.denoised: list[tuple[float, Tensor]] = []  # predictions at these sigmas; newest first, at most two
        self.newest_step = -1  # of the first of them
        self.gap: list[Estimated] = []  # reuse calls since the newest of them
        # Of corrections: by sampler call, how far its prediction was above what is known now, for solvers that use it
        # again; and how far the latents are below, where the newest call could not make up for it.
        self.excess: dict[int, Tensor] = {}
        self.lacking: Tensor | None = None
        self._spare: ResidualStore | None = None  # allocated, but what it holds is out of date

    @property
    def kept(self) -> KeptTokens | KeptBlocks | None:
        return self.tokens or self.blocks

    @property
    def store(self) -> ResidualStore | None:
        return self.kept.store if self.kept is not None else self._spare

    def outdate(self) -> None:
        """What was kept for token steps no longer holds; its memory stays for the next time."""
        self._spare, self.tokens, self.blocks = self.store, None, None

    def drop_store(self) -> None:
        """Token steps will not come: give back the memory that was kept for them."""
        self._spare = self.tokens = self.blocks = None

    def new_store(
        self, size: StoreSize, ladder: tuple[str, ...], dtype: torch.dtype, device: torch.device
    ) -> tuple[ResidualStore | None, str]:
        """A store of this size, the one at hand if it fits; and why it is not the first choice, or not at all."""
        self.outdate()
        spare, self._spare = self._spare, None
        if spare is not None and spare.size == size and spare.dtype == dtype:
            return spare, ""
        return allocate(size, ladder, dtype, device)

    def forget_corrections(self) -> None:
        """Begin corrections anew, as after a call of which it is not known what it adds to the latents."""
        self.gap, self.excess, self.lacking = [], {}, None

    def keep_denoised(self, sigma: float, denoised: Tensor, step: int) -> None:
        """Remember a prediction `[rows, …]`; a second one of a step replaces the first.

        Two of one step lie too close for a line through them: noise that the sampler adds would set its slope.
        """
        older = self.denoised[1:] if step == self.newest_step else self.denoised[:1]
        self.denoised, self.newest_step = [(sigma, denoised), *older], step

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor held."""
        loose = [prediction for _, prediction in self.denoised]
        loose += self.excess.values()
        if self.lacking is not None:
            loose.append(self.lacking)
        if self.kept is not None:
            loose += self.kept.tensors()
        return sum(t.numel() * t.element_size() for t in loose) + (self.store.nbytes if self.store is not None else 0)
