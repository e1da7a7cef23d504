import math

import pytest
import torch

from lightning_interactions.analysis import NearChance
from lightning_interactions.records import Estimate, Phase, TimePoint
from lightning_interactions.reporting import explain_detections, explain_phase
from tests.helpers.histories import history_from_strengths, with_phases


def phase(number: int, onset: tuple[int, int], detected: tuple[int, int], confidence: float, **more: TimePoint) -> Phase:
    return Phase(number, TimePoint(*onset), TimePoint(*detected), confidence, **more)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_phase_has_a_meaning_and_advice_of_its_own(number: int) -> None:
    words = explain_phase(phase(number, (4, 40), (6, 60), 0.99))
    others = [explain_phase(phase(other, (4, 40), (6, 60), 0.99)) for other in {1, 2, 3} - {number}]
    assert words.name.startswith(f"Phase {number}")
    assert all(words.meaning != other.meaning and words.advice != other.advice for other in others)
    assert all(part in str(words) for part in vars(words).values())


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("until", [None, TimePoint(2, 20)])
def test_no_advice_is_drawn_from_a_share_that_was_never_above_chance(number: int, until: TimePoint | None) -> None:
    share = Estimate(0.1, 0.0, 0.2)
    detected = phase(number, (4, 40), (6, 60), 0.99)
    plain, near = explain_phase(detected), explain_phase(detected, NearChance(share, share, until))
    withheld = until is None and number > 1
    assert (near.advice != plain.advice) == (near.meaning != plain.meaning) == (near.name != plain.name) == withheld
    assert (near.since, near.certainty, near.reason) == (plain.since, plain.certainty, plain.reason)


def test_detections_are_explained_by_what_was_known_then() -> None:
    # The share is above its chance level from the fourth measurement on.
    g = torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])[:, None] + 0.01 * torch.arange(6)
    history = with_phases(history_from_strengths(g, torch.ones(6, 6), chance=0.6), [1, 1, 2, 2, 3, 3])
    first, second, third = explain_detections(history)
    assert [first.name[:7], second.name[:7], third.name[:7]] == ["Phase 1", "Phase 2", "Phase 3"]
    doubted = [words != explain_phase(own) for words, own in zip((first, second, third), history.detections, strict=True)]
    assert doubted == [False, True, False]


def test_moments_are_epochs_where_these_tell_them_apart_else_steps() -> None:
    by_epoch = explain_phase(phase(3, (4, 40), (6, 60), 0.99)).since
    by_step = explain_phase(phase(3, (1, 140), (1, 160), 0.99)).since
    assert "epoch 4" in by_epoch
    assert "epoch 6" in by_epoch
    assert "step 140" in by_step
    assert "step 160" in by_step


def test_an_interval_of_the_onset_is_said_only_if_there_is_one() -> None:
    ends = {"earliest": TimePoint(2, 20), "latest": TimePoint(5, 50)}
    said = explain_phase(phase(3, (4, 40), (6, 60), 0.99, **ends)).since
    assert "epoch 2" in said
    assert "epoch 5" in said
    same = dict.fromkeys(ends, TimePoint(4, 40))
    assert explain_phase(phase(3, (4, 40), (6, 60), 0.99, **same)) == explain_phase(phase(3, (4, 40), (6, 60), 0.99))


@pytest.mark.parametrize(("confidence", "said"), [(0.95, "5.0%"), (0.9999, "0.1%"), (1.0, "0.1%")])
def test_the_error_is_said(confidence: float, said: str) -> None:
    assert said in explain_phase(phase(2, (4, 40), (6, 60), confidence)).certainty


def test_the_first_phase_needs_no_evidence() -> None:
    words = explain_phase(phase(1, (0, 0), (0, 0), math.nan))
    assert words.certainty == ""
    assert "epoch 0" in words.since
    assert "nan" not in str(words)
