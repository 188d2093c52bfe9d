"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from astraea.search.proposals import breeding


@pytest.fixture
def small_populations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed up tests that do not depend on a search's choices: evolution by replay takes most of their time."""
    for name, size in {"POPULATION": 8, "CHILDREN": 6, "GENERATIONS": 2}.items():
        monkeypatch.setattr(breeding, name, size)
