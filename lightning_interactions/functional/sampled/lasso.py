"""Sparse linear regression with more features than observations: the lasso for a falling sequence of penalties."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["lasso_path", "least_squares"]

RIDGE = 0.01
"""Weight of the ridge beside the l1 norm; it makes the solution unique."""

STEP = 10.0
"""ADMM penalty over the l1 penalty, for targets of unit spread."""

OVER_RELAXATION = 1.6
MAX_ITERATIONS = 100
CHECK_EVERY = 10
TOLERANCE = 1e-4
"""Relative change of the coefficients in one iteration at which the solver stops."""

MAX_SCREENED = 8192
"""Features that one penalty may look at, the most promising ones: a bound on memory that sparse solutions stay far below."""

DAMPING = 1e-6
"""Ridge of the refit, against features that depend on each other exactly."""


def lasso_path(
    features: Float[Tensor, "observations features"],
    target: Float[Tensor, " observations"],
    penalties: Float[Tensor, " penalties"],
) -> Iterator[Float[Tensor, " features"]]:
    """Minimise ``‖y - Xβ‖² / 2m + λ(‖β‖₁ + ε‖β‖₂²/2)`` for one ``λ`` after the other.

    Each penalty looks only at features that the sequential strong rule lets through, which are few as long as the solution
    is sparse. The rule can be wrong, and rarely is; a feature that it left out is seen again at the next penalty.

    Args:
        features: ``X``, columns of mean zero.
        target: ``y``, mean zero, in units of its spread.
        penalties: ``λ``, falling; from the largest ``|Xᵀy|/m`` down.

    Yields:
        Coefficients for each penalty.

    Source:
        Tibshirani et al. 2012 (JRSS B 74), strong rules; Boyd et al. 2011, ADMM.
    """
    coefficients = features.new_zeros(features.shape[1])
    gradient = features.T @ target / len(target)
    last = penalties[0] if len(penalties) else gradient.abs().max()
    for penalty in penalties:
        let_through = torch.where(coefficients != 0, torch.inf, gradient.abs())
        screened = (let_through >= 2 * penalty - last).nonzero().flatten()
        if len(screened) > MAX_SCREENED:
            screened = let_through.topk(MAX_SCREENED).indices
        last = penalty
        columns = features[:, screened]
        solution = _lasso(columns, target, float(penalty), coefficients[screened], gradient[screened])
        coefficients = torch.zeros_like(coefficients).scatter(0, screened, solution)
        gradient = features.T @ (target - columns @ solution) / len(target)
        yield coefficients


def least_squares(
    features: Float[Tensor, "observations features"], target: Float[Tensor, " observations"]
) -> Float[Tensor, " features"]:
    """Minimise ``‖y - Xβ‖²``, hardly damped; the refit of a sparse solution on its own features."""
    # The squared condition number is too much for float32, which is all that Apple's GPUs have.
    wide = features if features.device.type == "mps" else features.double()
    gram = wide.T @ wide / len(target)
    gram.diagonal().add_(DAMPING)
    solution: Tensor = torch.linalg.solve(gram, wide.T @ target.to(wide) / len(target))
    return solution.to(features)


def _lasso(columns: Tensor, target: Tensor, penalty: float, start: Tensor, gradient: Tensor) -> Tensor:
    """Solve for one penalty by ADMM, started at a near solution and its gradient, which are primal and dual variables."""
    step = STEP * penalty
    resolvent = _resolvent(columns, step)
    product = columns.T @ target / len(target)
    sparse, dual = start, gradient / step
    for iteration in range(1, MAX_ITERATIONS + 1):
        point = resolvent(product + step * (sparse - dual))
        relaxed = OVER_RELAXATION * point + (1 - OVER_RELAXATION) * sparse + dual
        last, sparse = sparse, torch.nn.functional.softshrink(relaxed, 1 / STEP) / (1 + RIDGE / STEP)
        dual = relaxed - sparse
        if iteration % CHECK_EVERY == 0 and bool((sparse - last).norm() <= TOLERANCE * sparse.norm()):
            break
    return sparse


def _resolvent(columns: Tensor, step: float) -> Callable[[Tensor], Tensor]:
    """Prepare the solution of ``(XᵀX/m + step) x = b`` by the smaller of the two Gram matrices."""
    observations, features = columns.shape
    scaled = columns / observations**0.5
    wide = features > observations
    gram = scaled @ scaled.T if wide else scaled.T @ scaled
    gram.diagonal().add_(step)
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    if wide:
        # Woodbury.
        return lambda vector: (vector - scaled.T @ (inverse @ (scaled @ vector))) / step
    return lambda vector: inverse @ vector
