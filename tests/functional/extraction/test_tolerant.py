from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.extraction.reconstruction import Reconstruction
from lightning_interactions.functional.transforms import matching_error, reconstruct_values
from lightning_interactions.records import Interactions
from tests.helpers import oracles
from tests.helpers.games import (
    integer_tables,
    permute_players,
    planted_game,
    random_network_tables,
    random_tables,
    salient_jaccard,
)

PROPERTY = settings(max_examples=5, deadline=None, derandomize=True)

Tables = Callable[[int, int, torch.Generator], Tensor]

TABLES = pytest.mark.parametrize("tables", [random_tables, random_network_tables])

ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}
"""In units of each input's value range."""


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def strength(interactions: Interactions) -> Tensor:
    return interactions.effects.double().abs().sum(dim=(1, 2))


def assert_within_tolerance(interactions: Interactions, values: Tensor, noise_tolerance: float) -> None:
    """Assert that no coalition is missed by more than allowed, and the empty and the full one not at all."""
    missed = (reconstruct_values(interactions) - values).abs()
    rounding = ROUNDING[values.dtype] * (values.amax(dim=1) - values.amin(dim=1))
    assert (missed.amax(dim=1) <= noise_tolerance * (values[:, -1] - values[:, 0]).abs() + rounding).all()
    assert (missed[:, -1] <= rounding).all()
    assert torch.equal(interactions.offset, values[:, 0])


def assert_same_effects(actual: Tensor, expected: Tensor, bound: float) -> None:
    largest = expected.abs().amax(dim=(1, 2))
    assert ((actual - expected).abs().amax(dim=(1, 2)) <= bound * largest).all()


# The algebra


@pytest.mark.parametrize("num_players", [1, 2, 3, 6, 7])
def test_reconstruction_agrees_with_the_subset_loop(num_players: int, generator: torch.Generator) -> None:
    effects = torch.randn(2, 2, 2**num_players, generator=generator, dtype=torch.float64)
    effects[..., 0] = 0
    reconstruction = Reconstruction.like(effects)
    values = reconstruction.values(effects)
    # The map counts OR effects where all their players are masked, with a minus: a constant away from universal matching.
    offset = values[:, 0]
    expected = oracles.reconstruct_values(Interactions(effects.transpose(0, 1), offset))
    torch.testing.assert_close(values, expected)
    multipliers = torch.randn(2, 2**num_players, generator=generator, dtype=torch.float64)
    products = (reconstruction.pull(multipliers) * effects).sum(dim=(0, 2))
    torch.testing.assert_close(products, (multipliers * values).sum(dim=1))


@pytest.mark.parametrize("num_players", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("shift", [0.0, 1e-3, 10.0])
def test_the_shifted_normal_matrix_is_inverted(num_players: int, shift: float, generator: torch.Generator) -> None:
    residual = torch.randn(3, 2**num_players, generator=generator, dtype=torch.float64)
    shifts = shift * torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    reconstruction = Reconstruction.like(residual)
    solution = reconstruction.solve(residual, shifts)
    back = reconstruction.values(reconstruction.pull(solution)) + shifts * solution
    torch.testing.assert_close(back, residual, rtol=0, atol=1e-8)


# How sparse it is


def test_the_linear_program_gets_sparser_by_the_noise_that_is_tolerated() -> None:
    # One AND of two players and a smaller effect of one of them, which the tolerance covers.
    values = torch.tensor([0.0, 0.05, 0.0, 1.05], dtype=torch.float64)
    assert oracles.sparsest_l1_optimum(values) == pytest.approx(1.05)
    noisy = torch.tensor([0.0, 0.05, -0.05, 1.0], dtype=torch.float64)
    assert oracles.sparsest_l1_optimum(noisy) > 1.01
    assert oracles.sparsest_l1_optimum(noisy, 0.1) == pytest.approx(1.0)


@pytest.mark.slow
@TABLES
@pytest.mark.parametrize(
    ("num_players", "num_inputs"), [(2, 8), (3, 8), (4, 4), (5, 3), pytest.param(7, 2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("noise_tolerance", [0.02, 0.05])
def test_strength_is_within_two_percent_of_the_linear_program(
    tables: Tables, num_players: int, num_inputs: int, noise_tolerance: float, generator: torch.Generator
) -> None:
    values = tables(num_players, num_inputs, generator)
    interactions = extract_interactions(values, noise_tolerance=noise_tolerance, tolerance=1e-4)
    assert_within_tolerance(interactions, values, noise_tolerance)
    optimum = torch.tensor([oracles.sparsest_l1_optimum(row, noise_tolerance) for row in values], dtype=torch.float64)
    assert (strength(interactions) <= 1.02 * optimum).all()
    assert (strength(interactions) >= (1 - 1e-5) * optimum).all()


@pytest.mark.slow
def test_planted_effects_come_back_from_noise_within_the_tolerance() -> None:
    game = planted_game(6, 3, 3, 0.0, torch.Generator().manual_seed(1))
    gap = (game.values[:, -1:] - game.values[:, :1]).abs()
    noise = 0.02 * gap * (2 * torch.rand(game.values.shape, generator=torch.Generator().manual_seed(0)).double() - 1)
    noise[:, [0, -1]] = 0
    interactions = extract_interactions(game.values + noise, noise_tolerance=0.02)
    assert_within_tolerance(interactions, game.values + noise, 0.02)
    # The planted effects are one feasible decomposition.
    assert (strength(interactions) <= 1.001 * strength(game.interactions)).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_tolerance_gives_less_strength(dtype: torch.dtype, generator: torch.Generator) -> None:
    values = random_network_tables(4, 3, generator).to(dtype)
    strengths = []
    for noise_tolerance in (0.0, 1e-4, 0.02, 0.2):
        interactions = extract_interactions(values, noise_tolerance=noise_tolerance, tolerance=1e-5)
        assert interactions.and_effects.dtype == dtype
        assert_within_tolerance(interactions, values, noise_tolerance)
        strengths.append(strength(interactions))
    for stronger, weaker in pairwise(strengths):
        assert (weaker <= 1.0005 * stronger).all()


@pytest.mark.slow
def test_unlimited_tolerance_leaves_the_effect_of_the_full_coalition(generator: torch.Generator) -> None:
    values = random_network_tables(6, 3, generator)
    interactions = extract_interactions(values, noise_tolerance=1e4)
    torch.testing.assert_close(strength(interactions), (values[:, -1] - values[:, 0]).abs(), rtol=1e-3, atol=0)


# What it agrees with


@TABLES
@pytest.mark.slow
def test_vanishing_tolerance_gives_the_exact_interactions(tables: Tables, generator: torch.Generator) -> None:
    values = tables(4, 3, generator)
    exact = extract_interactions(values, tolerance=1e-7, max_iterations=100_000)
    tolerant = extract_interactions(values, noise_tolerance=1e-9, tolerance=1e-7, max_iterations=100_000)
    assert_same_effects(tolerant.effects, exact.effects, bound=5e-3)


def test_no_tolerance_is_the_exact_path(generator: torch.Generator) -> None:
    values = random_tables(5, 2, generator)
    assert torch.equal(extract_interactions(values, noise_tolerance=0.0).effects, extract_interactions(values).effects)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_start_does_not_matter(seed: int, generator: torch.Generator) -> None:
    values = random_network_tables(6, 4, generator)
    noise = torch.randn(2, *values.shape, generator=torch.Generator().manual_seed(seed), dtype=values.dtype)
    start = Interactions(noise.transpose(0, 1), values[:, 0])
    start.and_effects[0] = torch.nan
    solutions = [extract_interactions(values, noise_tolerance=0.03, start=begin, tolerance=1e-5) for begin in (None, start)]
    assert salient_jaccard(*solutions).mean() >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_input_does_not_depend_on_its_batch(dtype: torch.dtype, generator: torch.Generator) -> None:
    values = random_network_tables(5, 3, generator).to(dtype)
    options = {"noise_tolerance": 0.05, "tolerance": 1e-4}
    together = extract_interactions(values, **options).effects
    alone = torch.cat([extract_interactions(row[None], **options).effects for row in values])
    reversed_order = extract_interactions(values.flip(0), **options).effects.flip(0)
    assert_same_effects(together, alone, bound=1e-6)
    assert_same_effects(together, reversed_order, bound=1e-6)


@pytest.mark.slow
@PROPERTY
@given(integer_tables(max_players=3), st.integers(-20, 20), st.booleans())
def test_scaling_values_scales_interactions(values: Tensor, exponent: int, negative: bool) -> None:
    factor = (-1.0 if negative else 1.0) * 2.0**exponent
    scaled = extract_interactions(factor * values, noise_tolerance=0.05)
    assert_same_effects(scaled.effects, factor * extract_interactions(values, noise_tolerance=0.05).effects, bound=1e-12)


@pytest.mark.slow
@PROPERTY
@given(integer_tables(min_players=2, max_players=3), st.data())
def test_permuting_players_permutes_interactions(values: Tensor, data: st.DataObject) -> None:
    permutation = data.draw(st.permutations(range(values.shape[-1].bit_length() - 1)))
    permuted = extract_interactions(permute_players(values, permutation), noise_tolerance=0.05).effects
    expected = permute_players(extract_interactions(values, noise_tolerance=0.05).effects, permutation)
    assert_same_effects(permuted, expected, bound=1e-6)


# Unusual values


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e6, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_very_large_and_very_small_values_give_the_same_interactions(
    scale: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    values = random_network_tables(4, 3, generator).to(dtype)
    scaled = extract_interactions(scale * values, noise_tolerance=0.05)
    assert_within_tolerance(scaled, scale * values, 0.05)
    assert_same_effects(scaled.effects / scale, extract_interactions(values, noise_tolerance=0.05).effects, bound=2e-3)


def test_one_player_has_one_and_effect() -> None:
    values = torch.tensor([[1.0, 3.0], [2.0, -2.0], [1.0, 1.0]])
    interactions = extract_interactions(values, noise_tolerance=0.5)
    torch.testing.assert_close(interactions.and_effects, torch.tensor([[0.0, 2.0], [0.0, -4.0], [0.0, 0.0]]))
    assert not interactions.or_effects.any()


@pytest.mark.parametrize("num_players", [1, 4])
def test_constant_values_have_no_interactions(num_players: int) -> None:
    interactions = extract_interactions(torch.full((2, 2**num_players), 3.0), noise_tolerance=0.05)
    assert not interactions.effects.any()
    assert interactions.offset.tolist() == [3.0, 3.0]


@pytest.mark.slow
def test_nothing_is_tolerated_where_the_full_coalition_scores_as_the_empty_one(generator: torch.Generator) -> None:
    values = random_tables(4, 2, generator)
    values[1, -1] = values[1, 0]
    interactions = extract_interactions(values, noise_tolerance=0.05, tolerance=1e-7, max_iterations=100_000)
    assert_within_tolerance(interactions, values, 0.05)
    exact = extract_interactions(values, tolerance=1e-7, max_iterations=100_000)
    assert_same_effects(interactions.effects[1:2], exact.effects[1:2], bound=5e-3)


# The matching error, errors and warnings


def test_matching_error_is_the_largest_distance() -> None:
    present = coalition_masks(3).all(dim=1).double()
    interactions = Interactions(torch.stack([2 * present, torch.zeros(8)])[None], torch.ones(1))
    values = 1 + 2 * present[None]
    assert matching_error(interactions, values).tolist() == [0.0]
    values[0, 4] -= 0.25
    assert matching_error(interactions, values).tolist() == [0.25]


@pytest.mark.parametrize("noise_tolerance", [-0.01, torch.nan, torch.inf])
def test_a_noise_tolerance_that_is_no_fraction_is_an_error(noise_tolerance: float) -> None:
    with pytest.raises(ValueError, match="noise_tolerance"):
        extract_interactions(torch.zeros(2, 4), noise_tolerance=noise_tolerance)


def test_too_few_iterations_are_a_warning_and_still_within_the_tolerance(generator: torch.Generator) -> None:
    values = random_tables(8, 3, generator)
    values[0] = 0
    with pytest.warns(UserWarning, match="2 of 3"):
        interactions = extract_interactions(values, noise_tolerance=0.05, max_iterations=25)
    assert_within_tolerance(interactions, values, 0.05)
