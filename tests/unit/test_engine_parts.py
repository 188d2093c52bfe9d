"""Selection, store, cost, plan and report, each on its own."""

from __future__ import annotations

import copy

import pytest
import torch

from astraea.engine.blocks.interface import RowGroup, TokenLayout
from astraea.engine.blocks.selection import Selection, change_score, rms_change, select_tokens, selected_count
from astraea.engine.calls.context import CallRequest
from astraea.engine.estimators import ESTIMATORS
from astraea.engine.planning.cost import BlockCost, budget_for_speedup
from astraea.engine.planning.modes import MODES, check_mode
from astraea.engine.planning.plan import make_plan
from astraea.engine.report import CallRecord, Report, ReportHandle
from astraea.engine.run import Run
from astraea.engine.sampler.profile import SamplerProfile
from astraea.engine.sampler.solver import Solver
from astraea.engine.state.residual_store import CachePolicy, ResidualStore, StoreSize, allocate
from astraea.errors import BudgetError, ScheduleError
from astraea.kernels import attend_reference
from astraea.schedules import Schedule, flow_sigmas, periodic, uniform

SCHEDULE = periodic("r", [0.0, 1.0], flow_sigmas(30))
CPU = torch.device("cpu")


def request(sigma: float, key: str, tokens: int) -> CallRequest:
    """A call of one row of a model whose blocks are not looked at."""
    return CallRequest(
        sigma=sigma,
        groups=(RowGroup(key, slice(0, 1)),),
        layout=TokenLayout(tokens),
        runner=OneTensor(),
        attend=attend_reference,
        blocks=1,
        device=CPU,
    )


class OneTensor:
    """The part of a block runner that calls ask before a block runs."""

    family, in_place = "none", False


def test_selection_takes_the_best_video_tokens_and_all_others():
    score = torch.tensor([[0.0, 5.0, 1.0, 9.0, 3.0, 0.0, 0.0]])
    indices = select_tokens(score, 2, slice(1, 5)).indices
    assert indices.tolist() == [[0, 1, 3, 5, 6]]


def test_selection_is_stable_on_ties():
    assert select_tokens(torch.zeros(2, 10), 4, slice(0, 10)).indices.tolist() == [[0, 1, 2, 3]] * 2


def test_gather_and_put_are_inverse_per_row():
    x = torch.randn(3, 10, 4)
    selection = Selection(torch.tensor([[0, 3], [1, 2], [8, 9]]), 10)
    rows = selection.gather(x)
    assert torch.equal(rows[1], x[1, [1, 2]])
    result = selection.put(x.clone(), rows + 1)
    assert torch.equal((result != x).any(-1).nonzero(), torch.tensor([[0, 0], [0, 3], [1, 1], [1, 2], [2, 8], [2, 9]]))


@pytest.mark.parametrize(("tokens", "unit"), [(384, 16), (2047, 16), (2048, 128), (32760, 128)])
def test_selected_counts_repeat_and_rounding_is_carried(tokens, unit):
    owed, total = 0.0, 0
    for _ in range(20):
        count = selected_count(0.37, tokens, owed)
        owed += 0.37 * tokens - count
        total += count
        assert count % unit == 0
    assert total == pytest.approx(20 * 0.37 * tokens, abs=unit)


def test_selected_count_stays_between_one_unit_and_all():
    assert selected_count(0.0001, 384) == 16
    assert selected_count(0.9999, 380) == 380
    assert selected_count(0.5, 8) == 8


def test_rms_change_and_score():
    x = torch.zeros(1, 4, 9)
    reference = x.clone()
    x[0, 2] = 2.0
    change = rms_change(x, reference)
    assert torch.allclose(change, torch.tensor([[0.0, 0.0, 2.0, 0.0]]))
    assert change_score(change, torch.zeros(1, 4)).argmax() == 2
    assert change_score(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 0.0, 0.0]])).argmax() == 1


@pytest.mark.parametrize("policy", ["full", "fp8", "fp8-host"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_store_knows_its_bytes_and_gives_back_what_it_keeps(policy, dtype):
    size = StoreSize(tensors=3, rows=2, tokens=50, dim=64)
    store = ResidualStore(size, policy, dtype, CPU)
    assert store.nbytes == size.bytes(policy, dtype)
    kept = (torch.randn(2, 50, 64) * torch.logspace(-4, 4, 50).view(1, -1, 1)).to(dtype)
    store.write(1, kept)
    back = store.read(1)
    assert back.dtype == dtype
    error = (back.float() - kept.float()).norm(dim=-1) / kept.float().norm(dim=-1)
    assert error.max() < (1e-6 if policy == "full" else 0.04)


def test_fp8_store_halves_a_bf16_one():
    size = StoreSize(tensors=30, rows=2, tokens=32760, dim=1536)
    assert size.bytes("fp8", torch.bfloat16) == pytest.approx(size.bytes("full", torch.bfloat16) / 2, rel=0.01)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
FP8_POLICIES = pytest.mark.parametrize("policy", ["fp8", "fp8-host"])


@DTYPES
@FP8_POLICIES
def test_fp8_store_gives_zeros_back_as_zeros(policy, dtype):
    store = ResidualStore(StoreSize(1, 2, 4, 8), policy, dtype, CPU)
    for written in (torch.zeros(2, 4, 8), torch.randn(2, 4, 8) * torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 4, 1)):
        store.write(0, written.to(dtype))
        back = store.read(0)
        assert back.isfinite().all()
        assert torch.equal(back == 0.0, written.to(dtype) == 0.0)


@DTYPES
@FP8_POLICIES
@pytest.mark.parametrize("peak", [1e-3, 1.3e-5, 1e-6, 6e-8, 6e4])
def test_fp8_store_keeps_small_and_large_tokens(policy, dtype, peak):
    """In fp16 a scale of peak / 448 vanishes below a peak of 1.3e-5."""
    store = ResidualStore(StoreSize(1, 2, 5, 16), policy, dtype, CPU)
    written = (torch.linspace(-1.0, 1.0, 160).view(2, 5, 16) * peak).to(dtype)
    store.write(0, written)
    back = store.read(0)
    assert back.dtype == dtype
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # what the dtype itself can tell apart
    assert (back.float() - written.float()).abs().max() <= 0.04 * peak + smallest


def test_fp8_store_is_written_alike_in_one_part_and_in_many(monkeypatch):
    written = torch.randn(2, 50, 64).half()
    kept = []
    for most in (10**9, 64 * 7, 1):
        monkeypatch.setattr("astraea.engine.state.residual_store.VALUES_AT_ONCE", most)
        store = ResidualStore(StoreSize(1, 2, 50, 64), "fp8", torch.float16, CPU)
        store.write(0, written)
        kept.append(store.read(0))
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])


def test_allocation_without_a_policy_left():
    store, reason = allocate(StoreSize(1, 1, 1, 1), ("none",), torch.float32, CPU)
    assert store is None
    assert reason == "the cache is switched off"


def test_cost_shares_match_the_paper_models():
    """Wan 1.3B and 14B at 480p, 81 frames, by counting: K and V for all tokens are the floor."""
    small = BlockCost.of(tokens=32760, dim=1536, feed_forward=8960)
    large = BlockCost.of(tokens=32760, dim=5120, feed_forward=13824)
    assert 1 / small.relative_cost(0.5) == pytest.approx(1.94, abs=0.03)
    assert 1 / large.relative_cost(0.5) == pytest.approx(1.85, abs=0.03)
    assert small.relative_cost(0.0) == 0.0
    assert small.relative_cost(1.0) == 1.0


def test_budget_for_a_speedup_reaches_it():
    cost = BlockCost.of(tokens=32760, dim=1536, feed_forward=8960)
    budget = budget_for_speedup(2.0, cost, lambda mean: [mean] * 10)
    assert cost.speedup([budget] * 10) == pytest.approx(2.0, rel=0.01)


def test_plan_is_shared_by_copies():
    plan = make_plan(SCHEDULE, budget=0.5)
    assert copy.deepcopy({"plan": plan})["plan"] is plan


@pytest.mark.parametrize("budget", [0.0, 0.05, 1.1, float("nan"), float("inf")])
def test_budget_outside_its_range_is_refused(budget):
    with pytest.raises(BudgetError, match="outside"):
        make_plan(SCHEDULE, budget=budget)


@pytest.mark.parametrize("target", [0.5, 11.0, float("nan")])
def test_target_outside_its_range_is_refused(target):
    with pytest.raises(BudgetError, match="outside"):
        make_plan(SCHEDULE, target_speedup=target)


def test_unknown_mode_and_cache_are_refused():
    with pytest.raises(BudgetError, match="Mode 'clever'"):
        make_plan(SCHEDULE, mode="clever")
    with pytest.raises(BudgetError, match="Cache policy 'disk'"):
        make_plan(SCHEDULE, cache="disk")


def test_cache_ladder_steps_down():
    assert CachePolicy("auto").ladder() == ("full", "fp8", "fp8-host", "none")
    assert CachePolicy("fp8").ladder() == ("fp8", "fp8-host", "none")


def test_every_token_estimator_has_a_mode():
    assert {"default", "paper", "random", "hold", "refit", "forecast"} <= set(MODES)
    assert {mode.token_estimator.name for mode in MODES.values()} == set(ESTIMATORS)


def test_a_schedule_of_an_unknown_mode_is_refused():
    schedule = Schedule("later", ((1.0, 1.0), (0.5, 0.5)), mode="later")
    with pytest.raises(ScheduleError, match="mode 'later' is not one of default, paper"):
        check_mode(schedule)
    with pytest.raises(BudgetError, match="Mode 'later'"):
        make_plan(schedule)


def report_of(*calls: tuple[str, int, float]) -> Report:
    report = Report(steps=len(calls))
    for step, (kind, computed, seconds) in enumerate(calls):
        report.calls.append(CallRecord(step, 1.0 - step / 10, 0.5, kind, computed, 100, seconds))
    return report


def test_report_leaves_the_warm_up_call_out_of_its_estimate():
    report = report_of(("full", 100, 9.0), ("full", 100, 1.0), ("reuse", 0, 0.0), ("full", 100, 1.0))
    assert report.dense_seconds == pytest.approx(4.0)
    assert report.computed_share == 0.75
    assert report.as_dict()["speedup"] == pytest.approx(4.0 / 11.0)
    report.tuning_seconds = 1.0  # of the calls' own, and of no later run
    assert report.speedup == pytest.approx(4.0 / 10.0)


def test_summary_is_one_line_with_the_gain():
    summary = report_of(("full", 100, 1.0), ("full", 100, 1.0), ("token", 50, 0.5), ("reuse", 0, 0.0)).summary()
    assert "\n" not in summary
    assert "62.5% of tokens" in summary
    assert "1.60x" in summary


def test_report_without_calls_says_so():
    assert Report(notes=["why"]).summary() == "nothing was accelerated: why"
    assert Report().summary() == "nothing was accelerated: no model call was made"


def test_handle_keeps_the_newest_reports_and_survives_copies():
    handle = ReportHandle(keep=2)
    assert handle.last is None
    for steps in (1, 2, 3):
        copy.deepcopy(handle).add(Report(steps=steps))
    assert [report.steps for report in handle.reports] == [2, 3]


def test_a_run_of_full_steps_claims_no_gain():
    assert "the speed of" not in report_of(("full", 100, 2.0), ("full", 100, 1.0)).summary()


def test_a_call_after_the_end_of_its_run_is_computed_and_nothing_is_kept():
    """One device's error ends the run while another device goes on to its next call."""
    run = Run.of(make_plan(SCHEDULE), [*flow_sigmas(10), 0.0])
    site = request(1.0, "cond", 4)
    denoised = torch.ones(1, 4)
    run.end_call(run.begin_call(site), denoised)
    assert len(run.finish().calls) == 1
    late = run.begin_call(site)
    assert (late.kind, late.runs_blocks) == ("full", False)
    assert run.end_call(late, denoised) is denoised
    assert not len(run.states)
    assert len(run.report.calls) == 1


def test_without_room_for_a_store_all_conditionings_of_a_step_do_alike(monkeypatch):
    """The first call that finds no room is not the only one whose prediction is missing at the next step."""

    def no_room(*_):
        raise torch.OutOfMemoryError("there is no room")

    monkeypatch.setattr("astraea.engine.state.residual_store.ResidualStore", no_room)
    sigmas = [*flow_sigmas(8), 0.0]
    run = Run.of(make_plan(uniform("u", 0.4, flow_sigmas(8))), sigmas)
    kinds = []
    for sigma in sigmas[:-1]:
        for key in ("positive", "negative"):
            call = run.begin_call(request(sigma, key, 64))
            if call.kind == "reuse":
                run.end_call(call, call.estimate())
            else:
                call.begin(torch.ones(1, 64, 4))
                run.end_call(call, torch.ones(1, 4))
            kinds.append(call.kind)
    assert kinds[::2] == kinds[1::2]
    assert kinds[:4:2] == ["full", "full"]
    assert "reuse" in kinds
    report = run.finish()
    assert any(note.startswith("whole steps are skipped instead of tokens: no memory") for note in report.notes)
    assert not any("nothing had been kept" in note for note in report.notes)


@pytest.mark.parametrize("mode", ["hold", "default"])
@pytest.mark.parametrize("known", [True, False], ids=["the sampler is known", "it is not"])
def test_tiles_keep_to_their_own_predictions_when_noise_is_added_back(mode, known):
    """Three calls of one conditioning in each of the sampler's, which goes back to an earlier step once."""
    sigmas = [*flow_sigmas(10), 0.0]
    route = [*range(7), *range(2, 10)]
    solver = Solver.from_sigmas([sigmas[step] for step in route] + [0.0])
    profile = SamplerProfile.of_calls(sigmas, [sigmas[step] for step in route], solver if mode == "default" else None)
    profile = profile if known else SamplerProfile.unknown(sigmas)
    run = Run.of(make_plan(periodic("r", [0.0, 1.0], sigmas[:-1], full_start=1), mode=mode), sigmas, profile=profile)
    kinds = []
    for step in route:
        for tile in (1.0, 2.0, 3.0):
            call = run.begin_call(request(sigmas[step], "cond", 4))
            kinds.append(call.kind)
            right = torch.full((1, 4), tile)
            result = run.end_call(call, call.estimate() if call.kind == "reuse" else right.clone())
            assert torch.allclose(result, right), f"step {step}, tile {tile}"
        run.on_step(step)
    assert kinds.count("reuse") >= 15
