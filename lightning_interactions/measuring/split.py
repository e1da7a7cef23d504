"""The probes of one split, on which any model's interactions are extracted, by one process or by several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_interactions.evidence import ProbeGame
from lightning_interactions.functional.extraction import extract_interactions
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.steps import on_stage
from lightning_interactions.measuring.extraction import Extraction
from lightning_interactions.measuring.isolation import moved_to
from lightning_interactions.records import Interactions

__all__ = ["Ranks", "Split", "from_columns"]


def _itself(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Ranks:
    """The processes that share a measurement out.

    Attributes:
        rank: This process.
        size: Number of processes.
        total: Adds a tensor up over all of them.
    """

    rank: int = 0
    size: int = 1
    total: Callable[[Tensor], Tensor] = field(default=_itself, repr=False)


class Split(ProbeGame):
    """The game on the probes of one split, shared out over ranks.

    Each rank evaluates and extracts its own inputs, and gets everybody's. An input with NaN or infinite outputs gets NaN
    effects.

    Args:
        game: Probes, players, baseline values and task.
        extraction: How values are rewritten as interactions.
        ranks: The processes that share the probes out.
        chance_level: Whether there are games with other targets.
        trainer: The Trainer of the run, of which the steps of models see a stand-in.
        tick: Is told how many inputs have been extracted, each time that some have.
    """

    def __init__(
        self,
        game: Game,
        extraction: Extraction,
        ranks: Ranks,
        chance_level: bool,
        trainer: Any = None,
        tick: Callable[[int], object] | None = None,
    ) -> None:
        self.tick = tick
        self.game = game
        self.trainer = trainer
        self.extraction = extraction
        self.ranks = ranks
        self.chance_level = chance_level
        self.probes = game.probes
        self.threshold = extraction.threshold
        self.left_out = ""
        inputs = self.probes.groups[0].inputs
        # The same dtype on every rank, whatever the model's.
        masked = [*game.players.leaves(inputs), *(name for name, leaf in inputs.leaves.items() if leaf.is_floating_point())]
        self.dtype = torch.promote_types(inputs.leaves[masked[0]].dtype, torch.float32) if masked else torch.float32

    def interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        """Return any model's interactions; see :class:`ProbeGame`."""
        (found,) = self._everybodys([self.own_interactions(model, rows)], rows)
        return found

    def with_other_targets(self) -> "list[Split]":
        """Return the same with other targets; see :class:`ProbeGame`."""
        return [
            Split(game, self.extraction, self.ranks, self.chance_level, self.trainer, self.tick) for game in self._other_games()
        ]

    def interactions_with_targets(self, model: nn.Module, rows: Sequence[int] | None = None) -> list[Interactions]:
        """Evaluate a model once for all targets; see :class:`ProbeGame`."""
        return self._everybodys(self._own_with_targets(model, self._other_games(), rows), rows)

    def own_interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        """Extract a model's interactions on this rank's inputs, of all or of some rows."""
        (own,) = self._own_with_targets(model, [], rows)
        return own

    def _other_games(self) -> list[Game]:
        return self.game.with_other_targets() if self.chance_level else []

    def _own_with_targets(self, model: nn.Module, others: Sequence[Game], rows: Sequence[int] | None) -> list[Interactions]:
        asked = range(len(self.probes)) if rows is None else rows
        # Values come group by group, which need not be the order asked for.
        numbers, place = torch.tensor(asked[self.ranks.rank :: self.ranks.size], dtype=torch.long).sort()
        with moved_to(self.probes.device, model), on_stage(model, self.trainer):
            of_games = self.game.select(numbers).values_with_targets(model, [game.select(numbers) for game in others])
        return [self._extracted(values[place.argsort()].to(self.dtype)) for values in of_games]

    def _extracted(self, values: Float[Tensor, "inputs coalitions"]) -> Interactions:
        finite = values.isfinite().all(dim=1)
        self.left_out = "" if bool(finite.any()) or not len(values) else _reason(values.isfinite())
        found = extract_interactions(
            values[finite], noise_tolerance=self.extraction.noise_tolerance, tolerance=self.extraction.tolerance
        )
        effects = values.new_full((len(values), 2, values.shape[1]), torch.nan)
        offset = values.new_full((len(values),), torch.nan)
        effects[finite], offset[finite] = found.effects, found.offset
        if self.tick is not None:
            self.tick(len(values))
        return Interactions(effects, offset)

    def _everybodys(self, own: Sequence[Interactions], rows: Sequence[int] | None) -> list[Interactions]:
        """Put together what all ranks found, with a single sum."""
        if self.ranks.size == 1:
            return list(own)
        return [from_columns(part) for part in self.ranks.total(torch.stack([self.to_columns(one, rows) for one in own]))]

    def nothing(self) -> Interactions:
        """Make what a rank that could not measure has of its inputs: NaN, which everybody then has of them."""
        num_rows = len(range(len(self.probes))[self.ranks.rank :: self.ranks.size])
        effects = torch.full((num_rows, 2, 1 << self.game.num_players), torch.nan, dtype=self.dtype, device=self.probes.device)
        return Interactions(effects, effects[:, 0, 0])

    def to_columns(self, own: Interactions, rows: Sequence[int] | None = None) -> Float[Tensor, "inputs columns"]:
        """Put this rank's inputs into their places among all that were asked for, zeros elsewhere; a sum has everybody's."""
        columns = torch.cat([own.effects.flatten(1), own.offset[:, None]], dim=1)
        everybodys = columns.new_zeros(len(self.probes) if rows is None else len(rows), columns.shape[1])
        everybodys[self.ranks.rank :: self.ranks.size] = columns
        return everybodys


def _reason(finite: Bool[Tensor, "inputs coalitions"]) -> str:
    """Say why no input can be measured."""
    if not bool(finite[:, -1].any()):
        return "the model's outputs for the unmasked inputs are not finite"
    if bool(finite[:, 1:].all()):
        return (
            "its outputs are not finite where all players are masked, as attention over a fully masked input is; leave "
            "something unmasked (players.Tokens keeps special tokens), or choose another baseline"
        )
    share = 1 - float(finite.float().mean())
    return f"its outputs are not finite for {share:.0%} of the masked inputs; choose another baseline, or other players"


def from_columns(columns: Float[Tensor, "inputs columns"]) -> Interactions:
    """Take :meth:`Split.to_columns` apart."""
    effects, offset = columns[:, :-1], columns[:, -1]
    return Interactions(effects.reshape(len(columns), 2, -1), offset)
