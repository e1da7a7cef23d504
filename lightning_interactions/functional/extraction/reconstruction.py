"""The map ``R`` from effects back to values, and the inverse of ``R Rᵀ`` plus any multiple of the identity.

``R`` takes the AND and OR effects of all sets, the empty set included, to the values that they add up to. ``R Rᵀ`` is the sum
of the Kronecker powers of ``[[1, 1], [1, 2]]`` and ``[[2, 1], [1, 1]]``. One congruence of 2x2 matrices diagonalises the two,
but not the identity with them. Yet all three treat players alike, so in one orthonormal basis they consist of copies of a few
small blocks: functions on coalitions are spanned by chains, each of which starts at coalitions of one order and goes on by
adding players. With chains for either half of the players the basis stays a Kronecker product of two small matrices.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.kronecker import KroneckerProduct
from lightning_interactions.functional.transforms import ZETA

__all__ = ["Reconstruction"]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """``R``, its transpose, and the inverse of ``R Rᵀ + c``.

    Effects have the shape ``[types, ..., coalitions]`` here, so that each type is one block of memory.

    Attributes:
        zeta: The zeta transform.
        zeta_transposed: Its transpose.
        basis: The basis, whose vectors are columns.
        basis_transposed: Its transpose.
        order: ``[coalitions]``; sorts basis vectors by kind of block, then copy of the block, then place in the block.
        inverse_order: ``[coalitions]``; undoes it.
        eigenvectors: ``[places, places]`` for each kind of block of ``R Rᵀ``.
        eigenvalues: ``[places]`` for each kind of block.
        lengths: Number of basis vectors in all copies of each kind of block.
    """

    zeta: KroneckerProduct
    zeta_transposed: KroneckerProduct
    basis: KroneckerProduct
    basis_transposed: KroneckerProduct
    order: Int[Tensor, " coalitions"]
    inverse_order: Int[Tensor, " coalitions"]
    eigenvectors: tuple[Tensor, ...]
    eigenvalues: tuple[Tensor, ...]
    lengths: tuple[int, ...]

    @classmethod
    def like(cls, values: Float[Tensor, "*batch coalitions"]) -> "Reconstruction":
        """Make it for as many players as the values have, in their dtype and on their device."""
        num_coalitions = values.shape[-1]
        zeta = KroneckerProduct.power(torch.tensor(ZETA, dtype=torch.float64), infer_num_players(num_coalitions), num_groups=2)
        high, low = zeta.factors
        high_chains, low_chains = _chains(len(high)), _chains(len(low))
        numbers = torch.arange(num_coalitions).reshape(len(high), len(low))
        orders, eigenvectors, eigenvalues = [], [], []
        for (rows, row_chains), (columns, column_chains) in product(high_chains, low_chains):
            orders.append(numbers[rows[:, :, None, None], columns].transpose(1, 2).flatten())
            row_block, column_block = row_chains[0] @ high, column_chains[0] @ low
            row_flip, column_flip = row_chains[0] @ high.flip(0), column_chains[0] @ low.flip(0)
            block = torch.kron(row_block @ row_block.T, column_block @ column_block.T)
            block = block + torch.kron(row_flip @ row_flip.T, column_flip @ column_flip.T)
            spectrum = torch.linalg.eigh(block)
            eigenvalues.append(spectrum.eigenvalues.to(values))
            eigenvectors.append(spectrum.eigenvectors.to(values))
        order = torch.cat(orders)
        basis = KroneckerProduct((_basis(high_chains), _basis(low_chains))).to(values)
        return cls(
            zeta=zeta.to(values),
            zeta_transposed=zeta.to(values).T,
            basis=basis,
            basis_transposed=basis.T,
            order=order.to(values.device),
            inverse_order=order.argsort().to(values.device),
            eigenvectors=tuple(eigenvectors),
            eigenvalues=tuple(eigenvalues),
            lengths=tuple(len(positions) for positions in orders),
        )

    def values(self, effects: Float[Tensor, "types *batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
        """Add effects up to values: ``R``."""
        and_sum, or_sum = self.zeta @ effects
        values: Tensor = and_sum - or_sum.flip(-1)
        return values

    def pull(self, multipliers: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "types *batch coalitions"]:
        """How much each effect counts in a weighted sum of the values: ``Rᵀ``."""
        pulled: Tensor = self.zeta_transposed @ torch.stack([multipliers, -multipliers.flip(-1)])
        return pulled

    def solve(
        self, residual: Float[Tensor, "inputs coalitions"], shift: Float[Tensor, "inputs 1"]
    ) -> Float[Tensor, "inputs coalitions"]:
        """Solve ``(R Rᵀ + c) y = r``.

        Args:
            residual: ``r``.
            shift: ``c`` of each input, not negative.

        Returns:
            ``y``.
        """
        coordinates = (self.basis_transposed @ residual)[:, self.order]
        solved = []
        for part, vectors, eigenvalues in zip(
            coordinates.split(self.lengths, dim=1), self.eigenvectors, self.eigenvalues, strict=True
        ):
            copies = part.reshape(len(part), -1, len(vectors)) @ vectors / (eigenvalues + shift[:, :, None])
            solved.append((copies @ vectors.mT).flatten(1))
        solution: Tensor = self.basis @ torch.cat(solved, dim=1)[:, self.inverse_order]
        return solution


def _chains(num_coalitions: int) -> list[tuple[Tensor, Tensor]]:
    """Split functions on coalitions into chains that every matrix which treats players alike maps to themselves.

    A chain starts at a function on the coalitions of one order that sums to zero over the supersets of every smaller
    coalition; each further member is the sum of the last one over subsets with one player less.

    Args:
        num_coalitions: ``2^m`` for ``m`` players; ``m`` may be zero.

    Returns:
        For each kind of chain the numbers of its vectors in the basis, ``[copies, places]``, and the vectors themselves,
        ``[copies, places, coalitions]``, which are orthonormal. Such matrices act alike on all copies.

    Source:
        Dunkl 1976, "A Krawtchouk polynomial addition theorem and wreath products of symmetric groups".
    """
    index = torch.arange(num_coalitions)
    sizes = torch.tensor([coalition.bit_count() for coalition in range(num_coalitions)])
    adds_a_player = ((sizes[index[:, None] ^ index] == 1) & (index[:, None] > index)).double()
    num_players = int(sizes[-1])
    chains, first = [], 0
    for start in range(num_players // 2 + 1):
        members = sizes == start
        smaller_to_larger = adds_a_player[members][:, sizes == start - 1]
        zero_sums = torch.linalg.qr(smaller_to_larger, mode="complete").Q[:, smaller_to_larger.shape[1] :].T
        vectors = torch.zeros(len(zero_sums), num_coalitions, dtype=torch.float64)
        vectors[:, members] = zero_sums
        chain = [vectors]
        for _ in range(num_players - 2 * start):
            longer = chain[-1] @ adds_a_player.T
            chain.append(longer / longer.norm(dim=1, keepdim=True))
        numbers = torch.arange(first, first + len(vectors) * len(chain)).reshape(len(vectors), len(chain))
        chains.append((numbers, torch.stack(chain, dim=1)))
        first += numbers.numel()
    return chains


def _basis(chains: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([vectors.flatten(0, 1) for _, vectors in chains]).T.contiguous()
