"""Orders of a video's tokens, from which tiles are cut, and their inverses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Grid, RowLayout

RASTER, PLACE, CUBES, SPREAD = "raster", "place", "cubes", "spread"
DIAGONALS = 16  # of a frame, that `spread` tells apart
MIN_IN_CUBES = 0.75  # of an axis: a cube's edge that leaves more of it over is halved


@dataclass(frozen=True)
class TokenOrders:
    """Orders of all N keys, the sparse rows first, then the others.

    names: of the orders; keys: int32 `[P, N]`, the key at each place; places: int64 `[P, N]`, the place of each key.
    """

    names: tuple[str, ...]
    keys: Tensor
    places: Tensor


def token_orders(layout: RowLayout, key_tile: int, device: torch.device) -> TokenOrders:
    """Return the orders that make a difference on a layout; without a grid, raster alone."""
    makers: dict[str, Callable[[Grid], Tensor]] = {RASTER: raster}
    if layout.grid is not None:
        if layout.grid[0] > 1:
            makers[PLACE] = by_place
        makers |= {CUBES: lambda grid: in_cubes(grid, key_tile), SPREAD: spread}
    others = [torch.arange(layout.before), torch.arange(layout.before + layout.sparse, layout.rows)]
    grid = layout.grid or (1, 1, layout.sparse)
    keys = torch.stack([torch.cat([make(grid) + layout.before, *others]) for make in makers.values()])
    return TokenOrders(tuple(makers), keys.to(torch.int32).to(device), inverse(keys).to(device))


def inverse(orders: Tensor) -> Tensor:
    """Return the place of each token `[.., N]` in orders `[.., N]` of tokens."""
    places = torch.arange(orders.shape[-1], device=orders.device).expand_as(orders)
    return torch.empty_like(orders, dtype=torch.int64).scatter_(-1, orders.long(), places)


def raster(grid: Grid) -> Tensor:
    """Return the tokens frame by frame, row by row: the order of the model."""
    frames, height, width = grid
    return torch.arange(frames * height * width)


def by_place(grid: Grid) -> Tensor:
    """Return the tokens place by place, those of all frames together."""
    return raster(grid).view(grid).permute(1, 2, 0).reshape(-1)


def in_cubes(grid: Grid, size: int) -> Tensor:
    """Return the tokens cube by cube, `size` tokens or fewer each, and those at the ragged edges after them."""
    edges = cube_edges(grid, size)
    index = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).view(-1, 3)
    cube = index // torch.tensor(edges)
    cubes = torch.tensor([side // edge for side, edge in zip(grid, edges, strict=True)])
    ragged = (cube >= cubes).any(-1)
    number = (cube[:, 0] * cubes[1] + cube[:, 1]) * cubes[2] + cube[:, 2]
    number = torch.where(ragged, int(cubes.prod()), number)
    return torch.sort(number, stable=True).indices


def cube_edges(grid: Grid, size: int) -> Grid:
    """Return the edges of a cube of at most `size` tokens, powers of two, that leave little of the grid over."""
    left, edges = size.bit_length() - 1, []
    for axis in range(3):
        power = min(left // (3 - axis), grid[axis].bit_length() - 1)
        while power and (grid[axis] >> power << power) < MIN_IN_CUBES * grid[axis]:
            power -= 1
        edges.append(1 << power)
        left -= power
    return edges[0], edges[1], edges[2]


def spread(grid: Grid) -> Tensor:
    """Return the tokens so that any first part of them lies evenly over every frame.

    They come by diagonals of a frame, in the order of the reversed bits of their number mod 16: the first half is a
    checkerboard, the first quarter every fourth diagonal.
    """
    _, height, width = grid
    numbers = torch.tensor([int(f"{number:04b}"[::-1], 2) for number in range(DIAGONALS)])
    diagonal = (torch.arange(height).unsqueeze(1) - torch.arange(width)) % DIAGONALS
    return torch.sort(numbers[diagonal].expand(grid).reshape(-1), stable=True).indices
