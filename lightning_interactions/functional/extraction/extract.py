"""The sparsest decomposition of values into AND and OR effects.

It minimises ``‖x‖₁ + (ε/2s)‖x‖₂²`` over the effects ``x`` that some decomposition has. ``s`` is the mean absolute Möbius
transform of the values plus that of the values with their coalitions complemented, so no unit matters. The solvers are in
``exact.py`` and, where noise is tolerated, in ``tolerant.py``.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.extraction.exact import sparsest_decomposition
from lightning_interactions.functional.extraction.tolerant import tolerant_decomposition
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.functional.transforms import and_effects, fold_single_players, or_effects
from lightning_interactions.records import Certificate, Interactions

__all__ = ["extract_interactions", "extract_shared_interactions", "extract_with_certificate"]

RIDGE = 0.01
"""ε, the weight of the ridge that makes the sparsest decomposition unique."""

TOLERANCES = {1: 1e-7, 6: 1e-6, 7: 1e-5}
"""Relative duality gap from so many players on. With few the objective is flattest, and one interaction is a larger part."""

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
        tolerance: Relative duality gap at which an input is solved; 1e-5 if left out, 1e-6 for 6 players and 1e-7 for fewer,
            which brings solutions from different starts to the same salient interactions. Ten times as much with a noise
            tolerance.
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
        ridge, which picks one of the many sparsest decompositions, and the solver are our own.
    """
    (interactions,), _ = _extract(values[None], noise_tolerance, start, tolerance, max_iterations)
    return interactions


def extract_with_certificate(
    values: Float[Tensor, "inputs coalitions"],
    *,
    noise_tolerance: float = 0.0,
    start: Interactions | None = None,
    tolerance: float | None = None,
    max_iterations: int = 20_000,
) -> tuple[Interactions, Certificate]:
    """Do what :func:`extract_interactions` does, and prove how close to the sparsest decomposition the result is.

    Args:
        values: See :func:`extract_interactions`, as for the others.
        noise_tolerance: ``κ``.
        start: Interactions to start from.
        tolerance: Relative duality gap at which an input is solved.
        max_iterations: Where to stop anyway, with a warning.

    Returns:
        The interactions, and a certificate evaluated from a dual feasible vector (in float64 where the device has it): its
        lower bound holds for every decomposition of the values, within the noise tolerance, whatever the solver did.

    Raises:
        ValueError: As :func:`extract_interactions` does.
    """
    (interactions,), certificate = _extract(values[None], noise_tolerance, start, tolerance, max_iterations)
    return interactions, certificate


def extract_shared_interactions(
    values: Float[Tensor, "models inputs coalitions"], *, tolerance: float | None = None, max_iterations: int = 20_000
) -> tuple[Interactions, ...]:
    """Rewrite the values of several models exactly, with interactions on as few common sets as possible.

    All models' decompositions are one convex program: it minimises the sum over sets and types of the length of the vector
    that an effect is over the models, each in units of its own scale ``s``, plus the ridge. A set that one model needs is free
    for the others, so the models' salient sets agree more than those of decompositions of their own. For one model it is
    :func:`extract_interactions`.

    Args:
        values: ``v(T)`` of each model on the same inputs and players; see :func:`extract_interactions`.
        tolerance: Relative duality gap at which an input is solved; as in :func:`extract_interactions` if left out.
        max_iterations: Where to stop anyway, with a warning.

    Returns:
        One record for each model; each reproduces its own model's values to rounding.

    Raises:
        ValueError: As :func:`extract_interactions` does, and if there is no axis of models, or no model.

    Source:
        Chen et al. 2024 (arXiv 2401.16318) look for interactions shared by models; the convex program is our own.
    """
    if values.ndim != 3 or not len(values):
        raise ValueError(
            "extract_shared_interactions: expected values [models, inputs, coalitions] of at least one model, got shape "
            f"{tuple(values.shape)}"
        )
    return _extract(values, 0.0, None, tolerance, max_iterations)[0]


def _extract(
    values: Tensor, noise_tolerance: float, start: Interactions | None, tolerance: float | None, max_iterations: int
) -> tuple[tuple[Interactions, ...], Certificate]:
    """Extract from values ``[models, inputs, coalitions]``, some inputs at a time; noise and start are for one model."""
    for of_one_model in values:
        _check_values(of_one_model, start, max_iterations)
    if not 0 <= noise_tolerance < math.inf:
        raise ValueError(f"extract_interactions: expected a finite noise_tolerance of at least 0, got {noise_tolerance}")
    values = values.detach()
    num_models, num_inputs, num_coalitions = values.shape
    num_players = infer_num_players(num_coalitions)
    if tolerance is None:
        tolerance = max(gap for players, gap in TOLERANCES.items() if players <= num_players)
        tolerance *= 1 if noise_tolerance == 0 else NOISY_FACTOR
    # Apple's GPUs have no float64.
    centred = values if values.device.type == "mps" else values.double()
    centred = centred - centred[..., :1]
    settings: dict[str, Any] = {"ridge": RIDGE, "tolerance": tolerance, "max_iterations": max_iterations}
    parts = []
    with torch.no_grad(), full_precision(values.device), _one_thread(values.device, num_players):
        inputs_at_once = max(1, ENTRIES_AT_ONCE // (num_models * num_coalitions))
        for rows in torch.arange(num_inputs, device=values.device).split(inputs_at_once):
            own_start = None if start is None else start.effects.to(centred)[rows].nan_to_num()
            if noise_tolerance > 0:
                part = tolerant_decomposition(centred[:, rows], noise_tolerance, own_start, **settings)
            else:
                part = sparsest_decomposition(centred[:, rows], own_start, **settings)
            parts.append(part)
        u_and, u_or, certificates = zip(*parts, strict=True)
        effects = torch.stack([and_effects(torch.cat(u_and, dim=1)), or_effects(torch.cat(u_or, dim=1))], dim=2).to(values)
    certificate = Certificate(*(torch.cat(column) for column in zip(*map(astuple, certificates), strict=True)))
    _warn_of_unsolved(certificate, tolerance, max_iterations)
    # A copy of the offsets, which does not keep all values in memory.
    interactions = map(Interactions, effects, values[..., 0].clone())
    return tuple(map(fold_single_players, interactions)), certificate


def _warn_of_unsolved(certificate: Certificate, tolerance: float, max_iterations: int) -> None:
    gap = certificate.gap
    # A gap that was below the tolerance in float32 may be above it by rounding.
    unsolved = ~(gap <= torch.where(certificate.iterations >= max_iterations, tolerance, 2 * tolerance))
    if unsolved.any():
        warnings.warn(
            f"extract_interactions: {int(unsolved.sum())} of {len(gap)} inputs have a relative duality gap above {tolerance} "
            f"after {int(certificate.iterations.max())} iterations, the largest is {gap.max():.1e}; they match the values, but "
            "are not the sparsest decomposition. Raise max_iterations or the tolerance.",
            stacklevel=4,
        )


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
    if start is not None and start.effects.shape != (len(values), 2, values.shape[1]):
        raise ValueError(
            f"extract_interactions: expected start to have effects {(len(values), 2, values.shape[1])} for values of shape "
            f"{tuple(values.shape)}, got effects {tuple(start.effects.shape)}"
        )
    if max_iterations < 1:
        raise ValueError(f"extract_interactions: expected max_iterations of at least 1, got {max_iterations}")
    broken = (~values.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"extract_interactions: expected finite values, got NaN or infinity for {len(broken)} of {len(values)} inputs "
            f"(first rows: {broken[:5]}); leave those inputs out"
        )
