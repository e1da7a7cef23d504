"""Phases of training: which a run is in, the tests that they rest on, and where they begin in an offline segmentation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_interactions.records.measurement import TimePoint

__all__ = ["ChangePoint", "Phase", "PhaseTest", "phase_from_dict", "phase_to_dict", "time_from_list"]

NUMBERS = (1, 2, 3)

MOST_STEPS = 2**63

OVER_CONFIDENT = 0.2
"""So large a part of the expected test loss is worth a note."""

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
        possible: Whether any change could have been detected lately, had all probes agreed; if not, they are too few for what
            is left of ``α``.
    """

    phase: int
    onset: TimePoint
    p_value: float
    findings: Findings = field(default_factory=dict)
    possible: bool = True

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
        earliest: The onset may lie as early as this, by what the probes cost then (for phase 2, by their share); ``None`` in
            the first phase of a run.
        latest: It may lie as late as this.
        over_confidence: Part of the expected test loss at this measurement that one temperature for all outputs would take
            away, in [0, 1); NaN if no loss is known.
    """

    number: int
    onset: TimePoint
    detected: TimePoint
    confidence: float
    findings: Findings = field(default_factory=dict)
    tests: tuple[PhaseTest, ...] = ()
    earliest: TimePoint | None = None
    latest: TimePoint | None = None
    over_confidence: float = math.nan

    @property
    def reason(self) -> str:
        """Why it was detected, in words with the numbers."""
        if self.findings:
            return _in_words(self.findings)
        return "measurements begin here; simple interactions come first (a fine-tuned model may have learned them before)"

    @property
    def notes(self) -> dict[str, str]:
        """What else there is to know, in words: ``"over_confidence"`` that is no phase 3, ``"too_few_probes"`` for a test."""
        notes = {}
        if self.number != 3 and self.over_confidence >= OVER_CONFIDENT:
            notes["over_confidence"] = (
                f"the outputs are over-confident: one temperature for all would take {self.over_confidence:.0%} off the "
                "expected test loss; calibrate them after the training, this is no reason to stop"
            )
        hopeless = [f"phase {test.phase}" for test in self.tests if test.phase != self.number and not test.possible]
        if hopeless:
            notes["too_few_probes"] = (
                f"{' and '.join(hopeless)} cannot be detected any more, even if all probes agreed; take more probes, or a "
                "larger alpha"
            )
        return notes

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


def phase_to_dict(phase: Phase) -> dict[str, Any]:
    """Return a phase as dicts and lists of primitives."""
    return {
        "number": phase.number,
        "onset": [phase.onset.epoch, phase.onset.step],
        "detected": [phase.detected.epoch, phase.detected.step],
        "confidence": phase.confidence,
        "findings": dict(phase.findings),
        "interval": [None if time is None else [time.epoch, time.step] for time in (phase.earliest, phase.latest)],
        "over_confidence": phase.over_confidence,
        "tests": [
            [one.phase, one.onset.epoch, one.onset.step, one.p_value, dict(one.findings), one.possible] for one in phase.tests
        ],
    }


def phase_from_dict(state: Mapping[str, Any]) -> Phase:
    """Rebuild a phase from :func:`phase_to_dict`.

    Raises:
        ValueError: If it is no phase, or cannot be put into words.
        Exception: Of other kinds if it is broken in other ways.
    """
    earliest, latest = (None if time is None else time_from_list(time) for time in state["interval"])
    phase = Phase(
        number=state["number"],
        onset=time_from_list(state["onset"]),
        detected=time_from_list(state["detected"]),
        confidence=float(state["confidence"]),
        findings=_numbers(state["findings"]),
        earliest=earliest,
        latest=latest,
        over_confidence=float(state["over_confidence"]),
        tests=tuple(
            PhaseTest(one[0], time_from_list(one[1:3]), float(one[3]), _numbers(one[4]), bool(one[5])) for one in state["tests"]
        ),
    )
    if not {phase.number, *(test.phase for test in phase.tests)} <= set(NUMBERS):
        raise ValueError(f"expected a phase of {NUMBERS}, got {phase.number}")
    for findings in (phase.findings, *(test.findings for test in phase.tests)):
        if findings:  # One of them may be missing that the others call for.
            _in_words(findings)
    return phase


def time_from_list(state: Sequence[int]) -> TimePoint:
    """Rebuild a moment from its epoch and step.

    Raises:
        ValueError: If these are no two numbers.
    """
    epoch, step = state
    if not all(type(number) is int and 0 <= number < MOST_STEPS for number in (epoch, step)):
        raise ValueError(f"expected epoch and step, got {state!r:.100}")
    return TimePoint(epoch, step)


def _numbers(findings: Findings) -> Findings:
    return {str(name): float(number) for name, number in findings.items()}


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
        plain = findings["plain_loss_after"]
        if plain >= (1 + OVER_CONFIDENT) * findings["loss_after"]:
            words += f" at the best temperature, and from {findings['plain_loss_before']:.3f} to {plain:.3f} as it is"
    else:
        words += "no loss is known"
    if "excess_gap" in findings:
        words += f", the excess gap changed by {findings['excess_gap']:+.3f}"
    return words
