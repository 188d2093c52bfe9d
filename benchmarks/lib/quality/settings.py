"""The tables of `quality.py`: one for each testbed and sampling config. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

TESTBEDS = ("easy", "hard")
ALL_BUDGETS = (0.7, 0.5, 0.4, 0.3, 0.25)
MAIN_BUDGETS = ALL_BUDGETS[1:]
FEW_BUDGETS = (0.5, 0.3)
MAIN_TABLES = ("easy-cfg3", "easy-cfg6", "hard-cfg3", "hard-cfg6")  # in the README and as plots
# By space. A dense run of hard clips takes four times as long as one of easy clips.
PAIRS = {"easy": {"whole": 16, "main": 8}, "hard": {"whole": 16, "main": 3}}


@dataclass(frozen=True)
class Table:
    """One table. space: the candidates it compares, "main" or "whole", see `candidates.candidates`.

    pairs: prompt–seed pairs, 0: as many as PAIRS names; budgets: of controls and bundled schedules.
    """

    testbed: str
    label: str
    cfg: float = 3.0
    steps: int = 30
    sampler: str = "euler"
    scheduler: str = "simple"
    space: str = "main"
    pairs: int = 0
    budgets: tuple[float, ...] = FEW_BUDGETS

    def __post_init__(self) -> None:
        if not self.pairs:
            object.__setattr__(self, "pairs", PAIRS[self.testbed][self.space])

    @property
    def name(self) -> str:
        return f"{self.testbed}-{self.label}"


def both(label: str, **sampling_config: object) -> list[Table]:
    return [Table(testbed, label, **sampling_config) for testbed in TESTBEDS]  # type: ignore[arg-type]


LISTED = (
    Table("easy", "cfg3", space="whole", budgets=ALL_BUDGETS),
    Table("hard", "cfg3", space="whole", budgets=MAIN_BUDGETS),
    Table("easy", "cfg6", cfg=6.0, pairs=16, budgets=ALL_BUDGETS),
    Table("hard", "cfg6", cfg=6.0, pairs=4, budgets=MAIN_BUDGETS),
    *both("cfg1", cfg=1.0),
    *both("12-steps", steps=12),
    *both("20-steps", steps=20),
    *both("50-steps", steps=50),
    *both("uni_pc", sampler="uni_pc", steps=20),
    *both("res_multistep", sampler="res_multistep", scheduler="beta", steps=20, cfg=6.0),
)
TABLES = {table.name: table for table in LISTED}
