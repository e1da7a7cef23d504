"""How much of the growth of the loss gap the non-generalizable interactions explain."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.analysis.summary import share_of
from lightning_interactions.functional.bootstrap import bootstrap_intervals
from lightning_interactions.records import Estimate, ExplainedGrowth, Measurement, SplitMeasurement

__all__ = ["explained_growth"]


def explained_growth(measurements: Sequence[Measurement], begin: int | None = None, end: int | None = None) -> ExplainedGrowth:
    """Say what share of the growth of the loss gap between two measurements is growth of the excess gap.

    The excess gap is what non-generalizable interactions add to the gap between held-out and training loss. The intervals are
    over the draw of probes: the same inputs at both moments (inputs left out at one of them count at neither), training and
    held-out probes drawn independently.

    Args:
        measurements: A run's measurements on the same probes, in the order of time; ``History.measurements``.
        begin: Index of the first of the two. If left out, the one with the largest share of generalizable strength among
            those with held-out probes, as for the phases. The smallest held-out loss would be picked by the very numbers
            whose growth is asked for: what is a chance minimum on these probes grows again by itself.
        end: Index of the second; the last one if left out.

    Returns:
        Both growths and their ratio. Where the interval of the growth of the loss gap holds 0, a ratio to it may be anything:
        its interval is then infinite. NaN where there is no growth at all or the loss is not known.

    Raises:
        ValueError: If there are no such measurements, they have no held-out probes, or different ones.

    Source:
        Our own; the infinite interval is that of Fieller 1954 for a denominator that is not significant.
    """
    known = [index for index, measurement in enumerate(measurements) if measurement.held_out is not None]
    if not known:
        raise ValueError(
            "explained_growth: expected measurements on held-out probes, got none; measure with a validation loader or "
            "with held-out probes of your own"
        )
    if begin is None:
        begin = max(known, key=lambda index: _or_lowest(share_of(measurements[index].training)))
    first, last = measurements[begin], measurements[-1 if end is None else end]
    columns = []
    for before, after in ((first.training, last.training), (first.held_out, last.held_out)):
        if before is None or after is None or len(before) != len(after):
            raise ValueError(
                "explained_growth: expected two measurements on the same training and held-out probes, got those of epochs "
                f"{first.time.epoch} and {last.time.epoch}; choose others with begin and end"
            )
        columns.append(_growth_of_losses(before, after))

    def statistics(of_training: Float[Tensor, "2 resamples"], of_held_out: Float[Tensor, "2 resamples"]) -> Tensor:
        growth, excess = of_held_out - of_training
        return torch.stack([growth, excess, excess / growth])

    values = statistics(*(sample.mean(dim=1, keepdim=True) for sample in columns))[:, 0]
    found = torch.cat([values[None], bootstrap_intervals(statistics, *columns)])
    growth, excess, share = (Estimate(*ends) for ends in found.T.tolist())
    if growth.low <= 0 <= growth.high and math.isfinite(share.value):
        share = Estimate(share.value, -math.inf, math.inf)
    return ExplainedGrowth(first.time, last.time, growth, excess, share)


def _growth_of_losses(before: SplitMeasurement, after: SplitMeasurement) -> Float[Tensor, "2 measured"]:
    """Growth of the loss, and of what non-generalizable interactions add to it."""
    both = before.measured & after.measured
    loss, explained = after.loss - before.loss, after.explained_loss - before.explained_loss
    return torch.stack([loss, loss - explained])[:, both]


def _or_lowest(share: float) -> float:
    return -math.inf if math.isnan(share) else share
