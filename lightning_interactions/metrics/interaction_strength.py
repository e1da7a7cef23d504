"""Interaction strength by order, accumulated over batches and processes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.strength import salient_mask, strength_by_order

__all__ = ["InteractionStrength"]


class InteractionStrength(Metric):
    """Mean strength of salient interactions by order, in score units.

    ``update`` takes values ``[inputs, 2^n]`` of any inputs, ``compute`` returns ``[n + 1]``, indexed by order; it adds up over
    batches and synchronises over processes like any other metric.

    Args:
        num_players: Number of players ``n``.
        threshold: Salience threshold ``τ``.
        kwargs: Arguments of :class:`torchmetrics.Metric`.

    Source:
        He et al. 2025 (arXiv 2505.06993), strength of interactions of each order.
    """

    is_differentiable = False
    full_state_update = False

    strength: Tensor
    num_inputs: Tensor

    def __init__(self, num_players: int, threshold: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_players = num_players
        self.threshold = threshold
        self.add_state("strength", torch.zeros(num_players + 1), dist_reduce_fx="sum")
        self.add_state("num_inputs", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Extract the interactions of more inputs and add up their strength.

        Args:
            values: ``[inputs, coalitions]``.

        Raises:
            ValueError: If the values are not over the coalitions of ``num_players`` players, or not finite.
        """
        if values.ndim != 2 or values.shape[1] != 2**self.num_players:
            raise ValueError(
                f"InteractionStrength: expected values [inputs, {2**self.num_players}] of {self.num_players} players, "
                f"got shape {tuple(values.shape)}"
            )
        interactions = extract_interactions(values)
        salient = salient_mask(interactions, self.threshold)
        by_order = strength_by_order(interactions, salient, salient.to(values)).generalizable
        self.strength += by_order.sum(dim=(0, 1, 2))
        self.num_inputs += len(values)

    def compute(self) -> Float[Tensor, " orders"]:
        """Return the mean strength of each order, 0 to n."""
        return self.strength / self.num_inputs
