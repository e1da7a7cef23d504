"""The mathematics as functions of tensors; needs neither a model nor Lightning."""

from lightning_interactions.functional.agreement import agreement_by_chance, agreement_by_order
from lightning_interactions.functional.bootstrap import bootstrap_intervals
from lightning_interactions.functional.coalitions import (
    coalition_masks,
    coalition_orders,
    infer_num_players,
    sum_by_order,
)
from lightning_interactions.functional.decay_spindle import fit_decay_and_spindle, strength_by_sign
from lightning_interactions.functional.extraction import (
    extract_interactions,
    extract_shared_interactions,
    extract_with_certificate,
)
from lightning_interactions.functional.generalization import (
    RaterVotes,
    above_chance,
    cross_entropy_from_log_odds,
    explained_score,
    shared_interactions,
    strength_share,
    votes_by_chance,
    weights_from_votes,
)
from lightning_interactions.functional.parameter_noise import (
    fit_second_phase,
    noisy_learning_effects,
    noisy_learning_strength,
    second_phase_measurements,
)
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.functional.sampled import draw_coalitions, fit_interactions, predict_values
from lightning_interactions.functional.strength import (
    cancellation,
    mean_order,
    salient_mask,
    strength_by_order,
    total_strength,
)
from lightning_interactions.functional.transforms import (
    and_effects,
    fold_single_players,
    matching_error,
    mobius_transform,
    or_effects,
    reconstruct_values,
    zeta_transform,
)

__all__ = [
    "RaterVotes",
    "above_chance",
    "agreement_by_chance",
    "agreement_by_order",
    "and_effects",
    "bootstrap_intervals",
    "cancellation",
    "coalition_masks",
    "coalition_orders",
    "cross_entropy_from_log_odds",
    "draw_coalitions",
    "explained_score",
    "extract_interactions",
    "extract_shared_interactions",
    "extract_with_certificate",
    "fit_decay_and_spindle",
    "fit_interactions",
    "fit_second_phase",
    "fold_single_players",
    "full_precision",
    "infer_num_players",
    "matching_error",
    "mean_order",
    "mobius_transform",
    "noisy_learning_effects",
    "noisy_learning_strength",
    "or_effects",
    "predict_values",
    "reconstruct_values",
    "salient_mask",
    "second_phase_measurements",
    "shared_interactions",
    "strength_by_order",
    "strength_by_sign",
    "strength_share",
    "sum_by_order",
    "total_strength",
    "votes_by_chance",
    "weights_from_votes",
    "zeta_transform",
]
