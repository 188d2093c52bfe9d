"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from astraea.search import evolution


@pytest.fixture
def small_populations(monkeypatch: pytest.MonkeyPatch) -> None:
    """For searches whose own choices make no difference to what is shown: evolution by replay takes most of a search's
    time on a toy.
    """
    for name, size in {"POPULATION": 8, "CHILDREN": 6, "GENERATIONS": 2}.items():
        monkeypatch.setattr(evolution, name, size)
