"""The effects that a split of values into an AND and an OR part can have, as an affine set with orthonormal directions.

For ``u_and = v/2 + γ`` and ``u_or = v/2 - γ`` the effects ``x = (I_and, I_or)`` are an affine function of ``γ``. The maps
``γ → I_and`` and ``γ → I_or`` are Kronecker powers of the 2x2 matrices ``M`` (Möbius) and ``MJ`` (Möbius of the complemented
coalitions). One generalised eigenproblem of 2x2 matrices, ``(MᵀM) W = ((MJ)ᵀMJ) W diag(λ)``, turns them into ``U₁⊗ √λ⊗`` and
``U₂⊗`` with *orthogonal* ``U₁`` and ``U₂``. So the attainable effects are exactly
``{x : sin·U₁⊗ᵀx_and - cos·U₂⊗ᵀx_or = d}`` with ``cos² = λ⊗/(1 + λ⊗)``, and the orthogonal projection onto them costs four
Kronecker products and is as well conditioned as a rotation.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.transforms import MOBIUS, apply_factors, kronecker_factors, mobius_transform

__all__ = ["AttainableEffects", "half_half_effects"]

DENSE_UP_TO = 5
"""Players up to which one dense product is faster than many small ones."""


@dataclass(frozen=True)
class AttainableEffects:
    """Directions in which the split of any values can change their effects.

    Effects have the shape ``[types, ..., coalitions]`` here, so that each type is one block of memory.

    Attributes:
        cos: ``[coalitions]``; share of the AND effects in each direction.
        sin: ``[coalitions]``; share of the OR effects.
        and_basis: Factors of ``U₁⊗``.
        or_basis: Factors of ``U₂⊗``.
        split_basis: Factors of ``W⊗``, which turns coordinates along the directions into ``γ``.
        normals: ``[types, coalitions, coordinates]``; ``sin·U₁⊗`` and ``-cos·U₂⊗`` in full for few players, else empty.
    """

    cos: Float[Tensor, " coalitions"]
    sin: Float[Tensor, " coalitions"]
    and_basis: tuple[Tensor, ...]
    or_basis: tuple[Tensor, ...]
    split_basis: tuple[Tensor, ...]
    normals: Float[Tensor, "types coalitions coordinates"]

    @classmethod
    def like(cls, values: Float[Tensor, "*batch coalitions"]) -> "AttainableEffects":
        """Find the directions for as many players as the values have, in their dtype and on their device."""
        num_players = infer_num_players(values.shape[-1])
        mobius = torch.tensor(MOBIUS, dtype=torch.float64)
        complemented = mobius.flip(-1)
        inverse_root = torch.linalg.inv(torch.linalg.cholesky(complemented.T @ complemented))
        eigenvalues, vectors = torch.linalg.eigh(inverse_root @ mobius.T @ mobius @ inverse_root.T)
        w = inverse_root.T @ vectors
        spectrum = torch.ones(1, dtype=torch.float64)
        for _ in range(num_players):
            spectrum = torch.kron(eigenvalues, spectrum)

        def factors(matrix: Tensor) -> tuple[Tensor, ...]:
            return tuple(factor.to(values) for factor in kronecker_factors(matrix, num_players))

        kronecker = cls(
            cos=(spectrum / (1 + spectrum)).sqrt().to(values),
            sin=(1 / (1 + spectrum)).sqrt().to(values),
            and_basis=factors(mobius @ w / eigenvalues.sqrt()),
            or_basis=factors(complemented @ w),
            split_basis=factors(w),
            normals=values.new_zeros(0),
        )
        if num_players > DENSE_UP_TO:
            return kronecker
        units = torch.eye(len(spectrum), dtype=values.dtype, device=values.device)
        return replace(kronecker, normals=kronecker.from_normal_part(units).mT)

    def normal_part(self, effects: Float[Tensor, "types *batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
        """Coordinates of effects orthogonal to the directions; attainable effects share those of the half-half split."""
        if len(self.normals):
            return (effects.flatten(1, -2) @ self.normals).sum(dim=0).reshape(effects.shape[1:])
        and_part = apply_factors(effects[0], _transposed(self.and_basis))
        or_part = apply_factors(effects[1], _transposed(self.or_basis))
        return and_part.mul_(self.sin).addcmul_(or_part, self.cos, value=-1)

    def from_normal_part(self, coordinates: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "types *batch coalitions"]:
        """Effects with the given coordinates orthogonal to the directions, and none along them."""
        if len(self.normals):
            return (coordinates.flatten(0, -2) @ self.normals.mT).reshape(2, *coordinates.shape)
        and_part = apply_factors(self.sin * coordinates, self.and_basis)
        or_part = apply_factors(-self.cos * coordinates, self.or_basis)
        return torch.stack([and_part, or_part])

    def split(self, deviation: Float[Tensor, "types *batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
        """The ``γ`` whose effects deviate so from those of the half-half split."""
        and_part = apply_factors(deviation[0], _transposed(self.and_basis))
        or_part = apply_factors(deviation[1], _transposed(self.or_basis))
        return apply_factors(self.sin * (self.cos * and_part + self.sin * or_part), self.split_basis)


def half_half_effects(values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "types *batch coalitions"]:
    """Effects of the split into two equal parts, of values with ``v(∅) = 0``."""
    return torch.stack([0.5 * mobius_transform(values), -0.5 * mobius_transform(values.flip(-1))])


def _transposed(factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(factor.mT for factor in factors)
