"""The cases of `placement.py`: settings that people run, and lists and solvers of all kinds. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import LISTED, Setting


@dataclass(frozen=True)
class Case:
    """A setting on one model. fitted: the rule's constants were fitted on such runs."""

    setting: Setting
    clips: str = "easy"
    fitted: bool = False

    @property
    def name(self) -> str:
        return self.setting.name if self.clips == "easy" else f"{self.setting.name}, {self.clips}"


HAND_MADE = (1.0, 0.97, 0.96, 0.9, 0.82, 0.8, 0.61, 0.5, 0.44, 0.25, 0.2, 0.06, 0.0)


def foreign(
    name: str, steps: int, sampler: str = "euler", cfg: float = 1.0, shift: float = 8.0, **more: object
) -> Case:
    return Case(Setting(name, name, "", steps, cfg, sampler, (), shift, **more))  # type: ignore[arg-type]


FOREIGN = (
    *(
        foreign(f"{scheduler}-{steps}", steps, scheduler=scheduler, shift=5.0, cfg=cfg)
        for scheduler, steps, cfg in (
            ("karras", 16, 1.0), ("karras", 30, 4.0), ("beta", 20, 1.0), ("beta", 12, 4.0), ("exponential", 20, 1.0),
            ("linear_quadratic", 20, 1.0), ("linear_quadratic", 10, 4.0), ("kl_optimal", 20, 1.0),
            ("kl_optimal", 12, 4.0), ("sgm_uniform", 16, 1.0), ("ddim_uniform", 16, 1.0),
        )
    ),
    foreign("hand-made", 12, levels=HAND_MADE),
    *(
        foreign(f"shift-{shift:g}-{steps}", steps, shift=shift, cfg=cfg)
        for shift, steps, cfg in ((1.0, 7, 1.0), (1.0, 20, 4.0), (3.0, 12, 1.0), (16.0, 7, 1.0), (16.0, 40, 1.0),
                                  (3.0, 60, 1.0))
    ),
    *(
        foreign(sampler, 16, sampler)
        for sampler in ("dpmpp_2m", "uni_pc_bh2", "ipndm", "deis", "gradient_estimation", "heun", "dpm_2",
                        "dpmpp_2s_ancestral",
                        "er_sde", "sa_solver", "lcm", "dpmpp_3m_sde", "seeds_2", "res_multistep_cfg_pp")
    ),
)  # fmt: skip
FITTED = tuple(
    Case(setting, clips, fitted=True)
    for setting in LISTED
    for clips in setting.models
    if not clips.startswith(("hard", "real")) and not clips.endswith("experts")
)
CASES = (*FITTED, *FOREIGN)
FEW_STEPS = tuple(case for case in FITTED if case.setting.steps <= 8)
