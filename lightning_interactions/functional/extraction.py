"""The sparsest split of values into AND and OR effects.

It minimises ``‖x‖₁ + (ε/2s)‖x‖₂²`` over the attainable effects ``x`` (see ``attainable.py``). The solver is ADMM between the
orthogonal projection onto them and a shrunken soft threshold. It stops on a duality gap, which is cheap because the ridge
makes every vector orthogonal to the attainable directions dual feasible.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.attainable import AttainableEffects, half_half_effects
from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.functional.tolerance import tolerant_split
from lightning_interactions.functional.transforms import and_effects, or_effects
from lightning_interactions.records import Certificate, Interactions

__all__ = ["extract_interactions", "extract_with_certificate"]

RIDGE = 0.01
"""ε, the weight of the ridge that makes the sparsest split unique."""

PENALTY = 2.0
"""ADMM penalty in units of 1/s; fewest iterations on tables of trained and untrained networks, 1 to 4 about the same."""

BALANCE_EVERY = 500
"""Iterations between adjustments of an input's penalty; few inputs live to see one."""

IMBALANCE = 5.0
"""Ratio of an input's relative primal to its relative dual residual, or the inverse, from which its penalty is adjusted."""

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

ENTRIES_AT_ONCE = 2**21
"""Values that are solved together at most, which bounds the memory: an entry takes about 250 bytes."""


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
    return _extract(values, noise_tolerance, start, tolerance, max_iterations)[0]


def extract_with_certificate(
    values: Float[Tensor, "inputs coalitions"],
    *,
    noise_tolerance: float = 0.0,
    start: Interactions | None = None,
    tolerance: float | None = None,
    max_iterations: int = 20_000,
) -> tuple[Interactions, Certificate]:
    """Do what :func:`extract_interactions` does, and prove how close to the sparsest split the result is.

    Args:
        values: See :func:`extract_interactions`, as for the others.
        noise_tolerance: ``κ``.
        start: Interactions to start from.
        tolerance: Relative duality gap at which an input is solved.
        max_iterations: Where to stop anyway, with a warning.

    Returns:
        The interactions, and a certificate evaluated in float64 from a dual feasible vector: its lower bound holds for
        every split of the values (within the noise tolerance), whatever the solver did.

    Raises:
        ValueError: As :func:`extract_interactions` does.
    """
    return _extract(values, noise_tolerance, start, tolerance, max_iterations)


def _extract(
    values: Tensor, noise_tolerance: float, start: Interactions | None, tolerance: float | None, max_iterations: int
) -> tuple[Interactions, Certificate]:
    _check_values(values, start, max_iterations)
    if not 0 <= noise_tolerance < math.inf:
        raise ValueError(f"extract_interactions: expected a finite noise_tolerance of at least 0, got {noise_tolerance}")
    values = values.detach()
    num_players = infer_num_players(values.shape[1])
    if tolerance is None:
        tolerance = (1e-7 if num_players <= FEW_PLAYERS else 1e-5) * (1 if noise_tolerance == 0 else NOISY_FACTOR)
    # Apple's GPUs have no float64.
    centred = values if values.device.type == "mps" else values.double()
    centred = centred - centred[:, :1]
    with torch.no_grad(), full_precision(values.device), _one_thread(values.device, num_players):
        parts = []
        for rows in torch.arange(len(values), device=values.device).split(max(1, ENTRIES_AT_ONCE // values.shape[1])):
            own_start = None if start is None else start.effects[rows].to(centred).nan_to_num()
            if noise_tolerance > 0:
                part = tolerant_split(
                    centred[rows], noise_tolerance, own_start, ridge=RIDGE, tolerance=tolerance, max_iterations=max_iterations
                )
            else:
                part = _sparsest_split(centred[rows], own_start, tolerance, max_iterations)
            parts.append((*part[:2], *vars(part[2]).values()))
        u_and, u_or, *proof = (torch.cat(column) for column in zip(*parts, strict=True))
        split = Interactions(and_effects(u_and).to(values), or_effects(u_or).to(values), values[:, 0])
    certificate = Certificate(*proof)
    _warn_of_unsolved(certificate, tolerance, max_iterations)
    return _fold_single_players(split), certificate


def _sparsest_split(
    values: Tensor, start: Tensor | None, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Certificate]:
    """Solve for ``u_and`` and ``u_or``, of values with ``v(∅) = 0``.

    Every input is solved in a unit of its own, ``s`` over its ADMM penalty. In it the penalty is 1, and the state of the
    iteration is one tensor: the sparse effects plus the dual vector, which the soft threshold takes apart.
    """
    half_half = half_half_effects(values)
    scale = 2 * half_half.abs().mean(dim=-1).sum(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)[:, None]
    unit, ridge = scale / PENALTY, torch.full_like(scale, RIDGE / PENALTY)
    base, state = half_half / unit, (half_half if start is None else start.transpose(0, 1)) / unit

    effects, dual = half_half.clone(), torch.zeros_like(half_half)
    iterations = torch.zeros(len(values), dtype=torch.long, device=values.device)
    active, iteration = torch.arange(len(values), device=values.device), 0
    # Single precision goes most of the way at half the cost; what it does not solve goes on in the precision of the values.
    rough = min(ROUGH_ITERATIONS if tolerance >= ROUGH_TOLERANCE else 0, max_iterations)
    for dtype, last_iteration in ((torch.float32, rough), (values.dtype, max_iterations)):
        attainable = AttainableEffects.like(values.to(dtype))
        base, state, unit, ridge = (part.to(dtype) for part in (base, state, unit, ridge))
        while len(active) and iteration < last_iteration:
            offset = attainable.normal_part(base)
            for _ in range(CHECK_EVERY):
                sparse = _shrink(state, ridge)
                reflected = torch.lerp(state, sparse, 2.0)
                correction = attainable.from_normal_part(attainable.normal_part(reflected).sub_(offset))
                backwards = correction.add_(state).sub_(sparse)
                state = state.add(backwards, alpha=-OVER_RELAXATION)
            iteration += CHECK_EVERY
            point, last_sparse, sparse = sparse - backwards, sparse, _shrink(state, ridge)
            effects[:, active], dual[:, active] = (point * unit).to(effects), (state - sparse).to(dual)
            iterations[active] = iteration
            objective, bound = _objective_and_bound(attainable, base, point, state - sparse, ridge)
            unsolved = ~(objective - bound <= tolerance * objective)
            if iteration % BALANCE_EVERY == 0:
                balance = _penalty_balance(point - sparse, sparse - last_sparse, sparse, state - sparse)
                state = state + (balance - 1) * sparse
                base, unit, ridge = base * balance, unit / balance, ridge / balance
            active, unit, ridge = active[unsolved], unit[unsolved], ridge[unsolved]
            base, state = base[:, unsolved], state[:, unsolved]

    attainable = AttainableEffects.like(values)
    u_and = 0.5 * values + attainable.split(effects - half_half)
    u_or = values - u_and
    effects = torch.stack([and_effects(u_and), or_effects(u_or)])
    objective, bound = _objective_and_bound(attainable, half_half, effects, dual, RIDGE / scale)
    return u_and, u_or, Certificate(objective, bound, iterations)


def _shrink(effects: Tensor, ridge: Tensor) -> Tensor:
    """Proximal step of ``‖x‖₁ + (ridge/2)‖x‖₂²``; the empty set is an offset and costs nothing."""
    shrunk = torch.nn.functional.softshrink(effects, 1.0).div_(1 + ridge)
    shrunk[..., 0] = effects[..., 0]
    return shrunk


def _penalty_balance(primal_residual: Tensor, dual_residual: Tensor, effects: Tensor, dual: Tensor) -> Tensor:
    """Factor for each input's penalty where one of its relative residuals is far behind the other.

    Source:
        Boyd et al. 2011, section 3.4.1; residuals relative to effects and dual as in Wohlberg 2017 (arXiv 1704.06209).
    """
    primal, dual_change, size, dual_size = (part.norm(dim=(0, 2)) for part in (primal_residual, dual_residual, effects, dual))
    ratio = ((primal / size) / (dual_change / dual_size))[:, None]
    one = torch.ones_like(ratio)
    return torch.where(ratio > IMBALANCE, 2 * one, torch.where(ratio < 1 / IMBALANCE, one / 2, one))


def _objective_and_bound(
    attainable: AttainableEffects, base: Tensor, effects: Tensor, dual: Tensor, ridge: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the objective of attainable effects and a lower bound on the objective of all.

    Every ``p`` that is orthogonal to the directions and zero at the empty set gives the lower bound
    ``⟨p, base⟩ - Σ max(|p| - 1, 0)² / 2·ridge``; ``dual`` is brought there by two orthogonal corrections.
    """
    direction = _empty_set_direction(attainable)
    feasible = attainable.from_normal_part(attainable.normal_part(dual))
    feasible = feasible - feasible[:1, :, :1] * direction
    excess = (feasible.abs() - 1).clamp(min=0)
    bound = (feasible * base).sum(dim=(0, 2)) - (excess**2 / (2 * ridge)).sum(dim=(0, 2))
    counted = effects[..., 1:]
    objective = (counted.abs() + 0.5 * ridge * counted**2).sum(dim=(0, 2))
    return objective, bound


def _empty_set_direction(attainable: AttainableEffects) -> Tensor:
    """The direction of dual vectors that changes the empty set's entries, scaled to one there.

    A constant added to ``u_and`` moves both empty-set entries alike and nothing else, so dual vectors have opposite
    numbers there: one direction settles both.
    """
    unit = attainable.cos.new_zeros(2, 1, len(attainable.cos))
    unit[0, 0, 0] = 1
    direction = attainable.from_normal_part(attainable.normal_part(unit))
    return direction / direction[0, 0, 0]


def _warn_of_unsolved(certificate: Certificate, tolerance: float, max_iterations: int) -> None:
    gap = certificate.gap
    unsolved = (certificate.iterations >= max_iterations) & (gap > tolerance)
    if unsolved.any():
        warnings.warn(
            f"extract_interactions: {int(unsolved.sum())} of {len(gap)} inputs have a relative duality gap above {tolerance} "
            f"after {int(certificate.iterations.max())} iterations, the largest is {gap.max():.1e}; they match the values, but "
            "are not the sparsest split. Raise max_iterations or the tolerance.",
            stacklevel=4,
        )


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
