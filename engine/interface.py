"""What the engine asks of an architecture: the interface that `models` implements, and plain data about a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from .selection import Selection

Attend = Callable[..., tuple[Tensor, "Tensor | None"]]
"""attend(q [B,M,H,D], k [B,N,H,D], v [B,N,H,D], *, need_lse) -> out [B,M,H,D], lse [B,H,M] or None."""


@dataclass(frozen=True)
class TokenLayout:
    """Where a call's video tokens lie: `prefix` other tokens, then `video`, then `suffix` others."""

    video: int
    prefix: int = 0
    suffix: int = 0

    @property
    def total(self) -> int:
        return self.prefix + self.video + self.suffix

    @property
    def video_slice(self) -> slice:
        return slice(self.prefix, self.prefix + self.video)


@dataclass(frozen=True)
class RowGroup:
    """The rows of one conditioning within a call, and the key under which its branch is kept."""

    key: Hashable
    rows: slice

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start


class BlockRunner(Protocol):
    """How the blocks of one architecture run for selected rows."""

    family: str

    def entry(self, args: tuple, kwargs: dict) -> Tensor:
        """The hidden state `[B, N, dim]` among a block's arguments."""

    def why_not(self, block: nn.Module, args: tuple, kwargs: dict) -> str:
        """Why this block cannot run for selected rows in this call; "" if it can."""

    def run_rows(
        self,
        block: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        selection: Selection,
        attend: Attend,
        need_lse: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The selected tokens' new residuals `[B, M, dim]` and, if asked, log-sum-exps `[B, M]` (head mean)."""


def unwrap(module: Any) -> Any:
    """Return the module inside torch.compile's wrapper, or the module itself."""
    return getattr(module, "_orig_mod", module)
