"""Assumptions of the model of scaling, each figure with its source, and runs that others have published.

Figures of this project are read from its own results. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..results import RESULTS, read_json
from .model import Clip, Layout, Network

WAN_14B = Network("Wan 2.1 and 2.2 14B", dim=5120, feed_forward=13824, layers=40)
WAN_1_3B = Network("Wan 2.1 1.3B", dim=1536, feed_forward=8960, layers=30)
CLIP_480P, CLIP_720P = Clip("480p", 81, 480, 832), Clip("720p", 81, 720, 1280)
CLIPS = (CLIP_480P, CLIP_720P)

OWN = "speed_gpu-0.3.64"  # this project's measurement of token steps
H200_MEMORY = 4.8e12  # bytes per second, of the GPU that it was measured on
GITHUB = "https://github.com"
# Sources, in Markdown.
WAN_21 = f"[Wan 2.1, efficiency]({GITHUB}/Wan-Video/Wan2.1/tree/9737cba9c1c3c4d04b33fcad41c111989865d315)"
WAN_22 = f"[Wan 2.2, efficiency]({GITHUB}/Wan-Video/Wan2.2/tree/42bf4cfaa384bc21833865abc2f9e6c0e67233dc)"
LIGHTX2V = f"[LightX2V]({GITHUB}/ModelTC/LightX2V/blob/0328dc8335edd1782dd1d01275543230b3d7690e/README.md)"
LIGHTX2V_4090 = (
    f"[LightX2V, benchmark]({GITHUB}/ModelTC/LightX2V/blob/29c8504c1487d886673d415784bea7a4ffc95352/"
    "docs/EN/source/getting_started/benchmark_source.md)"
)
RAYLIGHT = f"[raylight]({GITHUB}/komikndr/raylight#5090-vs-rtx-2000-ada)"
NCCL = (
    f"[all-to-all over four H100]({GITHUB}/NVIDIA/nccl/issues/2169), "
    f"[NVLink by NCCL]({GITHUB}/NVIDIA/nccl-tests/issues/212)"
)
COPIES_4090 = f"[three RTX 4090, P2P off]({GITHUB}/tinygrad/open-gpu-kernel-modules/issues/6)"
MEMORY_4090 = "[RTX 4090](https://www.thefpsreview.com/gpu-family/nvidia-geforce-rtx-4090-gpu-family-specifications)"
MEMORY_H100 = "[H100 and H200](https://gentic.news/glossary/h200)"


@dataclass(frozen=True)
class Stated:
    """A figure in SI units (seconds, bytes, bytes per second), what it is, and where it comes from."""

    value: float
    what: str
    source: str


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind. dense_step: seconds of a dense step of Wan 14B with two conditionings on one, by clip;
    link: bytes per second that leave a GPU; memory: bytes per second of its own memory; room: bytes of that memory
    that the weights leave."""

    name: str
    gpus: tuple[int, ...]
    dense_step: dict[str, Stated]
    link: Stated
    memory: Stated
    room: Stated


RTX_4090 = Machine(
    "2 × RTX 4090, PCIe 4.0 x16, through host memory",
    (1, 2),
    {
        "480p": Stated(630 / 40, "630 s / 40 steps; fp8, SageAttention 2, weights offloaded", LIGHTX2V_4090),
        "720p": Stated(2169 / 40, "2169 s / 40 steps; fp8, SageAttention 2, weights offloaded", LIGHTX2V_4090),
    },
    Stated(12.9e9, "half of the 25.8 GB/s of copies in both directions", COPIES_4090),
    Stated(1.008e12, "specification", MEMORY_4090),
    Stated(24 * 2**30 - 14.3e9, "24 GiB less 14.3 billion weights of one byte", "counted"),
)
H100 = Machine(
    "8 × H100 SXM, NVLink",
    (1, 2, 4, 8),
    {
        "480p": Stated(326.9 / 40, "326.9 s / 40 steps; FlashAttention 3, weights offloaded", WAN_22),
        "720p": Stated(1041.5 / 40, "1041.5 s / 40 steps; FlashAttention 3, weights offloaded", WAN_22),
    },
    Stated(335e9, "bus bandwidth of `alltoall_perf` at 0.5 GB; an author of NCCL names 370 GB/s as the most", NCCL),
    Stated(3.35e12, "specification; an H200 has 4800 GB/s", MEMORY_H100),
    Stated(80e9 - 28.6e9, "80 GB less 14.3 billion weights of two bytes", "counted"),
)
MACHINES = (RTX_4090, H100)


@dataclass(frozen=True)
class Published:
    """Seconds of `steps` dense steps on one and on several GPUs as published; where it is a whole video, all it takes.

    link: bytes per second that the model takes for that machine; None where the way is not modelled.
    """

    who: str
    network: Network
    clip: Clip
    rows: int
    layout: Layout
    steps: int
    one: float
    several: float
    link: float | None
    source: str


NVLINK, PCIE = H100.link.value, RTX_4090.link.value
SHORT, SQUARE = Clip("480p, 33 frames", 33, 480, 832), Clip("480 × 480, 33 frames", 33, 480, 480)
PUBLISHED = (
    *(
        Published("Wan 2.2, H100", WAN_14B, clip, 2, Layout(1, gpus), 40, one, several, NVLINK, WAN_22)
        for clip, gpus, one, several in (
            (CLIP_480P, 4, 326.9, 91.7), (CLIP_480P, 8, 326.9, 51.5),
            (CLIP_720P, 4, 1041.5, 288.7), (CLIP_720P, 8, 1041.5, 155.1),
        )
    ),
    *(
        Published("Wan 2.1, H100", WAN_14B, CLIP_720P, 2, Layout(1, gpus), 50, 1837.9, several, NVLINK, WAN_21)
        for gpus, several in ((2, 945.1), (4, 497.0), (8, 287.9))
    ),
    *(
        Published(f"{who}, H100", WAN_14B, CLIP_480P, 2, Layout(1, 8), 1, one, several, NVLINK, LIGHTX2V)
        for who, one, several in (
            ("LightX2V", 5.18, 0.75), ("SGLang-diffusion", 6.13, 1.19), ("xDiT", 8.93, 2.70), ("FastVideo", 7.35, 2.94),
        )
    ),
    *(
        Published(f"{who}, RTX 4090D", WAN_14B, CLIP_480P, 2, Layout(1, 8), 1, one, several, PCIE, LIGHTX2V)
        for who, one, several in (("LightX2V", 20.26, 4.75), ("FastVideo", 22.66, 15.48))
    ),
    *(
        Published("Wan 2.1, RTX 4090", WAN_1_3B, CLIP_480P, 2, Layout(1, gpus), 50, 261.4, several, link, WAN_21)
        for gpus, several, link in ((2, 188.5, PCIE), (4, 120.8, PCIE), (8, 112.3, None))  # 8: ring attention
    ),
    Published("raylight, RTX 2000 Ada", WAN_14B, SQUARE, 1, Layout(1, 2), 1, 9.23, 5.18, PCIE, RAYLIGHT),
    Published("raylight, RTX 2000 Ada", WAN_1_3B, SHORT, 1, Layout(1, 2), 1, 2.70, 1.65, PCIE, RAYLIGHT),
)  # fmt: skip


@dataclass(frozen=True)
class OwnFigures:
    """Of this project's measurement on an H200: seconds of a dense and a token step of Wan 2.1 1.3B, 480p, 81 frames,
    two conditionings, with half of the tokens; seconds of a skipped step; attention's share of a dense step."""

    dense_step: float
    token_step: float
    skipped_step: float
    attention: float

    def token_work(self) -> float:
        """Seconds of a token step on an H200 beyond the multiplications, per number of the hidden states."""
        counted = WAN_1_3B.work(CLIP_480P.tokens, share=0.5) / WAN_1_3B.work(CLIP_480P.tokens)
        return (self.token_step - self.dense_step * counted) / (2 * WAN_1_3B.hidden(CLIP_480P.tokens))

    def dense_14b(self, clip: Clip) -> float:
        """Seconds of a dense step of Wan 14B on this GPU, attention and all else each at the speed measured."""

        def parts(network: Network, of: Clip) -> tuple[float, float]:
            attention = 2.0 * network.layers * of.tokens * network.dim * (of.tokens + network.text)
            return attention, network.work(of.tokens) - attention

        measured, wanted = parts(WAN_1_3B, CLIP_480P), parts(WAN_14B, clip)
        spent = self.dense_step * self.attention, self.dense_step * (1.0 - self.attention)
        return sum(s * w / m for s, w, m in zip(spent, wanted, measured, strict=True))


def own_figures() -> OwnFigures:
    """Read the measurement. Raises FileNotFoundError without its result."""
    result = read_json(RESULTS / f"{OWN}.json")
    if result is None:
        raise FileNotFoundError(f"results/{OWN}.json")
    clip = next(clip for clip in result["clips"] if clip["tokens"] == CLIP_480P.tokens)
    rows = {row["name"]: row["step_seconds"] for row in clip["rows"]}
    return OwnFigures(
        dense_step=rows["uniform 0.5"]["full"],
        token_step=rows["uniform 0.5"]["token"],
        skipped_step=rows["bundled 0.5"]["reuse"],
        attention=clip["profile"]["dense step"]["attention"],
    )
