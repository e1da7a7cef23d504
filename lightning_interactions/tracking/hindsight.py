"""What can be said of a run only when it is over."""

import math

import torch

from lightning_interactions.functional.dynamics import fit_second_phase, second_phase_measurements
from lightning_interactions.records import History, Interactions, SecondPhase

__all__ = ["explain_second_phase"]


def explain_second_phase(history: History, final: Interactions) -> tuple[SecondPhase, list[int]]:
    """Fit the theory of learning under parameter noise to the second phase of a run.

    Args:
        history: The run's measurements and phases.
        final: Interactions on the training probes at the first measurement in phase 3, else at the last one. Inputs of NaN
            are left out of all strengths.

    Returns:
        The fit, and the completed epochs of its measurements: from the smallest logged mean order up to, not including, the
        measurement of ``final``. There may be none.

    Source:
        Ren et al. 2024 (arXiv 2407.19198).
    """
    parts = [measurement.training.strength for measurement in history.measurements]
    strength = torch.stack([part.generalizable + part.non_generalizable + part.non_salient for part in parts]).sum(dim=(2, 3))
    measured = strength.isfinite().all(dim=(0, 2)) & final.offset.isfinite().to(strength.device)
    by_order = strength[:, measured].mean(dim=1)
    mean_orders = [measurement.training_summary.mean_order for measurement in history.measurements]
    if not bool(measured.any()) or all(map(math.isnan, mean_orders)):  # Nothing was learned, or nothing could be measured.
        nothing = by_order[:0]
        return SecondPhase(nothing[:, 0], nothing, nothing, nothing[:, 0]), []
    times = second_phase_measurements(mean_orders, [phase.number for phase in history.phases])
    kept = Interactions(*(part[measured.to(part.device)] for part in (final.and_effects, final.or_effects, final.offset)))
    return fit_second_phase(kept, by_order[times.start : times.stop]), [history.epochs[time] for time in times]
