"""The iteration on its grid against the same iteration as the papers write it."""

import pytest
import torch
from torch import Tensor

from lightning_interactions.functional.extraction.feasible_set import FeasibleEffects, half_half_effects
from lightning_interactions.functional.extraction.grid import Grid
from tests.helpers.games import random_tables

RELAXATION = 1.8


def shrunk(state: Tensor, ridge: Tensor) -> Tensor:
    lengths = state.norm(dim=1, keepdim=True)
    sparse = torch.where(lengths > 1, state * (1 - 1 / lengths), 0.0) / (1 + ridge)
    sparse[..., 0] = state[..., 0]
    return sparse


def plain_iterations(
    feasible: FeasibleEffects, state: Tensor, offset: Tensor, ridge: Tensor, times: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    for _ in range(times):
        sparse = shrunk(state, ridge)
        reflected = 2 * sparse - state
        point = reflected - feasible.from_normal_part(feasible.normal_part(reflected) - offset)
        state = state + RELAXATION * (point - sparse)
    return state, shrunk(state, ridge), sparse, point


@pytest.mark.parametrize("num_models", [1, 2])
@pytest.mark.parametrize("num_players", [1, 2, 5, 6, 9, 12])
def test_is_the_plain_iteration(num_players: int, num_models: int) -> None:
    generator = torch.Generator().manual_seed(num_players)
    values = random_tables(num_players, 3 * num_models, generator).double().reshape(num_models, 3, -1)
    values = values - values[..., :1]
    feasible, state = FeasibleEffects.like(values), half_half_effects(values)
    ridge = torch.tensor([[0.01], [0.02], [0.05]], dtype=torch.float64)
    offset, before = feasible.normal_part(state), state.clone()
    for times in (1, 2, 7):
        expected = plain_iterations(feasible, state, offset, ridge, times)
        found = Grid.of(feasible).iterate(state, offset, ridge, times=times, relaxation=RELAXATION)
        for own, plain in zip(found, expected, strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)
        assert torch.equal(state, before)


@pytest.mark.parametrize("num_players", [1, 6, 12])
def test_lay_out_and_take_up(num_players: int) -> None:
    effects = torch.randn(2, 3, 4, 2**num_players, generator=torch.Generator().manual_seed(0))
    grid = Grid.of(FeasibleEffects.like(effects))
    assert torch.equal(grid.take_up(grid.lay_out(effects), 3), effects)


def test_inputs_do_not_depend_on_each_other() -> None:
    values = random_tables(8, 5, torch.Generator().manual_seed(1)).double()[None]
    values = values - values[..., :1]
    feasible, state = FeasibleEffects.like(values), half_half_effects(values)
    grid, ridge, offset = Grid.of(feasible), torch.full((5, 1), 0.01, dtype=torch.float64), feasible.normal_part(state)
    together = grid.iterate(state, offset, ridge, times=25, relaxation=RELAXATION)
    alone = grid.iterate(state[:, :, 3:4], offset[:, 3:4], ridge[3:4], times=25, relaxation=RELAXATION)
    torch.testing.assert_close(alone.state, together.state[:, :, 3:4], rtol=1e-9, atol=1e-9)
