"""Triton, a driver and attention packages may be missing: nothing fails at import, and every reason can be read."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from astraea.kernels import DISPATCHER, Problem, attend_reference, diagnose
from astraea.kernels.backend import Constraints
from astraea.kernels.backends import packages
from astraea.kernels.dispatch import BACKENDS, Dispatcher

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
CUDA = torch.device("cuda", 0)
GENERATOR = torch.Generator().manual_seed(0)


def run(*arguments, cwd=KERNELS.parent, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean | environment,
        cwd=cwd,
    )


BROKEN_TRITON = {
    "absent": "raise ModuleNotFoundError(\"No module named 'triton'\", name='triton')",
    "broken": "raise OSError('libtriton.so: cannot open shared object file')",
}


@pytest.mark.parametrize("how", BROKEN_TRITON)
def test_the_command_works_without_triton_and_names_every_backend(how, tmp_path):
    (tmp_path / "triton.py").write_text(BROKEN_TRITON[how])
    done = run(KERNELS, "--device", "cpu", "--tokens", "256", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = [line.lstrip("* ").split() for line in done.stdout.splitlines() if line.strip()]
    for backend in BACKENDS:
        assert sum(row[0] == backend.name for row in rows) == 2, backend.name  # with and without log-sum-exp
    reasons = [" ".join(row) for row in rows if row[0] == "triton"]
    expected = "not installed" if how == "absent" else "libtriton.so"
    assert all(expected in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("path", "cwd"), [("kernels", KERNELS.parent), (KERNELS, Path("/"))], ids=["here", "elsewhere"]
)
def test_the_command_runs_from_any_folder_and_reuses_its_choices(path, cwd):
    arguments = [path, "--device", "cpu", "--tokens", "256", "--dtype", "bfloat16"]
    first, second = run(*arguments, "--fresh", cwd=cwd), run(*arguments, cwd=cwd)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "the fastest, timed\n" in first.stdout
    assert "timed earlier" in second.stdout


def test_importing_the_kernels_imports_neither_triton_nor_packages():
    code = f"""
import importlib, sys, torch
before = set(sys.modules)
sys.path.insert(0, r"{KERNELS.parent}")
from bootstrap import PACK, load_pack
load_pack()
importlib.import_module(PACK + ".kernels")
optional = {{"triton", "flash_attn", "flash_attn_interface", "sageattention", "torch._dynamo"}}
print(sorted(optional & set(sys.modules) - before))
"""
    done = run("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_report_has_errors_times_and_the_choice():
    problem = Problem(torch.device("cpu"), torch.float32, 1, 64, 128, 2, 64, need_lse=True)
    found = diagnose.explain(Dispatcher(), problem)
    by_name = {row.name: row for row in found.rows}
    assert list(by_name) == [backend.name for backend in BACKENDS]
    assert by_name["cpu-flash"].output_error < 1e-5
    assert by_name["cpu-flash"].lse_error < 2e-3
    assert by_name["cpu-flash"].milliseconds > 0
    assert sum(row.chosen for row in found.rows) == 1
    assert all(row.reason for row in found.rows if row.milliseconds is None)


CAPABILITIES = [  # backend, capability of the device, dtype, head size, part of the expected reason ("": none)
    ("flash", (7, 5), torch.float16, 128, "needs compute capability 8.0, the device has 7.5"),
    ("flash", (8, 6), torch.float16, 128, ""),
    ("flash", (8, 6), torch.float32, 128, "not for float32"),
    ("flash", (8, 6), torch.bfloat16, 100, "multiples of 8"),
    ("cudnn", (9, 0), torch.bfloat16, 256, "up to 128"),
    ("efficient", (7, 5), torch.float32, 64, ""),
    ("flash-attn-3", (8, 9), torch.bfloat16, 128, "needs compute capability 9.0"),
]


@pytest.mark.parametrize(("name", "capability", "dtype", "dim", "expected"), CAPABILITIES)
def test_constraints_know_cards_by_their_capability(monkeypatch, name, capability, dtype, dim, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    reason = DISPATCHER.named(name).constraints.unsupported_reason(Problem(CUDA, dtype, 1, 64, 128, 2, dim))
    assert expected in reason
    assert bool(reason) == bool(expected)


def test_amd_devices_are_distinguished(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4", raising=False)
    problem = Problem(CUDA, torch.float16, 1, 64, 128, 2, 128)
    assert DISPATCHER.named("cudnn").constraints.unsupported_reason(problem) == "not for AMD devices"
    assert DISPATCHER.named("flash").constraints.unsupported_reason(problem) == ""


# Stand-ins with the documented signatures of the packages, to test the functions that call them.


def flash2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, return_attn_probs=False):
    out, lse = attend_reference(q, k, v, scale=softmax_scale)
    return (out, lse, None) if return_attn_probs else out


def flash3(q, k, v, softmax_scale=None, causal=False, return_attn_probs=False):
    out, lse = attend_reference(q, k, v, scale=softmax_scale)
    return (out, lse) if return_attn_probs else out


def flash3_beta(q, k, v, softmax_scale=None, causal=False):
    return attend_reference(q, k, v, scale=softmax_scale)


def sage(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    assert tensor_layout == "NHD"
    out, lse = attend_reference(q, k, v, scale=sm_scale)
    return (out, lse) if return_lse else out


PACKAGES = [
    ("flash-attn", "flash_attn", "flash_attn_func", flash2),
    ("flash-attn-3", "flash_attn_interface", "flash_attn_func", flash3),
    ("flash-attn-3", "flash_attn_interface", "flash_attn_func", flash3_beta),
    ("sage", "sageattention", "sageattn", sage),
]


@pytest.fixture
def installed(monkeypatch):
    """`installed(module, **content)` makes a module importable."""
    packages._import_package.cache_clear()

    def install(module, **content):
        made = types.ModuleType(module)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, module, made)

    yield install
    packages._import_package.cache_clear()


@pytest.mark.parametrize(("name", "module", "function", "stand_in"), PACKAGES)
@pytest.mark.parametrize("need_lse", [False, True], ids=["out", "lse"])
def test_packages_are_called_as_documented(installed, name, module, function, stand_in, need_lse):
    installed(module, **{function: stand_in})
    backend = DISPATCHER.named(name)
    assert backend.unavailable_reason() == ""
    q, k, v = (torch.randn(2, rows, 3, 64, generator=GENERATOR) for rows in (20, 50, 50))
    out, lse = backend(q, k, v, scale=0.2, need_lse=need_lse)
    expected, expected_lse = attend_reference(q, k, v, scale=0.2)
    assert torch.equal(out, expected)
    assert lse is None if not need_lse else torch.equal(lse, expected_lse)


def test_an_old_package_is_refused(installed, monkeypatch):
    installed("sageattention", sageattn=sage)
    monkeypatch.setattr(packages, "package_version", lambda name: "1.0.6")
    assert DISPATCHER.named("sage").unavailable_reason() == "needs version 2 or newer, 1.0.6 is installed"


def test_a_package_that_breaks_at_import_is_a_reason(tmp_path, monkeypatch):
    packages._import_package.cache_clear()
    (tmp_path / "flash_attn.py").write_text("raise OSError('undefined symbol: _ZN3c105ErrorC2E')")
    (tmp_path / "sageattention.py").write_text("import no_such_module_of_sage")
    monkeypatch.syspath_prepend(tmp_path)
    assert "undefined symbol" in DISPATCHER.named("flash-attn").unavailable_reason()
    assert "no_such_module_of_sage" in DISPATCHER.named("sage").unavailable_reason()
    assert DISPATCHER.named("flash-attn-3").unavailable_reason() == "not installed"
    packages._import_package.cache_clear()


def test_constraints_without_limits_take_any_call():
    assert Constraints().unsupported_reason(Problem(torch.device("cpu"), torch.float16, 1, 1, 1, 1, 7, True)) == ""
