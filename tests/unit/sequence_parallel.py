"""A small Wan model over several processes, its tokens divided as raylight divides them, with the engine in each.

    python tests/unit/sequence_parallel.py RANKS FOLDER

For `test_ranks`: each of so many processes makes every case, and saves in the folder what came of it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import bootstrap  # noqa: E402

sys.path.remove(str(ROOT))
if bootstrap.PACK not in sys.modules:
    bootstrap.load_pack()

from astraea.engine.calls import ReuseCall  # noqa: E402
from astraea.engine.calls.block_hooks import patched_forwards  # noqa: E402
from astraea.engine.calls.context import CallRequest  # noqa: E402
from astraea.engine.planning.plan import Plan, make_plan  # noqa: E402
from astraea.engine.run import Run  # noqa: E402
from astraea.engine.state import residual_store  # noqa: E402
from astraea.host.raylight.messages import Degrees, report_values  # noqa: E402
from astraea.host.raylight.ranks import WorkerRanks  # noqa: E402
from astraea.kernels import attend  # noqa: E402
from astraea.models import Architecture  # noqa: E402
from astraea.schedules import flow_sigmas, periodic, uniform  # noqa: E402
from astraea.tiny.model import (  # noqa: E402
    FREQUENCY_DIM,
    LATENT_CHANNELS,
    PATCH,
    ModelConfig,
    TinyWan,
    rotary_table,
    rotate,
    timestep_embedding,
)
from astraea.tiny.standalone import GROUPS, architecture_of  # noqa: E402
from astraea.tiny.words import TOKENS, context_for  # noqa: E402

CONFIG = ModelConfig(dim=512, feed_forward=256, layers=2)  # four heads
SHAPE, UNEVEN = (1, 16, 2, 16, 16), (1, 16, 5, 10, 10)  # 128 tokens, and 125
CFG, STEPS = 3.0, 8
SIGMAS = [*flow_sigmas(STEPS, 3.0), 0.0]
CONTEXT = ("a big red circle moving right over a blue ground", "")
WHOLE = periodic("whole", [0.0, 0.0, 1.0], flow_sigmas(30))
PARTIAL = uniform("tokens", 0.5, flow_sigmas(30))
SECONDS, WAIT = 120.0, 60.0  # for all cases; and for another process, before it counts as lost
STAND_IN = "raylight.stand_in"


@dataclass(frozen=True)
class Case:
    """A clip that all ranks make. lacking: policies by which no store fits into rank 1, after the first `fitting`;
    interrupted_at: step after which the user stops the run.
    """

    plan: Plan | None = None
    shape: tuple[int, ...] = SHAPE
    lacking: tuple[str, ...] = ()
    fitting: int = 0
    interrupted_at: int | None = None


HALF, TOKEN_STEPS = make_plan(WHOLE, budget=0.5), make_plan(PARTIAL, budget=0.5)
CASES = {
    "dense": Case(),
    "whole steps at 0.5": Case(HALF),
    "whole steps at 0.3": Case(make_plan(WHOLE, budget=0.3)),
    "token steps": Case(TOKEN_STEPS),
    "interrupted": Case(HALF, interrupted_at=3),
    "token steps in 8 bit": Case(make_plan(PARTIAL, budget=0.5, cache="fp8")),
    "no full store": Case(TOKEN_STEPS, lacking=("full",)),
    "one full store": Case(TOKEN_STEPS, lacking=("full",), fitting=1),
    "no store": Case(TOKEN_STEPS, lacking=("full", "fp8", "fp8-host")),
    "uneven, whole steps": Case(HALF, UNEVEN),
    "uneven, token steps": Case(TOKEN_STEPS, UNEVEN),
}


class PaddedWan(TinyWan):
    """TinyWan whose tokens are filled up with zeros to a multiple of `parts`, which its blocks treat as tokens."""

    def __init__(self, parts: int):
        super().__init__(CONFIG)
        self.parts = parts

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        batch, _, frames, height, width = x.shape
        hidden = self.patch_embedding(x).flatten(2).transpose(1, 2)
        tokens = hidden.shape[1]
        e = self.time_embedding(timestep_embedding(timestep, FREQUENCY_DIM).to(x.dtype))
        modulation = self.time_projection(e).view(batch, 1, 6, -1)
        context = self.text_embedding(context)
        hidden, freqs = self.own(hidden), self.own(rotary_table(frames, height // 2, width // 2, x.device))
        for block in self.blocks:
            hidden = block(hidden, e=modulation, freqs=freqs, context=context)
        hidden = self.gathered(hidden)[:, :tokens]
        patches = self.head(hidden, e).view(batch, frames, height // 2, width // 2, *PATCH, LATENT_CHANNELS)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape)

    def own(self, tensor: Tensor) -> Tensor:
        """Return this process's part of a tensor `[B, N, …]`."""
        zeros = tensor.new_zeros(tensor.shape[0], -tensor.shape[1] % self.parts, *tensor.shape[2:])
        return torch.cat([tensor, zeros], dim=1)

    def gathered(self, hidden: Tensor) -> Tensor:
        """Return the parts of all processes."""
        return hidden


class DividedWan(PaddedWan):
    """One process's TinyWan, whose blocks have its part of the tokens."""

    def __init__(self, parts: int):
        super().__init__(parts)
        put_attention_on(self)

    def own(self, tensor: Tensor) -> Tensor:
        return super().own(tensor).chunk(self.parts, dim=1)[dist.get_rank()].contiguous()

    def gathered(self, hidden: Tensor) -> Tensor:
        every = hidden.new_empty(self.parts * hidden.shape[0], *hidden.shape[1:])
        dist.all_gather_into_tensor(every, hidden.contiguous())
        return every.unflatten(0, (self.parts, -1)).transpose(0, 1).flatten(1, 2)


def plain() -> TinyWan:
    return TinyWan(CONFIG)


def made(model: Callable[[], TinyWan] = plain) -> TinyWan:
    """A model with the weights that every process has."""
    torch.manual_seed(0)
    new = model()
    torch.nn.init.normal_(new.head.head.weight, std=0.02)
    for block in new.blocks:
        torch.nn.init.normal_(block.modulation, std=0.25)
        # What all tokens read alike from the prompt would leave the refit of their residuals to rounding.
        block.cross_attn.o.weight.data.mul_(0.1)
    return new.eval().requires_grad_(False)


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def usp_self_attn_forward(self: Any, x: Tensor, freqs: Tensor, transformer_options: Any = None) -> Tensor:
    heads = (self.num_heads, self.head_dim)
    q = rotate(self.norm_q(self.q(x)).unflatten(-1, heads), freqs).flatten(2)
    k = rotate(self.norm_k(self.k(x)).unflatten(-1, heads), freqs).flatten(2)
    return self.o(xfuser_optimized_attention(q, k, self.v(x), heads=self.num_heads))


def xfuser_optimized_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend from this process's queries to the keys of all, each process for a part of the heads (Ulysses)."""
    out = F.scaled_dot_product_attention(*(_to_heads(each, heads) for each in (q, k, v)))
    sent = out.unflatten(2, (dist.get_world_size(), -1)).permute(2, 0, 3, 1, 4).contiguous()
    return _exchanged(sent).permute(1, 2, 0, 3, 4).flatten(2)


def _to_heads(own: Tensor, heads: int) -> Tensor:
    """Give away all but a part of the heads, for the tokens of all: `[B, n, H·D]` to `[B, H/P, P·n, D]`."""
    ranks = dist.get_world_size()
    sent = own.unflatten(2, (ranks, heads // ranks, -1)).permute(2, 0, 1, 3, 4).contiguous()
    return _exchanged(sent).transpose(0, 1).flatten(1, 2).transpose(1, 2)


def _exchanged(sent: Tensor) -> Tensor:
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent)
    return got


usp_self_attn_forward.__module__ = STAND_IN  # raylight's attention is known by its module's and its own name


def stand_in() -> ModuleType:
    """In place of raylight's module, to be put into `sys.modules`."""
    module = ModuleType(STAND_IN)
    for function in (usp_self_attn_forward, xfuser_optimized_attention):
        setattr(module, function.__name__, function)
    return module


def put_attention_on(model: TinyWan) -> None:
    for block in model.blocks:
        block.self_attn.forward = MethodType(usp_self_attn_forward, block.self_attn)


def scarce(lacking: tuple[str, ...], fitting: int = 0) -> AbstractContextManager[Any]:
    """Memory into which no store fits by these policies, once the first `fitting` are there."""
    allocated: list[str] = []

    class ScarceStore(residual_store.ResidualStore):
        def __init__(self, size: Any, policy: str, *args: Any):
            if policy in lacking and len(allocated) >= fitting:
                raise MemoryError
            super().__init__(size, policy, *args)
            allocated.append(policy)

    return mock.patch.object(residual_store, "ResidualStore", ScarceStore)


def sample(model: TinyWan, case: Case, ranks: WorkerRanks, traffic: Any, interrupt: Callable[[], None]) -> dict:
    """Sample as `tiny.standalone` does, with ranks as host/sampling/wrappers.py has them; returns plain data.

    Its sent and agreed: bytes by step, for the tokens and to agree; stopped: whether an interrupt has.
    """
    architecture = ranks.share(architecture_of(model))
    run = _begin(architecture, case, ranks) if case.plan is not None else None
    context, x = torch.stack([context_for(words) for words in CONTEXT]), noise(case.shape)
    sent, agreed, stopped = [], [], False
    try:
        for sigma, following in pairwise(SIGMAS):
            traffic.count()
            call = partial(model, x.expand(2, *x.shape[1:]), torch.full((2,), sigma * 1000), context)
            flow = call() if run is None else _evaluate(call, x, sigma, architecture, run, ranks)
            counted = traffic.counted()["bytes"]
            agreed.append(counted.pop("all_reduce", 0))
            sent.append(sum(counted.values()))
            with_prompt, without = flow.chunk(2)
            x = x + (following - sigma) * (without + CFG * (with_prompt - without))
            if len(sent) - 1 == case.interrupted_at:
                interrupt()
    except InterruptedError:
        stopped = True
    if run is not None:
        run.finish()
    report = report_values(run.writer.close(0.0, finished=not stopped)) if run is not None else None
    return {"latents": x, "report": report, "sent": sent, "agreed": agreed, "stopped": stopped}


def _begin(architecture: Architecture, case: Case, ranks: WorkerRanks) -> Run:
    assert case.plan is not None
    cost = architecture.cost(architecture.layout(case.shape, {}), TOKENS)
    return Run.of(case.plan, SIGMAS, cost=cost, family=architecture.family, guidance=CFG, agree=ranks.agree)


def _evaluate(
    model: Callable[[], Tensor], x: Tensor, sigma: float, architecture: Architecture, run: Run, ranks: WorkerRanks
) -> Tensor:
    """Return the flow `noise − clip` for both prompts, `[2, 16, T, H, W]`."""
    request = CallRequest(
        sigma=sigma,
        groups=GROUPS,
        layout=architecture.layout(tuple(x.shape), {}),
        runner=architecture.runner,
        attend=attend,
        blocks=len(architecture.blocks),
        device=x.device,
    )
    call = run.begin_call(request)
    if isinstance(call, ReuseCall):
        return (x - run.end_call(call, call.estimate())) / sigma
    ranks.throw_if_interrupted()
    with patched_forwards(architecture.blocks, call):
        flow = model()
    denoised = x - sigma * flow
    result = run.end_call(call, denoised)
    return flow if result is denoised else (x - result) / sigma


def traffic_counter() -> Any:
    """The benchmarks' counter of bytes, which is imported by its file."""
    path = ROOT / "benchmarks" / "lib" / "raylight" / "worker_side" / "traffic.py"
    spec: Any = importlib.util.spec_from_file_location("traffic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.inference_mode()
def make_all(rank: int, ranks: int, folder: Path) -> dict[str, dict]:
    """Make every case as one rank of the process group; returns what `sample` does, by the case's name."""
    sys.modules[STAND_IN] = stand_in()
    model, traffic, results = made(partial(DividedWan, ranks)), traffic_counter(), {}
    for number, (name, case) in enumerate(CASES.items()):
        # The worst case, made certain: the file is there for rank 0 alone. Others may look a moment too early.
        interrupt_file = folder / f"interrupt-{number}-{rank}"
        degrees = Degrees(gpus=ranks, sequence=ranks)
        worker = WorkerRanks(rank, degrees, [dist.group.WORLD], str(interrupt_file))
        interrupt = interrupt_file.touch if rank == 0 else lambda: None
        with scarce(case.lacking if rank == 1 else (), case.fitting):
            results[name] = sample(model, case, worker, traffic, interrupt)
    return results


def work(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=WAIT))
    torch.save(make_all(rank, ranks, folder), folder / f"{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    ranks, folder = int(sys.argv[1]), Path(sys.argv[2])
    # A fork has imported everything. Elsewhere the system's own libraries forbid it.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    processes = [context.Process(target=work, args=(rank, ranks, folder), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    until = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    sys.exit(any(process.exitcode != 0 for process in processes))  # one that waits for ever is ended by this exit


if __name__ == "__main__":
    main()
