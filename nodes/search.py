"""The node `Astraea Search`."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..errors import SearchError
from ..host.search.samplers import SamplerInputs, sampler_named, sampler_names, scheduler_names, sigmas_of
from ..host.search.session import make_cases, search_in_graph
from ..limits import MAX_CFG, MAX_SEED, MAX_STEPS
from ..search.problem.budgets import parse_budgets
from ..search.problem.config import SearchConfig
from .plots.images import to_batch
from .plots.search import draw_search
from .schema import Choices, ScheduleType, field, node_schema, refusal
from .search_inputs import (
    DEFAULT_EFFORT,
    EFFORTS,
    FORMER_EFFORTS,
    MAX_CASES,
    MIN_STEPS,
    SearchInputs,
    check_inputs,
)
from .search_text import search_text

TIPS = {
    "model": "The video model as you sample with it: after LoRA and sampling-shift nodes, before Astraea Accelerate. "
    "A search works for every model whose latent is a video, but not for video and audio in one.",
    "positive": "A prompt like those of your videos. The search compares clips of this prompt.",
    "negative": "The negative prompt of your sampler.",
    "latent": "The size and length of your video, as for the sampler. A search on smaller or shorter clips takes less "
    "time; its schedules mostly hold for larger ones too.",
    "steps": "The number of sampling steps of your finished videos: a schedule is made for a number of steps.",
    "cfg": "The guidance scale of your sampler. At 1.0 the negative prompt is not used and steps take half the time.",
    "sampler_name": "The sampler that you use for finished videos.",
    "scheduler": "The scheduler that you use for finished videos.",
    "first_seed": "The seed of the first clip; further clips take the seeds after it. The same seed finds the same "
    "schedules, unless some have partial steps, whose cost is timed.",
    "budgets": "The shares of the model's work to do, separated by commas: one schedule is searched for each. 0.5 is "
    "up to 2x as fast, 0.4 up to 2.5x, 0.3 up to 3.3x. A search for several takes no longer than for one, unless "
    "it is an instant one.",
    "effort": "The time of the search, counted in clips: 'good' takes about as long as making 30 clips without "
    "acceleration, 'instant' as long as 3. Once a clip was timed, the node says how many minutes that is. More effort "
    "may find better schedules. You can stop at any time: the best so far is saved, and Run goes on from there.",
    "cases": "The number of clips that schedules are compared on; they share the effort. More clips: better for other "
    "seeds and prompts, but fewer schedules are tried. At most 2 with 'quick' and 4 to 8 with 'good' effort; with "
    "several prompts at least one each, as far as that allows. An instant search runs candidates on the first alone.",
    "name": "The schedules are saved under this name and the budget, for example searched-0.50. A finished search "
    "replaces the schedules of an earlier one of the same name.",
    "sampler": "A sampler from a custom-sampling node. It replaces the sampler name above.",
    "sigmas": "Noise levels from a custom-sampling node. They replace steps and scheduler above.",
    "more": "Another prompt, so that the schedules fit more than one kind of video. Clips take the prompts in turn.",
}


class AstraeaSearch(io.ComfyNode):
    """Finds schedules for the user's own model, prompts and sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaSearch",
            display_name="Astraea Search",
            description="Finds the schedules that change your video least at the speed you want, for your own model, "
            "sampler and prompts, and saves them for Astraea Accelerate. Takes as long as making 3 to 100 clips, "
            "once.",
            search_aliases=["find schedule", "optimize", "tune", "evolution", "speed up"],
            is_output_node=True,
            inputs=[*_required_inputs(), *_optional_inputs()],
            outputs=[
                ScheduleType.Output(
                    "schedule",
                    display_name="schedule",
                    tooltip="The best schedule for the first budget of the list; to Astraea Accelerate.",
                ),
                io.Image.Output(
                    "plots",
                    display_name="plots",
                    tooltip="Four plots: closeness against speed, how the search went, the schedules, and which "
                    "steps matter.",
                ),
                io.String.Output("text", display_name="text", tooltip="The schedules found, as text."),
            ],
        )

    @classmethod
    def validate_inputs(cls, budgets: str | None = None) -> bool | str:
        # One input only: ComfyUI shows the message once for each input named here. It checks ranges itself.
        return refusal(lambda: budgets is None or parse_budgets(budgets))

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        first_seed: int,
        budgets: str,
        effort: str,
        cases: int,
        name: str,
        sampler: Any = None,
        sigmas: Any = None,
        positive_2: Any = None,
        positive_3: Any = None,
        positive_4: Any = None,
    ) -> io.NodeOutput:
        inputs = check_inputs(
            SearchInputs(steps, cfg, sampler_name, scheduler, first_seed, budgets, effort, cases, name)
        )
        config = SearchConfig(parse_budgets(budgets), EFFORTS[inputs.effort], inputs.first_seed)
        sampling = SamplerInputs(
            sampler=sampler_named(sampler_name) if sampler is None else sampler,
            sigmas=sigmas_of(model, inputs.steps, sampler_name, scheduler) if sigmas is None else sigmas,
            cfg=inputs.cfg,
        )
        prompts = [each for each in (positive, positive_2, positive_3, positive_4) if each is not None]
        clips = make_cases(prompts, negative, latent, inputs.first_seed, inputs.cases)
        run = search_in_graph(model, clips, sampling, config, inputs.name)
        if not run.schedules:
            raise SearchError(
                "These budgets are less than the first and the last step, which are always computed. List higher ones."
            )
        found = search_text(run, config.budgets)
        plots = to_batch(*draw_search(run.result))
        # One plot on the node, at a size that can be read; all of them at the output.
        shown = {"text": (found,), **ui.PreviewImage(plots[:1], cls=cls).as_dict()}
        return io.NodeOutput(run.schedules[0], plots, found, ui=shown)


def _required_inputs() -> list[Any]:
    return [
        field(io.Model, "model", tooltip=TIPS["model"]),
        field(io.Conditioning, "positive", tooltip=TIPS["positive"]),
        field(io.Conditioning, "negative", tooltip=TIPS["negative"]),
        field(io.Latent, "latent", tooltip=TIPS["latent"]),
        field(io.Int, "steps", default=30, min=MIN_STEPS, max=MAX_STEPS, tooltip=TIPS["steps"]),
        field(io.Float, "cfg", default=6.0, min=0.0, max=MAX_CFG, step=0.1, tooltip=TIPS["cfg"]),
        field(io.Combo, "sampler_name", options=sampler_names(), default="uni_pc", tooltip=TIPS["sampler_name"]),
        field(io.Combo, "scheduler", options=scheduler_names(), default="simple", tooltip=TIPS["scheduler"]),
        # Not called "seed": the editor would change it after each run, and every run would be a new search.
        field(io.Int, "first_seed", default=1, min=0, max=MAX_SEED, advanced=True, tooltip=TIPS["first_seed"]),
        field(io.String, "budgets", default="0.5, 0.4, 0.3", tooltip=TIPS["budgets"]),
        field(
            io.Combo, "effort", options=Choices(EFFORTS, FORMER_EFFORTS), default=DEFAULT_EFFORT, tooltip=TIPS["effort"]
        ),
        field(io.Int, "cases", default=4, min=1, max=MAX_CASES, advanced=True, tooltip=TIPS["cases"]),
        field(io.String, "name", default="searched", tooltip=TIPS["name"]),
    ]


def _optional_inputs() -> list[Any]:
    return [
        field(io.Sampler, "sampler", optional=True, tooltip=TIPS["sampler"]),
        field(io.Sigmas, "sigmas", optional=True, tooltip=TIPS["sigmas"]),
        *(field(io.Conditioning, f"positive_{i}", optional=True, tooltip=TIPS["more"]) for i in (2, 3, 4)),
    ]
