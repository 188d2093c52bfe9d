"""Models whose weights torch's FSDP divides among GPUs are known by their own class."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from astraea.engine.blocks.interface import class_name
from astraea.tiny.model import ModelConfig, TinyWan

fully_shard = pytest.importorskip("torch.distributed.fsdp").fully_shard


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_the_class_is_the_authors(group):
    model = TinyWan(ModelConfig(layers=1))
    assert class_name(model) == "TinyWan"
    fully_shard(model.blocks[0], mesh=group)
    fully_shard(model, mesh=group)
    assert type(model).__name__ != "TinyWan", "torch no longer puts a class of its own in front"
    assert class_name(model) == "TinyWan"
    assert class_name(model.blocks[0]) == "Block"
    assert class_name(torch.nn.Linear(1, 1)) == "Linear"
