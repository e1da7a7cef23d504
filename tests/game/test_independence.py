"""Scores of rows alone and together."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.attribution import choose_players
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.independence import CompanyError, needs_rows_alone
from lightning_interactions.game.players import ByAttribution, FeatureGroups, Some
from lightning_interactions.game.tasks import Classification, Regression
from lightning_interactions.records import Probes


class OverBatch(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.net(x))


def game_of(num_rows: int = 5) -> Game:
    torch.manual_seed(0)
    probes = Probes.of((torch.randn(num_rows, 3), torch.arange(num_rows) % 3))
    return Game(probes, FeatureGroups(), {"": torch.zeros(())}, Classification())


def test_rows_that_do_not_depend_on_others_may_be_scored_together() -> None:
    assert needs_rows_alone(game_of(), OverBatch(torch.tanh).eval()) == ""


@pytest.mark.parametrize("num_rows", [1, 5])
def test_rows_that_depend_on_others_are_scored_alone(num_rows: int) -> None:
    reason = needs_rows_alone(game_of(num_rows), OverBatch(lambda z: z + 0.5 * z.mean(0)).eval())
    assert "batch norm" in reason


def test_random_scores_are_not_taken_for_dependent_ones() -> None:
    assert needs_rows_alone(game_of(), OverBatch(lambda z: F.dropout(z, training=True)).eval()) == ""


@pytest.mark.parametrize("function", [lambda z: z - z.mean(0), lambda z: F.batch_norm(z, None, None, training=True)])
def test_rows_that_mean_nothing_alone_are_refused(function: Any) -> None:
    with pytest.raises(CompanyError):
        needs_rows_alone(game_of(), OverBatch(function).eval())


def test_players_are_chosen_by_what_is_lost_without_them() -> None:
    weights = torch.tensor([[0.1, 3.0, 0.2, -2.0, 0.3]])
    model = nn.Linear(5, 1, bias=False)
    model.weight.data = weights
    inputs = torch.ones(2, 5) * torch.tensor([[1.0], [2.0]])
    inputs[1, 1] = 0.01
    players = Some(FeatureGroups(), 2, ByAttribution())
    game = Game(Probes.of((inputs, torch.zeros(2))), players, {"": torch.zeros(())}, Regression())
    choose_players(game, model)
    values = game.values(model)
    everything = (inputs * weights).sum(1)
    without = [everything[0] - 3.0 + 2.0, everything[1] + 4.0 - 0.6]
    torch.testing.assert_close(values[:, 0], torch.stack(without))
    torch.testing.assert_close(values[:, -1], everything)
