"""Which interactions are salient, and how strong they are by order, type and sign."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_interactions.functional.coalitions import sum_by_order
from lightning_interactions.records import Interactions, OrderStrength

__all__ = ["cancellation", "mean_order", "salient_mask", "strength_by_order", "total_strength"]


def salient_mask(interactions: Interactions, threshold: float = 0.05) -> Bool[Tensor, "inputs types coalitions"]:
    """Find the salient interactions of every input: ``|I(S)| > τ · max |I|`` over AND and OR together.

    Args:
        interactions: AND and OR effects.
        threshold: ``τ`` in [0, 1).

    Returns:
        A mask of shape ``[inputs, 2, coalitions]``; all false for an input of NaN.

    Raises:
        ValueError: If the threshold is outside [0, 1).

    Source:
        He et al. 2025 (arXiv 2505.06993), salient interactions.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"salient_mask: expected a threshold in [0, 1), got {threshold}")
    magnitude = interactions.effects.abs()
    return magnitude > threshold * magnitude.amax(dim=(1, 2), keepdim=True)


def strength_by_order(
    interactions: Interactions,
    salient: Bool[Tensor, "inputs types coalitions"],
    weights: Float[Tensor, "inputs types coalitions"],
) -> OrderStrength:
    """Add up ``|I(S)|`` by order, apart by type, sign and whether it is generalizable.

    Args:
        interactions: AND and OR effects.
        salient: Which interactions are salient, ``[inputs, 2, coalitions]``.
        weights: How far each is generalizable, ``[inputs, 2, coalitions]`` in [0, 1].

    Returns:
        Strength in score units, never normalised; the three parts add up to all ``Σ|I|``.
    """
    effects = interactions.effects
    generalizable = effects * (weights * salient)
    return OrderStrength(
        generalizable=_by_sign_and_order(generalizable),
        non_generalizable=_by_sign_and_order(effects * salient - generalizable),
        non_salient=_by_sign_and_order(effects * ~salient),
    )


def total_strength(strength: Float[Tensor, "inputs types signs orders"]) -> Float[Tensor, " inputs"]:
    """Add up strength over types, signs and orders."""
    return strength.sum(dim=(1, 2, 3))


def mean_order(strength: Float[Tensor, "inputs types signs orders"]) -> Float[Tensor, ""]:
    """Average the order ``|S|``, weighted by strength summed over inputs; NaN if there is no strength."""
    by_order = strength.sum(dim=(0, 1, 2))
    return (by_order * torch.arange(len(by_order)).to(by_order)).sum() / by_order.sum()


def cancellation(
    strength: Float[Tensor, " inputs"], empty_score: Float[Tensor, " inputs"], full_score: Float[Tensor, " inputs"]
) -> Float[Tensor, ""]:
    """Compare all strength with the score that it nets: ``Σ|I| / |v(N) - v(∅)|``, a ratio of means over inputs.

    Args:
        strength: ``Σ|I|`` of each input, salient or not, score units.
        empty_score: ``v(∅)`` of each input.
        full_score: ``v(N)`` of each input.

    Returns:
        A scalar of at least 1 where every input's effects add up to its score; NaN or infinite if no score moves.
    """
    return strength.mean() / (full_score - empty_score).abs().mean()


def _by_sign_and_order(effects: Float[Tensor, "inputs types coalitions"]) -> Float[Tensor, "inputs types signs orders"]:
    return sum_by_order(torch.stack([effects.clamp(min=0), (-effects).clamp(min=0)], dim=2))
