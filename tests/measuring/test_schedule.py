from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.measuring.schedule import DenserEarly, EveryNEpochs, EveryNSteps, Schedule

COUNTS = st.integers(1, 40)


def moments(due: Callable[[int], bool], end: int = 400) -> list[int]:
    return [time for time in range(end + 1) if due(time)]


def gaps(times: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_every_schedule_is_asked_in_its_own_unit() -> None:
    assert moments(EveryNEpochs().due_at_step) == moments(EveryNSteps(2).due) == moments(Schedule().due) == []
    for schedule in (EveryNEpochs(), EveryNSteps(2), DenserEarly()):
        assert isinstance(schedule, Schedule)


@pytest.mark.parametrize(("n", "due"), [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 3, 6]), (10, [0])])
def test_due_are_the_untrained_model_and_every_nth_epoch_or_step(n: int, due: list[int]) -> None:
    assert moments(EveryNEpochs(n).due, 7) == moments(EveryNSteps(n).due_at_step, 7) == due


def test_every_epoch_is_the_default() -> None:
    assert EveryNEpochs() == EveryNEpochs(1)


@pytest.mark.parametrize("n", [0, -1])
def test_an_interval_that_never_comes_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"schedule: expected to measure every n >= 1 epochs, got n={n}"):
        EveryNEpochs(n)
    with pytest.raises(ValueError, match=f"schedule: expected to measure every n >= 1 steps, got n={n}"):
        EveryNSteps(n)


def test_denser_early_measures_every_epoch_at_first_and_then_at_each_quarter_more() -> None:
    expected = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38]
    assert moments(DenserEarly().due, 45) == expected
    assert moments(DenserEarly(45).due, 45) == [*expected, 45]
    assert moments(DenserEarly(longest=4).due, 30) == [*expected[:11], 19, 23, 27]
    assert moments(DenserEarly(shortest=5).due, 45) == [0, 5, 10, 15, 20, 25, 31, 39]


@given(COUNTS, st.none() | COUNTS)
@pytest.mark.slow
def test_distances_never_shrink_and_stay_within_their_bounds(shortest: int, longest: int | None) -> None:
    if longest is not None:
        shortest, longest = sorted((shortest, longest))
    times = moments(DenserEarly(shortest=shortest, longest=longest).due)
    assert times[:2] == [0, shortest]
    distances = gaps(times)
    assert distances == sorted(distances)
    for time, distance in zip(times, distances, strict=False):
        assert shortest <= distance <= (longest or max(shortest, 0.25 * time + 0.5))


@pytest.mark.slow
@given(st.integers(0, 400), COUNTS)
def test_the_last_moment_is_measured_and_changes_no_other(last: int, shortest: int) -> None:
    schedule, without = DenserEarly(last, shortest=shortest), DenserEarly(shortest=shortest)
    assert set(moments(schedule.due)) == {*moments(without.due), last}


@given(COUNTS)
def test_a_longest_distance_equal_to_the_shortest_is_every_n(n: int) -> None:
    assert moments(DenserEarly(shortest=n, longest=n).due) == moments(EveryNEpochs(n).due)


def test_denser_early_counts_in_one_unit() -> None:
    in_epochs, in_steps = DenserEarly(17), DenserEarly(17, "steps")
    assert moments(in_steps.due_at_step) == moments(in_epochs.due)
    assert moments(in_steps.due) == moments(in_epochs.due_at_step) == []


def test_a_million_steps_take_no_time() -> None:
    schedule = DenserEarly(unit="steps", longest=10)
    assert sum(map(schedule.due_at_step, range(1_000_000, 1_000_100))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shortest": 0}, "expected 1 <= shortest <= longest epochs between measurements, got shortest=0 and longest=None"),
        ({"shortest": 3, "longest": 2, "unit": "steps"}, "longest steps .*got shortest=3 and longest=2"),
    ],
)
def test_impossible_distances_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenserEarly(**arguments)
