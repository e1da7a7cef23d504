"""What was fitted: decay and spindle and the theory of the second phase to strength by order; and growing losses."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.records.measurement import Estimate, TimePoint

__all__ = ["DecaySpindle", "ExplainedGrowth", "SecondPhase"]


@dataclass(frozen=True)
class DecaySpindle:
    """One measurement's strength by order as a decay of each sign's own and a spindle that both signs share.

    The last axis is indexed by the order itself, 0 to n; order 0 is always zero. Interactions whose strength is a spindle
    come in both signs alike and cancel; what the decays hold does not.

    Attributes:
        decay: ``[signs, orders]``, score units; ``a·e^{-bm}`` at order ``m``.
        spindle: ``[orders]``, score units; ``c·C(n,m)·r^m``, once in each sign.
        amplitude: ``[signs]``, score units; ``a``.
        rate: ``[signs]``; ``b``, the logarithm of the factor by which a decay falls from order to order; NaN where the
            amplitude is zero.
        scale: ``c``, score units.
        ratio: ``r``; with ``r = p / (1 - p)`` the spindle is a binomial distribution of the order, whose mean is ``pn``. NaN
            where the scale is zero.
        r_squared: Part of the strength's variance over signs and orders from 1 on that the sum explains. Negative
            where a constant would be closer, as for a hump of one sign alone; NaN where the strength does not vary.
    """

    decay: Float[Tensor, "signs orders"]
    spindle: Float[Tensor, " orders"]
    amplitude: Float[Tensor, " signs"]
    rate: Float[Tensor, " signs"]
    scale: float
    ratio: float
    r_squared: float

    @property
    def total(self) -> Float[Tensor, "signs orders"]:
        """Decay plus spindle: the fitted strength, score units."""
        return self.decay + self.spindle

    @property
    def weights(self) -> Float[Tensor, "signs orders"]:
        """The decay's part of the fitted strength at every sign and order, in [0, 1]; 0 where nothing is fitted."""
        return torch.where(self.total > 0, self.decay / self.total, 0.0)

    @property
    def share(self) -> float:
        """The decay's part of all fitted strength, in [0, 1]; NaN without strength."""
        return float(self.decay.sum() / self.total.sum())

    @property
    def share_by_sign(self) -> Float[Tensor, " signs"]:
        """The decay's part of each sign's fitted strength, in [0, 1]; NaN for a sign without strength."""
        return self.decay.sum(dim=1) / self.total.sum(dim=1)


@dataclass(frozen=True)
class SecondPhase:
    """Real strength by order beside the strength that learning under parameter noise predicts.

    The last axis is indexed by the order itself, 0 to n; order 0 is always zero.

    Attributes:
        variance: ``[times]``; the noise variance ``σ²`` whose prediction is closest to each time's strength. 0 predicts the
            final interactions, infinity none at all.
        predicted: ``[times, orders]``, score units; strength of the predicted interactions, mean over inputs.
        strength: ``[times, orders]``, score units; real strength, mean over inputs.
        r_squared: ``[times]``; part of the real strength's variance over orders from 1 on that the prediction explains.
            Negative where a constant would be closer, NaN where the strength does not vary.
    """

    variance: Float[Tensor, " times"]
    predicted: Float[Tensor, "times orders"]
    strength: Float[Tensor, "times orders"]
    r_squared: Float[Tensor, " times"]


@dataclass(frozen=True)
class ExplainedGrowth:
    """What part of the growth of the loss gap between two moments of a run the non-generalizable interactions explain.

    Attributes:
        begin: The first moment.
        end: The second.
        loss_gap: Growth of the loss gap, loss units.
        excess_gap: Growth of the excess gap, loss units.
        share: ``excess_gap / loss_gap``; above 1 where the gap would have shrunk without them. Its interval is infinite where
            the loss gap did not change significantly.
    """

    begin: TimePoint
    end: TimePoint
    loss_gap: Estimate
    excess_gap: Estimate
    share: Estimate

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"from epoch {self.begin.epoch} to {self.end.epoch} the loss gap grew by {self.loss_gap}, of which "
            f"non-generalizable interactions explain {self.excess_gap}: a share of {self.share}"
        )
