"""Unevenness of token changes from step to step on each testbed: `python benchmarks/token_change.py`, torch alone.

Along dense runs (guidance 3, 30 Euler steps, one seed a prompt) the first block's input and the model's prediction are
compared with the step before, token by token. Partial steps pay off if a small share of the tokens holds most of the
change and stays the same from step to step; skipped steps if all change alike. Writes results/token_change.json.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lib.host.environment import commit, cpu_name
from lib.host.process import load_pack
from lib.results import RESULTS, write_json
from torch import Tensor

TOP_SHARES = (0.1, 0.3, 0.5)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STEPS, CFG, SHIFT = 30, 3.0, 8.0
KEPT_SHARE = 0.3  # the most changed tokens, whose overlap from step to step is measured


def rms(difference: Tensor) -> Tensor:
    """Per token, over channels: `[N, C]` to `[N]`."""
    return difference.double().square().mean(-1).sqrt()


def tokens_of(latents: Tensor, patch: int = 2) -> Tensor:
    """`[1, C, T, H, W]` to `[N, C · 4]`, in the model's order."""
    parts = latents[0].unfold(2, patch, patch).unfold(3, patch, patch)
    return parts.permute(1, 2, 3, 0, 4, 5).flatten(3).flatten(0, 2)


def describe(change: Tensor, before: Tensor | None) -> dict[str, Any]:
    """Figures of one step from the change of each token `[N]` and that of the step before."""
    order = change.sort(descending=True)
    squares = order.values.square()
    top = order.indices[: round(KEPT_SHARE * len(change))]
    found: dict[str, Any] = {
        "mean": change.mean().item(),
        "spread": (change.std(correction=0) / change.mean()).item(),
        "quantiles of change over its mean": [
            (change.quantile(q) / change.mean()).item() for q in torch.tensor(QUANTILES, dtype=torch.float64)
        ],
        "squared change in the most changed tokens": {
            str(share): (squares[: round(share * len(change))].sum() / squares.sum()).item() for share in TOP_SHARES
        },
    }
    if before is not None:
        earlier = before.topk(len(top)).indices
        found["most changed tokens that were so before"] = torch.isin(top, earlier).double().mean().item()
    return found


@torch.inference_mode()
def run(model: Any, testbed: Any, prompt: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Figures by step for the first block's input and for the guided denoised latents."""
    inputs: list[Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, args, kwargs: inputs.append(args[0]), with_kwargs=True)
    from astraea.schedules import flow_sigmas

    sigmas = [*flow_sigmas(STEPS, SHIFT), 0.0]
    context = torch.stack([testbed.context(prompt), testbed.context("")])
    x = testbed.noise(seed)
    predictions = []
    try:
        for sigma, following in pairwise(sigmas):
            flows = model(x.expand(2, *x.shape[1:]), torch.full((2,), sigma * 1000), context)
            with_prompt, without = flows.chunk(2)
            flow = without + CFG * (with_prompt - without)
            predictions.append(tokens_of(x - sigma * flow))
            x = x + (following - sigma) * flow
    finally:
        handle.remove()
    found = {}
    for name, values in (("input", [entry[0] for entry in inputs]), ("prediction", predictions)):
        changes = [rms(new - old) for old, new in pairwise(values)]
        found[name] = [describe(change, before) for before, change in zip([None, *changes], changes, strict=False)]
    return found


def average(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Means over runs, step by step, of figures, lists and dictionaries of figures."""

    def mean(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([value[key] for value in values]) for key in values[0]}
        if isinstance(values[0], list):
            return [mean(list(entries)) for entries in zip(*values, strict=True)]
        return sum(values) / len(values)

    return [mean(list(step)) for step in zip(*runs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load_pack()
    from astraea.tiny.standalone import load_tiny
    from astraea.tiny.training.testbeds import TESTBEDS

    result: dict[str, Any] = {
        "benchmark": "token_change",
        "command": "python benchmarks/token_change.py",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "sampling": f"euler, {STEPS} steps, guidance {CFG:g}, shift {SHIFT:g}",
        "quantiles": QUANTILES,
        "testbeds": {},
    }
    for name, testbed in TESTBEDS.items():
        model = load_tiny(testbed.checkpoint)
        runs = [run(model, testbed, prompt, seed) for seed, prompt in enumerate(testbed.prompts)]
        figures = {what: average([one[what] for one in runs]) for what in runs[0]}
        result["testbeds"][name] = {"tokens": testbed.tokens, "runs": len(runs), **figures}
        for what, steps in figures.items():
            top = [step["squared change in the most changed tokens"]["0.3"] for step in steps]
            print(f"{name}, {what}: 30 % of the tokens hold {min(top):.0%} to {max(top):.0%} of the change", flush=True)
    write_json(args.out / "token_change.json", result)


if __name__ == "__main__":
    main()
