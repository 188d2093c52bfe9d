"""Every model of the zoo under `auto`: exact at budget 1; at 0.5 half the calls; refused ones say why.

What was seen on each host is kept in `outcomes/`, from which docs/models.md is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import zoo

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import Report, ReportHandle
from astraea.host.sampling.architectures import architecture_of
from astraea.host.sampling.patch_model import accelerate, family_of
from hosts import current_host

RECORD = "ASTRAEA_RECORD_OUTCOMES"
OUTCOMES = Path(__file__).parent / "outcomes"
STEPS = 8


@pytest.fixture(scope="module")
def outcomes():
    """`{model: outcome}` of the running ComfyUI: what was recorded; with the environment variable RECORD, written."""
    host = current_host()
    assert host is not None
    file, found = OUTCOMES / f"{host.version}.json", {}
    recorded = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    yield recorded, found
    if os.environ.get(RECORD):
        OUTCOMES.mkdir(exist_ok=True)
        kept = {name: outcome for name, outcome in recorded.items() if name in zoo.MODELS}
        file.write_text(json.dumps(kept | found, indent=1, sort_keys=True) + "\n", "utf-8")


@pytest.mark.parametrize("name", zoo.MODELS)
def test_model_is_accelerated_or_says_why_not(name, outcomes):
    recorded, found = outcomes
    found[name] = {"kind": zoo.MODELS[name].kind, **outcome_of(name)}
    if recorded and not os.environ.get(RECORD):  # of other versions of ComfyUI there is no record
        assert found[name] == recorded.get(name), f"not what {OUTCOMES.name}/ has: {RECORD}=1 writes it there"


def outcome_of(name: str) -> dict[str, str]:
    """The outcome for a user: `steps` is "token", "whole", "full" or "absent"; `why`: the reason for not more."""
    try:
        sampled = zoo.MODELS[name].build()
    except zoo.NotOnThisHost:
        return {"steps": "absent", "why": ""}
    expected = kit.joined(zoo.sample(sampled, steps=STEPS))
    same, _ = automatic(sampled, budget=1.0)
    assert torch.equal(same, expected)
    result, report = automatic(sampled, budget=0.5)
    assert result.isfinite().all()
    assert torch.equal(kit.joined(zoo.sample(sampled, steps=STEPS)), expected)
    refused = family_of(sampled.model)[1]
    if refused:
        assert torch.equal(result, expected)
        assert refused in report.summary()
        return {"steps": "full", "why": refused}
    forced = next((call.reason for call in report.calls if call.reason), "")
    if forced:
        assert torch.equal(result, expected)
        assert report.computed_share == 1.0
        assert forced in report.summary()
        return {"steps": "full", "why": forced}
    assert report.computed_share == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(result, expected)
    return token_steps_of(sampled, report)


def token_steps_of(sampled: Any, automatic_report: Report) -> dict[str, str]:
    """The outcome under a schedule with token steps: "token" where some were run, else "whole" and the reason."""
    limit = architecture_of(sampled.model).limit
    if limit:
        assert f"whole steps; {limit}" in automatic_report.summary()
        return {"steps": "whole", "why": limit}
    result, report = kit.run(sampled, steps=4)
    assert result.isfinite().all()
    if report.counts()["token"]:
        return {"steps": "token", "why": next((call.reason for call in report.calls if call.reason), "")}
    return {"steps": "whole", "why": next(call.reason for call in report.calls if call.reason)}


def automatic(sampled: Any, budget: float) -> tuple[torch.Tensor, Report]:
    """A run as the node plans it with its default settings."""
    handle = ReportHandle()
    fast = accelerate(sampled.model, make_plan(None, budget=budget), handle)
    result = kit.joined(zoo.sample(sampled, fast, steps=STEPS))
    assert handle.last is not None
    return result, handle.last
