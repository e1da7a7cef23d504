import math
from collections.abc import Sequence
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from lightning_interactions.functional.coalitions import coalition_orders
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.parameter_noise import (
    fit_second_phase,
    noisy_learning_effects,
    noisy_learning_strength,
    second_phase_measurements,
)
from lightning_interactions.functional.transforms import fold_single_players, reconstruct_values
from lightning_interactions.records import Interactions
from tests.helpers import oracles
from tests.helpers.games import integer_tables, permute_players, random_network_tables

PROPERTY = settings(max_examples=10, deadline=None, derandomize=True)

VARIANCES = st.floats(-12, 5).map(math.exp)


@pytest.fixture
def generator() -> Generator:
    return torch.Generator().manual_seed(0)


def random_interactions(num_players: int, num_inputs: int, generator: Generator) -> Interactions:
    """Draw all effects and offsets from a normal distribution."""
    effects = torch.randn(num_inputs, 2, 2**num_players, generator=generator, dtype=torch.float64)
    effects[:, :, 0] = 0
    offset = torch.randn(num_inputs, generator=generator, dtype=torch.float64)
    return fold_single_players(Interactions(effects, offset))


def network_interactions(num_players: int, num_inputs: int, generator: Generator) -> Interactions:
    return extract_interactions(random_network_tables(num_players, num_inputs, generator))


def with_effects(table: Tensor) -> Interactions:
    """Take the rows of a table for the AND and the OR effects of one input."""
    effects = table.clone()
    effects[:, 0] = 0
    return fold_single_players(Interactions(effects[None], table[:1, 0]))


def assert_same(actual: Interactions, expected: Interactions, tolerance: float) -> None:
    for field in fields(Interactions):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance, msg=lambda text, name=field.name: f"{name}: {text}")


def strength(interactions: Interactions) -> Tensor:
    """Add up ``|I|`` by order, mean over inputs, set by set."""
    by_order = torch.zeros(interactions.and_effects.shape[1].bit_length(), dtype=torch.float64)
    for s, effect in enumerate(interactions.effects.abs().sum(dim=1).mean(dim=0).tolist()):
        by_order[oracles.order(s)] += effect
    return by_order


# The regression


@pytest.mark.parametrize("num_players", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("variance", [1e-6, 1e-3, 0.1, 1.0, 30.0])
def test_learned_effects_equal_the_dense_solve(num_players: int, variance: float, generator: Generator) -> None:
    interactions = random_interactions(num_players, 3, generator)
    expected = oracles.noisy_learning_effects(interactions, variance)
    assert_same(noisy_learning_effects(interactions, variance), expected, 1e-12 * 2**num_players)


@pytest.mark.parametrize("num_players", [2, 5, 9, 12])
def test_without_noise_the_final_interactions_are_learned(num_players: int, generator: Generator) -> None:
    interactions = random_interactions(num_players, 2, generator)
    assert_same(noisy_learning_effects(interactions, 0.0), interactions, 1e-9)
    assert_same(noisy_learning_effects(interactions, 1e-30), interactions, 1e-9)


def test_under_endless_noise_nothing_is_learned(generator: Generator) -> None:
    interactions = random_interactions(6, 2, generator)
    nothing = noisy_learning_effects(interactions, math.inf)
    assert not nothing.effects.any()
    assert not nothing.offset.any()
    assert float(noisy_learning_effects(interactions, 1e9).effects.abs().max()) < 1e-6


@PROPERTY
@given(table=integer_tables(num_inputs=2), variance=VARIANCES, factor=st.integers(-5, 5))
def test_learning_is_linear(table: Tensor, variance: float, factor: int) -> None:
    learned = noisy_learning_effects(with_effects(table), variance)
    scaled = noisy_learning_effects(with_effects(factor * table), variance)
    assert_same(scaled, Interactions(factor * learned.effects, factor * learned.offset), 1e-8)


@PROPERTY
@given(table=integer_tables(num_inputs=2, min_players=3, max_players=3), variance=VARIANCES, order=st.permutations(range(3)))
def test_players_are_alike(table: Tensor, variance: float, order: Sequence[int]) -> None:
    learned = noisy_learning_effects(with_effects(table), variance).effects
    renamed = noisy_learning_effects(with_effects(permute_players(table, order)), variance).effects
    torch.testing.assert_close(renamed, permute_players(learned, order), rtol=0, atol=1e-8)


@PROPERTY
@given(table=integer_tables(num_inputs=1, min_players=2), variance=VARIANCES)
def test_ands_and_ors_are_learned_alike(table: Tensor, variance: float) -> None:
    # An OR game is an AND game of complemented coalitions: v(T) = c - w(N∖T).
    effects = table.clone()
    effects[:, coalition_orders(table.shape[1].bit_length() - 1) <= 1] = 0
    none = torch.zeros_like(effects)
    # The offset for which the complemented OR game has the same effect of the empty set.
    as_ors = noisy_learning_effects(
        Interactions(torch.stack([none, effects], dim=1), torch.zeros(1, dtype=torch.float64)), variance
    )
    as_ands = noisy_learning_effects(Interactions(torch.stack([effects, none], dim=1), -effects.sum(dim=1)), variance)
    large = coalition_orders(table.shape[1].bit_length() - 1) >= 2
    torch.testing.assert_close(as_ors.or_effects[:, large], as_ands.and_effects[:, large], rtol=0, atol=1e-8)
    torch.testing.assert_close(as_ors.and_effects, as_ands.and_effects * ~large, rtol=0, atol=1e-8)
    complemented = -reconstruct_values(as_ands).flip(-1)
    torch.testing.assert_close(reconstruct_values(as_ors), complemented, rtol=0, atol=1e-7)


def test_inputs_are_learned_apart(generator: Generator) -> None:
    interactions = random_interactions(5, 4, generator)
    whole = noisy_learning_effects(interactions, 0.1)
    for row in range(4):
        assert_same(noisy_learning_effects(interactions.select([row]), 0.1), whole.select([row]), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_the_input_left_alone(dtype: torch.dtype, generator: Generator) -> None:
    interactions = random_interactions(5, 2, generator).to(dtype)
    before = interactions.effects.clone()
    learned = noisy_learning_effects(interactions, 0.1)
    assert {getattr(learned, field.name).dtype for field in fields(Interactions)} == {dtype}
    assert torch.equal(interactions.effects, before)
    assert not learned.effects[:, :, 0].any()
    assert not learned.or_effects[:, coalition_orders(5) == 1].any()


@pytest.mark.parametrize("variance", [-0.1, math.nan])
def test_a_negative_variance_is_an_error(variance: float, generator: Generator) -> None:
    with pytest.raises(ValueError, match="variance"):
        noisy_learning_effects(random_interactions(3, 1, generator), variance)


# Strength by order


def test_strength_is_that_of_the_learned_effects(generator: Generator) -> None:
    interactions = random_interactions(6, 3, generator)
    variances = torch.tensor([0.0, 0.01, 1.0, math.inf])
    predicted = noisy_learning_strength(interactions, variances)
    for variance, row in zip(variances.tolist(), predicted, strict=True):
        torch.testing.assert_close(row, strength(noisy_learning_effects(interactions, variance)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_players", [5, 8])
def test_low_orders_are_learned_first(num_players: int, generator: Generator) -> None:
    # Independent effects of all sets, so that every order has strength of its own.
    interactions = random_interactions(num_players, 16, generator)
    variances = torch.logspace(-9, 3, 60, dtype=torch.float64)
    final = noisy_learning_strength(interactions, torch.zeros(1))[0, 1:]
    learned = noisy_learning_strength(interactions, variances)[:, 1:]
    # The largest noise at which half of an order's strength is there falls from order to order.
    half = [float(variances[learned[:, order] >= final[order] / 2].max()) for order in range(1, num_players)]
    assert half == sorted(half, reverse=True)
    assert half[0] > 10 * half[-1]
    mean_order = (learned * torch.arange(1, num_players + 1)).sum(dim=1) / learned.sum(dim=1)
    # Where next to nothing is learned, the mean order levels out.
    lowest = int(mean_order.argmin())
    assert (mean_order[: lowest + 1].diff() < 0).all()
    assert float(mean_order[lowest:].max()) < 1.05 * float(mean_order[lowest])
    assert float(mean_order[lowest]) < 0.7 * float(mean_order[0])


@PROPERTY
@given(table=integer_tables(num_inputs=2), variances=st.tuples(VARIANCES, VARIANCES))
def test_effects_shrink_with_the_noise(table: Tensor, variances: tuple[float, float]) -> None:
    # In the norm of the penalty every coordinate shrinks; the empty set counts, and folding would hide it.
    interactions = with_effects(table)
    none = torch.zeros_like(interactions.or_effects)
    weights = 2.0 ** coalition_orders(table.shape[1].bit_length() - 1)
    low, high = (
        noisy_learning_effects(
            Interactions(torch.stack([interactions.and_effects, none], dim=1), interactions.offset), variance
        )
        for variance in sorted(variances)
    )
    norms = [float((weights * effects.and_effects.square()).sum() + effects.offset.square().sum()) for effects in (low, high)]
    assert norms[1] <= norms[0] * (1 + 1e-9) + 1e-9


# The fit


@pytest.mark.parametrize(("num_players", "variance"), [(4, 1e-4), (4, 1e-2), (4, 0.3), (4, 2.0), (7, 0.1)])
def test_the_variance_behind_the_strength_is_found(num_players: int, variance: float, generator: Generator) -> None:
    final = network_interactions(num_players, 4, generator)
    fit = fit_second_phase(final, noisy_learning_strength(final, torch.tensor([variance], dtype=torch.float64)))
    assert fit.variance.item() == pytest.approx(variance, rel=1e-4)
    assert fit.r_squared.item() == pytest.approx(1, abs=1e-9)


def test_the_limits_are_found(generator: Generator) -> None:
    final = network_interactions(6, 4, generator)
    fit = fit_second_phase(final, torch.stack([strength(final), torch.zeros(7, dtype=torch.float64)]))
    assert fit.variance.tolist() == [0, math.inf]
    assert fit.r_squared[0].item() == pytest.approx(1)
    assert fit.r_squared[1].isnan()
    torch.testing.assert_close(fit.predicted[0], strength(final))
    assert not fit.predicted[1].any()


@pytest.mark.slow
def test_no_variance_on_a_fine_grid_is_better(generator: Generator) -> None:
    final = network_interactions(6, 4, generator)
    real = strength(final) * torch.rand(5, 7, generator=generator, dtype=torch.float64)
    fit = fit_second_phase(final, real)
    grid = noisy_learning_strength(final, torch.logspace(-12, 8, 500, dtype=torch.float64))
    for row, predicted in zip(real, fit.predicted, strict=True):
        error = (row - predicted).square().sum()
        assert error <= (grid - row).square().sum(dim=1).min() + 1e-12
    expected = 1 - (real - fit.predicted)[:, 1:].square().sum(dim=1) / (6 * real[:, 1:].var(dim=1, correction=0))
    torch.testing.assert_close(fit.r_squared, expected)


def test_the_fit_does_not_depend_on_the_unit(generator: Generator) -> None:
    final = network_interactions(5, 3, generator)
    real = strength(final) * torch.rand(3, 6, generator=generator, dtype=torch.float64)
    scaled = Interactions(1e4 * final.effects, 1e4 * final.offset)
    fit, in_other_units = fit_second_phase(final, real), fit_second_phase(scaled, 1e4 * real)
    torch.testing.assert_close(in_other_units.variance, fit.variance, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(in_other_units.r_squared, fit.r_squared)


def test_order_zero_is_ignored(generator: Generator) -> None:
    final = network_interactions(5, 3, generator)
    real = strength(final)[None] / 2
    offset = real.clone()
    offset[:, 0] = 100
    fit, other = fit_second_phase(final, real), fit_second_phase(final, offset)
    assert torch.equal(fit.variance, other.variance)
    assert not other.strength[:, 0].any()


def test_no_times_are_no_fits(generator: Generator) -> None:
    fit = fit_second_phase(network_interactions(4, 2, generator), torch.zeros(0, 5))
    assert fit.variance.shape == fit.r_squared.shape == (0,)
    assert fit.predicted.shape == fit.strength.shape == (0, 5)


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 6), (1, 3, 5)])
def test_another_number_of_orders_is_an_error(shape: tuple[int, ...], generator: Generator) -> None:
    with pytest.raises(ValueError, match="strength"):
        fit_second_phase(random_interactions(4, 2, generator), torch.ones(shape))


def test_numbers_that_are_not_finite_are_an_error(generator: Generator) -> None:
    final = random_interactions(4, 2, generator)
    broken = Interactions(final.effects, final.offset * math.nan)
    for interactions, real in ((final, torch.full((1, 5), math.inf)), (broken, torch.ones(1, 5))):
        with pytest.raises(ValueError, match="finite"):
            fit_second_phase(interactions, real)


# Which measurements


@pytest.mark.parametrize(
    ("mean_orders", "phases", "expected"),
    [
        ([4.0, 3.0, 2.0, 2.5, 3.0, 4.0], (), range(2, 5)),
        ([4.0, 3.0, 2.0, 2.5, 3.0, 4.0], (1, 1, 2, 2, 3, 3), range(2, 4)),
        ([4.0, 3.0, 2.0, 2.5, 3.0, 4.0], (1, 1, 2, 2, 2, 2), range(2, 5)),
        # The smallest mean order counts only up to the final interactions.
        ([4.0, 3.0, 3.5, 3.6, 2.0, 1.0], (1, 1, 2, 3, 3, 3), range(1, 3)),
        ([math.nan, 3.0, 2.0, 3.0], (), range(2, 3)),
        ([4.0, 3.0, 2.0], (), range(2, 2)),
        ([2.0], (), range(0, 0)),
    ],
)
def test_the_second_phase_runs_from_the_smallest_mean_order(
    mean_orders: list[float], phases: tuple[int, ...], expected: range
) -> None:
    picked = second_phase_measurements(mean_orders, phases)
    assert (picked.start, picked.stop) == (expected.start, expected.stop)


@pytest.mark.parametrize("mean_orders", [[], [math.nan, math.nan]])
def test_without_interactions_there_is_no_second_phase(mean_orders: list[float]) -> None:
    with pytest.raises(ValueError, match="measurement"):
        second_phase_measurements(mean_orders)


def test_each_measurement_has_a_phase() -> None:
    with pytest.raises(ValueError, match="phase"):
        second_phase_measurements([1.0, 2.0, 3.0], [1, 1])
