"""Terms: AND ``1(S ⊆ T)`` and OR ``1(S ∩ T ≠ ∅)`` of sets of players, and the search for those that explain a residual.

An OR of ``S`` on a coalition is one minus the AND of ``S`` on its complement, so one search serves both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Terms", "all_terms", "count_terms", "find_terms", "term_matrix"]

RAREST = 4
"""Coalitions in which a term must hold, and in which it must not hold, to be a candidate: fewer show only noise."""

BEAM_WIDTH = 64
"""Sets of each size from which the search goes on to larger ones."""


@dataclass(frozen=True, eq=False)
class Terms:
    """A list of distinct terms.

    Attributes:
        players: ``[terms, players]``, true for the players of the set.
        is_or: ``[terms]``, true for OR, false for AND.
    """

    players: Bool[Tensor, "terms players"]
    is_or: Bool[Tensor, " terms"]

    def __len__(self) -> int:
        return len(self.players)

    def select(self, index: Tensor) -> "Terms":
        """Return some of the terms, by index or mask."""
        return Terms(self.players[index], self.is_or[index])

    def key(self) -> Bool[Tensor, "terms key"]:
        """One row of bits a term, equal for equal terms."""
        return torch.cat([self.players, self.is_or[:, None]], dim=1)

    @staticmethod
    def from_key(key: Bool[Tensor, "terms key"]) -> "Terms":
        """Rebuild terms from :meth:`key`."""
        return Terms(key[:, :-1], key[:, -1])

    @staticmethod
    def cat(parts: "Sequence[Terms]") -> "Terms":
        """Put lists one after the other."""
        return Terms(torch.cat([part.players for part in parts]), torch.cat([part.is_or for part in parts]))

    def join(self, other: "Terms") -> "Terms":
        """Append terms, leaving out those that are there already."""
        known = set(map(tuple, self.key().tolist()))
        new = torch.tensor([tuple(row) not in known for row in other.key().tolist()], dtype=torch.bool)
        return Terms.cat([self, other.select(new.to(other.players.device))])


def all_terms(num_players: int, order: int, device: torch.device | None = None) -> Terms:
    """List the ANDs of all non-empty sets of at most ``order`` players, then the ORs of those of at least two players."""
    sets = []
    for size in range(1, order + 1):
        members = torch.tensor(list(combinations(range(num_players), size)), device=device)
        sets.append(torch.zeros(len(members), num_players, dtype=torch.bool, device=device).scatter(1, members, True))
    ands, ors = torch.cat(sets), torch.cat([sets[0][:0], *sets[1:]])
    is_or = torch.arange(len(ands) + len(ors), device=device) >= len(ands)
    return Terms(torch.cat([ands, ors]), is_or)


def count_terms(num_players: int, order: int) -> int:
    """Count what :func:`all_terms` would list, without listing it."""
    count, sets = 0, 1
    for size in range(1, min(order, num_players) + 1):
        sets = sets * (num_players - size + 1) // size
        count += sets if size == 1 else 2 * sets
    return count


def term_matrix(
    terms: Terms, masks: Bool[Tensor, "coalitions players"], dtype: torch.dtype
) -> Float[Tensor, "coalitions terms"]:
    """Say with 0 and 1 which terms hold in which coalitions."""
    common = masks.to(dtype) @ terms.players.to(dtype).T
    return torch.where(terms.is_or, common > 0, common == terms.players.sum(dim=1)).to(dtype)


def find_terms(
    masks: Bool[Tensor, "coalitions players"],
    residual: Float[Tensor, " coalitions"],
    orders: range,
    num_found: int,
) -> Terms:
    """Find terms that correlate with what is unexplained, by a beam search from single players to larger sets.

    Each step adds one player to each set of the beam and keeps the best of all sets of that size. A term correlates with
    its own subsets, so the way to a strong one leads uphill; one that none of its subsets announces is not found.

    Args:
        masks: The coalitions.
        residual: What is unexplained on each of them, mean zero.
        orders: Sizes of the sets that are returned; the search starts below them.
        num_found: How many terms to return at most.

    Returns:
        Terms with the largest absolute correlation first.
    """
    found, scores = [], []
    for is_or in (False, True):
        present = (~masks if is_or else masks).to(residual)
        sets = torch.eye(masks.shape[1], dtype=torch.bool, device=masks.device)
        for size in range(1, orders.stop):
            holds = (present @ sets.to(residual).T == size).to(residual)
            score = _correlation(holds.sum(dim=0), residual @ holds, len(masks))
            if size in orders:
                found.append(Terms(sets, torch.full_like(score, is_or, dtype=torch.bool)))
                scores.append(score)
            beam = _best(score, BEAM_WIDTH)
            sets, holds = sets[beam], holds[:, beam]
            larger = _correlation(holds.T @ present, (holds * residual[:, None]).T @ present, len(masks))
            larger = larger.masked_fill(sets, 0).flatten()
            # A set comes from as many parents as it has players, so more than a beam of children makes a beam of sets.
            best = _best(larger, 4 * BEAM_WIDTH)
            children = sets[best // masks.shape[1]].scatter(1, best[:, None] % masks.shape[1], True)
            if not len(children):
                break
            sets = torch.unique(children, dim=0)
    if not found:
        return Terms(masks[:0], masks[:0, 0])
    return Terms.cat(found).select(_best(torch.cat(scores), num_found))


def _correlation(count: Tensor, product: Tensor, num_coalitions: int) -> Tensor:
    """Absolute correlation up to a common factor; zero for terms that hold too rarely or nearly always."""
    deviation = (count * (1 - count / num_coalitions)).clamp(min=1).sqrt()
    seen = (count >= RAREST) & (count <= num_coalitions - RAREST)
    return torch.where(seen, product.abs() / deviation, 0.0)


def _best(score: Tensor, number: int) -> Tensor:
    """Indices of the largest positive scores, the largest first."""
    best = score.topk(min(number, len(score)))
    return best.indices[best.values > 0]
