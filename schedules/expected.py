"""What a searched schedule promises: how close to the dense result, how much sooner. Read from its provenance.

A file from others may hold anything there: what is missing or makes no sense is left out, and never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .schedule import MAX_POINTS, Schedule

KEY = "promise"
LEAST_FIGURE = 1e-6  # of all kinds; what is smaller was never measured
MOST_DB, MOST_SPEEDUP, MOST_SECONDS, MOST_CFG = 400.0, 1000.0, 1e7, 1e4
LONGEST_WORD = 80
MOST_AXES, LONGEST_AXIS = 8, 2**20


@dataclass(frozen=True)
class Promise:
    """Expected loss and time of one run, as the search measured them; None, "" or () where it does not say.

    psnr_db: PSNR of the final latents against the dense run, in dB; speedup: model seconds of a dense run over its own.
    seconds, dense_seconds: in the model, of one run; device: what they were measured on.
    steps, sampler, cfg, latent: the sampling that it holds for; latent is a shape.
    """

    psnr_db: float
    speedup: float
    seconds: float | None = None
    dense_seconds: float | None = None
    steps: int | None = None
    device: str = ""
    sampler: str = ""
    cfg: float | None = None
    latent: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What it says, as plain JSON values; `promise_from` gives it back."""
        said = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    def figures(self) -> str:
        """Speed and loss, in short."""
        return f"{self.speedup:.1f}x at {self.psnr_db:.1f} dB"

    def conditions(self) -> list[str]:
        """The sampling that it holds for, in words."""
        steps = f"{self.steps} steps" if self.steps is not None else ""
        cfg = f"cfg {self.cfg:g}" if self.cfg is not None else ""
        return [each for each in (steps, self.sampler, cfg) if each]


def promise_of(schedule: Schedule) -> Promise | None:
    """What the schedule's provenance promises; None where there is no loss or no speed-up in it."""
    return promise_from(schedule.provenance.get(KEY))


def promise_from(data: Any) -> Promise | None:
    """The promise in plain values from anywhere; None where there is no loss or no speed-up in them."""
    if not isinstance(data, Mapping):
        return None
    psnr_db, speedup = _number(data.get("psnr_db"), MOST_DB), _number(data.get("speedup"), MOST_SPEEDUP)
    if psnr_db is None or speedup is None:
        return None
    return Promise(
        psnr_db=psnr_db,
        speedup=speedup,
        seconds=_number(data.get("seconds"), MOST_SECONDS),
        dense_seconds=_number(data.get("dense_seconds"), MOST_SECONDS),
        steps=_count(data.get("steps"), MAX_POINTS),
        device=_word(data.get("device")),
        sampler=_word(data.get("sampler")),
        cfg=usable_cfg(data.get("cfg")),
        latent=_shape(data.get("latent")),
    )


def usable_cfg(value: Any) -> float | None:
    """A guidance scale from anywhere; None where it is none that a run can have."""
    return _number(value, MOST_CFG)


def tell(promise: Promise) -> str:
    """One line for users, to stand behind a schedule's name."""
    conditions = ", ".join(promise.conditions())
    return f"promises {promise.figures()}" + (f" ({conditions})" if conditions else "")


def _number(value: Any, most: float) -> float | None:
    """The value where it is a number from LEAST_FIGURE to `most`; NaN fails both."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and LEAST_FIGURE <= value <= most
    return float(value) if fits else None


def _count(value: Any, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most else None


def _word(value: Any) -> str:
    """The value where it is one short printable line."""
    return value.strip() if isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_WORD else ""


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MOST_AXES:
        return ()
    return tuple(value) if all(_count(axis, LONGEST_AXIS) is not None for axis in value) else ()
