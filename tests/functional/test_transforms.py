import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks, coalition_orders
from lightning_interactions.functional.transforms import (
    and_effects,
    mobius_transform,
    or_effects,
    reconstruct_values,
    zeta_transform,
)
from lightning_interactions.records import Interactions
from tests.helpers import oracles
from tests.helpers.games import integer_tables, permute_players, random_tables

# Derandomised, so that a failure on one machine is a failure on all; without a deadline, because machines are slow at
# times.
PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)

Transform = Callable[[Tensor], Tensor]

TRANSFORMS = (
    (mobius_transform, oracles.mobius_transform),
    (zeta_transform, oracles.zeta_transform),
    (and_effects, oracles.and_effects),
    (or_effects, oracles.or_effects),
)
NAMES = [fast.__name__ for fast, _ in TRANSFORMS]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("fast", "slow"), TRANSFORMS, ids=NAMES)
@pytest.mark.parametrize("num_players", [1, 2, 3, 6, 7])
def test_transform_equals_the_subset_loop(
    fast: Transform, slow: Transform, num_players: int, generator: torch.Generator
) -> None:
    values = random_tables(num_players, 3, generator)
    torch.testing.assert_close(fast(values), slow(values), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast(values.float()), slow(values).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_players", [11, 12, 16])
def test_transform_of_many_players_equals_one_player_at_a_time(num_players: int, generator: torch.Generator) -> None:
    values = torch.randn(2, 2**num_players, generator=generator, dtype=torch.float64)
    # Every player's 2x2 step of its own, where another player's matrix would show: no two players are alike in the values.
    expected = values.reshape(2, *[2] * num_players)
    for axis in range(1, num_players + 1):
        absent, present = expected.unbind(axis)
        expected = torch.stack([absent, present - absent], dim=axis)
    torch.testing.assert_close(mobius_transform(values), expected.reshape(values.shape), rtol=0, atol=1e-8)


@pytest.mark.parametrize("transform", [mobius_transform, zeta_transform, and_effects, or_effects])
def test_any_batch_shape_keeps_shape_dtype_and_input(transform: Transform, generator: torch.Generator) -> None:
    values = random_tables(4, 6, generator)
    kept = values.clone()
    rows = torch.stack([transform(row) for row in values])
    for batch in ((6,), (2, 3), (1, 6, 1)):
        torch.testing.assert_close(transform(values.reshape(*batch, 16)), rows.reshape(*batch, 16))
    for dtype in (torch.float32, torch.float64):
        assert transform(values.to(dtype)).dtype == dtype
    assert transform(values[:0]).shape == (0, 16)
    assert torch.equal(values, kept)


@pytest.mark.parametrize("transform", [mobius_transform, zeta_transform, and_effects, or_effects])
def test_wrong_length_is_an_error(transform: Transform) -> None:
    with pytest.raises(ValueError, match="12"):
        transform(torch.zeros(2, 12))


@pytest.mark.parametrize("transform", [mobius_transform, zeta_transform, and_effects, or_effects])
def test_autocast_does_not_round(transform: Transform, generator: torch.Generator) -> None:
    values = random_tables(6, 2, generator).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = transform(values)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, transform(values))


def test_global_matmul_precision_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        mobius_transform(torch.zeros(4))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@PROPERTY
@given(integer_tables())
def test_mobius_and_zeta_are_inverse(values: Tensor) -> None:
    # On integers every sum is exact, so equality needs no tolerance.
    assert torch.equal(zeta_transform(mobius_transform(values)), values)
    assert torch.equal(mobius_transform(zeta_transform(values)), values)


@PROPERTY
@given(integer_tables(num_inputs=2), st.integers(-9, 9), st.integers(-9, 9))
def test_transforms_are_linear(values: Tensor, first: int, second: int) -> None:
    for transform in (mobius_transform, zeta_transform, and_effects, or_effects):
        combined = transform(first * values[0] + second * values[1])
        assert torch.equal(combined, first * transform(values[0]) + second * transform(values[1]))


@PROPERTY
@given(integer_tables(min_players=2), st.data())
def test_dummy_player_has_no_effects(values: Tensor, data: st.DataObject) -> None:
    num_players = values.shape[-1].bit_length() - 1
    dummy = data.draw(st.integers(0, num_players - 1))
    without = torch.arange(values.shape[-1]) & ~(1 << dummy)
    with_dummy = coalition_masks(num_players)[:, dummy]
    values = values[:, without]
    for effects in (and_effects(values), or_effects(values)):
        assert not effects[:, with_dummy].any()


@PROPERTY
@given(integer_tables(), st.data())
def test_permuting_players_permutes_effects(values: Tensor, data: st.DataObject) -> None:
    num_players = values.shape[-1].bit_length() - 1
    permutation = data.draw(st.permutations(range(num_players)))
    for transform in (mobius_transform, zeta_transform, and_effects, or_effects):
        assert torch.equal(transform(permute_players(values, permutation)), permute_players(transform(values), permutation))


@PROPERTY
@given(integer_tables(num_inputs=2))
def test_any_decomposition_matches_the_values_everywhere(tables: Tensor) -> None:
    values, and_values = tables[:1], tables[1:]
    and_values = and_values - and_values[:, :1]
    or_values = values - values[:, :1] - and_values
    interactions = Interactions(torch.stack([and_effects(and_values), or_effects(or_values)], dim=1), values[:, 0])
    assert torch.equal(reconstruct_values(interactions), values)
    assert torch.equal(oracles.reconstruct_values(interactions), values)


@PROPERTY
@given(integer_tables(), integer_tables())
def test_reconstruction_equals_the_subset_loop(and_table: Tensor, or_table: Tensor) -> None:
    size = min(and_table.shape[-1], or_table.shape[-1])
    and_part, or_part = and_table[:, :size].clone(), or_table[:, :size].clone()
    offset = and_part[:, 0].clone()
    and_part[:, 0] = or_part[:, 0] = 0
    interactions = Interactions(torch.stack([and_part, or_part], dim=1), offset)
    assert torch.equal(reconstruct_values(interactions), oracles.reconstruct_values(interactions))


@PROPERTY
@given(integer_tables())
def test_or_effects_are_and_effects_of_the_dual_game(values: Tensor) -> None:
    assert torch.equal(or_effects(values), and_effects(-values.flip(-1)))


@pytest.mark.parametrize("players", [s for r in (1, 2, 3) for s in itertools.combinations(range(3), r)])
def test_one_term_is_one_effect(players: tuple[int, ...]) -> None:
    masks = coalition_masks(3)[:, list(players)]
    index = sum(2**player for player in players)
    one_hot = torch.nn.functional.one_hot(torch.tensor(index), 8).float()
    assert torch.equal(and_effects(masks.all(dim=1).float()), one_hot)
    assert torch.equal(or_effects(masks.any(dim=1).float()), one_hot)


def test_single_player_or_is_its_and() -> None:
    values = coalition_masks(3)[:, 1].float()
    assert torch.equal(and_effects(values), or_effects(values))


def test_empty_set_carries_no_effect() -> None:
    values = torch.full((2, 8), 5.0)
    assert not and_effects(values).any()
    assert not or_effects(values).any()
    assert torch.equal(mobius_transform(values), 5.0 * (coalition_orders(3) == 0).expand(2, 8))
