"""Backends are found by their files, and listed in an order that each module states."""

from __future__ import annotations

import sys

from astraea.kernels import BACKEND_CHOICES, backends
from astraea.kernels.backends import BACKENDS, find_backends

PACKAGES = ["flash-attn-3", "flash-attn", "sage", "sparge"]
TORCH = ["cudnn", "flash", "efficient", "sdpa"]
OWN = ["triton", "triton-tma", "triton-int8"]
CPU = ["cpu-flash", "cpu-tiles", "cpu-onednn", "cpu-key-tiles"]
LISTS_ONLY = {"sparge", "cpu-key-tiles"}  # no choice for attention to all keys
SHIPPED = [*PACKAGES, *TORCH, *OWN, *CPU, "reference"]
NEW_MODULE = """
from ..backend import Backend, Constraints
from .reference import attend_reference

RANK = 15
BACKENDS = (Backend(name="new", what="a new file", run=attend_reference, constraints=Constraints()),)
"""


def test_packages_come_first_and_the_reference_last():
    names = [backend.name for backend in BACKENDS]
    assert [name for name in names if name in SHIPPED] == SHIPPED
    assert names[-1] == "reference"
    assert [backend.name for backend in BACKENDS if backend.last_resort] == ["reference"]
    assert ("auto", "host", "fast", *(name for name in names if name not in LISTS_ONLY)) == BACKEND_CHOICES


def test_a_new_backend_is_one_new_module(tmp_path, monkeypatch):
    (tmp_path / "new_backend.py").write_text(NEW_MODULE)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    try:
        names = [backend.name for backend in find_backends()]
    finally:
        sys.modules.pop(f"{backends.__name__}.new_backend", None)
        vars(backends).pop("new_backend", None)
    assert names.index("new") == names.index("cudnn") - 1
    assert [name for name in names if name != "new"] == [backend.name for backend in BACKENDS]
