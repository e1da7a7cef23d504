"""A model and a batch become values: the score of the model on every masked version of every input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.game.players.protocol import Players
from lightning_interactions.game.scores import Score, log_odds
from lightning_interactions.records import Probes

__all__ = ["Forward", "Game", "call_model", "evaluate_coalitions"]

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
            max_games: Number of games; there are fewer if there are fewer different targets, and none if all are equal.
        """
        targets = self.probes.targets.flatten().tolist()
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

    def values(self, model: nn.Module) -> Float[Tensor, "inputs coalitions"]:
        """Evaluate a model on every coalition of every input; see :func:`evaluate_coalitions`."""
        if not self.full_precision:
            return evaluate_coalitions(model, self)
        with full_precision(self.probes.inputs.device):
            return evaluate_coalitions(model, self)


@torch.no_grad()
def evaluate_coalitions(model: nn.Module, game: Game) -> Float[Tensor, "inputs coalitions"]:
    """Score all ``2^n`` masked versions of every input, in batches that run across inputs.

    Masked versions of an input that are equal are evaluated once. The model is used in the mode that it is in; put it into
    evaluation mode first.

    Args:
        model: Any module that ``game.forward`` can run.
        game: Inputs, players, baseline value and score.

    Returns:
        Values ``v(T)`` of shape ``[inputs, 2^n]``, float32 or the model's wider dtype; NaN and infinity are kept.

    Raises:
        ValueError: If the players do not fit the inputs, or the outputs or targets do not fit the score.
    """
    inputs, targets = game.probes.inputs, game.probes.targets
    masks = coalition_masks(game.num_players, inputs.device)
    if not len(inputs):
        return torch.zeros(0, len(masks), dtype=torch.promote_types(inputs.dtype, torch.float32), device=inputs.device)
    canonical = _canonical_coalitions(game)
    rows, coalitions = (canonical == torch.arange(len(masks), device=inputs.device)).nonzero(as_tuple=True)
    scores = []
    for own_rows, own_coalitions in zip(rows.split(game.batch_size), coalitions.split(game.batch_size), strict=True):
        masked = game.players.mask(inputs[own_rows], masks[own_coalitions], game.baseline)
        outputs = game.forward(model, masked)
        outputs = outputs.float() if isinstance(outputs, Tensor) and outputs.dtype.itemsize < 4 else outputs
        scores.append(game.score(outputs, targets[own_rows]))
    values = scores[0].new_empty(canonical.shape)
    values[rows, coalitions] = torch.cat(scores)
    return values.gather(1, canonical)


def _canonical_coalitions(game: Game) -> Int[Tensor, "inputs coalitions"]:
    """For each coalition, the largest one with the very same masked input.

    A player that already has its baseline value, such as a patch of black background, may as well stay: masking it
    changes nothing. An input with ``k`` such players has only ``2^(n-k)`` different masked versions.
    """
    inputs = game.probes.inputs
    players = torch.arange(game.num_players, device=inputs.device)
    unchanged = []
    for player in players:
        masked = game.players.mask(inputs, (players != player).expand(len(inputs), -1), game.baseline)
        unchanged.append((masked == inputs).flatten(1).all(dim=1))
    always_there = (torch.stack(unchanged, dim=1) * 2**players).sum(dim=1, keepdim=True)
    return torch.arange(2 ** len(players), device=inputs.device) | always_there
