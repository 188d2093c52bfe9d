"""The command `python search`: searches without ComfyUI's server, by the Python that ComfyUI runs with.

python search [options] [-- flags of ComfyUI, such as --cpu or --lowvram]

Run it from the pack's folder; `python search --help` lists the options. Ray's workers load this file, too.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
sys.path.insert(0, str(ROOT))
from bootstrap import PACK, CannotStart, find_comfyui, load_pack, start_comfyui  # noqa: E402

sys.path.remove(str(ROOT))

REFUSED, INTERRUPTED = 2, 130


def choose_device(number: Any) -> None:
    """Hide the other devices before torch is imported, as main.py does for ComfyUI's --cuda-device."""
    if number is not None:
        for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"):
            os.environ[variable] = str(number)


def make_runner(pack: str, tree: str, flags: Sequence[str], arguments: Sequence[str], prompts: Any) -> Any:
    """Make a worker's runner: see `host.search.cli.inputs.make_runner`. Ray has chosen its device."""
    load_pack(pack)
    start_comfyui(Path(tree), flags)
    options = importlib.import_module(f"{pack}.host.search.cli.options").parse(arguments)
    return importlib.import_module(f"{pack}.host.search.cli.inputs").make_runner(options, prompts)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent by a cluster's scheduler
    dashes = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, flags = sys.argv[1:dashes], sys.argv[dashes + 1 :]
    load_pack()
    try:
        options = importlib.import_module(f"{PACK}.host.search.cli.options").parse(arguments)
        choose_device(start_comfyui(find_comfyui(options.comfyui), flags).cuda_device)
        command = importlib.import_module(f"{PACK}.host.search.cli.main")
    except CannotStart as error:
        return refuse(str(error))
    except ImportError as error:
        return refuse(f"{error}. Run it with the Python that ComfyUI runs with.")
    except (AssertionError, RuntimeError) as error:  # torch found no device
        return refuse(f"ComfyUI cannot start ({error}). Without a graphics card, end the command with -- --cpu")
    except KeyboardInterrupt:
        return INTERRUPTED
    return command.main(arguments)


def refuse(message: str) -> int:
    print(f"Astraea search: {message}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
