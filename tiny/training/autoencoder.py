"""Trains the demo model's decoder, and the encoder of its latents: `python -m tiny.training.autoencoder`.

Draws scenes, trains on windows of them, and writes the decoder and the latents that `train --kind demo` learns from.
The encoder is needed in training only. Codes get noise before they are decoded, so that the decoder bears with a model
that is not exact. Resumable: scenes that are drawn are kept, and training begins with the weights that it left.
`--minutes 0` makes the latents of the committed encoder; `--frozen` trains the decoder alone, so that they stay as they
are.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..codec import PREVIEW, PREVIEW_BIAS
from ..demo_model.decoder import (
    CODES,
    DECODER,
    FRAMES_PER_LATENT,
    PIXELS_PER_LATENT,
    Decoder,
    Norm,
    ResidualBlock,
    load_decoder,
)
from ..shipped import FRAMES, HEIGHT, WIDTH
from .demo_clips import LATENTS
from .scenery import draw_scenery_pair
from .train import load_or_none, save_state

STATES = Path(__file__).resolve().parents[1] / ".training"
COLOUR_GAIN = 2.0  # of the mean colours, to which the first three codes add what the encoder finds
WINDOW = (7, 8)  # height and width of a training window, in latents
ENCODER = Path(__file__).with_name("demo_encoder_fp16.safetensors")
NOISE = 0.12  # on the codes of a window, at most: a model is off by as much
RATE, WARM_UP, COOLING = 1e-3, 100, 0.6


def groups_of(frames: Tensor) -> Tensor:
    """Return the frames of each latent `[B, T, 4, 3, H, W]`, of the first one four times."""
    first = frames[:, :1].expand(-1, FRAMES_PER_LATENT - 1, -1, -1, -1)
    return torch.cat([first, frames], dim=1).unflatten(1, (-1, FRAMES_PER_LATENT))


def mean_colours(frames: Tensor) -> Tensor:
    """Return the mean colours `[B, 3, T, H, W]` of the latents in −1...1."""
    groups = groups_of(frames).mean(2)
    colours = F.avg_pool2d(groups.flatten(0, 1), PIXELS_PER_LATENT).unflatten(0, groups.shape[:2])
    return colours.transpose(1, 2) * 2 - 1


class Encoder(nn.Module):
    """Encodes frames `[B, 4T − 3, 3, 16H, 16W]` to codes `[B, 13, T, H, W]`."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * FRAMES_PER_LATENT * 16, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for _ in range(2))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(3))
        self.norm = Norm(width)
        self.exit = nn.Conv2d(width, CODES, 1)

    def forward(self, frames: Tensor) -> Tensor:
        batch = len(frames)
        groups = groups_of(frames).flatten(0, 1).flatten(1, 2)
        x = self.blocks[0](self.enter(F.pixel_unshuffle(groups * 2 - 1, 4)))
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            x = block(down(x))
        codes = self.exit(self.norm(x)).unflatten(0, (batch, -1)).transpose(1, 2)
        return codes + F.pad(COLOUR_GAIN * mean_colours(frames), (0, 0, 0, 0, 0, 0, 0, CODES - 3))


def new_models() -> tuple[Encoder, Decoder]:
    """Return an encoder and a decoder that begin with the mean colours alone."""
    encoder, decoder = Encoder(), Decoder()
    with torch.no_grad():
        encoder.exit.weight.mul_(0.3)
        for layer in (decoder.enlarge[-2], decoder.to_colours):
            layer.weight.mul_(0.1)
        decoder.colours_of_codes.weight.zero_()
        decoder.colours_of_codes.bias.fill_(0.5)
        for channel in range(3 * FRAMES_PER_LATENT):
            decoder.colours_of_codes.weight[channel, channel % 3] = 0.5 / COLOUR_GAIN
    return encoder, decoder


def draw_scenes(count: int) -> tuple[list[Path], list[tuple[str, str]]]:
    """Draw scenes 0 to `count`, as files of frames `[T, 3, H, W]` in 0...255, and their captions and the mirrored."""
    folder = STATES / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    files, captions = [], []
    frames, height, width = FRAMES_PER_LATENT * (FRAMES - 1) + 1, PIXELS_PER_LATENT * HEIGHT, PIXELS_PER_LATENT * WIDTH
    for number in range(count):
        path, note = folder / f"{number}.npy", folder / f"{number}.txt"
        if not note.exists():
            (clip, caption), (_, mirrored) = draw_scenery_pair(random.Random(number), frames, height, width)
            np.save(path, (clip * 255).round().byte().numpy())
            note.write_text(f"{caption}\n{mirrored}\n", "utf-8")
        first, second = note.read_text("utf-8").splitlines()
        files.append(path)
        captions.append((first, second))
    return files, captions


def draw_windows(files: list[Path], rng: random.Random, count: int) -> Tensor:
    """Return windows of random scenes `[B, T, 3, H, W]` in 0...1, half of them mirrored."""
    windows = []
    for _ in range(count):
        clip = np.load(rng.choice(files), mmap_mode="r")
        top, left = (rng.randint(0, whole - part) for whole, part in zip((HEIGHT, WIDTH), WINDOW, strict=True))
        top, left = PIXELS_PER_LATENT * top, PIXELS_PER_LATENT * left
        high, wide = (PIXELS_PER_LATENT * part for part in WINDOW)
        window = torch.from_numpy(np.array(clip[:, :, top : top + high, left : left + wide]))
        windows.append(window.flip(-1) if rng.random() < 0.5 else window)
    return torch.stack(windows).float() / 255


def load_models() -> tuple[Encoder, Decoder]:
    """Load the committed encoder and decoder."""
    encoder, decoder = Encoder(), load_decoder()
    encoder.load_state_dict({name: tensor.float() for name, tensor in load_file(ENCODER).items()})
    return encoder, decoder.requires_grad_(True)


def loss_of(encoder: Encoder, decoder: Decoder, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise (values, and edges in place and time), and the mean square error."""
    with torch.autocast("cpu", torch.bfloat16):
        codes = encoder(frames).float()
        out = decoder(codes + NOISE * torch.rand(len(codes), 1, 1, 1, 1) * torch.randn_like(codes)).float()
    weights = {-1: 1.5, -2: 1.5, 1: 0.5}
    edges = sum(weight * F.l1_loss(out.diff(dim=dim), frames.diff(dim=dim)) for dim, weight in weights.items())
    return F.l1_loss(out, frames) + edges + 2e-4 * codes.square().mean(), F.mse_loss(out, frames)


def train(files: list[Path], args: argparse.Namespace) -> tuple[Encoder, Decoder]:
    """Train for the minutes asked for, and return the averages of the weights."""
    path = STATES / "autoencoder.pt"
    state = load_or_none(path)
    models = load_models() if args.frozen or not args.minutes else new_models()
    if state is not None:
        for model, weights in zip(models, state["models"], strict=True):
            model.load_state_dict(weights)
    models[0].requires_grad_(not args.frozen)
    averages = tuple(copy.deepcopy(model).requires_grad_(False) for model in models)
    parameters = [each for model in models for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    first = state["step"] if state else 0
    rng, began, errors, step = random.Random(first), time.monotonic(), [], 0
    while args.minutes and (done := (time.monotonic() - began) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP, (1 - done) / COOLING + 0.02)
        loss, error = loss_of(*models, draw_windows(files, rng, args.batch))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        for average, model in zip(averages, models, strict=True):
            decay = min(0.998, step / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        errors.append(error.item())
        if step % 50 == 0:
            decibels = -10 * math.log10(sum(errors) / len(errors))
            print(f"step {first + step}: {decibels:.1f} dB after {(time.monotonic() - began) / 60:.1f} min", flush=True)
            errors.clear()
            save_state(path, {"models": [model.state_dict() for model in averages], "step": first + step})
    return averages


@torch.no_grad()
def encode_scenes(encoder: Encoder, files: list[Path]) -> tuple[Tensor, Tensor]:
    """Return codes `[2N, 13, T, H, W]` and mean colours `[2N, 3, T, H, W]` of scenes, each before its mirror image."""
    codes, colours = [], []
    for file in files:
        scene = torch.from_numpy(np.load(file)).float()[None] / 255
        for clip in (scene, scene.flip(-1)):
            colours.append(mean_colours(clip))
            with torch.autocast("cpu", torch.bfloat16):
                codes.append(encoder(clip).float())
    return torch.cat(codes), torch.cat(colours)


def write(encoder: Encoder, decoder: Decoder, files: list[Path], captions: list[tuple[str, str]]) -> None:
    """Write the decoder, with the map from latents, and the latents of all scenes with their captions.

    Latents: the normalised codes in the null space of ComfyUI's linear preview, and the mean colours where it looks.
    """
    codes, colours = encode_scenes(encoder, files)
    if not decoder.codes_map.any():
        std, mean = torch.std_mean(codes, dim=(0, 2, 3, 4))
        q, r = torch.linalg.qr(torch.cat([PREVIEW, torch.eye(16)[:, :13]], dim=1).double())
        decoder.codes_map.copy_((q * r.diagonal().sign()).T[3:])  # orthonormal, and not seen in the preview
        decoder.mean.copy_(mean)
        decoder.std.copy_(std)
    normalised = (codes - decoder.mean.view(-1, 1, 1, 1)) / decoder.std.view(-1, 1, 1, 1)
    latents = torch.einsum("kc,bkthw->bcthw", decoder.codes_map, normalised)
    latents += torch.einsum("ck,bkthw->bcthw", torch.linalg.pinv(PREVIEW.T), colours - PREVIEW_BIAS.view(-1, 1, 1, 1))
    texts = "\n".join(text for pair in captions for text in pair)
    save_file({"latents": latents.half().contiguous()}, LATENTS, metadata={"captions": texts})
    for model, path in ((encoder, ENCODER), (decoder, DECODER)):
        weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, path, metadata={"format": "pt", "modelspec.title": f"Astraea demo {type(model).__name__}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training; 0: only write the latents")
    parser.add_argument(
        "--frozen", action="store_true", help="begin with the committed weights, train the decoder alone"
    )
    parser.add_argument("--batch", type=int, default=2, help="windows a step")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    files, captions = draw_scenes(args.scenes)
    write(*train(files, args), files, captions)


if __name__ == "__main__":
    main()
