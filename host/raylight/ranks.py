"""The processes of one run, as one of raylight's workers knows them: torch.distributed's groups, and agreements.

Which steps run follows from noise levels and keys alone, so ranks cannot part there. What each would decide by itself
(memory, the user's interrupt) they agree on: a rank that went its own way would leave the others waiting for ever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from ...models import Architecture
from .messages import Degrees
from .shards import by_shard

XFUSER = "xfuser.core.distributed"  # loaded by raylight


class WorkerRanks:
    """Implements `host.sampling.attachment.Ranks`.

    groups: of torch.distributed, whose processes make the same calls; interrupt_file: exists once the user has
    interrupted the run.
    """

    def __init__(self, rank: int, degrees: Degrees, groups: Sequence[Any], interrupt_file: str):
        self._rank, self._degrees, self._groups, self._interrupt_file = rank, degrees, tuple(groups), interrupt_file

    def agree(self, number: int) -> int:
        for group in self._groups:
            device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
            shared = torch.tensor([number], device=device)
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=group)
            number = int(shared)
        return number

    def share(self, architecture: Architecture) -> Architecture:
        return by_shard(architecture, self._degrees)

    def throw_if_interrupted(self) -> None:
        """Raise InterruptedError: the host's own error is no Exception on newer hosts, and would end a Ray worker."""
        if self.agree(int(os.path.exists(self._interrupt_file))):
            raise InterruptedError("the run was interrupted")

    def raise_named(self, error: Exception) -> None:
        if isinstance(error, InterruptedError) or self._degrees.gpus == 1:
            return
        reason = ": ".join(filter(None, (type(error).__name__, str(error))))
        # A class that every process has: the main process could not read one of the pack's.
        raise RuntimeError(f"GPU {self._rank + 1} of {self._degrees.gpus}: {reason}") from error


def groups_of(degrees: Degrees) -> list[Any]:
    """Return the groups of processes that make the same calls as this one: for its clip, not those of other clips."""
    if degrees.shared_weights:
        return [dist.group.WORLD]
    if degrees.sequence == degrees.cfg == 1:
        return []
    xfuser: Any = sys.modules[XFUSER]
    groups = [xfuser.get_sp_group(), xfuser.get_cfg_group()]
    return [group.device_group for group in groups if group.world_size > 1]
