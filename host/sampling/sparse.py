"""Sparse attention on a MODEL: wrappers for a run and its model calls, and the override of the host's attention.

The override stands in the options of one model call at a time: on top of whatever other nodes have put there, however
they are ordered, and gone with the call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import CellType
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...engine.blocks.compilation import no_compile
from ...engine.report import Report, ReportHandle
from ...engine.report.writer import pass_through_report
from ...engine.sparse.plan import SparsePlan
from ...engine.sparse.run import SparseRun
from ...engine.sparse.work import AttentionCall
from ...errors import UnsupportedModel
from ...models.architecture import Layout
from ...models.token_grid import guessed_layout
from .architectures import architecture_of, describe_on_host
from .levels import level_of
from .memory import lasting_memory
from .put_on_model import put_on_model, take_off_model

SPARSE_KEY = "astraea_sparse"
SPARSE_RUN_KEY = "astraea_sparse_run"
OVERRIDE = "optimized_attention_override"
CORE_CALLBACK = "block_sparse_attention"  # key of the callbacks of ComfyUI's own sparse attention
DENSITY_1 = "density 1: attention is complete, nothing is changed"
REPLACED = "another Astraea Sparse Attention on the same model comes after this one, and is used in its place"
CORE_IS_ON = "the model has ComfyUI's own sparse attention: it is left to that"
# Conditions under which a video begins with a given frame, by the names that models are given them under.
GIVEN_FRAMES = ("denoise_mask", "guiding_frame_index", "ref_latent", "reference_latent", "clip_fea")


@dataclass(frozen=True)
class SparseAttachment:
    """The plan on a MODEL: small and immutable, so that every clone of the MODEL may share it.

    reach: context of a model call in which a run also gets attention that does not go through ComfyUI's; padded: there,
    more rows than the model's tokens may lie behind them.
    """

    plan: SparsePlan
    handle: ReportHandle
    reach: Callable[[SparseRun], AbstractContextManager[Any]] = nullcontext
    padded: bool = False

    def __deepcopy__(self, memo: dict) -> SparseAttachment:
        return self  # hosts up to 0.13 deep-copy model options


class SparseOverride:
    """The host's attention in one run: sparse where the run takes a call, else as it would be without.

    previous: the override that stood there, or None.
    """

    def __init__(self, run: SparseRun, previous: Any):
        self.run, self.previous = run, previous
        self._attend = no_compile(self._attend_now)

    def __deepcopy__(self, memo: dict) -> SparseOverride:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Attend as the host asks for it: `(func, q, k, v, heads, mask, …)`; func: its own attention."""
        return self._attend(*args, **kwargs)

    def _attend_now(self, func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        out = self._sparse(func, q, k, v, heads, *args, **kwargs) if self.run.is_open else None
        return self._dense(func, q, k, v, heads, *args, **kwargs) if out is None else out

    def _dense(self, func: Any, *args: Any, **kwargs: Any) -> Tensor:
        with self.run.closed():
            return func(*args, **kwargs) if self.previous is None else self.previous(func, *args, **kwargs)

    def _sparse(
        self, func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor | None:
        """Return the output in the host's layout; None for a call that stays dense.

        q, k, v: `[B, N, H D]`, or `[B, H, N, D]` with `skip_reshape`; the output `[B, N, H D]`, or `[B, H, N, D]` with
        `skip_output_reshape`.
        """
        in_heads = bool(kwargs.get("skip_reshape"))
        if args or q.ndim != (4 if in_heads else 3) or q.shape[-1] != k.shape[-1] or k.shape != v.shape:
            return None
        if kwargs.get("low_precision_attention") is False:
            self.run.stays_dense("the model asks for exact attention")
            return None
        plain = {name: kept for name, kept in kwargs.items() if name not in ("skip_reshape", "skip_output_reshape")}
        rows = [t.transpose(1, 2) if in_heads else t.unflatten(-1, (heads, -1)) for t in (q, k, v)]

        def dense(*tensors: Tensor) -> Tensor:
            if in_heads:
                joined = [t.transpose(1, 2) for t in tensors]
                out = self._dense(func, *joined, heads, skip_reshape=True, skip_output_reshape=True, **plain)
                return out.transpose(1, 2)
            return self._dense(func, *(t.flatten(2) for t in tensors), heads, **plain).unflatten(-1, (heads, -1))

        queries, keys, values = rows
        scale = kwargs.get("scale") or queries.shape[-1] ** -0.5
        name = _name_of(func if self.previous is None else self.previous)
        call = AttentionCall(queries, keys, values, scale, dense, is_masked=mask is not None, dense_name=name)
        out = self.run.attend(call)
        if out is None:
            return None
        return out.transpose(1, 2) if kwargs.get("skip_output_reshape") else out.flatten(2)


def _name_of(attention: Any) -> str:
    """Return a name of an attention function that is the same in other processes.

    What it was made with is part of it: nodes make the overrides of several kernels by one function.
    """
    if isinstance(attention, functools.partial):
        return f"{_name_of(attention.func)} of {_plain((*attention.args, *attention.keywords.values()))}"
    kind = attention if hasattr(attention, "__qualname__") else type(attention)
    cells = [cell.cell_contents for cell in getattr(attention, "__closure__", None) or () if cell != CellType()]
    return f"{kind.__module__}.{kind.__qualname__}" + (f" of {_plain(cells)}" if cells else "")


def _plain(values: Iterable[Any]) -> list[str]:
    """Return numbers and texts as they are, and names of functions."""
    simple = [value if isinstance(value, (str, int, float)) else getattr(value, "__qualname__", "") for value in values]
    return [str(value) for value in simple]


def foreign_override(options: dict[str, Any]) -> Any:
    """Return another node's attention override in the options of a call; None without any."""
    override = options.get(OVERRIDE)
    return override.previous if isinstance(override, SparseOverride) else override


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Make one run (OUTER_SAMPLE). args: noise, latent image, sampler, sigmas, …."""
    guider = executor.class_obj
    options = guider.model_options.get("transformer_options", {})
    attachment = options.get(SPARSE_KEY)
    if attachment is None or SPARSE_RUN_KEY in options:
        return executor(*args, **kwargs)
    if attachment.plan.is_dense:
        attachment.handle.add(pass_through_report("", DENSITY_1))
        return executor(*args, **kwargs)
    if has_core_sparse(guider.model_patcher):
        logging.info(f"Astraea Sparse Attention: {CORE_IS_ON}.")
        attachment.handle.add(pass_through_report("", CORE_IS_ON))
        return executor(*args, **kwargs)
    level = level_of(guider.model_patcher.get_model_object("model_sampling"))
    seed = kwargs.get("seed", args[7] if len(args) > 7 else None)
    run = SparseRun(attachment.plan, [level(float(sigma)) for sigma in args[3]], level, seed or 0, lasting_memory)
    original, finished = guider.model_options, False
    try:
        guider.model_options = {**original, "transformer_options": {**options, SPARSE_RUN_KEY: run}}
        output = executor(*args, **kwargs)
        finished = True
        return output
    finally:
        guider.model_options = original
        figures = run.finish()
        attachment.handle.add(Report(sparse=figures.as_dict(), notes=figures.notes(), finished=finished))
        text = "; ".join([*([] if finished else ["stopped early"]), figures.line(), *figures.notes()])
        logging.info(f"Astraea Sparse Attention: {text}")


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Make one model call (APPLY_MODEL). args: x, t, c_concat, c_crossattn, control, transformer_options."""
    options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[5] if len(args) > 5 else {}
    run = options.get(SPARSE_RUN_KEY)
    if run is None or options.get("sigmas") is None:
        return executor(*args, **kwargs)
    conditions = {**kwargs, "c_crossattn": args[3] if len(args) > 3 else kwargs.get("c_crossattn")}
    concatenated = args[2] if len(args) > 2 else kwargs.get("c_concat")
    given = concatenated is not None or any(conditions.get(name) is not None for name in GIVEN_FRAMES)
    model, x = executor.class_obj.diffusion_model, args[0]
    describe = run.kept((id(model), "layout"), lambda: _layout_of(model))
    attachment: SparseAttachment = options[SPARSE_KEY]
    layout = describe(tuple(x.shape), conditions)
    if attachment.padded:
        layout = replace(layout, joins_behind=True)
    sigma, roles = float(options["sigmas"].flatten()[0]), tuple(options.get("cond_or_uncond") or ())
    with (
        run.model_call(sigma, layout, given, roles, x.device),
        _override(options, run),
        attachment.reach(run),
    ):
        return executor(*args, **kwargs)


@contextmanager
def _override(options: dict[str, Any], run: SparseRun) -> Iterator[None]:
    """Put the run's override on top of what stands in a call's options, for the length of the context."""
    previous = options.get(OVERRIDE)
    if isinstance(previous, SparseOverride):
        yield
        return
    options[OVERRIDE] = run.kept((id(previous), OVERRIDE), lambda: SparseOverride(run, previous))
    try:
        yield
    finally:
        if previous is None:
            options.pop(OVERRIDE, None)
        else:
            options[OVERRIDE] = previous


def _layout_of(diffusion_model: Any) -> Layout:
    """Return what describes the rows of a model's self-attention, from a call's latent and its conditions."""
    try:
        architecture = describe_on_host(diffusion_model)
    except UnsupportedModel:  # a guider's second model
        return functools.partial(guessed_layout, diffusion_model)
    return architecture.attention_layout or architecture.layout


def has_core_sparse(patcher: Any) -> bool:
    """Tell whether ComfyUI's own sparse attention is on a MODEL."""
    callbacks = getattr(patcher, "callbacks", {})
    return any(CORE_CALLBACK in by_key and by_key[CORE_CALLBACK] for by_key in callbacks.values())


WRAPPERS = ((WrappersMP.OUTER_SAMPLE, outer_sample), (WrappersMP.APPLY_MODEL, apply_model))


def attend_sparsely(model: Any, plan: SparsePlan, handle: ReportHandle) -> Any:
    """Return a clone of the MODEL whose runs attend sparsely by the plan and report into the handle.

    A model whose calls cannot be described comes back as a plain clone; the log and the handle say why.
    """
    clone = model.clone()
    earlier = take_off(clone)
    if earlier is not None:
        earlier.handle.add(pass_through_report("", REPLACED))
    try:
        architecture_of(clone)
    except UnsupportedModel as reason:
        note = f"passed through: {reason}"
        logging.warning(f"Astraea Sparse Attention: {note}.")
        handle.add(pass_through_report("", note))
        return clone
    put_on(clone, SparseAttachment(plan, handle))
    return clone


def put_on(model: Any, attachment: SparseAttachment) -> None:
    """Put a plan on the MODEL itself, which must have none."""
    put_on_model(model, SPARSE_KEY, attachment, WRAPPERS)


def take_off(model: Any) -> SparseAttachment | None:
    """Take the plan off the MODEL itself; returns it, or None where there was none."""
    attachment: SparseAttachment | None = take_off_model(model, SPARSE_KEY, WRAPPERS)
    return attachment
