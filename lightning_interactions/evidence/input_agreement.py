"""Evidence from the run alone: orders at which the mean interactions of training and held-out inputs agree."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_interactions.evidence.base import InteractionsOf, Judge
from lightning_interactions.functional.agreement import agreement_by_chance, agreement_by_order
from lightning_interactions.functional.coalitions import coalition_orders, infer_num_players
from lightning_interactions.records import Interactions, Verdict

__all__ = ["InputAgreement"]


@dataclass(frozen=True)
class InputAgreement:
    """Interactions of an order generalize as far as their means over training and over held-out inputs agree.

    For players that mean the same in every input: features of a table, time steps of aligned series. It needs held-out
    probes, and gives all interactions of an order the same weight: it says how the share moves, and little about a single
    interaction. Held-out labels come into it through the score alone. Without held-out probes all weights are NaN.

    Source:
        Zhou et al. 2024 (arXiv 2302.13091), generalization of interactions of an order.
    """

    def prepare(
        self,
        interactions_of: InteractionsOf,
        threshold: float,
        for_other_targets: Sequence[InteractionsOf] = (),
        inputs: Tensor | None = None,
    ) -> Judge:
        """Return a judge that compares the model's interactions on both splits; see :class:`Evidence`."""

        def judge(_model: nn.Module, interactions: Interactions, counterpart: Interactions | None = None) -> Verdict:
            effects = interactions.effects
            if counterpart is None:
                warnings.warn(
                    "InputAgreement: there are no held-out probes yet to compare with, so nothing is judged; pass "
                    "held_out_probes=(inputs, targets) or a validation loader, or other evidence",
                    stacklevel=2,
                )
                unknown = torch.full_like(effects, torch.nan)
                return Verdict(unknown, unknown)
            other = Interactions(*(part.to(effects.device) for part in vars(counterpart).values()))
            orders = coalition_orders(infer_num_players(effects.shape[-1]), effects.device)
            weights, chance_weights = (
                compare(interactions, other)[orders].expand_as(effects) for compare in (agreement_by_order, agreement_by_chance)
            )
            return Verdict(weights, chance_weights)

        return judge
