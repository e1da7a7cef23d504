"""What the phases are told from: a history as columns of numbers, one for each probe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.strength import total_strength
from lightning_interactions.records import Measurement, SplitMeasurement

__all__ = ["PhaseColumns"]

MAX_CHANCE = 0.95
"""Chance levels of single inputs are cut off here: above it, no verdict says anything."""

FEWEST_TRUSTED = 8
"""With fewer trusted labels among the training probes, all count: the other models know too little to contradict any."""


@dataclass(frozen=True)
class PhaseColumns:
    """A history as tensors in float64; NaN where an input was not measured.

    Training and held-out probes stand side by side: ``probes`` are the training probes and then the held-out ones.

    Attributes:
        share: Share of generalizable strength of each probe.
        learned: Generalizable strength of each probe above chance, score units.
        memorised: The rest of its salient strength, score units: what evidence calls generalizable by chance is counted here.
        cost: What an input that was not trained on is expected to cost, loss units: the unseen loss of training probes whose
            label is not contradicted, and the loss of held-out probes. If no loss is known, minus the net strength
            ``learned - memorised`` of the training probes, score units.
        excess_gap: ``[times]``; what the non-generalizable interactions add to the loss gap, loss units. NaN without held-out
            probes.
        pooled_share: ``[times]``; the logged share of the training probes.
        loss_known: Whether ``cost`` is a loss.
    """

    share: Float[Tensor, "times probes"]
    learned: Float[Tensor, "times probes"]
    memorised: Float[Tensor, "times probes"]
    cost: Float[Tensor, "times inputs"]
    excess_gap: Float[Tensor, " times"]
    pooled_share: Float[Tensor, " times"]
    loss_known: bool

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> "PhaseColumns":
        """Line the measurements up.

        Raises:
            ValueError: If they have different numbers of probes.
        """
        training = [measurement.training for measurement in measurements]
        held_out = [measurement.held_out for measurement in measurements]
        columns = [_strengths(split) for split in (training, held_out)]
        share, learned, memorised = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))
        losses = _stacked(held_out, lambda split: split.loss)
        unseen = _stacked(training, lambda split: split.unseen_loss)
        contradicted = _stacked(training, lambda split: split.contradicted) > 0
        if int((~contradicted[0]).sum()) >= FEWEST_TRUSTED:
            unseen = unseen.masked_fill(contradicted, torch.nan)
        cost = torch.cat([unseen, losses], dim=1)
        loss_known = bool(cost.isfinite().any())
        if not loss_known:
            cost = (memorised - learned)[:, : unseen.shape[1]]
        return cls(
            share=share,
            learned=learned,
            memorised=memorised,
            cost=cost,
            excess_gap=torch.tensor([measurement.excess_gap for measurement in measurements], dtype=torch.float64),
            pooled_share=torch.tensor([one.training_summary.share for one in measurements], dtype=torch.float64),
            loss_known=loss_known,
        )

    def medians(self, width: int) -> "PhaseColumns":
        """Take the median of every so many measurements in a row; where inputs were left out, of the others.

        Of an even number that were measured it is the mean of the two in the middle: the lower of them would be biased.
        """

        def median_of(column: Tensor) -> Tensor:
            if len(column) < width:
                return column[:0]
            return column.unfold(0, width, 1).nanquantile(0.5, dim=-1)

        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        medians = {name: median_of(column) for name, column in columns.items() if isinstance(column, Tensor)}
        return PhaseColumns(**{**columns, **medians})


def _strengths(splits: Sequence[SplitMeasurement | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Share, learned and memorised strength of one split's probes, each ``[times, inputs]``."""
    generalizable = _stacked(splits, lambda split: total_strength(split.strength.generalizable))
    other = _stacked(splits, lambda split: total_strength(split.strength.non_generalizable))
    by_chance = _stacked(splits, lambda split: split.chance_generalizable)
    salient = generalizable + other
    chance = (by_chance / salient).nan_to_num(0.0).clamp(max=MAX_CHANCE)
    memorised = other / (1 - chance)
    return generalizable / salient, salient - memorised, memorised


def _stacked(splits: Sequence[SplitMeasurement | None], column: Callable[[SplitMeasurement], Tensor]) -> Tensor:
    """One column of all measurements, ``[times, inputs]``; NaN at measurements without this split."""
    found = [None if split is None else column(split).double() for split in splits]
    lengths = {len(values) for values in found if values is not None}
    if len(lengths) > 1:
        raise ValueError(
            f"phases: expected measurements on the same probes, got different numbers of inputs: {sorted(lengths)}; begin a "
            "history anew where the probes change"
        )
    missing = torch.full((max(lengths, default=0),), torch.nan, dtype=torch.float64)
    return torch.stack([missing if values is None else values for values in found])
