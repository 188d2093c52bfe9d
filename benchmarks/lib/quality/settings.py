"""The settings that people run, and the models that stand for theirs: rows of `quality.py`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

LTX_LEVELS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
PLAIN = ("easy", "hard", "real")
GUIDANCE_DISTILLED = ("easy guidance", "hard guidance")
STEP_DISTILLED = ("easy steps", "hard steps")
EXPERTS = ("easy experts", "hard experts")
# Prompt–seed pairs by testbed: a dense run of hard or real clips takes four times as long as one of easy clips.
PAIRS = {"easy": 6, "hard": 3, "real": 3}


@dataclass(frozen=True)
class Setting:
    """Sampling as people use it with a model. share: part of the runs of ComfyUI's video templates.

    calls: steps to compute; usual: those that `auto` computes at half the budget, which are more in runs of few steps.
    models: testbeds and, after a space, their student; levels: noise levels, or those of the scheduler at the shift.
    """

    name: str
    title: str
    share: str
    steps: int
    cfg: float
    sampler: str
    calls: tuple[int, ...]
    shift: float = 8.0
    levels: tuple[float, ...] = ()
    scheduler: str = "simple"
    models: tuple[str, ...] = PLAIN
    usual: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "usual", self.usual or self.steps // 2)

    @property
    def described(self) -> str:
        scheduler = "" if self.scheduler == "simple" else f"{self.scheduler}, "
        levels = "a list of levels" if self.levels else f"{scheduler}shift {self.shift:g}"
        return f"{self.steps} {self.sampler}, {levels}, cfg {self.cfg:g}"


TWENTY, EIGHT = (14, 10, 7), (6, 5, 4)
LISTED = (
    Setting("h3", "MiniMax-H3", "43 %", 20, 1.0, "res_multistep", TWENTY, 12.0, models=PLAIN + GUIDANCE_DISTILLED),
    Setting("ltx", "LTX-2.3", "24 %", 8, 1.0, "euler", EIGHT, levels=LTX_LEVELS, models=PLAIN + STEP_DISTILLED),
    Setting("wan-2.2", "Wan 2.2", "13 %", 20, 3.5, "euler", TWENTY, 5.0, models=PLAIN + EXPERTS),
    Setting(
        "ltx-ancestral",
        "LTX-2.5",
        "7 %",
        8,
        1.0,
        "euler_ancestral",
        (6, 5),
        levels=LTX_LEVELS,
        models=STEP_DISTILLED,
        usual=5,
    ),
    Setting("h3-turbo", "H3 turbo", "4 %", 8, 1.0, "res_multistep", EIGHT, 10.0, models=PLAIN + STEP_DISTILLED),
    Setting("scail", "SCAIL-2", "4 %", 6, 1.0, "euler", (5, 4), 5.0, models=PLAIN + STEP_DISTILLED, usual=4),
    Setting("four", "four steps", "–", 4, 1.0, "euler", (3,), 5.0, models=PLAIN + STEP_DISTILLED, usual=3),
    Setting("wan-5b", "Wan 2.2 5B", "1 %", 20, 5.0, "uni_pc", TWENTY, models=PLAIN),
    Setting("wan-2.1", "Wan 2.1", "1 %", 30, 6.0, "uni_pc", (21, 15, 10), models=PLAIN),
    Setting("hunyuan", "HunyuanVideo 1.5", "1 %", 20, 6.0, "euler", TWENTY, 7.0, models=PLAIN),
    Setting("thirty", "30 Euler steps", "–", 30, 3.0, "euler", (21, 15, 10), models=("easy", "hard")),
)
SETTINGS = {setting.name: setting for setting in LISTED}
