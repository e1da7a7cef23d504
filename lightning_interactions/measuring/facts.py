"""From interactions and their evidence weights to the facts that are kept of each input."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.generalization import explained_score
from lightning_interactions.functional.strength import salient_mask, strength_by_order, total_strength
from lightning_interactions.game.tasks import Task
from lightning_interactions.records import EvidenceWeights, Interactions, OrderStrength, Probes, Rows, SplitMeasurement

__all__ = ["facts_of"]

UNSEEN_SPREAD = 0.2
"""Standard deviation, over unseen inputs, of the score of what does not generalize, as a part of its strength.

Nothing has made these interactions agree with such an input's label, so their sum is as likely to speak for it as against. If
their signs were independent, the part would be one over the root of their effective number (0.08 and 0.24 on two tasks). It was
chosen on digits and breast cancer, where anything from 0.15 to 0.25 did as well.
"""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
NORMAL_NODES = tuple(zip(_NODES.tolist(), (_WEIGHTS / _WEIGHTS.sum()).tolist(), strict=True))
"""Gauss-Hermite nodes and weights for the mean over a standard normal variable."""


def facts_of(
    interactions: Interactions,
    weights: EvidenceWeights,
    threshold: float,
    task: Task,
    probes: Probes,
    exact_losses: Float[Tensor, " inputs"] | None = None,
) -> SplitMeasurement:
    """Put together what is known of the probes of one split.

    Args:
        interactions: Their interactions, of the monitored model.
        weights: How far each generalizes.
        threshold: Salience threshold ``τ``.
        task: Turns scores into losses.
        probes: The probes.
        exact_losses: Their losses, where these are no function of the scores: the difference to those that follow from the full
            scores is added to all losses.

    Returns:
        Numbers for each input, float64 on the CPU.
    """
    salient = salient_mask(interactions, threshold)
    strength = strength_by_order(interactions, salient, weights.weights)
    full = _kept(interactions.full_score)
    explained = _kept(explained_score(interactions.full_score, interactions, salient, weights.weights))
    # Where the evidence could not judge, nothing else counts either.
    left_out = 0 * explained
    by_order = OrderStrength(
        generalizable=_kept(strength.generalizable),
        non_generalizable=_kept(strength.non_generalizable),
        non_salient=_kept(strength.non_salient) + left_out[:, None, None, None],
    )
    rater_score = torch.full_like(full, torch.nan)
    if weights.rater_score is not None and task.score_is_log_odds:
        rater_score = _kept(weights.rater_score)
    spread = UNSEEN_SPREAD * _kept(total_strength(strength.non_generalizable)) + left_out
    targets = _joined_targets(probes)
    loss = _losses(task, full + left_out, targets)
    difference = torch.zeros_like(loss) if exact_losses is None else exact_losses - loss
    by_chance = (interactions.effects.abs() * salient * weights.chance_weights).sum(dim=(1, 2))
    return SplitMeasurement(
        generalizable=total_strength(by_order.generalizable),
        non_generalizable=total_strength(by_order.non_generalizable),
        non_salient=total_strength(by_order.non_salient),
        chance_generalizable=_kept(by_chance),
        empty_score=_kept(interactions.offset),
        full_score=full,
        explained_score=explained,
        loss=loss + difference,
        explained_loss=_losses(task, explained, targets) + difference,
        expected_test_loss=torch.stack(
            [weight * _losses(task, explained + node * spread, targets) for node, weight in NORMAL_NODES]
        ).sum(dim=0)
        + difference,
        rater_score=rater_score,
        strength=by_order,
    )


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _joined_targets(probes: Probes) -> list[Rows]:
    """Put the targets of all groups together if they have one shape."""
    first, *others = (group.targets for group in probes.groups)
    return [first.join(others)] if all(one.kind == first.kind for one in others) else [first, *others]


def _losses(task: Task, scores: Float[Tensor, " inputs"], targets: list[Rows]) -> Float[Tensor, " inputs"]:
    return task.losses_of_kinds(scores.split([len(own) for own in targets]), targets)
