"""When to measure: schedules, which are asked about epochs, about optimizer steps, or about both."""

from abc import ABC
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DenserEarly", "EveryNEpochs", "EveryNSteps", "Schedule", "Timetable"]


class Schedule(ABC):  # noqa: B024  # either method may be left as it is
    """Chooses the moments at which something is done; a schedule overrides one of its methods, or both."""

    def due(self, epoch: int) -> bool:
        """Say whether this many completed epochs are such a moment; 0 is the untrained model."""
        return False

    def due_at_step(self, step: int) -> bool:
        """Say whether this many optimizer steps are such a moment; 0 is the untrained model."""
        return False


@dataclass(frozen=True)
class EveryNEpochs(Schedule):
    """Measure the untrained model and then after every ``n`` epochs.

    Attributes:
        n: Epochs between measurements.

    Raises:
        ValueError: If ``n`` is smaller than 1.
    """

    n: int = 1

    def __post_init__(self) -> None:
        """Refuse an interval that never comes."""
        if self.n < 1:
            raise ValueError(f"schedule: expected to measure every n >= 1 epochs, got n={self.n}")

    def due(self, epoch: int) -> bool:
        """Say whether ``epoch`` is a multiple of ``n``; see :class:`Schedule`."""
        return epoch % self.n == 0


@dataclass(frozen=True)
class EveryNSteps(Schedule):
    """Measure the untrained model and then after every ``n`` optimizer steps, for trainings of few long epochs.

    Steps are Lightning's ``trainer.global_step``: batches of accumulated gradients count once, and several optimizers count
    each of their steps. A stop at such a measurement ends the run at once, unless the Trainer's ``min_epochs`` or ``min_steps``
    (which implies ``min_epochs=1`` if that is not given) asks for more.

    Attributes:
        n: Optimizer steps between measurements.

    Raises:
        ValueError: If ``n`` is smaller than 1.
    """

    n: int

    def __post_init__(self) -> None:
        """Refuse an interval that never comes."""
        if self.n < 1:
            raise ValueError(f"schedule: expected to measure every n >= 1 steps, got n={self.n}")

    def due_at_step(self, step: int) -> bool:
        """Say whether ``step`` is a multiple of ``n``; see :class:`Schedule`."""
        return step % self.n == 0


@dataclass(frozen=True)
class DenserEarly(Schedule):
    """Measure the untrained model, often at first, and then whenever the time has grown by about a quarter.

    The first phases of a training are short and its last one is long: 16 measurements see as much of 45 epochs as 46 do.

    Attributes:
        last: A moment that is measured besides, such as the end of the run; none if left out.
        unit: What time is counted in: completed ``"epochs"``, or optimizer ``"steps"`` as :class:`EveryNSteps` counts them.
        shortest: Measurements are at least so far apart.
        longest: Measurements are at most so far apart; any distance if left out.

    Raises:
        ValueError: If there is no such unit, or not ``1 <= shortest <= longest``.
    """

    last: int | None = None
    unit: Literal["epochs", "steps"] = "epochs"
    shortest: int = 1
    longest: int | None = None

    def __post_init__(self) -> None:
        """Refuse what would never be due, or cannot be counted."""
        if self.unit not in ("epochs", "steps"):
            raise ValueError(f"schedule: expected unit 'epochs' or 'steps', got {self.unit!r}")
        if self.shortest < 1 or (self.longest is not None and self.longest < self.shortest):
            raise ValueError(
                f"schedule: expected 1 <= shortest <= longest {self.unit} between measurements, got "
                f"shortest={self.shortest} and longest={self.longest}"
            )

    def due(self, epoch: int) -> bool:
        """Say whether ``epoch`` is due, if time is counted in epochs; see :class:`Schedule`."""
        return self.unit == "epochs" and self._chosen(epoch)

    def due_at_step(self, step: int) -> bool:
        """Say whether ``step`` is due, if time is counted in steps; see :class:`Schedule`."""
        return self.unit == "steps" and self._chosen(step)

    def _chosen(self, time: int) -> bool:
        moment = 0
        while moment < time:
            distance = max(self.shortest, round(moment / 4))
            if self.longest is not None and distance >= self.longest:
                # Equal distances from here on.
                return (time - moment) % self.longest == 0 or time == self.last
            moment += distance
        return time in (moment, self.last)


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
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"schedule: expected a Schedule, such as EveryNEpochs(5) or EveryNSteps(100), got {schedule!r}; subclass "
                "Schedule for one of your own"
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
        due = any(map(schedule.due, new_epochs)) or any(map(schedule.due_at_step, new_steps))
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
