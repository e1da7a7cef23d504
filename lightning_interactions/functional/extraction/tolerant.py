"""The sparsest split of values that may be off by a little on every coalition.

Where noise ``q`` of at most ``b(T)`` is tolerated, it minimises ``‖x‖₁ + (ε/2s)‖x‖₂²`` over ``R x = v + q``, ``|q| <= b``,
where ``R`` takes effects ``x`` back to values (see ``symmetry.py``). The solver is ADMM between the orthogonal projection onto
``{(x, q) : R x - q = v}`` and the separable rest: a shrunken soft threshold of ``x`` and a clamp of ``q``. It stops on a
duality gap: the ridge makes all multipliers of ``R x = v + q`` that sum to zero dual feasible.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.extraction.reconstruction import Reconstruction
from lightning_interactions.functional.transforms import mobius_transform, zeta_transform
from lightning_interactions.records import Certificate

__all__ = ["tolerant_split"]

PENALTY = 3.0
"""First ADMM penalty of the effects, in units of 1/s."""

NOISE_PENALTY = 0.3
"""First ADMM penalty of the noise, in units of one over its bound: of the size of most multipliers."""

FIRST_BALANCE = 100
"""Iterations before penalties are first adjusted; then after twice as many, and so on, so that the iteration can settle."""

LARGEST_ADJUSTMENT = 3.0
"""Largest factor by which one adjustment changes a penalty; the inverse is the smallest."""

OVER_RELAXATION = 1.8
CHECK_EVERY = 25


def tolerant_split(
    values: Float[Tensor, "1 inputs coalitions"],
    noise_tolerance: float,
    start: Float[Tensor, "inputs types coalitions"] | None = None,
    *,
    ridge: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Certificate]:
    """Split values into an AND and an OR part that add up to them within a noise tolerance.

    Args:
        values: Values of one model, with ``v(∅) = 0``.
        noise_tolerance: ``κ``; the parts may miss ``v(T)`` by ``κ|v(N)|``, but not on the empty and the full coalition.
        start: Effects to start from, in the unit of the values.
        ridge: ``ε``.
        tolerance: Relative duality gap at which an input is solved.
        max_iterations: Where to stop anyway.

    Returns:
        ``u_and`` and ``u_or``, of the shape of ``values``, within the noise tolerance whatever the duality gap; and how
        close to the sparsest such split they are.

    Source:
        Eckstein & Bertsekas 1992, "On the Douglas-Rachford splitting method and the proximal point algorithm for maximal
        monotone operators", for over-relaxed ADMM.
    """
    values = values[0]
    reconstruction = Reconstruction.like(values)
    scale = mobius_transform(torch.stack([values, values.flip(-1)])).abs().mean(dim=-1).sum(dim=0)[:, None]
    varies = (scale > 0)[..., None]
    scale = torch.where(scale > 0, scale, 1.0)
    target = values / scale
    width = (noise_tolerance * target[:, -1:].abs()).repeat(1, values.shape[1])
    room = width[:, :1].minimum(target.abs().amax(dim=1, keepdim=True))
    penalty, noise_penalty = torch.full_like(scale, PENALTY), NOISE_PENALTY / room
    width[:, [0, -1]] = 0

    effects = _equal_effects(target) if start is None else start * varies / scale[..., None]
    effects[:, :, 0] = torch.stack([effects[:, 1, 1:].sum(dim=1), torch.zeros_like(target[:, 0])], dim=1)
    solution, missed = effects.clone(), torch.zeros_like(target)
    objective, bound = target.new_full((2, len(values)), torch.nan)
    iterations = torch.zeros(len(values), dtype=torch.long, device=values.device)
    active = torch.arange(len(values), device=values.device)
    # What the separable rest is applied to: a solution plus its multipliers over their penalties.
    free_effects = effects + (effects.sign() + ridge * effects) / PENALTY
    free_effects[..., 0] = effects[..., 0]
    free_noise = (reconstruction.values(effects) - target).clamp(-width, width)
    free_noise[:, [0, -1]] = target[:, -1:].sign() / noise_penalty * target.new_tensor([1.0, -1.0])
    iteration, next_balance = 0, FIRST_BALANCE
    while len(active) and iteration < max_iterations:
        shift = penalty / noise_penalty
        for _ in range(CHECK_EVERY):
            effects, noise = _shrink(free_effects, penalty, ridge), free_noise.clamp(-width, width)
            effect_step, noise_step = effects - free_effects, noise - free_noise
            residual = reconstruction.values(effects + effect_step) - (noise + noise_step) - target
            multipliers = reconstruction.solve(residual, shift)
            effect_step = effect_step - reconstruction.pull(multipliers)
            noise_step = noise_step + shift * multipliers
            free_effects = free_effects + OVER_RELAXATION * effect_step
            free_noise = free_noise + OVER_RELAXATION * noise_step
        iteration += CHECK_EVERY
        point, noise = _attainable(reconstruction, effects + effect_step, target, width)
        solution[active], missed[active] = point, noise
        objective[active], bound[active] = _objective_and_bound(
            reconstruction, point, -penalty * multipliers, target, width, ridge
        )
        iterations[active] = iteration
        unsolved = ~(objective - bound <= tolerance * objective)[active]
        if iteration == next_balance:
            next_balance *= 2
            effects, noise = _shrink(free_effects, penalty, ridge), free_noise.clamp(-width, width)
            # The empty set's effects cost nothing, and may be large for nothing.
            factor = _balance(free_effects[..., 1:], effects[..., 1:])
            noise_factor = _balance(free_noise, noise)
            free_effects = effects + (free_effects - effects) / factor[..., None]
            free_noise = noise + (free_noise - noise) / noise_factor
            penalty, noise_penalty = penalty * factor, noise_penalty * noise_factor
        active, target, width, free_effects, free_noise, penalty, noise_penalty = (
            kept[unsolved] for kept in (active, target, width, free_effects, free_noise, penalty, noise_penalty)
        )
    u_and = scale * zeta_transform(solution[:, 0])
    certificate = Certificate(scale[:, 0] * objective, scale[:, 0] * bound, iterations)
    return u_and[None], (values + scale * missed - u_and)[None], certificate


def _equal_effects(target: Tensor) -> Tensor:
    """The optimum for so much tolerance that only the full coalition counts: equal effects of all non-empty sets."""
    share = target[:, -1] / (2 * (target.shape[1] - 1))
    return share[:, None, None].repeat(1, 2, target.shape[1])


def _shrink(effects: Tensor, penalty: Tensor, ridge: float) -> Tensor:
    """Proximal step of ``‖x‖₁ + (ε/2)‖x‖₂²``; the empty set is an offset and costs nothing."""
    penalty = penalty[..., None]
    shrunk = torch.nn.functional.softshrink(penalty * effects, 1.0) / (penalty + ridge)
    shrunk[..., 0] = effects[..., 0]
    return shrunk


def _attainable(reconstruction: Reconstruction, effects: Tensor, target: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Find noise within its bound and effects that match the values with it, both close to the given effects."""
    residual = reconstruction.values(effects) - target
    noise = residual.clamp(-width, width)
    correction = reconstruction.solve(residual - noise, torch.zeros_like(width[:, :1]))
    return effects - reconstruction.pull(correction), noise


def _objective_and_bound(
    reconstruction: Reconstruction, point: Tensor, multipliers: Tensor, target: Tensor, width: Tensor, ridge: float
) -> tuple[Tensor, Tensor]:
    """Compute the objective of attainable effects and a lower bound on the objective of all.

    All multipliers ``y`` that sum to zero give the lower bound ``⟨y, v⟩ - Σ b|y| - Σ max(|Rᵀy| - 1, 0)² / 2ε``. The empty
    coalition's multiplier, which its value of zero makes free, settles the sum.
    """
    multipliers = torch.cat([-multipliers[:, 1:].sum(dim=1, keepdim=True), multipliers[:, 1:]], dim=1)
    excess = (reconstruction.pull(multipliers)[..., 1:].abs() - 1).clamp(min=0)
    bound = (multipliers * target - width * multipliers.abs()).sum(dim=1) - (excess**2).sum(dim=(1, 2)) / (2 * ridge)
    counted = point[..., 1:]
    objective = (counted.abs() + 0.5 * ridge * counted**2).sum(dim=(1, 2))
    return objective, bound


def _balance(free: Tensor, solution: Tensor) -> Tensor:
    """Factor that brings each input's penalty closer to the ratio of its multipliers to its solution."""
    ratio = (free - solution).flatten(1).norm(dim=1, keepdim=True) / solution.flatten(1).norm(dim=1, keepdim=True)
    return torch.nan_to_num((ratio**0.25).clamp(1 / LARGEST_ADJUSTMENT, LARGEST_ADJUSTMENT), nan=1.0)
