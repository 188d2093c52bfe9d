"""MiniMax-H3 as people use it: keyframes, references, masks, distilled and quantised checkpoints, other nodes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch
import zoo
from kit import STEPS, error, run
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from zoo.base import random
from zoo.video import minimax_h3, two_streams

from astraea.engine.planning.plan import make_plan
from astraea.engine.report import ReportHandle
from astraea.host.sampling import wrappers
from astraea.host.sampling.architectures import architecture_of
from astraea.host.sampling.patch_model import accelerate
from astraea.host.sampling.weights import LinearSlices

pytest.importorskip("comfy.ldm.minimax.model")


def frames(count: int = 1, height: int = 8, width: int = 8) -> Tensor:
    return random(1, 24, count, height, width, seed=20)


def sound(length: int) -> Tensor:
    return random(1, 32, 2, length, seed=21)


def keyframes() -> zoo.Sampled:
    """First frame, a clip with its sound, and sound alone."""
    first = {"latent": frames(), "resolved_frame_index": 0}
    clip = {"latent": frames(2), "audio_latent": sound(3), "resolved_frame_index": 5}
    return minimax_h3(minimax_keyframes=[first, clip, {"audio_latent": sound(2), "resolved_frame_index": 9}])


def references() -> zoo.Sampled:
    """An image and clips in sizes of their own, with sound and without, and sound alone."""
    image = {"kind": "image", "latent_h": 6, "latent_w": 4, "latent": frames(1, 6, 4)}
    clip = {"kind": "video", "latent_t": 2, "latent_h": 4, "latent_w": 6, "latent": frames(2, 4, 6)}
    with_sound = {**clip, "kind": "video_audio", "ref_audio_t": 5, "audio_latent": sound(5)}
    voice = {"kind": "audio", "ref_audio_t": 4, "audio_latent": sound(4)}
    return minimax_h3(minimax_refs=[image, {**clip, "ref_audio_t": 0, "audio_latent": None}, with_sound, voice])


def masked() -> zoo.Sampled:
    """Some places and some sound are known already, some of them in part: tokens with times of their own."""
    nested = two_streams((1, 24, 4, 8, 8), (1, 32, 2, 12))["samples"]
    latent = type(nested)([frames(4), sound(12)])
    places, times = torch.ones(1, 1, 4, 8, 8), torch.ones(1, 1, 2, 12)
    places[:, :, 0], places[:, :, 2, :4] = 0.0, 0.5
    times[..., :6] = 0.25
    return minimax_h3(latent={"samples": latent, "noise_mask": type(nested)([places, times])})


def tagged() -> zoo.Sampled:
    """Pictures within the text: the encoder marks their tokens, in runs."""
    sampled = keyframes()
    for (text, extra), *_ in (sampled.positive, sampled.negative):
        extra["minimax_token_tags"] = torch.ones(1, text.shape[1], dtype=torch.long)
        extra["minimax_token_tags"][:, 2:5] = 0
    return sampled


def pruned() -> zoo.Sampled:
    """Checkpoints with a table in place of the time embedder, whose modulation is in fp32."""
    return minimax_h3({"adaln_curve_grid": 16, "time_embed_dim": 8})


def uneven() -> zoo.Sampled:
    """Sizes that the model pads."""
    return minimax_h3(latent=two_streams((1, 24, 5, 7, 9), (1, 32, 2, 11)))


VARIANTS = [keyframes, references, masked, tagged, pruned, uneven]


@pytest.fixture(params=VARIANTS, ids=lambda build: build.__name__)
def variant(request) -> zoo.Sampled:
    return request.param()


def test_selected_tokens_are_computed_as_by_the_whole_block(variant):
    architecture, blocks = kit.record_blocks(variant)
    runner = architecture.runner
    for block in blocks:
        before, after = runner.entry(block.call()), runner.exit(block.result)
        selection = kit.some_tokens(block.layout, 1)
        call = block.call()
        assert runner.unsupported_reason(call) == ""
        residual, _ = runner.forward_tokens(call, selection, kit.attention(before.shape[1]))
        assert torch.allclose(residual, selection.gather(after) - selection.gather(before), atol=2e-4, rtol=1e-3)
        assert torch.equal(runner.entry(call), before)


@pytest.mark.parametrize("as_packed", [True, False], ids=["as packed", "counted"])
def test_layout_is_that_of_the_blocks(variant, as_packed, monkeypatch):
    """Also where the model has not packed its layout beforehand, as in context windows."""
    if not as_packed:
        import comfy.ldm.minimax.model as host

        init = host.PackedLayout.__init__
        monkeypatch.setattr(host.PackedLayout, "__init__", lambda self, *a, **k: (init(self, *a, **k), forget(self))[0])
    _, blocks = kit.record_blocks(variant)
    segments = blocks[0].args[2]
    start, stop, _ = segments[-1]
    assert blocks[0].args[0].shape[0] == blocks[0].layout.total == stop
    assert (blocks[0].layout.prefix, blocks[0].layout.suffix) == (start, 0)


def forget(packed: Any) -> None:
    packed.signature = None


def test_tokens_are_known_before_the_run(variant, monkeypatch):
    """The memory that is announced, and the cost model's speed-up, count keyframes and references."""
    layouts = []
    architecture = architecture_of(variant.model)
    announced = wrappers.announced_bytes

    def note(run, architecture, guider, shape, layout):
        layouts.append(layout)
        return announced(run, architecture, guider, shape, layout)

    monkeypatch.setattr(wrappers, "announced_bytes", note)
    variant.negative = variant.positive
    run(variant, steps=2)
    _, blocks = kit.record_blocks(variant)
    assert layouts == [blocks[-1].layout]
    assert architecture.cost(layouts[0], None).others == pytest.approx(1 - layouts[0].video / layouts[0].total)


def test_half_the_tokens_beat_half_the_steps(variant):
    expected = kit.joined(zoo.sample(variant, steps=STEPS))
    assert torch.equal(run(variant, budget=1.0)[0], expected)
    result, report = run(variant)
    assert not [call.reason for call in report.calls if call.reason]
    assert {call.kind for call in report.calls} == {"full", "token"}
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(variant, steps=STEPS // 2)))


def test_a_mask_gives_tokens_rows_of_their_own():
    _, blocks = kit.record_blocks(masked())
    segments = blocks[0].args[2]
    assert [isinstance(row, Tensor) for _, _, row in segments] == [False, True, True]
    assert all(row.unique().numel() > 1 for _, _, row in segments[1:])


def test_everything_but_the_video_is_always_computed(variant, monkeypatch):
    import astraea.engine.calls.token as token

    selections, original = [], token.select_tokens
    monkeypatch.setattr(token, "select_tokens", lambda *a: selections.append(original(*a)) or selections[-1])
    variant.negative = variant.positive
    run(variant, steps=4)
    _, blocks = kit.record_blocks(variant)
    layout = blocks[0].layout
    assert len(selections) == 6  # three token steps of two calls
    for selection in selections:
        assert selection.tokens == layout.total
        assert torch.equal(selection.indices[0, : layout.prefix], torch.arange(layout.prefix))
        assert selection.count < layout.total


def test_settings_that_people_run():
    """20 steps of res_multistep without guidance; the distilled 8."""
    sampled = minimax_h3()
    for steps, shorter in ((20, 10), (8, 4)):
        options = {"cfg": 1.0, "sampler": "res_multistep"}
        expected = kit.joined(zoo.sample(sampled, steps=steps, **options))
        result, report = run(sampled, steps=steps, **options)
        assert len(report.calls) == steps
        assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, steps=shorter, **options)))


@pytest.mark.parametrize("sliced", [True, False])
def test_cost_counts_the_queries_that_are_computed(sliced, monkeypatch):
    """One Linear gives queries, keys and values: of all tokens, unless parts of its output can be computed alone."""
    if not sliced:
        monkeypatch.setattr(LinearSlices, "possible", lambda self, linear: False)
    architecture, blocks = kit.record_blocks(minimax_h3(latent=two_streams((1, 24, 4, 16, 16), (1, 32, 2, 12))))
    layout, selection = blocks[0].layout, kit.some_tokens(blocks[0].layout, 1, share=0.4)
    with FlopCounterMode(display=False, custom_mapping=kit.ON_CPUS) as whole:
        blocks[0].call().run()
    with FlopCounterMode(display=False, custom_mapping=kit.ON_CPUS) as part:
        architecture.runner.forward_tokens(blocks[0].call(), selection, kit.attention(layout.total))
    share = (selection.count - layout.prefix) / layout.video
    expected = architecture.cost(layout, None).relative_cost(share)
    assert part.get_total_flops() / whole.get_total_flops() == pytest.approx(expected, abs=0.01)


# --- blocks that write into their input ----------------------------------------------------------------------------


def test_what_is_kept_of_a_block_is_its_own_change(monkeypatch):
    """The block's input is its output afterwards: what a full step keeps was saved before."""
    from astraea.engine.calls.recording import RecordingCall

    kept, record = [], RecordingCall._record
    sampled = minimax_h3()

    def note(self, store, index, after, before):
        record(self, store, index, after, before)
        kept.append(store.read(index * self.context.mode.slots).clone())

    monkeypatch.setattr(RecordingCall, "_record", note)
    run(sampled, steps=2, cfg=1.0)
    with kit.recorded(architecture_of(sampled.model)) as blocks:
        zoo.sample(sampled, steps=1, cfg=1.0)
    expected = [block.result - block.args[0] for block in blocks]
    for residual, change in zip(kept, expected, strict=True):
        assert residual.abs().max() > 0.01
        assert torch.allclose(residual[0], change, atol=1e-5)


def test_a_token_step_leaves_its_input_and_what_is_kept_alone():
    architecture, blocks = kit.record_blocks(minimax_h3())
    runner, call = architecture.runner, blocks[1].call()
    selection = kit.some_tokens(blocks[1].layout, 1)
    first, _ = runner.forward_tokens(call, selection, kit.attention(blocks[1].layout.total))
    before = first.clone()
    runner.pack(first, call).add_(1.0)  # the next block writes into what it is given
    assert torch.equal(runner.entry(call), runner.entry(blocks[1].call()))
    again, _ = runner.forward_tokens(call, selection, kit.attention(blocks[1].layout.total))
    assert torch.equal(again, before)


# --- checkpoints ----------------------------------------------------------------------------------------------------


def in_int8(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint with the blocks' matrices in int8, one scale a row, as the published ones."""
    packed = {}
    for name, weight in weights.items():
        if not name.startswith("blocks.") or weight.ndim != 2:
            packed[name] = weight
            continue
        scale = weight.abs().amax(1, keepdim=True) / 127
        packed[name] = (weight / scale).round().to(torch.int8)
        packed[f"{name}_scale"] = scale.float()
        settings = json.dumps({"format": "int8_tensorwise"}).encode()
        packed[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(settings), dtype=torch.uint8)
    return packed


def test_int8_checkpoint():
    import comfy.sd

    sampled = minimax_h3()
    weights = {name: weight.clone() for name, weight in sampled.model.model.diffusion_model.state_dict().items()}
    sampled.model = comfy.sd.load_diffusion_model_state_dict(in_int8(weights))
    assert type(sampled.model.model.diffusion_model.blocks[0].attn.qkv_proj.weight).__name__ == "QuantizedTensor"
    expected = kit.joined(zoo.sample(sampled, steps=STEPS))
    assert torch.equal(run(sampled, budget=1.0)[0], expected)
    result, report = run(sampled)
    assert not any(call.reason for call in report.calls)
    assert error(expected, result) < error(expected, kit.joined(zoo.sample(sampled, steps=STEPS // 2)))


def test_a_bank_of_output_heads_is_never_reused():
    """It predicts the mean up to the next noise level: with other steps it is another prediction."""
    sampled, handle = minimax_h3(), ReportHandle()
    final = sampled.model.model.diffusion_model.final_layer
    fast = accelerate(sampled.model, make_plan(None, budget=0.5), handle)
    zoo.sample(sampled, fast, steps=8)
    assert handle.last.computed_share < 0.6
    heads = final.video_out.out_features
    final.video_out.weight = nn.Parameter(final.video_out.weight.repeat(2, 1), requires_grad=False)
    final.video_out.bias = nn.Parameter(final.video_out.bias.repeat(2), requires_grad=False)
    final.video_out.forward = lambda x: nn.functional.linear(
        x, final.video_out.weight[:heads], final.video_out.bias[:heads]
    )
    assert torch.equal(kit.joined(zoo.sample(sampled, fast, steps=8)), kit.joined(zoo.sample(sampled, steps=8)))
    assert "ran in full: the model predicts a mean on the way to the next noise level" in handle.last.summary()


# --- other nodes ----------------------------------------------------------------------------------------------------


def test_replaced_attention_runs_in_full():
    sampled = minimax_h3()
    attention = sampled.model.model.diffusion_model.blocks[1].attn
    attention.forward = type(attention).forward.__get__(attention)
    result, report = run(sampled)
    assert result.isfinite().all()
    partial = [call for call in report.calls if call.kind == "token"]
    assert {call.reason for call in partial} == {"1 of 4 blocks: another node has replaced its attention"}


def test_attention_given_to_a_block_runs_in_full():
    """As newer ComfyUIs let nodes do."""
    architecture, blocks = kit.record_blocks(minimax_h3())
    call = blocks[0].call()
    call.kwargs["attention"] = call.block.attn
    assert architecture.runner.unsupported_reason(call) == "another node has replaced its attention"
    call.kwargs["attention"] = None
    assert architecture.runner.unsupported_reason(call) == ""
    call.kwargs["region_mask"] = torch.ones(1)
    assert "region_mask" in architecture.runner.unsupported_reason(call)


def test_attention_that_a_checkpoint_names_is_passed_on():
    """As newer ComfyUIs keep it in the layer."""
    architecture, blocks = kit.record_blocks(minimax_h3())
    attend, asked = kit.attention(blocks[0].layout.total), []

    def note(*args: Tensor, preferred: Any = None, **options: Any) -> Any:
        asked.append(preferred)
        return attend(*args, **options)

    call, selection = blocks[0].call(), kit.some_tokens(blocks[0].layout, 1)
    architecture.runner.forward_tokens(call, selection, note)
    call.block.attn.comfy_attention = SimpleNamespace(function=torch.add)
    architecture.runner.forward_tokens(call, selection, note)
    assert asked == [None, call.block.attn.comfy_attention]


def test_node_that_wraps_a_block():
    """Through `patches_replace`: the block that the node calls is still the one of the token step."""
    sampled, calls = minimax_h3(), []

    def wrapped(arguments: dict, extra: dict) -> dict:
        calls.append(arguments["img"].shape)
        return extra["original_block"](arguments)

    model = sampled.model.clone()
    model.set_model_patch_replace(wrapped, "dit", "double_block", 2)
    result, report = run(sampled, model=model)
    assert len(calls) == len(report.calls)
    assert torch.equal(result, run(sampled)[0])
