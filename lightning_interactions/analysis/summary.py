"""The numbers that a measurement is read by, with their intervals; computed once for each measurement."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.bootstrap import bootstrap_intervals
from lightning_interactions.functional.decay_spindle import fit_decay_and_spindle, strength_by_sign
from lightning_interactions.functional.generalization import above_chance, strength_share
from lightning_interactions.records import DecaySpindle, Estimate, Measurement, SplitMeasurement

__all__ = [
    "SplitSummary",
    "StrengthByOrder",
    "Summary",
    "excess_gap_of",
    "mean_order_of",
    "shape_of",
    "share_of",
    "summarise",
]

Found = TypeVar("Found")

NOT_KNOWN = Estimate(math.nan, math.nan, math.nan)

NUMBERS = (
    "loss",
    "expected_test_loss",
    "generalizable",
    "non_generalizable",
    "non_salient",
    "share",
    "share_chance",
    "share_above_chance",
    "cancellation",
    "mean_order",
)
"""The estimates of a split, in the order in which they are computed."""


@dataclass(frozen=True, eq=False)
class StrengthByOrder:
    """Strength by order, mean over the measured inputs, score units; summed over types and signs.

    The first axis is the value and the lower and upper end of its 95 % interval over the draw of probes; the last one is the
    order itself, 0 to n.

    Attributes:
        generalizable: ``[3, orders]``; the generalizable part of the salient interactions.
        non_generalizable: ``[3, orders]``; the rest of the salient interactions.
        non_salient: ``[3, orders]``; all interactions that are not salient.
    """

    generalizable: Float[Tensor, "3 orders"]
    non_generalizable: Float[Tensor, "3 orders"]
    non_salient: Float[Tensor, "3 orders"]


@dataclass(frozen=True, eq=False)
class SplitSummary:
    """The numbers of one split, over the inputs that were measured; NaN where a number does not exist.

    Attributes:
        loss: Mean loss, loss units; NaN if the loss is not known.
        expected_test_loss: Mean loss expected if the network were not trained on these inputs, loss units; inputs with
            disputed labels do not count.
        generalizable: Mean strength of generalizable interactions, score units.
        non_generalizable: Mean strength of non-generalizable interactions, score units.
        non_salient: Mean strength of what is not salient, score units.
        share: Generalizable strength over salient strength, in [0, 1]; a ratio of means.
        share_chance: The same share against evidence that knows nothing of the input's target.
        share_above_chance: ``(share - chance) / (1 - chance)``; 0 is chance, 1 is all.
        cancellation: ``Σ|I| / |v(N) - v(∅)|``, a ratio of means; 1 means that nothing cancels.
        mean_order: Mean order of the salient interactions, weighted by strength.
        by_order: Strength by order.
        left_out: Number of inputs that were not measured; see :attr:`SplitMeasurement.measured`.
    """

    loss: Estimate
    expected_test_loss: Estimate
    generalizable: Estimate
    non_generalizable: Estimate
    non_salient: Estimate
    share: Estimate
    share_chance: Estimate
    share_above_chance: Estimate
    cancellation: Estimate
    mean_order: Estimate
    by_order: StrengthByOrder
    left_out: int


@dataclass(frozen=True, eq=False)
class Summary:
    """The numbers of one measurement.

    Attributes:
        training: Of the training probes.
        held_out: Of the held-out probes; ``None`` if there are none.
        loss_gap: Held-out minus training loss, loss units; NaN without held-out probes, or if the loss is not known.
        remaining_gap: The loss gap that remains without the non-generalizable interactions, loss units.
        excess_gap: ``loss_gap - remaining_gap``: what the non-generalizable interactions add, loss units.
    """

    training: SplitSummary
    held_out: SplitSummary | None
    loss_gap: Estimate
    remaining_gap: Estimate
    excess_gap: Estimate


def _once(function: Callable[[Measurement], Found]) -> Callable[[Measurement], Found]:
    """Compute a function once for the facts of each measurement, as long as they live.

    A history replaces a measurement to correct its seconds; the facts stay the same objects.
    """
    known: WeakKeyDictionary[SplitMeasurement, tuple[SplitMeasurement | None, Found]] = WeakKeyDictionary()

    @wraps(function)
    def remembering(measurement: Measurement) -> Found:
        training, held_out = measurement.training, measurement.held_out
        if training not in known or known[training][0] is not held_out:
            known[training] = held_out, function(measurement)
        return known[training][1]

    return remembering


@_once
def summarise(measurement: Measurement) -> Summary:
    """Reduce a measurement to the numbers that are logged, printed and drawn.

    Computed once for each measurement. The intervals are 95 %, over the draw of probes; training and held-out probes
    are drawn independently. Of a condensed split all that hangs on strength by order input by input has no interval: strength
    by order itself and the mean order.

    Args:
        measurement: One moment of a run.

    Returns:
        Every number with its interval.

    Source:
        He et al. 2025 (arXiv 2505.06993), the strengths; the other numbers are our own.
    """
    training, held_out = measurement.training, measurement.held_out
    gaps = [NOT_KNOWN] * 3 if held_out is None else _gaps(training, held_out)
    return Summary(_of_split(training), None if held_out is None else _of_split(held_out), *gaps)


@_once
def shape_of(measurement: Measurement) -> DecaySpindle | None:
    """Split the strength by order of the training probes into decays and a spindle; ``None`` if nothing was measured.

    Computed once for each measurement, when first asked for.

    Args:
        measurement: One moment of a run.

    Source:
        See :func:`~lightning_interactions.functional.fit_decay_and_spindle`.
    """
    by_sign = strength_by_sign(measurement.training.strength)
    return fit_decay_and_spindle(by_sign) if bool(by_sign.isfinite().all()) else None


def share_of(split: SplitMeasurement) -> float:
    """Compute the value of :attr:`SplitSummary.share` alone, which is quick."""
    measured = split.measured
    generalizable, non_generalizable = split.generalizable[measured], split.non_generalizable[measured]
    return strength_share(generalizable, generalizable + non_generalizable).item()


def mean_order_of(split: SplitMeasurement) -> float:
    """Compute the value of :attr:`SplitSummary.mean_order` alone, which is quick."""
    by_order = _mean_by_order(split.strength.generalizable) + _mean_by_order(split.strength.non_generalizable)
    return ((torch.arange(len(by_order)) * by_order).sum() / by_order.sum()).item()


@_once
def excess_gap_of(measurement: Measurement) -> float:
    """Compute the value of :attr:`Summary.excess_gap` alone, which is quick; once for each measurement."""
    if measurement.held_out is None:
        return math.nan
    means = (_losses(split).mean(dim=1, keepdim=True) for split in (measurement.training, measurement.held_out))
    return _differences(*means)[2].item()


def _of_split(split: SplitMeasurement) -> SplitSummary:
    measured, trusted = split.measured, ~split.disputed
    columns = [
        split.loss,
        split.expected_test_loss.where(trusted, 0.0),
        trusted.to(split.loss),
        split.generalizable,
        split.non_generalizable,
        split.non_salient,
        split.chance_generalizable,
        (split.full_score - split.empty_score).abs(),
    ]
    # In the order of the fields of StrengthByOrder.
    parts = (split.strength.generalizable, split.strength.non_generalizable, split.strength.non_salient)
    by_order = torch.cat([part.sum(dim=(1, 2)).T for part in parts])
    by_order = by_order.expand(-1, len(split)) if split.is_condensed else by_order
    num_orders = len(by_order) // len(parts)
    orders = torch.arange(num_orders, dtype=torch.float64)[:, None]

    def statistics(means: Float[Tensor, "columns resamples"]) -> Float[Tensor, "statistics resamples"]:
        """The numbers in the order of NUMBERS, and strength by order."""
        loss, expected, counted, g, u, rest, chance, score = means[: len(columns)]
        strengths = means[len(columns) :]
        share, share_chance = g / (g + u), chance / (g + u)
        salient = strengths[:num_orders] + strengths[num_orders : 2 * num_orders]
        numbers = [
            *(loss, expected / counted, g, u, rest, share, share_chance, above_chance(share, share_chance)),
            *((g + u + rest) / score, (orders * salient).sum(dim=0) / salient.sum(dim=0)),
        ]
        return torch.cat([torch.stack(numbers), strengths])

    of_inputs = torch.cat([torch.stack(columns), by_order])[:, measured].double()
    values = statistics(of_inputs.mean(dim=1, keepdim=True))[:, 0]
    low, high = bootstrap_intervals(statistics, of_inputs)
    found = torch.stack([values, low, high])
    if split.is_condensed:
        found[1:, NUMBERS.index("mean_order") :] = torch.nan
    estimates = {name: Estimate(*ends) for name, ends in zip(NUMBERS, found.T.tolist(), strict=False)}
    strengths = found[:, len(NUMBERS) :].clone().unflatten(1, (len(parts), num_orders)).unbind(dim=1)
    return SplitSummary(**estimates, by_order=StrengthByOrder(*strengths), left_out=int((~measured).sum()))


def _gaps(training: SplitMeasurement, held_out: SplitMeasurement) -> list[Estimate]:
    """Loss gap, remaining gap and excess gap."""
    losses = [_losses(split) for split in (training, held_out)]
    values = _differences(*(own.mean(dim=1, keepdim=True) for own in losses))[:, 0]
    found = torch.cat([values[None], bootstrap_intervals(_differences, *losses)])
    return [Estimate(*ends) for ends in found.T.tolist()]


def _losses(split: SplitMeasurement) -> Float[Tensor, "2 measured"]:
    return torch.stack([split.loss, split.explained_loss])[:, split.measured].double()


def _differences(of_training: Float[Tensor, "2 resamples"], of_held_out: Float[Tensor, "2 resamples"]) -> Tensor:
    loss_gap, remaining_gap = of_held_out - of_training
    return torch.stack([loss_gap, remaining_gap, loss_gap - remaining_gap])


def _mean_by_order(part: Float[Tensor, "inputs types signs orders"]) -> Float[Tensor, " orders"]:
    return part.sum(dim=(1, 2)).nanmean(dim=0)
