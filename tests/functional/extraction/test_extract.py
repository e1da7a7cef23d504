import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks, coalition_orders
from lightning_interactions.functional.extraction import extract
from lightning_interactions.functional.extraction.extract import extract_interactions, extract_with_certificate
from lightning_interactions.functional.transforms import reconstruct_values
from lightning_interactions.records import Interactions
from tests.helpers import oracles
from tests.helpers.games import (
    integer_tables,
    permute_players,
    planted_game,
    random_network_tables,
    random_tables,
    recovered,
    salient_jaccard,
)

PROPERTY = settings(max_examples=10, deadline=None, derandomize=True)

Tables = Callable[[int, int, torch.Generator], Tensor]

TABLES = pytest.mark.parametrize("tables", [random_tables, random_network_tables])

MATCHING_BOUNDS = ((torch.float32, 1e-5), (torch.float64, 1e-10))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def assert_matches(interactions: Interactions, values: Tensor, bound: float) -> None:
    """Assert universal matching up to a bound in units of each input's value range."""
    error = (reconstruct_values(interactions) - values).abs().amax(dim=1)
    value_range = values.amax(dim=1) - values.amin(dim=1)
    assert (error <= bound * value_range).all()


def assert_same_effects(actual: Tensor, expected: Tensor, bound: float) -> None:
    """Assert equal effects up to a bound in units of each input's largest effect."""
    largest = expected.abs().amax(dim=(1, 2))
    assert ((actual - expected).abs().amax(dim=(1, 2)) <= bound * largest).all()


# What comes out


@TABLES
@pytest.mark.parametrize("num_players", [1, 2, 4, 7, 9])
@pytest.mark.parametrize(("dtype", "bound"), MATCHING_BOUNDS)
def test_interactions_match_the_values(
    tables: Tables, num_players: int, dtype: torch.dtype, bound: float, generator: torch.Generator
) -> None:
    values = tables(num_players, 4, generator).to(dtype)
    interactions = extract_interactions(values)
    assert interactions.and_effects.dtype == interactions.or_effects.dtype == interactions.offset.dtype == dtype
    assert interactions.and_effects.shape == interactions.or_effects.shape == values.shape
    assert torch.equal(interactions.offset, values[:, 0])
    assert_matches(interactions, values, bound)


def test_interactions_match_the_values_in_the_subset_loop(generator: torch.Generator) -> None:
    values = random_network_tables(5, 3, generator)
    reconstruction = oracles.reconstruct_values(extract_interactions(values))
    torch.testing.assert_close(reconstruction, values, rtol=0, atol=1e-10)


@TABLES
def test_empty_set_and_single_player_ors_are_zero(tables: Tables, generator: torch.Generator) -> None:
    interactions = extract_interactions(tables(5, 4, generator))
    orders = coalition_orders(5)
    assert not interactions.and_effects[:, 0].any()
    assert not interactions.or_effects[:, orders <= 1].any()
    assert interactions.and_effects[:, orders == 1].any()


def test_input_is_left_as_it_is(generator: torch.Generator) -> None:
    values = random_tables(4, 2, generator)
    start = extract_interactions(values)
    kept_values, kept_start = values.clone(), start.effects.clone()
    extract_interactions(values, start=start)
    assert torch.equal(values, kept_values)
    assert torch.equal(start.effects, kept_start)


# How sparse it is


def test_linear_program_knows_the_answer_of_one_or() -> None:
    values = 2.0 * coalition_masks(4)[:, [0, 1, 3]].any(dim=1).double()
    assert oracles.sparsest_l1_optimum(values) == pytest.approx(2.0)


@pytest.mark.slow
@TABLES
@pytest.mark.parametrize(("num_players", "num_inputs"), [(4, 16), (6, 8), (8, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strength_is_within_two_percent_of_the_linear_program(
    tables: Tables, num_players: int, num_inputs: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    values = tables(num_players, num_inputs, generator)
    strength = extract_interactions(values.to(dtype)).effects.double().abs().sum(dim=(1, 2))
    optimum = torch.tensor([oracles.sparsest_l1_optimum(row) for row in values], dtype=torch.float64)
    assert (strength <= 1.02 * optimum).all()
    # Folding single players cannot go below the optimum: the folded effects are a decomposition of the same values.
    assert (strength >= (1 - 1e-5) * optimum).all()


@TABLES
@pytest.mark.parametrize("num_players", [1, 2, 3, 4])
def test_effects_are_the_unique_optimum_with_the_ridge(tables: Tables, num_players: int, generator: torch.Generator) -> None:
    values = tables(num_players, 3, generator)
    optimum = torch.stack([torch.stack(oracles.sparsest_ridge_optimum(row)) for row in values])
    # The objective is flat: a relative gap of g allows effects to be off by about sqrt(g / ridge).
    effects = extract_interactions(values, tolerance=1e-9, max_iterations=100_000).effects
    assert_same_effects(effects, optimum, bound=2e-3)


@pytest.mark.parametrize("players", [(0, 1), (1, 3), (0, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("effect", [1.0, -3.0])
def test_one_term_is_found_alone(players: tuple[int, ...], effect: float) -> None:
    present = coalition_masks(4)[:, list(players)]
    values = effect * torch.stack([present.all(dim=1), present.any(dim=1)]).double()
    expected = torch.zeros(2, 2, 16, dtype=torch.float64)
    index = sum(2**player for player in players)
    expected[0, 0, index] = expected[1, 1, index] = effect
    assert_same_effects(extract_interactions(values).effects, expected, bound=1e-3)


def test_planted_effects_come_back() -> None:
    games = [planted_game(8, 6, 6, 1e-3, torch.Generator().manual_seed(seed)) for seed in range(3)]
    interactions = extract_interactions(torch.cat([game.values for game in games]))
    hits = torch.cat([recovered(game.interactions.effects[0], interactions.effects[i]) for i, game in enumerate(games)])
    assert len(hits) == 3 * 12
    assert hits.double().mean() >= 0.99


# What it does not depend on


def starts_for(values: Tensor, generator: torch.Generator) -> list[Interactions | None]:
    """Start from the half-half decomposition, from other inputs, and from noise."""
    noise = 10 * torch.randn(2, *values.shape, generator=generator, dtype=values.dtype)
    return [None, extract_interactions(values.flip(0)), Interactions(noise.transpose(0, 1), values[:, 0])]


@pytest.mark.slow
@TABLES
@pytest.mark.parametrize(
    ("num_players", "dtype", "tolerance"),
    [
        # The objective is flat, so a gap leaves room for effects that come and go at the salience threshold, and one such
        # interaction is a larger fraction of the few that few players have: they need a smaller gap than the default.
        (3, torch.float64, 1e-7),
        (4, torch.float64, 1e-7),
        (6, torch.float64, 1e-5),
        pytest.param(8, torch.float32, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_salient_interactions_do_not_depend_on_the_start(
    tables: Tables, num_players: int, dtype: torch.dtype, tolerance: float, generator: torch.Generator
) -> None:
    values = tables(num_players, 8, generator).to(dtype)
    cold, *warm = [
        extract_interactions(values, start=start, tolerance=tolerance, max_iterations=100_000)
        for start in starts_for(values, generator)
    ]
    for interactions in warm:
        assert_matches(interactions, values, dict(MATCHING_BOUNDS)[dtype])
        assert salient_jaccard(cold, interactions).mean() >= 0.99


@pytest.mark.slow
@TABLES
def test_salient_interactions_of_ten_players_do_not_depend_on_the_start_at_default_settings(
    tables: Tables, generator: torch.Generator
) -> None:
    values = tables(10, 8, generator).float()
    cold, *warm = [extract_interactions(values, start=start) for start in starts_for(values, generator)]
    for interactions in warm:
        assert salient_jaccard(cold, interactions).mean() >= 0.99


def test_a_start_of_another_dtype_is_taken(generator: torch.Generator) -> None:
    values = random_tables(5, 2, generator)
    start = extract_interactions(values.float())
    interactions = extract_interactions(values, start=start)
    assert interactions.and_effects.dtype == torch.float64
    assert_matches(interactions, values, 1e-10)


@pytest.mark.slow
@TABLES
@pytest.mark.parametrize(
    ("dtype", "tolerance", "bound"),
    # Iterations in float32 round differently in another batch, and may stop one check earlier or later.
    [(torch.float32, 1e-5, 2e-3), (torch.float64, 1e-6, 1e-10)],
)
def test_an_input_does_not_depend_on_its_batch(
    tables: Tables, dtype: torch.dtype, tolerance: float, bound: float, generator: torch.Generator
) -> None:
    values = tables(6, 4, generator).to(dtype)
    together = extract_interactions(values, tolerance=tolerance).effects
    alone = torch.cat([extract_interactions(row[None], tolerance=tolerance).effects for row in values])
    reversed_order = extract_interactions(values.flip(0), tolerance=tolerance).effects.flip(0)
    assert_same_effects(together, alone, bound)
    assert_same_effects(together, reversed_order, bound)


def test_autocast_does_not_round(generator: torch.Generator) -> None:
    values = random_network_tables(6, 2, generator).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        interactions = extract_interactions(values)
    assert interactions.and_effects.dtype == torch.float32
    assert torch.equal(interactions.effects, extract_interactions(values).effects)


@pytest.mark.slow
@PROPERTY
@given(integer_tables(), st.integers(-20, 20), st.booleans())
def test_scaling_values_scales_interactions(values: Tensor, exponent: int, negative: bool) -> None:
    # Powers of two scale without rounding, so the solver takes the very same steps.
    factor = (-1.0 if negative else 1.0) * 2.0**exponent
    scaled = extract_interactions(factor * values)
    assert_same_effects(scaled.effects, factor * extract_interactions(values).effects, bound=1e-12)
    assert torch.equal(scaled.offset, factor * values[:, 0])


@PROPERTY
@given(integer_tables(), st.integers(-(10**6), 10**6))
@pytest.mark.slow
def test_adding_a_constant_only_moves_the_offset(values: Tensor, constant: int) -> None:
    moved, interactions = extract_interactions(values + constant), extract_interactions(values)
    assert torch.equal(moved.effects, interactions.effects)
    assert torch.equal(moved.offset, interactions.offset + constant)


@pytest.mark.slow
@PROPERTY
@given(integer_tables(min_players=2), st.data())
def test_permuting_players_permutes_interactions(values: Tensor, data: st.DataObject) -> None:
    num_players = values.shape[-1].bit_length() - 1
    permutation = data.draw(st.permutations(range(num_players)))
    permuted = extract_interactions(permute_players(values, permutation)).effects
    assert_same_effects(permuted, permute_players(extract_interactions(values).effects, permutation), bound=1e-8)


@pytest.mark.slow
@PROPERTY
@given(integer_tables(min_players=2))
def test_the_dual_game_swaps_and_with_or(values: Tensor) -> None:
    """The dual game ``-v(N∖T)`` has the AND effects of ``v`` as OR effects; single players are both."""
    effects = extract_interactions(values).effects
    dual = extract_interactions(-values.flip(-1)).effects
    single = coalition_orders(values.shape[-1].bit_length() - 1) == 1
    expected = torch.where(single, effects, effects.flip(1))
    assert_same_effects(dual, expected, bound=1e-8)


@PROPERTY
@given(integer_tables(min_players=2, max_players=4), st.data())
def test_a_dummy_player_has_no_interactions(values: Tensor, data: st.DataObject) -> None:
    num_players = values.shape[-1].bit_length() - 1
    dummy = data.draw(st.integers(0, num_players - 1))
    values = values[:, torch.arange(values.shape[-1]) & ~(1 << dummy)]
    effects = extract_interactions(values, tolerance=1e-8, max_iterations=100_000).effects
    with_dummy = coalition_masks(num_players)[:, dummy]
    assert effects[..., with_dummy].abs().max() <= 5e-3 * effects.abs().max()


# The certificate


@pytest.mark.slow
@TABLES
@pytest.mark.parametrize(("num_players", "tolerance"), [(2, 1e-7), (4, 1e-3), (4, 1e-7), (5, 1e-5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_certificate_bounds_the_optimum_from_both_sides(
    tables: Tables, num_players: int, tolerance: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    values = tables(num_players, 4, generator).to(dtype)
    interactions, certificate = extract_with_certificate(values, tolerance=tolerance)
    exact, exact_certificate = extract_with_certificate(values.double(), tolerance=1e-9, max_iterations=100_000)
    assert torch.equal(interactions.effects, extract_interactions(values, tolerance=tolerance).effects)
    slack = 1e-9 * exact_certificate.objective
    assert (certificate.lower_bound <= exact_certificate.objective + slack).all()
    assert (certificate.objective >= exact_certificate.lower_bound - slack).all()
    assert (certificate.gap <= 1.1 * tolerance).all()
    linear_program = torch.tensor([oracles.sparsest_l1_optimum(row) for row in values], dtype=torch.float64)
    # The objective is the strength and a small ridge, so it is above the linear program's.
    assert (certificate.objective >= (1 - 1e-6) * linear_program).all()
    assert exact.and_effects.dtype == torch.float64


def test_the_certificate_of_an_unsolved_input_is_true(generator: torch.Generator) -> None:
    values = random_tables(6, 8, generator)
    _, solved = extract_with_certificate(values)
    with pytest.warns(UserWarning, match="8 of 8"):
        _, unsolved = extract_with_certificate(values, max_iterations=25)
    assert (unsolved.lower_bound <= solved.objective).all()
    assert (unsolved.objective >= solved.lower_bound).all()
    assert (unsolved.gap > 1e-3).all()
    assert unsolved.iterations.tolist() == [25] * 8


def test_easy_inputs_stop_before_hard_ones(generator: torch.Generator) -> None:
    values = random_tables(6, 3, generator)
    values[1] = 5.0
    _, certificate = extract_with_certificate(values)
    assert certificate.iterations[1] == 25
    assert certificate.iterations[[0, 2]].min() > 25
    assert certificate.gap[1] == 0


@pytest.mark.slow
def test_many_inputs_are_solved_in_parts(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_tables(4, 7, generator)
    start = extract_interactions(values.roll(1, dims=0))
    together, certificate = extract_with_certificate(values, start=start)
    monkeypatch.setattr(extract, "ENTRIES_AT_ONCE", 3 * 16)
    in_parts, certificate_in_parts = extract_with_certificate(values, start=start)
    assert_same_effects(in_parts.effects, together.effects, bound=1e-9)
    assert torch.equal(certificate_in_parts.iterations, certificate.iterations)


@TABLES
@pytest.mark.parametrize(("num_players", "tolerance"), [(4, 1e-11), pytest.param(7, 1e-9, marks=pytest.mark.slow)])
def test_a_small_gap_is_reached_and_proved(
    tables: Tables, num_players: int, tolerance: float, generator: torch.Generator
) -> None:
    values = tables(num_players, 3, generator)
    _, certificate = extract_with_certificate(values, tolerance=tolerance, max_iterations=200_000)
    assert (certificate.gap <= 1.1 * tolerance).all()


# Unusual values


@pytest.mark.slow
def test_constant_values_need_no_start(generator: torch.Generator) -> None:
    values = random_tables(4, 3, generator)
    start = extract_interactions(values)
    values[1] = 7.0
    for noise_tolerance in (0.0, 0.1):
        interactions, certificate = extract_with_certificate(values, start=start, noise_tolerance=noise_tolerance)
        assert not interactions.effects[1].any()
        assert certificate.iterations[1] == 25


@pytest.mark.parametrize("scale", [1e42, 1e-42])
def test_values_outside_the_range_of_float32_are_solved_all_the_same(scale: float, generator: torch.Generator) -> None:
    values = random_tables(6, 2, generator)
    scaled, certificate = extract_with_certificate(scale * values)
    assert_same_effects(scaled.effects / scale, extract_interactions(values).effects, bound=1e-3)
    assert (certificate.gap <= 2e-5).all()


def test_no_inputs_have_no_interactions() -> None:
    interactions, certificate = extract_with_certificate(torch.zeros(0, 8))
    assert interactions.effects.shape == (0, 2, 8)
    assert certificate.gap.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_player_has_one_and_effect(dtype: torch.dtype) -> None:
    interactions = extract_interactions(torch.tensor([[1.0, 3.0], [2.0, -2.0]], dtype=dtype))
    torch.testing.assert_close(interactions.and_effects, torch.tensor([[0.0, 2.0], [0.0, -4.0]], dtype=dtype))
    assert not interactions.or_effects.any()
    assert interactions.offset.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("constant", [0.0, 3.0, -1e6])
@pytest.mark.parametrize("num_players", [1, 4])
def test_constant_values_have_no_interactions(constant: float, num_players: int) -> None:
    interactions = extract_interactions(torch.full((2, 2**num_players), constant))
    assert torch.equal(interactions.effects, torch.zeros(2, 2, 2**num_players))
    assert interactions.offset.tolist() == [constant, constant]


def test_constant_values_beside_others_do_no_harm(generator: torch.Generator) -> None:
    values = random_tables(4, 3, generator)
    values[1] = 7.0
    interactions = extract_interactions(values)
    assert not interactions.effects[1].any()
    assert_matches(interactions, values, 1e-10)
    assert_same_effects(interactions.effects[::2], extract_interactions(values[::2]).effects, bound=1e-10)


@pytest.mark.slow
@TABLES
@pytest.mark.parametrize("scale", [1e6, 1e-6])
@pytest.mark.parametrize(("dtype", "bound"), MATCHING_BOUNDS)
def test_very_large_and_very_small_values_give_the_same_interactions(
    tables: Tables, scale: float, dtype: torch.dtype, bound: float, generator: torch.Generator
) -> None:
    values = tables(6, 4, generator).to(dtype)
    scaled = extract_interactions(scale * values)
    assert_matches(scaled, scale * values, bound)
    assert_same_effects(scaled.effects / scale, extract_interactions(values).effects, bound=1e-3)


# Errors and warnings


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("shape", [(16,), (2, 2, 16), ()])
def test_values_that_are_not_two_dimensional_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="values"):
        extract_interactions(torch.zeros(shape))


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_values_that_are_no_floats_are_an_error(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=str(dtype)):
        extract_interactions(torch.zeros(2, 4, dtype=dtype))


@pytest.mark.parametrize("num_coalitions", [0, 1, 6])
def test_values_that_do_not_hold_all_coalitions_are_an_error(num_coalitions: int) -> None:
    with pytest.raises(ValueError, match=str(num_coalitions)):
        extract_interactions(torch.zeros(2, num_coalitions))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("coalition", [0, 3, 7])
def test_values_that_are_not_finite_are_an_error_that_names_the_rows(broken: float, coalition: int) -> None:
    values = torch.ones(4, 8)
    values[[1, 3], coalition] = broken
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        extract_interactions(values)


def test_too_few_iterations_are_a_warning_and_still_match_the_values(generator: torch.Generator) -> None:
    values = random_tables(8, 3, generator)
    with pytest.warns(UserWarning, match="3 of 3"):
        interactions = extract_interactions(values, max_iterations=25)
    assert_matches(interactions, values, 1e-10)


def test_only_unsolved_inputs_are_counted_in_the_warning(generator: torch.Generator) -> None:
    values = random_tables(8, 3, generator)
    values[0] = 0
    with pytest.warns(UserWarning, match="2 of 3"):
        extract_interactions(values, max_iterations=25)


@pytest.mark.slow
def test_warnings_point_at_the_caller(tmp_path: Path) -> None:
    # In a process of its own: the checks of types that tests have are callers, too.
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from lightning_interactions.functional import extract_interactions, extract_shared_interactions\n"
        "values = torch.arange(64.0).reshape(1, 64).cos()\n"
        "extract_interactions(values, max_iterations=25)\n"
        "extract_interactions(values, noise_tolerance=0.01, max_iterations=25)\n"
        "extract_shared_interactions(values[None], max_iterations=25)\n"
    )
    command = [sys.executable, "-W", "always", str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    errors = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    assert [f"{script}:{line}" in errors for line in (4, 5, 6)] == [True] * 3
