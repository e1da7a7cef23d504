from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_interactions.functional.extraction.extract import extract_interactions
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
from lightning_interactions.functional.strength import salient_mask, strength_by_order, total_strength
from lightning_interactions.records import Interactions
from tests.helpers.games import random_network_tables, random_tables


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def hand_made(*rows: tuple[list[float], list[float]]) -> Interactions:
    """Give each input its AND and its OR effects."""
    effects = torch.tensor(rows, dtype=torch.float64)
    return Interactions(effects, torch.zeros(len(rows), dtype=torch.float64))


def one_input(**effects: float) -> Interactions:
    """Make one input of two players with effects given by name: ``and_1``, ``and_2``, ``and_12`` and ``or_12``."""
    assert effects.keys() <= {"and_1", "and_2", "and_12", "or_12"}
    return hand_made(
        ([0, *(effects.get(name, 0.0) for name in ("and_1", "and_2", "and_12"))], [0, 0, 0, effects.get("or_12", 0.0)])
    )


def weight_of_and_12(monitored: Interactions, others: list[Interactions], **options: Any) -> float:
    """Look up the weight of the AND over both players."""
    return float(shared_interactions(monitored, others, **options).weights[0, 0, 3])


def random_models(num_inputs: int, count: int, generator: torch.Generator) -> list[Interactions]:
    """Effects of similar random models: common effects plus each model's own."""
    common = torch.randn(num_inputs, 2, 16, generator=generator, dtype=torch.float64)
    models = []
    for _ in range(count):
        effects = common + torch.randn(common.shape, generator=generator, dtype=torch.float64)
        effects[:, :, 0] = 0
        models.append(Interactions(effects, torch.zeros(num_inputs, dtype=torch.float64)))
    return models


def direct_votes(monitored: Tensor, others: list[Tensor], min_votes: int, threshold: float) -> Tensor:
    """Count votes for one input's effects ``[types, coalitions]`` entry by entry."""
    weights = torch.zeros_like(monitored)
    for kind in range(monitored.shape[0]):
        for s in range(monitored.shape[1]):
            votes = sum(
                1
                for other in others
                if abs(float(other[kind, s])) > threshold * float(other.abs().max())
                and float(other[kind, s]) * float(monitored[kind, s]) > 0
            )
            weights[kind, s] = float(votes >= min_votes)
    return weights


# Votes


def test_one_vote_is_enough_by_default() -> None:
    monitored, has_it, lacks_it = one_input(and_12=2.0), one_input(and_12=0.5), one_input(and_1=1.0)
    assert weight_of_and_12(monitored, [lacks_it, has_it, lacks_it]) == 1
    assert weight_of_and_12(monitored, [lacks_it, lacks_it]) == 0


@pytest.mark.parametrize(("votes", "min_votes"), [(0, 1), (1, 2), (2, 3), (1, 1), (2, 2), (3, 2), (3, 3)])
def test_min_votes_is_how_many_must_agree(votes: int, min_votes: int) -> None:
    has_it, lacks_it = one_input(and_12=1.0), one_input(and_1=1.0)
    others = [has_it] * votes + [lacks_it] * (3 - votes)
    weight = weight_of_and_12(one_input(and_12=2.0), others, min_votes=min_votes)
    assert weight == float(votes >= min_votes)


def test_another_sign_is_no_vote() -> None:
    assert weight_of_and_12(one_input(and_12=2.0), [one_input(and_12=-2.0)]) == 0
    assert weight_of_and_12(one_input(and_12=-2.0), [one_input(and_12=-1.0)]) == 1
    opposed = [one_input(and_12=1.0), one_input(and_12=-1.0)]
    assert weight_of_and_12(one_input(and_12=2.0), opposed, min_votes=2) == 0


def test_another_type_is_no_vote() -> None:
    assert weight_of_and_12(one_input(and_12=2.0), [one_input(or_12=2.0)]) == 0
    weights = shared_interactions(one_input(or_12=2.0), [one_input(or_12=1.0, and_1=3.0)]).weights
    assert weights.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 1]]]


def test_another_set_is_no_vote() -> None:
    assert weight_of_and_12(one_input(and_12=2.0), [one_input(and_1=2.0, and_2=2.0)]) == 0


def test_an_interaction_that_is_not_salient_in_the_other_model_is_no_vote() -> None:
    monitored = one_input(and_12=2.0)
    assert weight_of_and_12(monitored, [one_input(and_12=0.04, and_1=1.0)]) == 0
    assert weight_of_and_12(monitored, [one_input(and_12=0.06, and_1=1.0)]) == 1
    assert weight_of_and_12(monitored, [one_input(and_12=0.06, and_1=1.0)], threshold=0.1) == 0


def test_each_other_model_has_its_own_maximum() -> None:
    small, large = one_input(and_12=1e-3), one_input(and_12=1e-3, and_1=1.0)
    assert weight_of_and_12(one_input(and_12=100.0), [small]) == 1
    assert weight_of_and_12(one_input(and_12=100.0), [large]) == 0


def test_no_effect_gets_no_votes() -> None:
    judged = shared_interactions(one_input(and_1=1.0), [one_input(and_12=1.0), one_input()])
    assert not judged.weights.any()


def test_a_model_shares_its_salient_interactions_with_itself(generator: torch.Generator) -> None:
    interactions = extract_interactions(random_network_tables(5, 3, generator))
    weights = shared_interactions(interactions, [interactions]).weights
    assert weights.dtype == interactions.and_effects.dtype
    assert torch.equal(weights.bool(), salient_mask(interactions))


@pytest.mark.parametrize("min_votes", [1, 2, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_votes_equal_a_direct_loop(min_votes: int, threshold: float, generator: torch.Generator) -> None:
    monitored, *others = random_models(4, 4, generator)
    weights = shared_interactions(monitored, others, min_votes=min_votes, threshold=threshold).weights
    for i in range(4):
        expected = direct_votes(monitored.effects[i], [other.effects[i] for other in others], min_votes, threshold)
        assert torch.equal(weights[i], expected)


@pytest.mark.parametrize("min_votes", [-1, 0, 3])
def test_impossible_number_of_votes_is_an_error(min_votes: int) -> None:
    model = one_input(and_12=1.0)
    with pytest.raises(ValueError, match="min_votes"):
        shared_interactions(model, [model, model], min_votes=min_votes)


def test_no_other_models_is_an_error() -> None:
    with pytest.raises(ValueError, match="rater"):
        shared_interactions(one_input(and_12=1.0), [])


# Chance


@pytest.mark.parametrize(("num_inputs", "min_votes"), [(2, 1), (3, 2), (7, 1), (7, 2), (32, 1)])
def test_chance_weights_equal_a_direct_loop_over_other_inputs(
    num_inputs: int, min_votes: int, generator: torch.Generator
) -> None:
    monitored, *others = random_models(num_inputs, 3, generator)
    chance = shared_interactions(monitored, others, min_votes=min_votes, threshold=0.3).chance_weights
    # Few rows keep the loop over 32 inputs short.
    for i in (0, num_inputs - 1)[: 1 if num_inputs > 7 else 2]:
        paired = [
            direct_votes(monitored.effects[i], [other.effects[j] for other in others], min_votes, 0.3)
            for j in range(num_inputs)
            if j != i
        ]
        torch.testing.assert_close(chance[i], torch.stack(paired).mean(dim=0), rtol=0, atol=1e-6)


def test_chance_never_looks_at_the_same_input() -> None:
    # Input i has an effect on set i + 1 alone, so only its own row could vote for it; 40 inputs are more than pairings.
    effects = torch.zeros(40, 2, 64)
    effects[torch.arange(40), 0, torch.arange(40) + 1] = 1.0
    interactions = Interactions(effects, torch.zeros(40))
    judged = shared_interactions(interactions, [interactions])
    assert torch.equal(judged.weights, effects)
    assert not judged.chance_weights.any()


def test_chance_of_many_inputs_is_a_mean_over_31_pairings(generator: torch.Generator) -> None:
    monitored, other = random_models(50, 2, generator)
    votes = 31 * shared_interactions(monitored, [other]).chance_weights
    torch.testing.assert_close(votes, votes.round(), rtol=0, atol=1e-5)
    assert votes.max() > 1


def test_chance_equals_the_weights_where_all_inputs_are_alike() -> None:
    rows = [([0, 1.0, -2.0, 0.0], [0, 0, 0, 3.0])] * 4
    judged = shared_interactions(hand_made(*rows), [hand_made(*rows)])
    torch.testing.assert_close(judged.chance_weights, judged.weights)


def test_chance_of_a_single_input_is_nan() -> None:
    model = one_input(and_12=1.0)
    judged = shared_interactions(model, [model])
    assert judged.chance_weights.isnan().all()
    assert judged.weights[0, 0, 3] == 1


# Inputs of NaN


def test_an_input_of_nan_in_another_model_cannot_be_judged() -> None:
    row = ([0, 1.0, 0, 0.0], [0, 0, 0, 1.0])
    model, broken = hand_made(row, row), hand_made(row, ([torch.nan] * 4, [torch.nan] * 4))
    weights = shared_interactions(model, [broken]).weights
    assert weights[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert bool(weights[1].isnan().all())


def test_an_input_of_nan_in_the_monitored_model_is_never_generalizable() -> None:
    row = ([0, 1.0, 0, 0.0], [0, 0, 0, 1.0])
    model, broken = hand_made(row, row), hand_made(row, ([torch.nan] * 4, [torch.nan] * 4))
    weights = shared_interactions(broken, [model]).weights
    assert weights.tolist() == [[[0, 1, 0, 0], [0, 0, 0, 1]], [[0] * 4, [0] * 4]]


# Shares


def test_share_is_a_ratio_of_sums_over_inputs() -> None:
    share = strength_share(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3.0]))
    assert share.item() == pytest.approx(0.25)


def test_share_without_strength_is_nan() -> None:
    assert strength_share(torch.zeros(3), torch.zeros(3)).isnan()


def test_share_of_a_model_with_itself_is_one(generator: torch.Generator) -> None:
    interactions = extract_interactions(random_tables(4, 3, generator))
    salient = salient_mask(interactions)
    strength = strength_by_order(interactions, salient, shared_interactions(interactions, [interactions]).weights)
    generalizable, rest = total_strength(strength.generalizable), total_strength(strength.non_generalizable)
    assert strength_share(generalizable, generalizable + rest).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("share", "chance", "expected"), [(0.2, 0.2, 0.0), (1.0, 0.2, 1.0), (0.6, 0.2, 0.5), (0.0, 0.5, -1.0)])
def test_above_chance_is_zero_at_chance_and_one_at_all(share: float, chance: float, expected: float) -> None:
    rescaled = above_chance(torch.tensor(share), torch.tensor(chance))
    assert rescaled.item() == pytest.approx(expected, abs=1e-6)


# Explained score


def test_explained_score_takes_out_what_is_salient_and_not_generalizable() -> None:
    interactions = hand_made(([0, 1.0, 2.0, -4.0], [0, 0, 0, 8.0]), ([0, 0.5, 0, 0], [0, 0, 0, -3.0]))
    salient = torch.tensor([[[0, 1, 0, 1], [0, 0, 0, 1]], [[0, 1, 0, 0], [0, 0, 0, 1]]]).bool()
    weights = torch.tensor([[[0, 1, 0, 0], [0, 0, 0, 0.25]], [[0, 0, 0, 0], [0, 0, 0, 1.0]]], dtype=torch.float64)
    full_score = torch.tensor([7.0, -2.5], dtype=torch.float64)
    explained = explained_score(full_score, interactions, salient, weights)
    # First input: the AND of both players goes, and three quarters of the OR; the second AND is not salient.
    assert explained.tolist() == [7.0 - (-4.0) - 0.75 * 8.0, -2.5 - 0.5]


def test_explained_score_is_the_full_score_where_all_is_generalizable(generator: torch.Generator) -> None:
    values = random_tables(4, 3, generator)
    interactions = extract_interactions(values)
    all_of_it = torch.ones_like(interactions.effects)
    explained = explained_score(values[:, -1], interactions, salient_mask(interactions), all_of_it)
    assert torch.equal(explained, values[:, -1])


def test_explained_score_is_the_empty_score_where_nothing_is_generalizable(generator: torch.Generator) -> None:
    values = random_tables(4, 3, generator)
    interactions = extract_interactions(values)
    none = torch.zeros_like(interactions.effects)
    explained = explained_score(values[:, -1], interactions, interactions.effects != 0, none)
    torch.testing.assert_close(explained, values[:, 0], rtol=0, atol=1e-10)


# Cross-entropy


def test_cross_entropy_from_log_odds_equals_torch(generator: torch.Generator) -> None:
    logits = 5 * torch.randn(20, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(7, (20,), generator=generator)
    others = logits.clone()
    others[torch.arange(20), targets] = -torch.inf
    score = logits[torch.arange(20), targets] - others.logsumexp(dim=1)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy_from_log_odds(score), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("score", [-1e4, -200.0, 0.0, 60.0, 1e4])
def test_cross_entropy_of_extreme_scores_is_finite(score: float) -> None:
    loss = cross_entropy_from_log_odds(torch.tensor([score]))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([score]), torch.ones(1))
    torch.testing.assert_close(loss[0], expected)


# Chance by draws


def like(interactions: Interactions, scale: float, generator: torch.Generator) -> Interactions:
    """The same interactions with noise of some scale, so that most of them are shared."""
    effects = interactions.effects + scale * torch.randn(interactions.effects.shape, generator=generator, dtype=torch.float64)
    return Interactions(effects, interactions.offset)


@pytest.mark.parametrize("min_votes", [1, 2])
def test_chance_weights_of_draws_equal_a_direct_loop(min_votes: int, generator: torch.Generator) -> None:
    monitored, *others = random_models(5, 4, generator)
    draws = [[like(monitored, 0.5, generator) for _ in range(3)] for _ in range(4)]
    judged = shared_interactions(monitored, others, min_votes=min_votes, threshold=0.3, others_by_chance=draws)
    for i in range(5):
        votes = [direct_votes(monitored.effects[i], [m.effects[i] for m in draw], min_votes, 0.3) for draw in draws]
        torch.testing.assert_close(judged.chance_weights[i], torch.stack(votes).mean(dim=0), rtol=0, atol=1e-6)
    assert torch.equal(judged.weights, shared_interactions(monitored, others, min_votes=min_votes, threshold=0.3).weights)


def test_the_larger_chance_level_counts(generator: torch.Generator) -> None:
    monitored, other = random_models(6, 2, generator)
    # With two classes the log-odds of the other class are the negative ones, and share nothing.
    opposite = Interactions(-monitored.effects, -monitored.offset)
    judged = shared_interactions(monitored, [other], others_by_chance=[[opposite]])
    assert torch.equal(judged.chance_weights, shared_interactions(monitored, [other]).chance_weights)
    assert judged.chance_weights.sum() > 0
    judged = shared_interactions(monitored, [other], others_by_chance=[[monitored]])
    assert torch.equal(judged.chance_weights, shared_interactions(monitored, [monitored]).weights)


def test_a_draw_with_nan_is_left_out_for_that_input(generator: torch.Generator) -> None:
    monitored, other = random_models(4, 2, generator)
    draws = [[like(monitored, 0.5, generator)] for _ in range(2)]
    broken = draws[0][0].effects.clone()
    broken[2, 0] = torch.nan
    broken_draw = [Interactions(broken, draws[0][0].offset)]
    chance = shared_interactions(monitored, [other], others_by_chance=[broken_draw, draws[1]]).chance_weights
    both = shared_interactions(monitored, [other], others_by_chance=draws).chance_weights
    alone = shared_interactions(monitored, [other], others_by_chance=draws[1:]).chance_weights
    kept = torch.tensor([True, True, False, True])
    assert torch.equal(chance[kept], both[kept])
    assert torch.equal(chance[2], alone[2])


def test_a_single_input_has_a_chance_level_by_draws() -> None:
    model, stranger = one_input(and_12=1.0), one_input(and_12=-1.0)
    drawn = shared_interactions(model, [model], others_by_chance=[[stranger], [model]])
    assert drawn.chance_weights[0, 0, 3] == 0.5


def test_draws_of_a_score_that_does_not_depend_on_targets_do_not_count(generator: torch.Generator) -> None:
    monitored, *others = random_models(5, 3, generator)
    expected = shared_interactions(monitored, others).chance_weights
    chance = shared_interactions(monitored, others, others_by_chance=[others, others]).chance_weights
    assert torch.equal(chance, expected)
    # One draw that differs shows that it does.
    counted = shared_interactions(monitored, others, min_votes=2, others_by_chance=[others, [monitored, monitored]])
    assert counted.chance_weights.sum() > shared_interactions(monitored, others, min_votes=2).chance_weights.sum()


# Votes that are kept


def test_votes_are_the_signs_of_salient_effects() -> None:
    raters = [
        hand_made(([0, 1.0, -0.5, 0.04], [0, 0, 0, -2.0]), ([0, 0, 0, 0.1], [0, 0, 0, 0.0])),
        hand_made(([0, 0.0, 0.0, 3.0], [0, 0, 0, torch.nan]), ([0, -1.0, 0, 0.0], [0, 0, 0, 0.0])),
    ]
    votes = RaterVotes.of(raters, 0.05)
    assert len(votes) == 2
    assert votes.signs.dtype == torch.int8
    assert votes.signs[0].tolist() == [[[0, 1, -1, 0], [0, 0, 0, -1]], [[0, 0, 0, 1], [0, 0, 0, 0]]]
    assert votes.signs[1, 1].tolist() == [[0, -1, 0, 0], [0, 0, 0, 0]]
    assert votes.finite.tolist() == [False, True]


@pytest.mark.parametrize("min_votes", [1, 2, 3])
def test_kept_votes_give_the_weights_of_all_at_once(min_votes: int, generator: torch.Generator) -> None:
    monitored, later, *others = random_models(7, 5, generator)
    draws = [[like(monitored, 0.5, generator) for _ in others] for _ in range(3)]
    votes, by_chance = RaterVotes.of(others, 0.3), votes_by_chance(others, draws, 0.3)
    assert len(by_chance) == 3
    for model in (monitored, later):
        kept = weights_from_votes(model, votes, min_votes=min_votes, by_chance=by_chance)
        at_once = shared_interactions(model, others, min_votes=min_votes, threshold=0.3, others_by_chance=draws)
        assert torch.equal(kept.weights, at_once.weights)
        assert torch.equal(kept.chance_weights, at_once.chance_weights)


def test_more_raters_than_an_int8_counts_are_counted() -> None:
    model = one_input(and_12=1.0)
    assert weight_of_and_12(model, [model] * 200, min_votes=200) == 1
    assert weight_of_and_12(model, [model] * 199 + [one_input(and_1=1.0)], min_votes=200) == 0


def test_a_draw_with_fewer_raters_is_an_error() -> None:
    model, other = one_input(and_12=1.0), one_input(and_12=-1.0)
    with pytest.raises(ValueError, match="draw"):
        votes_by_chance([model, model], [[other]], 0.05)
