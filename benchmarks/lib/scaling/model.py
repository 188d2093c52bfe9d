"""A model of the time of one video on several GPUs: arithmetic on stated inputs, no measurement. Standard library only.

A computed step takes a rank the multiplications that are left to it, at the speed of one GPU, and after that the time
to send its bytes: raylight computes nothing while it sends. A skipped step is the same on every rank and sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from .formula import cfg_bytes, ulysses_bytes

ITEMSIZE = 2  # bytes of bfloat16, in which hidden states are sent and kept
VAE_STRIDE, PATCH = (4, 8, 8), (1, 2, 2)  # of Wan: frames, height, width
CHANNELS = 16  # of the latents


@dataclass(frozen=True)
class Network:
    """Sizes of a Wan model; dim: channels of all heads; text: tokens of the prompt; text_dim: their channels."""

    name: str
    dim: int
    feed_forward: int
    layers: int
    text: int = 512
    text_dim: int = 4096

    def work(self, tokens: int, ranks: int = 1, share: float = 1.0) -> float:
        """Return the multiplications that one of P ranks makes in a call for one conditioning.

        tokens: N of the video, all ranks together; share: selected tokens over all. What does not become a P-th:

        * attention to the text: a rank has a P-th of the heads and P copies of the text, see `ulysses_bytes`;
        * k and v of the text, its embedding, the video's embedding, and the last layer, which follows the all-gather.
        """
        own = -(-tokens // ranks)
        keys = 2 * self.dim**2
        selected = 4 * self.dim**2 + 2 * self.dim * self.feed_forward + 2 * own * ranks * self.dim
        to_text = 2 * self.text * self.dim
        block = own * (keys + share * selected) + own * ranks * share * to_text + self.text * keys
        patch = CHANNELS * PATCH[0] * PATCH[1] * PATCH[2]
        around = 2 * tokens * patch * self.dim + self.text * (self.text_dim + self.dim) * self.dim
        return float(self.layers * block + around)

    def hidden(self, tokens: int, ranks: int = 1) -> int:
        """Return the numbers of one rank's hidden states, all blocks together, for one conditioning."""
        return self.layers * -(-tokens // ranks) * self.dim


@dataclass(frozen=True)
class Clip:
    """A video, in frames and pixels."""

    name: str
    frames: int
    height: int
    width: int

    @property
    def prediction(self) -> int:
        """Numbers in the model's output for one conditioning: C·T·H·W of the latents."""
        frames = (self.frames - 1) // VAE_STRIDE[0] + 1
        return CHANNELS * frames * (self.height // VAE_STRIDE[1]) * (self.width // VAE_STRIDE[2])

    @property
    def tokens(self) -> int:
        return self.prediction // (CHANNELS * PATCH[0] * PATCH[1] * PATCH[2])


@dataclass(frozen=True)
class Layout:
    """Layout of the work on GPUs: `cfg` groups with conditionings of their own, of `ulysses` GPUs each."""

    cfg: int = 1
    ulysses: int = 1

    @property
    def gpus(self) -> int:
        return self.cfg * self.ulysses

    @property
    def name(self) -> str:
        parts = [f"cfg {self.cfg}"] * (self.cfg > 1) + [f"Ulysses {self.ulysses}"] * (self.ulysses > 1)
        return " × ".join(parts) or "one GPU"


@dataclass(frozen=True)
class Device:
    """One GPU and its link. step_seconds: of a dense step with two conditionings of the clip in question on one GPU;
    bytes_per_second: that leave a GPU while others do the same; per_hidden: seconds of a token step's own work
    (selection, estimates of the other tokens, what is kept) per number of the hidden states; skipped_seconds: of a
    skipped step."""

    step_seconds: float
    bytes_per_second: float
    per_hidden: float = 0.0
    skipped_seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """A computed step on one rank: seconds of computing and of sending, and the bytes that leave."""

    computing: float
    sending: float
    sent: int

    @property
    def seconds(self) -> float:
        return self.computing + self.sending


def computed_step(
    network: Network, clip: Clip, device: Device, layout: Layout, rows: int = 2, share: float = 1.0
) -> Step:
    """Return a computed step. rows: conditionings of the run, at least `layout.cfg`; share: selected tokens."""
    own_rows = rows // layout.cfg
    work = network.work(clip.tokens, layout.ulysses, share) / network.work(clip.tokens)
    computing = device.step_seconds * own_rows / 2 * work
    if share < 1.0:
        computing += device.per_hidden * own_rows * network.hidden(clip.tokens, layout.ulysses)
    sent = ulysses_bytes(
        tokens=clip.tokens,
        ranks=layout.ulysses,
        dim=network.dim,
        layers=network.layers,
        rows=own_rows,
        itemsize=ITEMSIZE,
        text=network.text,
        share=share,
    )
    if layout.cfg > 1:
        sent += cfg_bytes(prediction=clip.prediction, itemsize=ITEMSIZE, ranks=layout.cfg)
    return Step(computing, sent / device.bytes_per_second, sent)


def kept_bytes(network: Network, clip: Clip, layout: Layout, rows: int) -> int:
    """Return the bytes that token steps keep on a rank: a residual of each block for each token and conditioning."""
    return ITEMSIZE * (rows // layout.cfg) * network.hidden(clip.tokens, layout.ulysses)


@dataclass(frozen=True)
class Steps:
    """Counts of a run's full, token and skipped steps; share: selected tokens over all in a token step."""

    full: int
    token: int = 0
    skipped: int = 0
    share: float = 1.0

    @classmethod
    def whole(cls, budget: float, steps: int) -> Steps:
        full = round(budget * steps)
        return cls(full, skipped=steps - full)

    @classmethod
    def tokens(cls, share: float, steps: int) -> Steps:
        """Return the first and the last step in full, and all others with a share of the tokens."""
        return cls(2, token=steps - 2, share=share)


def run_of(network: Network, clip: Clip, device: Device, layout: Layout, rows: int, steps: Steps) -> tuple[float, int]:
    """Return the seconds of a video's sampling, and the bytes that leave a GPU meanwhile."""
    full = computed_step(network, clip, device, layout, rows)
    token = computed_step(network, clip, device, layout, rows, steps.share)
    seconds = steps.full * full.seconds + steps.token * token.seconds + steps.skipped * device.skipped_seconds
    return seconds, steps.full * full.sent + steps.token * token.sent
