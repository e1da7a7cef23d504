"""The shape of strength over orders."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["DecaySpindle"]


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
