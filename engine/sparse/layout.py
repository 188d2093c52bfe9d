"""Rows of an attention call: a video's tokens on a grid, and other rows (text, sound, references) around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..blocks.interface import TokenLayout

Grid = tuple[int, int, int]  # frames, rows, columns of tokens


@dataclass(frozen=True)
class RowLayout:
    """Rows of a call over N keys: `before` and `after` others around the sparse ones, which lie on `grid` (t, h, w).

    Other rows are computed in full, and every query attends to them. grid: None where it is not known.
    """

    rows: int
    before: int = 0
    after: int = 0
    grid: Grid | None = None

    @property
    def sparse(self) -> int:
        """Number of rows that are computed sparsely."""
        return self.rows - self.before - self.after

    def with_first_frame_dense(self) -> RowLayout:
        """Return the layout with the first frame among the rows before; this one without a grid of several frames."""
        if self.grid is None or self.grid[0] < 2:
            return self
        frames, height, width = self.grid
        return replace(self, before=self.before + height * width, grid=(frames - 1, height, width))


def row_layout(rows: int, layout: TokenLayout) -> RowLayout | None:
    """Return the layout of an attention call over `rows` keys; None where these are not the video's tokens.

    layout: what the model's blocks hold; the call may have more rows, of another stream that joins them.
    """
    others = rows - layout.total
    if others == 0:
        found = RowLayout(rows, layout.prefix, layout.suffix, layout.grid)
    elif 0 < others < layout.video and layout.joins_behind:
        found = RowLayout(rows, layout.prefix, layout.suffix + others, layout.grid)
    elif 0 < others < layout.video:
        # At which end they lie is not known: both are spared.
        found = RowLayout(rows, layout.prefix + others, layout.suffix + others)
    else:
        return None
    if found.grid is not None and prod(found.grid) != found.sparse:
        found = replace(found, grid=None)
    return found if found.sparse * 2 > rows else None


@dataclass(frozen=True)
class QueryParts:
    """The query rows of a call by how they are computed: `before` and `after` densely, those between them sparsely.

    selected: the keys that the sparse ones are, int64 `[B, M]`, ascending; None: all sparse rows of the layout.
    """

    before: int
    after: int
    count: int
    selected: Tensor | None = None

    @property
    def sparse(self) -> slice:
        return slice(self.before, self.count - self.after)

    def join(self, out: Tensor, q: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the output of all rows `[B, M, H, D]` from that of the sparse ones; q: all queries."""
        parts = [dense(q[:, : self.before])] if self.before else []
        parts.append(out)
        if self.after:
            parts.append(dense(q[:, self.count - self.after :]))
        return out if len(parts) == 1 else torch.cat(parts, dim=1)


def query_parts(rows: RowLayout, own: RowLayout, queries: int, selected: Tensor | None) -> QueryParts | None:
    """Return the parts of a call's queries; None where it is not known which rows they are.

    rows: with all rows that are computed densely in a full call; own: without a first frame among them. selected: the
    video's rows among fewer queries than keys, as keys `[B, M]`, ascending.
    """
    if queries == rows.rows:
        return QueryParts(rows.before, rows.after, queries)
    if selected is None or own.before + selected.shape[1] + own.after != queries:
        return None
    return QueryParts(own.before, own.after, queries, selected)
