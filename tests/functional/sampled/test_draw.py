import pytest
import torch

from lightning_interactions.functional.sampled.draw import draw_coalitions


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("num_players", "num_coalitions"), [(2, 2), (6, 32), (12, 500), (64, 1000), (100, 50)])
def test_coalitions_are_distinct_and_begin_with_the_empty_and_the_full_one(num_players: int, num_coalitions: int) -> None:
    masks = draw_coalitions(num_players, num_coalitions, generator())
    assert masks.shape == (num_coalitions, num_players)
    assert masks.dtype == torch.bool
    assert not masks[0].any()
    assert masks[1].all()
    assert len(torch.unique(masks, dim=0)) == num_coalitions


def test_draws_depend_on_the_generator_only() -> None:
    state = torch.get_rng_state()
    assert torch.equal(draw_coalitions(20, 100, generator(1)), draw_coalitions(20, 100, generator(1)))
    assert not torch.equal(draw_coalitions(20, 100, generator(1)), draw_coalitions(20, 100, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_player_is_in_half_of_the_coalitions() -> None:
    frequency = draw_coalitions(40, 4000, generator()).double().mean(dim=0)
    assert ((frequency - 0.5).abs() < 0.05).all()


def test_large_sets_are_seen_unmasked_and_masked() -> None:
    masks = draw_coalitions(40, 2000, generator())
    # Fair coins alone would show each of them about once in a thousand coalitions.
    assert masks[:, :10].all(dim=1).double().mean() > 0.02
    assert (~masks[:, :10]).all(dim=1).double().mean() > 0.02
    # Half of the draws are fair coins.
    assert ((masks.sum(dim=1) - 20).abs() <= 6).double().mean() > 0.5


@pytest.mark.parametrize(("num_players", "num_coalitions"), [(1, 2), (0, 5), (5, 1), (5, 0)])
def test_too_few_of_either_are_an_error(num_players: int, num_coalitions: int) -> None:
    with pytest.raises(ValueError, match=f"{num_players} players"):
        draw_coalitions(num_players, num_coalitions, generator())


def test_too_many_coalitions_are_an_error_that_names_the_exact_way() -> None:
    with pytest.raises(ValueError, match="extract_interactions"):
        draw_coalitions(6, 33, generator())
