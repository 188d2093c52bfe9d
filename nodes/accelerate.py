"""The node `Astraea Accelerate`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from ..engine.report import ReportHandle
from ..engine.state.residual_store import CACHE_POLICIES
from ..host.folders import find_schedule, schedule_names, user_schedule_folder
from ..host.sampling.patch_model import accelerate
from ..kernels import BACKEND_CHOICES
from ..limits import MAX_TARGET_SPEEDUP, MIN_BUDGET
from ..models import with_token_steps
from .accelerate_inputs import (
    AUTO,
    DEFAULT_BUDGET,
    FORMER_MODES,
    MODE_CHOICES,
    AccelerateInputs,
    choose_plan,
    schedule_stamp,
)
from .checks import schedule_of
from .node_text import shows_on
from .schedule_tooltips import schedule_tooltips
from .schema import NOT_LINKED, Choices, ReportType, ScheduleType, field, node_schema, refusal

TIPS = {
    "model": "The model, from its loader or after LoRA and sampling-shift nodes. Any model is accelerated by whole "
    f"steps. Steps that compute a part of the video's tokens are possible with {with_token_steps()}. The few models "
    "that must be computed in full pass through unchanged, and the log says why.",
    "schedule": "Leave it at 'auto'. Which steps are computed; the others are forecast. 'auto' places them for your "
    "sampler and its noise levels when the run begins, or takes a schedule that you saved for this budget, model "
    "family, about as many steps and as much cfg. Your saved schedules are listed by name.",
    "budget": "The share of the model's work that is done: 0.5 is up to 2x as fast, 0.4 up to 2.5x, 1.0 is exactly the "
    "original result. Lower is faster and further from it. As many whole steps are computed as fit, and more where so "
    "few would give another clip. A schedule that is chosen by name or linked keeps its own mean budget.",
    "target_speedup": "2 means twice as fast: one step in two is computed. For token steps the share follows from the "
    "size of your model and video. 0: use the budget instead.",
    "astraea_schedule": "A schedule from Astraea Schedule Load, Inline or Search. It replaces the schedule chosen in "
    "the list above.",
    "mode": "How work is saved. 'auto' takes what was best in our measurements. 'whole steps': some steps run the "
    "model, the others are forecast and corrected; works with every model and keeps a few latents. 'token steps': "
    "steps run the model for a part of the video's tokens; needs a model whose blocks Astraea knows, and keeps tensors "
    "of every block. 'paper': token steps as the Astraea paper has them.",
    "cache": "Where the results of every block are kept: for modes 'token steps' and 'paper', and for schedules "
    "with steps that compute a part of the video's tokens. All others keep two to seven latents per conditioning. "
    "'auto' starts with the fastest and steps down when memory is short: full, fp8 (half the memory), fp8-host (in "
    "main memory), none (whole steps only; in mode 'paper', every step in full).",
    "attention": "Which kernel computes attention at steps that compute a part of the video's tokens. 'auto' keeps "
    "ComfyUI's own unless another was timed clearly faster on your card and is as accurate; 'host' always keeps "
    "ComfyUI's; 'fast' also allows 8-bit kernels, which change details. Where a named kernel cannot run, the choice is "
    "that of 'auto'; the report says which ran. Attention that another node has put on the model (SageAttention and "
    "the like) is always kept. Mode 'paper' needs more than ComfyUI's attention returns: it uses another kernel.",
}


def plan_inputs(modes: Sequence[str] = MODE_CHOICES, tips: Mapping[str, str] = TIPS) -> list[Any]:
    """Return the inputs that a plan is made from, but for the attention.

    Saved workflows hold their values by name and by order: only append.
    """
    schedule_tip = "\n".join([tips["schedule"], *schedule_tooltips(user_schedule_folder())])
    budget = {"default": DEFAULT_BUDGET, "min": MIN_BUDGET, "max": 1.0, "step": 0.05}
    target = {"default": 0.0, "min": 0.0, "max": MAX_TARGET_SPEEDUP, "step": 0.1}
    return [
        field(io.Combo, "schedule", options=[AUTO, *schedule_names()], default=AUTO, tooltip=schedule_tip),
        field(
            io.Float,
            "budget",
            display_name="compute budget",
            display_mode=io.NumberDisplay.slider,
            **budget,
            tooltip=tips["budget"],
        ),
        field(io.Float, "target_speedup", advanced=True, **target, tooltip=tips["target_speedup"]),
        field(ScheduleType, "astraea_schedule", optional=True, tooltip=tips["astraea_schedule"]),
        _advanced("mode", Choices(modes, FORMER_MODES), tips),
        _advanced("cache", list(CACHE_POLICIES), tips),
    ]


def _advanced(name: str, choices: list[str], tips: Mapping[str, str]) -> Any:
    """Return a list of choices among the advanced inputs; all begin at `auto`."""
    return field(io.Combo, name, options=choices, default=AUTO, optional=True, advanced=True, tooltip=tips[name])


def check_schedule(schedule: str | None, linked: Any) -> bool | str:
    """Return the answer of `validate_inputs`: True, or why the schedule of that name cannot be used.

    The host shows a message once for every input among that method's parameters. So only the schedule is checked there,
    where no linked one replaces it; `execute` checks linked values. The host checks lists and ranges.
    """
    if schedule is None or schedule == AUTO or linked is not NOT_LINKED:
        return True
    return refusal(lambda: find_schedule(schedule))


def stamp_of(schedule: str | None, linked: Any) -> Hashable:
    """Return the answer of `fingerprint_inputs`; linked schedules: files must not make the sampler run again."""
    return schedule_stamp(schedule or AUTO) if linked is NOT_LINKED else "linked"


class AstraeaAccelerate(io.ComfyNode):
    """Puts a plan on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaAccelerate",
            display_name="Astraea Accelerate",
            description="The same video sooner: computes some of the sampling steps and forecasts the others; the "
            "error of a forecast is corrected once the next step is computed. Place it between the model loader and "
            "the sampler; torch.compile nodes go after it.",
            search_aliases=["speed up", "faster", "teacache", "magcache", "easycache", "cachedit", "加速", "高速化"],
            inputs=[
                field(io.Model, "model", tooltip=TIPS["model"]),
                *plan_inputs(),
                _advanced("attention", list(BACKEND_CHOICES), TIPS),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output("accelerated", display_name="model", tooltip="The accelerated model; to the sampler."),
                ReportType.Output(
                    "report", display_name="report", tooltip="Filled while sampling; read it with Astraea Report."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, schedule: str | None = None, astraea_schedule: Any = NOT_LINKED) -> bool | str:
        return check_schedule(schedule, astraea_schedule)

    @classmethod
    def fingerprint_inputs(cls, schedule: str | None = None, astraea_schedule: Any = NOT_LINKED, **_: Any) -> Hashable:
        return stamp_of(schedule, astraea_schedule)

    @classmethod
    def execute(
        cls,
        model: Any,
        schedule: str,
        budget: float,
        target_speedup: float,
        astraea_schedule: Any = None,
        mode: str = AUTO,
        cache: str = "auto",
        attention: str = "auto",
    ) -> io.NodeOutput:
        chosen = schedule if astraea_schedule is None else schedule_of("astraea_schedule", astraea_schedule)
        plan = choose_plan(AccelerateInputs(chosen, budget, target_speedup, mode, cache, attention))
        handle = ReportHandle(on_report=shows_on(cls.hidden))
        return io.NodeOutput(accelerate(model, plan, handle), handle)
