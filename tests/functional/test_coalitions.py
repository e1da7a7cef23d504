import pytest
import torch

from lightning_interactions.functional.coalitions import coalition_masks, coalition_orders, infer_num_players


def test_bit_of_the_index_is_the_player() -> None:
    expected = [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert coalition_masks(2).tolist() == [[bool(bit) for bit in row] for row in expected]


@pytest.mark.parametrize("num_players", [1, 3, 7])
def test_masks_spell_the_index_in_binary(num_players: int) -> None:
    masks = coalition_masks(num_players)
    assert masks.dtype == torch.bool
    assert masks.shape == (2**num_players, num_players)
    for index, mask in enumerate(masks.tolist()):
        assert sum(2**player for player, present in enumerate(mask) if present) == index


@pytest.mark.parametrize("num_players", [1, 4])
def test_first_coalition_is_empty_and_last_is_full(num_players: int) -> None:
    masks = coalition_masks(num_players)
    assert not masks[0].any()
    assert masks[-1].all()


def test_reversing_the_index_complements_every_coalition() -> None:
    masks = coalition_masks(5)
    assert torch.equal(masks.flip(0), ~masks)


@pytest.mark.parametrize("num_players", [1, 3, 6])
def test_orders_count_the_players(num_players: int) -> None:
    orders = coalition_orders(num_players)
    assert orders.tolist() == [index.bit_count() for index in range(2**num_players)]
    assert not orders.is_floating_point()


def test_masks_and_orders_are_made_on_the_given_device() -> None:
    assert coalition_masks(2, device="meta").device.type == "meta"
    assert coalition_orders(2, device=torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize("num_players", [0, -1])
def test_no_players_is_an_error(num_players: int) -> None:
    with pytest.raises(ValueError, match=str(num_players)):
        coalition_masks(num_players)
    with pytest.raises(ValueError, match=str(num_players)):
        coalition_orders(num_players)


@pytest.mark.parametrize("num_players", [1, 2, 10, 20])
def test_number_of_players_comes_back(num_players: int) -> None:
    assert infer_num_players(2**num_players) == num_players


@pytest.mark.parametrize("num_coalitions", [0, 1, 3, 6, 1023, 1025])
def test_length_that_is_no_power_of_two_is_an_error(num_coalitions: int) -> None:
    with pytest.raises(ValueError, match=str(num_coalitions)):
        infer_num_players(num_coalitions)
