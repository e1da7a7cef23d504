from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.measuring.schedule import (
    FEWEST_MEASUREMENTS,
    SHORTEST_STEPS,
    DenserEarly,
    EveryNEpochs,
    EveryNSteps,
    FitLength,
    Planned,
    Schedule,
    Timetable,
    number_of_moments,
)


def epochs_of(schedule: Schedule, end: int) -> list[int]:
    return [epoch for epoch in range(end + 1) if schedule.due(epoch)]


def steps_of(schedule: Schedule, end: int) -> list[int]:
    return [step for step in range(end + 1) if schedule.due_at_step(step)]


@given(st.integers(6, 2000), st.integers(2, 60))
@pytest.mark.slow
def test_epochs_of_a_plan(epochs: int, measurements: int) -> None:
    schedule = Planned(measurements).for_fit(FitLength(epochs))
    times = epochs_of(schedule, epochs + 10)
    assert times[:1] + times[-1:] == [0, epochs]
    assert len(times) <= measurements + 1
    distances = [later - earlier for earlier, later in pairwise(times)]
    assert distances[:-1] == sorted(distances[:-1])
    assert steps_of(schedule, 300) == []


@given(st.integers(6, 40))
def test_few_epochs_are_all_measured(epochs: int) -> None:
    assert epochs_of(Planned().for_fit(FitLength(epochs)), epochs) == list(range(epochs + 1))


@pytest.mark.parametrize("epochs", [41, 100, 1000, 100_000])
@pytest.mark.slow
def test_about_as_many_measurements_as_asked_for(epochs: int) -> None:
    schedule = Planned().for_fit(FitLength(epochs))
    times = epochs_of(schedule, epochs)
    assert 36 <= len(times) - 1 <= 40
    assert times[:3] == [0, 1, 2]
    assert times[-1] - times[-2] <= 0.1 * epochs
    assert number_of_moments(schedule, FitLength(epochs)) == len(times)


@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_long_epochs_are_measured_within(epochs: int) -> None:
    length = FitLength.of_limits(epochs=epochs, steps_per_epoch=5000)
    schedule = Planned().for_fit(length)
    assert epochs_of(schedule, epochs) == list(range(epochs + 1))
    steps = steps_of(schedule, 5000 * epochs)
    assert 36 <= len(steps) - 1 <= 40
    assert min(later - earlier for earlier, later in pairwise(steps)) >= SHORTEST_STEPS
    assert number_of_moments(schedule, length) == len({*steps, *(5000 * epoch for epoch in range(epochs + 1))})


def test_short_epochs_are_measured_at_their_ends() -> None:
    length = FitLength.of_limits(epochs=3, steps_per_epoch=16)
    assert steps_of(Planned().for_fit(length), 48) == [0, 48]
    assert number_of_moments(Planned().for_fit(length), length) == 4


def test_epochs_of_unknown_length_are_measured_within() -> None:
    schedule = Planned().for_fit(FitLength(epochs=2))
    assert epochs_of(schedule, 5) == [0, 1, 2]
    assert steps_of(schedule, 700) == [0, 100, 200, 300, 400, 500, 625]
    assert number_of_moments(schedule, FitLength(epochs=2)) is None


def test_steps_alone_are_planned_in_steps() -> None:
    schedule = Planned().for_fit(FitLength(steps=10_000))
    assert epochs_of(schedule, 100) == []
    assert 36 <= len(steps_of(schedule, 10_000)) - 1 <= 40


def test_a_fit_without_limits_is_denser_early() -> None:
    assert Planned().for_fit(FitLength(steps_per_epoch=10)) == DenserEarly()
    assert epochs_of(Planned(), 100) == epochs_of(DenserEarly(), 100)
    assert number_of_moments(DenserEarly(), FitLength()) is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"epochs": 10, "steps_per_epoch": 100}, (10, 1000)),
        ({"epochs": 10, "steps": 250, "steps_per_epoch": 100}, (3, 250)),
        ({"epochs": 2, "steps": 250, "steps_per_epoch": 100}, (2, 200)),
        ({"steps": 250, "steps_per_epoch": 100}, (3, 250)),
        ({"steps": 250}, (None, 250)),
        ({"epochs": 10}, (10, None)),
        ({"steps_per_epoch": 10}, (None, None)),
        ({}, (None, None)),
    ],
    ids=str,
)
def test_the_limit_that_comes_first(limits: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    length = FitLength.of_limits(**limits)
    assert (length.epochs, length.steps) == expected


def test_a_sample_counts_as_three_forwards() -> None:
    assert FitLength(epochs=10, samples_per_epoch=5000).training_forwards == 150_000
    whole = FitLength.of_limits(epochs=10, steps=50, steps_per_epoch=10, samples_per_epoch=5000)
    assert whole.training_forwards == 75_000
    assert FitLength(epochs=10).training_forwards is None
    assert FitLength(steps=10, samples_per_epoch=5000).training_forwards is None


@pytest.mark.parametrize(
    ("max_overhead", "measurements"), [(1000.0, 40), (1.0, 30), (0.5, FEWEST_MEASUREMENTS), (1e-6, FEWEST_MEASUREMENTS)]
)
def test_a_bound_counts_forwards(max_overhead: float, measurements: int) -> None:
    length = FitLength.of_limits(epochs=400, steps_per_epoch=10, samples_per_epoch=2500)
    assert length.training_forwards == 3_000_000
    schedule = Planned(max_overhead=max_overhead).for_fit(length, forwards=100_000)
    assert measurements - 3 <= len(epochs_of(schedule, 400)) - 1 <= measurements
    without = Planned(max_overhead=max_overhead).for_fit(length)
    assert without == Planned().for_fit(length)


def test_a_bound_never_adds_measurements() -> None:
    length = FitLength(epochs=400, samples_per_epoch=10**6)
    assert len(epochs_of(Planned(10, max_overhead=1.0).for_fit(length, forwards=1), 400)) - 1 <= 10


@pytest.mark.parametrize("arguments", [{"measurements": 1}, {"max_overhead": 0.0}, {"max_overhead": float("inf")}])
def test_what_is_no_plan_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schedule: expected m"):
        Planned(**arguments)


@pytest.mark.parametrize(
    ("schedule", "number"), [(EveryNEpochs(2), 6), (EveryNSteps(25), 41), (DenserEarly(), 9), (DenserEarly(unit="steps"), 29)]
)
def test_measurements_of_other_schedules_are_counted(schedule: Schedule, number: int) -> None:
    length = FitLength.of_limits(epochs=10, steps_per_epoch=100)
    assert schedule.for_fit(length) is schedule
    times = {100 * epoch for epoch in epochs_of(schedule, 10)} | set(steps_of(schedule, 1000))
    assert number_of_moments(schedule, length) == len(times) == number


def test_too_many_steps_are_not_counted_one_by_one() -> None:
    assert number_of_moments(EveryNSteps(10), FitLength(steps=10**7)) is None
    assert number_of_moments(Planned().for_fit(FitLength(steps=10**7)), FitLength(steps=10**7)) == 41


def test_a_resumed_run_goes_on_with_the_plan() -> None:
    length = FitLength.of_limits(epochs=100, steps_per_epoch=10)
    whole = Timetable(Planned())
    whole.begin(0, 0)
    assert whole.plan(length) == len(epochs_of(Planned().for_fit(length), 100))
    measured = [epoch for epoch in range(101) if whole.due(epoch, 10 * epoch)]
    for stopped in (0, 1, 47, 99):
        first = Timetable(Planned())
        first.begin(0, 0)
        first.plan(length)
        before = [epoch for epoch in range(stopped + 1) if first.due(epoch, 10 * epoch)]
        first.done()
        second = Timetable(Planned())
        second.load_state_dict(first.state_dict())
        second.begin(stopped, 10 * stopped)
        second.plan(length)
        after = [epoch for epoch in range(stopped + 1, 101) if second.due(epoch, 10 * epoch)]
        assert before + after == measured


def test_a_longer_resume_takes_the_longer_plan() -> None:
    table = Timetable(Planned())
    table.begin(0, 0)
    table.plan(FitLength(100))
    before = [epoch for epoch in range(51) if table.due(epoch, epoch)]
    table.begin(50, 50)
    table.plan(FitLength(400))
    after = [epoch for epoch in range(51, 401) if table.due(epoch, epoch)]
    assert before == epochs_of(Planned().for_fit(FitLength(100)), 50)
    assert after == [epoch for epoch in epochs_of(Planned().for_fit(FitLength(400)), 400) if epoch > 50]
