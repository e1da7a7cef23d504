"""Evidence from the run alone: orders at which the mean interactions of training and held-out inputs agree."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from lightning_interactions.evidence.base import Evidence
from lightning_interactions.functional.agreement import agreement_by_chance, agreement_by_order
from lightning_interactions.functional.coalitions import coalition_orders, infer_num_players
from lightning_interactions.records import EvidenceWeights, Interactions

__all__ = ["InputAgreement"]


class InputAgreement(Evidence):
    """Interactions of an order generalize as far as their means over training and over held-out inputs agree.

    For players that mean the same in every input: features of a table, time steps of aligned series. It needs held-out
    probes, and gives all interactions of an order the same weight: it says how the share moves, and little about a single
    interaction. Held-out labels come into it through the score alone. Without held-out probes all weights are NaN.

    Source:
        Zhou et al. 2024 (arXiv 2302.13091), generalization of interactions of an order.
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
        """Compare the model's interactions on both splits; see :class:`Evidence`."""
        effects = interactions.effects
        if counterpart is None:
            warnings.warn(
                "InputAgreement: there are no held-out probes yet to compare with, so nothing is judged; pass a validation "
                "loader, probes=ProbeSampling(held_out=(inputs, targets)), or other evidence",
                stacklevel=2,
            )
            unknown = torch.full_like(effects, torch.nan)
            return EvidenceWeights(unknown, unknown)
        other = counterpart.to(effects.device)
        orders = coalition_orders(infer_num_players(effects.shape[-1]), effects.device)
        weights, chance_weights = (
            compare(interactions, other)[orders].expand_as(effects) for compare in (agreement_by_order, agreement_by_chance)
        )
        return EvidenceWeights(weights, chance_weights)
