"""Expected result of a searched schedule: closeness to the dense result and speed. Read from its provenance.

Files from others may hold anything there: what is missing or makes no sense is left out and never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..limits import MAX_CFG, MAX_STEPS
from .schedule import Schedule

EXPECTED_KEY = "promise"  # in files
MIN_FIGURE = 1e-6  # of every kind; smaller ones were never measured
MAX_DB, MAX_SPEEDUP, MAX_SECONDS = 400.0, 1000.0, 1e7
MAX_WORD_LENGTH = 80
MAX_AXES, MAX_AXIS = 8, 2**20


@dataclass(frozen=True)
class ExpectedResult:
    """Expected loss and time of one run, as the search measured them; None, "" or () where unstated.

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
        """Return the stated values as plain JSON; `expected_from` reads them."""
        said = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}

    def figures(self) -> str:
        """Format speed and loss briefly."""
        return f"{self.speedup:.1f}x at {self.psnr_db:.1f} dB"

    def conditions(self) -> list[str]:
        """Describe the sampling that it holds for."""
        steps = f"{self.steps} steps" if self.steps is not None else ""
        cfg = f"cfg {self.cfg:g}" if self.cfg is not None else ""
        return [each for each in (steps, self.sampler, cfg) if each]


def expected_of(schedule: Schedule) -> ExpectedResult | None:
    """Return the expected result in a schedule's provenance; None where loss or speed-up is missing."""
    return expected_from(schedule.provenance.get(EXPECTED_KEY))


def expected_from(data: Any) -> ExpectedResult | None:
    """Read the expected result from plain values of any origin; None where loss or speed-up is missing."""
    if not isinstance(data, Mapping):
        return None
    psnr_db, speedup = _number(data.get("psnr_db"), MAX_DB), _number(data.get("speedup"), MAX_SPEEDUP)
    if psnr_db is None or speedup is None:
        return None
    return ExpectedResult(
        psnr_db=psnr_db,
        speedup=speedup,
        seconds=_number(data.get("seconds"), MAX_SECONDS),
        dense_seconds=_number(data.get("dense_seconds"), MAX_SECONDS),
        steps=_count(data.get("steps"), MAX_STEPS),
        device=_word(data.get("device")),
        sampler=_word(data.get("sampler")),
        cfg=usable_cfg(data.get("cfg")),
        latent=_shape(data.get("latent")),
    )


def usable_cfg(value: Any) -> float | None:
    """Return a guidance scale of any origin; None for one that no run can have."""
    return _number(value, MAX_CFG)


def describe(expected: ExpectedResult) -> str:
    """Format one line for users, to follow a schedule's name."""
    conditions = ", ".join(expected.conditions())
    return f"promises {expected.figures()}" + (f" ({conditions})" if conditions else "")


def _number(value: Any, most: float) -> float | None:
    """Return the value if it is a number from MIN_FIGURE to `most`; NaN fails both."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and MIN_FIGURE <= value <= most
    return float(value) if fits else None


def _count(value: Any, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most else None


def _word(value: Any) -> str:
    """Return the value if it is one short printable line, else ""."""
    return value.strip() if isinstance(value, str) and value.isprintable() and len(value) <= MAX_WORD_LENGTH else ""


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_AXES:
        return ()
    return tuple(value) if all(_count(axis, MAX_AXIS) is not None for axis in value) else ()
