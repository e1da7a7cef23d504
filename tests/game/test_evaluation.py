import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.evaluation import Game, call_model, evaluate_coalitions
from lightning_interactions.game.players import FeatureGroups, ImagePatches
from lightning_interactions.game.scores import log_odds, prediction
from lightning_interactions.records import Probes

NUM_INPUTS, NUM_PLAYERS, NUM_CLASSES = 3, 4, 3


@pytest.fixture
def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Linear(NUM_PLAYERS, 8), nn.Tanh(), nn.Linear(8, NUM_CLASSES))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(generator=generator)
    return layers.eval()


@pytest.fixture
def game() -> Game:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(NUM_INPUTS, NUM_PLAYERS, generator=generator)
    baseline = torch.randn(NUM_PLAYERS, generator=generator)
    return Game(Probes(inputs, torch.tensor([0, 2, 1])), FeatureGroups(), baseline)


def naive_values(model: nn.Module, game: Game) -> list[list[float]]:
    """One input, one coalition, one forward at a time; bit i of the index is player i."""
    rows = []
    for features, target in zip(game.probes.inputs.tolist(), game.probes.targets.tolist(), strict=True):
        row = []
        for index in range(2 ** len(features)):
            masked = [
                feature if index >> player & 1 else float(game.baseline[player]) for player, feature in enumerate(features)
            ]
            logits = model(torch.tensor([masked]))[0].tolist()
            others = [math.exp(logit) for label, logit in enumerate(logits) if label != target]
            row.append(logits[target] - math.log(sum(others)))
        rows.append(row)
    return rows


class Recorder(nn.Module):
    """Passes inputs on to a function and keeps how many came at a time."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function
        self.batches: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        return self.function(inputs)


def as_score(outputs: Tensor, _targets: Tensor) -> Tensor:
    return outputs


# Values


@pytest.mark.parametrize("batch_size", [1, 5, 16, 48, 1024])
def test_values_are_those_of_a_loop_over_coalitions(network: nn.Module, game: Game, batch_size: int) -> None:
    recorder = Recorder(network)
    values = evaluate_coalitions(recorder, replace(game, batch_size=batch_size))
    torch.testing.assert_close(values, torch.tensor(naive_values(network, game)), rtol=1e-4, atol=1e-5)
    total = NUM_INPUTS * 2**NUM_PLAYERS
    assert sum(recorder.batches) == total
    assert len(recorder.batches) == math.ceil(total / batch_size)
    assert max(recorder.batches) <= batch_size


def test_values_of_images_are_those_of_a_loop_over_coalitions() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    game = Game(Probes(images, torch.tensor([0, 1])), ImagePatches(2, 2), torch.tensor(0.5).double(), batch_size=3)
    values = evaluate_coalitions(Recorder(lambda x: (x * weight).sum(dim=(1, 2, 3)).tanh()), game)
    patches = [(slice(0, 3), slice(0, 2)), (slice(0, 3), slice(2, 4)), (slice(3, 5), slice(0, 2)), (slice(3, 5), slice(2, 4))]
    for i, sign in enumerate((-1, 1)):
        for index in range(16):
            masked = torch.full_like(images[i], 0.5)
            for player, (rows, cols) in enumerate(patches):
                if index >> player & 1:
                    masked[:, rows, cols] = images[i, :, rows, cols]
            assert values[i, index].item() == pytest.approx(sign * math.tanh(float((masked * weight).sum())), abs=1e-12)


def test_equal_masked_versions_are_evaluated_once(network: nn.Module, game: Game) -> None:
    inputs = game.probes.inputs.clone()
    inputs[0, [1, 3]] = game.baseline[[1, 3]]
    inputs[2] = game.baseline
    game = replace(game, probes=Probes(inputs, game.probes.targets), batch_size=7)
    recorder = Recorder(network)
    values = evaluate_coalitions(recorder, game)
    assert sum(recorder.batches) == 2**2 + 2**4 + 1
    torch.testing.assert_close(values, torch.tensor(naive_values(network, game)), rtol=1e-4, atol=1e-5)
    # A player that is never seen to change anything changes nothing at all, not even by rounding.
    without = torch.arange(16) & ~0b1010
    assert torch.equal(values[0], values[0, without])


def test_an_input_that_is_not_a_number_is_evaluated_in_full(network: nn.Module, game: Game) -> None:
    inputs = game.probes.inputs.clone()
    inputs[1, 2] = math.nan
    recorder = Recorder(network)
    evaluate_coalitions(recorder, replace(game, probes=Probes(inputs, game.probes.targets)))
    assert sum(recorder.batches) == NUM_INPUTS * 2**NUM_PLAYERS


def test_the_first_value_is_fully_masked_and_the_last_unmasked(network: nn.Module, game: Game) -> None:
    values = evaluate_coalitions(network, game)
    inputs, targets = game.probes.inputs, game.probes.targets
    masked = log_odds(network(game.baseline.expand_as(inputs)), targets)
    torch.testing.assert_close(values[:, 0], masked, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(values[:, -1], log_odds(network(inputs), targets), rtol=1e-5, atol=1e-6)


def test_bits_of_the_index_are_players(game: Game) -> None:
    game = replace(game, baseline=torch.zeros(()), score=as_score)
    values = evaluate_coalitions(Recorder(lambda x: x.sum(dim=1)), game)
    for player in range(NUM_PLAYERS):
        torch.testing.assert_close(values[:, 2**player], game.probes.inputs[:, player])


def test_every_input_is_scored_against_its_own_target(network: nn.Module, game: Game) -> None:
    values = evaluate_coalitions(network, game)
    other = replace(game, probes=Probes(game.probes.inputs, torch.tensor([0, 1, 1])))
    differs = (evaluate_coalitions(network, other) != values).all(dim=1)
    assert differs.tolist() == [False, True, False]


def test_outputs_that_are_not_finite_are_kept(game: Game) -> None:
    game = replace(game, baseline=torch.zeros(()), score=as_score)
    broken = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    values = evaluate_coalitions(Recorder(lambda x: torch.where(x != 0, broken, 0.0).sum(dim=1)), game)
    assert values[:, 1].isnan().all()
    assert values[:, 2].tolist() == [math.inf] * 3
    assert values[:, 4].tolist() == [-math.inf] * 3
    assert values[:, [0, 8]].eq(0).all()


@pytest.mark.parametrize(
    ("outputs", "values"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_narrow_outputs_are_scored_in_float32(game: Game, outputs: torch.dtype, values: torch.dtype) -> None:
    logits = torch.tensor([[0.1, 1.3, -2.7]])
    model = Recorder(lambda x: logits.expand(len(x), -1).to(outputs))
    evaluated = evaluate_coalitions(model, game)
    assert evaluated.dtype == values
    expected = log_odds(logits.to(outputs).to(values).expand(NUM_INPUTS, -1), game.probes.targets)
    torch.testing.assert_close(evaluated, expected[:, None].expand(-1, 16), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_inputs_give_no_values(network: nn.Module, game: Game, dtype: torch.dtype) -> None:
    empty = Game(Probes(torch.zeros(0, NUM_PLAYERS, dtype=dtype), torch.zeros(0)), FeatureGroups(), game.baseline)
    values = evaluate_coalitions(network, empty)
    assert values.shape == (0, 2**NUM_PLAYERS)
    assert values.dtype == dtype


def test_the_model_is_used_as_it_is_and_without_gradients(network: nn.Module, game: Game) -> None:
    for training in (True, False):
        network.train(training)
        assert not evaluate_coalitions(network, game).requires_grad
        assert all(module.training == training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


# Given coalitions


def test_given_masks_are_evaluated_in_their_order(network: nn.Module, game: Game) -> None:
    index = [5, 0, 15, 5]
    masks = coalition_masks(NUM_PLAYERS)[index]
    recorder = Recorder(network)
    values = replace(game, batch_size=5).values(recorder, masks)
    torch.testing.assert_close(values, game.values(network)[:, index])
    assert recorder.batches == [5, 4]  # One of the coalitions is there twice.


def test_sixty_four_players_can_be_masked() -> None:
    inputs = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    players = FeatureGroups([[column] for column in range(64)])
    game = Game(Probes(inputs, torch.zeros(2)), players, torch.zeros(()), score=as_score)
    masks = torch.eye(64, dtype=torch.bool)
    values = evaluate_coalitions(Recorder(lambda x: x.sum(dim=1)), game, torch.cat([masks, ~masks]))
    expected = torch.cat([inputs, inputs.sum(dim=1, keepdim=True) - inputs], dim=1)
    torch.testing.assert_close(values, expected)


def test_no_masks_give_no_values(network: nn.Module, game: Game) -> None:
    assert game.values(network, torch.zeros(0, NUM_PLAYERS, dtype=torch.bool)).shape == (NUM_INPUTS, 0)


@pytest.mark.parametrize("masks", [torch.ones(3, 5, dtype=torch.bool), torch.ones(4, dtype=torch.bool), torch.ones(3, 4)])
def test_masks_that_do_not_fit_are_an_error(network: nn.Module, game: Game, masks: Tensor) -> None:
    with pytest.raises(ValueError, match=r"boolean masks \[coalitions, 4\], one column a player, got .* draw_coalitions"):
        evaluate_coalitions(network, game, masks)


# The adapter and the errors


def test_forward_finds_the_logits(network: nn.Module, game: Game) -> None:
    expected = evaluate_coalitions(network, game)
    wrapped = Recorder(lambda x: {"logits": network(x)})
    adapted = replace(game, forward=lambda model, inputs: model(inputs)["logits"])
    assert torch.equal(evaluate_coalitions(wrapped, adapted), expected)


def test_without_an_adapter_the_output_is_refused_by_name(network: nn.Module, game: Game) -> None:
    with pytest.raises(ValueError, match="got tuple"):
        evaluate_coalitions(Recorder(lambda x: (network(x), None)), game)


def test_call_model_calls_the_model(network: nn.Module, game: Game) -> None:
    assert torch.equal(call_model(network, game.probes.inputs), network(game.probes.inputs))


# Games


def test_a_game_knows_its_number_of_players(game: Game) -> None:
    assert game.num_players == NUM_PLAYERS
    assert replace(game, players=FeatureGroups([[0, 1], [2, 3]])).num_players == 2


def test_selected_rows_are_the_same_game_in_their_order(network: nn.Module, game: Game) -> None:
    selected = game.select([2, 0])
    assert torch.equal(selected.probes.inputs, game.probes.inputs[[2, 0]])
    assert selected.probes.targets.tolist() == [1, 0]
    torch.testing.assert_close(selected.values(network), game.values(network)[[2, 0]])
    assert len(game.probes) == NUM_INPUTS
    assert replace(selected, probes=game.probes) == game


def test_no_rows_can_be_selected(network: nn.Module, game: Game) -> None:
    assert game.select([]).values(network).shape == (0, 2**NUM_PLAYERS)


def test_full_precision_shuts_autocast_out(network: nn.Module, game: Game) -> None:
    expected = game.values(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(game.values(network), expected)
        rounded = replace(game, full_precision=False).values(network)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, expected)
    torch.testing.assert_close(rounded, expected, rtol=0.1, atol=0.3)


# Other targets


def test_every_input_gets_different_targets_of_other_probes(game: Game) -> None:
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 0, 3, 0, 0])
    game = replace(game, probes=Probes(torch.randn(10, NUM_PLAYERS), targets))
    others = game.with_other_targets()
    assert len(others) == 3
    for other in others:
        assert torch.equal(other.probes.inputs, game.probes.inputs)
        assert (other.probes.targets != targets).all()
        assert replace(other, probes=game.probes) == game
    # All other targets have their turn, also where one of them is the most frequent.
    assert {int(target) for other in others for target in other.probes.targets[targets == 0]} == {1, 2, 3}


@pytest.mark.parametrize(
    ("targets", "num_games"),
    [([0, 1, 1, 0], 1), ([2, 2, 2], 0), ([4], 0), ([], 0), ([0, 1, 2], 2), ([0.5, 0.1, 0.7, 0.2, 0.9], 3)],
)
@pytest.mark.parametrize("column", [False, True])
def test_there_are_no_more_games_than_other_targets(game: Game, targets: list[float], num_games: int, column: bool) -> None:
    tensor = torch.tensor(targets)[:, None] if column else torch.tensor(targets)
    others = replace(game, probes=Probes(torch.zeros(len(targets), NUM_PLAYERS), tensor)).with_other_targets()
    assert len(others) == num_games
    for other in others:
        assert other.probes.targets.shape == tensor.shape
        assert (other.probes.targets != tensor).all()


def test_a_prediction_does_not_depend_on_targets_so_there_are_no_other_ones(game: Game) -> None:
    targets = torch.tensor([0.5, 0.1, 0.7])
    assert replace(game, probes=Probes(torch.zeros(3, NUM_PLAYERS), targets), score=prediction).with_other_targets() == []


def test_targets_may_be_vectors(game: Game) -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    (other,) = replace(game, probes=Probes(game.probes.inputs, targets)).with_other_targets()
    assert torch.equal(other.probes.targets, 1 - targets)


@pytest.mark.parametrize(("num_players", "masked"), [(31, False), (65, True)])
def test_more_players_than_can_be_numbered_are_refused(network: nn.Module, num_players: int, masked: bool) -> None:
    probes = Probes(torch.randn(2, num_players), torch.zeros(2))
    game = Game(probes, FeatureGroups([[column] for column in range(num_players)]), torch.zeros(()))
    masks = torch.ones(3, num_players, dtype=torch.bool) if masked else None
    with pytest.raises(ValueError, match=f"got {num_players}; group players, or draw coalitions"):
        evaluate_coalitions(network, game, masks)
