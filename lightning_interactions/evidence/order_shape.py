"""Evidence from the run alone: the decay and the spindle in the strength by order."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.evidence.base import Evidence
from lightning_interactions.functional.coalitions import coalition_orders, infer_num_players
from lightning_interactions.functional.decay_spindle import fit_decay_and_spindle
from lightning_interactions.functional.strength import salient_mask, strength_by_order
from lightning_interactions.records import EvidenceWeights, Interactions

__all__ = ["OrderShape"]


class OrderShape(Evidence):
    """Interactions generalize as far as the strength of their sign and order belongs to a decay and not to a spindle.

    Uses no labels but those in the score, no other model and no other forward. All interactions of one sign and order get
    the same weight: it says how the share moves, and little about a single interaction. The chance level is the decay's part
    if every interaction had either sign with equal probability.

    Source:
        Cheng et al. 2025 (arXiv 2502.10162): generalizable interactions decay over orders, others form a spindle.
    """

    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        """Fit the strength by order; see :class:`Evidence`."""
        effects = interactions.effects
        salient = salient_mask(interactions, threshold)
        by_input = strength_by_order(interactions, salient, salient.to(effects)).generalizable
        strength = by_input.sum(dim=1).nanmean(dim=0)
        if not bool(strength.isfinite().all()):  # No input could be measured.
            unknown = torch.full_like(effects, torch.nan)
            return EvidenceWeights(unknown, unknown)
        weights, chance_weights = (
            _weights_of_sets(fit_decay_and_spindle(each).weights, effects)
            for each in (strength, strength.mean(dim=0).expand_as(strength))
        )
        return EvidenceWeights(weights, chance_weights)


def _weights_of_sets(weights: Float[Tensor, "signs orders"], effects: Tensor) -> Float[Tensor, "inputs types coalitions"]:
    """Give every interaction the weight of its sign and order."""
    positive, negative = weights[:, coalition_orders(infer_num_players(effects.shape[-1]), effects.device)]
    return torch.where(effects > 0, positive, negative)
