"""Step placements: the same number of computed steps, with other intervals near the ends."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from astraea.schedules import Forecast
from astraea.search.problem.candidate import Genome
from astraea.search.proposals.step_placements import step_placements

FORECAST = Forecast(0.05, 1.0)


def path_of(genome: Genome) -> list[int]:
    return [step for step, budget in enumerate(genome.budgets) if budget > 0.0]


def gaps_of(genome: Genome) -> list[int]:
    return [b - a for a, b in pairwise(path_of(genome))]


def genome_of(gaps: str, first: int = 0) -> Genome:
    path = list(accumulate(map(int, gaps), initial=first))
    return Genome(tuple(1.0 if step in path else 0.0 for step in range(path[-1] + 1)), FORECAST)


@pytest.mark.parametrize("gaps", ["33444443", "23333333321", "22223222322221", "333", "25", "1119", "1" * 20 + "2" * 9])
@pytest.mark.parametrize("first", [0, 2])
def test_as_many_steps_are_computed_from_the_first_to_the_last(gaps: str, first: int):
    genome = genome_of(gaps, first)
    found = step_placements(genome)
    assert found
    assert len(set(found)) == len(found) <= 18
    assert genome not in found
    for other in found:
        assert (path_of(other)[0], path_of(other)[-1], len(path_of(other))) == (
            first,
            path_of(genome)[-1],
            len(gaps) + 1,
        )
        assert not other.has_partial_steps
        assert other.forecast == FORECAST


def test_they_are_even_or_narrower_at_the_start_or_at_the_end():
    found = {"".join(map(str, gaps_of(genome))) for genome in step_placements(genome_of("33444443"))}
    assert {"44444432", "34444442", "44444333", "33454442"} <= found
    assert "33444443" not in found


def test_gaps_at_the_ends_are_never_much_wider_than_the_others():
    for genome in step_placements(genome_of("25" * 4)):
        gaps = gaps_of(genome)
        assert max(gaps[0], gaps[-1]) <= max(gaps[1:-1]) + 1


@pytest.mark.parametrize("gaps", ["", "5", "111", "11"])
def test_where_there_is_nothing_to_place_there_are_none(gaps: str):
    assert step_placements(genome_of(gaps)) == ()


def test_steps_in_part_are_not_placed():
    assert step_placements(Genome((1.0, 0.0, 0.5, 0.0, 0.0, 1.0))) == ()
