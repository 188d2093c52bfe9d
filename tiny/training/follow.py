"""Measures how well the students follow their teachers, and draws both: `python -m tiny.training.follow`; torch alone.

Clips of a testbed's prompts, prompt number n with seed n, by Euler steps. *guidance* at cfg 1 is compared with the
teacher at the scale that it has built in; *steps*, on each list that it was trained on, with that teacher in FINER
times as many steps. The control is the teacher sampled as the student is: without guidance, in the list's own steps.
PSNR in dB, mean over the prompts, peak = range of the teacher's latents. Writes students/follow.json and a sheet.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..demo import load_pack, part
from .contact_sheet import draw_sheet
from .distil import FINER, GUIDANCE, LISTS, load_teacher
from .testbeds import TESTBEDS, TINY, Testbed

STEPS, SHIFT = 20, 12.0  # of the runs with guidance
SHOWN = 3  # prompts of a sheet
STUDENTS = TINY / "students"


def finer(levels: Sequence[float]) -> list[float]:
    """Return a list of noise levels with every step in FINER equal parts."""
    found = [
        level + (following - level) * number / FINER
        for level, following in itertools.pairwise(levels)
        for number in range(FINER)
    ]
    return [*found, levels[-1]]


class Comparison:
    """Clips of one testbed's prompts by its model and its students."""

    def __init__(self, testbed: Testbed):
        self._testbed, self._sample = testbed, part("tiny.standalone").sample
        self.plain = load_teacher(testbed)
        self.guidance, self.steps = (load_teacher(testbed, testbed.student(name)) for name in ("guidance", "steps"))

    def clips(self, model: Any, levels: Sequence[float], cfg: float = 1.0) -> list[Tensor]:
        contexts = [(self._testbed.context(prompt), self._testbed.context("")) for prompt in self._testbed.prompts]
        return [
            self._sample(model, self._testbed.noise(seed), *context, levels, cfg=cfg)[0]
            for seed, context in enumerate(contexts)
        ]


def likeness(own: Sequence[Tensor], teacher: Sequence[Tensor]) -> float:
    metrics = part("engine.metrics")
    values = [metrics.psnr(a, b, metrics.value_range(b)) for a, b in zip(own, teacher, strict=True)]
    return round(statistics.fmean(values), 2)


def measure(testbed: Testbed) -> tuple[list[dict[str, Any]], list[list[Tensor]]]:
    """Return a row for each student and list, and the clips of teacher, *guidance* and *steps* to show."""
    compared = Comparison(testbed)
    levels = [*part("schedules").flow_sigmas(STEPS, SHIFT), 0.0]
    teacher = compared.clips(compared.plain, levels, GUIDANCE)
    guided = compared.clips(compared.guidance, levels)
    rows = [
        {
            "student": f"{testbed.name} guidance",
            "list": f"{STEPS} steps, shift {SHIFT:g}",
            "psnr": likeness(guided, teacher),
            "control": likeness(compared.clips(compared.plain, levels), teacher),
        }
    ]
    shown: list[list[Tensor]] = [teacher, guided]
    for name, own in LISTS.items():
        fine, student = compared.clips(compared.guidance, finer(own)), compared.clips(compared.steps, own)
        control = likeness(compared.clips(compared.guidance, own), fine)
        found = {"student": f"{testbed.name} steps", "list": name, "psnr": likeness(student, fine), "control": control}
        rows.append(found)
        shown.append(student)
    return rows, shown[:3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=STUDENTS)
    args = parser.parse_args()
    load_pack()
    decode = part("tiny.codec").decode
    rows: list[dict[str, Any]] = []
    for testbed in (TESTBEDS["easy"], TESTBEDS["hard"]):
        found, shown = measure(testbed)
        rows += found
        names = ("teacher, guidance", "student guidance, cfg 1", f"student steps, {next(iter(LISTS))}")
        titles = [f"{prompt} ({name})" for prompt in testbed.prompts[:SHOWN] for name in names]
        clips = [decode(kind[number])[0] for number in range(SHOWN) for kind in shown]
        draw_sheet(titles, clips).save(args.out / f"{testbed.name}.png", optimize=True)
        print(json.dumps(found, indent=1), flush=True)
    (args.out / "follow.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
