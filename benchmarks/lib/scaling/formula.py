"""Bytes that leave one GPU when a video of the Wan format is split over several. Standard library only.

Counted from raylight 1.5.1 (`usp_dit_forward`, `usp_self_attn_forward` and `usp_t2v_cross_attn_forward` in
src/raylight/diffusion_models/wan/xdit_context_parallel.py, `cfg_parallel_forward` in
src/raylight/distributed_modules/cfg_utils.py) and from `all_to_all_4D` in yunchang/comm/all_to_all.py. What a backend
sends besides the tensors themselves, such as headers, is not counted.
"""

from __future__ import annotations


def ulysses_bytes(
    *, tokens: int, ranks: int, dim: int, layers: int, rows: int, itemsize: int, text: int = 512, share: float = 1.0
) -> int:
    """Return the bytes that leave one rank in one computed model call under Ulysses sequence parallelism.

    tokens: of the video, all ranks together, padded to a multiple of `ranks` as raylight does; dim: channels of all
    heads, whose number `ranks` divides; layers: blocks with one self- and one cross-attention each; rows: conditionings
    in the call; itemsize: bytes per number; text: tokens of the prompt, 0 where cross-attention is not split; share:
    selected tokens over all, 1 in a full call. A rank selects `round(share · its tokens)` of its own; the engine's
    counts are whole units of them. Raises ValueError where the channels cannot be divided so.

    An all-to-all gives each of P ranks a P-th of the heads, so (P−1)/P of a rank's tensor leaves it. Per block:

    * self-attention: q and out of the selected tokens, k and v of all tokens of the rank;
    * cross-attention: q and out of the selected tokens, k and v of the whole text: each rank has all of it and sends
      all of it, so every rank then attends to P copies.

    Behind the last block an all-gather takes the hidden states of all tokens of a rank to the P−1 others. A ring passes
    as many bytes on from every rank.
    """
    if dim % ranks or not 0.0 <= share <= 1.0:
        raise ValueError(f"{ranks} ranks do not divide {dim} channels, or {share} is no share.")
    own = -(-tokens // ranks)
    selected = round(share * own)
    self_attention = 2 * selected + 2 * own
    cross_attention = 2 * selected + 2 * text if text else 0
    to_others = dim * (ranks - 1) // ranks
    gathered = own * dim * (ranks - 1)
    return rows * itemsize * (layers * (self_attention + cross_attention) * to_others + gathered)


def cfg_bytes(*, prediction: int, itemsize: int, ranks: int = 2) -> int:
    """Return the bytes that leave one rank in one computed step under cfg parallelism, each rank one conditioning.

    prediction: numbers in the model's output for one conditioning, C·T·H·W. An all-gather takes it to the others.
    """
    return (ranks - 1) * prediction * itemsize
