"""Intervals and pairs of the benchmark's tables."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report import Results, median_with_interval, rate_with_interval
from rules import Outcome, Stop


def test_a_median_lies_in_its_interval_which_narrows_with_more_runs() -> None:
    numbers = np.random.default_rng(0).normal(1.0, 1.0, 200)
    middle, low, high = median_with_interval(numbers)
    assert low < middle == float(np.median(numbers)) < high
    few = median_with_interval(numbers[:10])
    assert few[2] - few[1] > high - low
    assert median_with_interval([2.0])[0] == 2.0
    assert all(math.isnan(one) for one in [*median_with_interval([]), *median_with_interval([2.0])[1:]])


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.0, 1 - 0.025**0.05), (20, 0.025**0.05, 1.0)])
def test_a_rate_has_an_exact_interval(count: int, low: float, high: float) -> None:
    assert rate_with_interval(count, 20) == pytest.approx((count / 20, low, high))
    assert all(math.isnan(one) for one in rate_with_interval(0, 0))


def test_pairs_are_of_the_runs_that_both_rules_were_applied_to() -> None:
    one, two, three = (Outcome(Stop(1, 1), loss, 0.0, 1, 0, 1.0, 1.0) for loss in (0.1, 0.2, 0.3))
    results = Results([None] * 3, {}, {"ours": [one, None, two], "theirs": [three, one, two]})
    assert [regrets.tolist() for regrets in results.pairs("ours", "theirs")] == [[0.1, 0.2], [0.3, 0.2]]
    assert [regrets.tolist() for regrets in results.where([False, True, False]).pairs("ours", "theirs")] == [[], []]
