"""Finds the shipped workflows that tests open by what is in them: names are for users and may change."""

from __future__ import annotations

from graph.workflow import WORKFLOWS, load, models

FAMILIES = ("wan", "minimax", "ltx")


def with_nodes(*kinds: str) -> list[str]:
    """Return the file names of the workflows that have nodes of all these types, the one with the fewest nodes first.

    In a tie, the first by name.
    """
    names = sorted(path.name for path in WORKFLOWS.glob("*.json"))
    types = {name: [node["type"] for node in load(name)["nodes"]] for name in names}
    fitting = [name for name in names if set(kinds) <= set(types[name])]
    return sorted(fitting, key=lambda name: len(types[name]))


def model_files(name: str) -> set[str]:
    """Return the names of the model files that a workflow loads."""
    return {file["name"] for files in models(load(name)).values() for file in files}


def of_families() -> list[str]:
    """Return the file names of the workflows that load a model of `FAMILIES`."""
    names = sorted(path.name for path in WORKFLOWS.glob("*.json"))
    return [name for name in names if any(file.startswith(FAMILIES) for file in model_files(name))]


QUICKSTART = min(with_nodes("AstraeaDemoModel", "AstraeaAccelerate"))
SEARCH = with_nodes("AstraeaDemoModel", "AstraeaSearch")[0]
