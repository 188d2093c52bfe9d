"""What `quality.py` measures: one table for each testbed and way of sampling. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

TESTBEDS = ("easy", "hard")
# On hard clips one run takes ten seconds and more: timed runs are made once, ablations on half of the pairs.
REPEATS = {"easy": 3, "hard": 1}
PAIRS = 16
ABLATION_PAIRS = {"easy": PAIRS, "hard": 8}
ABLATION_BUDGETS = {"easy": (0.5, 0.4, 0.3), "hard": (0.5, 0.3)}


@dataclass(frozen=True)
class Table:
    """One table. space: which candidates it compares, see `quality_candidates.candidates`."""

    testbed: str
    label: str
    cfg: float = 3.0
    steps: int = 30
    sampler: str = "euler"
    scheduler: str = "simple"
    space: str = "main"

    @property
    def is_ablation(self) -> bool:
        """Whether it compares variants of one schedule."""
        return self.space not in ("main", "whole")

    @property
    def pairs(self) -> int:
        return ABLATION_PAIRS[self.testbed] if self.is_ablation else PAIRS

    @property
    def name(self) -> str:
        return f"{self.testbed}-{self.label}"


WAYS = (
    {"label": "cfg3", "space": "whole"},
    {"label": "cfg6", "cfg": 6.0, "space": "whole"},
    {"label": "cfg1", "cfg": 1.0},
    {"label": "12-steps", "steps": 12},
    {"label": "20-steps", "steps": 20},
    {"label": "50-steps", "steps": 50},
    {"label": "uni_pc", "sampler": "uni_pc", "steps": 20},
    {"label": "res_multistep", "sampler": "res_multistep", "scheduler": "beta", "steps": 20, "cfg": 6.0},
    {"label": "ablation-tokens", "space": "ablation-tokens"},
    {"label": "ablation-reuse", "space": "ablation-reuse"},
    {"label": "ideas-cfg3", "space": "ideas"},
    {"label": "ideas-cfg6", "space": "ideas", "cfg": 6.0},
)
TABLES = {table.name: table for table in (Table(testbed, **way) for testbed in TESTBEDS for way in WAYS)}
