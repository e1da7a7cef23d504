"""Random coalitions of players whose ``2^n`` coalitions are too many to evaluate."""

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

__all__ = ["draw_coalitions"]


def draw_coalitions(
    num_players: int, num_coalitions: int, generator: Generator, device: torch.device | str | None = None
) -> Bool[Tensor, "coalitions players"]:
    """Draw distinct coalitions, the empty one first and the one of all players second.

    Half of the others are fair coins for each player, half have a size that is uniform in 1 … n-1. Fair coins leave all of
    ``m`` players unmasked in one of ``2^m`` coalitions only, so they hardly ever show an AND of many players, nor, the
    other way round, the absence of an OR; with uniform sizes it is about one in ``m + 1``. On games with planted
    interactions of up to 8 of 40 players that finds most of what fair coins miss; on trained networks, whose interactions
    are mostly of low order, half of each had the smallest errors on both kinds of coalitions.

    Args:
        num_players: Number of players ``n``, at least 2.
        num_coalitions: How many to draw, at least 2 and at most half of all ``2^n``.
        generator: Source of randomness, on the CPU.
        device: Where the masks are put; the CPU if ``None``.

    Returns:
        Masks of shape ``[coalitions, players]``, true for the players that stay.

    Raises:
        ValueError: If there are too few players, or too few or too many coalitions.
    """
    if num_players < 2 or num_coalitions < 2:
        raise ValueError(
            f"draw_coalitions: expected at least 2 players and 2 coalitions, got {num_players} players and {num_coalitions} "
            "coalitions"
        )
    if num_coalitions > 2 ** (num_players - 1):
        raise ValueError(
            f"draw_coalitions: expected at most half of the 2^{num_players} coalitions of {num_players} players, got "
            f"{num_coalitions}; evaluate all of them and use extract_interactions, which is exact"
        )
    masks = torch.tensor([[False], [True]]).expand(2, num_players)
    while len(masks) < num_coalitions:
        masks = _without_repeats(torch.cat([masks, _draw(num_players, num_coalitions, generator)]))
    return masks[:num_coalitions].to(device)


def _draw(num_players: int, num_coalitions: int, generator: Generator) -> Bool[Tensor, "coalitions players"]:
    sizes = torch.randint(1, num_players, (num_coalitions, 1), generator=generator)
    ranks = torch.rand(num_coalitions, num_players, generator=generator).argsort(dim=1).argsort(dim=1)
    coins = torch.rand(num_coalitions, num_players, generator=generator) < 0.5
    is_coin = torch.arange(num_coalitions)[:, None] % 2 == 0
    return torch.where(is_coin, coins, ranks < sizes)


def _without_repeats(masks: Bool[Tensor, "coalitions players"]) -> Bool[Tensor, "distinct players"]:
    """Keep the first of equal rows, in the order of the rows."""
    distinct, group = torch.unique(masks, dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(masks)).scatter_reduce(0, group, torch.arange(len(masks)), "amin")
    return masks[first.sort().values]
