"""The solver of the sparsest decomposition of values that may be off by a little on every coalition.

Where noise ``q`` of at most ``b(T)`` is tolerated, it minimises ``‖x‖₁ + (ε/2s)‖x‖₂²`` over ``R x = v + q``, ``|q| <= b``,
where ``R`` takes effects ``x`` back to values (see ``reconstruction.py``). The solver is ADMM between the orthogonal projection
onto ``{(x, q) : R x - q = v}`` and the separable rest: a shrunken soft threshold of ``x`` and a clamp of ``q``. It stops on a
duality gap: the ridge makes all multipliers of ``R x = v + q`` that sum to zero dual feasible.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.extraction.admm import (
    CHECK_EVERY,
    OVER_RELAXATION,
    conjugate,
    penalised_strength,
    shrink,
)
from lightning_interactions.functional.extraction.reconstruction import Reconstruction
from lightning_interactions.functional.transforms import mobius_transform, zeta_transform
from lightning_interactions.records import Certificate

__all__ = ["tolerant_decomposition"]

PENALTY = 3.0
"""First ADMM penalty of the effects, in units of 1/s."""

NOISE_PENALTY = 0.3
"""First ADMM penalty of the noise, in units of one over its bound: of the size of most multipliers."""

FIRST_BALANCE = 100
"""Iterations before penalties are first adjusted; then after twice as many, and so on, so that the iteration can settle."""

LARGEST_ADJUSTMENT = 3.0
"""Largest factor by which one adjustment changes a penalty; the inverse is the smallest."""


def tolerant_decomposition(
    values: Float[Tensor, "1 inputs coalitions"],
    noise_tolerance: float,
    start: Float[Tensor, "inputs types coalitions"] | None = None,
    *,
    ridge: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Tensor, "1 inputs coalitions"], Float[Tensor, "1 inputs coalitions"], Certificate]:
    """Decompose values into an AND and an OR part that add up to them within a noise tolerance.

    Args:
        values: Values of one model, with ``v(∅) = 0``.
        noise_tolerance: ``κ``; the parts may miss ``v(T)`` by ``κ|v(N)|``, but not on the empty and the full coalition.
        start: Effects to start from, in the unit of the values.
        ridge: ``ε``.
        tolerance: Relative duality gap at which an input is solved.
        max_iterations: Where to stop anyway.

    Returns:
        ``u_and`` and ``u_or``, of the shape of ``values``, within the noise tolerance whatever the duality gap; and how
        close to the sparsest such decomposition they are.

    Source:
        Eckstein & Bertsekas 1992, "On the Douglas-Rachford splitting method and the proximal point algorithm for maximal
        monotone operators", for over-relaxed ADMM.
    """
    values = values[0]
    reconstruction = Reconstruction.like(values)
    scale = mobius_transform(torch.stack([values, values.flip(-1)])).abs().mean(dim=-1).sum(dim=0)[:, None]
    varies = scale > 0
    scale = torch.where(varies, scale, 1.0)
    first = None if start is None else start.transpose(0, 1) * varies / scale
    unsolved = _Unsolved.at(first, values / scale, noise_tolerance, reconstruction, ridge)

    effects, missed = values.new_zeros(2, *values.shape), torch.zeros_like(values)
    objective, bound = values.new_full((2, len(values)), torch.nan)
    iterations = torch.zeros(len(values), dtype=torch.long, device=values.device)
    iteration, next_balance = 0, FIRST_BALANCE
    while len(unsolved) and iteration < max_iterations:
        outcome = _iterate(reconstruction, unsolved, ridge)
        iteration += CHECK_EVERY
        rows = unsolved.rows
        effects[:, rows], missed[rows] = _feasible(reconstruction, outcome.point, unsolved)
        objective[rows], bound[rows] = (
            penalised_strength(effects[:, rows], ridge),
            _lower_bound(reconstruction, outcome.multipliers, unsolved, ridge),
        )
        iterations[rows] = iteration
        is_open = ~(objective - bound <= tolerance * objective)[rows]
        unsolved = replace(unsolved, free_effects=outcome.free_effects, free_noise=outcome.free_noise)
        if iteration == next_balance:
            next_balance *= 2
            unsolved = unsolved.balanced(ridge)
        unsolved = unsolved.select(is_open)
    u_and = scale * zeta_transform(effects[0])
    certificate = Certificate(scale[:, 0] * objective, scale[:, 0] * bound, iterations)
    return u_and[None], (values + scale * missed - u_and)[None], certificate


class _Outcome(NamedTuple):
    """What some iterations lead to.

    Attributes:
        free_effects: Effects to go on from.
        free_noise: Noise to go on from.
        point: Effects that match the values with some noise, which may be too large.
        multipliers: Of ``R x = v + q``, dual to the effects.
    """

    free_effects: Tensor
    free_noise: Tensor
    point: Tensor
    multipliers: Tensor


@dataclass(frozen=True, eq=False)
class _Unsolved:
    """The inputs that are not solved yet, each in units of its scale.

    What the separable rest is applied to is called free: a solution plus its multipliers over their penalties.

    Attributes:
        rows: ``[inputs]``; which inputs they are.
        target: ``[inputs, coalitions]``; the values.
        width: ``[inputs, coalitions]``; how much noise is tolerated.
        penalty: ``[inputs, 1]``; ADMM penalty of the effects.
        noise_penalty: ``[inputs, 1]``; ADMM penalty of the noise.
        free_effects: ``[types, inputs, coalitions]``.
        free_noise: ``[inputs, coalitions]``.
    """

    rows: Tensor
    target: Tensor
    width: Tensor
    penalty: Tensor
    noise_penalty: Tensor
    free_effects: Tensor
    free_noise: Tensor

    @classmethod
    def at(
        cls, start: Tensor | None, target: Tensor, noise_tolerance: float, reconstruction: Reconstruction, ridge: float
    ) -> "_Unsolved":
        """Begin with all inputs, at some effects or at equal ones."""
        width = (noise_tolerance * target[:, -1:].abs()).repeat(1, target.shape[1])
        room = width[:, :1].minimum(target.abs().amax(dim=1, keepdim=True))
        width[:, [0, -1]] = 0
        effects = _equal_effects(target) if start is None else start.clone()
        # R counts ORs where all their players are masked, with a minus; the empty AND makes up for it.
        effects[..., 0] = torch.stack([effects[1, :, 1:].sum(dim=1), torch.zeros_like(target[:, 0])])
        free_effects = effects + (effects.sign() + ridge * effects) / PENALTY
        free_effects[..., 0] = effects[..., 0]
        noise_penalty = NOISE_PENALTY / room
        free_noise = (reconstruction.values(effects) - target).clamp(-width, width)
        free_noise[:, [0, -1]] = target[:, -1:].sign() / noise_penalty * target.new_tensor([1.0, -1.0])
        rows = torch.arange(len(target), device=target.device)
        return cls(rows, target, width, torch.full_like(noise_penalty, PENALTY), noise_penalty, free_effects, free_noise)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, kept: Tensor) -> "_Unsolved":
        """Keep some of the inputs, by mask."""
        return _Unsolved(
            self.rows[kept],
            self.target[kept],
            self.width[kept],
            self.penalty[kept],
            self.noise_penalty[kept],
            self.free_effects[:, kept],
            self.free_noise[kept],
        )

    def balanced(self, ridge: float) -> "_Unsolved":
        """Bring each input's penalties closer to the ratio of its multipliers to its solution."""
        effects, noise = shrink(self.free_effects, ridge, self.penalty), self.free_noise.clamp(-self.width, self.width)
        # The empty set's effects cost nothing, and may be large for nothing.
        factor = _balance(self.free_effects[..., 1:].transpose(0, 1), effects[..., 1:].transpose(0, 1))
        noise_factor = _balance(self.free_noise, noise)
        return replace(
            self,
            penalty=self.penalty * factor,
            noise_penalty=self.noise_penalty * noise_factor,
            free_effects=effects + (self.free_effects - effects) / factor,
            free_noise=noise + (self.free_noise - noise) / noise_factor,
        )


def _iterate(reconstruction: Reconstruction, unsolved: _Unsolved, ridge: float) -> _Outcome:
    """Iterate some times: reflect at the separable rest, project onto what matches, go a part of the way there."""
    target, width, penalty = unsolved.target, unsolved.width, unsolved.penalty
    free_effects, free_noise, shift = unsolved.free_effects, unsolved.free_noise, penalty / unsolved.noise_penalty
    for _ in range(CHECK_EVERY):
        effects, noise = shrink(free_effects, ridge, penalty), free_noise.clamp(-width, width)
        effect_step, noise_step = effects - free_effects, noise - free_noise
        residual = reconstruction.values(effects + effect_step) - (noise + noise_step) - target
        correction = reconstruction.solve(residual, shift)
        effect_step = effect_step - reconstruction.pull(correction)
        noise_step = noise_step + shift * correction
        free_effects = free_effects.add(effect_step, alpha=OVER_RELAXATION)
        free_noise = free_noise.add(noise_step, alpha=OVER_RELAXATION)
    return _Outcome(free_effects, free_noise, point=effects + effect_step, multipliers=-penalty * correction)


def _feasible(reconstruction: Reconstruction, effects: Tensor, unsolved: _Unsolved) -> tuple[Tensor, Tensor]:
    """Find noise within its bound and effects that match the values with it, both close to the given effects."""
    residual = reconstruction.values(effects) - unsolved.target
    noise = residual.clamp(-unsolved.width, unsolved.width)
    correction = reconstruction.solve(residual - noise, torch.zeros_like(unsolved.penalty))
    return effects - reconstruction.pull(correction), noise


def _lower_bound(reconstruction: Reconstruction, multipliers: Tensor, unsolved: _Unsolved, ridge: float) -> Tensor:
    """Compute a lower bound on the objective of all feasible effects.

    All multipliers ``y`` that sum to zero give the lower bound ``⟨y, v⟩ - Σ b|y|`` minus the conjugate of ``Rᵀy``. The empty
    coalition's multiplier, which its value of zero makes free, settles the sum.
    """
    multipliers = torch.cat([-multipliers[:, 1:].sum(dim=1, keepdim=True), multipliers[:, 1:]], dim=1)
    linear = multipliers * unsolved.target - unsolved.width * multipliers.abs()
    return linear.sum(dim=1) - conjugate(reconstruction.pull(multipliers), ridge)


def _equal_effects(target: Tensor) -> Tensor:
    """The optimum for so much tolerance that only the full coalition counts: equal effects of all non-empty sets."""
    share = target[:, -1:] / (2 * (target.shape[1] - 1))
    return share.expand(2, *target.shape).clone()


def _balance(free: Tensor, solution: Tensor) -> Tensor:
    """Factor for each input's penalty: a root of the ratio of multipliers to solution, not too far from 1."""
    ratio = (free - solution).flatten(1).norm(dim=1, keepdim=True) / solution.flatten(1).norm(dim=1, keepdim=True)
    return torch.nan_to_num((ratio**0.25).clamp(1 / LARGEST_ADJUSTMENT, LARGEST_ADJUSTMENT), nan=1.0)
