"""The theory of the second phase: what is learned of the final interactions while the parameters are noisy.

Noise in the parameters blurs the term of a set ``S`` the more, the larger ``S`` is. Learning is then a regression of the
values on terms ``J(T, S) = 1(S ⊆ T)`` with a penalty on each effect that doubles with each player:
``ŵ(σ²) = (JᵀJ + 2^n σ² diag(2^{|S|}))⁻¹ JᵀJ w*``. As the noise variance ``σ²`` falls, low orders are learned first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players, sum_by_order
from lightning_interactions.functional.kronecker import KroneckerProduct, generalized_eigenvectors, power_of_diagonal
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.functional.transforms import fold_single_players
from lightning_interactions.records import Interactions, SecondPhase

__all__ = ["fit_second_phase", "noisy_learning_effects", "noisy_learning_strength", "second_phase_measurements"]

GRAM = ((2.0, 1.0), (1.0, 1.0))
"""``JᵀJ`` of one player; that of all is its Kronecker power."""

PENALTY = ((2.0, 0.0), (0.0, 4.0))
"""``2^n diag(2^{|S|})`` of one player."""

GRID_STEP = 0.5
"""Step of ``log σ²`` in the search."""

GRID_MARGIN = 1e4
"""Beyond the eigenvalues by this factor, effects are the final ones, or zero, to four digits."""


def noisy_learning_effects(interactions: Interactions, variance: float) -> Interactions:
    """Predict the interactions that are learned under parameter noise.

    AND effects are learned with the offset as effect of the empty set. OR effects are learned in the same way, as what they
    are of the values with their coalitions complemented: minus AND effects, with their sum for the empty set.

    Args:
        interactions: The final interactions ``w*``, which are learned without noise.
        variance: ``σ²``, at least 0. At 0 the final interactions come back, at infinity nothing is learned.

    Returns:
        The predicted interactions in the dtype of the final ones; the OR of a single player is folded into its AND.

    Raises:
        ValueError: If the variance is negative or NaN.

    Source:
        Ren et al. 2024 (arXiv 2407.19198), the optimal interactions under noise; exact for all sets at once by the Kronecker
        power of one 2x2 eigendecomposition.
    """
    return _NoisyLearning.of(interactions).effects(variance)


def noisy_learning_strength(
    interactions: Interactions, variances: Float[Tensor, " variances"]
) -> Float[Tensor, "variances orders"]:
    """Predict the strength ``Σ|I|`` by order, salient or not, that is learned under parameter noise.

    Args:
        interactions: The final interactions ``w*``.
        variances: Noise variances ``σ²``; see :func:`noisy_learning_effects`.

    Returns:
        Strength by order 0 to n, score units, summed over types and signs, mean over inputs; order 0 is zero.

    Raises:
        ValueError: If a variance is negative or NaN.
    """
    learning = _NoisyLearning.of(interactions)
    return torch.stack([learning.strength(variance) for variance in variances.tolist()])


def fit_second_phase(final: Interactions, strength: Float[Tensor, "times orders"]) -> SecondPhase:
    """Find the noise variance at each time whose predicted strength by order is closest, by least squares over orders.

    Only when a run is over: it needs the final interactions, and one free number a time. Only the shape over orders tests
    the theory; compare with the final strength times one factor, which may be as close where the shape hardly changes.

    Args:
        final: The final interactions ``w*``: those of the first measurement in phase 3, or of the last one.
        strength: Strength by order 0 to n at each time, of all interactions, salient or not, summed over types and signs,
            mean over the same inputs; order 0 is ignored.

    Returns:
        Variances, from 0 to infinity, predicted and real strength, and how well they agree.

    Raises:
        ValueError: If the final interactions or the strength are not finite, or do not have the same number of players.

    Source:
        Ren et al. 2024 (arXiv 2407.19198), theoretical and real distributions over orders; the fit is our own.
    """
    num_players = infer_num_players(final.and_effects.shape[1])
    if strength.ndim != 2 or strength.shape[1] != num_players + 1:
        raise ValueError(
            f"fit_second_phase: expected strength [times, {num_players + 1} orders] for {num_players} players, got shape "
            f"{tuple(strength.shape)}"
        )
    if not (final.effects.isfinite().all() and final.offset.isfinite().all() and strength.isfinite().all()):
        raise ValueError("fit_second_phase: expected finite interactions and strength; leave inputs of NaN out of both")
    learning = _NoisyLearning.of(final)
    real = strength.detach().to(learning.coordinates)
    real = torch.cat([torch.zeros_like(real[:, :1]), real[:, 1:]], dim=1)

    def error(log_variance: float, measured: Tensor) -> float:
        return float((learning.strength(math.exp(log_variance)) - measured).square().sum())

    smallest, largest = learning.eigenvalues.aminmax()
    grid = torch.arange(math.log(smallest / GRID_MARGIN), math.log(largest * GRID_MARGIN), GRID_STEP).tolist()
    on_grid = torch.stack([learning.strength(math.exp(log_variance)) for log_variance in grid])
    variances = []
    for measured in real:
        start = grid[int((on_grid - measured).square().sum(dim=1).argmin())]
        bounds = (start - GRID_STEP, start + GRID_STEP)
        refined = minimize_scalar(error, args=(measured,), bounds=bounds, method="bounded", options={"xatol": 1e-8}).x
        # The limits are candidates of their own.
        variances.append(math.exp(min((-math.inf, refined, math.inf), key=lambda log_variance: error(log_variance, measured))))
    predicted = torch.stack([learning.strength(variance) for variance in variances]) if variances else torch.zeros_like(real)
    residual, centred = (real - predicted)[:, 1:], real[:, 1:] - real[:, 1:].mean(dim=1, keepdim=True)
    variation = centred.square().sum(dim=1)
    return SecondPhase(
        variance=real.new_tensor(variances),
        predicted=predicted,
        strength=real,
        r_squared=torch.where(variation > 0, 1 - residual.square().sum(dim=1) / variation, torch.nan),
    )


def second_phase_measurements(mean_orders: Sequence[float], phases: Sequence[int] = ()) -> range:
    """Pick the measurements that the theory of the second phase speaks of, when a run is over.

    Args:
        mean_orders: Mean order of the interactions at each measurement; NaN where there are none.
        phases: The phase detected at each measurement; left out if unknown.

    Returns:
        Positions from the smallest mean order up to, not including, the measurement of the final interactions ``w*``. Its
        position is ``stop`` of the range: the first measurement in phase 3, else the last one. Empty if the smallest mean
        order is the last.

    Raises:
        ValueError: If there is no measurement up to ``w*`` with interactions, or not a phase for each measurement.
    """
    if phases and len(phases) != len(mean_orders):
        raise ValueError(
            f"second_phase_measurements: expected a phase for each of {len(mean_orders)} measurements, got {len(phases)}"
        )
    final = next((place for place, phase in enumerate(phases) if phase == 3), len(mean_orders) - 1)
    known = [place for place in range(final + 1) if not math.isnan(mean_orders[place])]
    if not known:
        raise ValueError("second_phase_measurements: expected at least one measurement with interactions")
    return range(min(known, key=lambda place: mean_orders[place]), final)


@dataclass(frozen=True, eq=False)
class _NoisyLearning:
    """Final interactions in the basis in which learning under noise acts on each coordinate alone.

    Attributes:
        coordinates: ``[inputs, types, coalitions]``; the offset and minus the sum of all ORs are the effects of empty sets.
        eigenvalues: ``[coalitions]``; of ``JᵀJ`` in units of the penalty.
        basis: From coordinates back to effects.
        dtype: That of the final interactions.
    """

    coordinates: Float[Tensor, "inputs types coalitions"]
    eigenvalues: Float[Tensor, " coalitions"]
    basis: KroneckerProduct
    dtype: torch.dtype

    @classmethod
    def of(cls, interactions: Interactions) -> "_NoisyLearning":
        dtype = interactions.effects.dtype
        # Apple's GPUs have no float64.
        wide = dtype if interactions.effects.device.type == "mps" else torch.float64
        effects = interactions.effects.detach().to(wide, copy=True)
        and_effects, or_effects = effects.unbind(dim=1)
        and_effects[:, 0] = interactions.offset.detach()
        or_effects[:, 0] = -or_effects[:, 1:].sum(dim=1)
        num_players = infer_num_players(effects.shape[-1])
        gram, penalty = (torch.tensor(matrix, dtype=torch.float64) for matrix in (GRAM, PENALTY))
        # In this basis the penalty is the identity and JᵀJ is diagonal.
        eigenvalues, basis = generalized_eigenvectors(gram, penalty)
        to_coordinates = KroneckerProduct.power(basis.T @ penalty, num_players).to(effects)
        with full_precision(effects.device):
            coordinates = to_coordinates @ effects
        return cls(
            coordinates=coordinates,
            eigenvalues=power_of_diagonal(eigenvalues, num_players).to(coordinates),
            basis=KroneckerProduct.power(basis, num_players).to(coordinates),
            dtype=dtype,
        )

    def effects(self, variance: float) -> Interactions:
        if not variance >= 0:
            raise ValueError(f"noisy_learning_effects: expected a variance of at least 0, got {variance}")
        kept = self.eigenvalues / (self.eigenvalues + variance)
        with full_precision(kept.device):
            learned = self.basis @ (self.coordinates * kept)
        # What the fully masked input gets: the empty AND, and the reversed OR part on the coalition of all.
        and_effects, or_effects = learned.unbind(dim=1)
        offset = and_effects[:, 0] - or_effects.sum(dim=1)
        learned[:, :, 0] = 0
        return fold_single_players(Interactions(learned, offset).to(self.dtype))

    def strength(self, variance: float) -> Float[Tensor, " orders"]:
        return sum_by_order(self.effects(variance).effects.abs().to(self.coordinates).sum(dim=1).mean(dim=0))
