"""The node `Astraea Sparse Attention`."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..engine.report import ReportHandle
from ..engine.sparse.plan import AUTO as AUTO_CHOICE
from ..engine.sparse.plan import (
    CHOICES,
    DEFAULT_DENSE_START,
    DEFAULT_DENSITY,
    DEFAULT_LIMIT,
    DEFAULT_MIN_TOKENS,
    DROP,
    KERNELS,
    MIN_DENSITY,
    RESTS,
    SparsePlan,
)
from ..host.sampling.sparse import attend_sparsely
from .checks import number, one_of, whole_number
from .node_text import shows_on
from .schema import ReportType, field, node_schema

MAX_MIN_TOKENS = 1 << 20
TIPS = {
    "model": "The model, from its loader or after LoRA and sampling-shift nodes; before or after Astraea Accelerate. "
    "Any model whose attention ComfyUI lets nodes replace: Wan, LTX, MiniMax-H3, HunyuanVideo, Cosmos, Mochi and more.",
    "density": "How much of the video each token looks at, where attention is sparse: 0.3 is 30 %. Lower is "
    "faster and further from the original; 1 changes nothing. With choice 'auto' it is a mean: each attention head "
    "gets what it is worth there.",
    "dense_start": "Share of the steps, from the first, whose attention stays complete; in a run that begins from "
    "noise the first one always does. The first steps decide on what the clip shows. Each sampler counts its own.",
    "choice": "How each attention head finds what to look at. 'auto' tries six ways and takes for each head the one "
    "whose output came closest on sampled tokens. 'routing' compares the means of blocks of tokens only. 'rainfusion' "
    "is the RainFusion paper's rule of three patterns, for comparison.",
    "rest": "What becomes of tokens that are not looked at: 'drop' leaves them out, 'mean' takes them together as one.",
    "limit": "A head whose output is off by more than this, as measured on sampled tokens, looks at more, beyond the "
    "density. 0: no limit. Not for choice 'rainfusion'.",
    "min_tokens": "Videos of fewer tokens than this stay complete: there is little to gain.",
    "kernel": "'auto' compares sparse with complete attention once on your card and only uses it where it is faster. "
    "'own' uses it without asking. 'comfy-kitchen' takes ComfyUI's own sparse kernel where it is there, which "
    "routes by itself, also without asking.",
}


def sparse_inputs() -> list[Any]:
    """Return the inputs that a plan is made from. Saved workflows hold their values by name and by order."""
    share = {"min": 0.0, "max": 1.0, "step": 0.05}
    return [
        field(
            io.Float, "density", **{**share, "default": DEFAULT_DENSITY, "min": MIN_DENSITY}, tooltip=TIPS["density"]
        ),
        field(io.Float, "dense_start", default=DEFAULT_DENSE_START, **share, tooltip=TIPS["dense_start"]),
        _advanced(io.Combo, "choice", options=list(CHOICES), default=AUTO_CHOICE),
        _advanced(io.Combo, "rest", options=list(RESTS), default=DROP),
        _advanced(io.Float, "limit", default=DEFAULT_LIMIT, **share),
        _advanced(io.Int, "min_tokens", default=DEFAULT_MIN_TOKENS, min=0, max=MAX_MIN_TOKENS, step=500),
        _advanced(io.Combo, "kernel", options=list(KERNELS), default=AUTO_CHOICE),
    ]


def sparse_plan(
    density: float,
    dense_start: float = DEFAULT_DENSE_START,
    choice: str = AUTO_CHOICE,
    rest: str = DROP,
    limit: float = DEFAULT_LIMIT,
    min_tokens: int = DEFAULT_MIN_TOKENS,
    kernel: str = AUTO_CHOICE,
) -> SparsePlan:
    """Make the plan of a node. Raises InputError for a value that cannot work."""
    return SparsePlan(
        density=number("density", density, MIN_DENSITY, 1.0, "1 changes nothing."),
        dense_start=number("dense_start", dense_start, 0.0, 1.0, "It is a share of the steps."),
        choice=one_of("choice", choice, CHOICES),
        rest=one_of("rest", rest, RESTS),
        limit=number("limit", limit, 0.0, 1.0, "0 means no limit."),
        min_tokens=whole_number("min_tokens", min_tokens, 0, MAX_MIN_TOKENS),
        kernel=one_of("kernel", kernel, KERNELS),
    )


class AstraeaSparseAttention(io.ComfyNode):
    """Puts a plan for sparse attention on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaSparseAttention",
            display_name="Astraea Sparse Attention",
            description="Makes attention cheaper: each block of tokens looks at the part of the video that matters "
            "most to it. For long or large videos, above all where steps are few and cannot be skipped. Place it "
            "between the model loader and the sampler, with or without Astraea Accelerate.",
            search_aliases=["sparse", "rainfusion", "svg", "speed up", "faster", "attention", "sage"],
            inputs=[field(io.Model, "model", tooltip=TIPS["model"]), *sparse_inputs()],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output("sparse", display_name="model", tooltip="The model; to the sampler or the next node."),
                ReportType.Output(
                    "report", display_name="report", tooltip="Filled while sampling; read it with Astraea Report."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, density: float, **settings: Any) -> io.NodeOutput:
        handle = ReportHandle(on_report=shows_on(cls.hidden))
        return io.NodeOutput(attend_sparsely(model, sparse_plan(density, **settings), handle), handle)


def _advanced(kind: Any, name: str, **arguments: Any) -> Any:
    return field(kind, name, optional=True, advanced=True, tooltip=TIPS[name], **arguments)
