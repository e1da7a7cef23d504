"""The state of a run in Markdown: which phase, since when, how sure, why, and what to do."""

import html
import math
import re
from collections.abc import Sequence

from lightning_interactions.analysis import share_near_chance
from lightning_interactions.records import History, Phase, PhaseTest, TimePoint
from lightning_interactions.reporting.words import explain_phase

__all__ = ["phase_text", "settings_text"]


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
    near_chance = share_near_chance(history.measurements)
    words = explain_phase(phase, near_chance)
    doubt = [] if near_chance is None else [("Note: near chance", escaped(near_chance.note))]
    comes_first = near_chance is not None and near_chance.never_above
    rows = [
        *(doubt if comes_first else []),
        ("**Phase**", f"**{escaped(words.name)}**. {escaped(words.meaning)}"),
        ("Since", escaped(words.since)),
        ("How sure", escaped(words.certainty) or "the run begins with it, no test is needed"),
        ("Why", escaped(words.reason)),
        ("What to do", escaped(words.advice)),
        *([] if comes_first else doubt),
        *((f"Note: {kind.replace('_', ' ')}", escaped(note)) for kind, note in phase.notes.items()),
        *(("Speaks for phase " + str(test.phase), _test(test.p_value, test.reason)) for test in _others(phase)),
    ]
    return _table(("", f"after {_moment(history.measurements[-1].time)}"), rows)


def settings_text(history: History) -> str:
    """Say in Markdown how the measurements of a history were made."""
    return _table(("Setting", "Value"), [(escaped(name), escaped(str(value))) for name, value in history.settings.items()])


def escaped(text: str) -> str:
    """Escape text for Markdown in HTML, and for a cell of a table."""
    said = re.sub(r"([\\`*_{}\[\]()#+!|-])", r"\\\1", html.escape(" ".join(text.split())))
    # What not all renderers know as something special would keep its backslash.
    return said.replace("~", "&#126;").replace("$", "&#36;")


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
