import html
import math
import re
import string
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown import markdown

from lightning_interactions.records import History, Phase, PhaseTest, TimePoint
from lightning_interactions.reporting import phase_text, settings_text
from lightning_interactions.reporting.markdown import escaped
from tests.helpers.histories import FALL, history_from_strengths, with_phases
from tests.reporting.test_figures import some_measurements

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)


def cells(text: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ", 1)] for line in text.splitlines()[2:]]
    return {row[0].strip("*"): row[1] for row in rows}


@pytest.mark.parametrize("numbers", [[1], [1, 1, 2, 2], [1, 1, 2, 2, 3, 3]])
def test_it_says_phase_onset_certainty_reason_and_what_to_do(numbers: list[int]) -> None:
    history = with_phases(some_measurements(len(numbers)), numbers)
    phase, found = history.phases[-1], cells(phase_text(history))
    assert list(found)[:5] == ["Phase", "Since", "How sure", "Why", "What to do"]
    assert found["Phase"].startswith(f"**Phase {phase.number}")
    assert f"epoch {phase.onset.epoch}" in found["Since"]
    assert ("1.0%" in found["How sure"]) == (phase.number != 1)
    assert found["Why"] == escaped(phase.reason)
    assert ("PhaseEarlyStopping" in found["What to do"]) == (phase.number == 3)


def test_detection_interval_tests_and_notes_are_there() -> None:
    test = PhaseTest(3, TimePoint(4, 40), 0.25, FALL)
    phase = Phase(
        2, TimePoint(2, 20), TimePoint(5, 50), 0.97, FALL, (test,), TimePoint(1, 10), TimePoint(3, 30), over_confidence=0.5
    )
    history = with_phases(some_measurements(6), [1] * 6)
    found = cells(phase_text(replace(history, phases=(*history.phases[:-1], phase))))
    for moment in ("epoch 1", "epoch 2", "epoch 3", "epoch 5"):
        assert moment in found["Since"]
    assert "0.25" in found["Speaks for phase 3"]
    assert "50%" in found["Note: over confidence"]


@pytest.mark.parametrize(("chance", "said"), [(0.1, False), (0.9, True)])
def test_a_share_at_its_chance_level_is_a_note(chance: float, said: bool) -> None:
    ones = torch.ones(2, 6) + 0.1 * torch.arange(6)
    history = with_phases(history_from_strengths(ones, ones, chance=chance), [1, 1])
    found = cells(phase_text(history))
    assert ("Note: near chance" in found) == said
    assert not said or "0.90" in found["Note: near chance"]
    assert not said or next(iter(found)) == "Note: near chance"


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        phase_text(History())


def test_settings_are_rows_that_hold_no_markup_of_their_own() -> None:
    history = History(settings={"players": "<script>alert(1)</script> | x", "chance_level": True, "alpha": math.nan})
    text = settings_text(history)
    assert len(text.splitlines()) == 5
    assert "<script>" not in text
    assert list(cells(text)) == ["players", r"chance\_level", "alpha"]


@PROPERTY
@given(text=st.text(max_size=60))
def test_escaped_text_is_one_cell_without_markup(text: str) -> None:
    found = escaped(text)
    assert "\n" not in found
    assert "\r" not in found
    assert "<" not in found
    assert ">" not in found
    for sign in "|`*_[":
        assert found.count(sign) == found.count(f"\\{sign}")
    plain = html.unescape("".join(sign for place, sign in enumerate(found) if not escapes(found, place)))
    assert plain == " ".join(text.split())


@PROPERTY
@given(text=st.text(string.ascii_letters + string.punctuation, min_size=1, max_size=60))
def test_the_renderer_of_tensorboard_shows_the_text_as_it_was(text: str) -> None:
    page = markdown(f"| a |\n|---|\n| x{escaped(text)}x |", extensions=["tables"])
    (cell,) = re.findall("<td>(.*)</td>", page)
    assert html.unescape(cell) == f"x{text}x"


def escapes(text: str, place: int) -> bool:
    """Whether a backslash stands for an escape: one in a row of which an even number stands before it."""
    before = len(text[:place]) - len(text[:place].rstrip("\\"))
    return text[place] == "\\" and before % 2 == 0
