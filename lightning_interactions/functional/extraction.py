"""The sparsest split of values into AND and OR effects.

It minimises ``‖x‖₁ + (ε/2s)‖x‖₂²`` over the attainable effects ``x`` (see ``attainable.py``). The solver is ADMM between the
orthogonal projection onto them and a shrunken soft threshold. It stops on a duality gap, which is cheap because the ridge
makes every vector orthogonal to the attainable directions dual feasible.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.attainable import AttainableEffects
from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.functional.tolerance import tolerant_split
from lightning_interactions.functional.transforms import and_effects, or_effects
from lightning_interactions.records import Interactions

__all__ = ["extract_interactions"]

RIDGE = 0.01
"""ε, the weight of the ridge that makes the sparsest split unique."""

PENALTY = 3.0
"""ADMM penalty in units of 1/s; fewest iterations on tables of trained and untrained networks, 2 to 4 about the same."""

BALANCE_EVERY = 500
"""Iterations between adjustments of an input's penalty; few inputs live to see one."""

IMBALANCE = 5.0
"""Ratio of an input's primal to its dual residual, or the inverse, from which its penalty is adjusted."""

OVER_RELAXATION = 1.8
CHECK_EVERY = 25

ROUGH_ITERATIONS = 2000
"""Iterations in float32 at most; beyond them float32 has mostly stalled."""

ROUGH_TOLERANCE = 1e-5
"""Smallest relative duality gap that float32 can tell apart from zero."""

FEW_PLAYERS = 5
"""Up to so many players the objective is flattest, and solving is cheap: the tolerance is tighter there."""

NOISY_FACTOR = 10.0
"""How much larger the tolerance is where noise is tolerated: the last digits take that solver longest."""

ONE_THREAD_UP_TO = 11
"""Up to so many players the products are too small to share: threads that wait for each other on busy cores cost far more."""


def extract_interactions(
    values: Float[Tensor, "inputs coalitions"],
    *,
    noise_tolerance: float = 0.0,
    start: Interactions | None = None,
    tolerance: float | None = None,
    max_iterations: int = 20_000,
) -> Interactions:
    """Rewrite values as the sparsest sum of AND and OR interactions, exactly unless noise is tolerated.

    Args:
        values: ``v(T)`` for all ``2^n`` coalitions of each input, bit ``i`` of the index for player ``i``; any real
            scores in any unit, float32 or float64. No gradient flows through the extraction.
        noise_tolerance: ``κ``, the part of ``|v(N) - v(∅)|`` by which the interactions may miss the values of all coalitions
            but the empty and the full one. Tolerance makes interactions sparser and weaker, so it is part of every result;
            :func:`matching_error` tells what was missed.
        start: Interactions of the same inputs to start from, such as the last measurement's; does not change the
            solution beyond the tolerance. Rows of NaN start from nothing.
        tolerance: Relative duality gap at which an input is solved; 1e-5 if left out, and 1e-7 for up to 5 players, which
            brings solutions from different starts to the same salient interactions. Ten times as much with a noise tolerance.
        max_iterations: Where to stop anyway, with a warning.

    Returns:
        Interactions in the dtype and on the device of ``values``; they reproduce the values on every coalition to
        rounding, or within the noise tolerance, whatever the duality gap.

    Raises:
        ValueError: If the last axis does not hold ``2^n`` coalitions, the values are no 2-D tensor of float32 or float64, a
            value is NaN or infinite, ``start`` has another shape, ``max_iterations`` is smaller than 1, or
            ``noise_tolerance`` is negative, NaN or infinite.

    Source:
        Li & Zhang 2023 (arXiv 2304.13312), the sparsest AND-OR interactions; He et al. 2025 (arXiv 2505.06993). The
        ridge, which picks one of the many sparsest splits, and the solver are our own.
    """
    _check_values(values, start, max_iterations)
    if not 0 <= noise_tolerance < math.inf:
        raise ValueError(f"extract_interactions: expected a finite noise_tolerance of at least 0, got {noise_tolerance}")
    values = values.detach()
    num_players = infer_num_players(values.shape[1])
    if tolerance is None:
        tolerance = (1e-7 if num_players <= FEW_PLAYERS else 1e-5) * (1 if noise_tolerance == 0 else NOISY_FACTOR)
    # Apple's GPUs have no float64.
    working = values if values.device.type == "mps" else values.double()
    centred = working - working[:, :1]
    with torch.no_grad(), full_precision(values.device), _one_thread(values.device, num_players):
        if noise_tolerance > 0:
            effects = None if start is None else start.effects.to(centred).nan_to_num()
            u_and, u_or = tolerant_split(
                centred, noise_tolerance, effects, ridge=RIDGE, tolerance=tolerance, max_iterations=max_iterations
            )
        else:
            u_and = _sparsest_and_part(centred, start, tolerance, max_iterations)
            u_or = centred - u_and
        split = Interactions(and_effects(u_and).to(values), or_effects(u_or).to(values), values[:, 0])
    return _fold_single_players(split)


def _sparsest_and_part(values: Tensor, start: Interactions | None, tolerance: float, max_iterations: int) -> Tensor:
    """Solve for ``u_and``, with every input in units of its own mean effect ``s``."""
    exact = AttainableEffects.of(values)
    scale = 2 * exact.base.abs().mean(dim=-1).sum(dim=-1)
    scale = torch.where(scale > 0, scale, 1.0)[:, None, None]
    exact = replace(exact, base=exact.base / scale)

    solution = exact.base.clone()
    active = torch.arange(len(values), device=values.device)
    sparse = exact.base if start is None else start.effects.to(exact.base).nan_to_num() / scale
    dual = torch.zeros_like(sparse)
    penalty = torch.full_like(scale, PENALTY)
    iteration = 0
    # Single precision goes most of the way at half the cost; what it does not solve goes on in the precision of the values.
    rough = min(ROUGH_ITERATIONS if tolerance >= ROUGH_TOLERANCE else 0, max_iterations)
    for dtype, last_iteration in ((torch.float32, rough), (values.dtype, max_iterations)):
        attainable = exact.to(dtype)
        offset = attainable.normal_part(attainable.base)
        empty_direction = _empty_set_direction(attainable)
        sparse, dual, penalty = sparse.to(dtype), dual.to(dtype), penalty.to(dtype)
        while len(active) and iteration < last_iteration:
            own_offset = offset[active]
            for _ in range(CHECK_EVERY):
                point = sparse - dual
                point = point - attainable.from_normal_part(attainable.normal_part(point) - own_offset)
                relaxed = OVER_RELAXATION * point + (1 - OVER_RELAXATION) * sparse + dual
                last_sparse, sparse = sparse, _shrink(relaxed, penalty)
                dual = relaxed - sparse
            iteration += CHECK_EVERY
            solution[active] = point.to(solution)
            gap = _duality_gap(attainable, attainable.base[active], point, penalty * dual, empty_direction)
            unsolved = ~(gap <= tolerance)
            if iteration % BALANCE_EVERY == 0:
                balance = _penalty_balance(point - sparse, penalty * (sparse - last_sparse))
                penalty, dual = penalty * balance, dual / balance
            active, sparse, dual, penalty = active[unsolved], sparse[unsolved], dual[unsolved], penalty[unsolved]
    if len(active):
        warnings.warn(
            f"extract_interactions: {len(active)} of {len(values)} inputs have a relative duality gap above {tolerance} "
            f"after {iteration} iterations, the largest is {gap.max():.1e}; they match the values, but are not the "
            "sparsest split. Raise max_iterations or the tolerance.",
            stacklevel=3,
        )
    return 0.5 * values + scale[:, 0] * exact.split(solution)


def _shrink(effects: Tensor, penalty: Tensor) -> Tensor:
    """Proximal step of ``‖x‖₁ + (ε/2)‖x‖₂²``; the empty set is an offset and costs nothing."""
    shrunk = torch.nn.functional.softshrink(penalty * effects, 1.0) / (penalty + RIDGE)
    shrunk[..., 0] = effects[..., 0]
    return shrunk


def _penalty_balance(primal_residual: Tensor, dual_residual: Tensor) -> Tensor:
    """Factor for each input's penalty where one of its residuals is far behind the other (Boyd et al. 2011, section 3.4.1)."""
    ratio = primal_residual.norm(dim=(1, 2), keepdim=True) / dual_residual.norm(dim=(1, 2), keepdim=True)
    one = torch.ones_like(ratio)
    return torch.where(ratio > IMBALANCE, 2 * one, torch.where(ratio < 1 / IMBALANCE, one / 2, one))


def _duality_gap(attainable: AttainableEffects, base: Tensor, point: Tensor, dual: Tensor, direction: Tensor) -> Tensor:
    """Bound how far the objective at attainable effects is above the optimum, relative to the optimum.

    Every ``p`` that is orthogonal to the set's directions and zero at the empty set gives the lower bound
    ``⟨p, base⟩ - Σ max(|p| - 1, 0)² / 2ε``; ``dual`` is brought there by two orthogonal corrections.
    """
    feasible = attainable.from_normal_part(attainable.normal_part(dual))
    feasible = feasible - feasible[:, :1, :1] * direction
    excess = (feasible.abs() - 1).clamp(min=0)
    bound = (feasible * base).sum(dim=(1, 2)) - (excess**2).sum(dim=(1, 2)) / (2 * RIDGE)
    counted = point[..., 1:]
    objective = (counted.abs() + 0.5 * RIDGE * counted**2).sum(dim=(1, 2))
    return (objective - bound) / objective.clamp(min=torch.finfo(objective.dtype).tiny)


def _empty_set_direction(attainable: AttainableEffects) -> Tensor:
    """The direction of dual vectors that changes the empty set's entries, scaled to one there.

    A constant added to ``u_and`` moves both empty-set entries alike and nothing else, so dual vectors have opposite
    numbers there: one direction settles both.
    """
    unit = attainable.base.new_zeros(1, *attainable.base.shape[1:])
    unit[0, 0, 0] = 1
    direction = attainable.from_normal_part(attainable.normal_part(unit))
    return direction / direction[0, 0, 0]


def _fold_single_players(interactions: Interactions) -> Interactions:
    """Move the OR effect of every single player into its AND effect: both count when that player is unmasked."""
    singles = 2 ** torch.arange(infer_num_players(interactions.and_effects.shape[1]))
    and_effects, or_effects = interactions.and_effects.clone(), interactions.or_effects.clone()
    and_effects[:, singles] += or_effects[:, singles]
    or_effects[:, singles] = 0
    return Interactions(and_effects, or_effects, interactions.offset)


@contextmanager
def _one_thread(device: torch.device, num_players: int) -> Iterator[None]:
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or num_players > ONE_THREAD_UP_TO or num_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _check_values(values: Tensor, start: Interactions | None, max_iterations: int) -> None:
    if values.ndim != 2 or values.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "extract_interactions: expected float32 or float64 values of shape [inputs, coalitions], got "
            f"{values.dtype} of shape {tuple(values.shape)}; convert them, and add a first axis for a single input"
        )
    infer_num_players(values.shape[1])
    if start is not None and start.and_effects.shape != values.shape:
        raise ValueError(
            f"extract_interactions: expected start to have the shape {tuple(values.shape)} of the values, got "
            f"{tuple(start.and_effects.shape)}"
        )
    if max_iterations < 1:
        raise ValueError(f"extract_interactions: expected max_iterations of at least 1, got {max_iterations}")
    broken = (~values.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"extract_interactions: expected finite values, got NaN or infinity for {len(broken)} of {len(values)} inputs "
            f"(first rows: {broken[:5]}); leave those inputs out"
        )
