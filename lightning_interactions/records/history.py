"""All measurements of a run, how they were made, and the phases detected at them."""

import importlib
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.records.measurement import INPUT_FIELDS, Measurement, OrderStrength, SplitMeasurement, TimePoint

__all__ = ["ChangePoint", "History", "Phase", "PhaseTest"]

VERSION = 1
"""Version of the state; another one is refused."""

KEPT_IN_FULL = 64
"""So many last measurements keep their strength by order input by input."""

MOST_MEASUREMENTS = 1024
"""With more, every second one of the older half is left out."""

STRENGTHS = ("generalizable", "non_generalizable", "non_salient")

Findings = Mapping[str, float]
"""Numbers by name, that a test rests on."""


@dataclass(frozen=True)
class PhaseTest:
    """How far the measurements so far speak for one change of phase.

    Attributes:
        phase: Number of the phase that would begin, or of the one that the run is in.
        onset: Where the change would be seen if it were detected now; either this very measurement or the same as at the one
            before. Of the phase that the run is in, its onset.
        p_value: Smallest ``α`` of the whole run at which the change would be detected now, adjusted for all looks; infinite if
            a condition other than significance fails.
        findings: The numbers that it rests on; none if too little was measured since the onset.
    """

    phase: int
    onset: TimePoint
    p_value: float
    findings: Findings = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """What was found, in words with numbers."""
        return _in_words(self.findings) if self.findings else "too little was measured since it could have begun"


@dataclass(frozen=True)
class Phase:
    """The phase of training that a run is in, as detected at one measurement.

    Onset and detection are two moments: a change is detected when the evidence for it suffices, and began before.

    Attributes:
        number: 1 (noise is removed, simple interactions are learned), 2 (more complex interactions are learned, mostly
            generalizable) or 3 (mainly non-generalizable interactions are learned).
        onset: The measurement from which on the change is seen.
        detected: The measurement at which it was detected.
        confidence: One minus the adjusted p-value of the detection, in [0, 1]; NaN in the first phase of a run, which needs no
            evidence.
        findings: The numbers that the detection rests on; none in the first phase.
        tests: How far this measurement speaks for each change that can come next, and for the phase that the run is in.
    """

    number: int
    onset: TimePoint
    detected: TimePoint
    confidence: float
    findings: Findings = field(default_factory=dict)
    tests: tuple[PhaseTest, ...] = ()

    @property
    def reason(self) -> str:
        """Why it was detected, in words with the numbers."""
        if self.findings:
            return _in_words(self.findings)
        return "measurements begin here; simple interactions come first (a fine-tuned model may have learned them before)"

    def __str__(self) -> str:
        """Say the phase in one line; in optimizer steps if onset and detection lie in one epoch."""
        confidence = "" if math.isnan(self.confidence) else f", confidence {self.confidence:.4f}"
        if self.detected.step == self.onset.step:
            moments = f"epoch {self.onset.epoch}"
        elif self.detected.epoch == self.onset.epoch:
            moments = f"step {self.onset.step}, detected after step {self.detected.step}"
        else:
            moments = f"epoch {self.onset.epoch}, detected after epoch {self.detected.epoch}"
        return f"phase {self.number} since {moments}{confidence}: {self.reason}"


@dataclass(frozen=True)
class ChangePoint:
    """Where a phase begins in an offline segmentation.

    Attributes:
        phase: Number of the phase.
        time: The change point.
        low: Lower end of its 95 % interval over the draw of probes, completed epochs.
        high: Upper end.
        online_onset: The first onset that was detected online; ``None`` if the phase never was.
        measurements_late: By how many measurements that onset lies after the change point; ``None`` if there is none.
    """

    phase: int
    time: TimePoint
    low: float
    high: float
    online_onset: TimePoint | None
    measurements_late: int | None

    def __str__(self) -> str:
        """Say the change point and the online onset in one line."""
        online = "not detected online" if self.online_onset is None else f"online since epoch {self.online_onset.epoch}"
        return f"phase {self.phase} offline since epoch {self.time.epoch} ({self.low:.0f} to {self.high:.0f}), {online}"


@dataclass(frozen=True, eq=False)
class History:
    """All measurements of a run with the phase that was detected at each; a history that grows is a new record.

    Its size is bounded: only the last 64 measurements keep their strength by order input by input, and of more than 1,024
    measurements every second one of the older half is left out.

    Attributes:
        measurements: In the order of time.
        phases: The phase detected at each measurement, from what was known then.
        settings: How the measurements were made, by name; primitives.
    """

    measurements: tuple[Measurement, ...] = ()
    phases: tuple[Phase, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.measurements)

    def __repr__(self) -> str:
        times = f", {self.measurements[0].time} to {self.measurements[-1].time}" if self else ""
        return f"History({len(self)} measurements{times})"

    def __str__(self) -> str:
        """Print one row a measurement; see :func:`lightning_interactions.reporting.history_table`."""
        table: str = importlib.import_module("lightning_interactions.reporting").history_table(self)
        return table

    @property
    def epochs(self) -> list[int]:
        """Completed epochs of every measurement; equal for measurements within the same epoch."""
        return [measurement.time.epoch for measurement in self.measurements]

    @property
    def steps(self) -> list[int]:
        """Optimizer steps taken before every measurement."""
        return [measurement.time.step for measurement in self.measurements]

    @property
    def detections(self) -> tuple[Phase, ...]:
        """The phase of the first measurement, and each that was detected after another one."""
        befores = (None, *self.phases[:-1])
        return tuple(
            phase
            for phase, before in zip(self.phases, befores, strict=False)
            if before is None or phase.number != before.number
        )

    def first_detection(self, phase: int) -> Phase | None:
        """Return the record of a phase's first detection; ``None`` if it was never detected."""
        return next((detected for detected in self.phases if detected.number == phase), None)

    def onset_epoch(self, phase: int) -> int | None:
        """Return the completed epochs at the first onset of a phase; ``None`` if it was never detected."""
        detected = self.first_detection(phase)
        return None if detected is None else detected.onset.epoch

    def append(self, measurement: Measurement, phase: Phase) -> "History":
        """Return a history that is longer by one measurement and the phase detected at it."""
        measurements, phases = (*self.measurements, measurement), (*self.phases, phase)
        if len(measurements) > KEPT_IN_FULL:
            older = len(measurements) - KEPT_IN_FULL - 1
            measurements = (*measurements[:older], _condensed(measurements[older]), *measurements[older + 1 :])
        if len(measurements) > MOST_MEASUREMENTS:
            half = len(measurements) // 2
            kept = [*range(0, half, 2), *range(half, len(measurements))]
            measurements, phases = tuple(measurements[i] for i in kept), tuple(phases[i] for i in kept)
        return replace(self, measurements=measurements, phases=phases)

    def with_seconds(self, seconds: float) -> "History":
        """Return the history with another wall-clock time of the last measurement."""
        return replace(self, measurements=(*self.measurements[:-1], replace(self.measurements[-1], seconds=seconds)))

    def different_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """Compare with other settings.

        Returns:
            ``"name: value here, value there"`` for each that differs; settings that only one side names differ, too.
        """
        names = dict.fromkeys([*self.settings, *settings])
        return [
            f"{name}: {self.settings.get(name)}, now {settings.get(name)}"
            for name in names
            if self.settings.get(name) != settings.get(name)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the history as nested dicts and lists of primitives and tensors, safe for ``weights_only`` loading."""
        names = dict.fromkeys(name for measurement in self.measurements for name in measurement.splits)
        return {
            "version": VERSION,
            "settings": dict(self.settings),
            "times": [[one.time.epoch, one.time.step] for one in self.measurements],
            "seconds": [one.seconds for one in self.measurements],
            "splits": {name: _columns([one.splits.get(name) for one in self.measurements]) for name in names},
            "phases": [_phase_to_dict(phase) for phase in self.phases],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "History":
        """Rebuild a history from :meth:`to_dict`.

        Raises:
            ValueError: If it is of another version, or incomplete.
        """
        if state.get("version") != VERSION:
            raise ValueError(
                f"History: expected a history of version {VERSION}, got version {state.get('version')}; begin a history anew, "
                "or read it with the version of this package that wrote it"
            )
        try:
            splits = {name: _split_measurements(columns) for name, columns in state["splits"].items()}
            none: list[SplitMeasurement | None] = [None] * len(state["times"])
            rows = zip(
                state["times"], state["seconds"], splits.get("training", none), splits.get("held_out", none), strict=True
            )
            measurements = []
            for time, seconds, training, held_out in rows:
                if training is None:
                    raise ValueError("a measurement without training probes")
                measurements.append(Measurement(TimePoint(*time), seconds, training, held_out))
            phases = tuple(_phase_from_dict(phase) for phase in state["phases"])
            return cls(tuple(measurements), phases, dict(state["settings"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, StopIteration) as error:
            raise ValueError(f"History: expected a whole history of version {VERSION}, got a broken one: {error!r}") from error

    def save(self, path: str | Path) -> None:
        """Write the history to a file that loads with ``weights_only=True``."""
        torch.save(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """Read a history from a file.

        Raises:
            ValueError: If the file is not one that :meth:`save` wrote, of this version.
        """
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(
                f"History: expected a file written by History.save at {path}, got one that cannot be read"
            ) from error
        if not isinstance(state, dict):
            raise ValueError(f"History: expected a file written by History.save at {path}, got {type(state).__name__}")
        return cls.from_dict(state)


def _in_words(findings: Findings) -> str:
    """Word what a test rests on."""
    if "share_before" in findings:
        return (
            f"the share of generalizable strength fell from its maximum of {findings['share_before']:.2f} to "
            f"{findings['share_after']:.2f}, and on {findings['more']:.0f} of {findings['probes']:.0f} probes"
        )
    words = (
        f"salient strength above chance changed by {findings['generalizable']:+.2f} generalizable and "
        f"{findings['non_generalizable']:+.2f} non-generalizable, the latter by more on {findings['more']:.0f} of "
        f"{findings['probes']:.0f} probes; "
    )
    if "loss_before" in findings:
        words += f"the expected test loss went from {findings['loss_before']:.3f} to {findings['loss_after']:.3f}"
    else:
        words += "no loss is known"
    if "excess_gap" in findings:
        words += f", the excess gap changed by {findings['excess_gap']:+.3f}"
    return words


def _condensed(measurement: Measurement) -> Measurement:
    held_out = None if measurement.held_out is None else measurement.held_out.condensed()
    return replace(measurement, training=measurement.training.condensed(), held_out=held_out)


def _columns(splits: Sequence[SplitMeasurement | None]) -> dict[str, Any]:
    """Stack one split's measurements: a few large tensors are smaller and faster to save than many small ones."""
    there = [split for split in splits if split is not None]
    return {
        "present": [split is not None for split in splits],
        "condensed": [split.is_condensed for split in there],
        "inputs": {name: torch.stack([getattr(split, name) for split in there]) for name in INPUT_FIELDS},
        "strength": {
            kind: {
                name: _stacked(
                    [getattr(split.strength, name) for split in there if split.is_condensed == (kind == "condensed")]
                )
                for name in STRENGTHS
            }
            for kind in ("condensed", "full")
        },
    }


def _stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(tensors)) if tensors else None


def _split_measurements(columns: Mapping[str, Any]) -> list[SplitMeasurement | None]:
    rows = {name: iter(column.unbind()) for name, column in columns["inputs"].items()}
    strengths = {
        kind: {name: iter(() if stack is None else stack.unbind()) for name, stack in stacks.items()}
        for kind, stacks in columns["strength"].items()
    }
    condensed = iter(columns["condensed"])
    found: list[SplitMeasurement | None] = []
    for present in columns["present"]:
        if not present:
            found.append(None)
            continue
        of_kind = strengths["condensed" if next(condensed) else "full"]
        # Rows of their own, so that none keeps the whole stack alive.
        strength = OrderStrength(**{name: next(column).clone() for name, column in of_kind.items()})
        found.append(SplitMeasurement(**{name: next(column).clone() for name, column in rows.items()}, strength=strength))
    return found


def _phase_to_dict(phase: Phase) -> dict[str, Any]:
    return {
        "number": phase.number,
        "onset": [phase.onset.epoch, phase.onset.step],
        "detected": [phase.detected.epoch, phase.detected.step],
        "confidence": phase.confidence,
        "findings": dict(phase.findings),
        "tests": [[one.phase, one.onset.epoch, one.onset.step, one.p_value, dict(one.findings)] for one in phase.tests],
    }


def _phase_from_dict(state: Mapping[str, Any]) -> Phase:
    return Phase(
        number=state["number"],
        onset=TimePoint(*state["onset"]),
        detected=TimePoint(*state["detected"]),
        confidence=state["confidence"],
        findings=dict(state["findings"]),
        tests=tuple(PhaseTest(one[0], TimePoint(one[1], one[2]), one[3], dict(one[4])) for one in state["tests"]),
    )
