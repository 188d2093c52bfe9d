"""What a gap missed is made good with every solver: its weights are read off impulses, and the run keeps to them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from fuzzed_cases import profile_of as probed

from astraea.engine.blocks.interface import RowGroup, TokenLayout
from astraea.engine.calls.context import CallRequest
from astraea.engine.planning.plan import make_plan
from astraea.engine.run import Run
from astraea.engine.sampler.solver import MAX_MEMORY, Solver
from astraea.kernels import attend_reference
from astraea.schedules import Forecast, PredictionPrior, flow_sigmas, periodic
from parabolas import Parabolas

SIGMAS = [0.95, 0.9, 0.84, 0.77, 0.69, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
STEPS = len(SIGMAS) - 1
PLAN = make_plan(periodic("r", [0.0, 1.0], flow_sigmas(30)))
PATTERNS = {"gaps of one": "FF.F.F.F.FF", "long gaps": "FF..F...F.F", "computed steps between": "FF..FFF..FF"}


def euler(denoised, sigmas, x):
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        told = denoised(k, x)
        x = told + (x - told) * (following / sigma)
    return x


def multistep(denoised, sigmas, x, order=2):
    """Exponential multistep: the polynomial through the last predictions, integrated over log σ."""
    told = []
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        told = [*told, (-math.log(sigma), denoised(k, x))][-order:]
        x = step(x, sigma, following, told)
    return x


def corrected(denoised, sigmas, x):
    """As `multistep`, but each step is taken again once the next prediction is known, as UniPC does."""
    told, before = [], None
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        told = [*told, (-math.log(sigma), denoised(k, x))][-2:]
        if before is not None:
            x = step(*before, sigma, told)
        before = (x, sigma)
        x = step(x, sigma, following, told)
    return x


def step(x, sigma, following, told):
    x, times = x * (following / sigma), [time for time, _ in told]
    for n, (_, value) in enumerate(told):
        x = x + value * integral(-math.log(sigma), -math.log(following), n, times)
    return x


def integral(begin, end, place, times):
    """∫ e^(t − end) Lₙ(t) dt by Gauss–Legendre, Lₙ the Lagrange polynomial of the times."""
    total = 0.0
    for node, weight in ((-math.sqrt(0.6), 5 / 9), (0.0, 8 / 9), (math.sqrt(0.6), 5 / 9)):
        t = (begin + end) / 2 + node * (end - begin) / 2
        basis = math.prod((t - other) / (times[place] - other) for n, other in enumerate(times) if n != place)
        total += weight * (end - begin) / 2 * math.exp(t - end) * basis
    return total


def heun(denoised, sigmas, x):
    """Two calls a step: the second at the next noise level, where the mean of both slopes leads."""
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        slope = (x - denoised(k, x)) / sigma
        ahead = x + slope * (following - sigma)
        if k < len(sigmas) - 2:
            slope = (slope + (ahead - denoised(k + 1, ahead)) / following) / 2
        x = x + slope * (following - sigma)
    return x


def adams_bashforth(denoised, sigmas, x):
    """Slopes of the last four steps, each made of latents and prediction: errors of old latents come back, too."""
    factors = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    slopes = []
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        slopes = [(x - denoised(k, x)) / sigma, *slopes][:4]
        for factor, slope in zip(factors[len(slopes) - 1], slopes, strict=True):
            x = x + factor * slope * (following - sigma)
    return x


def guided_away(denoised, sigmas, x):
    """As the negative conditioning weighs in CFG++: each step takes it off again, by the noise that is left."""
    for k, (sigma, following) in enumerate(pairwise(sigmas)):
        x = (x - denoised(k, x)) * (following / sigma)
    return x


SOLVERS = {
    "euler": (euler, 0),
    "two calls a step": (heun, 1),
    "slopes of four steps": (adams_bashforth, 3),
    "negative weights": (guided_away, 0),
    "multistep, order 2": (multistep, 1),
    "multistep, order 3": (lambda *args: multistep(*args, order=3), 2),
    "with a corrector": (corrected, 2),
}


def profile_of(sampler, sigmas):
    """As a probe finds it. These samplers ask for their calls' levels by number."""
    return probed(lambda told, levels, x: sampler(lambda k, x: told(k, levels[k], x), levels, x), sigmas)


def site(sigma):
    groups = (RowGroup("cond", slice(0, 1)),)
    return CallRequest(
        sigma=sigma,
        groups=groups,
        layout=TokenLayout(16),
        runner=None,
        attend=attend_reference,
        blocks=1,
        device=torch.device("cpu"),
    )


def result(sampler, profile, pattern, sigmas=SIGMAS, plan=PLAN, follow=lambda k, x: 0.0, prior=None):
    """Latents at the end, denoised latents being a parabola of sigma; `pattern`: F computed, . reused.

    follow: what predictions also do, by step and latents.
    """
    generator = torch.Generator().manual_seed(0)
    base, slope, curvature, begin = torch.randn(4, 1, 4, 3, dtype=torch.float64, generator=generator)
    run = Run.of(plan, sigmas, profile=profile)
    run.context = replace(run.context, prior=prior or Parabolas())
    run.budgets = [1.0 if kind == "F" else 0.0 for kind in pattern]

    def denoised(k, x):
        call = run.begin_call(site(sigmas[k]))
        if call.kind == "reuse":
            return run.end_call(call, call.estimate())
        return run.end_call(call, base + sigmas[k] * slope + sigmas[k] ** 2 * curvature + follow(k, x))

    return sampler(denoised, sigmas, begin)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize("name", SOLVERS)
def test_the_latents_come_back_to_where_computing_every_step_leads(name, pattern):
    sampler, memory = SOLVERS[name]
    profile = profile_of(sampler, SIGMAS)
    assert profile.solver.memory == memory
    dense = result(sampler, profile, "F" * STEPS)
    assert torch.allclose(result(sampler, profile, pattern), dense, atol=1e-9)
    if sampler is not euler:
        assert not torch.allclose(result(sampler, None, pattern), dense, atol=1e-4), "Euler's weights would do"


def share(solver, older, call):
    """The share of prediction `call` that makes up for an error of 1 in `older`."""
    own = solver.cumulative_weight(call, call)
    return solver.cumulative_weight(older, call) / own if own else 0.0


@pytest.mark.parametrize("last", [0.0, 0.05])
def test_weights_of_euler_are_those_of_the_noise_levels(last):
    sigmas = [*SIGMAS[:-1], last]
    found, known = profile_of(euler, sigmas).solver, Solver.from_sigmas(sigmas)
    assert found.memory == known.memory == 0
    for k in range(STEPS):
        for n in range(k):
            assert share(found, n, k) == pytest.approx(share(known, n, k), abs=1e-9)


@pytest.mark.parametrize("name", ["euler", "multistep, order 2", "with a corrector"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_predictions_that_follow_their_latents_are_read_as_such(name, pattern):
    """Each repeats a share of its latents' error, as a model does whose content is decided."""
    sampler, _ = SOLVERS[name]
    profile, prior = profile_of(sampler, SIGMAS), PredictionPrior()
    right: dict[int, torch.Tensor] = {}

    def note(k, x):
        right.setdefault(k, x.clone())
        return 0.0

    def follow(k, x):
        return prior.response(SIGMAS[k]) * (x - right[k])

    dense = result(sampler, profile, "F" * STEPS, follow=note)
    off = {
        response: (
            result(sampler, profile, pattern, follow=follow, prior=PredictionPrior(Forecast(response=response))) - dense
        ).norm()
        for response in (0.0, prior.forecast.response)
    }
    assert off[prior.forecast.response] < 0.95 * off[0.0]


def test_noise_levels_that_do_not_fall_have_no_weight():
    known = Solver.from_sigmas([1.0, 0.5, 0.5, 0.2, 0.0])
    assert share(known, 0, 1) == share(known, 1, 2) == share(known, 2, 3) == 0.0
    assert share(known, 0, 2) == pytest.approx(1 / 3)


def test_solvers_it_cannot_follow_are_refused():
    assert Solver.from_impulse_response([[0.0], [math.nan]], [1.0, 1.0]) is None
    assert Solver.from_impulse_response([[0.0], [0.0]], [1.0, 1.0]) is None, "a prediction that counts for nothing"
    steps = 2 * MAX_MEMORY + 4
    generator = torch.Generator().manual_seed(0)
    anyhow = torch.randn(steps + 1, steps, generator=generator).tril(-1)
    assert Solver.from_impulse_response(anyhow.tolist(), [1.0] * (steps + 1)) is None
