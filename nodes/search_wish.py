"""From the widgets of `Astraea Search` to what is searched for; everything that cannot work is refused here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import SearchError

EFFORTS = {
    "quick (10 dense runs)": 10.0,
    "good (30 dense runs)": 30.0,
    "thorough (100 dense runs)": 100.0,
}
MOST_STEPS, MOST_CASES, MOST_CFG = 1000, 16, 100.0


def check_amounts(steps: int | None, cfg: float | None, cases: int | None, first_seed: int | None) -> None:
    """Raise SearchError for amounts that cannot work; None is a value that is not known yet."""
    if steps is not None and not 2 <= steps <= MOST_STEPS:
        raise SearchError(
            f"{steps} steps cannot be searched: at least 2 are needed, and there is little to gain below 12. Use as "
            f"many as for your finished videos, at most {MOST_STEPS}."
        )
    if cfg is not None and not (math.isfinite(cfg) and 0.0 <= cfg <= MOST_CFG):
        raise SearchError(f"The cfg {cfg:g} is outside 0...{MOST_CFG:g}. Use the one of your sampler.")
    if cases is not None and not 1 <= cases <= MOST_CASES:
        raise SearchError(f"{cases} clips are outside 1...{MOST_CASES}. 4 are enough for most searches.")
    if first_seed is not None and not 0 <= first_seed < 2**64:
        raise SearchError(f"The seed {first_seed} is outside 0...2^64.")


def check_word(what: str, word: str | None, known: Sequence[str]) -> None:
    """Raise SearchError for a word that is not in its list, which ComfyUI 0.3.64 does not check itself."""
    if word is not None and word not in known:
        raise SearchError(f"The {what} '{word}' is unknown; choose one of {', '.join(known)}.")
