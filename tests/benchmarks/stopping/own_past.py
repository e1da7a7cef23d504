"""Evidence from nothing but the run: an interaction generalizes if the network had it well before now.

What is memorised comes late, so a network's own earlier self has not memorised yet what its later self has. The rater of a
measurement is the run as it was at a fraction of the epochs; its interactions on the same probes have been measured anyway, so
that this costs nothing. What has come since then and generalizes all the same counts as not generalizable: the share is too
low, the more so in the first epochs.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from runs import THRESHOLD, TWINS, Run
from torch import Tensor

from lightning_interactions import History
from lightning_interactions.analysis import detect_phases
from lightning_interactions.functional.generalization import RaterVotes, weights_from_votes
from lightning_interactions.measuring.facts import NORMAL_NODES, UNSEEN_SPREAD
from lightning_interactions.records import Interactions, Measurement, SplitMeasurement

__all__ = ["OWN_PAST", "judged", "measurements_of_own_past", "of_own_past", "salient_effects"]

OWN_PAST = "own past"
FRACTION = 0.25
"""The rater's part of the measurements so far, chosen on digits and cancer; with a half phase 3 is hardly ever detected."""


def of_own_past(run: Run, fraction: float = FRACTION) -> History:
    """Judge a run by its own past, on the training probes: the history with the phases that are detected then."""
    measurements = measurements_of_own_past(run, fraction)
    return History(measurements, detect_phases(measurements))


def measurements_of_own_past(run: Run, fraction: float = FRACTION) -> tuple[Measurement, ...]:
    """Weigh the run's interactions on the training probes by whether they were there at a fraction of the measurements."""
    measured = run.histories[TWINS].measurements
    effects = salient_effects(run)
    found = []
    for now, measurement in enumerate(measured):
        before = int(fraction * now)
        own, past = (Interactions(effects[moment], effects.new_zeros(effects.shape[1])) for moment in (now, before))
        weights = weights_from_votes(own, RaterVotes.of([past], THRESHOLD), min_votes=1)
        rater_score = measured[before].training.full_score
        training = judged(measurement.training, own.effects.double(), weights.weights, weights.chance_weights, rater_score)
        found.append(Measurement(measurement.time, measurement.seconds, training, None))
    return tuple(found)


def salient_effects(run: Run) -> Tensor:
    """Return the salient interactions on the training probes, zeros elsewhere: ``[times, probes, 2, coalitions]``."""
    measured = run.histories[TWINS].measurements
    num_times, num_probes = len(measured), len(measured[0].training)
    (num_coalitions,) = {ratings["training"]["signs"].shape[-1] for ratings in run.ratings.values()}
    effects = torch.zeros(num_times, num_probes, 2, num_coalitions)
    place = run.salient.long()
    on_training = place[:, 1] < num_probes
    effects[place[on_training].unbind(dim=1)] = run.salient_effects[on_training].float()
    return effects


def judged(
    split: SplitMeasurement, effects: Tensor, weights: Tensor, chance_weights: Tensor, rater_score: Tensor
) -> SplitMeasurement:
    """Replace what evidence decides; losses are those of log-odds.

    Args:
        split: What was measured with other evidence.
        effects: Its salient interactions.
        weights: How far each is taken for generalizable.
        chance_weights: The same by chance.
        rater_score: Score of each probe by the raters.
    """
    other = (1 - weights) * effects
    non_generalizable = other.abs().sum(dim=(1, 2))
    explained = split.full_score - other.sum(dim=(1, 2))
    spread = UNSEEN_SPREAD * non_generalizable
    expected: Sequence[Tensor] = [weight * _loss(explained + node * spread) for node, weight in NORMAL_NODES]
    return replace(
        split,
        generalizable=(weights * effects).abs().sum(dim=(1, 2)),
        non_generalizable=non_generalizable,
        chance_generalizable=(chance_weights * effects.abs()).sum(dim=(1, 2)),
        explained_score=explained,
        explained_loss=_loss(explained),
        expected_test_loss=torch.stack(list(expected)).sum(dim=0),
        rater_score=rater_score,
    )


def _loss(score: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-score)
