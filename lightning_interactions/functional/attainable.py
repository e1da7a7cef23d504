"""The effects that a split of values into an AND and an OR part can have, as an affine set with orthonormal directions.

For ``u_and = v/2 + γ`` and ``u_or = v/2 - γ`` the effects ``x = (I_and, I_or)`` are an affine function of ``γ``. The maps
``γ → I_and`` and ``γ → I_or`` are Kronecker powers of the 2x2 matrices ``M`` (Möbius) and ``MJ`` (Möbius of the complemented
coalitions). One generalised eigenproblem of 2x2 matrices, ``(MᵀM) W = ((MJ)ᵀMJ) W diag(λ)``, turns them into ``U₁⊗ √λ⊗`` and
``U₂⊗`` with *orthogonal* ``U₁`` and ``U₂``. So the attainable effects are exactly
``{x : sin·U₁⊗ᵀx_and - cos·U₂⊗ᵀx_or = d}`` with ``cos² = λ⊗/(1 + λ⊗)``, and the orthogonal projection onto them costs four
Kronecker products and is as well conditioned as a rotation.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.transforms import MOBIUS, apply_factors, kronecker_factors, mobius_transform

__all__ = ["AttainableEffects"]


@dataclass(frozen=True)
class AttainableEffects:
    """The affine set of effects that any split of the values can have.

    Attributes:
        base: ``[inputs, 2, coalitions]``; the effects of the half-half split, one point of the set.
        cos: ``[coalitions]``; share of the AND effects in each direction of the set.
        sin: ``[coalitions]``; share of the OR effects.
        and_basis: Factors of ``U₁⊗``.
        or_basis: Factors of ``U₂⊗``.
        split_basis: Factors of ``W⊗``, which turns coordinates along the set into ``γ``.
    """

    base: Tensor
    cos: Tensor
    sin: Tensor
    and_basis: tuple[Tensor, Tensor]
    or_basis: tuple[Tensor, Tensor]
    split_basis: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, values: Tensor) -> "AttainableEffects":
        """Find the attainable effects of values ``[inputs, coalitions]`` with ``v(∅) = 0``."""
        num_players = infer_num_players(values.shape[1])
        mobius = torch.tensor(MOBIUS, dtype=torch.float64)
        complemented = mobius.flip(-1)
        inverse_root = torch.linalg.inv(torch.linalg.cholesky(complemented.T @ complemented))
        eigenvalues, vectors = torch.linalg.eigh(inverse_root @ mobius.T @ mobius @ inverse_root.T)
        w = inverse_root.T @ vectors
        spectrum = torch.ones(1, dtype=torch.float64)
        for _ in range(num_players):
            spectrum = torch.kron(eigenvalues, spectrum)

        def factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
            high, low = kronecker_factors(matrix, num_players)
            return high.to(values), low.to(values)

        return cls(
            base=torch.stack([0.5 * mobius_transform(values), -0.5 * mobius_transform(values.flip(-1))], dim=1),
            cos=(spectrum / (1 + spectrum)).sqrt().to(values),
            sin=(1 / (1 + spectrum)).sqrt().to(values),
            and_basis=factors(mobius @ w / eigenvalues.sqrt()),
            or_basis=factors(complemented @ w),
            split_basis=factors(w),
        )

    def to(self, dtype: torch.dtype) -> "AttainableEffects":
        """Return the same set in another precision."""

        def cast(part: Tensor | tuple[Tensor, Tensor]) -> Any:
            return part.to(dtype) if isinstance(part, Tensor) else (part[0].to(dtype), part[1].to(dtype))

        return AttainableEffects(**{field.name: cast(getattr(self, field.name)) for field in fields(self)})

    def normal_part(self, effects: Tensor) -> Tensor:
        """Coordinates of effects orthogonal to the set's directions."""
        and_part = apply_factors(effects[:, 0], _transposed(self.and_basis))
        or_part = apply_factors(effects[:, 1], _transposed(self.or_basis))
        return self.sin * and_part - self.cos * or_part

    def from_normal_part(self, coordinates: Tensor) -> Tensor:
        """Effects with the given coordinates orthogonal to the set's directions, and none along them."""
        and_part = apply_factors(self.sin * coordinates, self.and_basis)
        or_part = apply_factors(self.cos * coordinates, self.or_basis)
        return torch.stack([and_part, -or_part], dim=1)

    def split(self, effects: Tensor) -> Tensor:
        """The split ``γ`` that has these attainable effects."""
        deviation = effects - self.base
        and_part = apply_factors(deviation[:, 0], _transposed(self.and_basis))
        or_part = apply_factors(deviation[:, 1], _transposed(self.or_basis))
        return apply_factors(self.sin * (self.cos * and_part + self.sin * or_part), self.split_basis)


def _transposed(factors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return factors[0].mT, factors[1].mT
