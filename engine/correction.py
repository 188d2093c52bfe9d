"""Corrections: a computed call returns its prediction plus what the reuse calls before it missed.

With the weights of predictions in the latents (`engine.solver`) the latents come back to where computing every step
leads, as far as the missed predictions are known. A solver that uses predictions again would use the correction again,
too: it is taken back in the calls that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from .cond_state import Branch
from .estimators import Estimated
from .solver import Solver

Missed = Callable[[Sequence[Estimated], Sequence[float]], "Tensor | None"]
"""missed(gap, weights): the weighted sum of what reuse calls missed; None where that is nothing."""


def correct(branch: Branch, solver: Solver, call: int, missed: Missed | None, last_response: float) -> Tensor | None:
    """What to add to the prediction of a call, for the latents after it to be as if all before had been right.

    missed: for a computed call, by which the reuse calls before it are known better; None at a reuse call.
    last_response: how much of what the latents lack its prediction follows; above 0 at a run's last call only, as no
    later one makes up for that.
    """
    gap: list[Estimated] = []
    if missed is not None:
        gap, branch.gap = branch.gap, []
    own = solver.weight(call, call)
    lacking = missed(gap, _weights(gap, solver, call, last_response * own)) if missed is not None else None
    for older, excess in branch.excess.items():
        lacking = _added(lacking, excess, -solver.used(older, call))
    if branch.lacking is not None:
        lacking = _added(lacking, branch.lacking, solver.carried(call))
    correction = None
    if lacking is not None and solver.carries(call):
        correction, lacking = lacking / own, None
    branch.lacking = lacking
    if solver.memory:
        _remember(branch, solver, call, correction, gap, missed)
    return correction


def _weights(gap: Sequence[Estimated], solver: Solver, call: int, response: float) -> list[float]:
    """Of what each reuse call missed, in the latents after `call`."""
    found = [solver.weight(entry.call, call) for entry in gap]
    if response:
        found = [w + response * solver.enters(entry.call, call) for w, entry in zip(found, gap, strict=True)]
    return found


def _remember(
    branch: Branch,
    solver: Solver,
    call: int,
    correction: Tensor | None,
    gap: Sequence[Estimated],
    missed: Missed | None,
) -> None:
    """Keep what the solver will use again, of predictions that were corrected and of those that missed something."""
    kept = dict(branch.excess)
    if correction is not None:
        kept[call] = correction
    for entry in gap:
        errors = [(entry.call, 1.0)] if entry.call > call - solver.memory else solver.fold(entry.call, call)
        lacking = missed([entry], [1.0]) if errors and missed is not None else None
        if lacking is not None:
            for newer, factor in errors:
                kept[newer] = _sum(kept.get(newer), lacking, -factor)
    for older in [older for older in kept if older <= call - solver.memory]:
        excess = kept.pop(older)
        for newer, factor in solver.fold(older, call):
            kept[newer] = _sum(kept.get(newer), excess, factor)
    branch.excess = kept


def _added(total: Tensor | None, term: Tensor, factor: float) -> Tensor | None:
    """The total, changed in place, plus factor · term; None while nothing has been added."""
    if not factor:
        return total
    return term * factor if total is None else total.add_(term, alpha=factor)


def _sum(total: Tensor | None, term: Tensor, factor: float) -> Tensor:
    """As `_added`, in a new tensor: the total may be in use elsewhere."""
    return term * factor if total is None else total + term * factor
