"""The feasible set: all effects that some decomposition of the values has, an affine set with orthonormal directions.

For ``u_and = v/2 + γ`` and ``u_or = v/2 - γ`` the effects ``x = (I_and, I_or)`` are an affine function of ``γ``. The maps
``γ → I_and`` and ``γ → I_or`` are Kronecker powers of the 2x2 matrices ``M`` (Möbius) and ``MJ`` (Möbius of the complemented
coalitions). One generalized eigenproblem of 2x2 matrices, ``(MᵀM) W = ((MJ)ᵀMJ) W diag(λ)``, turns them into ``U₁⊗ √λ⊗`` and
``U₂⊗`` with *orthogonal* ``U₁`` and ``U₂``. So the feasible effects are exactly
``{x : sin·U₁⊗ᵀx_and - cos·U₂⊗ᵀx_or = d}`` with ``cos² = λ⊗/(1 + λ⊗)``, and the orthogonal projection onto them costs four
Kronecker products and is as well conditioned as a rotation.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.kronecker import KroneckerProduct, generalized_eigenvectors, power_of_diagonal
from lightning_interactions.functional.transforms import MOBIUS, mobius_transform

__all__ = ["FeasibleEffects", "half_half_effects"]

DENSE_UP_TO = 5
"""Players up to which one dense factor is faster than several small ones."""


@dataclass(frozen=True, eq=False)
class FeasibleEffects:
    """Directions in which the decomposition of any values can change their effects.

    Effects have the shape ``[types, ..., coalitions]`` here, so that each type is one block of memory.

    Attributes:
        cos: ``[coalitions]``; share of the AND effects in each direction.
        sin: ``[coalitions]``; share of the OR effects.
        and_basis: ``U₁⊗``.
        or_basis: ``U₂⊗``.
        gamma_basis: ``W⊗``, which turns coordinates along the directions into ``γ``.
        to_and: ``U₁⊗ᵀ``.
        to_or: ``U₂⊗ᵀ``.
    """

    cos: Float[Tensor, " coalitions"]
    sin: Float[Tensor, " coalitions"]
    and_basis: KroneckerProduct
    or_basis: KroneckerProduct
    gamma_basis: KroneckerProduct
    to_and: KroneckerProduct
    to_or: KroneckerProduct

    @classmethod
    def like(cls, values: Float[Tensor, "*batch coalitions"]) -> "FeasibleEffects":
        """Find the directions for as many players as the values have, in their dtype and on their device."""
        num_players = infer_num_players(values.shape[-1])
        mobius = torch.tensor(MOBIUS, dtype=torch.float64)
        complemented = mobius.flip(-1)
        eigenvalues, w = generalized_eigenvectors(mobius.T @ mobius, complemented.T @ complemented)
        spectrum = power_of_diagonal(eigenvalues, num_players)
        and_basis, or_basis, gamma_basis = (
            KroneckerProduct.power(matrix, num_players, 1 if num_players <= DENSE_UP_TO else None).to(values)
            for matrix in (mobius @ w / eigenvalues.sqrt(), complemented @ w, w)
        )
        cos, sin = (spectrum / (1 + spectrum)).sqrt().to(values), (1 / (1 + spectrum)).sqrt().to(values)
        return cls(cos, sin, and_basis, or_basis, gamma_basis, to_and=and_basis.T, to_or=or_basis.T)

    @cached_property
    def empty_set_direction(self) -> Float[Tensor, "types 1 1 coalitions"]:
        """The direction of dual vectors that changes the empty set's entries, scaled to one there.

        A constant added to ``u_and`` moves both empty-set entries alike and nothing else, so dual vectors have opposite
        numbers there: one direction settles both.
        """
        unit = self.cos.new_zeros(2, 1, 1, len(self.cos))
        unit[0, ..., 0] = 1
        direction: Tensor = self.from_normal_part(self.normal_part(unit))
        return direction / direction[0, 0, 0, 0]

    def normal_part(self, effects: Float[Tensor, "types *batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
        """Coordinates of effects orthogonal to the directions; feasible effects share those of the half-half decomposition."""
        part: Tensor = self.sin * (self.to_and @ effects[0]) - self.cos * (self.to_or @ effects[1])
        return part

    def from_normal_part(self, coordinates: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "types *batch coalitions"]:
        """Effects with the given coordinates orthogonal to the directions, and none along them."""
        return torch.stack([self.and_basis @ (self.sin * coordinates), self.or_basis @ (-self.cos * coordinates)])

    def gamma(self, deviation: Float[Tensor, "types *batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
        """The ``γ`` whose effects deviate so from those of the half-half decomposition."""
        along = self.cos * (self.to_and @ deviation[0]) + self.sin * (self.to_or @ deviation[1])
        gamma: Tensor = self.gamma_basis @ (self.sin * along)
        return gamma


def half_half_effects(values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "types *batch coalitions"]:
    """Effects of the decomposition into two equal parts, of values with ``v(∅) = 0``."""
    return torch.stack([0.5 * mobius_transform(values), -0.5 * mobius_transform(values.flip(-1))])
