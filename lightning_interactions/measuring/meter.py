"""One measurement: a model on the probes becomes numbers for each input, and a few for all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightning_interactions.evidence import InteractionsOf, Judge
from lightning_interactions.functional.bootstrap import gap_intervals, split_intervals
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.generalization import (
    above_chance,
    explained_score,
    strength_share,
)
from lightning_interactions.functional.strength import (
    cancellation,
    mean_order,
    salient_mask,
    strength_by_order,
    total_strength,
)
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.losses import Loss, losses_of_inputs, unit_of
from lightning_interactions.records import (
    NATS,
    Interactions,
    Interval,
    Measurement,
    OrderStrength,
    SplitMeasurement,
    Summary,
    Verdict,
)

__all__ = ["Split", "combine_splits", "interactions_on_probes", "measure_splits", "summarise"]

UNSEEN_SPREAD = 0.2
"""Standard deviation, over unseen inputs, of the score of what does not generalize, as a part of its strength.

Nothing has made these interactions agree with such an input's label, so their sum is as likely to speak for it as against. If
their signs were independent, the part would be one over the root of their effective number (0.08 and 0.24 on two tasks). It was
chosen on digits and breast cancer, where anything from 0.15 to 0.25 did as well.
"""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
NORMAL_NODES = tuple(zip(_NODES.tolist(), (_WEIGHTS / _WEIGHTS.sum()).tolist(), strict=True))
"""Gauss-Hermite nodes and weights for the mean over a standard normal variable."""

SumOverRanks = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


@dataclass(frozen=True)
class Split:
    """What it takes to measure a model on the probes of one split.

    Attributes:
        interactions_of: Extracts a model's interactions on the probes.
        judge: Says which of them generalize.
        targets: ``[inputs, ...]``; targets of the probes.
        loss: What training minimises; ``None`` if it is not known.
    """

    interactions_of: InteractionsOf
    judge: Judge
    targets: Tensor
    loss: Loss | None


def interactions_on_probes(
    game: Game,
    rank: int = 0,
    num_ranks: int = 1,
    sum_over_ranks: SumOverRanks = lambda tensor: tensor,
    noise_tolerance: float = 0.0,
    tolerance: float | None = None,
) -> InteractionsOf:
    """Make the function that extracts any model's interactions on the probes of a game.

    The inputs are dealt out over ranks; each rank evaluates and extracts its own, and gets everybody's. A model on
    another device is moved to the probes' and back. An input with NaN or infinite outputs gets NaN effects.

    Args:
        game: Probes, players, baseline value and score.
        rank: This process.
        num_ranks: Number of processes.
        sum_over_ranks: Adds a tensor up over all of them; called once for each model.
        noise_tolerance: ``κ``; see :func:`~lightning_interactions.functional.extract_interactions`.
        tolerance: Relative duality gap at which an input is solved; see there, too.
    """
    dtype = torch.promote_types(game.probes.inputs.dtype, torch.float32)

    def interactions_of(model: nn.Module, rows: Sequence[int] | None = None, /) -> Interactions:
        asked = range(len(game.probes)) if rows is None else rows
        own_game = game.select(asked[rank::num_ranks])
        parameter = next(model.parameters(), None)
        home = game.probes.inputs.device if parameter is None else parameter.device
        try:
            model.to(game.probes.inputs.device)
            # The same dtype on every rank, whatever the model's.
            values = own_game.in_dtype_of(model).values(model).to(dtype)
        finally:
            model.to(home)
        finite = values.isfinite().all(dim=1)
        own = extract_interactions(values[finite], noise_tolerance=noise_tolerance, tolerance=tolerance)
        columns = torch.cat([own.and_effects, own.or_effects, own.offset[:, None]], dim=1)
        gathered = values.new_zeros(len(asked), columns.shape[1])
        index = torch.arange(len(asked), device=values.device)[rank::num_ranks]
        gathered[index[finite]] = columns
        gathered[index[~finite]] = torch.nan
        gathered = sum_over_ranks(gathered)
        and_effects, or_effects, offset = gathered.split([values.shape[1], values.shape[1], 1], dim=1)
        return Interactions(and_effects, or_effects, offset[:, 0])

    return interactions_of


def measure_splits(
    model: nn.Module, splits: Mapping[str, Split], found: Mapping[str, Interactions], threshold: float
) -> dict[str, SplitMeasurement]:
    """Judge what a model has on the probes of one or two splits.

    Args:
        model: The monitored model, in evaluation mode.
        splits: What it takes on each of them.
        found: Its interactions on each of them.
        threshold: Salience threshold ``τ``.

    Returns:
        Numbers for each input of each split, float64 on the CPU.
    """
    measured = {}
    for name, split in splits.items():
        counterpart = next((other for key, other in found.items() if key != name), None)
        measured[name] = _measure_split(found[name], split.judge(model, found[name], counterpart), threshold, split)
    return measured


def summarise(split: SplitMeasurement) -> Summary:
    """Reduce one split's measurement to the numbers that are logged, over the inputs that were measured."""
    measured = split.measured
    generalizable = split.strength.generalizable[measured]
    non_generalizable = split.strength.non_generalizable[measured]
    g, u = total_strength(generalizable), total_strength(non_generalizable)
    rest = total_strength(split.strength.non_salient[measured])
    share = strength_share(g, g + u)
    chance = strength_share(split.chance_generalizable[measured], g + u)
    full_score = split.full_score[measured]
    return Summary(
        loss=split.loss[measured].mean().item(),
        unseen_loss=split.unseen_loss[measured & ~split.contradicted].mean().item(),
        generalizable=g.mean().item(),
        non_generalizable=u.mean().item(),
        non_salient=rest.mean().item(),
        share=share.item(),
        share_chance=chance.item(),
        share_above_chance=above_chance(share, chance).item(),
        mean_order=mean_order(generalizable + non_generalizable).item(),
        cancellation=cancellation(g + u + rest, split.empty_score[measured], full_score).item(),
        left_out=int((~measured).sum()),
    )


def combine_splits(
    training: SplitMeasurement,
    held_out: SplitMeasurement | None,
    *,
    epoch: int,
    global_step: int,
    seconds: float,
    loss_unit: str = NATS,
) -> Measurement:
    """Put the measurements of both splits together, with the loss gap between them, and intervals for the numbers.

    Args:
        training: Measurement on the training probes.
        held_out: Measurement on the held-out probes, if there are any.
        epoch: Completed epochs.
        global_step: Optimizer steps taken.
        seconds: Wall-clock time of the measurement.
        loss_unit: Unit of the loss.
    """
    loss_gap = remaining_gap = float("nan")
    intervals = [Interval(float("nan"), float("nan"))] * 3
    if held_out is not None:
        loss_gap, remaining_gap = (_mean_losses(held_out) - _mean_losses(training)).tolist()
        intervals = list(gap_intervals(training, held_out))
    return Measurement(
        epoch=epoch,
        global_step=global_step,
        seconds=seconds,
        training=training,
        held_out=held_out,
        training_summary=summarise(training),
        held_out_summary=None if held_out is None else summarise(held_out),
        training_intervals=split_intervals(training),
        held_out_intervals=None if held_out is None else split_intervals(held_out),
        loss_gap=loss_gap,
        remaining_gap=remaining_gap,
        excess_gap=loss_gap - remaining_gap,
        loss_gap_interval=intervals[0],
        remaining_gap_interval=intervals[1],
        excess_gap_interval=intervals[2],
        loss_unit=loss_unit,
    )


def _mean_losses(split: SplitMeasurement) -> Tensor:
    return torch.stack([losses[split.measured].mean() for losses in (split.loss, split.explained_loss)])


def _measure_split(interactions: Interactions, verdict: Verdict, threshold: float, split: Split) -> SplitMeasurement:
    salient = salient_mask(interactions, threshold)
    effects = interactions.effects
    full_score = interactions.offset + effects.sum(dim=(1, 2))
    strength = strength_by_order(interactions, salient, verdict.weights)

    def keep(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().double()

    full, explained = keep(full_score), keep(explained_score(full_score, interactions, salient, verdict.weights))
    # Where the evidence could not judge, nothing else counts either.
    left_out = 0 * explained
    spread = UNSEEN_SPREAD * keep(total_strength(strength.non_generalizable)) + left_out
    unseen = [weight * losses_of_inputs(split.loss, explained + node * spread, split.targets) for node, weight in NORMAL_NODES]
    peer_score = torch.full_like(full, torch.nan)
    if verdict.peer_score is not None and unit_of(split.loss) == NATS:
        peer_score = keep(verdict.peer_score)
    return SplitMeasurement(
        strength=OrderStrength(
            generalizable=keep(strength.generalizable),
            non_generalizable=keep(strength.non_generalizable),
            non_salient=keep(strength.non_salient) + left_out[:, None, None, None],
        ),
        chance_generalizable=keep((effects.abs() * salient * verdict.chance_weights).sum(dim=(1, 2))),
        empty_score=keep(interactions.offset),
        full_score=full,
        explained_score=explained,
        loss=losses_of_inputs(split.loss, full + left_out, split.targets),
        explained_loss=losses_of_inputs(split.loss, explained, split.targets),
        unseen_loss=torch.stack(unseen).sum(dim=0),
        peer_score=peer_score,
    )
