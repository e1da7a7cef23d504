"""The transforms beside shapiq's exact computer."""

import pytest
import shapiq
import torch

from lightning_interactions.functional.transforms import mobius_transform, or_effects
from tests.helpers.games import random_tables


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("num_players", [2, 6])
def test_mobius_transform_equals_shapiq(num_players: int, generator: torch.Generator) -> None:
    values = random_tables(num_players, 1, generator)[0]
    powers = 2 ** torch.arange(num_players).numpy()

    exact = shapiq.ExactComputer(
        game=lambda coalitions: values.numpy()[coalitions.astype(int) @ powers], n_players=num_players
    )("Moebius", order=num_players)

    for players, position in exact.interaction_lookup.items():
        index = sum(2**player for player in players)
        assert mobius_transform(values)[index].item() == pytest.approx(exact.values[position], abs=1e-10)
    assert len(exact.interaction_lookup) == 2**num_players


def test_or_effects_equal_minus_shapiq_on_complements(generator: torch.Generator) -> None:
    num_players = 6
    values = random_tables(num_players, 1, generator)[0]
    powers = 2 ** torch.arange(num_players).numpy()

    exact = shapiq.ExactComputer(
        game=lambda coalitions: -values.numpy()[~coalitions.astype(bool) @ powers], n_players=num_players
    )("Moebius", order=num_players)

    for players, position in exact.interaction_lookup.items():
        if players:
            index = sum(2**player for player in players)
            assert or_effects(values)[index].item() == pytest.approx(exact.values[position], abs=1e-10)
