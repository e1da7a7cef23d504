"""All measurements of a run, how they were made, and the phases detected at them."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_interactions.records.files import UnreadableError, load_safely
from lightning_interactions.records.interactions import EFFECT_TYPES, SIGNS
from lightning_interactions.records.measurement import INPUT_FIELDS, Measurement, OrderStrength, SplitMeasurement
from lightning_interactions.records.phases import Phase, phase_from_dict, phase_to_dict, time_from_list

__all__ = ["History", "PlotKind"]

PlotKind = Literal["phases", "losses", "share", "excess_gap", "strength", "heat_map", "decay_and_spindle"]
"""What a history can be plotted as; ``"phases"`` are losses, share and excess gap together."""

VERSION = 2
"""Version of the state; another one is refused."""

KEPT_IN_FULL = 64
"""So many last measurements keep their strength by order input by input."""

MOST_MEASUREMENTS = 1024
"""With more, every second one of the older half is left out, unless a phase was detected at it."""

STRENGTHS = ("generalizable", "non_generalizable", "non_salient")


@dataclass(frozen=True, eq=False)
class History:
    """All measurements of a run with the phase that was detected at each; a history that grows is a new record.

    Its size is bounded: only the last 64 measurements keep their strength by order input by input, and of more than 1,024
    measurements every second one of the older half is left out, but for those at which a phase was detected.

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
        table: str = _reporting().history_table(self)
        return table

    def plot(self, kind: PlotKind = "phases", ax: Any = None) -> tuple[Any, Any]:
        """Plot the history, in a notebook say; see :func:`lightning_interactions.reporting.plot`.

        Args:
            kind: ``"losses"``, ``"share"``, ``"excess_gap"``, or the three together as ``"phases"``; ``"strength"``,
                ``"decay_and_spindle"``, ``"heat_map"``.
            ax: Where to draw; a new figure of pyplot if left out.

        Returns:
            The figure of matplotlib, and its axes: a list where there are several.

        Raises:
            ValueError: If nothing was measured, there is no such kind, or the number of axes is another one.
        """
        drawn: tuple[Any, Any] = _reporting().plot(self, kind, ax)
        return drawn

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
            # What is told of a detection, or belongs to it, is looked up in its measurement.
            detected = {i for i in range(1, half) if phases[i].number != phases[i - 1].number}
            kept = [*sorted(detected.union(range(0, half, 2))), *range(half, len(measurements))]
            measurements, phases = tuple(measurements[i] for i in kept), tuple(phases[i] for i in kept)
        return replace(self, measurements=measurements, phases=phases)

    def with_seconds(self, seconds: float) -> "History":
        """Return the history with another wall-clock time of the last measurement."""
        return replace(self, measurements=(*self.measurements[:-1], replace(self.measurements[-1], seconds=seconds)))

    def names_of_different_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """Name the settings that differ from others; those that only one side names differ, too."""
        names = dict.fromkeys([*self.settings, *settings])
        return [name for name in names if self.settings.get(name) != settings.get(name)]

    def different_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """Compare with other settings.

        Returns:
            ``"name: value here, value there"`` for each that differs; see :meth:`names_of_different_settings`.
        """
        names = self.names_of_different_settings(settings)
        return [f"{name}: {self.settings.get(name)}, now {settings.get(name)}" for name in names]

    def to_dict(self) -> dict[str, Any]:
        """Return the history as nested dicts and lists of primitives and tensors, safe for ``weights_only`` loading."""
        names = dict.fromkeys(name for measurement in self.measurements for name in measurement.splits)
        return {
            "version": VERSION,
            "settings": dict(self.settings),
            "times": [[one.time.epoch, one.time.step] for one in self.measurements],
            "seconds": [one.seconds for one in self.measurements],
            "early": [one.is_early for one in self.measurements],
            "splits": {name: _columns([one.splits.get(name) for one in self.measurements]) for name in names},
            "phases": [phase_to_dict(phase) for phase in self.phases],
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
            columns = (state["times"], state["seconds"], state["early"])
            measurements = []
            for time, seconds, is_early, training, held_out in zip(
                *columns, splits.get("training", none), splits.get("held_out", none), strict=True
            ):
                if training is None:
                    raise ValueError("a measurement without training probes")
                _expect(isinstance(is_early, bool) and 0 <= seconds < math.inf, "seconds, and whether it is early")
                measurements.append(Measurement(time_from_list(time), float(seconds), training, held_out, is_early))
            phases = tuple(phase_from_dict(phase) for phase in state["phases"])
            _expect(len(phases) == len(measurements), "a phase for each measurement")
            return cls(tuple(measurements), phases, {str(name): value for name, value in state["settings"].items()})
        except Exception as error:  # Whatever a state of somebody else makes of this.
            raise ValueError(f"History: expected a whole history of version {VERSION}, got a broken one: {error!r}") from error

    def save(self, path: str | Path) -> None:
        """Write the history to a file that loads with ``weights_only=True``."""
        torch.save(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """Read a history from a file.

        Raises:
            ValueError: If the file is not one that :meth:`save` wrote, of this version.
            OSError: If it cannot be opened.
        """
        try:
            state = load_safely(path)
        except UnreadableError as error:
            raise ValueError(f"History: expected a file written by History.save: {error}") from error
        if not isinstance(state, dict):
            raise ValueError(f"History: expected a file written by History.save at {path}, got {type(state).__name__}")
        return cls.from_dict(state)


def _reporting() -> Any:
    """Return the room that draws and prints, which is to the right of this one: only when it is asked for."""
    return importlib.import_module("lightning_interactions.reporting")


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


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"expected {what}")


def _check_shapes(columns: Mapping[str, Any]) -> None:
    """Refuse columns of which no measurement could be made that is whole."""
    present, condensed = columns["present"], columns["condensed"]
    _expect(all(isinstance(one, bool) for one in (*present, *condensed)), "truth values of what is there")
    inputs = {tuple(columns["inputs"][name].shape) for name in INPUT_FIELDS}
    _expect(len(inputs) == 1 and [len(shape) for shape in inputs] == [2], "[measurements, inputs] of all numbers")
    ((number, probes),) = inputs
    _expect(number == len(condensed) == sum(present) and probes > 0, "as many rows as measurements")
    stacks = {kind: [columns["strength"][kind][name] for name in STRENGTHS] for kind in ("condensed", "full")}
    orders: set[tuple[int, ...]] = set()
    for kind, rows, length in (("condensed", 1, sum(condensed)), ("full", probes, number - sum(condensed))):
        there = [stack for stack in stacks[kind] if stack is not None]
        _expect(len(there) == (len(STRENGTHS) if length else 0), f"strength of {length} {kind} measurements")
        _expect(all(tuple(stack.shape[:2]) == (length, rows) for stack in there), f"strength of {rows} rows")
        orders |= {tuple(stack.shape[2:]) for stack in there}
    _expect(all(len(shape) == 3 and shape[:2] == (len(EFFECT_TYPES), len(SIGNS)) for shape in orders), "types, signs, orders")
    tensors = [*(columns["inputs"][name] for name in INPUT_FIELDS), *(one for own in stacks.values() for one in own)]
    _expect(len(orders) <= 1 and all(one is None or one.is_floating_point() for one in tensors), "equal orders, and floats")


def _split_measurements(columns: Mapping[str, Any]) -> list[SplitMeasurement | None]:
    # Those that are known by name: a state may have more.
    rows = {name: iter(columns["inputs"][name].unbind()) for name in INPUT_FIELDS}
    strengths = {
        kind: {name: iter(() if stacks[name] is None else stacks[name].unbind()) for name in STRENGTHS}
        for kind, stacks in columns["strength"].items()
    }
    _check_shapes(columns)
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
