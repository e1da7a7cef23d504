"""The expected test loss without what over-confidence adds to it: at one temperature for all probes of a measurement.

On clean labels the test loss of a network often rises while its accuracy stays or grows: the scores only get too large. One
temperature for all outputs mends that after the training, so it is no reason to stop.

Source:
    Guo et al. 2017 (arXiv 1706.04599), temperature scaling. That it is applied to an expected test loss, and to log-odds, is
    our own.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

from lightning_interactions.measuring.facts import NORMAL_NODES

__all__ = ["calibrated_losses"]

HALVINGS = 10
"""Of the interval of the inverse temperature, which is then known to 1e-3; the loss is flat around the best one."""

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""How near losses come to cross-entropies that are such: a module computes them in single precision or less."""

MOST_LEVEL = 700.0
"""Logarithm of the number of other classes, at most."""

_NODES, _WEIGHTS = torch.tensor(NORMAL_NODES, dtype=torch.float64).unbind(dim=1)


def calibrated_losses(
    losses: Float[Tensor, "times inputs"],
    scores: Float[Tensor, "times inputs"],
    spread: Float[Tensor, "times inputs"],
    counted: Bool[Tensor, " inputs"],
) -> tuple[Float[Tensor, "times inputs"], float]:
    """Return expected losses at the best temperature of each measurement, of 1 or more, and the loss at an infinite one.

    What a temperature does to log-odds hangs on the logits behind them: one leads, the target's or another one, and all others
    are taken to be equal. Then the log-odds of a target that leads are its margin minus the logarithm of the number of the
    other classes, and those of one that does not hang on the margin of the other in the same way. The number of classes is
    that of a network that knows nothing at the first measurement: its log-odds are minus that logarithm. Two classes are
    assumed if they are positive already, as in a network that was trained before.

    Args:
        losses: Expected losses, loss units; NaN where an input was not measured.
        scores: Means of the scores that they are expected at.
        spread: Standard deviations of these scores.
        counted: Inputs whose labels are right, as far as is known; they decide on the temperature.

    Returns:
        Losses of the same shape, and the loss of knowing nothing. The losses as they are and infinity if they are no
        cross-entropies of log-odds at the first measurement; later ones decide nothing, so that what was known of a run stays.
        What a loss is more than a cross-entropy, such as a rounding error, stays.
    """
    raw = scores[..., None] + spread[..., None] * _NODES
    known = (counted & losses.isfinite()).any(dim=1)
    if not bool(known.any()):
        return losses, math.inf
    begin = int(known.int().argmax())
    plain = softplus(-raw) @ _WEIGHTS
    if not torch.allclose(plain[begin], losses[begin], **CLOSE, equal_nan=True):
        return losses, math.inf
    first = scores[begin, counted].nanmean().item()
    # A network of infinite weights may be as far off as a float64 goes.
    others = math.exp(min(max(0.0, -first), MOST_LEVEL))
    level = math.log(others)
    leads = raw >= -level
    # Of the target if it leads, else of the other one that does: log(exp(-raw) - (others - 1)).
    margin = torch.where(leads, raw + level, -raw + torch.log1p((1 - others) * raw.clamp(max=-level).exp()))
    sign = torch.where(leads, -1.0, 1.0).double()

    def argument(inverse: Float[Tensor, " times"], times: Bool[Tensor, " times"]) -> Float[Tensor, "some inputs nodes"]:
        """What the loss is a softplus of, up to a constant where the target does not lead."""
        return sign[times] * (inverse[:, None, None] * margin[times] - level)

    def rises(inverse: Float[Tensor, " times"], times: Bool[Tensor, " times"]) -> Bool[Tensor, " times"]:
        """Whether the mean loss rises with the inverse temperature; it is convex in it."""
        slopes = sign[times] * margin[times] * torch.sigmoid(argument(inverse, times))
        return (slopes @ _WEIGHTS)[:, counted].nanmean(dim=1) > 0

    every = torch.ones(len(losses), dtype=torch.bool)
    inverse = torch.ones(len(losses), dtype=torch.float64)
    too_sure = rises(inverse, every)
    low, high = torch.zeros_like(inverse[too_sure]), inverse[too_sure]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rising = rises(middle, too_sure)
        low, high = low.where(rising, middle), middle.where(rising, high)
    inverse[too_sure] = high
    calibrated = (softplus(argument(inverse, every)) + level * (sign > 0)) @ _WEIGHTS
    return calibrated + (losses - plain).nan_to_num(0.0, 0.0, 0.0), math.log1p(others)
