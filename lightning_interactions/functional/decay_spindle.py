"""The shape of strength over orders: a decay of each sign's own and a spindle that both signs share."""

from itertools import product
from typing import Any, TypeAlias, no_type_check

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import gammaln, xlog1py, xlogy
from torch import Tensor

from lightning_interactions.records import SIGNS, DecaySpindle, OrderStrength

__all__ = ["fit_decay_and_spindle", "strength_by_sign"]

Array: TypeAlias = NDArray[np.float64]

FALLS = (1e-3, 0.5)
"""Bounds of ``e^{-b}``, the factor by which a decay falls from one order to the next."""

LEAST_SKEW = 0.4
"""Smallest ``r / (1 + r)``, the spindle's mean order as a part of all players."""

FEWEST_PLAYERS = 3
"""From here on there is a spindle that is largest at order 2 or above and not only at the last order."""

GRID_FALLS, GRID_SKEWS = 20, 48
"""How many falls of each sign and how many skews are tried before the best of them are refined."""

DIFFERENCE = float(np.finfo(np.float64).eps) ** (1 / 3)
"""Step of central differences, of parameters of about one."""

ROUGH, FINE = 1e-6, 1e-14
"""Relative changes at which a refinement ends."""

REFINED = 4
"""At most so many local optima of the grid are refined."""


def fit_decay_and_spindle(strength: Float[Tensor, "signs orders"]) -> DecaySpindle:
    """Split one measurement's strength by order into decays and a spindle, by bounded least squares.

    Positive and negative strength at order ``m`` are ``a·e^{-bm} + c·C(n,m)·r^m``, with ``a`` and ``b`` of each sign's own
    and one spindle, because interactions in a spindle cancel. ``a`` and ``c`` are not negative and are solved exactly for any
    ``b`` and ``r``, which are searched on a grid and refined from its best points. The result is deterministic, and scales
    with the strength. Large strengths count most.

    What the data cannot tell apart is settled by bounds. A slow decay and a broad spindle look alike, and so do a steep decay
    and a spindle with small ``r``; two decays that are equal are told from a spindle by their form alone. A decay therefore
    halves from order to order at least, and a spindle is a hump in the middle: its mean order ``nr/(1+r)`` is ``0.4n`` at
    least, it is largest at order 2 or above and not at order n alone. Noise is well inside: independent effects give
    ``r = 1``, the Möbius transform of independent values ``r = √2``. The share depends on these bounds: read how it changes
    over a run, and look at ``r_squared``, which is low where much of the strength is of order 2 in one sign. Below 3 players
    no spindle is possible and all is decay; with 3 or 4 there are hardly more numbers than parameters, so read the parts with
    care.

    Args:
        strength: Positive and negative strength by order 0 to n, score units; order 0 is ignored.

    Returns:
        Decays and spindle in the dtype and on the device of the strength.

    Raises:
        ValueError: If there are not two signs and at least one player, or a strength is negative or not finite.

    Source:
        Cheng et al. 2025 (arXiv 2502.10162), the decay-shaped and the spindle-shaped part. Fit and bounds are our own.
    """
    if strength.ndim != 2 or strength.shape[0] != len(SIGNS) or strength.shape[1] < 2:
        raise ValueError(
            f"fit_decay_and_spindle: expected strength [2 signs, orders 0 to n] of n >= 1 players, got shape "
            f"{tuple(strength.shape)}; add up inputs and types first"
        )
    measured = strength.detach().cpu().double().numpy()[:, 1:]
    if not (np.isfinite(measured) & (measured >= 0)).all():
        raise ValueError("fit_decay_and_spindle: expected finite strength of at least 0; take the mean over measured inputs")
    largest = measured.max()
    target = measured / largest if largest > 0 else measured
    skew, *falls = _search(target)
    decays, spindle = _decays(np.array(falls), target), _spindle(np.array(skew), target)
    heights, height = (largest * part for part in _heights(target, decays, spindle))
    fitted = heights[:, None] * decays + height * spindle
    variation = ((measured - measured.mean()) ** 2).sum()
    ratio, num_players = skew / (1 - skew), measured.shape[1]

    def with_order_zero(by_order: Array) -> Tensor:
        padded = np.zeros((*by_order.shape[:-1], num_players + 1))
        padded[..., 1:] = by_order
        return strength.new_tensor(padded)

    return DecaySpindle(
        decay=with_order_zero(heights[:, None] * decays),
        spindle=with_order_zero(height * spindle),
        amplitude=strength.new_tensor(heights / falls),
        rate=strength.new_tensor(np.where(heights > 0, -np.log(falls), np.nan)),
        scale=float(height * spindle[0] / (num_players * ratio)) if height > 0 else 0.0,
        ratio=ratio if height > 0 else np.nan,
        r_squared=float(1 - ((measured - fitted) ** 2).sum() / variation) if variation > 0 else np.nan,
    )


def strength_by_sign(strength: OrderStrength) -> Float[Tensor, "signs orders"]:
    """Average the strength of salient interactions, generalizable or not, over types and measured inputs.

    Args:
        strength: One measurement's strength; inputs of NaN are left out.

    Returns:
        Score units, for :func:`fit_decay_and_spindle`; NaN if no input was measured.
    """
    return (strength.generalizable + strength.non_generalizable).sum(dim=1).nanmean(dim=0)


def _search(target: Array) -> list[float]:
    """Find the skew and the two falls of the best fit."""
    num_players = target.shape[1]
    lower, upper = (max(LEAST_SKEW, 2 / (num_players + 1)), num_players / (num_players + 1))
    if num_players < FEWEST_PLAYERS:
        # There is no spindle, so that any skew does.
        lower, upper = LEAST_SKEW, 1 - LEAST_SKEW
    skews, falls = np.linspace(lower, upper, GRID_SKEWS), np.linspace(*FALLS, GRID_FALLS)
    grid = np.stack(np.meshgrid(skews, falls, falls, indexing="ij"), axis=-1).reshape(GRID_SKEWS, -1, 3)
    error = (_residual(grid, target) ** 2).sum(axis=(-2, -1))
    # The best falls for each skew; where no neighbour is better, a local optimum may be near.
    profile = np.pad(error.min(axis=1), 1, constant_values=np.inf)
    candidates = np.flatnonzero((profile[1:-1] <= profile[:-2]) & (profile[1:-1] <= profile[2:]))
    candidates = candidates[profile[1 + candidates].argsort(kind="stable")][:REFINED]
    low, high = grid[0, 0], grid[-1, -1]

    def refined(start: Array, tolerance: float) -> Any:
        return least_squares(
            lambda parameters: _residual(parameters, target).ravel(),
            start,  # The solver moves it off the bounds by itself.
            bounds=(low, high),
            jac=lambda parameters: _slopes(parameters, target, low, high),
            xtol=tolerance,
            ftol=tolerance,
            gtol=tolerance,
        )

    # Only the best of several is refined to the end.
    rough = [refined(grid[place, error[place].argmin()], ROUGH) for place in candidates]
    best: list[float] = refined(min(rough, key=lambda solution: float(solution.cost)).x, FINE).x.tolist()
    return best


@no_type_check  # called thousands of times
def _residual(parameters: Array, target: Array) -> Array:
    """Fit minus target ``[..., signs, orders]`` at parameters ``[..., (skew, fall, fall)]``, with the best heights."""
    decays, spindle = _decays(parameters[..., 1:], target), _spindle(parameters[..., 0], target)
    heights, height = _heights(target, decays, spindle)
    return heights[..., None] * decays + (height[..., None] * spindle)[..., None, :] - target


def _slopes(parameters: Array, target: Array, low: Array, high: Array) -> Array:
    """Derivatives ``[residuals, parameters]``: central differences within the bounds, all in one evaluation."""
    steps = DIFFERENCE * np.eye(len(parameters))
    ends = np.clip(parameters + np.stack([-steps, steps]), low, high)
    before, after = _residual(ends, target).reshape(2, len(parameters), -1)
    slopes: Array = ((after - before) / (ends[1] - ends[0]).diagonal()[:, None]).T
    return slopes


@no_type_check  # called thousands of times
def _heights(target: Array, decays: Array, spindle: Array) -> tuple[Array, Array]:
    """Solve the least squares in the heights of the decays and of the spindle, none of them negative.

    The decays do not overlap. So for given height of the spindle each decay's is known, and the spindle's is known once it is
    known which decays are zero: four cases, of which the best is the solution.

    Args:
        target: ``[signs, orders]``.
        decays: ``[..., signs, orders]``.
        spindle: ``[..., orders]``; may be zero.

    Returns:
        Heights ``[..., signs]`` of the decays and ``[...]`` of the spindle.
    """
    spindle = spindle[..., None, :]
    decay_norm, spindle_norm = (decays**2).sum(axis=-1), (spindle**2).sum(axis=-1)
    overlap = (decays * spindle).sum(axis=-1)
    decay_pull, spindle_pull = (decays * target).sum(axis=-1), (spindle * target).sum(axis=-1)
    cases = []
    for present in product((0.0, 1.0), repeat=len(target)):
        slope = (spindle_norm - np.array(present) * overlap**2 / decay_norm).sum(axis=-1)
        pull = (spindle_pull - np.array(present) * overlap * decay_pull / decay_norm).sum(axis=-1)
        height = np.where(slope > 0, np.maximum(pull, 0) / np.where(slope > 0, slope, 1), 0)[..., None]
        heights = np.maximum(decay_pull - height * overlap, 0) / decay_norm
        error = heights**2 * decay_norm + height**2 * spindle_norm + 2 * heights * height * overlap
        error = (error - 2 * heights * decay_pull - 2 * height * spindle_pull).sum(axis=-1, keepdims=True)
        cases.append((heights, height, error))
    heights, height, error = map(np.stack, zip(*cases, strict=True))
    best = error.argmin(axis=0)[None]
    return np.take_along_axis(heights, best, axis=0)[0], np.take_along_axis(height, best, axis=0)[0, ..., 0]


@no_type_check  # called thousands of times
def _decays(falls: Array, target: Array) -> Array:
    """Decays ``[..., signs, orders]`` of height 1 at order 1."""
    powers: Array = falls[..., None] ** np.arange(target.shape[1])
    return powers


@no_type_check  # called thousands of times
def _spindle(skew: Array, target: Array) -> Array:
    """Spindle ``[..., orders]`` of height 1 at its mode; ``C(n,m) r^m`` by logarithms, which do not overflow."""
    num_players = target.shape[1]
    if num_players < FEWEST_PLAYERS:
        return np.zeros((*skew.shape, num_players))
    orders = np.arange(1, num_players + 1)
    log_sets = gammaln(num_players + 1) - gammaln(orders + 1) - gammaln(num_players - orders + 1)
    logarithm = log_sets + xlogy(orders, skew[..., None]) + xlog1py(num_players - orders, -skew[..., None])
    hump: Array = np.exp(logarithm - logarithm.max(axis=-1, keepdims=True))
    return hump
