"""Token steps of models with an adapter, in the real ComfyUI on a CPU: their time against a dense step's.

python benchmarks/speed_models.py [--comfyui TREE] [--pairs 3] [--only NAME]

Small models with random weights, of the host's own classes, at 2,000 tokens and more. Each call is computed densely as
well, right before or after it, on the same input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from lib.host import process
from lib.host.environment import environment
from lib.host.harness import accelerated, with_dense_beside
from lib.host.tables import speed_models_markdown
from lib.results import ROOT, spread, write_json

BUDGET, STEPS = 0.5, 4
# By zoo name: arguments of the network's constructor, and the latent's shape.
LARGE: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "Wan 2.1 text to video": ({"dim": 512, "ffn_dim": 2048, "num_heads": 4}, (1, 16, 8, 32, 32)),
    "MiniMax-H3": (
        {"hidden_size": 512, "num_attention_heads": 8, "attention_head_dim": 64, "ffn_hidden_size": 1024},
        (1, 24, 8, 32, 32),
    ),
    "HunyuanVideo": (
        {"hidden_size": 512, "num_heads": 4, "mlp_ratio": 4.0, "axes_dim": [16, 56, 56]},
        (1, 16, 8, 32, 32),
    ),
    "HunyuanVideo 1.5": (
        {"hidden_size": 512, "num_heads": 4, "mlp_ratio": 4.0, "axes_dim": [16, 56, 56]},
        (1, 32, 8, 16, 16),
    ),
    "Kandinsky 5": ({"model_dim": 512, "ff_dim": 2048, "axes_dims": (16, 24, 24)}, (1, 16, 8, 32, 32)),
    "CogVideoX 5B image to video": ({"num_attention_heads": 8, "attention_head_dim": 64}, (1, 16, 8, 32, 32)),
    "LTXV": (
        {"num_attention_heads": 8, "attention_head_dim": 64, "cross_attention_dim": 512},
        (1, 128, 8, 16, 16),
    ),
    "Mochi": (
        {"hidden_size_x": 512, "hidden_size_y": 256, "num_heads": 4, "mlp_ratio_x": 24.0},
        (1, 12, 8, 32, 32),
    ),
    "Cosmos-Predict2 image to video": (
        {"model_channels": 512, "num_heads": 4, "mlp_ratio": 4.0, "max_img_h": 32, "max_img_w": 32},
        (1, 16, 8, 32, 32),
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    process.add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each model (default 3)")
    parser.add_argument("--only", choices=LARGE, metavar="NAME", help="this model of LARGE alone")
    return parser.parse_args()


def large(zoo: Any, name: str) -> Any:
    """A model of the zoo with wide layers, and an empty latent of as many tokens."""
    import torch

    sizes, shape = LARGE[name]
    with zoo.sizes(**sizes):
        sampled = zoo.MODELS[name].build()
    samples = sampled.latent["samples"]
    if getattr(samples, "is_nested", False):
        _, *others = samples.unbind()
        sampled.latent = {"samples": type(samples)([torch.zeros(shape), *others])}
    else:
        sampled.latent = {"samples": torch.zeros(shape)}
    return sampled


def measure(zoo: Any, name: str, pairs: int) -> dict[str, Any]:
    """Dense time over token time of the same call, and the ideal by the adapter's cost model."""
    from astraea.host.sampling.architectures import architecture_of
    from astraea.schedules import flow_sigmas, uniform

    sampled = large(zoo, name)
    base, times = with_dense_beside(sampled.model)
    model, handle = accelerated(base, uniform("half the tokens", BUDGET, flow_sigmas(30)))
    ratios, shares, seconds = [], [], []
    for number in range(pairs + 1):
        times.clear()
        zoo.sample(sampled, model, steps=STEPS)
        made = list(zip(times, handle.last.calls, strict=True))
        if number:  # the first run warms up
            ratios += [dense / own for (dense, own), call in made if call.kind == "token"]
            seconds += [dense for (dense, _), call in made if call.kind == "token"]
            shares += [call.computed / call.tokens for _, call in made if call.kind == "token"]
    architecture = architecture_of(sampled.model)
    text = sampled.positive[0][0].shape[1]
    conditions = {"c_crossattn": sampled.positive[0][0]}
    samples = sampled.latent["samples"]
    if getattr(samples, "is_nested", False):
        conditions["latent_shapes"] = [each.shape for each in samples.unbind()]
    layout = architecture.layout(LARGE[name][1], conditions)
    cost = architecture.cost(layout, text)
    ideal = 1.0 / statistics.fmean(cost.relative_cost(share) for share in shares)
    return {
        "model": name,
        "sizes": LARGE[name][0],
        "latent": list(LARGE[name][1]),
        "tokens": layout.video,
        "others": layout.total - layout.video,
        "share": statistics.fmean(shares),
        "dense_seconds": spread(seconds),
        "speedup": spread(ratios),
        "ideal": ideal,
        "share_of_ideal": statistics.median(ratios) / ideal,
        "notes": handle.last.notes,
    }


def main() -> None:
    args = arguments()
    host = process.start(args, cpu=True)
    sys.path.append(str(ROOT / "tests" / "host"))
    import torch
    import zoo

    rows: list[dict[str, Any]] = []
    path = args.out / f"speed_models-{host.version}.json"
    for name in [args.only] if args.only else LARGE:
        try:
            with torch.inference_mode():
                rows.append(measure(zoo, name, args.pairs))
        except zoo.NotOnThisHost as reason:
            print(f"{name}: {reason}")
            continue
        row = rows[-1]
        print(f"{name}: {row['speedup']['median']:.2f}x, ideal {row['ideal']:.2f}, {row['share_of_ideal']:.0%} of it")
    result = {
        "benchmark": "speed_models",
        "environment": environment(host, args, "cpu"),
        "settings": {"budget": BUDGET, "steps": STEPS, "pairs": args.pairs},
        "rows": rows,
    }
    write_json(path, result)
    path.with_suffix(".md").write_text(speed_models_markdown(result), "utf-8")
    print(f"\nwritten: {path} and .md")


if __name__ == "__main__":
    main()
