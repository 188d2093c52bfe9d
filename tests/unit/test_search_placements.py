"""Placements to try: as many computed steps as the one they are drawn beside, wider or narrower near the ends."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from astraea.search.placements import placements


def gaps_of(path: tuple[int, ...]) -> list[int]:
    return [b - a for a, b in pairwise(path)]


def path_of(gaps: str, first: int = 0) -> tuple[int, ...]:
    return tuple(accumulate(map(int, gaps), initial=first))


@pytest.mark.parametrize("gaps", ["33444443", "23333333321", "22223222322221", "333", "25", "1119", "1" * 20 + "2" * 9])
@pytest.mark.parametrize("first", [0, 2])
def test_as_many_steps_are_computed_from_the_first_to_the_last(gaps: str, first: int):
    drawn = path_of(gaps, first)
    found = placements(drawn)
    assert found
    assert len(set(found)) == len(found) <= 18
    assert drawn not in found
    for path in found:
        assert (path[0], path[-1], len(path)) == (drawn[0], drawn[-1], len(drawn))
        assert min(gaps_of(path)) >= 1


def test_they_are_even_or_narrower_at_the_start_or_at_the_end():
    found = {"".join(map(str, gaps_of(path))) for path in placements(path_of("33444443"))}
    assert {"44444432", "34444442", "44444333", "33454442"} <= found
    assert "33444443" not in found


def test_gaps_at_the_ends_are_never_much_wider_than_the_others():
    for path in placements(path_of("25" * 4)):
        gaps = gaps_of(path)
        assert max(gaps[0], gaps[-1]) <= max(gaps[1:-1]) + 1


@pytest.mark.parametrize("path", [(0,), (0, 5), (0, 1, 2, 3), (4, 5, 6)])
def test_where_there_is_nothing_to_place_there_are_none(path: tuple[int, ...]):
    assert placements(path) == ()
