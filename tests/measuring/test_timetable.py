from dataclasses import dataclass
from typing import Any

import pytest

from lightning_interactions.measuring.schedule import DenserEarly, EveryNEpochs, EveryNSteps, Schedule, Timetable


@dataclass(frozen=True)
class OnlyEpochs(Schedule):
    def due(self, epoch: int) -> bool:
        return epoch == 2


@dataclass(frozen=True)
class Both(Schedule):
    epoch: int
    step: int

    def due(self, epoch: int) -> bool:
        return epoch == self.epoch

    def due_at_step(self, step: int) -> bool:
        return step == self.step


def measured(schedule: Schedule, asked: list[tuple[int, int]], timetable: Timetable | None = None) -> list[tuple[int, int]]:
    """Moments that a measurement is due at, out of those that are asked about in a run."""
    timetable = timetable or Timetable(schedule)
    timetable.begin(*asked[0])
    found = []
    for moment in asked:
        if timetable.due(*moment):
            found.append(moment)
            timetable.done()
    return found


# Three batches an epoch; the last step of an epoch is asked about at its end.
RUN = [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8), (3, 9)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (EveryNEpochs(2), [(0, 0), (2, 6)]),
        (EveryNSteps(4), [(0, 0), (1, 4), (2, 8)]),
        (EveryNSteps(3), [(0, 0), (1, 3), (2, 6), (3, 9)]),
        (OnlyEpochs(), [(2, 6)]),
        (Both(2, 4), [(1, 4), (2, 6)]),
        (DenserEarly(7, "steps", shortest=4), [(0, 0), (1, 4), (2, 7), (2, 8)]),
    ],
    ids=str,
)
def test_measurements_come_when_the_schedule_wants_them(schedule: Schedule, expected: list[tuple[int, int]]) -> None:
    assert measured(schedule, RUN) == expected


def test_a_moment_is_due_once() -> None:
    assert measured(EveryNSteps(1), [(0, 0), (0, 0), (0, 1), (0, 1), (0, 1), (0, 2)]) == [(0, 0), (0, 1), (0, 2)]


def test_a_moment_that_several_optimizers_pass_over_is_due_after_their_batch() -> None:
    assert measured(EveryNSteps(3), [(0, 0), (0, 2), (0, 4), (0, 6), (0, 8), (0, 10)]) == [(0, 0), (0, 4), (0, 6), (0, 10)]


def test_the_end_of_an_epoch_that_is_cut_short_brings_no_second_measurement() -> None:
    assert measured(Both(1, 2), [(0, 0), (0, 1), (0, 2), (1, 2)]) == [(0, 2)]
    assert measured(Both(1, 3), [(0, 0), (0, 1), (0, 2), (1, 2)]) == [(1, 2)]


def test_epochs_without_a_step_of_the_trainer_are_due() -> None:
    assert measured(EveryNEpochs(), [(0, 0), (1, 0), (2, 0)]) == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("schedule", [EveryNEpochs(), EveryNSteps(2)], ids=str)
@pytest.mark.parametrize("broken_after", range(1, len(RUN)))
def test_a_run_that_goes_on_from_a_saved_state_measures_as_an_unbroken_one(schedule: Schedule, broken_after: int) -> None:
    first, resumed = Timetable(schedule), Timetable(schedule)
    before = measured(schedule, RUN[:broken_after], first)
    resumed.load_state_dict(first.state_dict())
    # The state may be one moment older than the run, which was saved before somebody asked.
    assert before + measured(schedule, RUN[broken_after:], resumed) == measured(schedule, RUN)


@pytest.mark.parametrize("schedule", [EveryNEpochs(), EveryNSteps(2)], ids=str)
@pytest.mark.parametrize("broken_at", range(1, len(RUN) - 1))
def test_a_measurement_that_is_not_over_when_the_state_is_saved_is_made_up_for(schedule: Schedule, broken_at: int) -> None:
    first, resumed = Timetable(schedule), Timetable(schedule)
    before = measured(schedule, RUN[:broken_at], first)
    due = first.due(*RUN[broken_at])
    resumed.load_state_dict(first.state_dict())
    after = measured(schedule, RUN[broken_at:], resumed)
    assert (after[:1] == [RUN[broken_at]]) == due
    assert before + after == measured(schedule, RUN)


def test_what_was_measured_last_is_not_measured_again() -> None:
    timetable = Timetable(EveryNSteps(1))
    timetable.begin(1, 3, 3)
    assert not timetable.due(1, 3)
    assert timetable.due(1, 4)


def test_without_a_saved_state_a_run_begins_where_it_is() -> None:
    assert measured(EveryNEpochs(), [(1, 4), (1, 5), (2, 6)]) == [(2, 6)]
    timetable = Timetable(EveryNSteps(2))
    timetable.load_state_dict({})
    assert measured(timetable.schedule, [(1, 4), (1, 5), (2, 6)], timetable) == [(2, 6)]


def test_another_run_is_asked_about_from_its_beginning() -> None:
    timetable = Timetable(EveryNEpochs())
    assert len(measured(timetable.schedule, RUN, timetable)) == 4
    assert len(measured(timetable.schedule, RUN, timetable)) == 4
    assert measured(timetable.schedule, [(1, 3), (1, 4), (2, 6)], timetable) == [(2, 6)]


@pytest.mark.parametrize("schedule", [5, None, EveryNEpochs, object()])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(TypeError, match=r"schedule|parameter"):
        Timetable(schedule)
