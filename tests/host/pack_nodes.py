"""The pack's nodes by their ids, for tests that hold whatever the code behind them is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from same_results.sampling import Maker, nodes_of

ROOT = Path(__file__).resolve().parents[2]


def new_maker() -> Maker:
    """A `Maker` with the nodes of the pack under test: `call(node_id, **inputs)`, `make(run)`."""
    return Maker(pack_nodes(), ROOT)


def pack_nodes() -> dict[str, Any]:
    """The node classes by node id."""
    return nodes_of(sys.modules["astraea"])
