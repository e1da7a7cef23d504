"""Some of many players: the others stay in every masked input."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_interactions.game.baselines import Baseline
from lightning_interactions.game.players.base import NOBODY, AssignedPlayers
from lightning_interactions.game.row_keys import RowMemory
from lightning_interactions.records import Rows
from lightning_interactions.records.describe import describe

__all__ = ["AtRandom", "ByAttribution", "Choice", "Evenly", "Some"]


class Choice(ABC):
    """Chooses some of many players in every row."""

    needs_scores: bool = False
    """Whether scores of all players are needed to choose."""

    def __repr__(self) -> str:
        return describe(self)

    @abstractmethod
    def chosen(
        self, present: Bool[Tensor, "rows players"], number: int, scores: Float[Tensor, "rows players"] | None
    ) -> Bool[Tensor, "rows players"]:
        """Choose at most so many of the players that are present in each row; all where there are not more.

        Args:
            present: True for players that have an entry in the row.
            number: How many to choose.
            scores: What leaving each player out takes away from the score, where they are needed.
        """


class AtRandom(Choice):
    """Players drawn at random, by place: the same ones in rows that have as many players.

    Args:
        seed: Other seeds choose other players.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def chosen(
        self, present: Bool[Tensor, "rows players"], number: int, scores: Float[Tensor, "rows players"] | None
    ) -> Bool[Tensor, "rows players"]:
        """Choose the players that come first in a random order; see :class:`Choice`."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.rand(present.shape[1], generator=generator, dtype=torch.float64).to(present.device)
        return _largest(order, present, number)


class Evenly(Choice):
    """Players at equal distances from the first to the last."""

    def chosen(
        self, present: Bool[Tensor, "rows players"], number: int, scores: Float[Tensor, "rows players"] | None
    ) -> Bool[Tensor, "rows players"]:
        """Choose the middle of each of so many equal parts of the players; see :class:`Choice`."""
        place, total = present.cumsum(dim=1), present.sum(dim=1, keepdim=True).clamp(min=1)
        # The numbers of the parts rise where a middle is passed.
        part = ((2 * place * number + total) // (2 * total), (2 * (place - 1) * number + total) // (2 * total))
        return present & ((part[0] > part[1]) | (total <= number))


class ByAttribution(Choice):
    """The players that matter most one by one: the largest magnitudes of leave-one-out scores.

    An untrained network says little about what will matter: choose with one that is trained.
    """

    needs_scores = True

    def chosen(
        self, present: Bool[Tensor, "rows players"], number: int, scores: Float[Tensor, "rows players"] | None
    ) -> Bool[Tensor, "rows players"]:
        """Choose the players with the largest scores; see :class:`Choice`."""
        if scores is None:
            raise ValueError("players: ByAttribution expects scores of all players, got none; call Some.choose(inputs, scores)")
        return _largest(scores.abs().nan_to_num(nan=-1.0, posinf=torch.inf), present, number)


class Some(AssignedPlayers):
    """Some of many players, in their order; the entries of the others belong to nobody and stay.

    The number of players is the same in every row. A row with fewer has empty players: masking them changes nothing.

    With a choice that ``needs_scores`` players have to be chosen before inputs are masked: ``choose(inputs, scores)``.

    Args:
        players: The many players.
        number: How many are chosen in each row.
        choice: Which; at random if left out.

    Raises:
        ValueError: If ``number`` is smaller than 1.
    """

    def __init__(self, players: AssignedPlayers, number: int = 10, choice: Choice | None = None) -> None:
        if number < 1:
            raise ValueError(f"players: expected to choose at least one player, got number={number}")
        self.players = players
        self.number = number
        self.choice = AtRandom() if choice is None else choice
        self._chosen = RowMemory()

    @property
    def needs_scores(self) -> bool:
        """Whether :meth:`choose` must be called for rows before they are masked."""
        return self.choice.needs_scores

    @property
    def rows_differ(self) -> bool:
        """True: other players may be chosen in another row."""
        return True

    def leaves(self, inputs: Rows) -> tuple[str, ...]:
        """Name the masked tensors; see :class:`~lightning_interactions.players.Players`."""
        return self.players.leaves(inputs)

    def num_players(self, inputs: Rows) -> int:
        """Count the chosen players; see :class:`~lightning_interactions.players.Players`."""
        self.leaves(inputs)
        return self.number

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Name the players as the many are, where the same ones are chosen in all rows."""
        if not self.needs_scores:
            own = self._choose_by_place(self.players.assignments(inputs), inputs)
            if len(own) and bool((own == own[:1]).all()):
                places = own[0].nonzero()[:, 0].tolist()
                names = self.players.names(inputs)
                return tuple(names[place] for place in places) + tuple(
                    f"player {player}" for player in range(len(places), self.number)
                )
        return super().names(inputs)

    def labels(self, inputs: Rows) -> list[tuple[str, ...]]:
        """Say what the chosen players of each row are; see :class:`~lightning_interactions.players.Players`."""
        many = self.players.assignments(inputs)
        chosen = self._chosen_of(many, inputs).expand(len(inputs), -1)
        return [
            tuple(label for label, own in zip(labels, row, strict=True) if own) + ("",) * (self.number - sum(row))
            for labels, row in zip(self.players.labels(inputs), chosen.tolist(), strict=True)
        ]

    def naming_hint(self, inputs: Rows) -> str:
        """Say how the many get names; see :class:`~lightning_interactions.players.Players`."""
        return self.players.naming_hint(inputs)

    def default_baseline(self, inputs: Rows) -> Baseline:
        """Return the default of the many players."""
        return self.players.default_baseline(inputs)

    def choose(self, inputs: Rows, scores: Float[Tensor, "inputs players"]) -> None:
        """Choose the players of some rows by scores of all players, for the rest of the run.

        Rows are recognised by the content of their tensors, also on another device and in another floating-point dtype.

        Args:
            inputs: Some rows.
            scores: For each of ``players.num_players(inputs)`` players what is lost without it: ``v(N) - v(N without i)``,
                with the inputs masked by ``players.mask(inputs, ~torch.eye(n).bool()[i].expand(len(inputs), -1), baseline)``.

        Raises:
            ValueError: If there is not one score for each player.
        """
        many = self.players.num_players(inputs)
        if scores.shape[1] != many:
            raise ValueError(f"players: expected a score for each of {many} players, got scores {tuple(scores.shape)}")
        present = _present(self.players.assignments(inputs), many, inputs).expand(len(inputs), -1)
        self._chosen.keep(inputs, self.choice.chosen(present, self.number, scores.to(present.device)))

    def state(self) -> dict[str, Tensor]:
        """Return what was chosen by scores, to go on with the same players in a resumed run; empty if nothing was."""
        return self._chosen.state() if len(self._chosen) else {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Choose as :meth:`state` says."""
        if state:
            self._chosen.load(state)

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which chosen player each entry belongs to; see :class:`~lightning_interactions.players.Players`."""
        many = self.players.assignments(inputs)
        chosen = self._chosen_of(many, inputs)
        numbers = torch.where(chosen, chosen.cumsum(dim=1) - 1, NOBODY)
        # What belonged to nobody has the index -1: the column behind the last player.
        numbers = torch.cat([numbers, numbers.new_full((len(numbers), 1), NOBODY)], dim=1)
        return {name: _renumbered(own.to(numbers.device), numbers) for name, own in many.items()}

    def _chosen_of(self, many: dict[str, Tensor], inputs: Rows) -> Bool[Tensor, "rows players"]:
        return self._chosen.recall(inputs, self._unknown) if self.needs_scores else self._choose_by_place(many, inputs)

    def _choose_by_place(self, many: dict[str, Tensor], inputs: Rows) -> Bool[Tensor, "rows players"]:
        return self.choice.chosen(_present(many, self.players.num_players(inputs), inputs), self.number, None)

    def _unknown(self, inputs: Rows) -> Tensor:
        if not len(inputs):
            return torch.zeros(0, self.players.num_players(inputs), dtype=torch.bool, device=inputs.device)
        raise ValueError(
            f"players: {self!r} expects inputs for which players were chosen, got {len(inputs)} others; call "
            "choose(inputs, scores) with their leave-one-out scores first"
        )


def _renumbered(assignment: Int[Tensor, "..."], numbers: Int[Tensor, "rows players_and_nobody"]) -> Int[Tensor, "..."]:
    if len(numbers) == 1:
        return numbers[0][assignment]
    whole = assignment.expand(len(numbers), *assignment.shape[1:])
    return numbers.gather(1, whole.flatten(1) % numbers.shape[1]).reshape(whole.shape)


def _present(assignments: dict[str, Tensor], many: int, inputs: Rows) -> Bool[Tensor, "rows players"]:
    """Find out which players have an entry; one row if they are the same in all rows."""
    rows = 1 if all(len(own) == 1 for own in assignments.values()) else len(inputs)
    present = torch.zeros(rows, many + 1, dtype=torch.bool, device=inputs.device)
    for own in assignments.values():
        present.scatter_(1, own.to(present.device).expand(rows, *own.shape[1:]).flatten(1) % (many + 1), True)
    return present[:, :many]


def _largest(
    order: Float[Tensor, "... players"], present: Bool[Tensor, "rows players"], number: int
) -> Bool[Tensor, "rows players"]:
    order = torch.where(present, order, -torch.inf)
    rank = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return present & (rank < number)
