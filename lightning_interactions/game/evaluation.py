"""A model and a batch become values: the score of the model on every masked version of every input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_interactions.functional.precision import full_precision
from lightning_interactions.game.players.base import Players
from lightning_interactions.game.scores import Score, log_odds, prediction
from lightning_interactions.records import Probes

__all__ = ["Forward", "Game", "call_model", "evaluate_coalitions"]

MOST_PLAYERS = 64
"""Players whose coalitions an integer can number."""

MOST_PLAYERS_OF_ALL = 30
"""Players of whom all coalitions can be listed at all: a billion."""

Forward = Callable[[nn.Module, Tensor], Tensor]
"""Runs a model on inputs and returns its logits; the second line of an adapter."""


def call_model(model: nn.Module, inputs: Tensor) -> Tensor:
    """Call the model on the inputs as they are."""
    output: Tensor = model(inputs)
    return output


@dataclass(frozen=True)
class Game:
    """Everything but the model that decides the values.

    Attributes:
        probes: Inputs and targets, on the device that the model runs on.
        players: The input variables.
        baseline: Baseline value that broadcasts to one input.
        score: The scalar that is explained.
        forward: How to get logits from a model and inputs.
        batch_size: Masked inputs in one forward pass.
        full_precision: Whether forwards run outside autocast and TF32.
    """

    probes: Probes
    players: Players
    baseline: Tensor
    score: Score = log_odds
    forward: Forward = call_model
    batch_size: int = 1024
    full_precision: bool = True

    @property
    def num_players(self) -> int:
        """Number of players ``n``."""
        return self.players.num_players(self.probes.inputs)

    def select(self, rows: Sequence[int]) -> "Game":
        """Return the same game on some of its inputs."""
        index = torch.tensor(rows, dtype=torch.long, device=self.probes.inputs.device)
        return replace(self, probes=Probes(self.probes.inputs[index], self.probes.targets[index]))

    def with_other_targets(self, max_games: int = 3) -> "list[Game]":
        """Return games on the same inputs, in which each has the target of another probe with a different one.

        Args:
            max_games: Number of games; there are fewer if there are fewer different targets, and none if all are equal or
                the score is a prediction, which does not depend on targets.
        """
        if self.score is prediction:
            return []
        targets = [str(target) for target in self.probes.targets.tolist()]
        num_games = min(max_games, len(set(targets)) - 1)
        # Counted from each probe on, so that no probe lends its target to all.
        circle = [[(own + step) % len(targets) for step in range(1, len(targets))] for own in range(len(targets))]
        others = [[i for i in row if targets[i] != targets[own]] for own, row in enumerate(circle)]
        lenders = ([row[game * len(row) // num_games] for row in others] for game in range(num_games))
        return [replace(self, probes=Probes(self.probes.inputs, self.probes.targets[rows])) for rows in lenders]

    def in_dtype_of(self, model: nn.Module) -> "Game":
        """Return the same game with inputs and baseline value in the model's own floating-point dtype."""
        dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
        if dtype is None or not self.probes.inputs.is_floating_point():
            return self
        probes = Probes(self.probes.inputs.to(dtype), self.probes.targets)
        return replace(self, probes=probes, baseline=self.baseline.to(dtype))

    def check(self, model: nn.Module) -> None:
        """Score the unmasked inputs, to find out early whether model, adapter and labels fit.

        Raises:
            ValueError: If outputs or targets do not fit the score.
        """
        inputs, targets = self.in_dtype_of(model).probes.inputs, self.probes.targets
        with torch.no_grad():
            for rows in torch.arange(len(inputs), device=inputs.device).split(self.batch_size):
                self.score(self.forward(model, inputs[rows]), targets[rows])

    def values(
        self, model: nn.Module, masks: Bool[Tensor, "coalitions players"] | None = None
    ) -> Float[Tensor, "inputs coalitions"]:
        """Evaluate a model on every coalition, or on given ones, of every input; see :func:`evaluate_coalitions`."""
        if not self.full_precision:
            return evaluate_coalitions(model, self, masks)
        with full_precision(self.probes.inputs.device):
            return evaluate_coalitions(model, self, masks)


@torch.no_grad()
def evaluate_coalitions(
    model: nn.Module, game: Game, masks: Bool[Tensor, "coalitions players"] | None = None
) -> Float[Tensor, "inputs coalitions"]:
    """Score masked versions of every input, in batches that run across inputs.

    Masked versions of an input that are equal are evaluated once. The model is used in the mode that it is in; put it into
    evaluation mode first.

    Args:
        model: Any module that ``game.forward`` can run.
        game: Inputs, players, baseline value and score.
        masks: The coalitions of up to 64 players, true for the players that stay; all ``2^n``, in the order of their index,
            if left out, for up to 30.

    Returns:
        Values ``v(T)`` of shape ``[inputs, coalitions]``, float32 or the model's wider dtype; NaN and infinity are kept.

    Raises:
        ValueError: If the players do not fit the inputs, the masks do not fit the players, or the outputs or targets do not
            fit the score.
    """
    inputs, targets, num_players = game.probes.inputs, game.probes.targets, game.num_players
    players = torch.arange(num_players, device=inputs.device)
    if num_players > (MOST_PLAYERS_OF_ALL if masks is None else MOST_PLAYERS):
        raise ValueError(
            f"evaluate_coalitions: expected at most {MOST_PLAYERS_OF_ALL} players for all 2^n coalitions and {MOST_PLAYERS} "
            f"for given masks, got {num_players}; group players, or draw coalitions with draw_coalitions for fit_interactions"
        )
    if masks is None:
        indices = torch.arange(2**num_players, device=inputs.device)
    elif masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != num_players:
        raise ValueError(
            f"evaluate_coalitions: expected boolean masks [coalitions, {num_players}], one column a player, "
            f"got {masks.dtype} of shape {tuple(masks.shape)}; draw_coalitions({num_players}, ...) makes such masks"
        )
    else:
        indices = (masks.to(inputs.device) * (1 << players)).sum(dim=1)
    if not len(inputs) or not len(indices):
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        return torch.zeros(len(inputs), len(indices), dtype=dtype, device=inputs.device)
    # The largest coalition with the very same masked input stands for all of them.
    largest = indices | (_players_at_baseline(game) * (1 << players)).sum(dim=1, keepdim=True)
    different, position = zip(*(row.unique(return_inverse=True) for row in largest), strict=True)
    counts = torch.tensor([len(row) for row in different])
    rows = torch.arange(len(inputs)).repeat_interleave(counts).to(inputs.device)
    scores = []
    for own_rows, coalitions in zip(rows.split(game.batch_size), torch.cat(different).split(game.batch_size), strict=True):
        masked = game.players.mask(inputs[own_rows], (coalitions[:, None] >> players & 1).bool(), game.baseline)
        outputs = game.forward(model, masked)
        outputs = outputs.float() if isinstance(outputs, Tensor) and outputs.dtype.itemsize < 4 else outputs
        scores.append(game.score(outputs, targets[own_rows]))
    by_input = torch.cat(scores).split(counts.tolist())
    return torch.stack([values[own_position] for values, own_position in zip(by_input, position, strict=True)])


def _players_at_baseline(game: Game) -> Bool[Tensor, "inputs players"]:
    """Which players have their baseline value anyway, such as patches of black background: masking them changes nothing."""
    inputs = game.probes.inputs
    players = torch.arange(game.num_players, device=inputs.device)
    unchanged = [
        game.players.mask(inputs, (players != player).expand(len(inputs), -1), game.baseline) == inputs for player in players
    ]
    return torch.stack([same.flatten(1).all(dim=1) for same in unchanged], dim=1)
