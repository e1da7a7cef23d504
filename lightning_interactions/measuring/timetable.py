"""Asking a schedule about the moments of a run, each of them once."""

from typing import Any

from lightning_interactions.measuring.schedule import EpochSchedule, Schedule, StepSchedule

__all__ = ["Timetable"]


class Timetable:
    """Goes through the moments of a run, and says at which of them the schedule wants a measurement.

    Each moment is asked about when the run is there, or the next time that somebody asks: several optimizers may step in one
    batch, and a checkpoint may have been written between a step and the measurement after it.

    Args:
        schedule: What to ask.

    Raises:
        TypeError: If it is no schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        if isinstance(schedule, type) or not isinstance(schedule, Schedule):
            raise TypeError(
                "schedule: expected an object with a method due(epoch) or due_at_step(step), such as EveryNEpochs(5) or "
                f"EveryNSteps(100), got {schedule!r}"
            )
        self.schedule = schedule
        self._asked: tuple[int, int] | None = None
        self._measured_step: int | None = None

    def begin(self, epoch: int, step: int) -> None:
        """Begin a run or go on with one.

        Args:
            epoch: Completed epochs.
            step: Optimizer steps taken so far.
        """
        if (epoch, step) == (0, 0):
            self._asked = (-1, -1)
        elif self._asked is None or self._asked[0] > epoch or self._asked[1] > step:
            self._asked = (epoch, step)
        self._measured_step = None

    def due(self, epoch: int, step: int) -> bool:
        """Say whether to measure now.

        Args:
            epoch: Completed epochs.
            step: Optimizer steps taken so far.

        Returns:
            Whether the schedule wanted a measurement at any moment since the last call. Never twice after the same step:
            where an epoch is cut short after a measurement, its end brings no other.
        """
        assert self._asked is not None, "begin comes first"
        new_epochs, new_steps = range(self._asked[0] + 1, epoch + 1), range(self._asked[1] + 1, step + 1)
        self._asked = (epoch, step)
        if step == self._measured_step:
            return False
        schedule = self.schedule
        due = (isinstance(schedule, EpochSchedule) and any(map(schedule.due, new_epochs))) or (
            isinstance(schedule, StepSchedule) and any(map(schedule.due_at_step, new_steps))
        )
        if due and step > 0:  # A run that steps its optimizers past the Trainer stays at 0.
            self._measured_step = step
        return due

    def state_dict(self) -> dict[str, Any]:
        """Return up to where the schedule was asked, in primitives."""
        return {"asked": None if self._asked is None else list(self._asked)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; a missing key means that the next run begins where it is."""
        asked = state_dict.get("asked")
        self._asked = None if asked is None else (int(asked[0]), int(asked[1]))
