"""A run's probes as tensors over its measurements, and numbers with intervals from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interactions import History, functional
from lightning_interactions.records import Estimate

__all__ = ["Number", "Series", "estimate", "mean_order", "peak_order", "rank_correlation", "share"]


@dataclass(frozen=True)
class Number(Estimate):
    """An estimate with a remark; NaN ends where there is no interval."""

    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Salient strength on the probes of one split, over the inputs that were measured every time.

    Attributes:
        generalizable: ``[times, inputs, signs, orders]``, score units; orders from 1 on.
        non_generalizable: The rest.
        chance: ``[times, inputs]``, score units; what is generalizable by chance.
    """

    generalizable: Tensor
    non_generalizable: Tensor
    chance: Tensor

    @classmethod
    def of(cls, history: History, *, held_out: bool = False) -> "Series":
        splits = [measurement.held_out if held_out else measurement.training for measurement in history.measurements]
        inputs = torch.stack([split.measured for split in splits]).all(dim=0)
        g, u = (
            torch.stack([getattr(split.strength, kind)[inputs].sum(dim=1)[..., 1:] for split in splits])
            for kind in ("generalizable", "non_generalizable")
        )
        return cls(g, u, torch.stack([split.chance_generalizable[inputs] for split in splits]))

    @property
    def by_order(self) -> Tensor:
        """Salient strength, ``[times, inputs, orders]``."""
        return (self.generalizable + self.non_generalizable).sum(dim=2)

    @property
    def totals(self) -> tuple[Tensor, Tensor]:
        """Generalizable and non-generalizable strength, ``[times, inputs]`` each."""
        return self.generalizable.sum(dim=(2, 3)), self.non_generalizable.sum(dim=(2, 3))

    @property
    def shares(self) -> Tensor:
        """Share of generalizable strength, ``[times]``."""
        g, u = (total.mean(dim=1) for total in self.totals)
        return share(g, u)

    @property
    def mean_orders(self) -> Tensor:
        """Mean order, ``[times]``."""
        return mean_order(self.by_order.mean(dim=1).T)


def estimate(statistic: Callable[..., Tensor], *columns: Tensor) -> Number:
    """Compute a function of means over inputs with its bootstrap interval.

    Args:
        statistic: Takes the means of each sample's columns, ``[columns, resamples]``, and gives ``[resamples]``.
        columns: ``[columns, inputs]`` for each sample that was drawn independently.
    """
    value = statistic(*(sample.double().mean(dim=1, keepdim=True) for sample in columns)).item()
    low, high = functional.bootstrap_intervals(lambda *means: statistic(*means)[None], *columns)[:, 0].tolist()
    return Number(value, low, high)


def share(generalizable: Tensor, non_generalizable: Tensor) -> Tensor:
    return generalizable / (generalizable + non_generalizable)


def mean_order(by_order: Tensor) -> Tensor:
    """Mean order of strengths ``[orders, ...]``, orders from 1 on."""
    orders = torch.arange(1, len(by_order) + 1, dtype=by_order.dtype)
    return torch.tensordot(orders, by_order, dims=1) / by_order.sum(dim=0)


def peak_order(by_order: Tensor) -> Tensor:
    """Order of the largest strength in ``[orders, ...]``, orders from 1 on."""
    return by_order.argmax(dim=0).double() + 1


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation along the first axis of ``[values, ...]``; ties count half."""
    first, second = (_centred_ranks(values) for values in (first, second))
    return (first * second).sum(dim=0) / (first.square().sum(dim=0) * second.square().sum(dim=0)).sqrt()


def _centred_ranks(values: Tensor) -> Tensor:
    # An infinite value equals itself, so comparisons and not differences.
    below = values[:, None] > values[None]
    above = values[:, None] < values[None]
    return below.sum(dim=1).double() - above.sum(dim=1).double()
