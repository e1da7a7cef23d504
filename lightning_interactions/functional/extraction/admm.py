"""What the two solvers share: the penalised strength ``Σ‖x(S)‖ + (ε/2)‖x‖₂²``, its proximal step and its conjugate.

The sums are over both types and all non-empty sets ``S``; the empty set is an offset and costs nothing. The norm goes over the
models that are decomposed together, so for one model it is the absolute value.

Effects have the shape ``[types, inputs, coalitions]``, or ``[types, models, inputs, coalitions]`` for several models.
"""

from typing import no_type_check

import torch
from torch import Tensor

__all__ = ["CHECK_EVERY", "OVER_RELAXATION", "conjugate", "penalised_strength", "shrink"]

OVER_RELAXATION = 1.8
"""Fewest iterations on tables of trained and untrained networks."""

CHECK_EVERY = 25
"""Iterations between two looks at the duality gap."""


@no_type_check  # called thousands of times
def shrink(effects: Tensor, ridge: Tensor | float, penalty: Tensor) -> Tensor:
    """Take the proximal step: minimise the penalised strength of ``x`` plus ``penalty/2 ‖x - effects‖₂²``.

    Args:
        effects: What to stay close to, of one model.
        ridge: ``ε``, of each input or of all.
        penalty: ADMM penalty of each input, ``[inputs, 1]``.

    Returns:
        ``x``: effects after a soft threshold, shrunken by the ridge; the empty set's are those given.
    """
    shrunk = torch.nn.functional.softshrink(penalty * effects, 1.0).div_(penalty + ridge)
    shrunk[..., 0] = effects[..., 0]
    return shrunk


def penalised_strength(effects: Tensor, ridge: Tensor | float) -> Tensor:
    """Compute the objective ``Σ‖x(S)‖ + (ε/2)‖x‖₂²`` of each input."""
    lengths = _lengths(effects[..., 1:])
    return _sum_of_each_input(lengths + 0.5 * ridge * lengths**2)


def conjugate(dual: Tensor, ridge: Tensor | float) -> Tensor:
    """Compute the largest ``⟨dual, x⟩`` minus penalised strength that any effects ``x`` of non-empty sets have.

    It is ``Σ max(‖dual(S)‖ - 1, 0)² / 2ε``, for each input, and finite for every dual vector: that is what makes lower bounds
    cheap.
    """
    excess = (_lengths(dual[..., 1:]) - 1).clamp(min=0)
    return _sum_of_each_input(excess**2 / (2 * ridge))


def _lengths(effects: Tensor) -> Tensor:
    """Norm of each effect over the models; they stay on an axis of length one."""
    return effects.norm(dim=1, keepdim=True) if effects.ndim == 4 and effects.shape[1] > 1 else effects.abs()


def _sum_of_each_input(numbers: Tensor) -> Tensor:
    return numbers.sum(dim=(*range(numbers.ndim - 2), -1))
