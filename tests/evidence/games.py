"""Splits whose interactions are made up."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from lightning_interactions.evidence import ProbeGame
from lightning_interactions.records import Interactions, Probes

THRESHOLD = 0.05


class MadeUpGame(ProbeGame):
    """Answers with a function of the model and keeps who was asked about which rows."""

    def __init__(
        self,
        answer: Callable[[nn.Module], Interactions],
        probes: Probes,
        threshold: float = THRESHOLD,
        others: Sequence["MadeUpGame"] = (),
    ) -> None:
        self.answer = answer
        self.probes = probes
        self.threshold = threshold
        self.others = others
        self.asked: list[tuple[nn.Module, list[int] | None]] = []

    def interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        """Answer for all probes, or for some rows of them."""
        self.asked.append((model, None if rows is None else list(rows)))
        found = self.answer(model)
        return found if rows is None else found.select(torch.tensor(rows))

    def with_other_targets(self) -> Sequence["MadeUpGame"]:
        """Return the games that were handed in."""
        return self.others


def ands(and_effects: torch.Tensor) -> Interactions:
    """Interactions without ORs and with offset zero."""
    effects = torch.stack([and_effects, torch.zeros_like(and_effects)], dim=1)
    return Interactions(effects, torch.zeros(len(and_effects)))
