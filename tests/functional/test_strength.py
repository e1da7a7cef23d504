from dataclasses import fields

import pytest
import torch
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_orders
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.strength import (
    cancellation,
    mean_order,
    salient_mask,
    strength_by_order,
    total_strength,
)
from lightning_interactions.records import Interactions, OrderStrength
from tests.helpers import oracles
from tests.helpers.games import random_network_tables, random_tables

PARTS = tuple(field.name for field in fields(OrderStrength))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def interactions(generator: torch.Generator) -> Interactions:
    """Random effects of 3 inputs and 5 players, with about a third of them zero."""
    effects = torch.randn(3, 2, 32, generator=generator, dtype=torch.float64)
    effects[torch.rand(effects.shape, generator=generator) < 0.3] = 0
    effects[:, :, 0] = 0
    return Interactions(effects, torch.zeros(3, dtype=torch.float64))


def hand_made(and_effects: list[float], or_effects: list[float]) -> Interactions:
    """One input with given effects in float64."""
    effects = torch.tensor([[and_effects, or_effects]], dtype=torch.float64)
    return Interactions(effects, torch.zeros(1, dtype=torch.float64))


def with_nan_row(interactions: Interactions, row: int) -> Interactions:
    """Replace one input's effects by NaN."""
    broken = interactions.effects.clone()
    broken[row] = torch.nan
    return Interactions(broken, interactions.offset)


def all_parts(strength: OrderStrength) -> Tensor:
    """Stack the three parts on a first axis."""
    return torch.stack([getattr(strength, part) for part in PARTS])


def test_maximum_is_taken_over_and_and_or_together() -> None:
    salient = salient_mask(hand_made([0, 1.0, -0.06, 0.04], [0, 0, 0, 0.9]), threshold=0.05)
    assert salient.tolist() == [[[False, True, True, False], [False, False, False, True]]]
    overshadowed = salient_mask(hand_made([0, 1.0, -0.06, 0.04], [0, 0, 0, -2.0]), threshold=0.05)
    assert overshadowed.tolist() == [[[False, True, False, False], [False, False, False, True]]]


def test_maximum_is_taken_for_each_input_apart(interactions: Interactions) -> None:
    factors = torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)[:, None, None]
    scaled = Interactions(factors * interactions.effects, interactions.offset)
    assert torch.equal(salient_mask(scaled), salient_mask(interactions))


def test_an_effect_at_the_threshold_is_not_salient() -> None:
    salient = salient_mask(hand_made([0, 1.0, 0.25, -0.25], [0, 0, 0, 0.26]), threshold=0.25)
    assert salient.tolist() == [[[False, True, False, False], [False, False, False, True]]]


def test_threshold_zero_keeps_all_but_zeros(interactions: Interactions) -> None:
    assert torch.equal(salient_mask(interactions, threshold=0.0), interactions.effects != 0)


def test_no_effects_means_nothing_salient() -> None:
    assert not salient_mask(hand_made([0] * 4, [0] * 4)).any()


@pytest.mark.parametrize("threshold", [-0.01, 1.0, 5.0, float("nan")])
def test_threshold_outside_the_unit_interval_is_an_error(interactions: Interactions, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        salient_mask(interactions, threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5])
def test_strength_equals_the_subset_loop(interactions: Interactions, threshold: float, generator: torch.Generator) -> None:
    weights = torch.rand(3, 2, 32, generator=generator, dtype=torch.float64)
    fast = strength_by_order(interactions, salient_mask(interactions, threshold), weights)
    slow = oracles.strength_by_order(interactions, weights, threshold)
    torch.testing.assert_close(all_parts(fast), all_parts(slow), rtol=1e-12, atol=1e-12)


def test_salient_strength_equals_the_subset_loop(interactions: Interactions) -> None:
    strength = strength_by_order(interactions, salient_mask(interactions), torch.ones_like(interactions.effects))
    expected = oracles.salient_strength_by_order(interactions, threshold=0.05)
    torch.testing.assert_close(strength.generalizable, expected, rtol=1e-12, atol=1e-12)
    assert not strength.non_generalizable.any()


def test_axes_are_inputs_types_signs_and_orders() -> None:
    interactions = hand_made([0, 1, 2, -4, 0, 0, 0, 8], [0, 0, 0, 16, 0, -32, 0, -64])
    everything = torch.ones(1, 2, 8, dtype=torch.bool)
    strength = strength_by_order(interactions, everything, everything.double()).generalizable
    assert strength.tolist() == [[[[0, 3, 0, 8], [0, 0, 4, 0]], [[0, 0, 16, 0], [0, 0, 32, 64]]]]


@pytest.mark.parametrize("num_players", [1, 2, 6])
def test_order_axis_runs_from_zero_to_all_players(num_players: int) -> None:
    effects = torch.ones(1, 2, 2**num_players)
    effects[..., 0] = 0
    interactions = Interactions(effects, torch.zeros(1))
    strength = strength_by_order(interactions, salient_mask(interactions), torch.ones_like(interactions.effects)).generalizable
    counts = torch.bincount(coalition_orders(num_players)).float()
    counts[0] = 0
    assert strength.shape == (1, 2, 2, num_players + 1)
    assert torch.equal(strength[0, :, 0], counts.expand(2, -1))
    assert not strength[0, :, 1].any()


def test_parts_add_up_to_all_strength(generator: torch.Generator) -> None:
    interactions = extract_interactions(random_network_tables(6, 4, generator))
    weights = torch.rand(interactions.effects.shape, generator=generator, dtype=torch.float64)
    strength = strength_by_order(interactions, salient_mask(interactions), weights)
    expected = interactions.effects.abs().sum(dim=(1, 2))
    torch.testing.assert_close(total_strength(all_parts(strength).sum(dim=0)), expected, rtol=1e-12, atol=0)
    assert (all_parts(strength) >= 0).all()


def test_weights_only_divide_the_salient_interactions(interactions: Interactions) -> None:
    salient = salient_mask(interactions, threshold=0.3)
    none, all_of_it, half = [
        strength_by_order(interactions, salient, torch.full_like(interactions.effects, weight)) for weight in (0, 1, 0.5)
    ]
    assert not none.generalizable.any()
    assert torch.equal(none.non_generalizable, all_of_it.generalizable)
    torch.testing.assert_close(half.generalizable, half.non_generalizable)
    assert torch.equal(none.non_salient, all_of_it.non_salient)
    assert none.non_salient.any()


def test_an_input_of_nan_is_a_row_of_nan_and_no_other(interactions: Interactions) -> None:
    broken = with_nan_row(interactions, row=1)
    weights = torch.ones_like(interactions.effects)
    salient = salient_mask(broken)
    assert not salient[1].any()
    parts = all_parts(strength_by_order(broken, salient, weights))
    expected = all_parts(strength_by_order(interactions, salient_mask(interactions), weights))
    assert parts[2, 1].isnan().all()
    assert torch.equal(parts[:, [0, 2]], expected[:, [0, 2]])


def test_an_input_of_nan_is_nan_in_every_part(interactions: Interactions) -> None:
    broken = with_nan_row(interactions, row=1)
    strength = strength_by_order(broken, salient_mask(broken), torch.ones_like(interactions.effects))
    for part in PARTS:
        assert getattr(strength, part)[1].isnan().all(), part
    assert total_strength(strength.generalizable).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(interactions: Interactions, dtype: torch.dtype) -> None:
    cast = interactions.to(dtype)
    strength = strength_by_order(cast, salient_mask(cast), torch.ones_like(cast.effects))
    assert all_parts(strength).dtype == dtype


def test_total_strength_keeps_inputs_apart() -> None:
    strength = torch.tensor([1.0, 10.0])[:, None, None, None].expand(2, 2, 2, 4)
    assert total_strength(strength).tolist() == [16.0, 160.0]


def test_mean_order_is_weighted_by_strength_over_all_inputs() -> None:
    strength = torch.zeros(2, 2, 2, 4)
    strength[0, 0, 0, 1] = 6.0
    strength[1, 1, 1, 3] = 2.0
    assert mean_order(strength).item() == pytest.approx((6 * 1 + 2 * 3) / 8)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_mean_order_of_one_order_is_that_order(order: int) -> None:
    strength = torch.zeros(3, 2, 2, 6)
    strength[..., order] = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert mean_order(strength).item() == pytest.approx(order)


def test_mean_order_without_strength_is_nan() -> None:
    assert mean_order(torch.zeros(2, 2, 2, 4)).isnan()


def test_cancellation_is_a_ratio_of_means() -> None:
    strength, empty, full = torch.tensor([4.0, 8.0]), torch.tensor([1.0, 0.0]), torch.tensor([3.0, -2.0])
    assert cancellation(strength, empty, full).item() == pytest.approx(6.0 / 2.0)


def test_cancellation_is_at_least_one_for_effects_that_match(generator: torch.Generator) -> None:
    values = random_tables(5, 4, generator)
    strength = extract_interactions(values).effects.abs().sum(dim=(1, 2))
    for rows in ([0], [1], [0, 1, 2, 3]):
        assert cancellation(strength[rows], values[rows, 0], values[rows, -1]) >= 1


def test_nothing_cancels_in_a_sum_of_positive_effects() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 5.0]], dtype=torch.float64)
    strength = extract_interactions(values).effects.abs().sum(dim=(1, 2))
    assert cancellation(strength, values[:, 0], values[:, -1]).item() == pytest.approx(1.0)


def test_cancellation_without_a_score_is_infinite_or_nan() -> None:
    zero = torch.zeros(2)
    assert cancellation(torch.ones(2), zero, zero).isinf()
    assert cancellation(zero, zero, zero).isnan()
