import dataclasses
import math

import pytest
import torch

from lightning_interactions import records
from lightning_interactions.records import (
    Estimate,
    ExplainedGrowth,
    Interactions,
    LabelIssues,
    Phase,
    PhaseTest,
    TimePoint,
)
from tests.helpers.histories import FALL, begun, history_from_strengths

RECORDS = [getattr(records, name) for name in records.__all__ if dataclasses.is_dataclass(getattr(records, name))]

LOSSES = {"loss_before": 0.4, "loss_after": 0.625, "plain_loss_before": 0.375, "plain_loss_after": 0.6875}
GAINS = {"generalizable": 0.25, "non_generalizable": 1.5, "more": 30.0, "probes": 32.0}


# Every record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_are_frozen(record: type) -> None:
    made = object.__new__(record)
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_a_record_is_documented(record: type) -> None:
    documented = record.__doc__ or ""
    assert [field.name for field in dataclasses.fields(record) if f"{field.name}: " not in documented] == []


def test_records_are_classes_beside_a_few_constants_and_functions() -> None:
    others = set(records.__all__) - {record.__name__ for record in RECORDS}
    assert others == {"EFFECT_TYPES", "PlotKind", "SIGNS", "fingerprints"}


# Interactions


def test_ands_come_before_ors_and_are_views() -> None:
    effects = torch.arange(24.0).reshape(3, 2, 4)
    interactions = Interactions(effects, torch.zeros(3))
    assert torch.equal(interactions.and_effects, effects[:, records.EFFECT_TYPES.index("and")])
    assert torch.equal(interactions.or_effects, effects[:, records.EFFECT_TYPES.index("or")])
    effects[0, 0, 1] = 9
    assert interactions.and_effects[0, 1] == 9
    assert len(interactions) == 3


def test_the_full_score_is_the_offset_and_all_effects() -> None:
    interactions = Interactions(torch.arange(8.0).reshape(1, 2, 4), torch.tensor([0.5]))
    assert interactions.full_score.tolist() == [28.5]


@pytest.mark.parametrize("rows", [[2, 0], torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_inputs_are_selected_by_index_or_mask(rows: list[int] | torch.Tensor) -> None:
    interactions = Interactions(torch.arange(24.0).reshape(3, 2, 4), torch.arange(3.0))
    selected = interactions.select(rows)
    places = [0, 2] if isinstance(rows, torch.Tensor) and rows.dtype == torch.bool else [2, 0]
    assert torch.equal(selected.effects, interactions.effects[places])
    assert selected.offset.tolist() == places


def test_interactions_are_converted_together() -> None:
    converted = Interactions(torch.zeros(3, 2, 4), torch.zeros(3)).to(torch.float64)
    assert converted.effects.dtype == converted.offset.dtype == torch.float64


def test_label_issues_are_ranked_by_the_explained_loss() -> None:
    found = LabelIssues(torch.rand(3), torch.rand(3), torch.tensor([0.5, math.nan, 3.0]))
    assert found.ranking.tolist() == [2, 0, 1]


# Measurements


def test_left_out_inputs_are_not_measured() -> None:
    g = torch.tensor([[1.0, 1, 1], [math.nan, 1, 1]])
    first, second = history_from_strengths(g, torch.ones(2, 3))
    assert first.training.measured.tolist() == [True, True, True]
    assert second.training.measured.tolist() == [False, True, True]


def test_labels_are_disputed_by_odds_of_e_to_one() -> None:
    raters = torch.tensor([-1.01, -0.99, math.nan])
    (measurement,) = history_from_strengths(torch.ones(1, 3), torch.ones(1, 3), rater_score=raters)
    assert measurement.training.disputed.tolist() == [True, False, False]


def test_splits_are_named() -> None:
    ones = torch.ones(1, 3)
    (without,), (with_held_out,) = history_from_strengths(ones, ones), history_from_strengths(ones, ones, ones[:, :2])
    assert list(without.splits) == ["training"]
    assert list(with_held_out.splits) == ["training", "held_out"]
    assert with_held_out.splits["held_out"] is with_held_out.held_out
    assert [len(split) for split in with_held_out.splits.values()] == [3, 2]


def test_a_condensed_split_keeps_the_mean_of_strength_by_order_and_all_else() -> None:
    g = torch.tensor([[1.0, 3, math.nan]])
    (measurement,) = history_from_strengths(g, torch.ones(1, 3))
    split = measurement.training
    condensed = split.condensed()
    assert (split.is_condensed, condensed.is_condensed) == (False, True)
    assert condensed.condensed() is condensed
    assert condensed.strength.generalizable.shape == (1, *split.strength.generalizable.shape[1:])
    assert condensed.strength.generalizable.sum().item() == pytest.approx(2)
    assert torch.equal(condensed.measured, split.measured)
    assert condensed.generalizable is split.generalizable


def test_time_points_are_ordered() -> None:
    assert TimePoint(1, 9) < TimePoint(2, 3) < TimePoint(2, 4)


def test_an_estimate_says_its_numbers() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"


def test_explained_growth_says_its_moments_and_numbers() -> None:
    estimates = [Estimate(number, number - 0.25, number + 0.25) for number in (1.0, 0.5, 0.75)]
    text = str(ExplainedGrowth(TimePoint(3, 30), TimePoint(9, 90), *estimates))
    assert "from epoch 3 to 9" in text
    assert all(str(estimate) in text for estimate in estimates)


# Phases


def test_a_phase_says_onset_detection_and_confidence() -> None:
    assert str(begun(3, 12, 0.98765, FALL)).startswith("phase 3 since epoch 12, confidence 0.9877: ")
    assert str(begun(1, 0, math.nan)).startswith("phase 1 since epoch 0: ")
    later = Phase(3, TimePoint(12, 120), TimePoint(15, 150), 0.98765, FALL)
    assert str(later).startswith("phase 3 since epoch 12, detected after epoch 15, confidence 0.9877: ")
    within = Phase(3, TimePoint(0, 120), TimePoint(0, 150), 0.98765, FALL)
    assert str(within).startswith("phase 3 since step 120, detected after step 150, confidence 0.9877: ")


@pytest.mark.parametrize(
    ("findings", "said", "unsaid"),
    [
        (FALL, ["0.75", "0.50", "30 of 32"], ["loss"]),
        (GAINS, ["+0.25", "+1.50", "30 of 32", "no loss is known"], ["gap", "test loss"]),
        ({**GAINS, **LOSSES}, ["test loss", "0.400", "0.625"], ["gap", "no loss", "temperature"]),
        ({**GAINS, **LOSSES, "plain_loss_after": 0.875}, ["0.400", "0.625", "temperature", "0.375", "0.875"], ["gap"]),
        ({**GAINS, **LOSSES, "excess_gap": -0.125}, ["excess gap", "-0.125"], ["no loss"]),
    ],
    ids=["share", "gains", "loss", "over-confidence", "gap"],
)
def test_findings_are_put_in_words_by_phases_and_tests_alike(
    findings: dict[str, float], said: list[str], unsaid: list[str]
) -> None:
    reason = begun(2, 4, 0.99, findings).reason
    assert all(part in reason for part in said)
    assert not any(part in reason for part in unsaid)
    assert PhaseTest(2, TimePoint(4, 40), 0.5, findings).reason == reason


@pytest.mark.parametrize(
    ("number", "over_confidence", "possible", "kinds"),
    [
        (1, 0.5, True, {"over_confidence"}),
        (2, 0.1, True, set()),
        (3, 0.5, True, set()),
        (1, math.nan, False, {"too_few_probes"}),
        (2, 0.3, False, {"over_confidence", "too_few_probes"}),
    ],
)
def test_notes_tell_over_confidence_that_is_no_phase_three_and_tests_without_hope(
    number: int, over_confidence: float, possible: bool, kinds: set[str]
) -> None:
    tests = (PhaseTest(3, TimePoint(1, 10), math.inf, possible=possible),)
    phase = dataclasses.replace(begun(number, 4, 0.99), over_confidence=over_confidence, tests=tests)
    assert phase.notes.keys() == kinds
    assert all(phase.notes.values())


def test_without_findings_there_are_words_too() -> None:
    assert begun(1, 0, math.nan).reason
    assert PhaseTest(2, TimePoint(0, 0), math.inf).reason
