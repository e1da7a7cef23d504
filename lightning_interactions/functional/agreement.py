"""How far the mean interactions of training and of held-out inputs agree, order by order."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_orders, infer_num_players, sum_by_order
from lightning_interactions.records import Interactions

__all__ = ["agreement_by_chance", "agreement_by_order"]

CHANCE_SHIFTS = 31
"""At most so many pairings with other sets go into a chance level."""


def agreement_by_order(first: Interactions, second: Interactions) -> Float[Tensor, " orders"]:
    """Compare the mean effects on two sets of inputs, in which players mean the same.

    For each order this is ``Σ min / Σ max`` of the two mean effects over AND and OR effects of that order, positive and
    negative parts apart: 1 where the means are equal, 0 where no set has the same sign in both.

    Args:
        first: Interactions of some inputs; inputs of NaN are left out.
        second: Interactions of other inputs, of the same players.

    Returns:
        Agreement in [0, 1], indexed by the order 0 to n; zero where there is no effect.

    Source:
        Zhou et al. 2024 (arXiv 2302.13091), generalization of interactions of an order; they average over the inputs of one
        class, we over all.
    """
    return _overlap_by_order(_mean_effects(first), _mean_effects(second))


def agreement_by_chance(first: Interactions, second: Interactions) -> Float[Tensor, " orders"]:
    """Compare the mean effects of every set with those of another set of its order: what unrelated effects would agree.

    Args:
        first: Interactions of some inputs; inputs of NaN are left out.
        second: Interactions of other inputs, of the same players.

    Returns:
        Agreement in [0, 1], indexed by the order 0 to n, averaged over up to 31 cyclic pairings within each order. The
        order n has but one set, which is compared with itself.
    """
    means, others = _mean_effects(first), _mean_effects(second)
    num_shifts = min(means.shape[-1] - 1, CHANCE_SHIFTS)
    shifts = range(1, num_shifts + 1)
    return torch.stack([_overlap_by_order(means, others[:, _shifted_within_orders(others, k)]) for k in shifts]).mean(dim=0)


def _mean_effects(interactions: Interactions) -> Float[Tensor, "types coalitions"]:
    return interactions.effects.nanmean(dim=0)


def _overlap_by_order(
    means: Float[Tensor, "types coalitions"], others: Float[Tensor, "types coalitions"]
) -> Float[Tensor, " orders"]:
    parts, other_parts = (torch.stack([effects.clamp(min=0), (-effects).clamp(min=0)]) for effects in (means, others))
    smaller, larger = (sum_by_order(combine(parts, other_parts).sum(dim=(0, 1))) for combine in (torch.minimum, torch.maximum))
    return torch.where(larger > 0, smaller / larger, 0.0)


def _shifted_within_orders(effects: Tensor, shift: int) -> Int[Tensor, " coalitions"]:
    """Give every coalition the index of another one of its order, some places further in a circle, never its own."""
    orders = coalition_orders(infer_num_players(effects.shape[-1]), effects.device)
    index = torch.arange(len(orders), device=effects.device)
    for order in range(int(orders.max()) + 1):
        own = (orders == order).nonzero()[:, 0]
        index[own] = own.roll(-(1 + (shift - 1) % max(len(own) - 1, 1)))
    return index
