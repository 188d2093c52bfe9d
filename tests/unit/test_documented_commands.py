"""Every command that the documents name exists and knows the options that they name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from shipped import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "tiny/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
INLINE, BLOCK = re.compile(r"`([^`]+)`"), re.compile(r"^ {4}(.+)$", re.MULTILINE)
COMMAND = re.compile(r"(?:\.venv/bin/)?python ((?:-m )?[\w./]+)(.*)")
OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")
FOREIGN = {"main.py"}  # ComfyUI's own
# These take no options, or need a package that is not installed here.
WITHOUT_OPTIONS = {
    "benchmarks/plots.py",
    "benchmarks/tables.py",
    "docs/pictures/draw_logo.py",
    "tests/support.py",
    "tests/same_results/compare.py",
}


def commands() -> dict[str, set[str]]:
    """The commands of all documents, and the options that are named with each."""
    found: dict[str, set[str]] = {}
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        lines = BLOCK.findall(text.replace("\\\n", " ")) + [" ".join(each.split()) for each in INLINE.findall(text)]
        for command in filter(None, map(COMMAND.match, lines)):
            if command[1] not in FOREIGN:
                own = command[2].split("  #")[0].split(" -- ")[0]  # without a comment, and what is passed on
                found.setdefault(command[1], set()).update(OPTION.findall(own))
    return found


COMMANDS = commands()


# In one process, since most of them import torch.
ASK_ALL = """
import contextlib, io, json, os, runpy, sys
texts = {}
for target in json.loads(sys.argv[1]):
    name = target.removeprefix("-m ")
    sys.argv = [name, "--help"]
    sys.path[0] = os.getcwd() if name != target else os.path.dirname(os.path.abspath(name))
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        (runpy.run_path if name == target else runpy.run_module)(name, run_name="__main__")
    texts[target] = text.getvalue()
print(json.dumps(texts))
"""


@cache
def help_texts() -> dict[str, str]:
    """Return the output of each command for --help."""
    targets = sorted(set(COMMANDS) - WITHOUT_OPTIONS)
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ASK_ALL, json.dumps(targets)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_the_documents_name_commands() -> None:
    assert {"dev.py", "benchmarks/quality.py", "search", "kernels"} <= set(COMMANDS)


@pytest.mark.parametrize("target", sorted(COMMANDS))
def test_a_documented_command_exists_and_has_its_options(target: str) -> None:
    module = target.removeprefix("-m ")
    file = Path(f"{module.replace('.', '/')}.py") if target != module else Path(module)
    assert (ROOT / file).exists()
    if target not in WITHOUT_OPTIONS:
        text = help_texts()[target]
        assert "usage:" in text
        assert [option for option in sorted(COMMANDS[target]) if option not in text] == []
