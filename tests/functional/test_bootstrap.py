import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Generator, Tensor

from lightning_interactions.functional.bootstrap import bootstrap_intervals
from tests.helpers.resamples import drawn_rows, interval_by_hand, random_columns


@pytest.mark.parametrize("num_inputs", [2, 7, 32])
def test_intervals_of_a_ratio_are_those_of_a_loop_over_resamples(num_inputs: int) -> None:
    columns = random_columns(2, num_inputs)
    (rows,) = drawn_rows(999, num_inputs)
    ratios = torch.stack([columns[0, own].sum() / columns[1, own].sum() for own in rows])
    ends = bootstrap_intervals(lambda means: means[:1] / means[1:], columns)
    assert ends.shape == (2, 1)
    assert ends[:, 0].tolist() == pytest.approx(interval_by_hand(ratios, num_inputs), rel=1e-9)


def test_samples_of_different_sizes_are_resampled_independently() -> None:
    first, second = random_columns(1, 5), random_columns(1, 9, seed=1)
    rows = drawn_rows(999, 5, 9)
    differences = second[0, rows[1]].mean(dim=1) - first[0, rows[0]].mean(dim=1)
    ends = bootstrap_intervals(lambda one, other: other - one, first, second)
    # The smaller of the samples decides how far out the percentiles are.
    assert ends[:, 0].tolist() == pytest.approx(interval_by_hand(differences, 5), rel=1e-9)


def test_several_statistics_have_the_intervals_that_each_has_alone() -> None:
    columns = random_columns(3, 10)
    together = bootstrap_intervals(lambda means: torch.stack([means[0], means[1] / means[2]]), columns)
    alone = [bootstrap_intervals(lambda means: means[:1], columns), bootstrap_intervals(lambda m: m[1:2] / m[2:], columns)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(num_inputs=st.integers(2, 40), seed=st.integers(0, 1000), factor=st.floats(0.01, 100))
def test_ends_lie_around_the_mean_within_the_data_and_scale_with_it(num_inputs: int, seed: int, factor: float) -> None:
    columns = random_columns(1, num_inputs, seed)
    low, high = bootstrap_intervals(lambda means: means, columns)[:, 0].tolist()
    assert columns.min() - 1e-9 <= low <= columns.mean() <= high <= columns.max() + 1e-9
    scaled = bootstrap_intervals(lambda means: means, factor * columns)[:, 0].tolist()
    assert scaled == pytest.approx([factor * low, factor * high])


def test_intervals_are_the_same_on_every_call_and_touch_no_global_state() -> None:
    columns, before = random_columns(1, 8), (torch.random.get_rng_state(), np.random.get_state()[1].copy())
    first, second = (bootstrap_intervals(lambda means: means, columns) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("sizes", [(0,), (1,), (1, 5), (5, 1), (0, 0)])
def test_fewer_than_two_inputs_have_no_interval(sizes: tuple[int, ...]) -> None:
    ends = bootstrap_intervals(lambda *means: torch.cat([means[0], means[0] + means[-1]]), *(torch.ones(1, n) for n in sizes))
    assert ends.shape == (2, 2)
    assert ends.isnan().all()


def test_inputs_that_are_all_the_same_have_an_interval_of_one_point() -> None:
    assert bootstrap_intervals(lambda means: means, torch.full((1, 6), 0.3))[:, 0].tolist() == pytest.approx([0.3, 0.3])


def test_only_statistics_that_are_not_finite_are_nan() -> None:
    columns = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [math.nan, 1.0, 1.0]])
    ends = bootstrap_intervals(
        lambda m: torch.stack([m[0], m[0] / m[1], m[1] / m[1], m[0] / m[2], m[3], (m[0] - 9) / 0]), columns
    )
    assert ends.isnan().tolist() == [[False, True, True, True, True, True]] * 2


@pytest.mark.parametrize("spread", [0.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_19_of_20_intervals_hold_the_share_of_the_population(spread: float) -> None:
    runs, num_inputs = 200, 32
    generator = Generator().manual_seed(3)

    def draw(shape: tuple[int, ...]) -> Tensor:
        """G and U of inputs whose size and share are log-normal."""
        size, *logs = spread * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        return torch.stack([(size + log).exp() for log in logs])

    g, u = draw((1_000_000,)).sum(dim=1).tolist()
    held = 0
    for columns in draw((runs, num_inputs)).unbind(dim=1):
        low, high = bootstrap_intervals(lambda means: (means[0] / means.sum(dim=0))[None], columns)[:, 0].tolist()
        held += low <= g / (g + u) <= high
    # In 3,000 draws 0.94 of the milder and 0.92 of the wilder population.
    assert stats.binom.ppf(0.001, runs, 0.92) <= held <= stats.binom.ppf(0.999, runs, 0.96)
