"""The demo model comes from a node of its own; the user's model folders stay as they were."""

from __future__ import annotations

import asyncio
import copy

import comfy.sd
import folder_paths
import pytest
import torch
from sampling import sample

import astraea
from astraea.errors import AstraeaError
from astraea.host import demo_model
from astraea.host.search.cli.inputs import apply_paths
from astraea.nodes.demo import AstraeaDemoModel


def test_it_is_what_the_host_s_own_loader_makes_of_the_file() -> None:
    (model,) = AstraeaDemoModel.execute().args
    loaded = comfy.sd.load_diffusion_model(str(demo_model.CHECKPOINT))
    assert torch.equal(sample(model, steps=2), sample(loaded, steps=2))


def test_no_model_folder_is_registered() -> None:
    before = copy.deepcopy(folder_paths.folder_names_and_paths)

    async def nodes_of_the_pack() -> list:
        return await (await astraea.comfy_entrypoint()).get_node_list()

    assert AstraeaDemoModel in asyncio.run(nodes_of_the_pack())
    apply_paths()
    assert folder_paths.folder_names_and_paths == before
    assert not [name for name in folder_paths.get_filename_list("diffusion_models") if "astraea" in name]


def test_a_missing_file_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(demo_model, "CHECKPOINT", tmp_path / "gone.safetensors")
    with pytest.raises(AstraeaError, match=r"gone\.safetensors' is missing: install Astraea again"):
        AstraeaDemoModel.execute()
