"""A model and probes become values: the score of the model on every masked version of every input."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_interactions.functional.precision import full_precision
from lightning_interactions.game.baselines import Baseline, Zeros
from lightning_interactions.game.chunks import ChunkSizes
from lightning_interactions.game.layout import (
    TRIED_ROWS,
    as_it_is,
    channels_last,
    gains_from_channels_last,
    same_with_channels_last,
)
from lightning_interactions.game.players.base import Masking, Players
from lightning_interactions.game.tasks import Task, widened
from lightning_interactions.records import ProbeGroup, Probes, Rows, fingerprints
from lightning_interactions.records.trees import map_leaves

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
        batch_size: Masked inputs in one forward pass; found by the size of the model's activations if ``None``. There are fewer
            where memory runs out.
        forward_context: In which forwards run, such as an autocast; in the dtype of the weights, without autocast and
            TF32, if ``None``.
        kind_of_baseline: Makes baseline values of rows of them.
        chunk_sizes: What fits into memory, as far as it is known; games that are made of this one know it, too.
    """

    probes: Probes
    players: Players
    baseline: Mapping[str, Tensor]
    task: Task
    batch_size: int | None = None
    forward_context: Callable[[], AbstractContextManager[object]] | None = None
    kind_of_baseline: Baseline = field(default_factory=Zeros)
    chunk_sizes: ChunkSizes = field(default_factory=ChunkSizes, repr=False)

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

                def scores(start: int, stop: int, group: ProbeGroup = group, inputs: Rows = inputs) -> Tensor:
                    rows = range(start, stop)
                    return self._scores(model, inputs.select(rows), [group.targets.select(rows)])

                self._in_chunks(scores, len(group), model, inputs)
                if len(group):
                    with self._playing(model, inputs.select([0])):
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
        return self._values(model, [self.probes], masks)[0]

    def values_with_targets(
        self, model: nn.Module, others: "Sequence[Game]", masks: Tensor | None = None
    ) -> list[Float[Tensor, "inputs coalitions"]]:
        """Return the values of this game, and of others that differ from it in the targets alone.

        One forward serves all of them, unless outputs depend on targets or the task's ``scores`` is its own.

        Args:
            model: Any module that the task can run.
            others: Games such as :meth:`with_other_targets` returns.
            masks: As for :meth:`values`.

        Raises:
            ValueError: As :meth:`values`.
        """
        games = (self, *others)
        if self.task.outputs_depend_on_targets or type(self.task).scores is not Task.scores:
            return [game.values(model, masks) for game in games]
        return list(self._values(model, [game.probes for game in games], masks))

    def _values(
        self, model: nn.Module, probes: Sequence[Probes], masks: Tensor | None
    ) -> Float[Tensor, "games inputs coalitions"]:
        """Evaluate probes that differ in the targets alone."""
        context = full_precision(self.probes.device) if self.forward_context is None else nullcontext()
        with torch.no_grad(), context:
            coalitions = self._numbers_of(masks)
            groups = zip(*(one.groups for one in probes), strict=True)
            return torch.cat([self._values_of_group(model, group, coalitions) for group in groups], dim=1)

    def exact_losses(self, model: nn.Module) -> Float[Tensor, " inputs"] | None:
        """Compute the losses of the unmasked inputs from the model's outputs.

        Returns:
            Losses whose mean is the loss of training, float64 on the CPU; ``None`` where the task has no others than those that
            follow from the scores.
        """
        if type(self.task).exact_losses is Task.exact_losses:
            return None
        parts = []
        context = full_precision(self.probes.device) if self.forward_context is None else self.forward_context()
        with torch.no_grad(), context:
            for group in self.probes.groups:
                inputs = in_dtype_of(model, group.inputs)

                def losses(start: int, stop: int, group: ProbeGroup = group, inputs: Rows = inputs) -> Tensor:
                    rows = range(start, stop)
                    outputs = widened(self.task.forward(model, inputs.select(rows).tree))
                    exact = self.task.exact_losses(outputs, group.targets.select(rows).tree)
                    assert exact is not None
                    return exact.cpu().double()

                parts += self._in_chunks(losses, len(group), model, inputs)
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
        self, model: nn.Module, groups: Sequence[ProbeGroup], coalitions: Int[Tensor, " coalitions"]
    ) -> Float[Tensor, "games inputs coalitions"]:
        inputs, targets = groups[0].inputs, [group.targets for group in groups]
        if not len(inputs) or not len(coalitions):
            dtype = torch.promote_types(_float_dtype(in_dtype_of(model, inputs)), torch.float32)
            return torch.zeros(len(groups), len(inputs), len(coalitions), dtype=dtype, device=coalitions.device)
        parts = []
        for rows in torch.arange(len(inputs)).split(self.players.most_in_play or len(inputs)):
            part = inputs.select(rows)
            with self._playing(model, part) as masking:
                parts.append(self._values_in_play(model, masking, [one.select(rows) for one in targets], coalitions))
        return torch.cat(parts, dim=1)

    def _values_in_play(
        self, model: nn.Module, masking: Masking, targets: Sequence[Rows], coalitions: Int[Tensor, " coalitions"]
    ) -> Float[Tensor, "games inputs coalitions"]:
        inputs = masking.inputs
        bits = torch.arange(self.players.num_players(inputs), device=coalitions.device)
        # The largest coalition with the very same masked input stands for all of them.
        largest = coalitions | (masking.at_baseline() * (1 << bits)).sum(dim=1, keepdim=True)
        distinct, position = zip(*(row.unique(return_inverse=True) for row in largest), strict=True)
        counts = [len(numbers) for numbers in distinct]
        rows, numbers = torch.arange(len(inputs)).repeat_interleave(torch.tensor(counts)), torch.cat(distinct)

        def scored(versions: Tensor | slice, layout: Callable[[Rows], Rows]) -> Float[Tensor, "games versions"]:
            own = rows[versions]
            stay = (numbers[versions][:, None] >> bits & 1).bool()
            masked = layout(masking.masked(own, stay).map(_written_out))
            return self._scores(model, masked, [one.select(own) for one in targets])

        layout = as_it_is
        if gains_from_channels_last(model, inputs, len(rows)):
            tried = torch.linspace(0, len(rows) - 1, TRIED_ROWS).long()
            layout = channels_last if same_with_channels_last(lambda one: scored(tried, one)) else as_it_is

        def scores(start: int, stop: int) -> Float[Tensor, "games versions"]:
            return scored(slice(start, stop), layout)

        by_input = torch.cat(self._in_chunks(scores, len(rows), model, inputs), dim=1).split(counts, dim=1)
        return torch.stack([values[:, own_position] for values, own_position in zip(by_input, position, strict=True)], dim=1)

    def _in_chunks(self, function: Callable[[int, int], Tensor], total: int, model: nn.Module, inputs: Rows) -> list[Tensor]:
        return self.chunk_sizes.run(
            function,
            total,
            model,
            inputs.device,
            kind=(type(model), inputs.row_shapes),
            batch_size=self.batch_size,
            largest=self.task.largest_batch,
        )

    def converted(self, model: nn.Module, inputs: Rows) -> tuple[Rows, dict[str, Tensor]]:
        """Convert inputs to the model's dtype, and their baseline values with them."""
        converted = in_dtype_of(model, inputs)
        baseline = self.baseline_of(inputs)
        return converted, {name: value.to(converted.leaves[name].dtype) for name, value in baseline.items()}

    def forwards(self) -> AbstractContextManager[object]:
        """Return the context in which forwards run, such as an autocast."""
        return nullcontext() if self.forward_context is None else self.forward_context()

    def baseline_of(self, inputs: Rows) -> dict[str, Tensor]:
        """Return the baseline value of each masked tensor, for all rows or for each of these."""
        leaves = inputs.leaves
        values = {name: self.baseline[name].to(leaves[name].device) for name in self.players.leaves(inputs)}
        return {name: self.kind_of_baseline.of_rows(value, leaves[name]) for name, value in values.items()}

    def _playing(self, model: nn.Module, inputs: Rows) -> AbstractContextManager[Masking]:
        def run(rows: Rows) -> Any:
            with self.forwards():
                return self.task.forward(model, rows.tree)

        largest = min((size for size in (self.batch_size, self.task.largest_batch) if size is not None), default=None)
        return self.players.playing(model, run, *self.converted(model, inputs), largest)

    def _scores(self, model: nn.Module, inputs: Rows, targets: Sequence[Rows]) -> Float[Tensor, "games rows"]:
        """Score the same outputs for each of several targets."""
        with self.forwards():
            if len(targets) == 1:
                return self._checked(self.task.scores(model, inputs.tree, targets[0].tree), len(inputs))[None]
            outputs = widened(self.task.forward(model, inputs.tree))
            # A score may write into the outputs.
            copies = (map_leaves(lambda _, leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, outputs) for _ in targets)
            scores = [self.task.score(own, one.tree) for own, one in zip(copies, targets, strict=True)]
        return torch.stack([self._checked(one, len(inputs)) for one in scores])

    def _checked(self, scores: Tensor, num_rows: int) -> Float[Tensor, " rows"]:
        if not isinstance(scores, Tensor) or scores.shape != (num_rows,):
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"score: expected one number for each of {num_rows} inputs, a tensor [inputs], got {got}; take no mean over "
                "inputs in the task's score, and reshape [inputs, 1] to [inputs]"
            )
        return scores


def _written_out(leaf: Tensor) -> Tensor:
    """Copy a view that repeats a row: a model may write into what it gets, or ask for another view of it."""
    repeats = any(step == 0 and size > 1 for step, size in zip(leaf.stride(), leaf.shape, strict=True))
    return leaf.contiguous() if repeats else leaf


def _float_dtype(inputs: Rows) -> torch.dtype:
    """Return the dtype of the first floating-point tensor of some rows."""
    return next((leaf.dtype for leaf in inputs.leaves.values() if leaf.is_floating_point()), torch.float32)


def in_dtype_of(model: nn.Module, inputs: Rows) -> Rows:
    """Convert floating-point inputs to the model's own floating-point dtype."""
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    return inputs if dtype is None else inputs.map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
