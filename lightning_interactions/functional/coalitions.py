"""All ``2^n`` coalitions of ``n`` players, in the bit order that every other module relies on.

Bit ``i`` of a coalition's index says whether player ``i`` takes part: index 0 is the empty coalition, index
``2^n - 1`` the coalition of all players, and reversing the index axis complements every coalition.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_interactions.functional.precision import full_precision

__all__ = ["coalition_masks", "coalition_orders", "infer_num_players", "sum_by_order"]


def coalition_masks(num_players: int, device: torch.device | str | None = None) -> Bool[Tensor, "coalitions players"]:
    """List every coalition as a mask over players.

    Args:
        num_players: Number of players ``n``, at least 1.
        device: Where the masks are made; the default device if ``None``.

    Returns:
        Masks of shape ``[2^n, n]``; ``masks[index, i]`` is true where player ``i`` is in the coalition ``index``.

    Raises:
        ValueError: If ``num_players`` is smaller than 1.
    """
    if num_players < 1:
        raise ValueError(f"coalitions: expected at least 1 player, got {num_players}")
    players = torch.arange(num_players, device=device)
    indices = torch.arange(2**num_players, device=device)
    return (indices[:, None] >> players) & 1 == 1


def coalition_orders(num_players: int, device: torch.device | str | None = None) -> Int[Tensor, " coalitions"]:
    """Count the players of every coalition.

    Args:
        num_players: Number of players ``n``, at least 1.
        device: Where the result is made; the default device if ``None``.

    Returns:
        Orders ``|S|`` of shape ``[2^n]``.
    """
    return coalition_masks(num_players, device).sum(dim=-1)


def sum_by_order(numbers: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch orders"]:
    """Add up the numbers of all coalitions of an order.

    Args:
        numbers: Any numbers, one for each coalition along the last axis.

    Returns:
        Sums, the last axis indexed by the order 0 to n.

    Raises:
        ValueError: If the last axis does not hold ``2^n`` entries.
    """
    num_players = infer_num_players(numbers.shape[-1])
    # A product with one-hot orders, which gives every rank the same sum to the last bit; index_add on CUDA would not.
    of_order = torch.nn.functional.one_hot(coalition_orders(num_players, numbers.device), num_players + 1)
    with full_precision(numbers.device):
        return numbers @ of_order.to(numbers)


def infer_num_players(num_coalitions: int) -> int:
    """Recover the number of players from the length of a coalition axis.

    Args:
        num_coalitions: Length of the axis.

    Returns:
        ``n`` with ``2^n == num_coalitions``.

    Raises:
        ValueError: If the length is not a power of two, or smaller than 2.
    """
    num_players = num_coalitions.bit_length() - 1
    if num_players < 1 or 2**num_players != num_coalitions:
        raise ValueError(
            f"coalitions: the last axis must hold all 2^n coalitions of n >= 1 players, got {num_coalitions} entries; "
            "index it by coalition, bit i for player i"
        )
    return num_players
