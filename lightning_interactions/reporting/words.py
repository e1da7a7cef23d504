"""The state of a run in words: which phase, since when, how sure, why, and what to do."""

import html
import math
import re
from collections.abc import Sequence

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Phase, PhaseTest, TimePoint

__all__ = ["phase_text", "settings_text"]

NAMES = {
    1: "simple interactions are learned",
    2: "more complex interactions are learned, most of which generalize",
    3: "mainly non-generalizable interactions are learned: the network memorises",
}

TO_DO = {
    1: "Train on.",
    2: "Train on: what is learned now mostly holds on new data. Phase 3 may follow.",
    3: "Unless validation still improves, stop and go back to the weights of {onset}: "
    "`PhaseEarlyStopping(phase=3, restore_best=True)` does both. More data, "
    "cleaner labels (`monitor.label_issues`), augmentation or a smaller network may put phase 3 off.",
}


def phase_text(history: History) -> str:
    """Say in Markdown which phase a run is in, since when, how sure that is, why, and what to do.

    Args:
        history: At least one measurement.

    Returns:
        A table and a few lines, for TensorBoard's page "Text". Whatever comes from outside is escaped.

    Raises:
        ValueError: If nothing was measured.
    """
    if not history:
        raise ValueError("phase_text: expected a history of at least one measurement, got an empty one")
    phase = history.phases[-1]
    rows = [
        ("**Phase**", f"**{phase.number}**: {NAMES[phase.number]}"),
        ("Since", _since(phase)),
        ("How sure", _how_sure(phase)),
        ("Why", escaped(phase.reason)),
        ("What to do", TO_DO[phase.number].format(onset=_moment(phase.onset))),
        *_near_chance(history),
        *((f"Note: {kind.replace('_', ' ')}", escaped(note)) for kind, note in phase.notes.items()),
        *(("Speaks for phase " + str(test.phase), _test(test.p_value, test.reason)) for test in _others(phase)),
    ]
    return _table(("", f"after {_moment(history.measurements[-1].time)}"), rows)


def settings_text(history: History) -> str:
    """Say in Markdown how the measurements of a history were made."""
    return _table(("Setting", "Value"), [(escaped(name), escaped(str(value))) for name, value in history.settings.items()])


def escaped(text: str) -> str:
    """Escape text for Markdown in HTML, and for a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", html.escape(" ".join(text.split())))


def _near_chance(history: History) -> list[tuple[str, str]]:
    """Warn where the share is not above its chance level, which makes all that is said of phases worth little."""
    training = summarise(history.measurements[-1]).training
    if not training.share.low <= training.share_chance.value:
        return []
    words = (
        f"the share ({training.share.value:.2f}, from {training.share.low:.2f}) is not above its chance level "
        f"({training.share_chance.value:.2f}): the evidence sees nothing that generalizes here, so do not trust the phases; "
        "choose other evidence, or other players"
    )
    return [("Note: near chance", escaped(words))]


def _since(phase: Phase) -> str:
    if phase.detected == phase.onset:
        return _moment(phase.onset)
    words = f"{_moment(phase.onset)}, detected after {_moment(phase.detected)}"
    if phase.earliest is not None and phase.latest is not None and phase.earliest != phase.latest:
        words += f"; the onset may lie from {_moment(phase.earliest)} to {_moment(phase.latest)}"
    return words


def _how_sure(phase: Phase) -> str:
    if math.isnan(phase.confidence):
        return "the run begins with it, no test is needed"
    return f"confidence {phase.confidence:.4f} (one minus the p-value, adjusted for all looks), over the draw of probes"


def _others(phase: Phase) -> list[PhaseTest]:
    return [test for test in phase.tests if test.phase != phase.number]


def _test(p_value: float, reason: str) -> str:
    significance = "no" if math.isinf(p_value) else f"adjusted p = {p_value:.3g}"
    return f"{significance}: {escaped(reason)}"


def _moment(time: TimePoint) -> str:
    return f"epoch {time.epoch} (step {time.step})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
