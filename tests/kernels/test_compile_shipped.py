"""Every shipped configuration compiles for its device without spills, and each kernel with the oldest Triton as well.

Needs no GPU: Triton compiles ahead of time, and its tools read the code. Other tests run the kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: its kernels were not compiled")

from astraea.kernels.triton_attention import SHIPPED
from astraea.kernels.triton_attention.configs import SIBLINGS

OLDEST_VARIABLE = "ASTRAEA_TRITON_OLDEST"
KB = 1024
SHARED_LIMIT = {
    "sm80": 163 * KB,
    "sm86": 99 * KB,
    "sm89": 99 * KB,
    "sm90": 227 * KB,
    "sm100": 227 * KB,
    "sm120": 99 * KB,
    "gfx942": 64 * KB,
    "gfx1100": 64 * KB,
    "gfx1201": 64 * KB,
}
MATRIX_UNIT = {  # prefix of a device's matrix instructions
    "sm80": "HMMA",
    "sm86": "HMMA",
    "sm89": "HMMA",
    "sm90": "HGMMA",
    "sm100": "UTCHMMA",
    "sm120": "HMMA",
    "gfx942": "v_mfma_f32",
    "gfx1100": "v_wmma_f32",
    "gfx1201": "v_wmma_f32",
}
ONE_OF_EACH_MAKER = ("sm89", "gfx1201")
ROUTING = ("pool", "select")
for sibling, shipped in SIBLINGS.items():
    SHARED_LIMIT[sibling], MATRIX_UNIT[sibling] = SHARED_LIMIT[shipped], MATRIX_UNIT[shipped]


@dataclass(frozen=True)
class Job:
    architecture: str
    kind: str
    head_dim: int
    dtype: str
    lse: bool = True
    large: bool = False  # tensors beyond 2 GiB
    extras: bool = False  # lists of key tiles with orders of tokens and the rest; pooled rows with an order

    def __str__(self) -> str:
        name = f"{self.architecture}-{self.kind}-{self.head_dim}-{self.dtype}" + "-extras" * self.extras
        return name + "-without-lse" * (not self.lse) + "-beyond-2-GiB" * self.large


def jobs() -> list[Job]:
    """List all configurations once; variants only where registers are scarcest."""
    found = []
    for architecture, kind, head_dim in SHIPPED:
        amd, listed = architecture.startswith("gfx"), kind.endswith("tiles")
        if listed:
            found.append(Job(architecture, kind, head_dim, "bf16", extras=True))
        if not listed or head_dim == 128:  # without orders and rest a kernel does strictly less
            found.append(Job(architecture, kind, head_dim, "bf16"))
        if head_dim != 128:
            continue  # variants are compiled for the larger head size, where registers are scarcest
        # On NVIDIA devices fp16 and bf16 need the same registers.
        if amd or kind == "pointer":
            found.append(Job(architecture, kind, head_dim, "fp16", extras=listed))
        # Without the log-sum-exp a kernel does strictly less.
        if architecture in ONE_OF_EACH_MAKER:
            found.append(Job(architecture, kind, head_dim, "bf16", lse=False, extras=listed))
        if amd:
            found.append(Job(architecture, kind, head_dim, "bf16", large=True, extras=listed))
    architectures = dict.fromkeys(architecture for architecture, _, _ in SHIPPED)
    found += [Job(name, kind, 128, "bf16", extras=True) for name in architectures for kind in ROUTING]
    # Devices that use another's configurations.
    return found + [Job(sibling, "pointer", 128, dtype) for sibling in SIBLINGS for dtype in ("bf16", "fp16")]


def tritons() -> dict[str, str]:
    """Return the folder of each version of Triton; "" for that of this environment, the newest."""
    found = {version("triton"): ""}
    if folder := os.environ.get(OLDEST_VARIABLE):
        found |= {found.version: folder for found in distributions(name="triton", path=[folder])}
    return found


def jobs_for(triton: str) -> list[Job]:
    """List all jobs for the newest Triton; for the oldest, each kernel on each device once, at the larger head size."""
    if not tritons()[triton]:
        return jobs()
    plain = [job for job in jobs() if job.head_dim == 128 and job.dtype == "bf16" and job.lse and not job.large]
    return [job for job in plain if job.extras or not job.kind.endswith("tiles")]


def cases(*, routing: bool = True) -> list:
    """List the jobs of all versions of Triton as parameters of a test; routing: with the kernels of routing."""
    found = [
        pytest.param(name, job, id=f"{name}-{job}")
        for name in tritons()
        for job in jobs_for(name)
        if routing or job.kind not in ROUTING
    ]
    if not os.environ.get(OLDEST_VARIABLE):
        reason = f"{OLDEST_VARIABLE} names no folder with it: no configuration was compiled with the oldest Triton"
        found.append(pytest.param("", None, id="oldest", marks=pytest.mark.skip(reason=reason)))
    return found


@cache
def compiled(triton: str) -> dict[Job, dict]:
    """Compile all jobs of a version of Triton, in a process that finds that version first."""
    dropped = ("PYTHONPATH", "TRITON_INTERPRET")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    if folder := tritons()[triton]:
        environment["PYTHONPATH"] = folder
    listed = jobs_for(triton)
    script = Path(__file__).with_name("triton_compile.py")
    text = json.dumps([asdict(job) for job in listed])
    run = subprocess.run([sys.executable, script], input=text, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert {result["triton"] for result in results} == {triton}
    return dict(zip(listed, results, strict=True))


def result_of(triton: str, job: Job) -> dict:
    result = compiled(triton)[job]
    assert "error" not in result, result["error"]
    return result


@pytest.mark.parametrize(("triton", "job"), cases())
def test_compiles_without_spills(triton, job):
    result = result_of(triton, job)
    assert result["spills"] == 0
    assert result["shared"] <= SHARED_LIMIT[job.architecture]


@pytest.mark.parametrize(("triton", "job"), cases(routing=False))
def test_uses_the_matrix_units(triton, job):
    matrix = result_of(triton, job)["matrix"]
    if job.kind.startswith("int8"):
        assert any(name.startswith("IMMA") for name in matrix)
        # fp16 sums: with fp32 sums the name goes on with .F32, and GeForce cards take twice as long.
        assert any(name.startswith("HMMA") and name.endswith(".F16") for name in matrix)
    else:
        assert matrix
        assert all(name.startswith(MATRIX_UNIT[job.architecture]) for name in matrix)


@pytest.mark.parametrize(("triton", "job"), cases())
def test_products_of_two_variables_have_64_bits(triton, job):
    """Rows times strides pass 2³¹ in long videos; only there a 32-bit product gives wrong results."""
    assert result_of(triton, job)["narrow"] == []
