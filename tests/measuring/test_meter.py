import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from lightning_interactions.game.losses import CrossEntropy, Loss, SquaredError
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.evidence import Judge
from lightning_interactions.functional.bootstrap import gap_intervals, split_intervals
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups
from lightning_interactions.measuring.meter import (
    UNSEEN_SPREAD,
    Split,
    combine_splits,
    interactions_on_probes,
    measure_splits,
    summarise,
)
from lightning_interactions.records import Interactions, OrderStrength, Probes, SplitMeasurement, Verdict
from tests.helpers import oracles
from tests.helpers.games import random_network_tables
from tests.helpers.histories import EMPTY_SCORE, EXPLAINED_SCORE, NON_SALIENT, held_out_split, split_measurement

NUM_INPUTS, NUM_PLAYERS = 5, 4
THRESHOLD = 0.1


class TableModel(nn.Module):
    """A random network of four features that gives NaN for some inputs as soon as their first feature is unmasked."""

    def __init__(self, broken: tuple[float, ...] = ()) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(NUM_PLAYERS, 8, dtype=torch.float64)
        self.last = nn.Linear(8, 3, dtype=torch.float64)
        self.broken = torch.tensor(broken, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.last(self.first(inputs).tanh())
        return torch.where(torch.isin(inputs[:, :1], self.broken), torch.nan, logits)


@pytest.fixture
def game() -> Game:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(NUM_INPUTS, NUM_PLAYERS, generator=generator, dtype=torch.float64)
    inputs[:, 0] = torch.arange(1, NUM_INPUTS + 1)
    return Game(Probes(inputs, torch.tensor([0, 2, 1, 1, 0])), FeatureGroups(), torch.zeros(()).double(), batch_size=7)


def summed_over_ranks(game: Game, model: nn.Module, num_ranks: int) -> list[Interactions]:
    """Ask every rank in turn, and add up as a real sum over ranks would.

    The first round finds out what each rank contributes, the second gives all of them the sum.
    """
    contributions: list[Tensor] = []

    def contribute(tensor: Tensor) -> Tensor:
        contributions.append(tensor.clone())
        return tensor

    for rank in range(num_ranks):
        interactions_on_probes(game, rank, num_ranks, contribute)(model)
    assert len(contributions) == num_ranks
    total = torch.stack(contributions).sum(dim=0)
    return [interactions_on_probes(game, rank, num_ranks, lambda _own: total)(model) for rank in range(num_ranks)]


def fixed_verdict(interactions: Interactions, seed: int = 2) -> Verdict:
    """Weights that are no function of anything, 0, 1 and in between."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, *interactions.effects.shape, generator=generator, dtype=torch.float64)
    return Verdict((2 * weights[0] - 0.5).clamp(0, 1), weights[1])


def with_peers(verdict: Verdict, score: float) -> Verdict:
    return replace(verdict, peer_score=torch.full((len(verdict.weights),), score))


# Interactions on the probes


def test_interactions_are_those_of_the_values(game: Game) -> None:
    model = TableModel()
    interactions = interactions_on_probes(game)(model)
    expected = extract_interactions(game.values(model))
    assert torch.equal(interactions.effects, expected.effects)
    assert torch.equal(interactions.offset, expected.offset)


@pytest.mark.parametrize("num_ranks", [2, 3, 7])
@pytest.mark.parametrize("broken", [(), (2.0,)], ids=["finite", "one NaN input"])
def test_dealt_out_over_ranks_they_are_the_same(game: Game, num_ranks: int, broken: tuple[float, ...]) -> None:
    model = TableModel(broken)
    expected = interactions_on_probes(game)(model)
    for interactions in summed_over_ranks(game, model, num_ranks):
        for name, tensor in asdict(expected).items():
            torch.testing.assert_close(getattr(interactions, name), tensor, rtol=0, atol=1e-3, equal_nan=True)
            assert getattr(interactions, name).shape == tensor.shape
        # Matched exactly, whatever the tolerance of the solver.
        finite = interactions.offset.isfinite()
        assert (~finite).sum() == len(broken)
        reconstruction = oracles.reconstruct_values(interactions)[finite]
        torch.testing.assert_close(reconstruction, game.values(model)[finite], rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_rank_evaluates_its_own_inputs_and_sums_once_a_model(game: Game, num_ranks: int) -> None:
    for rank in range(num_ranks):
        evaluated: list[float] = []
        sums: list[tuple[int, ...]] = []

        def forward(model: nn.Module, inputs: Tensor, evaluated: list[float] = evaluated) -> Tensor:
            evaluated.extend(inputs[:, 0].tolist())
            return model(inputs)

        def count(tensor: Tensor, sums: list[tuple[int, ...]] = sums) -> Tensor:
            sums.append(tuple(tensor.shape))
            return tensor

        interactions_of = interactions_on_probes(replace(game, forward=forward), rank, num_ranks, count)
        for done in (1, 2):
            interactions_of(TableModel())
            assert len(sums) == done
        own = [float(i + 1) for i in range(NUM_INPUTS) if i % num_ranks == rank]
        assert set(evaluated) == {0.0, *own}
        assert len(evaluated) == 2 * len(own) * 2**NUM_PLAYERS


@pytest.mark.parametrize("rows", [[3, 0], [2], []])
def test_some_inputs_can_be_asked_for(game: Game, rows: list[int]) -> None:
    interactions_of = interactions_on_probes(game)
    everything, some = interactions_of(TableModel()), interactions_of(TableModel(), rows)
    torch.testing.assert_close(some.effects, everything.effects[rows], rtol=0, atol=1e-3)
    assert torch.equal(some.offset, everything.offset[rows])


def test_inputs_with_outputs_that_are_not_finite_get_nan(game: Game) -> None:
    interactions = interactions_on_probes(game)(TableModel(broken=(2.0, 5.0)))
    expected = interactions_on_probes(game)(TableModel())
    left_out = torch.tensor([False, True, False, False, True])
    assert interactions.effects[left_out].isnan().all()
    assert interactions.offset[left_out].isnan().all()
    torch.testing.assert_close(interactions.effects[~left_out], expected.effects[~left_out], rtol=0, atol=1e-3)


def test_nothing_but_nan_is_nan(game: Game) -> None:
    interactions = interactions_on_probes(game)(TableModel(broken=(1.0, 2.0, 3.0, 4.0, 5.0)))
    assert interactions.effects.shape == (NUM_INPUTS, 2, 2**NUM_PLAYERS)
    assert interactions.effects.isnan().all()


def test_a_model_without_parameters_is_measured() -> None:
    game = Game(
        Probes(torch.ones(2, 3), torch.zeros(2)), FeatureGroups(), torch.zeros(()), score=lambda outputs, _targets: outputs
    )

    class Product(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.prod(dim=1)

    interactions = interactions_on_probes(game)(Product())
    torch.testing.assert_close(interactions.and_effects[:, -1], torch.ones(2), rtol=0, atol=1e-3)


# One split


@pytest.fixture
def interactions() -> Interactions:
    tables = random_network_tables(NUM_PLAYERS, NUM_INPUTS, torch.Generator().manual_seed(4))
    return extract_interactions(tables + 0.3)


def measured_splits(model: nn.Module, splits: dict[str, Split], threshold: float) -> dict[str, SplitMeasurement]:
    found = {name: split.interactions_of(model) for name, split in splits.items()}
    return measure_splits(model, splits, found, threshold)


def split_of(interactions: Interactions, judge: Judge, loss: Loss | None = CrossEntropy()) -> Split:  # noqa: B008
    return Split(lambda _model: interactions, judge, torch.arange(len(interactions.offset)), loss)


def measured(interactions: Interactions, judge: Judge) -> SplitMeasurement:
    return measured_splits(nn.Identity(), {"training": split_of(interactions, judge)}, THRESHOLD)["training"]


def test_the_numbers_of_a_split_are_those_of_the_subset_loop(interactions: Interactions) -> None:
    verdict = fixed_verdict(interactions)
    split = measured(interactions, lambda _model, _interactions, _counterpart: verdict)
    expected = oracles.strength_by_order(interactions, verdict.weights, THRESHOLD)
    for name, table in asdict(expected).items():
        torch.testing.assert_close(getattr(split.strength, name), table)
    values = oracles.reconstruct_values(interactions)
    torch.testing.assert_close(split.empty_score, values[:, 0])
    torch.testing.assert_close(split.full_score, values[:, -1])
    explained, chance = [], []
    for i in range(NUM_INPUTS):
        effects = interactions.effects[i].tolist()
        largest = max(abs(effect) for kind in effects for effect in kind)
        salient = [(t, s) for t in range(2) for s in range(16) if abs(effects[t][s]) > THRESHOLD * largest]
        assert 0 < len(salient) < 31
        explained.append(float(values[i, -1]) - sum(effects[t][s] * (1 - float(verdict.weights[i, t, s])) for t, s in salient))
        chance.append(sum(abs(effects[t][s]) * float(verdict.chance_weights[i, t, s]) for t, s in salient))
    torch.testing.assert_close(split.explained_score, torch.tensor(explained, dtype=torch.float64))
    torch.testing.assert_close(split.chance_generalizable, torch.tensor(chance, dtype=torch.float64))


def test_the_judge_gets_the_model_and_its_interactions(interactions: Interactions) -> None:
    model, asked = nn.Identity(), []

    def judge(*arguments: Any) -> Verdict:
        asked.append(arguments)
        return fixed_verdict(interactions)

    measured_alone = measured_splits(model, {"training": split_of(interactions, judge)}, THRESHOLD)
    assert list(measured_alone) == ["training"]
    assert len(asked) == 1
    assert [id(argument) for argument in asked[0]] == [id(model), id(interactions), id(None)]


def test_each_judge_gets_the_interactions_of_the_other_split(interactions: Interactions) -> None:
    other, asked = Interactions(*(2 * tensor for tensor in vars(interactions).values())), []

    def judge(_model: nn.Module, judged: Interactions, counterpart: Interactions | None = None) -> Verdict:
        asked.append((judged, counterpart))
        return fixed_verdict(judged)

    splits = {"training": split_of(interactions, judge), "held-out": split_of(other, judge)}
    measured_both = measured_splits(nn.Identity(), splits, THRESHOLD)
    assert [[id(part) for part in pair] for pair in asked] == [[id(interactions), id(other)], [id(other), id(interactions)]]
    torch.testing.assert_close(measured_both["held-out"].full_score, 2 * measured_both["training"].full_score)


def test_numbers_are_kept_in_double_precision_without_gradients(interactions: Interactions) -> None:
    single = Interactions(*(tensor.float().requires_grad_() for tensor in vars(interactions).values()))
    split = measured(
        single,
        lambda _model, judged, _counterpart: with_peers(
            Verdict(*(w.float() for w in (fixed_verdict(judged).weights, fixed_verdict(judged).chance_weights))), 0.5
        ),
    )
    tensors = [*vars(split.strength).values(), *(value for value in vars(split).values() if isinstance(value, Tensor))]
    assert len(tensors) == 11
    assert all(tensor.dtype == torch.float64 and not tensor.requires_grad for tensor in tensors)


def test_an_input_of_nan_is_left_out_of_the_split_and_changes_no_other(interactions: Interactions) -> None:
    verdict = fixed_verdict(interactions)
    whole = measured(interactions, lambda _model, _interactions, _counterpart: verdict)
    broken = Interactions(*(tensor.clone() for tensor in vars(interactions).values()))
    for tensor in vars(broken).values():
        tensor[1] = torch.nan
    split = measured(broken, lambda _model, _interactions, _counterpart: verdict)
    others = [0, 2, 3, 4]
    assert split.measured.tolist() == [True, False, True, True, True]
    for name in (
        "empty_score",
        "full_score",
        "explained_score",
        "loss",
        "explained_loss",
        "unseen_loss",
        "chance_generalizable",
    ):
        assert getattr(split, name)[1].isnan()
        assert torch.equal(getattr(split, name)[others], getattr(whole, name)[others])
    for name in vars(split.strength):
        assert getattr(split.strength, name)[1].isnan().all()
        assert torch.equal(getattr(split.strength, name)[others], getattr(whole.strength, name)[others])


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), CrossEntropy([1.0, 2.0, 1.0, 0.5, 3.0], 0.1), SquaredError()], ids=["plain", "weighted", "squared"]
)
def test_losses_are_those_of_full_and_explained_score(interactions: Interactions, loss: Loss) -> None:
    verdict = fixed_verdict(interactions)
    split = split_of(interactions, lambda _model, _interactions, _counterpart: verdict, loss)
    found = measured_splits(nn.Identity(), {"training": split}, THRESHOLD)["training"]
    assert torch.equal(found.loss, loss(found.full_score, split.targets))
    assert torch.equal(found.explained_loss, loss(found.explained_score, split.targets))
    assert summarise(found).loss == found.loss.mean().item()


def test_an_unknown_loss_is_nan_and_all_else_is_measured(interactions: Interactions) -> None:
    verdict = fixed_verdict(interactions)
    split = split_of(interactions, lambda _model, _interactions, _counterpart: verdict, loss=None)
    found = measured_splits(nn.Identity(), {"training": split}, THRESHOLD)["training"]
    assert found.loss.isnan().all()
    assert found.explained_loss.isnan().all()
    assert found.measured.all()
    summary = asdict(summarise(found))
    assert [name for name, number in summary.items() if math.isnan(number)] == ["loss", "unseen_loss"]
    assert found.unseen_loss.isnan().all()


def test_an_input_that_the_evidence_cannot_judge_is_left_out(interactions: Interactions) -> None:
    verdict = fixed_verdict(interactions)
    whole = measured(interactions, lambda _model, _interactions, _counterpart: verdict)
    verdict.weights[3] = torch.nan
    split = measured(interactions, lambda _model, _interactions, _counterpart: verdict)
    others = [0, 1, 2, 4]
    assert split.measured.tolist() == [True, True, True, False, True]
    assert split.loss[3].isnan()
    assert torch.equal(split.loss[others], whole.loss[others])
    assert split.unseen_loss.isnan().tolist() == split.loss.isnan().tolist()
    summary = asdict(summarise(split))
    assert summary["left_out"] == 1
    assert all(math.isfinite(number) for number in summary.values())


# What an input is expected to cost that was not trained on


def unseen_loss(interactions: Interactions, verdict: Verdict, loss: Loss | None = CrossEntropy()) -> SplitMeasurement:  # noqa: B008
    split = split_of(interactions, lambda _model, _interactions, _counterpart: verdict, loss)
    return measured_splits(nn.Identity(), {"training": split}, THRESHOLD)["training"]


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()], ids=["cross-entropy", "squared"])
def test_the_unseen_loss_is_the_mean_over_a_random_score_of_what_does_not_generalize(
    interactions: Interactions, loss: Loss
) -> None:
    verdict = fixed_verdict(interactions)
    split = unseen_loss(interactions, verdict, loss)
    strength = oracles.strength_by_order(interactions, verdict.weights, THRESHOLD).non_generalizable.sum(dim=(1, 2, 3))
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # In pairs of opposite sign, which is exact for what is linear in the score.
    noise = torch.cat([noise, -noise])
    scores = split.explained_score + UNSEEN_SPREAD * strength * noise
    losses = F.softplus(-scores) if isinstance(loss, CrossEntropy) else (scores - torch.arange(NUM_INPUTS)).square()
    torch.testing.assert_close(split.unseen_loss, losses.mean(dim=0), rtol=0.02, atol=1e-3)
    assert bool((split.unseen_loss >= split.explained_loss).all())


def test_the_unseen_squared_error_is_exact(interactions: Interactions) -> None:
    verdict = fixed_verdict(interactions)
    split = unseen_loss(interactions, verdict, SquaredError())
    strength = oracles.strength_by_order(interactions, verdict.weights, THRESHOLD).non_generalizable.sum(dim=(1, 2, 3))
    torch.testing.assert_close(split.unseen_loss, split.explained_loss + (UNSEEN_SPREAD * strength).square())


def test_where_all_generalizes_the_unseen_loss_is_the_loss(interactions: Interactions) -> None:
    everything = torch.ones_like(interactions.effects)
    split = unseen_loss(interactions, Verdict(everything, everything))
    torch.testing.assert_close(split.unseen_loss, split.loss)


def test_many_small_effects_with_random_signs_cost_what_their_root_of_squares_says() -> None:
    # Twenty-five equal effects: with signs at random their sum has a spread of a fifth of their strength, as is assumed.
    effects = torch.zeros(1, 2, 16, dtype=torch.float64)
    effects.flatten()[[*range(1, 16), *range(17, 27)]] = 0.4
    interactions = Interactions(effects[:, 0], effects[:, 1], torch.tensor([0.3], dtype=torch.float64))
    nothing = torch.zeros_like(effects)
    split = unseen_loss(interactions, Verdict(nothing, nothing))
    signs = 2.0 * torch.randint(2, (200_000, 25), generator=torch.Generator().manual_seed(0)) - 1
    expected = F.softplus(-(0.3 + 0.4 * signs.sum(dim=1))).mean().item()
    assert split.unseen_loss.item() == pytest.approx(expected, rel=0.01)
    assert split.unseen_loss.item() > split.explained_loss.item() == pytest.approx(math.log1p(math.exp(-0.3)))


def test_scores_of_other_models_are_kept_where_the_loss_is_a_cross_entropy(interactions: Interactions) -> None:
    verdict = with_peers(fixed_verdict(interactions), -2.5)
    assert unseen_loss(interactions, verdict).peer_score.tolist() == [-2.5] * NUM_INPUTS
    assert unseen_loss(interactions, verdict, SquaredError()).peer_score.isnan().all()
    assert unseen_loss(interactions, verdict, None).peer_score.isnan().all()
    assert unseen_loss(interactions, fixed_verdict(interactions)).peer_score.isnan().all()


# The summary


def test_the_unseen_loss_of_the_summary_leaves_out_contradicted_labels_and_what_was_not_measured() -> None:
    ones = torch.ones(4)
    g = torch.tensor([1.0, 1.0, 1.0, math.nan])
    peers = torch.tensor([0.0, -2.0, math.nan, 0.0])
    unseen = torch.tensor([1.0, 50.0, 3.0, 50.0])
    split = split_measurement(g, ones, torch.zeros(4), unseen_loss=unseen, peer_score=peers)
    assert summarise(split).unseen_loss == pytest.approx(2)
    assert summarise(split).loss == pytest.approx(math.log(2))
    nobody_right = replace(split, peer_score=torch.full((4,), -2.0, dtype=torch.float64))
    assert math.isnan(summarise(nobody_right).unseen_loss)


def test_the_summary_of_known_strengths() -> None:
    g, u = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
    excess = torch.tensor([0.2, -0.1], dtype=torch.float64)
    summary = summarise(split_measurement(g, u, excess, chance=0.2))
    full_score = -torch.expm1(excess + math.log(2)).log()
    assert summary.loss == pytest.approx(math.log(2) + 0.05)
    assert summary.generalizable == pytest.approx(2)
    assert summary.non_generalizable == pytest.approx(2)
    assert summary.non_salient == pytest.approx(NON_SALIENT)
    assert summary.share == pytest.approx(0.5)
    assert summary.share_chance == pytest.approx(0.2)
    assert summary.share_above_chance == pytest.approx((0.5 - 0.2) / (1 - 0.2))
    # G lies at orders 1 and 2 (3:1), U at orders 2 and 3 (1:3).
    assert summary.mean_order == pytest.approx((4 * 1.25 + 4 * 2.75) / 8)
    moved = (full_score - EMPTY_SCORE).abs().mean().item()
    assert summary.cancellation == pytest.approx((4 + NON_SALIENT) / moved)
    assert summary.left_out == 0


def test_the_share_is_a_ratio_of_means() -> None:
    g, u = torch.tensor([9.0, 0.0]), torch.tensor([0.0, 1.0])
    # The mean of the two shares would be 0.5.
    assert summarise(split_measurement(g, u, torch.zeros(2))).share == pytest.approx(0.9)


def test_left_out_inputs_do_not_count_in_the_summary() -> None:
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    expected = asdict(summarise(split_measurement(g[:4], u[:4], excess[:4])))
    g[4:] = torch.nan
    summary = asdict(summarise(split_measurement(g, u, excess)))
    assert summary.pop("left_out") == 2
    assert expected.pop("left_out") == 0
    assert summary == pytest.approx(expected)
    assert all(math.isfinite(number) for number in summary.values())


def test_a_summary_of_nothing_is_nan() -> None:
    nothing = torch.full((3,), torch.nan)
    summary = asdict(summarise(split_measurement(nothing, nothing, nothing)))
    assert summary.pop("left_out") == 3
    assert all(math.isnan(number) for number in summary.values())


def test_a_model_without_salient_interactions_has_no_share() -> None:
    summary = summarise(split_measurement(torch.zeros(2), torch.zeros(2), torch.zeros(2)))
    assert summary.generalizable == summary.non_generalizable == 0
    assert math.isnan(summary.share)
    assert math.isnan(summary.mean_order)
    assert math.isfinite(summary.loss)


def test_summaries_hold_plain_numbers() -> None:
    summary = asdict(summarise(split_measurement(torch.ones(2), torch.ones(2), torch.zeros(2))))
    assert {type(number) for number in summary.values()} == {int, float}


# Both splits


def scores_only(full: list[float], explained: list[float]) -> SplitMeasurement:
    split = held_out_split(torch.zeros(len(full)))
    return replace(
        split,
        full_score=torch.tensor(full, dtype=torch.float64),
        explained_score=torch.tensor(explained, dtype=torch.float64),
        loss=F.softplus(-torch.tensor(full, dtype=torch.float64)),
        explained_loss=F.softplus(-torch.tensor(explained, dtype=torch.float64)),
    )


def test_the_gaps_of_two_splits_by_hand() -> None:
    training, held_out = scores_only([3.0, 1.0], [2.0, 1.0]), scores_only([0.5, -2.0, 1.0], [0.5, 0.0, 1.5])
    measurement = combine_splits(training, held_out, epoch=4, global_step=40, seconds=0.5)

    def mean_loss(scores: Tensor) -> float:
        return F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores)).item()

    loss_gap = mean_loss(held_out.full_score) - mean_loss(training.full_score)
    remaining_gap = mean_loss(held_out.explained_score) - mean_loss(training.explained_score)
    assert measurement.loss_gap == pytest.approx(loss_gap)
    assert measurement.remaining_gap == pytest.approx(remaining_gap)
    assert measurement.excess_gap == pytest.approx(loss_gap - remaining_gap)
    assert loss_gap > remaining_gap > 0
    assert (measurement.epoch, measurement.global_step, measurement.seconds) == (4, 40, 0.5)
    assert measurement.training is training
    assert measurement.held_out is held_out
    assert measurement.training_summary == summarise(training)
    assert measurement.held_out_summary == summarise(held_out)
    assert measurement.loss_gap == pytest.approx(measurement.held_out_summary.loss - measurement.training_summary.loss)


def test_the_excess_gap_is_what_the_excess_losses_differ_by() -> None:
    training = split_measurement(torch.ones(2), torch.ones(2), torch.tensor([-0.1, -0.3]))
    measurement = combine_splits(training, held_out_split(torch.tensor([0.4, 0.2])), epoch=0, global_step=0, seconds=0.0)
    assert measurement.excess_gap == pytest.approx(0.3 - -0.2)
    assert measurement.remaining_gap == pytest.approx(0)
    assert EXPLAINED_SCORE == 0


def test_left_out_inputs_do_not_count_in_the_gaps() -> None:
    training = split_measurement(torch.ones(3), torch.ones(3), torch.tensor([0.1, 0.1, torch.nan]))
    held_out = held_out_split(torch.tensor([torch.nan, 0.3]))
    measurement = combine_splits(training, held_out, epoch=0, global_step=0, seconds=0.0)
    assert measurement.loss_gap == pytest.approx(0.2)
    assert measurement.excess_gap == pytest.approx(0.2)


def test_without_held_out_probes_there_are_no_gaps() -> None:
    training = split_measurement(torch.ones(2), torch.ones(2), torch.zeros(2))
    measurement = combine_splits(training, None, epoch=1, global_step=10, seconds=0.5)
    assert measurement.held_out is None
    assert measurement.held_out_summary is None
    assert math.isnan(measurement.loss_gap)
    assert math.isnan(measurement.remaining_gap)
    assert math.isnan(measurement.excess_gap)
    assert isinstance(measurement.training.strength, OrderStrength)


def test_intervals_are_those_of_the_splits_and_gaps() -> None:
    training = split_measurement(*torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    held_out = held_out_split(torch.rand(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    measurement = combine_splits(training, held_out, epoch=0, global_step=0, seconds=0.0)
    assert measurement.training_intervals.share == split_intervals(training).share
    assert measurement.held_out_intervals is not None
    assert measurement.held_out_intervals.loss == split_intervals(held_out).loss
    for name, expected in zip(("loss_gap", "remaining_gap", "excess_gap"), gap_intervals(training, held_out), strict=True):
        interval = getattr(measurement, f"{name}_interval")
        assert interval == expected
        assert interval.low <= getattr(measurement, name) <= interval.high
    assert measurement.loss_unit == "nats"


def test_without_held_out_probes_the_gaps_have_no_intervals() -> None:
    training = split_measurement(torch.ones(2), torch.ones(2), torch.zeros(2))
    measurement = combine_splits(training, None, epoch=1, global_step=10, seconds=0.5, loss_unit="")
    assert measurement.held_out_intervals is None
    assert math.isnan(measurement.excess_gap_interval.low)
    assert measurement.loss_unit == ""
