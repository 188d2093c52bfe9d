"""The tiny models' arithmetic made faster on one CPU core, for searches of a thousand runs.

Nothing that measures time uses it. `use` is equal to rounding: linear layers by oneDNN's inner product, and what
surrounds them (`faster_cpu.c`) by the machine's own C compiler. `bfloat16_products`, where a search only has to rank
runs: factors of linear layers and of attention are rounded, as on a GPU, and multiplied by the CPU's matrix unit where
it has one (AMX); `search.py --parts rounding` measures what that changes and gains.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from ctypes import c_float, c_long, c_void_p
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_ROWS = 64
SOURCE = Path(__file__).with_suffix(".c")
ARGUMENTS = {
    "gelu": (c_void_p, c_void_p, c_long),
    "rms_norm": (c_void_p, c_void_p, c_void_p, c_long, c_long, c_float),
    "layer_norm": (c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_long, c_float),
    "rotate": (c_void_p, c_void_p, c_void_p, c_long, c_long, c_long, c_long, c_long),
    "modulate": (*(c_void_p,) * 4, *(c_long,) * 6),
}
TILE_ARGUMENTS = {
    "may_use_tiles": (),
    "pack_rows": (c_void_p, c_long, c_void_p, c_long, c_long),
    "linear_by_tiles": (c_void_p, c_void_p, c_void_p, c_void_p, c_long, c_long, c_long),
    "feed_forward_by_tiles": (*(c_void_p,) * 6, c_long, c_long, c_long),
    "attention_by_tiles": (c_void_p, c_void_p, c_void_p, c_void_p, *(c_long,) * 7, c_float),
}
TILE, MOST_DEPTH, MOST_KEYS, MOST_WIDTH = 32, 4096, 2048, 128  # as in faster_cpu.c


def use() -> None:
    """From here on, in this process. Call it after the host was started; without a C compiler less is gained."""
    F.linear = by_onednn(F.linear)
    library = compiled()
    if library is None:
        print("no C compiler (cc): runs will be slower", flush=True)
        return
    import comfy.ldm.wan.model
    import comfy.rmsnorm

    from astraea.models import wan

    quick = Quick(library)
    F.gelu, F.layer_norm, F.rms_norm = quick.gelu(F.gelu), quick.layer_norm(F.layer_norm), quick.rms_norm(F.rms_norm)
    if hasattr(comfy.rmsnorm, "rms_norm_torch"):
        comfy.rmsnorm.rms_norm_torch = F.rms_norm
    comfy.ldm.wan.model.apply_rope1 = quick.rotate(comfy.ldm.wan.model.apply_rope1)
    wan.rotate = quick.rotate(wan.rotate)
    torch.addcmul = quick.addcmul(torch.addcmul)


@contextlib.contextmanager
def bfloat16_products() -> Iterator[None]:
    """Within it factors of linear layers and of attention are rounded to bfloat16; sums and the rest stay fp32."""
    products, sequence = torch.backends.mkldnn.matmul, torch.nn.Sequential
    before, shipped = products.fp32_precision, (F.linear, sequence.forward)
    products.fp32_precision = "bf16"
    library = compiled()
    try:
        with bfloat16_attention():
            if library is not None and has_tiles(library):
                tiles = Tiles(library)
                F.linear = tiles.linear(F.linear)
                sequence.forward = tiles.sequence(sequence.forward)  # type: ignore[method-assign]
                F.scaled_dot_product_attention = tiles.attention(  # type: ignore[assignment]
                    F.scaled_dot_product_attention
                )
            yield
    finally:
        F.linear, sequence.forward = shipped  # type: ignore[method-assign]
        products.fp32_precision = before


@contextlib.contextmanager
def bfloat16_attention() -> Iterator[None]:
    """Those of attention alone, by torch."""
    shipped = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        return shipped(q.bfloat16(), k.bfloat16(), v.bfloat16(), *args, **options).to(q.dtype)

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = shipped


@contextlib.contextmanager
def first_steps_remembered() -> Iterator[None]:
    """Within it a block's output at a run's first step is computed once for each input: every candidate begins with it.

    The first call within says what the first step is, by its modulation.
    """
    import comfy.ldm.wan.model

    block = comfy.ldm.wan.model.WanAttentionBlock
    shipped: Callable[..., Tensor] = block.forward
    first: list[Tensor] = []
    known: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def forward(self: Any, x: Tensor, e: Tensor, freqs: Tensor, context: Tensor, *args: Any, **options: Any) -> Tensor:
        if not first:
            first.append(e.clone())
        if not torch.equal(e, first[0]):
            return shipped(self, x, e, freqs, context, *args, **options)
        outputs = known.setdefault(id(self), [])
        for inputs, told, output in outputs:
            if torch.equal(inputs, x) and torch.equal(told, context):
                return output.clone()
        output = shipped(self, x, e, freqs, context, *args, **options)
        outputs.append((x.clone(), context.clone(), output.clone()))
        return output

    block.forward = forward
    try:
        yield
    finally:
        block.forward = shipped


def by_onednn(shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.numel() // max(1, x.shape[-1])
        if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.ndim < 2 or rows < FEWEST_ROWS:
            return shipped(x, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")

    return linear


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """`faster_cpu.c` for this very CPU; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        part, whole = Path(folder) / "faster_cpu.o", Path(folder) / "faster_cpu.so"
        subprocess.run([compiler, "-Ofast", "-march=native", "-fPIC", "-c", "-o", part, SOURCE], check=True)
        # Linked without -Ofast: some compilers would have the library change how the whole process rounds.
        subprocess.run([compiler, "-shared", "-o", whole, part, "-lm"], check=True)
        library = ctypes.CDLL(str(whole))
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def has_tiles(library: ctypes.CDLL) -> bool:
    """Whether this CPU has a matrix unit that the process may use, and what uses it was compiled."""
    if not hasattr(library, "may_use_tiles"):
        return False
    for name, arguments in TILE_ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.may_use_tiles.restype = ctypes.c_int
    return bool(library.may_use_tiles())


class Tiles:
    """Products from bfloat16 factors on one core; what they are not made for goes to those that stood there before."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}  # by address: the weight, which so keeps it, and its tiles

    def linear(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            if bias is None or not self._fits(x, weight, bias):
                return shipped(x, weight, bias)
            x, (columns, depth) = x.contiguous(), weight.shape
            y = x.new_empty(*x.shape[:-1], columns)
            packed, sizes = self._tiles_of(weight), (x.numel() // depth, columns, depth)
            self._library.linear_by_tiles(x.data_ptr(), packed.data_ptr(), bias.data_ptr(), y.data_ptr(), *sizes)
            return y

        return linear

    def sequence(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A feed-forward layer in one go: what lies between its two products never leaves the core."""

        def forward(layers: torch.nn.Sequential, x: Tensor) -> Tensor:
            kinds = [layer for layer in layers if isinstance(layer, (torch.nn.Linear, torch.nn.GELU))]
            if len(layers) != 3 or len(kinds) != 3 or getattr(layers[1], "approximate", "") != "tanh":
                return shipped(layers, x)
            first, second = layers[0], layers[2]
            weights = [(layer.weight, layer.bias) for layer in (first, second) if isinstance(layer, torch.nn.Linear)]
            fits = len(weights) == 2 and all(b is not None and self._fits(x, w, b) for w, b in weights)
            if not fits or weights[0][0].shape != weights[1][0].shape[::-1] or weights[0][0].shape[0] > MOST_DEPTH:
                return shipped(layers, x)
            x, (inner, depth) = x.contiguous(), weights[0][0].shape
            y = torch.empty_like(x)
            tiles = [part for weight, bias in weights for part in (self._tiles_of(weight), bias)]
            pointers = [part.data_ptr() for part in (x, *tiles, y)]
            self._library.feed_forward_by_tiles(*pointers, x.numel() // depth, depth, inner)
            return y

        return forward

    def _fits(self, x: Tensor, weight: Tensor, bias: Tensor) -> bool:
        # Parameters only: what was made for one call may be followed by something else at the same address.
        if not isinstance(weight, torch.nn.Parameter) or not _is_fp32(x, weight, bias):
            return False
        return weight.shape[0] % TILE == 0 and weight.shape[1] % TILE == 0 and weight.shape[1] <= MOST_DEPTH

    def _tiles_of(self, weight: Tensor) -> Tensor:
        known = self._packed.get(weight.data_ptr())
        if known is None:
            columns, depth = weight.shape
            packed = torch.empty(weight.shape, dtype=torch.bfloat16)
            whole = weight.detach().contiguous()
            self._library.pack_rows(whole.data_ptr(), depth, packed.data_ptr(), columns, depth)
            known = self._packed[weight.data_ptr()] = (weight, packed)
        return known[1]

    def attention(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def attention(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            attn_mask: Tensor | None = None,
            dropout_p: float = 0.0,
            is_causal: bool = False,
            scale: float | None = None,
            **others: Any,
        ) -> Tensor:
            batch, heads, queries, width = q.shape
            keys = k.shape[2]
            plain = attn_mask is None and dropout_p == 0.0 and not is_causal and not any(others.values())
            alike = k.shape == v.shape == (batch, heads, keys, width) and _is_fp32(q, k, v)
            inside = keys % TILE == 0 and keys <= MOST_KEYS and width % TILE == 0 and width <= MOST_WIDTH
            if not (plain and alike and inside and all(t.stride(-1) == 1 for t in (q, k, v))):
                return shipped(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **others)
            out = q.new_empty(batch, queries, heads, width).transpose(1, 2)
            rows = [t.stride(2) for t in (q, k, v, out)]
            for b in range(batch):
                for h in range(heads):
                    parts = [t[b, h].data_ptr() for t in (q, k, v, out)]
                    self._library.attention_by_tiles(*parts, queries, keys, width, *rows, scale or width**-0.5)
            return out

        return attention


class Quick:
    """The library's functions in place of torch's; what they are not made for goes to those."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library

    def gelu(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def gelu(x: Tensor, approximate: str = "none") -> Tensor:
            if approximate != "tanh" or not _is_fp32(x):
                return shipped(x, approximate=approximate)
            x = x.contiguous()
            y = torch.empty_like(x)
            self._library.gelu(x.data_ptr(), y.data_ptr(), x.numel())
            return y

        return gelu

    def rms_norm(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
            if weight is None or eps is None or len(shape) != 1 or not _is_fp32(x, weight):
                return shipped(x, shape, weight, eps)
            x, weight = x.contiguous(), weight.contiguous()
            y = torch.empty_like(x)
            rows, width = _rows(x)
            self._library.rms_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), rows, width, eps)
            return y

        return rms_norm

    def layer_norm(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def layer_norm(
            x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
        ) -> Tensor:
            given = [part.contiguous() for part in (weight, bias) if part is not None]
            if len(given) == 1 or len(shape) != 1 or not _is_fp32(x, *given):
                return shipped(x, shape, weight, bias, eps)
            x = x.contiguous()
            y = torch.empty_like(x)
            pointers = [part.data_ptr() for part in given] or [None, None]
            self._library.layer_norm(x.data_ptr(), *pointers, y.data_ptr(), *_rows(x), eps)
            return y

        return layer_norm

    def rotate(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def rotate(x: Tensor, freqs: Tensor) -> Tensor:
            if x.ndim != 4 or freqs.shape[-6:] != (freqs.shape[0], x.shape[1], 1, x.shape[3] // 2, 2, 2):
                return shipped(x, freqs)
            if freqs.shape[0] not in (1, x.shape[0]) or not _is_fp32(x, freqs):
                return shipped(x, freqs)
            x, freqs = x.contiguous(), freqs.contiguous()
            y = torch.empty_like(x)
            batch, rows, heads, width = x.shape
            sizes = (batch, rows, heads, width // 2, freqs.shape[0])
            self._library.rotate(x.data_ptr(), freqs.data_ptr(), y.data_ptr(), *sizes)
            return y

        return rotate

    def addcmul(self, shipped: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def addcmul(base: Tensor, x: Tensor, scale: Tensor, **options: Any) -> Tensor:
            if options or x.ndim != 3 or not _is_fp32(base, x, scale):
                return shipped(base, x, scale, **options)
            batch, rows, width = x.shape
            one_row = ((batch, 1, width), (1, 1, width))
            if scale.shape not in one_row or base.shape not in (*one_row, x.shape):
                return shipped(base, x, scale)
            base, x, scale = base.contiguous(), x.contiguous(), scale.contiguous()
            y = torch.empty_like(x)
            steps = [part[0].numel() if part.shape[0] == batch else 0 for part in (base, scale)]
            sizes = (batch, rows, width, steps[0], width if base.shape[1] == rows else 0, steps[1])
            self._library.modulate(base.data_ptr(), x.data_ptr(), scale.data_ptr(), y.data_ptr(), *sizes)
            return y

        return addcmul


def _is_fp32(*tensors: Tensor) -> bool:
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


def _rows(x: Tensor) -> tuple[int, int]:
    width = x.shape[-1]
    return x.numel() // max(1, width), width
