"""A model and probes become values: the score of the model on every masked version of every input."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_interactions.functional.precision import full_precision
from lightning_interactions.game.players.base import Players
from lightning_interactions.game.tasks import Task, widened
from lightning_interactions.records import ProbeGroup, Probes, Rows, fingerprints

__all__ = ["Game", "in_dtype_of"]

MOST_PLAYERS = 64
"""Players whose coalitions an integer can number."""

MOST_PLAYERS_OF_ALL = 30
"""Players of whom all coalitions can be listed at all: a billion."""


@dataclass(frozen=True, eq=False)
class Game:
    """Everything but the model that decides the values.

    Attributes:
        probes: Inputs and targets, on the device that the model runs on.
        players: The input variables.
        baseline: Baseline value of each masked tensor, which broadcasts to one row of it.
        task: Runs the model and scores its outputs.
        batch_size: Masked inputs in one forward pass.
        forward_context: In which forwards run, such as an autocast; in the dtype of the weights, without autocast and
            TF32, if ``None``.
    """

    probes: Probes
    players: Players
    baseline: Mapping[str, Tensor]
    task: Task
    batch_size: int = 1024
    forward_context: Callable[[], AbstractContextManager[object]] | None = None

    @property
    def num_players(self) -> int:
        """Number of players ``n``.

        Raises:
            ValueError: If groups of probes have different numbers of players.
        """
        numbers = [self.players.num_players(group.inputs) for group in self.probes.groups]
        if len(set(numbers)) != 1:
            raise ValueError(
                f"players: expected as many players in every group of probes of equal shapes, got {numbers}; choose players "
                "whose number does not depend on the size of an input"
            )
        return numbers[0]

    def select(self, rows: Tensor | Sequence[int]) -> "Game":
        """Return the same game on some of its inputs."""
        return replace(self, probes=self.probes.select(rows))

    def with_other_targets(self, max_games: int = 3) -> "list[Game]":
        """Return games on the same inputs, in which each has the target of another probe with a different one.

        Args:
            max_games: Number of games; there are fewer if there are fewer different targets, and none if all are equal, have
                different shapes, or the score does not depend on targets.
        """
        groups = self.probes.groups
        if not self.task.score_depends_on_targets or len({group.targets.kind for group in groups}) > 1:
            return []
        targets = groups[0].targets.join([group.targets for group in groups[1:]])
        prints = fingerprints(targets)
        num_games = min(max_games, len(set(prints)) - 1)
        # Counted from each probe on, so that no probe lends its target to all.
        circle = [[(own + step) % len(prints) for step in range(1, len(prints))] for own in range(len(prints))]
        others = [[i for i in row if prints[i] != prints[own]] for own, row in enumerate(circle)]
        return [
            self._with_targets(targets.select([row[game * len(row) // num_games] for row in others]))
            for game in range(num_games)
        ]

    def check(self, model: nn.Module) -> None:
        """Score the unmasked inputs, to find out early whether model, task and labels fit.

        Raises:
            ValueError: If outputs, targets, scores or losses do not fit the task.
        """
        with torch.no_grad():
            for group in self.probes.groups:
                inputs = in_dtype_of(model, group.inputs)
                for rows in torch.arange(len(group)).split(self.batch_size):
                    self._scores(model, inputs.select(rows), group.targets.select(rows))
                self.task.losses(torch.zeros(len(group), dtype=torch.float64), group.targets)

    def values(self, model: nn.Module, masks: Tensor | None = None) -> Float[Tensor, "inputs coalitions"]:
        """Score masked versions of every input, in batches that run across inputs.

        Masked versions of an input that are equal are evaluated once. The model is used in the mode that it is in; put it into
        evaluation mode first.

        Args:
            model: Any module that the task can run.
            masks: ``[coalitions, players]``, boolean: the coalitions of up to 64 players, true for the players that stay; all
                ``2^n``, in the order of their index, if left out, for up to 30.

        Returns:
            Values ``v(T)``, float32 or the model's wider dtype; NaN and infinity are kept.

        Raises:
            ValueError: If the players do not fit the inputs, the masks do not fit the players, or the outputs or targets do
                not fit the task.
        """
        context = full_precision(self.probes.device) if self.forward_context is None else nullcontext()
        with torch.no_grad(), context:
            coalitions = self._numbers_of(masks)
            return torch.cat([self._values_of_group(model, group, coalitions) for group in self.probes.groups])

    def exact_losses(self, model: nn.Module) -> Float[Tensor, " inputs"] | None:
        """Compute the losses of the unmasked inputs from the model's outputs.

        Returns:
            Losses whose mean is the loss of training, float64 on the CPU; ``None`` where the task has no others than those that
            follow from the scores.
        """
        parts = []
        context = full_precision(self.probes.device) if self.forward_context is None else self.forward_context()
        with torch.no_grad(), context:
            for group in self.probes.groups:
                inputs = in_dtype_of(model, group.inputs)
                for rows in torch.arange(len(group)).split(self.task.largest_batch or len(group) or 1):
                    outputs = widened(self.task.forward(model, inputs.select(rows).tree))
                    exact = self.task.exact_losses(outputs, group.targets.select(rows).tree)
                    if exact is None:
                        return None
                    parts.append(exact.double().cpu())
        return self.task.reduce_exact(torch.cat(parts))

    def _with_targets(self, targets: Rows) -> "Game":
        starts = zip(self.probes.starts, self.probes.groups, strict=True)
        groups = (ProbeGroup(group.inputs, targets.select(range(start, start + len(group)))) for start, group in starts)
        return replace(self, probes=Probes(tuple(groups)))

    def _numbers_of(self, masks: Tensor | None) -> Int[Tensor, " coalitions"]:
        """Number the coalitions: bit ``i`` for player ``i``."""
        num_players, device = self.num_players, self.probes.device
        if num_players > (MOST_PLAYERS_OF_ALL if masks is None else MOST_PLAYERS):
            raise ValueError(
                f"Game.values: expected at most {MOST_PLAYERS_OF_ALL} players for all 2^n coalitions and {MOST_PLAYERS} "
                f"for given masks, got {num_players}; group players, or draw coalitions with draw_coalitions for "
                "fit_interactions"
            )
        if masks is None:
            return torch.arange(2**num_players, device=device)
        if masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != num_players:
            raise ValueError(
                f"Game.values: expected boolean masks [coalitions, {num_players}], one column a player, "
                f"got {masks.dtype} of shape {tuple(masks.shape)}; draw_coalitions({num_players}, ...) makes such masks"
            )
        return (masks.to(device) * (1 << torch.arange(num_players, device=device))).sum(dim=1)

    def _values_of_group(
        self, model: nn.Module, group: ProbeGroup, coalitions: Int[Tensor, " coalitions"]
    ) -> Float[Tensor, "inputs coalitions"]:
        inputs = in_dtype_of(model, group.inputs)
        masked_leaves = {name: inputs.leaves[name] for name in self.players.leaves(inputs)}
        if not len(group) or not len(coalitions):
            dtype = torch.promote_types(next(iter(masked_leaves.values())).dtype, torch.float32)
            return torch.zeros(len(group), len(coalitions), dtype=dtype, device=coalitions.device)
        baseline = {name: self.baseline[name].to(leaf) for name, leaf in masked_leaves.items()}
        players = torch.arange(self.players.num_players(inputs), device=coalitions.device)
        # The largest coalition with the very same masked input stands for all of them.
        at_baseline = self._players_at_baseline(inputs, players, baseline)
        largest = coalitions | (at_baseline * (1 << players)).sum(dim=1, keepdim=True)
        distinct, position = zip(*(row.unique(return_inverse=True) for row in largest), strict=True)
        counts = [len(numbers) for numbers in distinct]
        rows = torch.arange(len(group)).repeat_interleave(torch.tensor(counts))
        scores = []
        for own_rows, numbers in zip(rows.split(self.batch_size), torch.cat(distinct).split(self.batch_size), strict=True):
            stay = (numbers[:, None] >> players & 1).bool()
            masked = self.players.mask(inputs.select(own_rows), stay, baseline)
            scores.append(self._scores(model, masked, group.targets.select(own_rows)))
        by_input = torch.cat(scores).split(counts)
        return torch.stack([values[own_position] for values, own_position in zip(by_input, position, strict=True)])

    def _players_at_baseline(
        self, inputs: Rows, players: Int[Tensor, " players"], baseline: Mapping[str, Tensor]
    ) -> Bool[Tensor, "inputs players"]:
        """Which players have their baseline value anyway, such as patches of black background: masking them changes nothing."""

        def is_unchanged(player: Tensor) -> Bool[Tensor, " inputs"]:
            masked = self.players.mask(inputs, (players != player).expand(len(inputs), -1), baseline)
            same = [(masked.leaves[name] == inputs.leaves[name]).flatten(1).all(dim=1) for name in baseline]
            return torch.stack(same).all(dim=0)

        return torch.stack([is_unchanged(player) for player in players], dim=1)

    def _scores(self, model: nn.Module, inputs: Rows, targets: Rows) -> Float[Tensor, " rows"]:
        with nullcontext() if self.forward_context is None else self.forward_context():
            scores = self.task.scores(model, inputs.tree, targets.tree)
        if not isinstance(scores, Tensor) or scores.shape != (len(inputs),):
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"score: expected one number for each of {len(inputs)} inputs, a tensor [inputs], got {got}; take no mean over "
                "inputs in the task's score, and reshape [inputs, 1] to [inputs]"
            )
        return scores


def in_dtype_of(model: nn.Module, inputs: Rows) -> Rows:
    """Convert floating-point inputs to the model's own floating-point dtype."""
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    return inputs if dtype is None else inputs.map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
