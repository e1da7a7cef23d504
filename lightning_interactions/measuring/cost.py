"""What the measurements of a fit cost, by counting forwards; in seconds once one of them has been timed."""

import time
from dataclasses import dataclass, replace

__all__ = ["Expense", "MeasuringCost", "duration"]

TIMED = 2
"""Which measurement of a fit is taken for what the others cost."""


@dataclass(frozen=True)
class MeasuringCost:
    """What the measurements of a fit cost; its text is a line for a log.

    Attributes:
        forwards: Forwards of one measurement at most: equal masked versions of an input are evaluated once.
        measurements: How many there will be in the whole fit; ``None`` if that is not known.
        training_forwards: What the training costs in forwards, where a step on a sample counts as three; ``None`` if not known.
        seconds: Seconds of one measurement; ``None`` before the first.
    """

    forwards: int
    measurements: int | None = None
    training_forwards: int | None = None
    seconds: float | None = None

    @property
    def all_forwards(self) -> int | None:
        """Forwards of all measurements."""
        return None if self.measurements is None else self.measurements * self.forwards

    @property
    def part_of_training(self) -> float | None:
        """Forwards of all measurements as a part of the training's; ``None`` if either is not known."""
        all_forwards = self.all_forwards
        return None if all_forwards is None or not self.training_forwards else all_forwards / self.training_forwards

    @property
    def all_seconds(self) -> float | None:
        """Seconds of all measurements, if each takes as long as the one that was timed."""
        return None if self.measurements is None or self.seconds is None else self.measurements * self.seconds

    def timed(self, seconds: float) -> "MeasuringCost":
        """Return the same after a measurement that took so long."""
        return replace(self, seconds=seconds)

    def __str__(self) -> str:
        if self.measurements is None:
            return f"measurements of {self.forwards:,} forwards each"
        said = f"{self.measurements} measurements of {self.forwards:,} forwards each"
        if self.part_of_training is not None:
            said += f", all together {_part(self.part_of_training)} what the training costs"
        return said

    @property
    def timing(self) -> str:
        """What a measurement takes, and all of them; to be asked once one of them has been timed."""
        assert self.seconds is not None
        said = f"a measurement takes {duration(self.seconds)}"
        return said if self.all_seconds is None else f"{said}, all {self.measurements} about {duration(self.all_seconds)}"


class Expense:
    """Keeps the account of one fit: what measuring was planned to cost, and what it has taken so far.

    Attributes:
        planned: The cost of all measurements; ``None`` while that is not known.
        seconds: Spent on evidence and measurements so far.
        number: How many measurements there were.
    """

    def __init__(self) -> None:
        self.planned: MeasuringCost | None = None
        self.seconds = self._began = 0.0
        self.number = 0

    def begin(self) -> None:
        """Begin a fit, now."""
        self.planned, self.seconds, self._began, self.number = None, 0.0, time.perf_counter(), 0

    @property
    def part(self) -> float:
        """Part of the wall time since the fit began; 0 before anything was spent."""
        return self.seconds / (time.perf_counter() - self._began) if self.seconds else 0.0

    def measured(self, seconds: float) -> MeasuringCost | None:
        """Note a measurement that took so long; return what all of them cost in seconds, at the second one.

        The first one takes longer: probes are drawn and made ready, and evidence is asked about them.
        """
        self.seconds += seconds
        self.number += 1
        if self.planned is None or self.number != TIMED:
            return None
        self.planned = self.planned.timed(seconds)
        return self.planned


def duration(seconds: float) -> str:
    """Say a time in words: ``"0.4 s"``, ``"12 s"``, ``"3.5 min"``, ``"2.0 h"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def _part(part: float) -> str:
    if part >= 2:
        return f"{part:.1f} times"
    return f"{part:.1%} of" if part < 0.1 else f"{part:.0%} of"
