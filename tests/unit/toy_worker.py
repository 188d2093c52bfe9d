"""Runs in a Ray worker of the tests: the toy runner, which may end its own process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def runner_with_small_clips(steps: int, cases: int) -> Any:
    """A toy runner that has small clips."""
    return runner(steps, cases, proxy_cost=0.1)


def runner_whose_small_clips_fail(steps: int, cases: int) -> Any:
    """A toy runner that fails by a programming error when small clips are asked for."""
    made = runner(steps, cases)
    made.proxy = lambda cases: {}["clips"]
    return made


def runner(steps: int, cases: int, deadly_case: int = -1, mark: str = "", deaths: int = 0, **options: Any) -> Any:
    """A toy runner. The first `deaths` runs of the deadly case end their process; the folder `mark` counts them."""
    toy = _load_toy()

    class Worker(toy.ToyRunner):  # type: ignore[name-defined]
        def reference(self, case: int) -> Any:
            (Path(mark) / f"dense-{case}-{os.getpid()}").touch() if mark else None
            return self._dense_trace(case)

        def load_reference(self, case: int, reference: Any) -> None:
            self._dense[case] = reference

        def measure(self, jobs: Any) -> Any:
            dead = len(list(Path(mark).glob("dead-*"))) if mark else 0
            if jobs[0].case == deadly_case and dead < deaths:
                (Path(mark) / f"dead-{os.getpid()}").touch()
                os._exit(1)
            return super().measure(jobs)

    return Worker(steps, cases, **options)


def refused() -> Any:
    """A runner that cannot be made."""
    _load_toy()
    raise importlib.import_module("astraea.errors").SearchError("This model cannot be searched.")


def broken() -> Any:
    """A runner that fails by a programming error."""
    raise KeyError("weights")


def other_by_process(folder: str) -> Any:
    """A runner whose setting differs between workers."""
    (Path(folder) / str(os.getpid())).touch()
    return _load_toy().ToyRunner(steps=8, cases=2, response=float(os.getpid()))


def _load_toy() -> Any:
    """The module, with the pack loaded as tests/conftest.py does it."""
    if "astraea" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "astraea", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["astraea"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["astraea"])
        sys.path.append(str(HERE))
    return importlib.import_module("toy_runner")
