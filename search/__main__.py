"""Searches for schedules without ComfyUI's window: `python search` from the pack's folder, with ComfyUI's own Python.

python search [options] [-- flags of ComfyUI, such as --cpu or --lowvram]

`python search --help` lists the options. Workers of a search that is spread over several processes begin here, too.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACK = "astraea"
HERE = Path(__file__).absolute().parent
ROOT = HERE.parent
HOW_TO = "Name the folder of ComfyUI with --comfyui or in COMFYUI_DIR, or put this pack into its custom_nodes."
REFUSED, INTERRUPTED = 2, 130


class CannotStart(Exception):
    """There is no ComfyUI to search in; the message says what to do."""


def load_pack(name: str) -> None:
    """The pack under a name of its own, whatever its folder is called; its folder never goes on sys.path."""
    # A folder that is run is on the path first: its module names must not hide installed ones.
    own = (ROOT.resolve(), HERE.resolve())
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in own]
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def comfyui_tree(named: str | None) -> Path:
    """The ComfyUI that was named, or in which the pack lies. Raises CannotStart."""
    named = named or os.environ.get("COMFYUI_DIR", "").split(os.pathsep)[0]
    if named:
        tree = Path(named).expanduser().resolve()
        if not is_tree(tree):
            raise CannotStart(f"'{named}' is no ComfyUI folder: it has no main.py with comfyui_version.py. {HOW_TO}")
        return tree
    # A link in custom_nodes counts as well as a folder.
    for parent in (*ROOT.parents, *ROOT.resolve().parents):
        if parent.name == "custom_nodes" and is_tree(parent.parent):
            return parent.parent
    raise CannotStart(f"No ComfyUI was found. {HOW_TO}")


def is_tree(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfyui_version.py").is_file()


def start_comfyui(tree: Path, flags: Sequence[str]) -> Any:
    """Make `import comfy` work as inside main.py, with these of ComfyUI's flags; returns what it makes of them."""
    sys.argv = ["main.py", *flags]
    sys.path.insert(0, str(tree))
    importlib.import_module("comfy.options").enable_args_parsing()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return importlib.import_module("comfy.cli_args").args
    except SystemExit:
        reason = (said.getvalue().strip().splitlines() or ["it does not say why"])[-1]
        raise CannotStart(f"ComfyUI does not take these flags: {reason}") from None


def choose_device(number: Any) -> None:
    """What main.py does about ComfyUI's --cuda-device: before torch looks, the others are hidden."""
    if number is not None:
        for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"):
            os.environ[variable] = str(number)


def bench(pack: str, tree: str, flags: Sequence[str], arguments: Sequence[str], prompts: Any) -> Any:
    """A worker's bench: see `host.search_material.bench_of`. Which device it has, Ray has chosen."""
    load_pack(pack)
    start_comfyui(Path(tree), flags)
    options = importlib.import_module(f"{pack}.host.search_options").parse(arguments)
    return importlib.import_module(f"{pack}.host.search_material").bench_of(options, prompts)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's scheduler asks like this
    dashes = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, flags = sys.argv[1:dashes], sys.argv[dashes + 1 :]
    load_pack(PACK)
    try:
        options = importlib.import_module(f"{PACK}.host.search_options").parse(arguments)
        choose_device(start_comfyui(comfyui_tree(options.comfyui), flags).cuda_device)
        command = importlib.import_module(f"{PACK}.host.search_command")
    except CannotStart as error:
        return refused(str(error))
    except ImportError as error:
        return refused(f"{error}. Run it with the Python that ComfyUI runs with.")
    except (AssertionError, RuntimeError) as error:  # torch finds no device
        return refused(f"ComfyUI cannot start ({error}). Without a graphics card, end the command with -- --cpu")
    except KeyboardInterrupt:
        return INTERRUPTED
    return command.main(arguments)


def refused(message: str) -> int:
    print(f"Astraea search: {message}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
