import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from lightning_interactions.functional.bootstrap import gap_intervals, split_intervals
from lightning_interactions.functional.strength import total_strength
from lightning_interactions.records import Interval, SplitMeasurement
from tests.helpers.histories import held_out_split, split_measurement


def random_columns(num_columns: int, num_inputs: int, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return torch.randn(num_columns, num_inputs, generator=generator, dtype=torch.float64).exp()


def random_split(num_inputs: int = 12, seed: int = 0) -> SplitMeasurement:
    g, u, excess = random_columns(3, num_inputs, seed)
    return split_measurement(g, u, excess, chance=0.2)


def by_hand(values: Tensor, num_inputs: int) -> tuple[float, float]:
    """Percentiles of the values of a statistic in all resamples, as far out as Student's t wants them."""
    quantile = stats.t.ppf(0.975, num_inputs - 1) * math.sqrt(num_inputs / (num_inputs - 1))
    tail = stats.norm.cdf(-quantile)
    low, high = np.quantile(values.numpy(), [tail, 1 - tail])
    return float(low), float(high)


def drawn_rows(num_resamples: int, *sizes: int) -> list[Tensor]:
    """The resamples of each sample, drawn as SciPy draws them: ``[resamples, inputs]`` row numbers."""
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.integers(0, size, (num_resamples, size))) for size in sizes]


# The numbers of a split


def test_intervals_of_a_split_are_those_of_a_loop_over_resamples() -> None:
    split = random_split()
    (rows,) = drawn_rows(999, 12)
    intervals = split_intervals(split)
    found: dict[str, list[Tensor]] = {
        name: [] for name in ("loss", "share", "share_chance", "share_above_chance", "mean_order")
    }
    by_order = []
    for own in rows:
        g, u = split.strength.generalizable[own], split.strength.non_generalizable[own]
        salient = total_strength(g + u).sum()
        share, chance = total_strength(g).sum() / salient, split.chance_generalizable[own].sum() / salient
        found["loss"].append(split.loss[own].mean())
        found["share"].append(share)
        found["share_chance"].append(chance)
        found["share_above_chance"].append((share - chance) / (1 - chance))
        found["mean_order"].append(((g + u).sum(dim=(0, 1, 2)) * torch.arange(4)).sum() / salient)
        by_order.append(torch.stack([g.sum(dim=(1, 2)).mean(dim=0), u.sum(dim=(1, 2)).mean(dim=0)]))
    for name, values in found.items():
        interval = getattr(intervals, name)
        assert (interval.low, interval.high) == pytest.approx(by_hand(torch.stack(values), 12)), name
    for kind, name in enumerate(("generalizable", "non_generalizable")):
        for order in range(4):
            expected = by_hand(torch.stack([strength[kind, order] for strength in by_order]), 12)
            assert getattr(intervals, name)[:, order].tolist() == pytest.approx(expected)


def test_intervals_hold_plain_numbers() -> None:
    intervals = split_intervals(random_split())
    assert all(type(end) is float for end in (intervals.share.low, intervals.share.high, intervals.loss.low))
    assert intervals.generalizable.shape == intervals.non_generalizable.shape == (2, 4)
    assert intervals.generalizable.untyped_storage().nbytes() == 2 * 4 * 8


def test_left_out_inputs_change_no_interval() -> None:
    g, u, excess = random_columns(3, 8)
    expected = split_intervals(split_measurement(g[:6], u[:6], excess[:6]))
    g[6:] = torch.nan
    intervals = split_intervals(split_measurement(g, u, excess))
    assert intervals.share == expected.share
    assert intervals.loss == expected.loss
    assert torch.equal(intervals.generalizable, expected.generalizable)


def ends_of(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


@pytest.mark.parametrize("num_inputs", [1, 3])
def test_nothing_measured_or_one_input_has_nan_intervals(num_inputs: int) -> None:
    numbers = torch.ones(num_inputs) if num_inputs == 1 else torch.full((num_inputs,), torch.nan)
    split = split_measurement(numbers, numbers, numbers)
    intervals = split_intervals(split)
    assert all(math.isnan(end) for name in ("loss", "share", "mean_order") for end in ends_of(getattr(intervals, name)))
    assert intervals.generalizable.isnan().all()
    assert all(math.isnan(end) for interval in gap_intervals(split, split) for end in ends_of(interval))


def test_without_salient_strength_only_the_share_has_no_interval() -> None:
    intervals = split_intervals(split_measurement(torch.zeros(4), torch.zeros(4), torch.rand(4)))
    assert all(map(math.isnan, ends_of(intervals.share) + ends_of(intervals.mean_order)))
    assert intervals.loss.low < intervals.loss.high
    assert intervals.generalizable.eq(0).all()


def test_without_a_loss_only_the_loss_has_no_interval() -> None:
    split = random_split()
    unknown = torch.full_like(split.loss, torch.nan)
    intervals = split_intervals(replace(split, loss=unknown, explained_loss=unknown))
    assert all(map(math.isnan, ends_of(intervals.loss)))
    assert intervals.share == split_intervals(split).share


# Gaps


def test_intervals_of_the_gaps_are_those_of_a_loop_over_resamples() -> None:
    training, held_out = random_split(6), random_split(9, seed=1)
    own, other = drawn_rows(999, 6, 9)
    gaps = [
        getattr(held_out, name)[other].mean(dim=1) - getattr(training, name)[own].mean(dim=1)
        for name in ("loss", "explained_loss")
    ]
    for interval, values in zip(gap_intervals(training, held_out), (*gaps, gaps[0] - gaps[1]), strict=True):
        assert ends_of(interval) == pytest.approx(by_hand(values, 6))


def test_the_excess_gap_of_constant_excess_losses_is_known_for_sure() -> None:
    training = split_measurement(torch.ones(4), torch.ones(4), torch.full((4,), 0.1))
    excess_gap = gap_intervals(training, held_out_split(torch.full((5,), 0.4)))[2]
    assert ends_of(excess_gap) == pytest.approx([0.3, 0.3])
