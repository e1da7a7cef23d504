"""What is kept of each input, against subset loops."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_interactions.functional.extraction import extract_interactions
from lightning_interactions.game.tasks import Classification, Regression, Task
from lightning_interactions.measuring.facts import UNSEEN_SPREAD, facts_of
from lightning_interactions.records import EvidenceWeights, Interactions, Probes, SplitMeasurement
from lightning_interactions.records.measurement import INPUT_FIELDS
from tests.helpers import oracles
from tests.helpers.games import random_network_tables
from tests.measuring.models import NUM_INPUTS, NUM_PLAYERS

THRESHOLD = 0.1
TARGETS = torch.arange(NUM_INPUTS)
PROBES = Probes.of((torch.zeros(NUM_INPUTS, NUM_PLAYERS), TARGETS))


class NoLoss(Task):
    def score(self, outputs: Any, targets: Any) -> Tensor:
        raise AssertionError


@pytest.fixture(scope="module")
def interactions() -> Interactions:
    tables = random_network_tables(NUM_PLAYERS, NUM_INPUTS, torch.Generator().manual_seed(4))
    return extract_interactions(tables + 0.3)


def some_weights(interactions: Interactions, rater_score: float | None = None) -> EvidenceWeights:
    """Weights that are no function of anything, 0, 1 and in between."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(2, *interactions.effects.shape, generator=generator, dtype=torch.float64)
    score = None if rater_score is None else torch.full((len(interactions),), rater_score, dtype=torch.float64)
    return EvidenceWeights((2 * weights[0] - 0.5).clamp(0, 1), weights[1], score)


def facts(
    interactions: Interactions, weights: EvidenceWeights | None = None, task: Task | None = None, probes: Probes = PROBES
) -> SplitMeasurement:
    weights = some_weights(interactions) if weights is None else weights
    return facts_of(interactions, weights, THRESHOLD, Classification() if task is None else task, probes)


def copied(interactions: Interactions) -> Interactions:
    return Interactions(interactions.effects.clone(), interactions.offset.clone())


def test_the_numbers_of_a_split_are_those_of_the_subset_loop(interactions: Interactions) -> None:
    weights = some_weights(interactions)
    split = facts(interactions)
    expected = oracles.strength_by_order(interactions, weights.weights, THRESHOLD)
    for name, table in vars(expected).items():
        torch.testing.assert_close(getattr(split.strength, name), table)
        torch.testing.assert_close(getattr(split, name), table.sum(dim=(1, 2, 3)))
    values = oracles.reconstruct_values(interactions)
    torch.testing.assert_close(split.empty_score, values[:, 0])
    torch.testing.assert_close(split.full_score, values[:, -1])
    explained, chance = [], []
    for i in range(NUM_INPUTS):
        effects = interactions.effects[i].tolist()
        largest = max(abs(effect) for kind in effects for effect in kind)
        salient = [(t, s) for t in range(2) for s in range(16) if abs(effects[t][s]) > THRESHOLD * largest]
        assert 0 < len(salient) < 31
        explained.append(float(values[i, -1]) - sum(effects[t][s] * (1 - float(weights.weights[i, t, s])) for t, s in salient))
        chance.append(sum(abs(effects[t][s]) * float(weights.chance_weights[i, t, s]) for t, s in salient))
    torch.testing.assert_close(split.explained_score, torch.tensor(explained, dtype=torch.float64))
    torch.testing.assert_close(split.chance_generalizable, torch.tensor(chance, dtype=torch.float64))


def test_numbers_are_kept_in_double_precision_without_gradients(interactions: Interactions) -> None:
    single = Interactions(interactions.effects.float().requires_grad_(), interactions.offset.float())
    weights = EvidenceWeights(*(part.float() for part in vars(some_weights(interactions, 0.5)).values()))
    split = facts(single, weights)
    tensors = [*vars(split.strength).values(), *(getattr(split, name) for name in INPUT_FIELDS)]
    assert len(tensors) == 14
    assert all(tensor.dtype == torch.float64 and not tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("of", ["interactions", "weights"])
def test_an_input_that_is_not_measured_or_not_judged_is_left_out_and_changes_no_other(
    interactions: Interactions, of: str
) -> None:
    whole = facts(interactions)
    broken, weights = copied(interactions), some_weights(interactions)
    for part in vars(broken).values() if of == "interactions" else [weights.weights, weights.chance_weights]:
        part[1] = torch.nan
    split = facts(broken, weights)
    others = [0, 2, 3, 4]
    assert split.measured.tolist() == [True, False, True, True, True]
    scores = () if of == "interactions" else ("empty_score", "full_score")
    for name in set(INPUT_FIELDS) - {"rater_score"}:
        assert bool(getattr(split, name)[1].isnan()) == (name not in scores)
        assert torch.equal(getattr(split, name)[others], getattr(whole, name)[others])
    for name in vars(split.strength):
        assert getattr(split.strength, name)[1].isnan().all()
        assert torch.equal(getattr(split.strength, name)[others], getattr(whole.strength, name)[others])


@pytest.mark.parametrize("task", [Classification(), Classification([1.0, 2.0, 1.0, 0.5, 3.0], 0.1), Regression()])
def test_losses_are_those_of_full_and_explained_score(interactions: Interactions, task: Task) -> None:
    found = facts(interactions, task=task)
    assert torch.equal(found.loss, task.loss(found.full_score, TARGETS))
    assert torch.equal(found.explained_loss, task.loss(found.explained_score, TARGETS))


def test_class_weights_are_normed_over_all_groups(interactions: Interactions) -> None:
    groups = Probes.of((torch.zeros(3, NUM_PLAYERS), TARGETS[:3]), (torch.zeros(2, NUM_PLAYERS).double(), TARGETS[3:]))
    assert len(groups.groups) == 2
    task = Classification([1.0, 2.0, 1.0, 0.5, 3.0])
    assert torch.equal(facts(interactions, task=task, probes=groups).loss, facts(interactions, task=task).loss)
    of_other_shape = Probes.of((torch.zeros(3, NUM_PLAYERS), TARGETS[:3]), (torch.zeros(2, NUM_PLAYERS), TARGETS[3:, None]))
    assert torch.equal(facts(interactions, probes=of_other_shape).loss, facts(interactions).loss)


def test_an_unknown_loss_is_nan_and_all_else_is_measured(interactions: Interactions) -> None:
    found = facts(interactions, task=NoLoss())
    assert found.measured.all()
    unknown = {name for name in INPUT_FIELDS if getattr(found, name).isnan().all()}
    assert unknown == {"loss", "explained_loss", "expected_test_loss", "rater_score"}


# What an input is expected to cost that was not trained on


def non_generalizable(interactions: Interactions) -> Tensor:
    strength = oracles.strength_by_order(interactions, some_weights(interactions).weights, THRESHOLD)
    return strength.non_generalizable.sum(dim=(1, 2, 3))


@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_the_expected_test_loss_is_the_mean_over_a_random_score_of_what_does_not_generalize(
    interactions: Interactions, task: Task
) -> None:
    split = facts(interactions, task=task)
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # In pairs of opposite sign, which is exact for what is linear in the score.
    noise = torch.cat([noise, -noise])
    scores = split.explained_score + UNSEEN_SPREAD * non_generalizable(interactions) * noise
    losses = F.softplus(-scores) if isinstance(task, Classification) else (scores - TARGETS).square()
    torch.testing.assert_close(split.expected_test_loss, losses.mean(dim=0), rtol=0.02, atol=1e-3)
    assert bool((split.expected_test_loss >= split.explained_loss).all())


def test_the_expected_squared_error_is_exact(interactions: Interactions) -> None:
    split = facts(interactions, task=Regression())
    spread = UNSEEN_SPREAD * non_generalizable(interactions)
    torch.testing.assert_close(split.expected_test_loss, split.explained_loss + spread.square())


def test_where_all_generalizes_the_expected_test_loss_is_the_loss(interactions: Interactions) -> None:
    everything = torch.ones_like(interactions.effects)
    split = facts(interactions, EvidenceWeights(everything, everything))
    torch.testing.assert_close(split.expected_test_loss, split.loss)


def test_many_small_effects_with_random_signs_cost_what_their_root_of_squares_says() -> None:
    # Twenty-five equal effects: with signs at random their sum has a spread of a fifth of their strength, as is assumed.
    effects = torch.zeros(1, 2, 16, dtype=torch.float64)
    effects.flatten()[[*range(1, 16), *range(17, 27)]] = 0.4
    interactions = Interactions(effects, torch.tensor([0.3], dtype=torch.float64))
    nothing = torch.zeros_like(effects)
    split = facts(interactions, EvidenceWeights(nothing, nothing), probes=PROBES.select([0]))
    signs = 2.0 * torch.randint(2, (200_000, 25), generator=torch.Generator().manual_seed(0)) - 1
    expected = F.softplus(-(0.3 + 0.4 * signs.sum(dim=1))).mean().item()
    assert split.expected_test_loss.item() == pytest.approx(expected, rel=0.01)
    assert split.expected_test_loss.item() > split.explained_loss.item() == pytest.approx(math.log1p(math.exp(-0.3)))


def test_scores_of_raters_are_kept_where_the_score_is_that_of_a_label(interactions: Interactions) -> None:
    weights = some_weights(interactions, rater_score=-2.5)
    split = facts(interactions, weights)
    assert split.rater_score.tolist() == [-2.5] * NUM_INPUTS
    assert split.disputed.all()
    assert facts(interactions, weights, Regression()).rater_score.isnan().all()
    assert facts(interactions, weights, NoLoss()).rater_score.isnan().all()
    assert facts(interactions).rater_score.isnan().all()
    assert not replace(split, rater_score=torch.full_like(split.loss, torch.nan)).disputed.any()
