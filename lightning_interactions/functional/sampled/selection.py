"""Which triggers a sparse sum is made of: the lasso over candidates, and larger sets that its residual suggests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interactions.functional.sampled.lasso import lasso_path, least_squares
from lightning_interactions.functional.sampled.terms import Triggers, find_triggers, trigger_matrix

__all__ = ["CoalitionSplit", "TriggerFit", "select_triggers"]

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


@dataclass(frozen=True)
class CoalitionSplit:
    """Row numbers of the coalitions that are fitted, that validate and that are held out."""

    fitted: Tensor
    validation: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class TriggerFit:
    """A sparse sum for one input and how it was found.

    Attributes:
        candidates: What the lasso could choose from.
        triggers: What it chose.
        coefficients: ``[triggers]``, in units of the spread of the input's values.
        penalties: The l1 penalties down to the chosen one.
        refitted: Whether the coefficients were estimated once more without penalty.
        error: Root mean square error on the validation coalitions, in units of the spread.
    """

    candidates: Triggers
    triggers: Triggers
    coefficients: Tensor
    penalties: Tensor
    refitted: bool
    error: float

    def is_better_than(self, other: "TriggerFit") -> bool:
        """Compare validation errors; of two that both solve the game, take the sparser one."""
        if max(self.error, other.error) < SOLVED:
            return bool(self.coefficients.abs().sum() < other.coefficients.abs().sum())
        return self.error < other.error


def select_triggers(
    masks: Tensor, values: Tensor, base: Triggers, holds: Tensor, orders: range, split: CoalitionSplit
) -> TriggerFit:
    """Fit one input from two starts and keep the one with the smaller validation error.

    With single players for a start every larger set has to be found in a residual: few candidates, which suit few strong
    interactions. With all sets up to the order for a start many weak interactions of low order are estimated together.

    Args:
        masks: ``[coalitions, players]``.
        values: ``[coalitions]``, of one input.
        base: All triggers up to the order, single players first.
        holds: ``[coalitions, triggers]``, the matrix of ``base``, of mean zero over the fitted coalitions.
        orders: Sizes of the larger sets that are searched for.
        split: Which coalitions are fitted and which validate; the held-out ones are not looked at.
    """
    centred = values - values[split.fitted].mean()
    spread = centred[split.fitted].square().mean().sqrt()
    if not spread > torch.finfo(values.dtype).eps * values[split.fitted].abs().amax():
        return TriggerFit(base, base.select(torch.arange(0)), values[:0], penalties=values[:0], refitted=False, error=0.0)
    target = centred / spread
    num_players = masks.shape[1]
    fit = _grow(masks, target, base.select(torch.arange(num_players)), holds[:, :num_players], range(2, orders.stop), split)
    if fit.error < SOLVED:
        # Triggers of one set's subsets depend on each other, so a solved game may have a sparser sum of other low orders.
        found = fit.triggers.select(fit.triggers.players.sum(dim=1) >= orders.start)
        other = _fit_triggers(*_extended(base, holds, found, masks, split), target, split)
    else:
        other = _grow(masks, target, base, holds, orders, split)
    return other if other.is_better_than(fit) else fit


def _grow(masks: Tensor, target: Tensor, base: Triggers, holds: Tensor, orders: range, split: CoalitionSplit) -> TriggerFit:
    """Add triggers that are found in the residual, as long as the validation error falls."""
    fitted = split.fitted
    best = _fit_triggers(base, holds, target, split)
    for _ in range(ROUNDS if len(orders) else 0):
        chosen = trigger_matrix(best.triggers, masks[fitted], target.dtype)
        residual = target[fitted] - (chosen - chosen.mean(dim=0)) @ best.coefficients
        grown = best.triggers.select(best.triggers.players.sum(dim=1) >= orders.start)
        grown = grown.join(find_triggers(masks[fitted], residual, orders, CANDIDATES_PER_ROUND))
        fit = _fit_triggers(*_extended(base, holds, grown, masks, split), target, split)
        if fit.error >= (1 - LEAST_GAIN) * best.error:
            break
        best = fit
    return best


def _extended(base: Triggers, holds: Tensor, more: Triggers, masks: Tensor, split: CoalitionSplit) -> tuple[Triggers, Tensor]:
    """Append triggers and their columns, of mean zero over the fitted coalitions."""
    columns = trigger_matrix(more, masks, holds.dtype)
    columns -= columns[split.fitted].mean(dim=0)
    triggers = Triggers(torch.cat([base.players, more.players]), torch.cat([base.is_or, more.is_or]))
    return triggers, torch.cat([holds, columns], dim=1)


def _fit_triggers(triggers: Triggers, holds: Tensor, target: Tensor, split: CoalitionSplit) -> TriggerFit:
    """Choose the penalty, and whether to refit what it selects without penalty, by the validation error."""
    features, response = holds[split.fitted], target[split.fitted]
    largest = (features.T @ response).abs().amax() / len(response)
    penalties = largest * SMALLEST_PENALTY ** torch.linspace(0, 1, NUM_PENALTIES).to(target)
    best = TriggerFit(triggers, triggers.select(torch.arange(0)), target[:0], penalties[:0], refitted=False, error=torch.inf)
    for step, coefficients in enumerate(lasso_path(features, response, penalties)):
        support = coefficients.nonzero().flatten()
        if len(support) > len(response) // 2:
            break
        columns = holds[:, support]
        options = torch.stack([coefficients[support], least_squares(columns[split.fitted], response)])
        misses = target[split.validation] - options @ columns[split.validation].T
        errors = misses.square().mean(dim=1).sqrt()
        chosen = int(errors.argmin())
        fit = TriggerFit(
            triggers, triggers.select(support), options[chosen], penalties[: step + 1], bool(chosen), float(errors[chosen])
        )
        if fit.is_better_than(best):
            best = fit
        elif fit.error > HOPELESS * max(best.error, SOLVED):
            break
    return best
