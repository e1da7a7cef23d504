"""What can be said of a run only when it is over."""

import math

import torch

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.functional.parameter_noise import fit_second_phase, second_phase_measurements
from lightning_interactions.records import History, Interactions, SecondPhase

__all__ = ["explain_second_phase"]


def explain_second_phase(history: History, final: Interactions) -> tuple[SecondPhase, History]:
    """Fit the theory of learning under parameter noise to the second phase of a run.

    Args:
        history: The run's measurements and phases.
        final: Interactions on the training probes at the first measurement in phase 3, else at the last one. Inputs of NaN
            are left out of all strengths.

    Returns:
        The fit, and its part of the history: from the smallest logged mean order up to, not including, the measurement of
        ``final``. It may be empty.

    Source:
        Ren et al. 2024 (arXiv 2407.19198).
    """
    mean_orders = [measurement.training_summary.mean_order for measurement in history.measurements]
    phases = [phase.number for phase in history.phases]
    final_time = phases.index(3) if 3 in phases else len(phases) - 1
    if all(map(math.isnan, mean_orders[: final_time + 1])):  # Nothing was learned, or nothing could be measured.
        return _nothing(final), History()
    times = second_phase_measurements(mean_orders, phases)
    explained = History(tuple(history.measurements[time] for time in times), tuple(history.phases[time] for time in times))
    parts = [measurement.training.strength for measurement in explained.measurements]
    if not parts:
        return _nothing(final), History()
    strength = torch.stack([(part.generalizable + part.non_generalizable + part.non_salient).sum(dim=(1, 2)) for part in parts])
    measured = strength.isfinite().all(dim=(0, 2)) & final.offset.isfinite().to(strength.device)
    if not bool(measured.any()):
        return _nothing(final), History()
    kept = Interactions(*(part[measured.to(part.device)] for part in (final.and_effects, final.or_effects, final.offset)))
    return fit_second_phase(kept, strength[:, measured].mean(dim=1)), explained


def _nothing(final: Interactions) -> SecondPhase:
    by_order = torch.zeros(0, infer_num_players(final.and_effects.shape[1]) + 1, dtype=torch.float64)
    return SecondPhase(by_order[:, 0], by_order, by_order, by_order[:, 0])
