"""The demo model that ships: the scenes that it was trained on, its words, and the decoder of its latents."""

from __future__ import annotations

import random

import pytest
import torch

from astraea.tiny import codec
from astraea.tiny.demo_model import decoder, words
from astraea.tiny.shipped import CHECKPOINT, LATENT_SHAPE
from astraea.tiny.training import autoencoder, scenery
from astraea.tiny.words import split_words, unknown_words
from shipped import ROOT, shipped_files

MAX_BYTES = 8_000_000  # of the model and its decoder


def pair_of(seed: int) -> list[tuple[torch.Tensor, str]]:
    return scenery.draw_scenery_pair(random.Random(seed), 5, 32, 48)


def test_scenes_are_drawn_from_the_seed() -> None:
    (first, caption), _ = pair_of(3)
    (again, same), _ = pair_of(3)
    (other, _), _ = pair_of(4)
    assert torch.equal(first, again)
    assert caption == same
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(12))
def test_a_pair_is_a_scene_and_its_mirror_image(seed: int) -> None:
    (clip, caption), (mirrored, other) = pair_of(seed)
    assert torch.equal(clip, mirrored.flip(-1))
    assert clip.shape == (5, 3, 32, 48)
    assert 0.0 <= float(clip.min()) <= float(clip.max()) <= 1.0
    swapped = {"left": "right", "right": "left"}
    assert [swapped.get(word, word) for word in split_words(caption)] == split_words(other)


def test_captions_have_known_words_alone_and_every_word_appears() -> None:
    rng = random.Random(0)
    captions = [scenery.draw_scene(rng).caption() for _ in range(400)]
    assert not [word for caption in captions for word in unknown_words(caption, words.VOCABULARY)]
    assert {word for caption in captions for word in split_words(caption)} == words.VOCABULARY


def test_prompts_are_captions_that_scenes_can_have() -> None:
    assert not [word for prompt in words.PROMPTS for word in unknown_words(prompt, words.VOCABULARY)]


def test_every_scene_moves() -> None:
    for seed in range(8):
        (clip, _), _ = pair_of(seed)
        assert (clip[-1] - clip[0]).abs().max() > 0.1


def test_the_decoder_makes_four_frames_of_each_latent_but_the_first() -> None:
    frames = decoder.decode(torch.randn(2, 16, 3, 2, 3))
    assert frames.shape == (2, 9, 3, 32, 48)
    assert 0.0 <= float(frames.min()) <= float(frames.max()) <= 1.0


def test_a_frame_depends_on_no_place_far_away() -> None:
    """So that pictures of any size look alike."""
    latents = torch.randn(1, 16, 2, 4, 16)
    changed = latents.clone()
    changed[..., -1] += 1.0
    before, after = decoder.decode(latents), decoder.decode(changed)
    assert torch.equal(before[..., :32], after[..., :32])
    assert not torch.equal(before, after)


def test_the_decoder_reads_what_the_preview_does_not_show() -> None:
    codes_map = decoder.load_decoder().codes_map
    assert (codes_map @ codec.PREVIEW).abs().max() < 2e-3
    assert torch.allclose(codes_map @ codes_map.T, torch.eye(decoder.CODES), atol=2e-3)


def test_an_untrained_pair_of_encoder_and_decoder_keeps_the_colours() -> None:
    torch.manual_seed(0)
    encoder, untrained = autoencoder.new_models()
    frames = torch.full((1, 5, 3, 32, 48), 0.2)
    frames[:, :, 0] = 0.8
    with torch.no_grad():
        decoded = untrained(encoder(frames))
    assert (decoded - frames).abs().mean() < 0.1


def test_the_demo_ships_and_is_small() -> None:
    files = (CHECKPOINT, decoder.DECODER)
    assert {file.relative_to(ROOT).as_posix() for file in files} <= {str(path) for path in shipped_files()}
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES
    assert LATENT_SHAPE[1] == decoder.CHANNELS
