"""What the phases are told from: a history as columns of numbers, one for each probe."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.analysis.phases.over_confidence import calibrated_losses
from lightning_interactions.analysis.summary import excess_gap_of
from lightning_interactions.measuring.facts import UNSEEN_SPREAD
from lightning_interactions.records import Measurement, SplitMeasurement

__all__ = ["PhaseSignals"]

MAX_CHANCE = 0.95
"""Chance levels of single inputs are cut off here: above it, evidence says nothing."""

FEWEST_TRUSTED = 8
"""With fewer undisputed labels among the training probes, all count: the raters know too little to dispute any."""


@dataclass(frozen=True, eq=False)
class PhaseSignals:
    """A history as tensors in float64; NaN where an input was not measured.

    Training and held-out probes stand side by side: ``probes`` are the training probes and then the held-out ones.

    Attributes:
        share: Share of generalizable strength of each probe.
        generalizable: Generalizable strength of each probe above chance, score units.
        non_generalizable: The rest of its salient strength, score units: what evidence calls generalizable by chance is counted
            here.
        cost: Expected cost of an input that was not trained on, without over-confidence, loss units: the expected test loss of
            training probes whose label is not disputed, and the loss of held-out probes. If no loss is known, the net strength
            ``non_generalizable - generalizable`` of the training probes, score units.
        plain_cost: ``[times]``; the mean of the same losses with over-confidence; NaN if no loss is known.
        most_cost: What an input costs of whose target nothing is known, loss units; infinite if that is not known.
        excess_gap: ``[times]``; what the non-generalizable interactions add to the loss gap, loss units. NaN without held-out
            probes.
        pooled_share: ``[times]``; the logged share of the training probes.
        loss_known: Whether ``cost`` is a loss.
        last_early: Index of the last measurement up to which models that were trained on less of the data still learned what
            holds on other inputs; 0 if nothing is known of any.
    """

    share: Float[Tensor, "times probes"]
    generalizable: Float[Tensor, "times probes"]
    non_generalizable: Float[Tensor, "times probes"]
    cost: Float[Tensor, "times inputs"]
    plain_cost: Float[Tensor, " times"]
    most_cost: float
    excess_gap: Float[Tensor, " times"]
    pooled_share: Float[Tensor, " times"]
    loss_known: bool
    last_early: int = 0

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> "PhaseSignals":
        """Line the measurements up.

        Args:
            measurements: A run's measurements on the same probes, at least one.

        Raises:
            ValueError: If they have different numbers of probes.
        """
        training = [measurement.training for measurement in measurements]
        held_out = [measurement.held_out for measurement in measurements]
        strengths = [_strengths(split) for split in (training, held_out)]
        share, generalizable, non_generalizable = (torch.cat(parts, dim=1) for parts in zip(*strengths, strict=True))
        splits = (_expected(training), _losses(held_out))
        plain, cost = (torch.cat(parts, dim=1) for parts in zip(*(split[:2] for split in splits), strict=True))
        loss_known = bool(cost.isfinite().any())
        if not loss_known:
            cost = (non_generalizable - generalizable)[:, : len(training[0])]
        return cls(
            share=share,
            generalizable=generalizable,
            non_generalizable=non_generalizable,
            cost=cost,
            plain_cost=plain.nanmean(dim=1),
            most_cost=splits[0][2],
            excess_gap=torch.tensor([excess_gap_of(measurement) for measurement in measurements], dtype=torch.float64),
            pooled_share=_pooled_share(training),
            loss_known=loss_known,
            last_early=max((place for place, one in enumerate(measurements) if one.is_early), default=0),
        )

    def medians(self, width: int) -> "PhaseSignals":
        """Take the median of every so many measurements in a row; where inputs were left out, of the others.

        Of an even number that were measured it is the mean of the two in the middle: the lower of them would be biased.
        """

        def median_of(column: Tensor) -> Tensor:
            if len(column) < width:
                return column[:0]
            rows = column.unfold(0, width, 1)
            # Much faster where nothing was left out.
            middle = slice((width - 1) // 2, width // 2 + 1)
            complete = not bool(column.isnan().any())
            return rows.sort(dim=-1).values[..., middle].mean(dim=-1) if complete else rows.nanquantile(0.5, dim=-1)

        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        medians = {name: median_of(column) for name, column in columns.items() if isinstance(column, Tensor)}
        return PhaseSignals(**{**columns, **medians})


def stacked(splits: Sequence[SplitMeasurement | None], name: str) -> Float[Tensor, "times inputs"]:
    """Line up one number of each input over all measurements; NaN at measurements without this split.

    Args:
        splits: The same split at each time.
        name: A field or property of :class:`SplitMeasurement` with one number for each input.

    Raises:
        ValueError: If there are different numbers of inputs.
    """
    found: list[Tensor | None] = [None if split is None else getattr(split, name).double() for split in splits]
    lengths = {len(column) for column in found if column is not None}
    if len(lengths) > 1:
        raise ValueError(
            f"phases: expected measurements on the same probes, got different numbers of inputs: {sorted(lengths)}; begin a "
            "history anew where the probes change"
        )
    missing = torch.full((max(lengths, default=0),), torch.nan, dtype=torch.float64)
    return torch.stack([missing if column is None else column for column in found])


def _expected(splits: Sequence[SplitMeasurement | None]) -> tuple[Tensor, Tensor, float]:
    """Expected test losses of training probes, the same without over-confidence, and the loss of knowing nothing."""
    expected, scores, strength, disputed = (
        stacked(splits, name) for name in ("expected_test_loss", "explained_score", "non_generalizable", "disputed")
    )
    counted = disputed[0] == 0
    if int(counted.sum()) < FEWEST_TRUSTED:
        counted = torch.ones_like(counted)
    calibrated, most = calibrated_losses(expected, scores, UNSEEN_SPREAD * strength, counted)
    return expected.where(counted, torch.nan), calibrated.where(counted, torch.nan), most


def _losses(splits: Sequence[SplitMeasurement | None]) -> tuple[Tensor, Tensor, float]:
    """Losses of held-out probes, the same without over-confidence, and the loss of knowing nothing."""
    losses, scores = (stacked(splits, name) for name in ("loss", "full_score"))
    counted = torch.ones(losses.shape[1], dtype=torch.bool)
    return losses, *calibrated_losses(losses, scores, torch.zeros_like(scores), counted)


def _pooled_share(splits: Sequence[SplitMeasurement | None]) -> Float[Tensor, " times"]:
    """What :func:`~lightning_interactions.analysis.summary.share_of` says of each, all at once."""
    generalizable, other = (stacked(splits, name) for name in ("generalizable", "non_generalizable"))
    return generalizable.nansum(dim=1) / (generalizable + other).nansum(dim=1)


def _strengths(splits: Sequence[SplitMeasurement | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Share and strengths above chance of one split's probes, each ``[times, inputs]``."""
    generalizable, other, by_chance = (
        stacked(splits, name) for name in ("generalizable", "non_generalizable", "chance_generalizable")
    )
    salient = generalizable + other
    chance = (by_chance / salient).nan_to_num(0.0).clamp(max=MAX_CHANCE)
    non_generalizable = other / (1 - chance)
    return generalizable / salient, salient - non_generalizable, non_generalizable
