"""The nodes that load, save and hold schedules."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from comfy_api.latest import io, ui

from ..engine.planning.modes import check_mode
from ..errors import ScheduleError
from ..host.folders import find_schedule, schedule_names, user_schedule_folder
from ..schedules import Schedule, check_new_name, load, parse, periodic, save, serialise
from .accelerate_inputs import schedule_stamp
from .checks import flag, schedule_of, text
from .schema import ScheduleType, field, node_schema, refusal

EXAMPLE = serialise(periodic("example", [0.0, 0.0, 1.0], [round(1.0 - i / 20, 2) for i in range(20)]))
OUTPUT_TIP = "The schedule; to Astraea Accelerate or Astraea Schedule Save."


class AstraeaScheduleLoad(io.ComfyNode):
    """Reads a saved schedule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaScheduleLoad",
            display_name="Astraea Schedule Load",
            description="Loads a saved schedule: to save it under another name, or for several Astraea "
            "Accelerate nodes.",
            inputs=[
                field(
                    io.Combo,
                    "schedule_name",
                    options=schedule_names(),
                    tooltip="Your saved schedules. Press R in the graph after adding a file, so that the list is read "
                    "again.",
                )
            ],
            outputs=[ScheduleType.Output("schedule", display_name="schedule", tooltip=OUTPUT_TIP)],
        )

    @classmethod
    def validate_inputs(cls, schedule_name: str | None = None) -> bool | str:
        return refusal(lambda: schedule_name is None or find_schedule(schedule_name))

    @classmethod
    def fingerprint_inputs(cls, schedule_name: str | None = None) -> Hashable:
        return schedule_stamp(schedule_name or "")

    @classmethod
    def execute(cls, schedule_name: str) -> io.NodeOutput:
        return io.NodeOutput(find_schedule(text("schedule_name", schedule_name)))


class AstraeaScheduleSave(io.ComfyNode):
    """Writes a schedule into the user's folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaScheduleSave",
            display_name="Astraea Schedule Save",
            description="Saves a schedule under a name, so that Astraea Accelerate and Astraea Schedule Load list it.",
            is_output_node=True,
            inputs=[
                field(ScheduleType, "schedule", tooltip="The schedule to save, for example from Astraea Search."),
                field(
                    io.String,
                    "name",
                    default="my schedule",
                    tooltip="Letters, digits, spaces, '.', '_', '+' and '-'. It becomes the file's name; folders "
                    "cannot be part of it.",
                ),
                field(
                    io.Boolean,
                    "overwrite",
                    default=False,
                    tooltip="Replace a schedule that is already saved under this name.",
                ),
            ],
            outputs=[ScheduleType.Output("saved", display_name="schedule", tooltip="The schedule under its new name.")],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return refusal(lambda: name is None or check_new_name(name))

    @classmethod
    def execute(cls, schedule: Schedule, name: str, overwrite: bool) -> io.NodeOutput:
        named = schedule_of("schedule", schedule).renamed(check_new_name(text("name", name)))
        path = user_schedule_folder() / f"{name}.json"
        if not _is_saved(named, path):
            save(named, user_schedule_folder(), overwrite=flag("overwrite", overwrite))
        return io.NodeOutput(named, ui=ui.PreviewText(f"Saved as {path}"))


def _is_saved(schedule: Schedule, path: Any) -> bool:
    """Tell whether the file holds this schedule already: queueing a graph twice is no conflict."""
    try:
        return path.exists() and serialise(load(path)) == serialise(schedule)
    except ScheduleError:
        return False


class AstraeaScheduleInline(io.ComfyNode):
    """Holds a schedule in the workflow itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaScheduleInline",
            display_name="Astraea Schedule Inline",
            description="Holds a schedule as text in the node itself, so that a shared workflow carries its schedule.",
            inputs=[
                field(
                    io.String,
                    "schedule_json",
                    multiline=True,
                    # Braces are JSON here, not the alternatives of a dynamic prompt.
                    dynamic_prompts=False,
                    default=EXAMPLE,
                    tooltip="The content of a schedule file: [sigma, budget] pairs from high to low sigma; budget 1 "
                    "computes the whole step, 0 none of it, 0.3 the 30 % of the video that change most.",
                )
            ],
            outputs=[ScheduleType.Output("schedule", display_name="schedule", tooltip=OUTPUT_TIP)],
        )

    @classmethod
    def validate_inputs(cls, schedule_json: str | None = None) -> bool | str:
        return refusal(lambda: schedule_json is None or _parse(schedule_json))

    @classmethod
    def execute(cls, schedule_json: str) -> io.NodeOutput:
        return io.NodeOutput(_parse(text("schedule_json", schedule_json)))


def _parse(given: str) -> Schedule:
    return check_mode(parse(given, "The text in Astraea Schedule Inline"))
