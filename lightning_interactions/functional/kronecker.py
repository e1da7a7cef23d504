"""Kronecker powers of 2x2 matrices: one operator for everything that treats all players alike.

A matrix that acts on every player's bit in the same way is ``A ⊗ A ⊗ … ⊗ A`` on coalitions, with one 2x2 matrix ``A`` for each
player. Grouping the players into two to four parts turns it into as many dense products, which is what a BLAS does fastest; a
``2^n x 2^n`` matrix never exists.
"""

import math
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import no_type_check

import torch
from jaxtyping import Float
from scipy.linalg import eigh
from torch import Tensor

__all__ = ["KroneckerProduct", "generalized_eigenvectors", "power_of_diagonal"]

TWO_GROUPS_UP_TO = 11
"""Players up to which two dense factors are fastest on a CPU; beyond, their size outweighs a further pass over the data."""

LARGEST_GROUP = 5
"""Players in one factor where there are more than two."""


@dataclass(frozen=True, eq=False)
class KroneckerProduct:
    """The matrix ``F₁ ⊗ F₂ ⊗ … ⊗ F_k``, which acts on the last axis of a tensor.

    ``product @ values`` is ``Σ_T P[S, T] v[..., T]`` for every ``S``: the axes before the last one are a batch. It runs in the
    arithmetic that is set, so callers open :func:`full_precision`. Factors and values have one dtype and one device.

    Attributes:
        factors: Square matrices, from the high bits of a coalition's index to the low ones.
    """

    factors: tuple[Tensor, ...]

    @classmethod
    def power(cls, matrix: Float[Tensor, "2 2"], num_players: int, num_groups: int | None = None) -> "KroneckerProduct":
        """Build the Kronecker power of a 2x2 matrix from dense factors of about equal size.

        Args:
            matrix: Acts on the pair (player absent, player present) of every player.
            num_players: Number of players ``n``.
            num_groups: Number of factors; what is fastest on a CPU if left out.

        Returns:
            The power, ``2^n x 2^n``, in the dtype and on the device of the matrix.
        """
        if num_groups is None:
            num_groups = 2 if num_players <= TWO_GROUPS_UP_TO else -(-num_players // LARGEST_GROUP)
        sizes = [(num_players + group) // num_groups for group in range(num_groups)]
        return cls(tuple(_repeated(matrix, size) for size in reversed(sizes)))

    @cached_property
    def size(self) -> int:
        """Number of rows, and of columns."""
        return math.prod(map(len, self.factors))

    def __repr__(self) -> str:
        return f"KroneckerProduct({' x '.join(str(len(factor)) for factor in self.factors)})"

    @no_type_check  # called thousands of times
    def __matmul__(self, values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
        """Apply the matrix to the last axis."""
        if values.shape[-1] != self.size:
            raise ValueError(f"KroneckerProduct: expected a last axis of {self.size} entries, got {values.shape[-1]}")
        *others, lowest = self.factors
        # One product for the whole batch, then one for each input and each state of the higher bits.
        transformed = values.reshape(-1, len(lowest)) @ lowest.mT
        num_lower = len(lowest)
        for factor in reversed(others):
            grid = transformed.reshape(-1, len(factor), num_lower)
            transformed = torch.bmm(factor.expand(len(grid), *factor.shape), grid)
            num_lower *= len(factor)
        return transformed.reshape(values.shape)

    @property
    def T(self) -> "KroneckerProduct":  # noqa: N802  # as torch calls it
        """The transpose, without a copy."""
        return KroneckerProduct(tuple(factor.mT for factor in self.factors))

    def to(self, like: Tensor) -> "KroneckerProduct":
        """Convert to the dtype and the device of a tensor."""
        return KroneckerProduct(tuple(factor.to(like) for factor in self.factors))

    def dense(self) -> Float[Tensor, "coalitions coalitions"]:
        """Write the matrix out in full: the slow oracle, for few players."""
        return reduce(torch.kron, self.factors)


def power_of_diagonal(diagonal: Float[Tensor, "2"], num_players: int) -> Float[Tensor, " coalitions"]:
    """Compute the diagonal of the Kronecker power of a diagonal 2x2 matrix, such as its eigenvalues."""
    return _repeated(diagonal, num_players)


def generalized_eigenvectors(
    first: Float[Tensor, "2 2"], second: Float[Tensor, "2 2"]
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2 2"]]:
    """Diagonalise two symmetric matrices at once; their Kronecker powers then are diagonal in the power of the same basis.

    Args:
        first: ``A``, symmetric.
        second: ``B``, symmetric and positive definite.

    Returns:
        Eigenvalues ``λ``, rising, and a basis ``W`` with ``WᵀBW = 1`` and ``WᵀAW = diag(λ)``, both in float64 on the CPU.
    """
    eigenvalues, vectors = eigh(first.double().cpu().numpy(), second.double().cpu().numpy())
    return torch.from_numpy(eigenvalues), torch.from_numpy(vectors)


def _repeated(matrix: Tensor, exponent: int) -> Tensor:
    """Kronecker power in full, of a matrix or a vector."""
    one = torch.ones((1,) * matrix.ndim, dtype=matrix.dtype, device=matrix.device)
    return reduce(lambda power, factor: torch.kron(factor, power), [matrix] * exponent, one)
