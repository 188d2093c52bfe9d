"""State kept between steps for the rows of one conditioning. All of it ends with the run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..correction import Corrections
from .residual_store import CachePolicy, ResidualStore, StoreSize, allocate, alone


@dataclass
class TokenState:
    """State that a token step continues from.

    inputs: the first block's input when each token was last computed, `[rows, N, dim]`; ages: token steps
    since then in which it was not selected, `[rows, N]`; estimator_state: what the token estimator keeps.
    """

    store: ResidualStore
    inputs: Tensor
    ages: Tensor
    estimator_state: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        yield from (t for t in (self.inputs, self.ages, self.estimator_state) if t is not None)


@dataclass
class BlockState:
    """State that a token step of mode `paper` continues from.

    By block: lse (mean of heads) and ages `[rows, N]`; other_streams: see `BlockCall`, of these rows.
    """

    store: ResidualStore
    lse: dict[int, Tensor] = field(default_factory=dict)
    ages: dict[int, Tensor] = field(default_factory=dict)
    other_streams: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        yield from (*self.lse.values(), *self.ages.values())
        for streams in self.other_streams.values():
            yield from streams.values()


class CondState:
    """State of one conditioning's rows: for token steps, for forecasts, and for corrections.

    history: the newest computed predictions `(sigma, prediction)`, newest first, at most two.
    """

    def __init__(self, rows: int):
        self.rows = rows
        self.last_used = 0  # step count of the run when it was last part of a call
        self.tokens: TokenState | None = None
        self.blocks: BlockState | None = None
        self.history: list[tuple[float, Tensor]] = []
        self.corrections = Corrections()
        self._history_step = -1  # step of the newest entry
        self._free_store: ResidualStore | None = None  # memory of a store whose content is no longer valid

    @property
    def kept(self) -> TokenState | BlockState | None:
        return self.tokens or self.blocks

    @property
    def store(self) -> ResidualStore | None:
        return self.kept.store if self.kept is not None else self._free_store

    def keep(self, kept: TokenState | BlockState) -> None:
        """Keep what later token steps continue from."""
        self.tokens = kept if isinstance(kept, TokenState) else None
        self.blocks = kept if isinstance(kept, BlockState) else None

    def invalidate(self) -> None:
        """Discard what was kept for token steps, but not its memory: the next `new_store` takes it."""
        self._free_store, self.tokens, self.blocks = self.store, None, None

    def release_store(self) -> None:
        """Free the memory that was kept for token steps."""
        self._free_store = self.tokens = self.blocks = None

    def new_store(
        self,
        size: StoreSize,
        cache: CachePolicy,
        dtype: torch.dtype,
        device: torch.device,
        agree: Callable[[int], int] = alone,
    ) -> tuple[ResidualStore | None, str]:
        """Return a store of this size, the free one if it fits, or None; and why its policy is not the first, or "".

        agree: see `allocate`.
        """
        self.invalidate()
        free, self._free_store = self._free_store, None
        if free is not None and free.size == size and free.dtype == dtype:
            return free, ""
        return allocate(size, cache.ladder(), dtype, device, agree)

    def push_prediction(self, sigma: float, prediction: Tensor, step: int) -> None:
        """Add a prediction `[rows, …]` to the history; a second one of a step replaces the first.

        Two of one step have close noise levels: in a line through them the sampler's own noise would set the slope.
        """
        older = self.history[1:] if step == self._history_step else self.history[:1]
        self.history, self._history_step = [(sigma, prediction), *older], step

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor held."""
        loose = [prediction for _, prediction in self.history]
        loose += self.corrections.tensors()
        if self.kept is not None:
            loose += self.kept.tensors()
        return sum(t.numel() * t.element_size() for t in loose) + (self.store.nbytes if self.store is not None else 0)


class CondStates:
    """The states of all conditionings of a run, by key."""

    def __init__(self) -> None:
        self._states: dict[Hashable, CondState] = {}
        self._steps = 0

    def begin_step(self) -> None:
        """Drop the states that no call of the last two steps used (of a context window that moved on)."""
        self._states = {key: state for key, state in self._states.items() if state.last_used >= self._steps - 1}
        self._steps += 1

    def get(self, key: Hashable, rows: int) -> CondState:
        """Return the state of a conditioning; a new one for an unknown key or another number of rows."""
        state = self._states.get(key)
        if state is None or state.rows != rows:
            state = self._states[key] = CondState(rows)
        state.last_used = self._steps
        return state

    def clear(self) -> None:
        self._states.clear()

    def __iter__(self) -> Iterator[CondState]:
        return iter(self._states.values())

    def __len__(self) -> int:
        return len(self._states)

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self)

    @property
    def cache_policy(self) -> str:
        """Policy of the newest store; "" where there is none."""
        return next((state.store.policy for state in reversed(self._states.values()) if state.store is not None), "")
