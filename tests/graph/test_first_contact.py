"""The first seconds: ComfyUI loads the pack without messages and lists its nodes."""

from __future__ import annotations

import re

from server import PACK_FOLDER, ComfyServer

NODES = {
    "AstraeaAccelerate",
    "AstraeaSparseAttention",
    "AstraeaAccelerateRaylight",
    "AstraeaSparseAttentionRaylight",
    "AstraeaSearch",
    "AstraeaScheduleLoad",
    "AstraeaScheduleSave",
    "AstraeaScheduleInline",
    "AstraeaReport",
    "AstraeaCompare",
    "AstraeaDemoModel",
    "AstraeaDemoPrompt",
    "AstraeaDemoView",
}

# ComfyUI's log has no levels: problems are recognised by words, and by traceback lines with the pack's path.
TROUBLE = re.compile(r"error|warn|fail|exception|cannot|deprecat|skipp|unable|missing|File \"", re.IGNORECASE)


def test_all_nodes_are_listed(server: ComfyServer) -> None:
    assert NODES - set(server.object_info()) == set()


def test_nodes_are_known_under_the_folder_name(server: ComfyServer) -> None:
    modules = {node["python_module"] for name, node in server.object_info().items() if name in NODES}
    assert modules == {f"custom_nodes.{PACK_FOLDER}"}


def test_the_log_has_no_trouble_that_mentions_the_pack(server: ComfyServer) -> None:
    started = server.log.split("got prompt")[0]  # later other tests provoke errors
    lines = [line for line in started.splitlines() if re.search("astraea", line, re.IGNORECASE)]
    assert [line for line in lines if TROUBLE.search(line)] == []
    assert any(re.search(rf"seconds: .*{re.escape(PACK_FOLDER)}$", line) for line in lines), "it was not loaded at all"


def test_no_folder_of_the_pack_is_among_the_user_s_model_folders(server: ComfyServer) -> None:
    """Names that begin with "a" sort first: every new Load Diffusion Model would select the demo model."""
    for kind in set(server.get_json("/models")) - {"custom_nodes"}:
        assert [name for name in server.get_json(f"/models/{kind}") if "astraea" in name.lower()] == []
    (listed, *_) = server.object_info()["UNETLoader"]["input"]["required"]["unet_name"]
    assert not [name for name in listed if "astraea" in name]
