"""The interface of token estimators, and the registry that finds them by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ...blocks.selection import Selection

ESTIMATORS: dict[str, TokenEstimator] = {}


class TokenEstimator:
    """Estimates the block residuals of tokens that a token step does not compute (stale tokens).

    Each estimate starts from the last computed value and is used once, so that errors do not add up. An estimator
    itself has no state; it keeps the tensor from `begin`, one per conditioning, as long as the residuals are kept. A
    subclass in a module of this folder is registered under its name.

    slots: residuals kept per block, newest first. forecasts, corrects: how the mode of this name treats skipped steps
    (see `engine.planning.modes.Mode`).
    """

    name: ClassVar[str]
    slots: ClassVar[int] = 1
    forecasts: ClassVar[bool] = True
    corrects: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        ESTIMATORS[cls.name] = cls()

    def state_bytes(self, rows: int, tokens: int) -> int:
        """Return the bytes of the tensor from `begin`."""
        return 0

    def begin(self, sigma: float, ages: Tensor, previous: Tensor | None) -> Tensor | None:
        """Return the state after a full step at `sigma`; previous: the one before. ages: `[rows, N]`, as a template."""
        return None

    def weights(self, sigma: float, change: Tensor, selection: Selection, state: Tensor | None) -> Tensor | None:
        """Return weights `[rows, N, 1]` of this step, the same for all blocks; None where the estimate needs none.

        change: RMS change of every token's input since it was last computed, `[rows, N]`.
        """
        return None

    def advance(self, sigma: float, selection: Selection, state: Tensor | None) -> None:
        """Note in `state`, in place, that the selected tokens are computed at `sigma`."""

    def estimate(self, kept: Sequence[Tensor], selection: Selection, fresh: Tensor, weights: Tensor | None) -> Tensor:
        """Return residuals `[rows, N, dim]` of all tokens: a new tensor, or `kept[0]` itself.

        kept: `slots` residuals `[rows, N, dim]`, newest first; fresh: the selected tokens' residuals `[rows, M, dim]`.
        """
        raise NotImplementedError


def estimator_named(name: str) -> TokenEstimator:
    """Return the estimator of that name. Raises KeyError for an unknown one."""
    return ESTIMATORS[name]
