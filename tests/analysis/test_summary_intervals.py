import math
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor

from lightning_interactions.analysis import SplitSummary, Summary, summarise
from lightning_interactions.functional.strength import total_strength
from lightning_interactions.records import Estimate, Measurement, SplitMeasurement, TimePoint
from tests.helpers.histories import held_out_split, split_measurement
from tests.helpers.resamples import drawn_rows, interval_by_hand, random_columns

ESTIMATES = (
    "loss",
    "expected_test_loss",
    "generalizable",
    "non_generalizable",
    "non_salient",
    "share",
    "share_chance",
    "share_above_chance",
    "cancellation",
    "mean_order",
)
STEPS = count()


def random_split(num_inputs: int = 12, seed: int = 0) -> SplitMeasurement:
    g, u, excess, expected = random_columns(4, num_inputs, seed)
    raters = torch.linspace(-3, 9, num_inputs, dtype=torch.float64)
    return split_measurement(g, u, excess, chance=0.2, expected_test_loss=expected, rater_score=raters)


def summary_of(training: SplitMeasurement, held_out: SplitMeasurement | None = None) -> Summary:
    return summarise(Measurement(TimePoint(0, next(STEPS)), 0.5, training, held_out))


def intervals_of(split: SplitMeasurement) -> SplitSummary:
    return summary_of(split).training


def ends_of(estimate: Estimate) -> list[float]:
    return [estimate.low, estimate.high]


# The numbers of a split


@pytest.mark.slow
def test_intervals_of_a_split_are_those_of_a_loop_over_resamples() -> None:
    split = random_split()
    (rows,) = drawn_rows(999, 12)
    intervals = intervals_of(split)
    found: dict[str, list[Tensor]] = {name: [] for name in ESTIMATES}
    by_order = []
    for own in rows:
        parts = [part[own] for part in vars(split.strength).values()]
        g, u, rest = (total_strength(part) for part in parts)
        salient = (g + u).sum()
        share, chance = g.sum() / salient, split.chance_generalizable[own].sum() / salient
        trusted = own[~split.disputed[own]]
        found["loss"].append(split.loss[own].mean())
        found["expected_test_loss"].append(split.expected_test_loss[trusted].mean())
        found["generalizable"].append(g.mean())
        found["non_generalizable"].append(u.mean())
        found["non_salient"].append(rest.mean())
        found["share"].append(share)
        found["share_chance"].append(chance)
        found["share_above_chance"].append((share - chance) / (1 - chance))
        found["cancellation"].append((g + u + rest).sum() / (split.full_score - split.empty_score)[own].abs().sum())
        found["mean_order"].append(((parts[0] + parts[1]).sum(dim=(0, 1, 2)) * torch.arange(4)).sum() / salient)
        by_order.append(torch.stack([part.sum(dim=(1, 2)).mean(dim=0) for part in parts]))
    assert split.disputed.sum() == 2
    for name, values in found.items():
        assert ends_of(getattr(intervals, name)) == pytest.approx(interval_by_hand(torch.stack(values), 12)), name
    for kind, name in enumerate(("generalizable", "non_generalizable", "non_salient")):
        for order in range(4):
            expected = interval_by_hand(torch.stack([strength[kind, order] for strength in by_order]), 12)
            assert getattr(intervals.by_order, name)[1:, order].tolist() == pytest.approx(expected)


def test_intervals_hold_plain_numbers_and_no_more_memory_than_they_need() -> None:
    intervals = intervals_of(random_split())
    assert all(type(end) is float for name in ESTIMATES for end in ends_of(getattr(intervals, name)))
    for strength in vars(intervals.by_order).values():
        assert strength.shape == (3, 4)
        assert strength.untyped_storage().nbytes() <= 3 * 3 * 4 * 8


def test_left_out_inputs_change_no_interval() -> None:
    g, u, excess = random_columns(3, 8)
    expected = intervals_of(split_measurement(g[:6], u[:6], excess[:6]))
    g[6:] = torch.nan
    intervals = intervals_of(split_measurement(g, u, excess))
    assert all(getattr(intervals, name) == getattr(expected, name) for name in ESTIMATES)
    assert torch.equal(intervals.by_order.generalizable, expected.by_order.generalizable)
    assert (intervals.left_out, expected.left_out) == (2, 0)


@pytest.mark.parametrize("num_inputs", [1, 3])
def test_nothing_measured_or_one_input_has_nan_intervals(num_inputs: int) -> None:
    numbers = torch.ones(num_inputs) if num_inputs == 1 else torch.full((num_inputs,), torch.nan)
    split = split_measurement(numbers, numbers, numbers)
    summary = summary_of(split, split)
    assert all(math.isnan(end) for name in ESTIMATES for end in ends_of(getattr(summary.training, name)))
    assert summary.training.by_order.generalizable[1:].isnan().all()
    gaps = (summary.loss_gap, summary.remaining_gap, summary.excess_gap)
    assert all(math.isnan(end) for gap in gaps for end in ends_of(gap))
    assert math.isnan(summary.training.loss.value) is (num_inputs == 3)


def test_without_salient_strength_only_ratios_to_it_have_no_interval() -> None:
    intervals = intervals_of(split_measurement(torch.zeros(4), torch.zeros(4), torch.rand(4)))
    assert all(map(math.isnan, ends_of(intervals.share) + ends_of(intervals.mean_order)))
    assert intervals.loss.low < intervals.loss.high
    assert intervals.by_order.generalizable.eq(0).all()


def test_without_a_loss_only_losses_have_no_interval() -> None:
    split = random_split()
    unknown = torch.full_like(split.loss, torch.nan)
    intervals = intervals_of(replace(split, loss=unknown, explained_loss=unknown, expected_test_loss=unknown))
    assert all(map(math.isnan, ends_of(intervals.loss) + ends_of(intervals.expected_test_loss)))
    assert intervals.share == intervals_of(split).share


def test_where_all_labels_are_disputed_no_test_loss_is_expected() -> None:
    split = random_split()
    disputed = intervals_of(replace(split, rater_score=torch.full_like(split.loss, -2.0)))
    assert math.isnan(disputed.expected_test_loss.value)
    assert disputed.loss == intervals_of(split).loss


def test_a_condensed_split_has_all_intervals_but_those_by_order() -> None:
    split = random_split()
    whole, condensed = intervals_of(split), intervals_of(split.condensed())
    for name in ESTIMATES:
        one, other = getattr(whole, name), getattr(condensed, name)
        assert other.value == pytest.approx(one.value), name
        assert ends_of(other) == pytest.approx([math.nan] * 2 if name == "mean_order" else ends_of(one), nan_ok=True), name
    for name, strength in vars(condensed.by_order).items():
        torch.testing.assert_close(strength[0], getattr(whole.by_order, name)[0])
        assert strength[1:].isnan().all()


# Gaps


def test_intervals_of_the_gaps_are_those_of_a_loop_over_resamples() -> None:
    training, held_out = random_split(6), random_split(9, seed=1)
    own, other = drawn_rows(999, 6, 9)
    gaps = [
        getattr(held_out, name)[other].mean(dim=1) - getattr(training, name)[own].mean(dim=1)
        for name in ("loss", "explained_loss")
    ]
    summary = summary_of(training, held_out)
    estimates = (summary.loss_gap, summary.remaining_gap, summary.excess_gap)
    for estimate, values in zip(estimates, (*gaps, gaps[0] - gaps[1]), strict=True):
        assert ends_of(estimate) == pytest.approx(interval_by_hand(values, 6))


def test_the_excess_gap_of_constant_excess_losses_is_known_for_sure() -> None:
    training = split_measurement(torch.ones(4), torch.ones(4), torch.full((4,), 0.1))
    excess_gap = summary_of(training, held_out_split(torch.full((5,), 0.4))).excess_gap
    assert [excess_gap.value, *ends_of(excess_gap)] == pytest.approx([0.3] * 3)
