"""Locates a model call in its run: its step, and which of the sampler's calls it is for each conditioning.

The noise level decides. Where a node gives the model another level than the sampler's, the sampler's step callback
does. Calls are never counted over a run: caches of other packs leave some out.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from .profile import SamplerProfile, is_same


@dataclass(frozen=True)
class CallPosition:
    """The position of a call in its run, for one conditioning.

    step: of the run; call: index of the sampler's call, None where unknown; ordinal: index among several calls that the
    conditioning gets for one of the sampler's (tiles of a picture, say).
    """

    step: int
    call: int | None
    ordinal: int


@dataclass
class _Conditioning:
    """Calls of one conditioning at the current noise level.

    seen: calls so far; expected: calls that the sampler makes at this level; reached: by ordinal, the sampler's next
    call; tiles: model calls that the conditioning gets for one call of the sampler, None until the first level is over.
    """

    first_sigma: float
    sigma: float | None = None
    seen: int = 0
    expected: int = 1
    tiles: int | None = None
    reached: dict[int, int] = field(default_factory=dict)


class CallTracker:
    """Locates the calls of one run; not safe under threads by itself."""

    def __init__(self, profile: SamplerProfile):
        self._profile = profile
        self._seen: dict[Hashable, _Conditioning] = {}
        self._callbacks = 0
        self._reports_steps = False
        self._called = False
        self.steps_without_call: set[int] = set()  # steps of the sampler in which no model call reached this pack
        self._has_single_calls = all(count == 1 for count in profile.calls_per_step)
        self.levels_differ = False  # the model has been given other noise levels than the sampler's

    def on_step(self, step: int) -> None:
        """Take the sampler's report that the first call of this step is done."""
        if not self._called:
            self.steps_without_call.add(step)
        self._called = False
        self._callbacks = step + 1
        self._reports_steps = True

    def locate(self, key: Hashable, sigma: float) -> CallPosition:
        """Return the position of a call at `sigma` for the conditioning of that key."""
        self._called = True
        known = self._seen.setdefault(key, _Conditioning(sigma))
        if known.sigma is None or not is_same(sigma, known.sigma):
            self._next_level(known, sigma)
        ordinal = self._ordinal(known)
        known.seen += 1
        call = self._match(known, ordinal, sigma)
        if call is not None:
            known.reached[ordinal] = call + 1
            return CallPosition(self._profile.call_steps[call], call, ordinal)
        step = self._step_without_match(known, sigma)
        return CallPosition(step, self._single_call_of(step), ordinal)

    def _next_level(self, known: _Conditioning, sigma: float) -> None:
        if known.sigma is not None and known.tiles is None:
            known.tiles = max(1, known.seen // known.expected)
        known.sigma, known.seen = sigma, 0
        known.expected = max(1, self._calls_in_a_row(known.reached.get(0, 0), sigma))

    def _calls_in_a_row(self, start: int, sigma: float) -> int:
        """Count the calls that the sampler makes at this level, from its call `start` on, before it goes to another."""
        calls = self._profile.calls
        first = next((c for c in range(start, len(calls)) if is_same(sigma, calls[c])), None)
        if first is None:
            return 0
        end = first
        while end < len(calls) and is_same(sigma, calls[end]):
            end += 1
        return end - first

    def _ordinal(self, known: _Conditioning) -> int:
        """Return the ordinal of a call: its tile, as tiles come in turn; a new one beyond the expected calls."""
        tiles = known.tiles or 1
        own = tiles * known.expected
        return known.seen % tiles if known.seen < own else tiles + known.seen - own

    def _match(self, known: _Conditioning, ordinal: int, sigma: float) -> int | None:
        if self.levels_differ:
            return None
        calls = self._profile.calls
        start = known.reached.get(ordinal, 0)
        return next((c for c in range(start, len(calls)) if is_same(sigma, calls[c])), None)

    def _step_without_match(self, known: _Conditioning, sigma: float) -> int:
        """Return the step of a noise level; from the first call that cannot be in it on, the step of the callbacks."""
        profile = self._profile
        if not self.levels_differ:
            step = profile.step_of(sigma)
            if self._is_possible(step, known, sigma):
                return step
            self.levels_differ = self._reports_steps
        return min(self._callbacks, profile.steps - 1)

    def _is_possible(self, step: int, known: _Conditioning, sigma: float) -> bool:
        """Tell whether a call can belong to a step. A sampler reports a step after its first call, or reports none."""
        if not self._reports_steps:
            return step == 0 or not is_same(sigma, known.first_sigma)
        if self._profile.calls and self._has_single_calls:
            return step == self._callbacks
        return step in (self._callbacks - 1, self._callbacks) or is_same(sigma, self._profile.levels[step])

    def _single_call_of(self, step: int) -> int | None:
        """Return the only call of a step that was not matched by its noise level; None where steps have several."""
        profile = self._profile
        if not self.levels_differ or not self._has_single_calls or not profile.calls:
            return None
        return profile.call_steps.index(step)
