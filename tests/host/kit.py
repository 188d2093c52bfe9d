"""The kit that proves an adapter: what every file in `models` must do, on a small model of the host's own classes.

`ADAPTED` names the models of the zoo that have token steps; to add a model, add its name. `test_adapters.py` runs the
checks on each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import zoo
from sampling import last
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from zoo.base import Sampled, tensors

from astraea.engine.blocks.interface import BlockCall, TokenLayout
from astraea.engine.blocks.selection import Selection
from astraea.engine.planning.plan import make_plan
from astraea.engine.report import Report, ReportHandle
from astraea.engine.run import Run
from astraea.host.sampling.architectures import architecture_of
from astraea.host.sampling.attention import RunAttention
from astraea.host.sampling.patch_model import accelerate
from astraea.models import Architecture
from astraea.schedules import flow_sigmas, periodic, uniform

STEPS = 6
TOKENS = uniform("tokens", 0.5, flow_sigmas(30))

# By zoo name. ALIKE has the variants of a model whose blocks are another's: they go through the checks of a whole run.
ADAPTED = [
    "Wan 2.1 text to video",
    "HunyuanVideo",
    "HunyuanVideo 1.5",
    "Kandinsky 5",
    "MiniMax-H3",
    "CogVideoX 2B",
    "CogVideoX 1.5 image to video",
    "LTXV",
    "Cosmos-Predict2 image to video",
    "Cosmos-Predict2 with position embedding",
    "Anima",
    "Wan 2.1 HuMo",
    "Wan 2.2 S2V",
    "Wan 2.1 SCAIL-2",
    "Mochi",
]
ALIKE = [
    "Wan 2.1 image to video",
    "Wan 2.1 first and last frame",
    "Wan 2.1 Fun Control",
    "Wan 2.1 InfiniteTalk",
    "Wan 2.1 Phantom",
    "Wan 2.1 Bernini",
    "Wan 2.1 FlowRVS",
    "Wan 2.1 VACE",
    "Wan 2.1 Fun Camera",
    "Wan 2.1 SCAIL",
    "Wan 2.2 image to video",
    "Wan 2.2 Fun Control",
    "Wan 2.2 Fun Camera",
    "Wan 2.2 5B image to video",
    "MiniMax-H3 image to video",
    "HunyuanVideo image to video",
    "HunyuanVideo image to video, replace",
    "SkyReels image to video",
    "HunyuanVideo 1.5 image to video",
    "HunyuanImage 2.1",
    "HunyuanImage 2.1 refiner",
    "HunyuanImage 2.1 refiner distilled",
    "Kandinsky 5 image to video",
    "Kandinsky 5 image",
    "CogVideoX 5B image to video",
    "VOID",
    "LTXV image to video",
    "Cosmos-Predict2",
    "Wan 2.2 Animate",
    "WanDancer",
]


def build(name: str) -> Sampled:
    """Builds a model of the zoo; skips the test where the running ComfyUI lacks it."""
    try:
        return zoo.MODELS[name].build()
    except zoo.NotOnThisHost as missing:
        pytest.skip(str(missing))


def joined(latent: Any) -> Tensor:
    """All values of a latent in a row: audio and video count alike."""
    return torch.cat([each.flatten() for each in tensors(latent)])


@cache
def dense(name: str, steps: int = STEPS, cfg: float = 3.0) -> Tensor:
    """The result of the plain model, once for all tests."""
    return joined(zoo.sample(build(name), steps=steps, cfg=cfg))


def run(sampled: Sampled, *, model: Any = None, schedule: Any = TOKENS, **options: Any) -> tuple[Tensor, Report]:
    """Samples with token steps, or with another schedule; `mode`, `budget`, `attention` and `cache` go to the plan."""
    plan = {key: options.pop(key) for key in ("mode", "budget", "attention", "cache") if key in options}
    handle = ReportHandle()
    fast = accelerate(sampled.model if model is None else model, make_plan(schedule, **plan), handle)
    return joined(zoo.sample(sampled, fast, **({"steps": STEPS} | options))), last(handle)


def reasons(report: Report) -> set[str]:
    """Why calls ran in full against the schedule."""
    return {call.reason for call in report.calls if call.reason}


def whole_steps_because(report: Report, reason: str) -> bool:
    """True if the run skipped whole steps in the place of tokens, for this reason."""
    said = f"whole steps are skipped instead of tokens: every block has to run in full: {reason}"
    return said in report.notes and {call.kind for call in report.calls} == {"full", "reuse"}


# How much worse than half the steps a run of random weights may be: unlike trained ones, their predictions do not
# follow their latents as forecasts assume.
RANDOM = 2.0


def error(reference: Tensor, other: Tensor) -> float:
    """Root mean square difference over the reference's own deviation."""
    return ((reference - other).square().mean().sqrt() / reference.std()).item()


@dataclass
class Recorded:
    """One block's forward in a dense call, with its arguments as they were before it ran."""

    index: int
    block: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    result: Any
    layout: TokenLayout

    def call(self) -> BlockCall:
        """The call anew, with copies: blocks may write into their arguments."""
        args, kwargs = copied(self.args), copied(self.kwargs)
        return BlockCall(self.index, self.block, type(self.block).forward.__get__(self.block), args, kwargs)


def copied(value: Any) -> Any:
    """A copy of nested plain containers with their tensors cloned; anything else is shared."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(copied(each) for each in value)
    return {key: copied(each) for key, each in value.items()} if type(value) is dict else value


@contextmanager
def recorded(architecture: Architecture) -> Iterator[list[Recorded]]:
    """Within the context, what every block of the architecture is called with, the newest call of each."""
    calls: dict[int, Recorded] = {}
    found: list[Recorded] = []

    def hook(index: int, block: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            before = copied(args), copied(kwargs)
            result = type(block).forward(block, *args, **kwargs)
            calls[index] = Recorded(index, block, *before, copied(result), TokenLayout(0))
            return result

        return forward

    with ExitStack() as stack:
        for index, block in enumerate(architecture.blocks):
            block.forward = hook(index, block)
            stack.callback(delattr, block, "forward")
        yield found
        found.extend(calls[index] for index in sorted(calls))


def record_blocks(sampled: Sampled, steps: int = 2, seed: int = 0) -> tuple[Architecture, list[Recorded]]:
    """Runs the plain model and returns its architecture and the newest call of each block, with the call's layout."""
    architecture, layouts = architecture_of(sampled.model), []
    model = sampled.model.clone()

    def note_layout(executor: Any, *args: Any, **kwargs: Any) -> Any:
        layouts.append(architecture.layout(tuple(args[0].shape), {**kwargs, "c_crossattn": args[3]}))
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("apply_model", "kit", note_layout)
    with recorded(architecture) as blocks:
        zoo.sample(sampled, model, steps=steps, seed=seed)
    for block in blocks:
        block.layout = layouts[-1]
    return architecture, blocks


def some_tokens(layout: TokenLayout, rows: int, share: float = 0.4) -> Selection:
    """A random part of the video's tokens, another one in each row, and all others."""
    generator = torch.Generator().manual_seed(1)
    count = max(1, round(share * layout.video))
    chosen = [torch.randperm(layout.video, generator=generator)[:count] + layout.prefix for _ in range(rows)]
    around = torch.cat([torch.arange(layout.prefix), torch.arange(layout.prefix + layout.video, layout.total)])
    return Selection(torch.stack([torch.cat([each, around]).sort().values for each in chosen]), layout.total)


def attention(tokens: int) -> Any:
    """The attention of a run on the host's own."""
    sigmas = flow_sigmas(4)
    writer = Run.of(make_plan(periodic("kit", [0.5], sigmas)), [*sigmas, 0.0]).writer
    return RunAttention("host", writer).for_call({}, tokens)


def kinds_of(blocks: Sequence[Recorded]) -> list[Recorded]:
    """One call for each kind of blocks: each class with the same parts, as the last of a class may lack some."""
    return list({(type(each.block), *dict(each.block.named_modules())): each for each in blocks}.values())


def attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """Count attention on a CPU, which torch's own counter leaves out. q, k, v: shapes `[B, H, N, D]`."""
    return sdpa_flop_count(q, k, v)


ON_CPUS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def multiplications(architecture: Architecture, sample: Callable[[], Any]) -> int:
    """Multiplications (times two) in the blocks while `sample` runs, by torch's own count."""
    total, own = 0, {id(block) for block in architecture.blocks}
    original = nn.Module.__call__

    def counted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal total
        if id(module) not in own:
            return original(module, *args, **kwargs)
        with FlopCounterMode(display=False, custom_mapping=ON_CPUS) as counter:
            result = original(module, *args, **kwargs)
        total += counter.get_total_flops()
        return result

    with pytest.MonkeyPatch.context() as patch:
        for kind in {type(block) for block in architecture.blocks}:
            patch.setattr(kind, "__call__", counted, raising=False)
        sample()
    return total
