"""The node `Astraea Report`."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..engine.report import Report, ReportHandle
from .checks import flag
from .plots.images import to_batch
from .plots.run_report import draw_report
from .report_text import report_text
from .schema import ReportType, field, node_schema

NOTHING_YET = (
    "Astraea has no finished run to report yet. Connect 'samples' to the LATENT output of the sampler that uses the "
    "model, so that this node waits for it. If it is connected, the sampler did not use this model, or "
    "used it only for the negative conditioning: then put the Astraea node before the model of the positive one."
)
NO_NODE = (
    "Nothing was accelerated: the Astraea node before the sampler is bypassed, or its output 'report' is not linked "
    "here."
)


class AstraeaReport(io.ComfyNode):
    """Shows the report of the last run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="AstraeaReport",
            display_name="Astraea Report",
            description="Shows what an accelerated run saved, which steps it computed, and every remark.",
            is_output_node=True,
            inputs=[
                field(
                    ReportType,
                    "report",
                    optional=True,  # a node that is bypassed gives none
                    tooltip="The report output of Astraea Accelerate or Astraea Sparse Attention.",
                ),
                field(
                    io.Latent,
                    "samples",
                    tooltip="The sampler's result. It is only used to wait for the sampler; the report shows the last "
                    "run.",
                ),
                field(
                    io.Boolean,
                    "list_steps",
                    default=False,
                    optional=True,
                    tooltip="Adds a line for every sampling step to the text output.",
                ),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The report in readable lines."),
                io.Image.Output("plot", display_name="picture", tooltip="Gain, times and steps in one picture."),
            ],
        )

    @classmethod
    def execute(cls, samples: Any, report: ReportHandle | None = None, list_steps: bool = False) -> io.NodeOutput:
        shown = report.last if report is not None else None
        if report is None:
            text, plot = NO_NODE, to_batch(draw_report(Report(notes=[NO_NODE])))
        elif shown is None:
            text, plot = NOTHING_YET, to_batch(draw_report(Report()))
        else:
            text, plot = report_text(shown, flag("list_steps", list_steps)), to_batch(draw_report(shown))
        return io.NodeOutput(text, plot, ui={"text": (text,), **ui.PreviewImage(plot, cls=cls).as_dict()})
