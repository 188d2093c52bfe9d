"""Trains the embedded model: `python -m tiny.training.train` from the pack's root; `--kind hard` for the hard clips.

Seeded and resumable: flow matching on procedural clips; every step draws its clips, noise and times from the step's
own seed, so a resumed run continues exactly where it stopped. Writes the checkpoint, the loss curve and nothing else.
`--start` takes an exported checkpoint's weights instead of random ones: what is known of one kind of clips helps with
the other.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..codec import encode
from ..model import FREQUENCY_DIM, Attention, ModelConfig, TinyWan, timestep_frequencies
from .clips import draw_batch
from .testbeds import TESTBEDS

HERE = Path(__file__).parent
TRAINING_SHIFT = 5.0
EMPTY_PROMPT_SHARE = 0.12
COOLING = 0.1  # of all steps, at the end
# Timesteps. A denoiser changes slowly with the noise level; of waves faster than this it learns noise, not more.
SMOOTH_OVER = 20.0
VALIDATION_SEED = 987_654_321


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=TESTBEDS, default="easy", help="of clips")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="exported weights to begin with")
    parser.add_argument("--steps", type=int, default=13_000)
    parser.add_argument("--batch", type=int, help="clips a step, an even number (easy: 8, hard: 4)")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--matrix-rate", type=float, default=5e-3, help="peak learning rate of Muon")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--size", type=int, help="latent height and width (easy: 16, hard: 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the training step for a CPU")
    parser.add_argument("--state", type=Path, default=HERE.parent / ".training", help="folder of the resumable states")
    args = parser.parse_args()
    args.batch = args.batch or TESTBEDS[args.kind].batch
    args.size = args.size or TESTBEDS[args.kind].size
    return args


def sample_problem(seed: int, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps, context and the flow to predict, all from one seed."""
    testbed = TESTBEDS[args.kind]
    clips, captions = draw_batch(seed, args.batch, args.frames, 2 * args.size, 2 * args.size, testbed.draw)
    latents = encode(clips)
    random = torch.Generator().manual_seed(seed)
    pairs = args.batch // 2
    noise = torch.randn(pairs, *latents.shape[1:], generator=random)
    uniform = (torch.arange(pairs) + torch.rand(pairs, generator=random)) / pairs
    sigma = TRAINING_SHIFT * uniform / (1 + (TRAINING_SHIFT - 1) * uniform)
    dropped = torch.rand(pairs, generator=random) < EMPTY_PROMPT_SHARE
    noise, sigma, dropped = (drawn.repeat_interleave(2, 0) for drawn in (noise, sigma, dropped))
    texts = ["" if drop else caption for drop, caption in zip(dropped.tolist(), captions, strict=True)]
    context = torch.stack([testbed.context(text) for text in texts])
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * latents + level * noise
    device = args.device
    return noisy.to(device), (sigma * 1000).to(device), context.to(device), (noise - latents).to(device)


def slow_waves() -> Tensor:
    """Factors `[FREQUENCY_DIM]` that take the fast waves out of the time features: a Gaussian over SMOOTH_OVER."""
    factors = torch.exp(-0.5 * (SMOOTH_OVER * timestep_frequencies(FREQUENCY_DIM)).square())
    return torch.cat([factors, factors])


def smooth_in_time(model: TinyWan) -> TinyWan:
    """The model, its time features without their fast waves; `export` folds the factors into the weights."""
    factors = slow_waves().to(model.head.modulation.device)
    model.time_embedding[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] * factors,))
    return model


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as three products in half precision: on CPUs twice as fast to train through as the fused one."""
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    return torch.softmax((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5, dim=-1) @ v


def compiled_for_cpu(model: TinyWan) -> Callable[..., Tensor]:
    torch._inductor.config.pattern_matcher = False  # it would put the fused attention back
    for module in model.modules():
        if isinstance(module, Attention):
            module.product = plain_attention
    return torch.compile(model)


def rate_factor(step: int, first: int, steps: int) -> float:
    """Linear warm-up over 200 steps from `first`, then constant, then a straight line down over the last COOLING.

    Unlike a cosine it does not depend on where the end is until shortly before it: a run can be carried on.
    """
    return min(1.0, (step + 1 - first) / 200, (steps - step) / (COOLING * steps))


def make_optimisers(model: TinyWan, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else (embeddings, head, vectors), as Muon is meant."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.AdamW(others, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        torch.optim.Muon(matrices, lr=args.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]


@torch.no_grad()
def validation_loss(model: TinyWan, args: argparse.Namespace) -> float:
    """Mean squared error on 64 clips that no training step draws."""
    losses = []
    for batch in range(64 // args.batch):
        noisy, timestep, context, flow = sample_problem(VALIDATION_SEED + batch, args)
        losses.append(F.mse_loss(model(noisy, timestep, context), flow).item())
    return sum(losses) / len(losses)


def save_state(path: Path, state: dict) -> None:
    """Write beside, then rename: a killed run never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load_exported(model: TinyWan, args: argparse.Namespace) -> int:
    """The inverse of `export`; weights of waves that it took out start at 0.

    Returns the steps it saw where it is this kind's own checkpoint, so that training goes on; else 0.
    """
    checkpoint = args.start
    weights = {name: tensor.float() for name, tensor in load_file(checkpoint).items()}
    factors = slow_waves()
    first = weights["time_embedding.0.weight"]
    weights["time_embedding.0.weight"] = torch.where(factors > 0.01, first / factors.clamp_min(0.01), 0.0)
    model.load_state_dict(weights)
    if checkpoint.resolve() != TESTBEDS[args.kind].checkpoint.resolve():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["steps"])


def export(average: TinyWan, args: argparse.Namespace, step: int) -> None:
    weights = dict(average.state_dict())
    weights["time_embedding.0.weight"] = weights["time_embedding.0.weight"].cpu() * slow_waves()
    weights = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    metadata = {"format": "pt", "modelspec.title": f"Astraea tiny Wan, {args.kind} clips"}
    metadata |= {"steps": str(step), "seed": str(args.seed)}
    save_file(weights, TESTBEDS[args.kind].checkpoint, metadata=metadata)


def write_curve(rows: list[tuple[int, float, float, float]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "training_loss", "validation_loss", "minutes"])
        writer.writerows([step, f"{a:.5f}", f"{b:.5f}", f"{c:.1f}"] for step, a, b, c in rows)


def read_curve(path: Path) -> list[tuple[int, float, float, float]]:
    with path.open(newline="") as file:
        return [(int(a), float(b), float(c), float(d)) for a, b, c, d in list(csv.reader(file))[1:]]


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = smooth_in_time(TinyWan(ModelConfig()).to(args.device))
    begun = load_exported(model, args) if args.start else 0
    average = copy.deepcopy(model).requires_grad_(False)
    optimisers = make_optimisers(model, args)
    peaks = [args.rate, args.matrix_rate]
    state_path = args.state / f"{args.kind}.pt"
    first, rows = begun, read_curve(TESTBEDS[args.kind].curve) if begun else []
    minutes = rows[-1][3] if rows else 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        first, begun, minutes = state["step"], state["begun"], state["minutes"]
        rows = [tuple(row) for row in state["rows"]]
        print(f"resumed at step {first}", flush=True)
    forward = compiled_for_cpu(model) if args.compile else model

    began, losses = time.perf_counter() - 60 * minutes, []
    for step in range(first, args.steps):
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate_factor(step, begun, args.steps)
        noisy, timestep, context, flow = sample_problem(args.seed * 10_000_000 + step, args)
        with torch.autocast(args.device, torch.bfloat16):
            predicted = forward(noisy, timestep, context)
        loss = F.mse_loss(predicted.float(), flow)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item())
        keep = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        done = step + 1
        if done % 250 == 0 or done == args.steps:
            minutes = (time.perf_counter() - began) / 60
            rows.append((done, sum(losses) / len(losses), validation_loss(average, args), minutes))
            losses.clear()
            print("step {} loss {:.4f} validation {:.4f} after {:.1f} min".format(*rows[-1]), flush=True)
            save_state(
                state_path,
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": done,
                    "begun": begun,
                    "rows": rows,
                    "minutes": minutes,
                },
            )
            export(average, args, done)
            write_curve(rows, TESTBEDS[args.kind].curve)


if __name__ == "__main__":
    main()
