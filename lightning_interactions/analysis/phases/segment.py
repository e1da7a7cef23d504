"""The phases of a finished history in hindsight, with intervals for where they begin."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.analysis.phases.signals import PhaseColumns
from lightning_interactions.functional.bootstrap import bootstrap_intervals
from lightning_interactions.functional.strength import total_strength
from lightning_interactions.records import Boundary, History, Interval

__all__ = ["segment_phases"]


def segment_phases(history: History) -> tuple[Boundary, ...]:
    """Find the best segmentation of a finished history by the quantities of the online detector.

    Phase 3 begins where the expected cost is smallest in the whole history, phase 2 where, up to there, the share of
    generalizable strength is largest; a boundary at the last measurement is none. Of a run with several third phases this is
    the one after which the cost never came back. Inputs that were left out at any measurement do not count.

    Args:
        history: All measurements of a run, and the phases that were called online.

    Returns:
        The boundaries of phases 2 and 3 that there are, each with a 95 % interval over the draw of probes, and with what was
        called online. Intervals say how sharp the extremum is, not whether the change is significant: the online claims do.

    Source:
        Our own; percentile bootstrap as in :func:`~lightning_interactions.functional.bootstrap_intervals`.
    """
    if len(history) < 2:
        return ()
    cost = PhaseColumns.of(history.measurements).cost
    parts = [measurement.training.strength for measurement in history.measurements]
    generalizable, other = (
        torch.stack([total_strength(strength) for strength in kind])
        for kind in ([part.generalizable for part in parts], [part.non_generalizable for part in parts])
    )
    measured = (generalizable + other).isfinite().all(dim=0)
    cost = cost[:, cost.isfinite().all(dim=0)]
    if 0 in (cost.shape[1], int(measured.sum())):
        return ()
    times = torch.arange(len(history))[:, None]

    def boundaries(costs: Tensor, strengths: Tensor) -> Float[Tensor, "boundaries resamples"]:
        third = costs.argmin(dim=0)
        of_kind, rest = strengths.chunk(2)
        share = (of_kind / (of_kind + rest)).masked_fill(times > third, -torch.inf)
        return torch.stack([share.argmax(dim=0), third]).double()

    columns = cost, torch.cat([generalizable, other])[:, measured]
    found = boundaries(*(column.mean(dim=1, keepdim=True) for column in columns))[:, 0].long().tolist()
    ends = bootstrap_intervals(boundaries, *columns)
    return tuple(
        _boundary(history, number, index, interval)
        for number, index, interval in zip((2, 3), found, ends.T.tolist(), strict=True)
        if index < len(history) - 1
    )


def _boundary(history: History, number: int, index: int, ends: Sequence[float]) -> Boundary:
    epochs = history.epochs
    low, high = (math.nan if math.isnan(end) else float(epochs[round(end)]) for end in ends)
    moment = epochs[index], history.measurements[index].global_step
    called = history.first_call(number)
    if called is None:
        return Boundary(number, *moment, Interval(low, high), None, None)
    # In states from before onsets had steps, their place is not known.
    known = called.onset_step in history.steps
    late = history.steps.index(called.onset_step) - index if known else None
    return Boundary(number, *moment, Interval(low, high), called.onset_epoch, late)
