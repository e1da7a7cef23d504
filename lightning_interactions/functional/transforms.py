"""Möbius and zeta transforms over coalitions, as Kronecker powers of 2x2 matrices, for any batch.

Every transform here is ``A ⊗ A ⊗ … ⊗ A`` with one 2x2 matrix for each player. Grouping the players into two to four parts
turns it into as many dense products, which is what a BLAS does fastest; a ``2^n x 2^n`` matrix never exists.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.records import Interactions

__all__ = [
    "and_effects",
    "fold_single_players",
    "kronecker_transform",
    "matching_error",
    "mobius_transform",
    "or_effects",
    "reconstruct_values",
    "zeta_transform",
]

MOBIUS = ((1.0, 0.0), (-1.0, 1.0))
ZETA = ((1.0, 0.0), (1.0, 1.0))

TWO_GROUPS_UP_TO = 11
"""Players up to which two dense factors are fastest on a CPU; beyond, their size outweighs a further pass over the data."""

LARGEST_GROUP = 5
"""Players in one factor where there are more than two."""


def kronecker_factors(matrix: Float[Tensor, "2 2"], num_players: int, num_groups: int | None = None) -> tuple[Tensor, ...]:
    """Split the Kronecker power of a 2x2 matrix into dense factors of about equal size.

    Args:
        matrix: The matrix that acts on every player's bit.
        num_players: Number of players ``n``.
        num_groups: Number of factors; what is fastest on a CPU if left out.

    Returns:
        One factor for each group of players, from the high bits to the low ones.
    """
    if num_groups is None:
        num_groups = 2 if num_players <= TWO_GROUPS_UP_TO else -(-num_players // LARGEST_GROUP)
    sizes = [(num_players + group) // num_groups for group in range(num_groups)]
    return tuple(_kronecker_power(matrix, size) for size in reversed(sizes))


def apply_factors(values: Float[Tensor, "*batch coalitions"], factors: Sequence[Tensor]) -> Float[Tensor, "*batch coalitions"]:
    """Apply a Kronecker power, given as its dense factors, to the last axis."""
    *others, lowest = factors
    # One product for the whole batch, then one for each input and each state of the higher bits.
    transformed = values.reshape(-1, len(lowest)) @ lowest.mT
    num_lower = len(lowest)
    for factor in reversed(others):
        grid = transformed.reshape(-1, len(factor), num_lower)
        transformed = torch.bmm(factor.expand(len(grid), *factor.shape), grid)
        num_lower *= len(factor)
    return transformed.reshape(values.shape)


def kronecker_transform(
    values: Float[Tensor, "*batch coalitions"], matrix: Float[Tensor, "2 2"]
) -> Float[Tensor, "*batch coalitions"]:
    """Apply the Kronecker power of a 2x2 matrix to the coalition axis.

    Args:
        values: Any real numbers, one for each coalition along the last axis.
        matrix: Acts on the pair (player absent, player present) of every player.

    Returns:
        The transformed numbers, of the same shape, dtype and device.

    Raises:
        ValueError: If the last axis does not hold ``2^n`` entries.
    """
    num_players = infer_num_players(values.shape[-1])
    with full_precision(values.device):
        return apply_factors(values, kronecker_factors(matrix.to(values), num_players))


def mobius_transform(values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """Compute the Möbius transform (Harsanyi dividends) ``m(S) = Σ_{T⊆S} (-1)^{|S|-|T|} v(T)``."""
    return kronecker_transform(values, torch.tensor(MOBIUS))


def zeta_transform(effects: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """Compute the zeta transform ``v(T) = Σ_{S⊆T} m(S)``, the inverse of :func:`mobius_transform`."""
    return kronecker_transform(effects, torch.tensor(ZETA))


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
    and_sum = zeta_transform(interactions.and_effects)
    or_inside = zeta_transform(interactions.or_effects)
    or_sum = or_inside[..., -1:] - or_inside.flip(-1)
    return interactions.offset[..., None] + and_sum + or_sum


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
    singles = 2 ** torch.arange(infer_num_players(interactions.and_effects.shape[1]))
    and_effects, or_effects = interactions.and_effects.clone(), interactions.or_effects.clone()
    and_effects[:, singles] += or_effects[:, singles]
    or_effects[:, singles] = 0
    return Interactions(and_effects, or_effects, interactions.offset)


def _kronecker_power(matrix: Tensor, exponent: int) -> Tensor:
    power = torch.ones(1, 1, dtype=matrix.dtype, device=matrix.device)
    for _ in range(exponent):
        power = torch.kron(matrix, power)
    return power


def _without_empty_set(effects: Tensor) -> Tensor:
    effects = effects.clone()
    effects[..., 0] = 0
    return effects
