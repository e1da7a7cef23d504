"""The solver of the sparsest split: ADMM over the attainable effects.

It minimises ``Σ‖x(S)‖ + (ε/2)‖x‖₂²`` over the attainable effects ``x`` in units of each input's own scale (see
``attainable.py``); the norm goes over models that are split together, so for one model it is the absolute value. ADMM goes back
and forth between the orthogonal projection onto the attainable effects and a shrunken soft threshold. It stops on a duality
gap, which is cheap because the ridge makes every vector orthogonal to the attainable directions dual feasible.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.extraction.feasible_set import AttainableEffects, half_half_effects
from lightning_interactions.functional.transforms import and_effects, or_effects
from lightning_interactions.records import Certificate

__all__ = ["sparsest_split"]

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


def sparsest_split(
    values: Float[Tensor, "models inputs coalitions"],
    start: Float[Tensor, "inputs types coalitions"] | None = None,
    *,
    ridge: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Certificate]:
    """Split values into an AND and an OR part with the smallest strength.

    Every input is solved in a unit of its own, its scale over its ADMM penalty. In it the penalty is 1, and the state of the
    iteration is one tensor: the sparse effects plus the dual vector, which the soft threshold takes apart.

    Args:
        values: Values of one or several models, with ``v(∅) = 0``; an input's models are split together.
        start: Effects to start from, of each model, in the unit of the values.
        ridge: ``ε``.
        tolerance: Relative duality gap at which an input is solved.
        max_iterations: Where to stop anyway.

    Returns:
        ``u_and`` and ``u_or``, both of the shape of ``values``, and how close to the sparsest they are.
    """
    half_half = half_half_effects(values)
    scale = 2 * half_half.abs().mean(dim=-1).sum(dim=0)
    varies = (scale > 0)[..., None]
    scale = torch.where(varies, scale[..., None], 1.0)
    unit, own_ridge = scale / PENALTY, torch.full_like(scale[0], ridge / PENALTY)
    # Values that do not vary have no effects to start from.
    state = (half_half if start is None else start.transpose(0, 1)[:, None] * varies) / unit

    effects, dual = half_half.clone(), torch.zeros_like(half_half)
    iterations = torch.zeros(values.shape[1], dtype=torch.long, device=values.device)
    active, iteration = torch.arange(values.shape[1], device=values.device), 0
    # Single precision goes most of the way at half the cost; what it does not solve goes on in the precision of the values.
    rough = min(ROUGH_ITERATIONS if tolerance >= ROUGH_TOLERANCE else 0, max_iterations)
    for dtype, last_iteration in ((torch.float32, rough), (values.dtype, max_iterations)):
        if last_iteration <= iteration:
            continue
        attainable = AttainableEffects.like(values.to(dtype))
        empty_direction = _empty_set_direction(attainable)
        base, state, own_ridge = (half_half[:, :, active] / unit).to(dtype), state.to(dtype), own_ridge.to(dtype)
        while len(active) and iteration < last_iteration:
            offset = attainable.normal_part(base)
            for _ in range(CHECK_EVERY):
                sparse = _shrink(state, own_ridge)
                reflected = torch.lerp(state, sparse, 2.0)
                correction = attainable.from_normal_part(attainable.normal_part(reflected).sub_(offset))
                backwards = correction.add_(state).sub_(sparse)
                state = state.add(backwards, alpha=-OVER_RELAXATION)
            iteration += CHECK_EVERY
            point, last_sparse, sparse = sparse - backwards, sparse, _shrink(state, own_ridge)
            effects[:, :, active], dual[:, :, active] = point.to(effects) * unit, (state - sparse).to(dual)
            iterations[active] = iteration
            objective, bound = _objective_and_bound(attainable, empty_direction, base, point, state - sparse, own_ridge)
            unsolved = ~(objective - bound <= tolerance * objective)
            if iteration % BALANCE_EVERY == 0:
                balance = _penalty_balance(point - sparse, sparse - last_sparse, sparse, state - sparse)
                state = state + (balance - 1) * sparse
                base, unit, own_ridge = base * balance, unit / balance.to(unit), own_ridge / balance
            active, own_ridge, unit = active[unsolved], own_ridge[unsolved], unit[:, unsolved]
            base, state = base[:, :, unsolved], state[:, :, unsolved]

    attainable = AttainableEffects.like(values)
    u_and = 0.5 * values + attainable.split(effects - half_half)
    u_or = values - u_and
    effects = torch.stack([and_effects(u_and), or_effects(u_or)])
    objective, bound = _objective_and_bound(
        attainable,
        _empty_set_direction(attainable),
        half_half / scale,
        effects / scale,
        dual,
        torch.full_like(scale[0], ridge),
    )
    mean_scale = scale.mean(dim=0)[:, 0]
    return u_and, u_or, Certificate(mean_scale * objective, mean_scale * bound, iterations)


def _shrink(effects: Tensor, ridge: Tensor) -> Tensor:
    """Proximal step of ``Σ‖x(S)‖ + (ridge/2)‖x‖₂²``; the empty set is an offset and costs nothing."""
    if effects.shape[1] == 1:
        shrunk = torch.nn.functional.softshrink(effects, 1.0).div_(1 + ridge)
    else:
        shrunk = effects * ((1 - 1 / _lengths(effects)).clamp(min=0) / (1 + ridge))
    shrunk[..., 0] = effects[..., 0]
    return shrunk


def _lengths(effects: Tensor) -> Tensor:
    """Norm of each effect over the models; they stay on an axis of length one."""
    return effects.abs() if effects.shape[1] == 1 else effects.norm(dim=1, keepdim=True)


def _penalty_balance(primal_residual: Tensor, dual_residual: Tensor, effects: Tensor, dual: Tensor) -> Tensor:
    """Factor for each input's penalty where one of its relative residuals is far behind the other.

    Source:
        Boyd et al. 2011, section 3.4.1; residuals relative to effects and dual as in Wohlberg 2017 (arXiv 1704.06209).
    """
    primal, dual_change, size, dual_size = (
        torch.linalg.vector_norm(part, dim=(0, 1, 3)) for part in (primal_residual, dual_residual, effects, dual)
    )
    ratio = ((primal / size) / (dual_change / dual_size))[:, None]
    one = torch.ones_like(ratio)
    return torch.where(ratio > IMBALANCE, 2 * one, torch.where(ratio < 1 / IMBALANCE, one / 2, one))


def _objective_and_bound(
    attainable: AttainableEffects, empty_direction: Tensor, base: Tensor, effects: Tensor, dual: Tensor, ridge: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the objective of attainable effects and a lower bound on the objective of all.

    Every ``p`` that is orthogonal to the directions and zero at the empty set gives the lower bound
    ``⟨p, base⟩ - Σ max(‖p(S)‖ - 1, 0)² / 2·ridge``; ``dual`` is brought there by two orthogonal corrections.
    """
    feasible = attainable.from_normal_part(attainable.normal_part(dual))
    feasible = feasible - feasible[:1, ..., :1] * empty_direction
    excess = (_lengths(feasible) - 1).clamp(min=0)
    bound = (feasible * base).sum(dim=(0, 1, 3)) - (excess**2 / (2 * ridge)).sum(dim=(0, 1, 3))
    lengths = _lengths(effects[..., 1:])
    objective = (lengths + 0.5 * ridge * lengths**2).sum(dim=(0, 1, 3))
    return objective, bound


def _empty_set_direction(attainable: AttainableEffects) -> Tensor:
    """The direction of dual vectors that changes the empty set's entries, scaled to one there.

    A constant added to ``u_and`` moves both empty-set entries alike and nothing else, so dual vectors have opposite
    numbers there: one direction settles both.
    """
    unit = attainable.cos.new_zeros(2, 1, 1, len(attainable.cos))
    unit[0, ..., 0] = 1
    direction = attainable.from_normal_part(attainable.normal_part(unit))
    return direction / direction[0, 0, 0, 0]
