"""What is remembered for the rows of one conditioning between steps."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from .store import ResidualStore, StoreSize, allocate

BranchKey = Hashable


class Branch:
    """State of one conditioning's rows. Everything here dies with the run."""

    def __init__(self, rows: int):
        self.rows = rows
        self.last_visit = 0  # the run's count of steps when it was last part of a call
        self.store: ResidualStore | None = None
        self.store_valid = False
        self.no_store = ""  # why there is none, once an allocation has failed or is switched off
        self.reference: Tensor | None = None  # first block's input when each token was last computed
        self.ages: Tensor | None = None  # steps since then, [rows, N]
        self.computed_at: Tensor | None = None  # sigma of each token's last two computations, [2, rows, N]
        self.totals: list[tuple[float, Tensor]] = []  # the stack's total residuals, newest first
        self.block_lse: dict[int, Tensor] = {}  # mode `paper`: mean over heads, [rows, N]
        self.block_ages: dict[int, Tensor] = {}

    def prepare_store(
        self, size: StoreSize, ladder: tuple[str, ...], dtype: torch.dtype, device: torch.device
    ) -> str:
        """Make sure of a store of this size if there can be one; returns why it is not the first choice."""
        if self.store is not None and self.store.size == size and self.store.dtype == dtype:
            return ""
        self.drop_store()
        self.store, reason = allocate(size, ladder, dtype, device)
        if self.store is None:
            self.no_store = reason
        return reason

    def drop_store(self) -> None:
        self.store, self.store_valid, self.reference, self.ages, self.computed_at = None, False, None, None, None
        self.block_lse.clear()
        self.block_ages.clear()

    def keep_total(self, sigma: float, total: Tensor) -> None:
        """Remember the stack's total residual; a second one at the same noise level replaces the first."""
        older = [entry for entry in self.totals if abs(entry[0] - sigma) > 1e-6]
        self.totals = [(sigma, total), *older[:1]]

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor held."""
        kept = [self.reference, self.ages, self.computed_at, *(total for _, total in self.totals)]
        kept += [*self.block_lse.values(), *self.block_ages.values()]
        loose = sum(t.numel() * t.element_size() for t in kept if t is not None)
        return loose + (self.store.nbytes if self.store is not None else 0)
