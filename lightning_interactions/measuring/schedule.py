"""When to measure: schedules, which are asked about epochs, about optimizer steps, or about both."""

import math
from abc import ABC
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "DenserEarly",
    "EveryNEpochs",
    "EveryNSteps",
    "FitLength",
    "Planned",
    "Schedule",
    "Timetable",
    "number_of_moments",
]

FORWARDS_OF_SAMPLE = 3
"""Forwards that one training sample counts as: its own, and a backward of about two."""

FEWEST_MEASUREMENTS = 25
"""Phases cannot be told from fewer, whatever more would cost."""

FEW_EPOCHS = 5
"""Up to so many epochs are measured within, too."""

SHORTEST_STEPS = 100
"""Optimizer steps between measurements within an epoch at least."""


MOST_ASKED = 100_000
"""Steps that a schedule is asked about one by one to count its measurements."""


@dataclass(frozen=True)
class FitLength:
    """What is known of the length of a fit when it starts; ``None`` for what is not.

    Attributes:
        epochs: Epochs in all, those before a resume included.
        steps: Optimizer steps in all.
        steps_per_epoch: Optimizer steps in one epoch.
        samples_per_epoch: Training samples in one epoch, of all processes.
    """

    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    samples_per_epoch: int | None = None

    @classmethod
    def of_limits(
        cls,
        epochs: int | None = None,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        samples_per_epoch: int | None = None,
    ) -> "FitLength":
        """Find out which limit comes first.

        Args:
            epochs: Most epochs.
            steps: Most optimizer steps.
            steps_per_epoch: Optimizer steps in one epoch.
            samples_per_epoch: Training samples in one epoch.
        """
        if steps_per_epoch:
            by_steps = math.inf if steps is None else math.ceil(steps / steps_per_epoch)
            by_epochs = math.inf if epochs is None else epochs * steps_per_epoch
            first_epoch = min(math.inf if epochs is None else epochs, by_steps)
            last_step = min(math.inf if steps is None else steps, by_epochs)
            epochs = None if math.isinf(first_epoch) else int(first_epoch)
            steps = None if math.isinf(last_step) else int(last_step)
        return cls(epochs, steps, steps_per_epoch, samples_per_epoch)

    @property
    def training_forwards(self) -> int | None:
        """What the training costs in forwards, its backwards included: three for each sample."""
        if self.samples_per_epoch is None or (self.epochs is None and (self.steps is None or not self.steps_per_epoch)):
            return None
        if self.steps is not None and self.steps_per_epoch:
            return round(FORWARDS_OF_SAMPLE * self.samples_per_epoch * self.steps / self.steps_per_epoch)
        assert self.epochs is not None
        return FORWARDS_OF_SAMPLE * self.samples_per_epoch * self.epochs


class Schedule(ABC):  # noqa: B024  # either method may be left as it is
    """Chooses the moments at which something is done; a schedule overrides one of its methods, or both."""

    def for_fit(self, length: FitLength, forwards: int | None = None) -> "Schedule":
        """Return the schedule for a fit of this length; itself, unless a schedule plans ahead.

        The same arguments give the same moments, so that resumed runs and all processes agree.

        Args:
            length: What is known of the length of the fit.
            forwards: Forwards of one measurement, if they are known yet.
        """
        return self

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


@dataclass(frozen=True)
class Planned(Schedule):
    """Plan a number of measurements for the whole fit: every epoch at first, then at distances that grow, at most to 2/n of it.

    - A fit of fewer epochs is measured after each.
    - A fit of five epochs or fewer is measured within them as well, every 100 steps at most.
    - Where neither epochs nor steps are limited beforehand, such as by ``max_time`` alone, it is :class:`DenserEarly`.

    The plan follows from the limits of the fit alone. A run that is resumed with the same limits goes on with it; with others,
    what was measured stays, and from there on the plan for the new length holds.

    Attributes:
        measurements: How many, beside that of the untrained model.
        max_overhead: Most forwards of all measurements together, as a part of those of the training, where a training sample
            counts as three; then there may be fewer measurements, but not fewer than 25. No bound if left out, or where the
            number of training samples or steps is not known beforehand.

    Raises:
        ValueError: If there are fewer than 2 measurements, or the bound is not above 0.
    """

    measurements: int = 40
    max_overhead: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no plan."""
        if self.measurements < 2:
            raise ValueError(f"schedule: expected measurements >= 2, got {self.measurements}")
        if self.max_overhead is not None and not 0 < self.max_overhead < math.inf:
            raise ValueError(f"schedule: expected max_overhead > 0, such as 0.1, or none, got {self.max_overhead}")

    def for_fit(self, length: FitLength, forwards: int | None = None) -> Schedule:
        """Plan the moments of a fit; see :class:`Schedule`."""
        most = self._most(length, forwards)
        if length.epochs is None and length.steps is None:
            return DenserEarly()
        if length.epochs is None:
            assert length.steps is not None
            return _Moments(steps=_distances(length.steps, most, SHORTEST_STEPS))
        if length.epochs > FEW_EPOCHS:
            return _Moments(epochs=_distances(length.epochs, most, 1))
        ends = frozenset(range(length.epochs + 1))
        if length.steps is None:
            return _EndsAndSteps(ends, DenserEarly(unit="steps", shortest=SHORTEST_STEPS))
        return _Moments(epochs=ends, steps=_distances(length.steps, most, SHORTEST_STEPS))

    def due(self, epoch: int) -> bool:
        """Say whether ``epoch`` is due in a fit of unknown length; see :class:`Schedule`."""
        return DenserEarly().due(epoch)

    def _most(self, length: FitLength, forwards: int | None) -> int:
        training = length.training_forwards
        if self.max_overhead is None or training is None or not forwards:
            return self.measurements
        return min(self.measurements, max(FEWEST_MEASUREMENTS, int(self.max_overhead * training / forwards)))


@dataclass(frozen=True)
class _Moments(Schedule):
    """Moments that are known one by one."""

    epochs: frozenset[int] = field(default_factory=frozenset)
    steps: frozenset[int] = field(default_factory=frozenset)

    def due(self, epoch: int) -> bool:
        return epoch in self.epochs

    def due_at_step(self, step: int) -> bool:
        return step in self.steps


@dataclass(frozen=True)
class _EndsAndSteps(Schedule):
    """Ends of epochs, and another schedule within them."""

    epochs: frozenset[int]
    within: Schedule

    def due(self, epoch: int) -> bool:
        return epoch in self.epochs

    def due_at_step(self, step: int) -> bool:
        return self.within.due_at_step(step)


def _distances(end: int, most: int, shortest: int) -> frozenset[int]:
    """Choose moments from 0 to the end, at most so many after 0, whose distances grow by the slowest rate that does."""
    longest = max(shortest, math.ceil(2 * end / most))
    rate = 0.0
    while len(moments := _growing(end, most, rate, shortest, longest)) > most + 1:
        rate = max(1.05 * rate, 0.01)
    return frozenset(moments)


def _growing(end: int, most: int, rate: float, shortest: int, longest: int) -> list[int]:
    """List moments whose distances are a part of the time so far, within bounds; give up when there are too many."""
    moments = [0]
    while moments[-1] < end and len(moments) <= most + 1:
        distance = min(max(shortest, round(rate * moments[-1])), longest)
        left = end - moments[-1]
        # No shorter distance before the end than half of the others.
        moments.append(end if 2 * left < 3 * distance else moments[-1] + distance)
    return moments


def number_of_moments(schedule: Schedule, length: FitLength) -> int | None:
    """Count the measurements of a whole fit, that of the untrained model included; ``None`` if that cannot be known, or soon.

    Args:
        schedule: The schedule for this fit.
        length: Its length.
    """
    asks_steps = type(schedule).due_at_step is not Schedule.due_at_step
    if length.epochs is None and not asks_steps:
        return None
    if isinstance(schedule, _Moments):
        steps = set(schedule.steps)
    elif not asks_steps:
        steps = set()
    elif length.steps is None or length.steps > MOST_ASKED:
        return None
    else:
        steps = {step for step in range(length.steps + 1) if schedule.due_at_step(step)}
    epochs = range((length.epochs or 0) + 1)
    if not length.steps_per_epoch:
        return len(steps | {-epoch for epoch in epochs if schedule.due(epoch)})
    # An epoch's last step is its end.
    per_epoch, last = length.steps_per_epoch, length.steps
    ends = {epoch * per_epoch if last is None else min(epoch * per_epoch, last) for epoch in epochs if schedule.due(epoch)}
    return len(steps | ends)


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
        self._planned = schedule
        self._asked: tuple[int, int] | None = None
        self._asked_before: tuple[int, int] | None = None
        self._measured_step: int | None = None

    def begin(self, epoch: int, step: int, measured_step: int | None = None) -> None:
        """Begin a run or go on with one.

        Args:
            epoch: Completed epochs.
            step: Optimizer steps taken so far.
            measured_step: Optimizer steps taken at the last measurement, if there is one.
        """
        if self._asked is None or self._asked[0] > epoch or self._asked[1] > step:
            self._asked = (-1, -1) if (epoch, step) == (0, 0) else (epoch, step)
        self._asked_before = None
        self._measured_step = measured_step or None  # A run that steps its optimizers past the Trainer stays at 0.

    def plan(self, length: FitLength, forwards: int | None = None) -> int | None:
        """Let the schedule plan a fit; again when more is known.

        Args:
            length: What is known of the length of the fit.
            forwards: Forwards of one measurement, if they are known yet.

        Returns:
            The number of measurements in the whole fit, if that is known.
        """
        self._planned = self.schedule.for_fit(length, forwards)
        return number_of_moments(self._planned, length)

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
        before, self._asked = self._asked, (epoch, step)
        if step == self._measured_step:
            return False
        schedule = self._planned
        due = any(map(schedule.due, new_epochs)) or any(map(schedule.due_at_step, new_steps))
        if due:
            self._asked_before, self._measured_step = before, step or None
        return due

    def done(self) -> None:
        """Note that the measurement that was due is over. A state that is saved before has it still to come."""
        self._asked_before = None

    def state_dict(self) -> dict[str, Any]:
        """Return up to where the schedule was asked, in primitives."""
        asked = self._asked if self._asked_before is None else self._asked_before
        return {"asked": None if asked is None else list(asked)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; a missing key means that the next run begins where it is."""
        asked = state_dict.get("asked")
        self._asked = None if asked is None else (int(asked[0]), int(asked[1]))
