"""Slow oracles that share no code with the package: subset loops over plain integers and floats, and a linear program.

A coalition is an ``int`` whose bit ``i`` is player ``i``. Every loop is the formula of METHOD.md as it is written there.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog, minimize
from scipy.sparse import coo_array, csc_array, eye_array, hstack
from torch import Tensor

from lightning_interactions.records import Interactions, OrderStrength


def subsets(coalition: int) -> list[int]:
    """List the subsets of a coalition, the empty set and the coalition itself among them."""
    return [subset for subset in range(coalition + 1) if subset & coalition == subset]


def order(coalition: int) -> int:
    """Count the players of a coalition."""
    return coalition.bit_count()


def mobius_transform(values: Float[Tensor, "inputs coalitions"]) -> Float[Tensor, "inputs coalitions"]:
    """Sum ``(-1)^{|S|-|T|} v(T)`` over the subsets ``T`` of every coalition ``S``."""
    return _row_by_row(
        values,
        lambda v: [sum((-1) ** (order(s) - order(t)) * v[t] for t in subsets(s)) for s in range(len(v))],
    )


def zeta_transform(effects: Float[Tensor, "inputs coalitions"]) -> Float[Tensor, "inputs coalitions"]:
    """Sum the effects over the subsets of every coalition."""
    return _row_by_row(effects, lambda m: [sum(m[s] for s in subsets(t)) for t in range(len(m))])


def and_effects(and_values: Float[Tensor, "inputs coalitions"]) -> Float[Tensor, "inputs coalitions"]:
    """Compute ``I_and(S) = Σ_{T⊆S} (-1)^{|S|-|T|} u_and(T)`` for non-empty ``S``; zero for the empty set."""
    return _row_by_row(
        and_values,
        lambda u: [sum((-1) ** (order(s) - order(t)) * u[t] for t in subsets(s)) if s else 0.0 for s in range(len(u))],
    )


def or_effects(or_values: Float[Tensor, "inputs coalitions"]) -> Float[Tensor, "inputs coalitions"]:
    """Compute ``I_or(S) = -Σ_{T⊆S} (-1)^{|S|-|T|} u_or(N∖T)`` for non-empty ``S``; zero for the empty set."""
    return _row_by_row(
        or_values,
        lambda u: [
            -sum((-1) ** (order(s) - order(t)) * u[(len(u) - 1) & ~t] for t in subsets(s)) if s else 0.0 for s in range(len(u))
        ],
    )


def reconstruct_values(interactions: Interactions) -> Float[Tensor, "inputs coalitions"]:
    """Compute ``v(T) = v(∅) + Σ_{∅≠S⊆T} I_and(S) + Σ_{S∩T≠∅} I_or(S)`` on every coalition."""
    rows = []
    for and_row, or_row, offset in zip(
        interactions.and_effects.tolist(), interactions.or_effects.tolist(), interactions.offset.tolist(), strict=True
    ):
        coalitions = range(len(and_row))
        rows.append(
            [
                offset + sum(and_row[s] for s in coalitions if s and s & t == s) + sum(or_row[s] for s in coalitions if s & t)
                for t in coalitions
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def strength_by_order(
    interactions: Interactions, weights: Float[Tensor, "inputs types coalitions"], threshold: float
) -> OrderStrength:
    """Add up ``|I(S)|`` by order, type and sign: generalizable and not among the salient interactions, and the rest.

    Args:
        interactions: AND and OR effects, all finite.
        weights: How far each is generalizable, in [0, 1].
        threshold: Salience threshold, a fraction of the largest ``|I|`` of the same input.

    Returns:
        Three float64 tables ``[inputs, types, signs, orders]``.
    """
    num_inputs, num_coalitions = interactions.and_effects.shape
    shape = (num_inputs, 2, 2, num_coalitions.bit_length())
    generalizable, non_generalizable, non_salient = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    for i in range(num_inputs):
        by_type = [interactions.and_effects[i].tolist(), interactions.or_effects[i].tolist()]
        largest = max(abs(effect) for effects in by_type for effect in effects)
        for kind, effects in enumerate(by_type):
            for s, effect in enumerate(effects):
                cell = (i, kind, 0 if effect > 0 else 1, order(s))
                weight = float(weights[i, kind, s])
                if abs(effect) > threshold * largest:
                    generalizable[cell] += weight * abs(effect)
                    non_generalizable[cell] += (1 - weight) * abs(effect)
                else:
                    non_salient[cell] += abs(effect)
    return OrderStrength(generalizable, non_generalizable, non_salient)


def salient_strength_by_order(interactions: Interactions, threshold: float) -> Float[Tensor, "inputs types signs orders"]:
    """Add up ``|I(S)|`` over the salient interactions by order, type and sign."""
    return strength_by_order(interactions, torch.ones_like(interactions.effects), threshold).generalizable


def noisy_learning_effects(interactions: Interactions, variance: float) -> Interactions:
    """Solve ``(JᵀJ + 2^n σ² diag(2^{|S|})) ŵ = JᵀJ w*`` for the AND part and for the complemented OR part of every input.

    Args:
        interactions: The final interactions; at most about 7 players.
        variance: ``σ²``.

    Returns:
        Predicted interactions in float64, with the OR of every single player folded into its AND.
    """
    num_coalitions = interactions.and_effects.shape[1]
    coalitions = range(num_coalitions)
    terms = torch.tensor([[float(s & t == s) for s in coalitions] for t in coalitions], dtype=torch.float64)
    penalty = torch.diag(torch.tensor([num_coalitions * variance * 2.0 ** order(s) for s in coalitions], dtype=torch.float64))
    gram = terms.T @ terms
    only_and, only_or = interactions.effects.clone(), interactions.effects.clone()
    only_and[:, 1] = only_or[:, 0] = 0
    and_values = reconstruct_values(Interactions(only_and, interactions.offset))
    or_values = reconstruct_values(Interactions(only_or, torch.zeros_like(interactions.offset)))
    reversed_or_values = or_values[:, [num_coalitions - 1 - t for t in coalitions]]
    learned_and, learned_or = (
        torch.linalg.solve(gram + penalty, gram @ mobius_transform(values).T) for values in (and_values, reversed_or_values)
    )
    offset = (terms @ learned_and)[0] + (terms @ learned_or)[-1]
    and_effects, or_effects = learned_and.T.clone(), -learned_or.T
    for s in coalitions:
        if order(s) == 1:
            and_effects[:, s] += or_effects[:, s]
        if order(s) <= 1:
            or_effects[:, s] = 0
    and_effects[:, 0] = 0
    return Interactions(torch.stack([and_effects, or_effects], dim=1), offset)


def sparsest_l1_optimum(values: Float[Tensor, " coalitions"], noise_tolerance: float = 0.0) -> float:
    """Solve the linear program of the sparsest decomposition, without the ridge.

    Args:
        values: ``v(T)`` of one input on all coalitions.
        noise_tolerance: The part of ``|v(N) - v(∅)|`` by which the values of all but the empty and the full coalition may be
            missed.

    Returns:
        The smallest ``‖I_and‖₁ + ‖I_or‖₁`` over non-empty sets, in the unit of the values.
    """
    matching, mobius = _matching_equations(values)
    num_effects, num_sets = matching.shape[1], len(values) - 1
    bound = noise_tolerance * float((values[-1] - values[0]).abs())
    # The Möbius transform of the noise on non-empty coalitions.
    entries = [(s - 1, t - 1, (-1) ** (order(s) - order(t))) for s in range(1, num_sets + 1) for t in subsets(s) if t]
    rows, columns, signs = zip(*entries, strict=True)
    noise = coo_array((np.asarray(signs, dtype=float), (rows, columns)), shape=(num_sets, num_sets))
    # Each effect is a positive minus a negative part, so that the sum of both is its absolute value.
    solution = linprog(
        np.concatenate([np.ones(2 * num_effects), np.zeros(num_sets)]),
        A_eq=hstack([matching, -matching, -noise]).tocsc(),
        b_eq=mobius,
        bounds=[(0, None)] * (2 * num_effects) + [(-bound, bound)] * (num_sets - 1) + [(0, 0)],
        method="highs",
    )
    if solution.status != 0:
        raise RuntimeError(f"linear program: {solution.message}")
    return float(solution.fun)


def sparsest_ridge_optimum(
    values: Float[Tensor, " coalitions"], ridge: float = 0.01
) -> tuple[Float[Tensor, " coalitions"], Float[Tensor, " coalitions"]]:
    """Minimise ``‖I‖₁ + (ε/2s)‖I‖₂²`` through its dual, which is smooth and has no constraints.

    Args:
        values: ``v(T)`` of one input on all coalitions, not constant; at most about 5 players.
        ridge: ``ε``.

    Returns:
        The AND and the OR effects of the optimum, with the OR of every single player folded into its AND.
    """
    matching, mobius = _matching_equations(values)
    centred = (values - values[0]).double()[None]
    scale = float(mobius_transform(centred).abs().mean() + mobius_transform(centred.flip(-1)).abs().mean())
    dense, target = matching.toarray(), mobius / scale

    def primal(multipliers: np.ndarray) -> np.ndarray:
        pull = multipliers @ dense
        return np.sign(pull) * np.maximum(np.abs(pull) - 1, 0) / ridge

    def negative_dual(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        effects = primal(multipliers)
        return ridge / 2 * float(effects @ effects) - float(multipliers @ target), dense @ effects - target

    solution = minimize(
        negative_dual, np.zeros(len(target)), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 10_000}
    )
    effects = primal(solution.x)
    # The gradient is how far the effects are from matching the values: the solver's own flag is stricter than needed.
    if np.abs(dense @ effects - target).max() > 1e-6:
        raise RuntimeError(f"sparsest decomposition: {solution.message}")
    and_effects, or_effects = torch.zeros(2, len(values), dtype=torch.float64)
    and_effects[1:], or_effects[1:] = torch.from_numpy(scale * effects).reshape(2, -1)
    for s in range(len(values)):
        if order(s) == 1:
            and_effects[s] += or_effects[s]
            or_effects[s] = 0
    return and_effects, or_effects


def _matching_equations(values: Float[Tensor, " coalitions"]) -> tuple[csc_array, np.ndarray]:
    """Write universal matching as linear equations in the effects ``(I_and, I_or)`` of all non-empty sets.

    The Möbius transform of universal matching reads ``m(S) = I_and(S) - (-1)^{|S|} Σ_{R⊇S} I_or(R)`` for non-empty ``S``,
    where ``m`` is the Möbius transform of the values. It says the same, but its matrix has ``3^n`` entries instead of
    ``4^n``, and HiGHS solves the linear program for n = 10 in a second.
    """
    num_sets = len(values) - 1
    mobius = np.asarray(mobius_transform(values[None].double())[0, 1:].tolist())
    entries = [(s - 1, r - 1, -((-1) ** order(s))) for r in range(1, num_sets + 1) for s in subsets(r) if s]
    rows, columns, signs = zip(*entries, strict=True)
    or_matrix = coo_array((np.asarray(signs, dtype=float), (rows, columns)), shape=(num_sets, num_sets))
    return hstack([eye_array(num_sets), or_matrix]).tocsc(), mobius


def _row_by_row(table: Tensor, transform: Callable[[list[float]], list[float]]) -> Tensor:
    return torch.tensor([transform(row) for row in table.tolist()], dtype=torch.float64)
