"""The interface between the engine and an architecture: plain data about a model call, and what `models` implements."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from .selection import Selection

Attend = Callable[..., tuple[Tensor, "Tensor | None"]]
"""attend(q [B,M,H,D], k [B,N,H,D], v [B,N,H,D], *, need_lse, mask) -> out [B,M,H,D], lse [B,H,M] or None.

mask [1 or B, 1 or M, N]: true for keys that count, or numbers that are added to the scores; None: all keys count.
A layer that asks for an attention of its own passes it on as `preferred`."""


@dataclass(frozen=True)
class TokenLayout:
    """Counts of a call's tokens, in their order: `prefix` others (text, reference frames), `video`, `suffix` others.

    grid: frames, rows and columns of the video's tokens, in this order; None where they lie on none, or it is not
    known. joins_behind: rows of another stream that join them in attention lie behind them.
    """

    video: int
    prefix: int = 0
    suffix: int = 0
    grid: tuple[int, int, int] | None = field(default=None, compare=False)
    joins_behind: bool = field(default=False, compare=False)

    @property
    def total(self) -> int:
        return self.prefix + self.video + self.suffix

    @property
    def video_slice(self) -> slice:
        return slice(self.prefix, self.prefix + self.video)


@dataclass(frozen=True)
class RowGroup:
    """The rows of one conditioning within a call, and the key under which its state is kept."""

    key: Hashable
    rows: slice

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class BlockCall:
    """One block's forward within a model call.

    original: the block's own forward; externally_patched: another pack has replaced it; other_streams: results beside
    the hidden states, `[B, …]` by name, see `BlockRunner`.
    """

    index: int
    block: nn.Module
    original: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    externally_patched: bool = False
    other_streams: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> Any:
        """Run the block as it is."""
        return self.original(*self.args, **self.kwargs)


class BlockRunner(Protocol):
    """Runs the blocks of one architecture for selected tokens.

    Blocks may take and return one tensor or several. The engine sees one: the hidden states of all tokens,
    `[B, N, dim]`, which `entry` reads from a block's arguments, `exit` from its result, and `pack` turns into a result.
    Tokens of other streams (text, audio) lie in front of the video's or behind them and are always computed. A stream
    of another width cannot be among the hidden states: `forward_tokens` computes it in full and leaves its result in
    the call's `other_streams`, where `pack` finds it. Where a kept output is returned, the engine puts the
    kept streams there.

    in_place: the blocks write their result into their input; then the input is saved before a block runs.
    """

    in_place: bool

    def entry(self, call: BlockCall) -> Tensor:
        """Return the hidden states `[B, N, dim]` among a block's arguments."""

    def exit(self, result: Any) -> Tensor:
        """Return the hidden states `[B, N, dim]` in a block's result."""

    def pack(self, hidden: Tensor, call: BlockCall) -> Any:
        """Return what the block would return for these hidden states `[B, N, dim]`."""

    def unsupported_reason(self, call: BlockCall) -> str:
        """Return why this block cannot run for selected tokens in this call; "" if it can."""

    def forward_tokens(
        self, call: BlockCall, selection: Selection, attend: Attend, need_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the selected tokens' residuals `[B, M, dim]` and, if asked, log-sum-exps `[B, M]` (mean of heads)."""


def class_name(module: Any) -> str:
    """Return the name of a module's class as its author wrote it: torch's FSDP puts a class of its own in front."""
    own = (each for each in type(module).__mro__ if "FSDPModule" not in {base.__name__ for base in each.__mro__})
    return next(own).__name__


def unwrap(module: Any) -> Any:
    """Return the module inside torch.compile's wrapper, or the module itself."""
    return getattr(module, "_orig_mod", module)
