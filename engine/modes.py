"""The named ways to choose tokens and to estimate the rest. Each is a combination of small parts."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BudgetError
from ..schedules import MODE_NAMES


@dataclass(frozen=True)
class Mode:
    """How a run chooses tokens and estimates what it does not compute.

    score: "change" (input change, mild age term), "random", or "paper" (per block, log-sum-exp times change
        plus an exponential age term).
    token_estimator: "hold", "refit", "scaled_refit" or "forecast" for stale tokens of a token step.
    reuse_estimator: "hold" or "forecast" for the prediction of a reuse step.
    corrects: whether what reuse steps missed is made good at the next computed step.
    """

    name: str
    score: str = "change"
    token_estimator: str = "scaled_refit"
    reuse_estimator: str = "forecast"
    corrects: bool = True

    @property
    def per_block(self) -> bool:
        """Whether every block selects its own tokens and keeps its output instead of its residual."""
        return self.score == "paper"

    @property
    def stores_per_block(self) -> int:
        """Tensors `[rows, N, dim]` kept for each block: one, or two where two values are needed."""
        return 2 if self.per_block or self.token_estimator == "forecast" else 1


MODES = {
    mode.name: mode
    for mode in (
        Mode("default"),
        Mode("paper", score="paper", token_estimator="hold", reuse_estimator="hold", corrects=False),
        Mode("random", score="random"),
        Mode("hold", token_estimator="hold", reuse_estimator="hold", corrects=False),
        Mode("refit", token_estimator="refit"),
        Mode("forecast", token_estimator="forecast", corrects=False),
    )
}
assert set(MODES) == set(MODE_NAMES)


def mode_named(name: str) -> Mode:
    """The mode of that name. Raises BudgetError for an unknown one."""
    if name not in MODES:
        raise BudgetError(f"Mode {name!r} is unknown; choose one of {', '.join(MODES)}.")
    return MODES[name]
