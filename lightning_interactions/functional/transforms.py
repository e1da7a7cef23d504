"""Möbius and zeta transforms over coalitions, AND and OR effects of values, and values of effects, for any batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.kronecker import KroneckerProduct
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.records import Interactions

__all__ = [
    "and_effects",
    "fold_single_players",
    "matching_error",
    "mobius_transform",
    "or_effects",
    "reconstruct_values",
    "zeta_transform",
]

MOBIUS = ((1.0, 0.0), (-1.0, 1.0))
"""The Möbius transform of one player; that of all is its Kronecker power."""

ZETA = ((1.0, 0.0), (1.0, 1.0))
"""Its inverse."""


def mobius_transform(values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """Compute the Möbius transform (Harsanyi dividends) ``m(S) = Σ_{T⊆S} (-1)^{|S|-|T|} v(T)``."""
    return _transform(values, MOBIUS)


def zeta_transform(effects: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """Compute the zeta transform ``v(T) = Σ_{S⊆T} m(S)``, the inverse of :func:`mobius_transform`."""
    return _transform(effects, ZETA)


def and_effects(and_values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """Compute AND effects ``I_and(S) = Σ_{T⊆S} (-1)^{|S|-|T|} u_and(T)``.

    Args:
        and_values: The AND part ``u_and`` of the values.

    Returns:
        The effects; the empty set's entry is zero, it is an offset and not an interaction.

    Source:
        Li & Zhang 2023 (arXiv 2304.13312), the Harsanyi dividend of ``u_and``.
    """
    return _without_empty_set(mobius_transform(and_values))


def or_effects(or_values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """Compute OR effects ``I_or(S) = -Σ_{T⊆S} (-1)^{|S|-|T|} u_or(N∖T)``.

    Args:
        or_values: The OR part ``u_or`` of the values.

    Returns:
        The effects; the empty set's entry is zero.

    Source:
        Li & Zhang 2023 (arXiv 2304.13312): minus the Möbius transform of ``u_or`` with its coalitions complemented.
    """
    return _without_empty_set(-mobius_transform(or_values.flip(-1)))


def reconstruct_values(interactions: Interactions) -> Float[Tensor, "inputs coalitions"]:
    """Rebuild the values on every coalition from the interactions (universal matching).

    ``v(T) = v(∅) + Σ_{∅≠S⊆T} I_and(S) + Σ_{S∩T≠∅} I_or(S)``.

    Args:
        interactions: AND and OR effects with their offset.

    Returns:
        The values of shape ``[inputs, coalitions]``.

    Source:
        He et al. 2025 (arXiv 2505.06993), the universal-matching theorem.
    """
    and_sum, or_inside = zeta_transform(interactions.effects).unbind(dim=1)
    or_sum = or_inside[:, -1:] - or_inside.flip(-1)
    return interactions.offset[:, None] + and_sum + or_sum


def matching_error(interactions: Interactions, values: Float[Tensor, "inputs coalitions"]) -> Float[Tensor, " inputs"]:
    """Measure how far interactions are from matching the values.

    Args:
        interactions: AND and OR effects with their offset.
        values: The values that they should add up to, of the same inputs.

    Returns:
        The largest distance over all coalitions, ``[inputs]``, in score units: rounding for exact interactions, at most
        ``κ|v(N) - v(∅)|`` for a noise tolerance ``κ``.
    """
    return (reconstruct_values(interactions) - values).abs().amax(dim=-1)


def fold_single_players(interactions: Interactions) -> Interactions:
    """Move the OR effect of every single player into its AND effect: both count when that player is unmasked."""
    folded = Interactions(interactions.effects.clone(), interactions.offset)
    singles = 2 ** torch.arange(infer_num_players(folded.effects.shape[-1]), device=folded.effects.device)
    folded.and_effects[:, singles] += folded.or_effects[:, singles]
    folded.or_effects[:, singles] = 0
    return folded


def _transform(values: Tensor, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    power = KroneckerProduct.power(torch.tensor(matrix), infer_num_players(values.shape[-1]))
    with full_precision(values.device):
        transformed: Tensor = power.to(values) @ values
    return transformed


def _without_empty_set(effects: Tensor) -> Tensor:
    effects = effects.clone()
    effects[..., 0] = 0
    return effects
