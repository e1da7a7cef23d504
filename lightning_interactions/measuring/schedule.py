"""When to measure: schedules, which are asked about epochs, about optimizer steps, or about both."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

__all__ = ["DenserEarly", "EpochSchedule", "EveryNEpochs", "EveryNSteps", "Schedule", "StepSchedule"]


@runtime_checkable
class EpochSchedule(Protocol):
    """Chooses the epochs after which a measurement is made."""

    def due(self, epoch: int) -> bool:
        """Say whether to measure after this many completed epochs; 0 is the untrained model."""
        ...


@runtime_checkable
class StepSchedule(Protocol):
    """Chooses the optimizer steps after which a measurement is made."""

    def due_at_step(self, step: int) -> bool:
        """Say whether to measure after this many optimizer steps; 0 is the untrained model."""
        ...


Schedule = EpochSchedule | StepSchedule
"""A schedule of either kind; one that has both methods measures at the moments of both."""


@dataclass(frozen=True)
class EveryNEpochs:
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
        """Say whether ``epoch`` is a multiple of ``n``; see :class:`EpochSchedule`."""
        return epoch % self.n == 0


@dataclass(frozen=True)
class EveryNSteps:
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
        """Say whether ``step`` is a multiple of ``n``; see :class:`StepSchedule`."""
        return step % self.n == 0


@dataclass(frozen=True)
class DenserEarly:
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
        """Say whether ``epoch`` is due, if time is counted in epochs; see :class:`EpochSchedule`."""
        return self.unit == "epochs" and self._chosen(epoch)

    def due_at_step(self, step: int) -> bool:
        """Say whether ``step`` is due, if time is counted in steps; see :class:`StepSchedule`."""
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
