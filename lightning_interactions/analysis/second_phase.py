"""The theory of the second phase, asked of a finished run."""

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_interactions.analysis.summary import mean_order_of
from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.parameter_noise import fit_second_phase, second_phase_measurements
from lightning_interactions.records import History, Interactions, SecondPhase, SplitMeasurement

__all__ = ["MOST_PLAYERS_OF_THEORY", "explain_second_phase"]

MOST_PLAYERS_OF_THEORY = 12
"""With more players the fit takes minutes, which is left to whoever asks for it."""


def explain_second_phase(history: History, final: Interactions) -> tuple[SecondPhase, History]:
    """Fit the theory of learning under parameter noise to the second phase of a run.

    Strengths are means over the inputs that were measured throughout. Of condensed measurements only the mean over all that
    were measured then is known, and stands for it.

    Args:
        history: The run's measurements and phases.
        final: Interactions on the training probes at the first measurement in phase 3, else at the last one. Inputs of NaN
            are left out of all strengths.

    Returns:
        The fit, and its part of the history: from the smallest mean order up to, not including, the measurement of ``final``.
        It may be empty.

    Source:
        Ren et al. 2024 (arXiv 2407.19198).
    """
    mean_orders = [mean_order_of(measurement.training) for measurement in history.measurements]
    phases = [phase.number for phase in history.phases]
    final_time = phases.index(3) if 3 in phases else len(phases) - 1
    if all(map(math.isnan, mean_orders[: final_time + 1])):  # Nothing was learned, or nothing could be measured.
        return _nothing(final), _part(history, range(0))
    times = second_phase_measurements(mean_orders, phases)
    explained = _part(history, times)
    splits = [measurement.training for measurement in explained.measurements]
    measured = torch.stack([final.offset.isfinite().cpu(), *(split.measured for split in splits)]).all(dim=0)
    if not splits or not bool(measured.any()):
        return _nothing(final), _part(history, range(0))
    strength = torch.stack([_mean_strength(split, measured) for split in splits])
    return fit_second_phase(final.select(measured), strength), explained


def _part(history: History, times: range) -> History:
    return replace(
        history,
        measurements=tuple(history.measurements[time] for time in times),
        phases=tuple(history.phases[time] for time in times),
    )


def _mean_strength(split: SplitMeasurement, inputs: Bool[Tensor, " inputs"]) -> Float[Tensor, " orders"]:
    """Mean of all strength by order over some inputs, or over what was measured where only that is kept."""
    parts = split.strength.generalizable + split.strength.non_generalizable + split.strength.non_salient
    return (parts if split.is_condensed else parts[inputs]).sum(dim=(1, 2)).mean(dim=0)


def _nothing(final: Interactions) -> SecondPhase:
    by_order = torch.zeros(0, infer_num_players(final.effects.shape[-1]) + 1, dtype=torch.float64)
    return SecondPhase(by_order[:, 0], by_order, by_order, by_order[:, 0])
