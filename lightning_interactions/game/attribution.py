"""A first cheap attribution: what each of many players is worth alone, to choose some of them."""

import torch
from torch import Tensor, nn

from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import Masking, Some
from lightning_interactions.records import Rows

__all__ = ["choose_players"]


def choose_players(game: Game, model: nn.Module) -> None:
    """Choose players of every input by leave-one-out scores, where the players ask for that.

    It costs a forward of all inputs for each of the many players, and one more.

    Args:
        game: The game, whose players are told the scores ``v(N) - v(N without i)`` of each input.
        model: The model that is measured, in evaluation mode.
    """
    players = game.players
    if not isinstance(players, Some) or not players.needs_scores:
        return
    with torch.no_grad(), game.forwards():
        for group in game.probes.groups:
            masking = players.players.masking(*game.converted(model, group.inputs))
            every = range(players.players.num_players(masking.inputs))
            without = [_score(game, model, masking, group.targets, player) for player in (None, *every)]
            players.choose(group.inputs, torch.stack([without[0] - one for one in without[1:]], dim=1))


def _score(game: Game, model: nn.Module, masking: Masking, targets: Rows, without: int | None) -> Tensor:
    """Score all inputs without one of the many players, or with all of them."""
    inputs = masking.inputs
    stay = torch.ones(len(inputs), masking.players.num_players(inputs), dtype=torch.bool, device=inputs.device)
    if without is not None:
        stay[:, without] = False
    return game.task.scores(model, masking.masked(torch.arange(len(inputs)), stay).tree, targets.tree)
