"""Turns words into the tiny model's context, without a text encoder or a download.

A token is the hash of its word joined with the hashes of its two neighbours, so that the token of "ball" differs
in "red ball" and "blue ball". Numpy and torch only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

TEXT_DIM = 4096
WORD_BITS, NEIGHBOUR_BITS = 2048, 1024
TOKENS = 24

COLOURS = {
    "red": (0.90, 0.12, 0.10),
    "green": (0.10, 0.68, 0.20),
    "blue": (0.12, 0.25, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.55, 0.15, 0.70),
    "orange": (0.98, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.85),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.05),
}
SHAPES = ("circle", "square", "triangle", "ring")
SIZES = {"small": 0.22, "big": 0.34}
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MANNERS = ("moving", "standing", "spinning")
CONNECTIVES = ("a", "an", "over", "ground")
VOCABULARY = frozenset((*COLOURS, *SHAPES, *SIZES, *DIRECTIONS, *MANNERS, *CONNECTIVES))


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words, at all characters but letters."""
    return re.findall(r"[a-z]+", text.lower())


def unknown_words(text: str, known: Collection[str] = VOCABULARY) -> list[str]:
    """Return the words of a text that a model was not trained on, in order, each once."""
    return [word for word in dict.fromkeys(split_words(text)) if word not in known]


def hash_signs(word: str, count: int) -> np.ndarray:
    """Return `count` values of ±1 that depend on the word alone, the same on every machine."""
    bits = np.frombuffer(hashlib.shake_256(word.encode()).digest(count // 8), dtype=np.uint8)
    return np.unpackbits(bits).astype(np.float32) * 2 - 1


def context_for(text: str, length: int = TOKENS) -> Tensor:
    """Return the context `[L, 4096]` of a prompt, padded with empty words to L: `length`, or a multiple of 24 above."""
    words = split_words(text)
    length = max(length, -(-len(words) // TOKENS) * TOKENS)
    words += [""] * (length - len(words))
    around = ["", *words, ""]
    rows = [
        np.concatenate(
            [
                hash_signs(around[i + 1], WORD_BITS),
                hash_signs("<" + around[i], NEIGHBOUR_BITS),
                hash_signs(">" + around[i + 2], NEIGHBOUR_BITS),
            ]
        )
        for i in range(length)
    ]
    return torch.from_numpy(np.stack(rows))
