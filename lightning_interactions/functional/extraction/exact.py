"""The solver of the sparsest decomposition: ADMM over the feasible set.

It minimises ``Σ‖x(S)‖ + (ε/2)‖x‖₂²`` over the feasible effects ``x`` in units of each input's own scale (see ``admm.py`` and
``feasible_set.py``). ADMM goes back and forth between the orthogonal projection onto the feasible set and a shrunken soft
threshold. It stops on a duality gap, which is cheap because the ridge makes every vector orthogonal to the feasible directions
dual feasible.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.extraction.admm import (
    CHECK_EVERY,
    OVER_RELAXATION,
    conjugate,
    penalised_strength,
)
from lightning_interactions.functional.extraction.feasible_set import FeasibleEffects, half_half_effects
from lightning_interactions.functional.extraction.grid import Grid, Steps
from lightning_interactions.functional.transforms import and_effects, or_effects
from lightning_interactions.records import Certificate

__all__ = ["sparsest_decomposition"]

PENALTY = 2.0
"""ADMM penalty in units of 1/s; fewest iterations on tables of trained and untrained networks, 1 to 4 about the same."""

BALANCE_EVERY = 500
"""Iterations between adjustments of an input's penalty; few inputs live to see one."""

IMBALANCE = 5.0
"""Ratio of an input's relative primal to its relative dual residual, or the inverse, from which its penalty is adjusted."""

ROUGH_ITERATIONS = 2000
"""Iterations in float32 at most; beyond them float32 has mostly stalled."""

ROUGH_TOLERANCE = 1e-5
"""Smallest relative duality gap that float32 can tell apart from zero."""


def sparsest_decomposition(
    values: Float[Tensor, "models inputs coalitions"],
    start: Float[Tensor, "inputs types coalitions"] | None = None,
    *,
    ridge: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Tensor, "models inputs coalitions"], Float[Tensor, "models inputs coalitions"], Certificate]:
    """Decompose values into the AND and the OR part with the smallest strength.

    Args:
        values: Values of one or several models, with ``v(∅) = 0``; an input's models are decomposed together.
        start: Effects to start from, of each model, in the unit of the values.
        ridge: ``ε``.
        tolerance: Relative duality gap at which an input is solved.
        max_iterations: Where to stop anyway.

    Returns:
        ``u_and`` and ``u_or``, both of the shape of ``values``, and how close to the sparsest they are.
    """
    half_half = half_half_effects(values)
    scale = 2 * half_half.abs().mean(dim=-1, keepdim=True).sum(dim=0)
    varies = scale > 0
    scale = torch.where(varies, scale, 1.0)
    # Values that do not vary have no effects to start from.
    first = half_half if start is None else start.transpose(0, 1)[:, None] * varies
    unsolved = _Unsolved.at(first, half_half, scale, ridge)
    precise = FeasibleEffects.like(values)

    effects, dual = half_half.clone(), torch.zeros_like(half_half)
    iterations = torch.zeros(values.shape[1], dtype=torch.long, device=values.device)
    iteration = 0
    for dtype, last_iteration in _stages(values.dtype, tolerance, max_iterations):
        feasible = precise if dtype == values.dtype else FeasibleEffects.like(values[:0].to(dtype))
        grid = Grid.of(feasible)
        unsolved = unsolved.in_precision(dtype, half_half)
        while len(unsolved) and iteration < last_iteration:
            offset = feasible.normal_part(unsolved.half_half)
            steps = grid.iterate(unsolved.state, offset, unsolved.ridge, times=CHECK_EVERY, relaxation=OVER_RELAXATION)
            iteration += CHECK_EVERY
            rows, own_dual = unsolved.rows, steps.state - steps.sparse
            effects[:, :, rows], dual[:, :, rows] = steps.point.to(effects) * unsolved.unit, own_dual.to(dual)
            iterations[rows] = iteration
            objective, bound = _objective_and_bound(feasible, unsolved.half_half, steps.point, own_dual, unsolved.ridge)
            is_open = ~(objective - bound <= tolerance * objective)
            unsolved = replace(unsolved, state=steps.state)
            if iteration % BALANCE_EVERY == 0:
                unsolved = unsolved.balanced(steps)
            unsolved = unsolved.select(is_open)

    # Effects in single precision match the values roughly; those of γ match them exactly.
    u_and = 0.5 * values + precise.gamma(effects - half_half)
    u_or = values - u_and
    effects = torch.stack([and_effects(u_and), or_effects(u_or)])
    objective, bound = _objective_and_bound(precise, half_half / scale, effects / scale, dual, ridge)
    mean_scale = scale.mean(dim=0)[:, 0]
    return u_and, u_or, Certificate(mean_scale * objective, mean_scale * bound, iterations)


def _stages(dtype: torch.dtype, tolerance: float, max_iterations: int) -> Iterator[tuple[torch.dtype, int]]:
    """Give the precision of each stage of the iteration and where the stage ends.

    Single precision goes most of the way at half the cost; what it does not solve goes on in the precision of the values.
    """
    if tolerance >= ROUGH_TOLERANCE:
        yield torch.float32, min(ROUGH_ITERATIONS, max_iterations)
    yield dtype, max_iterations


@dataclass(frozen=True, eq=False)
class _Unsolved:
    """The inputs that are not solved yet, each in a unit of its own: its scale over its ADMM penalty.

    In this unit the penalty is 1, and all that the iteration has to remember is one tensor.

    Attributes:
        rows: ``[inputs]``; which inputs they are.
        unit: ``[models, inputs, 1]``; in the unit of the values.
        ridge: ``[inputs, 1]``; in the unit of each input.
        state: ``[types, models, inputs, coalitions]``; sparse effects plus dual vector; the soft threshold takes them apart.
        half_half: ``[types, models, inputs, coalitions]``; effects of the half-half decomposition, which is feasible.
    """

    rows: Tensor
    unit: Tensor
    ridge: Tensor
    state: Tensor
    half_half: Tensor

    @classmethod
    def at(cls, start: Tensor, half_half: Tensor, scale: Tensor, ridge: float) -> "_Unsolved":
        """Begin with all inputs, at some effects."""
        unit = scale / PENALTY
        rows = torch.arange(scale.shape[1], device=scale.device)
        return cls(rows, unit, torch.full_like(scale[0], ridge / PENALTY), start / unit, half_half / unit)

    def __len__(self) -> int:
        return len(self.rows)

    def in_precision(self, dtype: torch.dtype, half_half: Tensor) -> "_Unsolved":
        """Go on in another precision; units stay in that of the values."""
        own_half_half = (half_half[:, :, self.rows] / self.unit).to(dtype)
        return replace(self, ridge=self.ridge.to(dtype), state=self.state.to(dtype), half_half=own_half_half)

    def select(self, kept: Tensor) -> "_Unsolved":
        """Keep some of the inputs, by mask."""
        return _Unsolved(
            self.rows[kept], self.unit[:, kept], self.ridge[kept], self.state[:, :, kept], self.half_half[:, :, kept]
        )

    def balanced(self, last: Steps) -> "_Unsolved":
        """Adjust the penalty, and with it the unit, of inputs where one of the relative residuals is far behind the other.

        Source:
            Boyd et al. 2011, section 3.4.1; residuals relative to effects and dual as in Wohlberg 2017 (arXiv 1704.06209).
        """
        primal, dual_change, size, dual_size = (
            torch.linalg.vector_norm(part, dim=(0, 1, 3))
            for part in (last.point - last.sparse, last.sparse - last.last_sparse, last.sparse, last.state - last.sparse)
        )
        ratio = ((primal / size) / (dual_change / dual_size))[:, None]
        factor = torch.where(ratio > IMBALANCE, 2.0, torch.where(ratio < 1 / IMBALANCE, 0.5, 1.0)).to(ratio)
        return _Unsolved(
            rows=self.rows,
            unit=self.unit / factor.to(self.unit),
            ridge=self.ridge / factor,
            # The sparse effects change with the unit, the dual vector does not.
            state=self.state + (factor - 1) * last.sparse,
            half_half=self.half_half * factor,
        )


def _objective_and_bound(
    feasible: FeasibleEffects, half_half: Tensor, effects: Tensor, dual: Tensor, ridge: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Compute the objective of feasible effects and a lower bound on the objective of all.

    Every ``p`` that is orthogonal to the feasible directions and zero at the empty set gives the lower bound ``⟨p, half_half⟩``
    minus the conjugate of ``p``; ``dual`` is brought there by two orthogonal corrections.
    """
    orthogonal = feasible.from_normal_part(feasible.normal_part(dual))
    orthogonal = orthogonal - orthogonal[:1, ..., :1] * feasible.empty_set_direction
    bound = (orthogonal * half_half).sum(dim=(0, 1, 3)) - conjugate(orthogonal, ridge)
    return penalised_strength(effects, ridge), bound
