import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from lightning_interactions.analysis.phases import sign_flips
from lightning_interactions.analysis.phases.sign_flips import FLIPPED_RUNS, JointSignTest, spent

LEVELS = (0.01, 0.05, 0.2)


def walk(moments: int = 20, probes: int = 16, seed: int = 0, drift: float = 0.0) -> Tensor:
    steps = torch.randn(moments, probes, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return (steps + drift).cumsum(dim=0)


def statistic_of(path: Tensor, onset: int, look: int) -> float:
    signs = [(after - before) for before, after in zip(path[onset].tolist(), path[look].tolist(), strict=True)]
    known = [(sign > 0) - (sign < 0) for sign in signs if not math.isnan(sign)]
    return sum(known) / math.sqrt(max(1, len(known)))


def slow_boundaries(path: Tensor, level: float, two_sided: bool) -> list[float]:
    """Run by run and pair by pair, by the definition: as few runs may have crossed as are allowed up to each look."""
    flips = sign_flips._flips(path.shape[1])
    crossed, found = set[int](), [math.inf]
    for look in range(1, len(path)):
        largest = []
        for flip in flips:
            all_onsets = [statistic_of(path * flip, onset, look) for onset in range(look)]
            largest.append(max(abs(one) if two_sided else one for one in all_onsets))
        left = int(level * spent(look) * len(flips)) - len(crossed)
        boundary = math.inf
        if left > 0:
            # From the highest value down, as long as no more would cross than may.
            for value in sorted(set(largest), reverse=True):
                more = {run for run, one in enumerate(largest) if one > value} - crossed
                if len(more) > left:
                    break
                boundary = value
        crossed |= {run for run, one in enumerate(largest) if one > boundary}
        found.append(boundary)
    return found


@pytest.mark.parametrize("two_sided", [False, True])
def test_boundaries_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch, two_sided: bool) -> None:
    monkeypatch.setattr(sign_flips, "FLIPPED_RUNS", 64)
    sign_flips._flips.cache_clear()
    path = walk(moments=7, probes=6)
    path[2, 1] = path[4, 3] = torch.nan
    path[5, 2] = path[4, 2]
    found = JointSignTest(path, [0.3, 0.6], two_sided=two_sided).boundaries
    for place, level in enumerate((0.3, 0.6)):
        assert found[:, place].tolist() == pytest.approx(slow_boundaries(path, level, two_sided))
    sign_flips._flips.cache_clear()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 19))
@pytest.mark.slow
def test_boundaries_of_a_prefix_are_the_prefix_of_the_boundaries(seed: int, length: int) -> None:
    path = walk(seed=seed)
    whole = JointSignTest(path, LEVELS, two_sided=True).boundaries
    sign_flips._remembered.clear()
    assert np.array_equal(JointSignTest(path[:length], LEVELS, two_sided=True).boundaries, whole[:length])
    assert np.array_equal(JointSignTest(path, LEVELS, two_sided=True).boundaries, whole)


def test_the_part_that_is_spent_grows_to_one_and_a_tenth_is_left_for_each_doubling() -> None:
    parts = [spent(look) for look in range(3000)]
    assert parts[0] == 0
    assert parts == sorted(parts)
    assert 0.9 < parts[-1] < 1
    assert all(0.05 < spent(2 * look) - spent(look) < 0.15 for look in (4, 8, 16, 32, 64, 128, 256))


def test_no_more_flipped_runs_cross_than_may() -> None:
    for seed in range(5):
        path = walk(seed=seed)
        JointSignTest(path, LEVELS, two_sided=False)
        within = next(reversed(sign_flips._remembered.values())).within
        for level, inside in zip(LEVELS, within, strict=True):
            assert int((~inside).sum()) <= level * spent(19) * FLIPPED_RUNS


@pytest.mark.slow
def test_an_ordinary_boundary_at_every_look_is_crossed_by_many_more() -> None:
    ordinary, joint = 0, 0
    for seed in range(60):
        path = walk(seed=seed, moments=25, probes=25)
        test = JointSignTest(path, [0.05], two_sided=False)
        pairs = [(test.statistic(onset, look), look) for look in range(1, 25) for onset in range(look)]
        ordinary += any(statistic > 1.645 for statistic, _ in pairs)
        joint += any(bool(test.crossed(statistic, look)[0]) for statistic, look in pairs)
    assert ordinary > 45
    assert joint <= 7  # 0.99 quantile of the binomial distribution at 0.05


@pytest.mark.parametrize("probes", [16, 32])
def test_a_drift_is_found_from_its_onset(probes: int) -> None:
    path = torch.cat([walk(15, probes, seed=1), walk(10, probes, seed=2, drift=1.0)])
    path[15:] += path[14]
    test = JointSignTest(path, [0.05], two_sided=True)
    assert not any(test.crossed(abs(test.statistic(onset, look)), look)[0] for look in range(15) for onset in range(look))
    assert any(test.crossed(test.statistic(14, look), look)[0] for look in range(15, 25))


@pytest.mark.parametrize(("probes", "possible"), [(1, False), (3, False), (16, True), (32, True)])
def test_too_few_probes_can_show_nothing(probes: int, possible: bool) -> None:
    test = JointSignTest(walk(probes=probes), [0.05], two_sided=True)
    assert bool(test.can_be_crossed[-1, 0]) is possible


def test_of_nothing_there_are_no_boundaries() -> None:
    assert JointSignTest(walk()[:0], LEVELS, two_sided=True).boundaries.shape == (0, 3)
    nothing = torch.full((5, 3), torch.nan, dtype=torch.float64)
    test = JointSignTest(nothing, LEVELS, two_sided=True)
    assert test.statistic(0, 4) == 0
    assert not test.can_be_crossed.any()
