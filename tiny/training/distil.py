"""Distils students from a testbed's model, as LoRA files: `python -m tiny.training.distil --student guidance`.

Most people sample distilled models, without guidance and in few steps; these students stand for such models.

*guidance*: its prediction is the teacher's guided one, so that it is sampled at cfg 1 (stage one of arXiv 2210.03142).
*steps*: begun with *guidance* and trained to reach with each step of LISTS where that teacher gets by FINER steps, on
states of its own runs (progressive distillation, arXiv 2202.00512, on-policy).
*high*, *low*: two experts for the noise levels above and below BOUNDARY, trained on clips as their base was.

Seeded and resumable by rounds. Writes the adapters, the loss curve and a state to resume from.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..model import ModelConfig, TinyWan
from .clips import draw_batch
from .lora import adapt, adapter_parameters, load_adapters, merge_adapters, save_adapters
from .testbeds import TESTBEDS, Testbed
from .train import compile_for_cpu, rate_factor, sample_problem, save_state, write_curve

HERE = Path(__file__).parent
GUIDANCE = 4.0  # scale that the guidance student has built in
FINER = 3
LISTS = {
    "8 steps, LTX": (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0),
    "8 steps, shift 10": tuple(10 * u / (1 + 9 * u) for u in (1 - i / 8 for i in range(9))),
    "4 steps, shift 5": tuple(5 * u / (1 + 4 * u) for u in (1 - i / 4 for i in range(5))),
}
BOUNDARY = 5 / 6  # of the experts: halfway through 20 steps at shift 5
LEVELS = 8  # noise levels of a round of *guidance*
CURVE_ROUNDS = 50  # between two rows of the loss curve
VALIDATION_SEED = 987_654_321

Flow = Callable[[Tensor, Tensor, Tensor], Tensor]
Example = tuple[Tensor, Tensor, Tensor, Tensor]
"""Noisy latents, timesteps, contexts, and the flow that the student shall predict there."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=TESTBEDS, default="easy", help="testbed of the teacher")
    parser.add_argument("--student", choices=STUDENTS, default="guidance")
    parser.add_argument("--rounds", type=int, default=200, help="each of 4 to 8 updates")
    parser.add_argument("--batch", type=int, help="clips a round, an even number (easy: 4, others: 2)")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--start", type=Path, metavar="ADAPTERS", help="a student's file to begin with")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other rounds")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--compile", action="store_true", help="compile the models for a CPU")
    parser.add_argument("--state", type=Path, default=HERE.parent / ".training", help="folder of the resumable states")
    args = parser.parse_args()
    testbed = TESTBEDS[args.kind]
    args.batch = args.batch or testbed.batch // 2
    args.size, args.frames, args.device = testbed.size, testbed.latent_shape[2], "cpu"
    return args


def load_teacher(testbed: Testbed, adapters: Path | None = None) -> TinyWan:
    """Load the testbed's model, with a student's adapters if given, for bf16 autocast on a CPU."""
    model = TinyWan(ModelConfig())
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(testbed.checkpoint).items()})
    if adapters is not None:
        merge_adapters(model, adapters)
    return model.requires_grad_(False)


def contexts_and_noise(testbed: Testbed, args: argparse.Namespace, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the contexts of a round's captions, and noise of the latents' shape."""
    _, captions = draw_batch(seed, args.batch, args.frames, 2 * args.size, 2 * args.size, testbed.draw)
    context = torch.stack([testbed.context(caption) for caption in captions])
    generator = torch.Generator().manual_seed(seed)
    return context, torch.randn(args.batch, *testbed.latent_shape[1:], generator=generator)


def at(level: float, batch: int) -> Tensor:
    return torch.full((batch,), 1000.0 * level)


@torch.no_grad()
def guidance_examples(student: Flow, teacher: Flow, testbed: Testbed, args: argparse.Namespace, seed: int) -> list:
    """Examples at random levels: of noised clips in even rounds, of the teacher's guided runs in odd ones."""

    def guided(x: Tensor, timestep: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            both = teacher(x.repeat(2, 1, 1, 1, 1), timestep.repeat(2), torch.cat([context, empty])).float()
        with_prompt, without = both.chunk(2)
        return without + GUIDANCE * (with_prompt - without)

    context, noise = contexts_and_noise(testbed, args, seed)
    empty = testbed.context("")[None].expand_as(context)
    examples: list[Example] = []
    if seed % 2 == 0:
        for part in range(LEVELS):
            x, timestep, context, _ = sample_problem(LEVELS * seed + part, args)
            examples.append((x, timestep, context, guided(x, timestep)))
        return examples
    generator = torch.Generator().manual_seed(seed)
    offset = torch.rand(LEVELS - 1, generator=generator)
    uniform = [1.0, *(1.0 - (torch.arange(LEVELS - 1) + 0.25 + offset) / LEVELS).tolist(), 0.0]
    x = noise
    for level, following in pairwise([8 * u / (1 + 7 * u) for u in uniform]):
        flow = guided(x, at(level, args.batch))
        examples.append((x, at(level, args.batch), context, flow))
        x = x + (following - level) * flow
    order = torch.randperm(LEVELS, generator=generator).tolist()
    return [examples[i] for i in order]


def step_examples(
    student: Flow, teacher: Flow, testbed: Testbed, args: argparse.Namespace, seed: int
) -> Iterator[Example]:
    """Examples along one of LISTS: the mean flow of the teacher's finer steps from where the student has come."""
    context, x = contexts_and_noise(testbed, args, seed)
    levels = list(LISTS.values())[seed % len(LISTS)]
    with torch.autocast("cpu", torch.bfloat16):
        for level, following in pairwise(levels):
            with torch.no_grad():
                reached, fine = x, (following - level) / FINER
                for part in range(FINER):
                    reached = reached + fine * teacher(reached, at(level + part * fine, args.batch), context).float()
            yield x, at(level, args.batch), context, (reached - x) / (following - level)
            with torch.no_grad():
                x = x + (following - level) * student(x, at(level, args.batch), context).float()


def expert_examples(above: bool) -> Callable[..., list[Example]]:
    """Return a function that draws noised clips above or below BOUNDARY."""

    def examples(student: Flow, teacher: Flow, testbed: Testbed, args: argparse.Namespace, seed: int) -> list[Example]:
        levels = (BOUNDARY, 1.0) if above else (0.0, BOUNDARY)
        return [sample_problem(LEVELS * seed + part, args, levels) for part in range(LEVELS)]

    return examples


STUDENTS: dict[str, Callable] = {
    "guidance": guidance_examples,
    "steps": step_examples,
    "high": expert_examples(above=True),
    "low": expert_examples(above=False),
}


def train_round(
    student: Flow, model: TinyWan, average: TinyWan, optimiser: torch.optim.Optimizer, examples: Iterator, factor: float
) -> float:
    """Update the student by each example of a round; returns the mean loss over the targets' mean square."""
    losses = []
    for x, timestep, context, flow in examples:
        with torch.autocast("cpu", torch.bfloat16):
            predicted = student(x, timestep, context)
        loss = F.mse_loss(predicted.float(), flow) / flow.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter_parameters(model), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        optimiser.step()
        optimiser.zero_grad()
        torch._foreach_lerp_(adapter_parameters(average), adapter_parameters(model), 0.01)
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def validation_loss(average: TinyWan, teacher: Flow, testbed: Testbed, args: argparse.Namespace) -> float:
    """Return the mean loss on rounds that training does not draw."""
    losses = []
    for number in range(len(LISTS)):
        for x, timestep, context, flow in STUDENTS[args.student](
            average, teacher, testbed, args, VALIDATION_SEED + number
        ):
            losses.append(F.mse_loss(average(x, timestep, context), flow) / flow.square().mean())
    return float(torch.stack(losses).mean())


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    testbed = TESTBEDS[args.kind]
    guided = testbed.student("guidance") if args.student == "steps" else None
    teacher_model = load_teacher(testbed, guided)
    model = adapt(load_teacher(testbed), args.seed)
    if start := args.start or guided:
        load_adapters(model, start)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(adapter_parameters(model), lr=args.rate, betas=(0.9, 0.99), weight_decay=0.0)
    optimiser.param_groups[0]["peak"] = args.rate
    state_path = args.state / f"{args.kind}-{args.student}.pt"
    first, rows, minutes = 0, [], 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, rows, minutes = state["round"], state["rows"], state["minutes"]
        print(f"resumed at round {first}", flush=True)
    student, teacher = (compile_for_cpu(each) if args.compile else each for each in (model, teacher_model))
    examples = STUDENTS[args.student]
    began, losses = time.perf_counter() - 60 * minutes, []
    for number in range(first, args.rounds):
        drawn = examples(student, teacher, testbed, args, args.seed * 10_000_000 + number)
        factor = rate_factor(number, 0, args.rounds, warm_up=5)
        losses.append(train_round(student, model, average, optimiser, iter(drawn), factor))
        done = number + 1
        if done % CURVE_ROUNDS == 0 or done == args.rounds:
            minutes = (time.perf_counter() - began) / 60
            rows.append([done, sum(losses) / len(losses), validation_loss(average, teacher, testbed, args), minutes])
            losses.clear()
            print("round {} loss {:.5f} validation {:.5f} after {:.1f} min".format(*rows[-1]), flush=True)
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            save_state(state_path, {**state, "round": done, "rows": rows, "minutes": minutes})
            metadata = {"rounds": str(done), "seed": str(args.seed)}
            save_adapters(average, testbed.student(args.student), metadata)
            write_curve(rows, testbed.student(args.student).with_suffix(".csv"), "round")


if __name__ == "__main__":
    main()
