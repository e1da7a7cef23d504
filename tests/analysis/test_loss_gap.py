import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from lightning_interactions.analysis.loss_gap import explained_growth
from lightning_interactions.analysis.summary import summarise
from lightning_interactions.records import Measurement
from tests.helpers.histories import history_from_strengths

NUM_INPUTS, NUM_HELD_OUT = 12, 9


def run(
    held_out_excess: Tensor, shares: list[float] | None = None, training_excess: Tensor | None = None, remaining: float = 0.0
) -> tuple[Measurement, ...]:
    """A run with given excess losses; the gap that remains without them grows by ``remaining`` at each step."""
    times = len(held_out_excess)
    share = torch.tensor([0.5] * times if shares is None else shares, dtype=torch.float64)[:, None].expand(-1, NUM_INPUTS)
    measurements = history_from_strengths(share, 1 - share, held_out_excess, training_excess=training_excess)
    grown = []
    for time, measurement in enumerate(measurements):
        held_out = measurement.held_out
        assert held_out is not None
        more = remaining * time
        held_out = replace(held_out, loss=held_out.loss + more, explained_loss=held_out.explained_loss + more)
        grown.append(replace(measurement, held_out=held_out))
    return tuple(grown)


def noisy(levels: list[float], num_inputs: int, noise: float = 0.1, seed: int = 0) -> Tensor:
    errors = torch.randn(len(levels), num_inputs, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(levels, dtype=torch.float64)[:, None] + noise * errors


def test_growth_and_share_by_hand() -> None:
    training = torch.tensor([0.0, 0.1], dtype=torch.float64)[:, None].expand(2, NUM_INPUTS)
    held_out = torch.tensor([0.2, 0.9], dtype=torch.float64)[:, None].expand(2, NUM_HELD_OUT)
    growth = explained_growth(run(held_out, training_excess=training, remaining=0.4))
    assert growth.excess_gap.value == pytest.approx(0.7 - 0.1)
    assert growth.loss_gap.value == pytest.approx(0.7 - 0.1 + 0.4)
    assert growth.share.value == pytest.approx(0.6)
    # Every input is like every other.
    assert (growth.share.low, growth.share.high) == pytest.approx((0.6, 0.6))
    assert (growth.begin.epoch, growth.end.epoch) == (0, 1)


def test_it_is_the_growth_of_the_gaps() -> None:
    measurements = run(noisy([0.0, 0.3, 0.8], NUM_HELD_OUT), training_excess=noisy([0.0] * 3, NUM_INPUTS, seed=1))
    growth, gaps = explained_growth(measurements, begin=1), [summarise(one) for one in measurements[1:]]
    assert growth.loss_gap.value == pytest.approx(gaps[1].loss_gap.value - gaps[0].loss_gap.value)
    assert growth.excess_gap.value == pytest.approx(gaps[1].excess_gap.value - gaps[0].excess_gap.value)


def test_the_intervals_are_those_of_a_loop_over_paired_resamples() -> None:
    before, after = run(noisy([0.0, 0.8], NUM_HELD_OUT), training_excess=noisy([0.0, 0.1], NUM_INPUTS, seed=1), remaining=0.3)
    growth = explained_growth([before, after])
    assert before.held_out is not None
    assert after.held_out is not None
    random = np.random.default_rng(0)
    own, other = (torch.from_numpy(random.integers(0, size, (999, size))) for size in (NUM_INPUTS, NUM_HELD_OUT))

    def gap_growth(name: str) -> Tensor:
        """The same inputs at both moments."""
        held_out = (getattr(after.held_out, name) - getattr(before.held_out, name))[other].mean(dim=1)
        return held_out - (getattr(after.training, name) - getattr(before.training, name))[own].mean(dim=1)

    loss = gap_growth("loss")
    excess = loss - gap_growth("explained_loss")
    tail = stats.norm.cdf(-stats.t.ppf(0.975, NUM_HELD_OUT - 1) * math.sqrt(NUM_HELD_OUT / (NUM_HELD_OUT - 1)))
    for interval, values in (
        (growth.loss_gap, loss),
        (growth.excess_gap, excess),
        (growth.share, excess / loss),
    ):
        expected = np.quantile(values.numpy(), [tail, 1 - tail])
        assert (interval.low, interval.high) == pytest.approx(tuple(expected))


def test_pairing_over_time_takes_out_what_inputs_differ_by() -> None:
    level = 5 * torch.rand(NUM_HELD_OUT, generator=Generator().manual_seed(2), dtype=torch.float64)
    held_out = torch.stack([level, level + 0.5])
    growth = explained_growth(run(held_out))
    assert (growth.excess_gap.low, growth.excess_gap.high) == pytest.approx((0.5, 0.5))


def test_it_begins_at_the_maximum_of_the_share_and_ends_at_the_last_measurement() -> None:
    held_out = torch.arange(5, dtype=torch.float64)[:, None].expand(5, NUM_HELD_OUT)
    measurements = run(held_out, shares=[0.2, 0.6, 0.9, 0.5, 0.4])
    growth = explained_growth(measurements)
    assert (growth.begin.epoch, growth.end.epoch) == (2, 4)
    assert growth.loss_gap.value == pytest.approx(2)
    chosen = explained_growth(measurements, begin=0, end=1)
    assert (chosen.begin.epoch, chosen.end.epoch, chosen.loss_gap.value) == (0, 1, pytest.approx(1))


def test_measurements_without_held_out_probes_are_no_beginning() -> None:
    measurements = run(noisy([0.0, 0.0, 1.0], NUM_HELD_OUT), shares=[0.9, 0.7, 0.5])
    without = replace(measurements[0], held_out=None)
    assert explained_growth([without, *measurements[1:]]).begin.epoch == 1


def test_a_growth_that_is_not_significant_leaves_the_share_open() -> None:
    growth = explained_growth(run(noisy([0.0, 0.02], NUM_HELD_OUT, noise=0.2)))
    assert growth.loss_gap.low < 0 < growth.loss_gap.high
    assert (growth.share.low, growth.share.high) == (-math.inf, math.inf)
    assert math.isfinite(growth.share.value)


def test_a_run_whose_share_peaks_last_has_no_growth() -> None:
    growth = explained_growth(run(noisy([0.0, 1.0], NUM_HELD_OUT), shares=[0.1, 0.2]))
    assert growth.loss_gap.value == 0
    assert math.isnan(growth.share.value)
    assert math.isnan(growth.share.low)


def test_inputs_left_out_at_one_moment_count_at_neither() -> None:
    held_out = noisy([0.0, 1.0], NUM_HELD_OUT)
    expected = explained_growth(run(held_out[:, 2:]))
    held_out[0, 0], held_out[1, 1] = torch.nan, torch.nan
    growth = explained_growth(run(held_out))
    assert growth.loss_gap.value == pytest.approx(expected.loss_gap.value)
    assert growth.loss_gap == expected.loss_gap


def test_an_unknown_loss_gives_nan() -> None:
    before, after = run(noisy([0.0, 1.0], NUM_HELD_OUT))
    assert after.held_out is not None
    unknown = torch.full((NUM_HELD_OUT,), torch.nan, dtype=torch.float64)
    growth = explained_growth([before, replace(after, held_out=replace(after.held_out, loss=unknown, explained_loss=unknown))])
    assert math.isnan(growth.loss_gap.value)
    assert math.isnan(growth.share.low)


def test_it_says_itself_with_its_numbers() -> None:
    held_out = torch.tensor([0.0, 0.5], dtype=torch.float64)[:, None].expand(2, NUM_HELD_OUT)
    text = str(explained_growth(run(held_out)))
    assert text.count("0.500 (0.500 to 0.500)") == 2
    assert "1.000 (1.000 to 1.000)" in text


def test_a_run_without_held_out_probes_is_refused() -> None:
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match="expected measurements on held-out probes, got none"):
        explained_growth(history_from_strengths(ones, ones))
    with pytest.raises(ValueError, match="expected measurements on held-out probes, got none"):
        explained_growth([])


def test_different_probes_are_refused() -> None:
    measurements = [run(noisy([0.0], 4))[0], run(noisy([0.0], 5))[0]]
    with pytest.raises(ValueError, match=r"same training and held-out probes, got those of epochs 0 and 0; choose others"):
        explained_growth(measurements)
