"""What a phase means and what to do about it, in words for somebody who has not read the documentation."""

import math
from dataclasses import dataclass

from lightning_interactions.analysis import NearChance, share_near_chance
from lightning_interactions.records import History, Phase, TimePoint

__all__ = ["PhaseInWords", "explain_detections", "explain_phase"]

NAMES = {1: "simple interactions first", 2: "learning what generalizes", 3: "memorising"}

MEANINGS = {
    1: "The network gets rid of the noise of its initialisation and learns simple interactions.",
    2: "The network learns more and more complex interactions, most of which hold on new data.",
    3: "The network now mainly learns interactions that hold on its training data alone: it memorises.",
}

ADVICE = {
    1: "Go on training.",
    2: "Go on training; what is learned is still worth it.",
    3: (
        "Unless validation still improves, stop, and take the weights of the onset, as "
        "PhaseEarlyStopping(phase=3, restore_best=True) does. To get further, look for wrong labels (monitor.label_issues), "
        "take more data, or regularise more."
    ),
}

DOUBTED = {
    "name": "not to be trusted",
    "meaning": "The evidence has seen nothing that generalizes in this run so far, so its phases say nothing of the network.",
    "advice": (
        "Go by the validation loss. Look whether the twins or reference models have learned anything (a warning after their "
        "training says if not); train them longer, take more data, other evidence, such as HeldOutReferences(), or other "
        "players."
    ),
}
"""What is said instead of phases that rest on a share that was never above its chance level."""


@dataclass(frozen=True)
class PhaseInWords:
    """A phase in words; each part is one or more sentences.

    Attributes:
        name: What it is called, such as ``"Phase 3: memorising"``.
        meaning: What the network does in it.
        since: When it began, and when that was detected.
        certainty: How sure that is; empty in the first phase of a run, which needs no evidence.
        reason: Which numbers say so.
        advice: What to do.
    """

    name: str
    meaning: str
    since: str
    certainty: str
    reason: str
    advice: str

    def __str__(self) -> str:
        """Say all of it in one paragraph."""
        parts = (
            f"{self.name}.",
            self.meaning,
            self.since,
            self.certainty,
            f"Why: {self.reason}.",
            f"What to do: {self.advice}",
        )
        return " ".join(part for part in parts if part)


def explain_phase(phase: Phase, near_chance: NearChance | None = None) -> PhaseInWords:
    """Say what a phase means, since when it lasts, how sure that is, why, and what to do.

    Args:
        phase: As detected at some measurement.
        near_chance: What is known then of a share at its chance level: if it never was above, no advice is drawn from phases 2
            and 3. ``None`` if it is above.
    """
    doubted = near_chance is not None and near_chance.never_above and phase.number > 1
    return PhaseInWords(
        name=f"Phase {phase.number}: {DOUBTED['name'] if doubted else NAMES[phase.number]}",
        meaning=DOUBTED["meaning"] if doubted else MEANINGS[phase.number],
        since=_since(phase),
        certainty=_certainty(phase.confidence),
        reason=phase.reason,
        advice=DOUBTED["advice"] if doubted else ADVICE[phase.number],
    )


def explain_detections(history: History) -> list[PhaseInWords]:
    """Explain the first phase of a run and each that was detected after another one, from what was known then.

    Args:
        history: All measurements and phases.
    """
    numbers = [phase.number for phase in history.phases]
    places = [place for place, number in enumerate(numbers) if not place or number != numbers[place - 1]]
    return [explain_phase(history.phases[place], share_near_chance(history.measurements[: place + 1])) for place in places]


def _since(phase: Phase) -> str:
    if math.isnan(phase.confidence):
        return f"The run is in it since its first measurement, {_moment(phase.onset, phase.onset)}."
    said = f"It began at {_moment(phase.onset, phase.detected)}"
    if phase.earliest is not None and phase.latest is not None and phase.earliest != phase.latest:
        said += f" (it may be anywhere from {_place(phase.earliest, phase.latest)} to {_place(phase.latest, phase.earliest)})"
    return f"{said} and was detected at {_moment(phase.detected, phase.onset)}."


def _certainty(confidence: float) -> str:
    if math.isnan(confidence):
        return ""
    error = 1 - confidence
    part = "fewer than 0.1%" if error < 0.001 else f"about {error:.1%}"
    return f"Without such a change, {part} of all runs would show as much evidence of it."


def _moment(time: TimePoint, other: TimePoint) -> str:
    return f"the end of {_place(time, other)}" if time.epoch != other.epoch or time == other else _place(time, other)


def _place(time: TimePoint, other: TimePoint) -> str:
    """Say a moment by its epoch, or by its step where epochs do not tell it from another one."""
    return f"step {time.step}" if time.epoch == other.epoch and time != other else f"epoch {time.epoch}"
