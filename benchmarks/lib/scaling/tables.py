"""The Markdown page of the model of scaling, made from its result. Standard library only."""

from __future__ import annotations

from typing import Any

from ..markdown import table
from .inputs import OWN

HEADINGS = {
    "dense": "dense",
    "whole 0.5": "whole steps, 0.5",
    "whole 0.3": "whole steps, 0.3",
    "tokens 0.5": "token steps, 0.5",
}
UNITS = {"s": (1.0, "s"), "B/s": (1e9, "GB/s"), "B": (1e9, "GB")}
TITLE = """# One video over several GPUs: a model, not a measurement

**Nothing here was measured on several GPUs.** These are the seconds that the sampling of one video would take by
arithmetic, with Astraea in raylight's workers, from the inputs below. Loading, text encoding and VAE come on top.

    {command}

{model}, 81 frames; tokens: {tokens}.
"""
HOW = """## How it is computed

* A rank of P makes the multiplications that sequence parallelism leaves to it, as fast as one GPU makes all of them.
* Some do not split, {unsplit} of a step: attention to the text, since raylight sends
  the whole text from every rank and each then attends to P copies of it; keys and values of the text; the embedding of
  the video; and the last layer.
* Then a rank sends, and computes nothing meanwhile. [formula.py](../lib/scaling/formula.py) counts the bytes that leave
  it in one model call: per block four all-to-alls of self-attention and four of cross-attention, each without the P-th
  that stays, and one all-gather of the hidden states. cfg parallelism sends the prediction alone. Seconds are bytes
  over the bytes per second of the link: no start-up times, and nobody waits for a slower rank.
* A skipped step sends nothing. It takes {skipped} ms, as [measured on an H200](./{own}.md).
* A token step sends q and the output of the selected tokens, k and v of all. Its multiplications are counted. Its own
  work, {per_hidden} ps per number of the hidden states in the same measurement, is as fast as the GPU's memory.
  The first and the last step are full, as there.
* Speed-ups are over the dense run on one GPU. *Store* is what token steps keep on each; – where that does not fit
  beside the weights, and Astraea would keep less, and with cfg 2, where Astraea takes whole steps in their place.

Left out: kernels that are less efficient on a P-th of the rows, the copies around each all-to-all, times between
kernels, GPUs of unequal speed, a host memory that several links share, weights that are moved in and out. Each makes
several GPUs slower than said here.
"""
ONE_GPU = """From what was [measured on an H200](./{own}.md) with the 1.3B model, attention and all else apart, a dense
step of the 14B model would take {h200} on that GPU, which has the arithmetic
of an H100; {h100} are assumed.
"""
BESIDE = """## Beside published runs

Dense, in other programs; the last two in raylight. *By the model* starts from the same time on one GPU and splits as
raylight does, all GPUs by Ulysses. Wan's own times hold text encoding and VAE, and an *H100* may be an H800 of half the
NVLink; for RTX 4090D and RTX 2000 Ada the link of the RTX 4090 is taken. The programs differ by more than the model can
tell.
"""
LAST = """Without seconds: Wan 2.1 I2V 14B at 720p on 8 H100 by ring attention
[3.5×](https://github.com/Wan-Video/Wan2.1/issues/314); raylight on two RTX 4090 with torch's attention
[slower than one](https://github.com/komikndr/raylight/issues/22).

Whole steps multiply the dense speed-up of any machine, since a skipped step costs next to nothing: at budget 0.5 the
{measured:.1f}× of Wan 2.2 at 480p on 8 GPUs would become {doubled:.1f}×.

The paper of Astraea ([arXiv 2506.05096](https://arxiv.org/abs/2506.05096)) states for 8 GPUs and half of the tokens,
over one dense GPU, up to 13.2× (OpenSora, 4 s), and for Wan 2.1 11.1× (4 s) and 8.1× (2 s). By this model, 8 H100 come
to {tokens} with token steps at 0.5 and to {whole} with whole steps.
"""


def run_cell(run: dict[str, Any] | None) -> str | None:
    """Seconds and speed-up."""
    return None if run is None else f"{run['seconds']:.0f} s, {run['speedup']:.1f}×"


def setting_table(rows: list[dict[str, Any]]) -> str:
    header = ["clip", "GPUs", "how", "sent per full step", "sending", *HEADINGS.values(), "store"]
    lines = []
    for row in rows:
        step = row["step"]
        sending = step["sending_seconds"] / (step["sending_seconds"] + step["computing_seconds"])
        sent = [f"{step['sent_bytes'] / 1e9:.2f} GB", f"{sending:.0%}"] if row["gpus"] > 1 else [None, None]
        cells = [run_cell(row["runs"][mode]) for mode in HEADINGS]
        lines.append([row["clip"], row["gpus"], row["layout"], *sent, *cells, f"{row['kept_bytes'] / 1e9:.1f} GB"])
    return table(header, lines)


def bandwidth_table(rows: list[dict[str, Any]]) -> str:
    lines = [[row["clip"], f"{row['bytes_per_second'] / 1e9:g} GB/s", f"{row['speedup']:.1f}×"] for row in rows]
    return table(["clip", "link", "speed-up"], lines)


def machine_section(machine: dict[str, Any]) -> str:
    text = f"## {machine['machine']}\n"
    for setting in machine["settings"]:
        text += f"\n{setting['steps']} steps, cfg {setting['cfg']:g}:\n\n{setting_table(setting['rows'])}"
    return f"{text}\nDense, all GPUs by Ulysses, if the link were another:\n\n{bandwidth_table(machine['bandwidths'])}"


def assumptions(machines: list[dict[str, Any]]) -> str:
    lines = []
    for machine in machines:
        for each in machine["assumed"]:
            factor, unit = UNITS[each["unit"]]
            value = f"{each['value'] / factor:.4g} {unit}"
            lines.append([machine["machine"].split(",")[0], each["of"], value, each["what"], each["source"]])
    return table(["machine", "of", "value", "what", "source"], lines)


def published_table(rows: list[dict[str, Any]]) -> str:
    header = ["run", "model", "clip", "GPUs", "one GPU, s", "several, s", "published", "by the model", "source"]
    lines = []
    for row in rows:
        model = None if row["by_the_model"] is None else f"{row['by_the_model']:.1f}×"
        figures = [f"{row['one_seconds']:g}", f"{row['several_seconds']:g}", f"{row['speedup']:.1f}×", model]
        lines.append([row["who"], row["model"], row["clip"], row["gpus"], *figures, row["source"]])
    return table(header, lines)


def summary_table(result: dict[str, Any], clip: str = "720p") -> str:
    """All GPUs of each machine in its first setting, for one size of the clip."""
    lines = []
    for machine in result["machines"]:
        rows = [row for row in machine["settings"][0]["rows"] if row["clip"] == clip]
        most = max(row["gpus"] for row in rows)
        for row in rows:
            if row["gpus"] == most:
                gained = [row["runs"][mode] for mode in HEADINGS]
                cells = [None if run is None else f"{run['speedup']:.1f}×" for run in gained]
                lines.append([machine["machine"].split(",")[0], row["layout"], *cells])
    return table(["GPUs", "how", *HEADINGS.values()], lines)


def spread(machine: dict[str, Any], mode: str) -> str:
    """Lowest and highest speed-up of all GPUs of a machine in a mode."""
    rows = [row for setting in machine["settings"] for row in setting["rows"]]
    most = max(row["gpus"] for row in rows)
    found = [row["runs"][mode]["speedup"] for row in rows if row["gpus"] == most and row["runs"][mode]]
    return f"{min(found):.1f}× to {max(found):.1f}×"


def by_clip(figures: dict[str, float], form: str, unit: str = "") -> str:
    return " and ".join(f"{figure:{form}}{unit} at {clip}" for clip, figure in figures.items())


def scaling_markdown(result: dict[str, Any]) -> str:
    own, h100 = result["own"], result["machines"][-1]
    tokens = by_clip(result["tokens"], ",")
    assumed = [each for each in h100["assumed"] if each["unit"] == "s"]
    wan = next(row for row in result["published"] if row["gpus"] == 8)
    parts = [
        TITLE.format(command=result["command"], model=result["model"], tokens=tokens),
        HOW.format(
            unsplit=by_clip(result["unsplit_share"], ".2%"),
            skipped=f"{own['skipped_step_seconds'] * 1e3:.1f}",
            per_hidden=f"{own['token_work_per_hidden'] * 1e12:.1f}",
            own=OWN,
        ),
        *(machine_section(machine) for machine in result["machines"]),
        "## What is assumed\n",
        assumptions(result["machines"]),
        ONE_GPU.format(
            own=OWN,
            h200=by_clip(own["dense_step_14b"], ".1f", " s"),
            h100=by_clip({each["of"].rpartition(" ")[2]: each["value"] for each in assumed}, ".1f", " s"),
        ),
        BESIDE,
        published_table(result["published"]),
        LAST.format(
            measured=wan["speedup"],
            doubled=2 * wan["speedup"],
            tokens=spread(h100, "tokens 0.5"),
            whole=spread(h100, "whole 0.5"),
        ),
    ]
    return "\n".join(parts)
