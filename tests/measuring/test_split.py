from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.functional.extraction import extract_interactions
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups, ImagePatches
from lightning_interactions.game.tasks import Classification, Regression
from lightning_interactions.measuring.extraction import Extraction
from lightning_interactions.measuring.split import Ranks, Split
from lightning_interactions.records import Interactions, Probes
from tests.helpers import oracles
from tests.measuring.models import NUM_INPUTS, NUM_PLAYERS, TableModel, table_probes

EXTRACTION = Extraction(batch_size=7, tolerance=1e-3)


@pytest.fixture
def game() -> Game:
    return Game(table_probes(), FeatureGroups(), {"": torch.zeros(()).double()}, Classification(), batch_size=7)


def split_of(game: Game, ranks: Ranks | None = None, chance_level: bool = True) -> Split:
    return Split(game, EXTRACTION, Ranks() if ranks is None else ranks, chance_level)


def summed_over_ranks(
    game: Game, model: nn.Module, num_ranks: int, rows: list[int] | None = None
) -> tuple[list[Interactions], int]:
    """Ask every rank in turn, and add up as a real sum over ranks would; also how often a sum is asked for.

    The first round finds out what each rank contributes, the second gives all of them the sum.
    """
    contributions: list[Tensor] = []

    def contribute(tensor: Tensor) -> Tensor:
        contributions.append(tensor.clone())
        return tensor

    for rank in range(num_ranks):
        split_of(game, Ranks(rank, num_ranks, contribute)).interactions(model, rows)
    total = torch.stack(contributions).sum(dim=0)
    ranks = [Ranks(rank, num_ranks, lambda _own: total) for rank in range(num_ranks)]
    return [split_of(game, one).interactions(model, rows) for one in ranks], len(contributions)


def assert_same(found: Interactions, expected: Interactions) -> None:
    assert len(found) == len(expected)
    assert found.effects.shape == expected.effects.shape
    torch.testing.assert_close(found.effects, expected.effects, rtol=0, atol=1e-3, equal_nan=True)
    torch.testing.assert_close(found.offset, expected.offset, equal_nan=True)


def test_interactions_are_those_of_the_values(game: Game) -> None:
    model = TableModel()
    interactions = split_of(game).interactions(model)
    expected = extract_interactions(game.values(model), tolerance=1e-3)
    assert torch.equal(interactions.effects, expected.effects)
    assert torch.equal(interactions.offset, expected.offset)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 7))])
@pytest.mark.parametrize("broken", [(), (2.0,)], ids=["finite", "one NaN input"])
@pytest.mark.parametrize("rows", [None, [4, 0, 1]], ids=["all", "some"])
def test_dealt_out_over_ranks_they_are_the_same(
    game: Game, num_ranks: int, broken: tuple[float, ...], rows: list[int] | None
) -> None:
    model = TableModel(broken)
    expected = split_of(game).interactions(model, rows)
    by_rank, num_sums = summed_over_ranks(game, model, num_ranks, rows)
    assert num_sums == num_ranks
    for interactions in by_rank:
        assert_same(interactions, expected)
        # Matched exactly, whatever the tolerance of the solver.
        finite = interactions.offset.isfinite()
        assert (~finite).sum() == len(broken)
        values = game.values(model)[slice(None) if rows is None else rows]
        torch.testing.assert_close(oracles.reconstruct_values(interactions)[finite], values[finite], rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_rank_evaluates_its_own_inputs(game: Game, num_ranks: int) -> None:
    for rank in range(num_ranks):
        evaluated: list[float] = []

        class Watched(TableModel):
            def forward(self, inputs: Tensor, evaluated: list[float] = evaluated) -> Tensor:
                evaluated.extend(inputs[:, 0].tolist())
                return super().forward(inputs)

        split_of(game, Ranks(rank, num_ranks)).interactions(Watched())
        own = [float(i + 1) for i in range(NUM_INPUTS) if i % num_ranks == rank]
        assert set(evaluated) == {0.0, *own}
        assert len(evaluated) == len(own) * 2**NUM_PLAYERS


@pytest.mark.parametrize("rows", [[3, 0], [2, 2], []])
def test_some_inputs_can_be_asked_for(game: Game, rows: list[int]) -> None:
    split, model = split_of(game), TableModel()
    everything, some = split.interactions(model), split.interactions(model, rows)
    assert_same(some, everything.select(rows))


def test_inputs_come_in_the_order_asked_for_whatever_group_they_are_in() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 1, size, size, generator=generator) for size in (4, 6)]
    probes = Probes.of(*((one, torch.tensor([0, 1])) for one in images))
    game = Game(probes, ImagePatches(1, 2), {"": torch.zeros(())}, Classification())
    model = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 3))
    everything = split_of(game).interactions(model)
    assert_same(split_of(game).interactions(model, [3, 0, 2, 1]), everything.select([3, 0, 2, 1]))


def test_inputs_with_outputs_that_are_not_finite_get_nan(game: Game) -> None:
    interactions = split_of(game).interactions(TableModel(broken=(2.0, 5.0)))
    expected = split_of(game).interactions(TableModel())
    left_out = torch.tensor([False, True, False, False, True])
    assert interactions.effects[left_out].isnan().all()
    assert interactions.offset[left_out].isnan().all()
    assert_same(interactions.select(~left_out), expected.select(~left_out))


def test_nothing_but_nan_is_nan(game: Game) -> None:
    interactions = split_of(game).interactions(TableModel(broken=(1.0, 2.0, 3.0, 4.0, 5.0)))
    assert interactions.effects.shape == (NUM_INPUTS, 2, 2**NUM_PLAYERS)
    assert interactions.effects.isnan().all()


def test_a_model_without_parameters_is_measured() -> None:
    class Product(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.prod(dim=1)

    game = Game(Probes.of((torch.ones(2, 3), torch.zeros(2))), FeatureGroups(), {"": torch.zeros(())}, Regression())
    interactions = split_of(game).interactions(Product())
    torch.testing.assert_close(interactions.and_effects[:, -1], torch.ones(2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_interactions_have_the_dtype_of_the_probes_whatever_the_models(dtype: torch.dtype) -> None:
    game = Game(Probes.of((torch.ones(2, 3), torch.zeros(2))), FeatureGroups(), {"": torch.zeros(())}, Regression())
    model = nn.Linear(3, 1, dtype=dtype)
    found = split_of(game).interactions(model)
    assert found.effects.dtype == found.offset.dtype == torch.float32
    nobody = split_of(game, Ranks(2, 3)).own_interactions(model)
    assert nobody.effects.shape == (0, 2, 8)
    assert nobody.effects.dtype == torch.float32


def test_other_targets_are_asked_for_the_chance_level_only(game: Game) -> None:
    others = split_of(game).with_other_targets()
    assert [len(other.probes) for other in others] == [NUM_INPUTS] * 2
    own = game.probes.groups[0].targets.tree
    assert all((other.probes.groups[0].targets.tree != own).all() for other in others)
    assert split_of(game, chance_level=False).with_other_targets() == []
    assert split_of(replace(game, task=Regression())).with_other_targets() == []


def test_all_targets_are_evaluated_at_once_and_summed_over_ranks_at_once(game: Game) -> None:
    rows = [4, 0, 1]
    split, evaluated = split_of(game), []

    class Watched(TableModel):
        def forward(self, inputs: Tensor) -> Tensor:
            evaluated.append(len(inputs))
            return super().forward(inputs)

    expected = [one.interactions(TableModel(), rows) for one in (split, *split.with_other_targets())]
    found = split.interactions_with_targets(Watched(), rows)
    assert len(found) == len(expected) == 3
    assert sum(evaluated) == len(rows) * 2**NUM_PLAYERS
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    contributions: list[Tensor] = []
    for rank in range(2):
        ranks = Ranks(rank, 2, lambda own: contributions.append(own.clone()) or own)
        split_of(game, ranks).interactions_with_targets(TableModel(), rows)
    assert len(contributions) == 2
    summed = split_of(game, Ranks(0, 2, lambda _own: sum(contributions))).interactions_with_targets(TableModel(), rows)
    for one, other in zip(summed, expected, strict=True):
        assert_same(one, other)
