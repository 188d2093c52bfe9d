"""Trains the small models: `python -m tiny.training.train` from the pack's root; `--kind` for other clips.

Flow matching on procedural clips, seeded and resumable: every step draws its clips, noise and times from its own seed,
so that a resumed run continues exactly where it stopped. Writes the checkpoint, the loss curve and a state to resume
from. `--start` begins with the weights of an exported checkpoint, also of the other kind of clips. On a CPU a process
per core is faster than one with more threads: `torchrun --nproc-per-node 2 -m tiny.training.train --threads 1` divides
the batch.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..model import FREQUENCY_DIM, Attention, ModelConfig, TinyWan, timestep_frequencies
from .demo_clips import DEMO
from .testbeds import TESTBEDS

HERE = Path(__file__).parent
KINDS = {**TESTBEDS, DEMO.name: DEMO}
TRAINING_SHIFT = 5.0
EMPTY_PROMPT_SHARE = 0.12
COOLING = 0.1  # of all steps, at the end
# Timesteps. A denoiser changes slowly with the noise level: from faster waves it would learn noise only.
SMOOTH_OVER = 20.0
CURVE_STEPS = 250  # between two rows of the loss curve
VALIDATION_SEED, VALIDATION_BATCH = 987_654_321, 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, default="easy", help="of clips")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="exported weights to begin with")
    parser.add_argument("--steps", type=int, default=13_000)
    parser.add_argument("--batch", type=int, help="clips a step, an even number (easy and demo: 8, others: 4)")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--matrix-rate", type=float, default=5e-3, help="peak learning rate of Muon")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the training step for a CPU")
    parser.add_argument("--state", type=Path, default=HERE.parent / ".training", help="folder of the resumable states")
    args = parser.parse_args()
    args.batch = args.batch or KINDS[args.kind].batch
    return args


def sample_problem(
    seed: int, args: argparse.Namespace, levels: tuple[float, float] = (0.0, 1.0)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw noisy latents, timesteps, context and the flow to predict, all from a seed; noise between two levels."""
    testbed = KINDS[args.kind]
    latents, captions = testbed.draw_latents(seed, args.batch)
    random = torch.Generator().manual_seed(seed)
    pairs = args.batch // 2
    noise = torch.randn(pairs, *latents.shape[1:], generator=random)
    low, high = (level / (TRAINING_SHIFT - (TRAINING_SHIFT - 1) * level) for level in levels)
    uniform = low + (high - low) * (torch.arange(pairs) + torch.rand(pairs, generator=random)) / pairs
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
    """Return factors `[FREQUENCY_DIM]` that remove fast waves from the time features: a Gaussian over SMOOTH_OVER."""
    factors = torch.exp(-0.5 * (SMOOTH_OVER * timestep_frequencies(FREQUENCY_DIM)).square())
    return torch.cat([factors, factors])


def smooth_in_time(model: TinyWan) -> TinyWan:
    """Remove the fast waves from a model's time features; `export` folds the factors into the weights."""
    factors = slow_waves().to(model.head.modulation.device)
    model.time_embedding[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] * factors,))
    return model


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention by plain products in bf16: training on a CPU is twice as fast as with the fused kernel."""
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    return torch.softmax((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5, dim=-1) @ v


def compile_for_cpu(model: TinyWan) -> Callable[..., Tensor]:
    torch._inductor.config.pattern_matcher = False  # it would restore the fused attention
    for module in model.modules():
        if isinstance(module, Attention):
            module.product = plain_attention
    return torch.compile(model)


def rate_factor(step: int, first: int, steps: int, warm_up: int = 200) -> float:
    """Return the factor of learning rates: steps of warm-up from `first`, constant, linear to 0 over COOLING.

    Unlike a cosine it depends on the end only shortly before it: a run can be extended.
    """
    return min(1.0, (step + 1 - first) / warm_up, (steps - step) / (COOLING * steps))


def make_optimisers(model: TinyWan, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Make Muon for the blocks' matrices and AdamW for embeddings, head and vectors, as Muon's authors recommend."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.AdamW(others, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        torch.optim.Muon(matrices, lr=args.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]


@torch.no_grad()
def validation_loss(model: TinyWan, args: argparse.Namespace) -> float:
    """Return the mean squared error on 64 clips that no training step draws."""
    losses, always = [], argparse.Namespace(**{**vars(args), "batch": VALIDATION_BATCH})
    for batch in range(64 // VALIDATION_BATCH):
        noisy, timestep, context, flow = sample_problem(VALIDATION_SEED + batch, always)
        losses.append(F.mse_loss(model(noisy, timestep, context), flow).item())
    return sum(losses) / len(losses)


def save_state(path: Path, state: dict) -> None:
    """Write a new file, then rename it: a killed run never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load_or_none(path: Path) -> dict[str, Any] | None:
    """Load a state to resume from; None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def load_exported(model: TinyWan, args: argparse.Namespace) -> int:
    """Load the weights of an exported checkpoint; those of the removed waves start at 0.

    Returns its training steps if it is this kind's own checkpoint, so that training continues; else 0.
    """
    checkpoint = args.start
    weights = {name: tensor.float() for name, tensor in load_file(checkpoint).items()}
    factors = slow_waves()
    first = weights["time_embedding.0.weight"]
    weights["time_embedding.0.weight"] = torch.where(factors > 0.01, first / factors.clamp_min(0.01), 0.0)
    model.load_state_dict(weights)
    if checkpoint.resolve() != KINDS[args.kind].checkpoint.resolve():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["steps"])


def export(average: TinyWan, args: argparse.Namespace, step: int) -> None:
    weights = dict(average.state_dict())
    weights["time_embedding.0.weight"] = weights["time_embedding.0.weight"].cpu() * slow_waves()
    weights = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    metadata = {"format": "pt", "modelspec.title": f"Astraea small Wan, {args.kind} clips"}
    metadata |= {"steps": str(step), "seed": str(args.seed)}
    save_file(weights, KINDS[args.kind].checkpoint, metadata=metadata)


def write_curve(rows: list[tuple[int, float, float, float]], path: Path, unit: str = "step") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([unit, "training_loss", "validation_loss", "minutes"])
        writer.writerows([step, f"{a:.5f}", f"{b:.5f}", f"{c:.1f}"] for step, a, b, c in rows)


def read_curve(path: Path) -> list[tuple[int, float, float, float]]:
    with path.open(newline="") as file:
        return [(int(a), float(b), float(c), float(d)) for a, b, c, d in list(csv.reader(file))[1:]]


@dataclass
class Progress:
    """Progress of a training. step: the next; begun: the first step with these clips; rows: of the loss curve."""

    step: int
    begun: int
    rows: list[tuple[int, float, float, float]]
    minutes: float


def load_state(
    path: Path, model: TinyWan, average: TinyWan, optimisers: list[torch.optim.Optimizer], device: str
) -> Progress:
    """Load weights and optimisers to resume from, and return their progress."""
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(kept)
    return Progress(state["step"], state["begun"], [tuple(row) for row in state["rows"]], state["minutes"])


def join_processes(args: argparse.Namespace) -> None:
    """Join the processes that torchrun has started, and divide the batch among them."""
    args.processes, args.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if args.processes > 1:
        torch.distributed.init_process_group("gloo")
        args.batch //= args.processes


def average_gradients(model: TinyWan, processes: int) -> None:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / processes).split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def train_step(
    forward: Callable[..., Tensor],
    model: TinyWan,
    optimisers: list[torch.optim.Optimizer],
    args: argparse.Namespace,
    step: int,
    begun: int,
) -> float:
    """Update the model by one step and return its loss."""
    for optimiser, peak in zip(optimisers, (args.rate, args.matrix_rate), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = peak * rate_factor(step, begun, args.steps)
    drawn = step * args.processes + args.rank
    noisy, timestep, context, flow = sample_problem(args.seed * 10_000_000 + drawn, args)
    with torch.autocast(args.device, torch.bfloat16):
        predicted = forward(noisy, timestep, context)
    loss = F.mse_loss(predicted.float(), flow)
    loss.backward()
    if args.processes > 1:
        average_gradients(model, args.processes)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return loss.item()


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    join_processes(args)
    torch.manual_seed(args.seed)
    model = smooth_in_time(TinyWan(ModelConfig()).to(args.device))
    begun = load_exported(model, args) if args.start else 0
    average = copy.deepcopy(model).requires_grad_(False)
    optimisers = make_optimisers(model, args)
    state_path, curve = args.state / f"{args.kind}.pt", KINDS[args.kind].curve
    rows = read_curve(curve) if begun else []
    progress = Progress(begun, begun, rows, rows[-1][3] if rows else 0.0)
    if state_path.exists():
        progress = load_state(state_path, model, average, optimisers, args.device)
        print(f"resumed at step {progress.step}", flush=True)
    forward = compile_for_cpu(model) if args.compile else model

    began, losses = time.perf_counter() - 60 * progress.minutes, []
    for step in range(progress.step, args.steps):
        losses.append(train_step(forward, model, optimisers, args, step, progress.begun))
        decay = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        progress.step = step + 1
        if args.rank == 0 and (progress.step % CURVE_STEPS == 0 or progress.step == args.steps):
            progress.minutes = (time.perf_counter() - began) / 60
            validation = validation_loss(average, args)
            progress.rows.append((progress.step, sum(losses) / len(losses), validation, progress.minutes))
            losses.clear()
            print("step {} loss {:.4f} validation {:.4f} after {:.1f} min".format(*progress.rows[-1]), flush=True)
            states: dict[str, Any] = {"model": model.state_dict(), "average": average.state_dict()}
            states["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
            save_state(state_path, states | vars(progress))
            export(average, args, progress.step)
            write_curve(progress.rows, curve)


if __name__ == "__main__":
    main()
