"""The phases of a finished history by offline segmentation, with intervals for where they begin."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.analysis.phases.signals import PhaseSignals, stacked
from lightning_interactions.functional.bootstrap import bootstrap_intervals
from lightning_interactions.records import ChangePoint, History

__all__ = ["segment_phases"]


def segment_phases(history: History) -> tuple[ChangePoint, ...]:
    """Find the best segmentation of a finished history by the signals of the online detector.

    Phase 3 begins where the expected cost is smallest in the whole history, but for measurements that are too early
    (:attr:`~lightning_interactions.records.Measurement.is_early`), phase 2 where, up to there, the share of generalizable
    strength is largest; a change point at the last measurement is none. Of a run with several third phases this is the one
    after which the cost never came back. Inputs that were left out at any measurement do not count.

    Args:
        history: All measurements of a run, and the phases that were detected online.

    Returns:
        The change points of phases 2 and 3 that there are, each with a 95 % interval over the draw of probes, and with what
        was detected online. Intervals say how sharp the extremum is, not whether the change is significant: the phase tests
        do.

    Source:
        Our own; percentile bootstrap as in :func:`~lightning_interactions.functional.bootstrap_intervals`.
    """
    if len(history) < 2:
        return ()
    signals = PhaseSignals.of(history.measurements)
    cost = signals.cost
    training = [measurement.training for measurement in history.measurements]
    generalizable, other = (stacked(training, name) for name in ("generalizable", "non_generalizable"))
    measured = (generalizable + other).isfinite().all(dim=0)
    cost = cost[:, cost.isfinite().all(dim=0)]
    if 0 in (cost.shape[1], int(measured.sum())):
        return ()
    times = torch.arange(len(history))[:, None]

    def change_points(
        costs: Float[Tensor, "times resamples"], strengths: Float[Tensor, "kinds_times resamples"]
    ) -> Float[Tensor, "2 resamples"]:
        third = costs.masked_fill(times < signals.last_early, torch.inf).argmin(dim=0)
        of_kind, rest = strengths.chunk(2)
        share = (of_kind / (of_kind + rest)).masked_fill(times > third, -torch.inf)
        return torch.stack([share.argmax(dim=0), third]).double()

    columns = cost, torch.cat([generalizable, other])[:, measured]
    found = change_points(*(column.mean(dim=1, keepdim=True) for column in columns))[:, 0].long().tolist()
    ends = bootstrap_intervals(change_points, *columns)
    return tuple(
        _change_point(history, number, index, interval)
        for number, index, interval in zip((2, 3), found, ends.T.tolist(), strict=True)
        if index < len(history) - 1
    )


def _change_point(history: History, number: int, index: int, ends: Sequence[float]) -> ChangePoint:
    epochs, times = history.epochs, [measurement.time for measurement in history.measurements]
    low, high = (math.nan if math.isnan(end) else float(epochs[round(end)]) for end in ends)
    detected = history.first_detection(number)
    onset = None if detected is None else detected.onset
    # The onset's measurement may have been left out of a long history.
    late = times.index(onset) - index if onset in times else None
    return ChangePoint(number, times[index], low, high, onset, late)
