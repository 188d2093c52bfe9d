"""The command that measures a user's own workflow, against a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prompts import accelerated
from server import ComfyServer

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "own_workflow.py"


@pytest.mark.newest_host
def test_budgets_and_thresholds_are_measured_on_a_workflow(server: ComfyServer, tmp_path: Path) -> None:
    prompt = accelerated()
    del prompt["accelerate"], prompt["report"]
    prompt["sampler"]["inputs"]["model"] = ["loader", 0]
    workflow, texts, out = tmp_path / "api.json", tmp_path / "prompts.txt", tmp_path / "out.json"
    workflow.write_text(json.dumps(prompt), "utf-8")
    texts.write_text("a small green ring spinning over a black ground\n\na large red disc moving up\n", "utf-8")
    settings = ["--budgets", "0.7", "0.4", "--easycache", "0.2", "--seeds", "1", "--prompts", str(texts)]
    command = [sys.executable, str(SCRIPT), str(workflow), "--server", server.url, *settings, "--out", str(out)]
    for _ in range(2):  # the second time the server has everything in its cache
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    light, heavy, cache = json.loads(out.read_text("utf-8"))
    assert [row["name"] for row in (light, heavy, cache)] == ["budget 0.7", "budget 0.4", "EasyCache 0.2"]
    assert all(len(row["psnr"]) == len(row["speedup"]) == 2 for row in (light, heavy, cache))
    assert min(light["psnr"]) > max(heavy["psnr"]) > 20
    assert min(heavy["speedup"]) > 1.5
    assert len(set(heavy["psnr"])) == 2, "both prompts gave the same video"
    assert "budget 0.4" in ended.stdout


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    workflow = tmp_path / "api.json"
    prompt = accelerated()
    prompt["sampler"]["inputs"]["model"] = ["loader", 0]
    workflow.write_text(json.dumps(prompt), "utf-8")
    command = [sys.executable, str(SCRIPT), str(workflow), "--server", "http://127.0.0.1:9"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "No ComfyUI answers at http://127.0.0.1:9" in ended.stderr
