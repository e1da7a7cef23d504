"""Which terms a sparse sum is made of: the lasso over candidates, and larger sets that its residual suggests."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_interactions.functional.sampled.lasso import lasso_path, least_squares
from lightning_interactions.functional.sampled.terms import Terms, find_terms, term_matrix

__all__ = ["CoalitionParts", "TermFit", "select_terms"]

NUM_PENALTIES = 20
SMALLEST_PENALTY = 1e-3
"""l1 penalties fall in equal ratios to this fraction of the smallest one that leaves nothing."""

ROUNDS = 8
CANDIDATES_PER_ROUND = 256
LEAST_GAIN = 0.01
"""Fraction by which larger sets must lower the validation error to be taken up."""

SOLVED = 1e-3
"""Validation error, as a fraction of the spread, below which a game counts as solved and only sparser sums are looked for."""

HOPELESS = 1.1
"""Validation error over the smallest so far from which smaller penalties are not tried."""


@dataclass(frozen=True, eq=False)
class CoalitionParts:
    """Row numbers of the coalitions that are fitted, that validate and that are held out."""

    fitted: Int[Tensor, " fitted"]
    validation: Int[Tensor, " validation"]
    held_out: Int[Tensor, " held_out"]


@dataclass(frozen=True, eq=False)
class TermFit:
    """A sparse sum for one input and how it was found.

    Attributes:
        candidates: What the lasso could choose from.
        terms: What it chose.
        coefficients: ``[terms]``, in units of the spread of the input's values.
        penalties: The l1 penalties down to the chosen one.
        refitted: Whether the coefficients were estimated once more without penalty.
        error: Root mean square error on the validation coalitions, in units of the spread.
    """

    candidates: Terms
    terms: Terms
    coefficients: Float[Tensor, " terms"]
    penalties: Float[Tensor, " penalties"]
    refitted: bool
    error: float

    def is_better_than(self, other: "TermFit") -> bool:
        """Compare validation errors; of two that both solve the game, take the sparser one."""
        if max(self.error, other.error) < SOLVED:
            return bool(self.coefficients.abs().sum() < other.coefficients.abs().sum())
        return self.error < other.error


def select_terms(
    masks: Bool[Tensor, "coalitions players"],
    values: Float[Tensor, " coalitions"],
    base: Terms,
    holds: Float[Tensor, "coalitions terms"],
    orders: range,
    parts: CoalitionParts,
) -> TermFit:
    """Fit one input from two starts and keep the one with the smaller validation error.

    With single players for a start every larger set has to be found in a residual: few candidates, which suit few strong
    interactions. With all sets up to the order for a start many weak interactions of low order are estimated together.

    Args:
        masks: The coalitions.
        values: Of one input.
        base: All terms up to the order, single players first.
        holds: The matrix of ``base``, of mean zero over the fitted coalitions.
        orders: Sizes of the larger sets that are searched for.
        parts: Which coalitions are fitted and which validate; the held-out ones are not looked at.
    """
    centred = values - values[parts.fitted].mean()
    spread = centred[parts.fitted].square().mean().sqrt()
    if not spread > torch.finfo(values.dtype).eps * values[parts.fitted].abs().amax():
        return TermFit(base, base.select(torch.arange(0)), values[:0], penalties=values[:0], refitted=False, error=0.0)
    target = centred / spread
    num_players = masks.shape[1]
    fit = _grow(masks, target, base.select(torch.arange(num_players)), holds[:, :num_players], range(2, orders.stop), parts)
    if fit.error < SOLVED:
        # Terms of one set's subsets depend on each other, so a solved game may have a sparser sum of other low orders.
        found = fit.terms.select(fit.terms.players.sum(dim=1) >= orders.start)
        other = _fit_terms(*_extended(base, holds, found, masks, parts), target, parts)
    else:
        other = _grow(masks, target, base, holds, orders, parts)
    return other if other.is_better_than(fit) else fit


def _grow(masks: Tensor, target: Tensor, base: Terms, holds: Tensor, orders: range, parts: CoalitionParts) -> TermFit:
    """Add terms that are found in the residual, as long as the validation error falls."""
    fitted = parts.fitted
    best = _fit_terms(base, holds, target, parts)
    for _ in range(ROUNDS if len(orders) else 0):
        chosen = term_matrix(best.terms, masks[fitted], target.dtype)
        residual = target[fitted] - (chosen - chosen.mean(dim=0)) @ best.coefficients
        grown = best.terms.select(best.terms.players.sum(dim=1) >= orders.start)
        grown = grown.join(find_terms(masks[fitted], residual, orders, CANDIDATES_PER_ROUND))
        fit = _fit_terms(*_extended(base, holds, grown, masks, parts), target, parts)
        if fit.error >= (1 - LEAST_GAIN) * best.error:
            break
        best = fit
    return best


def _extended(base: Terms, holds: Tensor, more: Terms, masks: Tensor, parts: CoalitionParts) -> tuple[Terms, Tensor]:
    """Append terms and their columns, of mean zero over the fitted coalitions."""
    columns = term_matrix(more, masks, holds.dtype)
    columns -= columns[parts.fitted].mean(dim=0)
    return Terms.cat([base, more]), torch.cat([holds, columns], dim=1)


def _fit_terms(terms: Terms, holds: Tensor, target: Tensor, parts: CoalitionParts) -> TermFit:
    """Choose the penalty, and whether to refit what it selects without penalty, by the validation error."""
    features, response = holds[parts.fitted], target[parts.fitted]
    largest = (features.T @ response).abs().amax() / len(response)
    penalties = largest * SMALLEST_PENALTY ** torch.linspace(0, 1, NUM_PENALTIES).to(target)
    best = TermFit(terms, terms.select(torch.arange(0)), target[:0], penalties[:0], refitted=False, error=torch.inf)
    for step, coefficients in enumerate(lasso_path(features, response, penalties)):
        support = coefficients.nonzero().flatten()
        if len(support) > len(response) // 2:
            break
        columns = holds[:, support]
        options = torch.stack([coefficients[support], least_squares(columns[parts.fitted], response)])
        misses = target[parts.validation] - options @ columns[parts.validation].T
        errors = misses.square().mean(dim=1).sqrt()
        chosen = int(errors.argmin())
        fit = TermFit(terms, terms.select(support), options[chosen], penalties[: step + 1], bool(chosen), float(errors[chosen]))
        if fit.is_better_than(best):
            best = fit
        elif fit.error > HOPELESS * max(best.error, SOLVED):
            break
    return best
