"""The bytes that leave a GPU in a run, by the formula: Ulysses, ring and cfg parallelism. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..scaling.formula import cfg_bytes, ulysses_bytes
from ..scaling.model import Steps
from .cluster import Division
from .setting import Setting

Call = tuple[int, int, int]  # step, tokens computed, and tokens of a full call, as a report has them


def call_bytes(setting: Setting, division: Division, share: float = 1.0, rows: int = 0) -> int:
    """Return the bytes that leave one rank in a computed model call. rows: conditionings in it, 0 for all.

    A ring passes keys and values on, R − 1 times: of its group's tokens and of its group's copies of the text, each
    rank its part of the heads, as many numbers as the rank has tokens (of the video or the text) times all channels.
    """
    network, ranks = setting.network, division.ulysses * division.ring
    own = -(-setting.clip.tokens // ranks)
    rows = rows or setting.rows
    numbers = rows // division.cfg * setting.itemsize
    sent = ulysses_bytes(
        tokens=own * division.ulysses, ranks=division.ulysses, dim=network.dim, layers=network.layers,
        rows=rows // division.cfg, itemsize=setting.itemsize, text=network.text, share=share,
    )  # fmt: skip
    passed_on = 2 * (division.ring - 1) * network.layers * (own + network.text) * network.dim
    gathered = (ranks - division.ulysses) * own * network.dim  # by the ranks of other Ulysses groups
    sent += numbers * (passed_on + gathered)
    if division.cfg > 1:
        sent += cfg_bytes(prediction=setting.clip.prediction, itemsize=setting.itemsize, ranks=division.cfg)
    return sent


def planned_bytes(setting: Setting, division: Division, steps: Steps) -> int:
    """Return the bytes of a run of such steps."""
    full, token = (call_bytes(setting, division, share) for share in (1.0, steps.share))
    return steps.full * full + steps.token * token


def bytes_of(setting: Setting, division: Division, calls: Sequence[Call]) -> int:
    """Return the bytes of a run's model calls; conditionings are in one call of a step, or in one each."""
    at_step = Counter(step for step, _, _ in calls)
    computed = [(step, done / tokens) for step, done, tokens in calls if done]
    return sum(call_bytes(setting, division, share, setting.rows // at_step[step]) for step, share in computed)
