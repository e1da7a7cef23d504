"""The papers' evidence: models of the same task, trained on held-out data."""

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.evidence.base import Evidence, ProbeGame
from lightning_interactions.functional.generalization import RaterVotes, votes_by_chance, weights_from_votes
from lightning_interactions.records import EvidenceWeights, Interactions
from lightning_interactions.records.files import UnreadableError, load_safely

__all__ = ["VOTES", "Ratings", "ReferenceModels", "votes_needed"]

VOTES = ("any", "majority", "all")
"""How many of the reference models that rate an input must share an interaction; or a number of them."""

FORMAT_VERSION = 4

FEWEST_PROBES_TO_TELL = 4
"""Some inputs are known to no cross-fitted model, because no sampler gave them; hardly ever so many."""


def votes_needed(vote: str | int, num_raters: int) -> int:
    """Return how many of an input's raters must share an interaction.

    Args:
        vote: ``"any"`` (1), ``"majority"`` (more than half), ``"all"``, or the number itself.
        num_raters: How many reference models rate each input.

    Raises:
        ValueError: If the vote has no such name, or there are not so many raters.
    """
    named = {"any": 1, "majority": num_raters // 2 + 1, "all": num_raters}
    needed = vote if isinstance(vote, int) and not isinstance(vote, bool) else named.get(str(vote), 0)
    if not 1 <= needed <= num_raters:
        raise ValueError(
            f"ReferenceModels: expected a vote among {VOTES} or a number from 1 to {num_raters}, how many reference models "
            f"rate each input, got {vote!r}; lower it, or train more reference models"
        )
    return needed


@dataclass(frozen=True, eq=False)
class Ratings:
    """What reference models say of one split's probes.

    Attributes:
        votes: Which interactions each rater has.
        by_chance: The same of inputs with other targets, one for each draw.
        score: ``[inputs]``, score units; the raters' mean score.
        learned_epochs: See :class:`ReferenceModels`.
    """

    votes: RaterVotes
    by_chance: tuple[RaterVotes, ...]
    score: Tensor
    learned_epochs: int = 0

    def weigh(self, interactions: Interactions, min_votes: int) -> EvidenceWeights:
        """Compare interactions with what the raters have; see :meth:`Evidence.weigh`.

        Args:
            interactions: Those of the monitored model.
            min_votes: How many raters must share one.
        """
        weights = weights_from_votes(interactions, self.votes, min_votes=min_votes, by_chance=self.by_chance)
        return replace(weights, rater_score=self.score)

    def to_state(self) -> dict[str, Any]:
        """Return everything in tensors; nearly all signs are 0, so that the others are kept with their places."""
        drawn = (self.votes, *self.by_chance)
        signs = [one.signs.flatten().cpu() for one in drawn]
        places = [own.nonzero()[:, 0] for own in signs]
        return {
            "shape": list(self.votes.signs.shape),
            "places": places,
            "signs": [own[place] for own, place in zip(signs, places, strict=True)],
            "finite": [one.finite.cpu() for one in drawn],
            "score": self.score.cpu(),
            "learned_epochs": self.learned_epochs,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Ratings":
        """Make them of what :meth:`to_state` gave."""
        drawn = []
        for places, signs, finite in zip(state["places"], state["signs"], state["finite"], strict=True):
            dense = torch.zeros(state["shape"], dtype=torch.int8)
            dense.view(-1)[places] = signs
            drawn.append(RaterVotes(dense, finite))
        own, *by_chance = drawn
        return cls(own, tuple(by_chance), state["score"], state["learned_epochs"])


class ReferenceModels(Evidence):
    """An interaction generalizes if reference models, trained on data that the run never sees, have it too.

    A model never rates an input that it was trained on. Each input is rated by ``num_raters`` models that have not seen
    it: probe number ``i`` by the first such in circular order from model ``i * num_raters`` on, so that inputs that nobody
    has seen are spread over the models, and every input has as many votes. Inputs that too many models have seen must not
    be probes.

    The chance level is what they share of it on other inputs, or when they are asked about another target of the same input,
    whichever is more. Where labels say nothing about inputs, the latter cannot be told apart from the share itself. For it
    each reference model's outputs are scored up to four times before the training, and never again.

    Args:
        models: Trained models that take the same inputs and give the same kind of outputs as the monitored one, of whatever
            architecture; they are copied, and the copies put into evaluation mode.
        vote: ``"any"`` (the papers' rule), ``"majority"``, ``"all"``, or a number: at least so many of an input's raters.
        seen: What :func:`~lightning_interactions.records.fingerprints` returns for the inputs that the models were trained
            on: one collection for each model, or a single one that holds for all of them. Empty if unknown.
        num_raters: How many models rate each input; all of them if left out.
        learned_epochs: Where they were trained as the run is, on parts of its data: epochs after which their loss on inputs
            kept from them was as good as at its best. The run is not past its best before. 0 if that is not known.

    Attributes:
        models: The copies.
        vote: As given.
        seen: Fingerprints of what each model was trained on.
        num_raters: How many models rate each input.

    Raises:
        ValueError: If there is no model, the vote has no such name or needs more raters than there are, there are more raters
            than models, or ``seen`` has another length than ``models``.

    Source:
        He et al. 2025 (arXiv 2505.06993), generalizable interactions. That models judge only what they have not seen, as in
        cross-fitting, is our own.
    """

    def __init__(
        self,
        models: Iterable[nn.Module],
        vote: str | int = "any",
        seen: Iterable[str] | Iterable[Iterable[str]] = (),
        num_raters: int | None = None,
        learned_epochs: int = 0,
    ) -> None:
        self.models: tuple[nn.Module, ...] = tuple(copy.deepcopy(model).eval() for model in models)
        if not self.models:
            raise ValueError("ReferenceModels: expected at least one trained model, got none")
        self.num_raters = len(self.models) if num_raters is None else num_raters
        if not 1 <= self.num_raters <= len(self.models):
            raise ValueError(
                f"ReferenceModels: expected num_raters between 1 and the {len(self.models)} models, got {num_raters}"
            )
        votes_needed(vote, self.num_raters)
        self.vote = vote
        self.seen = _seen_by_each(seen, len(self.models))
        self._learned_epochs = learned_epochs

    def __repr__(self) -> str:
        kinds = sorted({type(model).__name__ for model in self.models})
        return f"ReferenceModels({len(self.models)} {'/'.join(kinds)}, vote={self.vote!r}, num_raters={self.num_raters})"

    @property
    def refused(self) -> frozenset[str]:
        """Fingerprints of inputs that too many models have seen for ``num_raters`` to be left: no probes."""
        spare = len(self.models) - self.num_raters
        times_seen = Counter(fingerprint for prints in self.seen for fingerprint in prints)
        return frozenset(fingerprint for fingerprint, times in times_seen.items() if times > spare)

    def check_training_probes(self, prints: Collection[str]) -> None:
        """Refuse cross-fitted models that recognise no training probe of a run: they may have been trained on all of them.

        Args:
            prints: Fingerprints of the probes.

        Raises:
            ValueError: If the models are cross-fitted and know none of them.
        """
        known = frozenset[str]().union(*self.seen)
        cross_fitted = self.num_raters < len(self.models) and bool(known)
        if cross_fitted and len(prints) >= FEWEST_PROBES_TO_TELL and known.isdisjoint(prints):
            raise ValueError(
                "ReferenceModels: expected that cross-fitted models know inputs of the run's training data, but none of the "
                f"{len(prints)} training probes is among what they were trained on, so that it is unknown who may rate which; "
                "fit them on this run's training data, in its precision and without random augmentation"
            )

    def prepare(self, game: ProbeGame) -> "Ratings":
        """Extract the raters' interactions once; see :class:`Evidence`.

        Raises:
            ValueError: If a reference model fails on the probes, or too many have seen one of them.
        """
        raters = self._raters_of(game.probes.fingerprints)
        references, *draws = self._rated(game, raters)
        return Ratings(
            votes=RaterVotes.of(references, game.threshold),
            by_chance=votes_by_chance(references, draws, game.threshold),
            score=torch.stack([one.full_score for one in references]).mean(dim=0),
            learned_epochs=self._learned_epochs,
        )

    def learned_epochs(self, prepared: Any) -> int:
        """Return what is known of the models' trainings; see :class:`Evidence`."""
        ratings: Ratings = prepared
        return ratings.learned_epochs

    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        """Compare with what the raters have; see :class:`Evidence`."""
        ratings_of_split: Ratings = prepared
        return ratings_of_split.weigh(interactions, votes_needed(self.vote, self.num_raters))

    def _raters_of(self, prints: Sequence[str]) -> list[list[int]]:
        """Find who rates each input: positions of models, for each rater's place the one of every input."""
        by_input = []
        for row, fingerprint in enumerate(prints):
            circle = [(row * self.num_raters + step) % len(self.models) for step in range(len(self.models))]
            eligible = [position for position in circle if fingerprint not in self.seen[position]]
            if len(eligible) < self.num_raters:
                raise ValueError(
                    f"ReferenceModels: expected probes that {self.num_raters} of the {len(self.models)} models were not "
                    f"trained on, but probe {row} was seen by all but {len(eligible)}; use other probes, or reference "
                    "models trained on other data"
                )
            by_input.append(eligible[: self.num_raters])
        return [list(place) for place in zip(*by_input, strict=True)]

    def _rated(self, game: ProbeGame, raters: Sequence[Sequence[int]]) -> list[list[Interactions]]:
        """Evaluate every model on the inputs that it rates.

        Returns:
            For the own targets, and for each draw of others, as many interactions of all inputs as there are raters.
        """
        num_inputs = len(game.probes)
        draws: list[list[Interactions | None]] = []
        for position in range(len(self.models)):
            rows = [row for row in range(num_inputs) if any(place[row] == position for place in raters)]
            if not rows:
                continue
            found = self._extracted(game, position, None if len(rows) == num_inputs else rows)
            draws = draws or [[None] * len(raters) for _ in found]
            for places, of_draw in zip(draws, found, strict=True):
                for number, place in enumerate(raters):
                    own = [row for row in rows if place[row] == position]
                    part = of_draw.select([rows.index(row) for row in own])
                    whole = places[number] or Interactions(
                        part.effects.new_zeros(num_inputs, *part.effects.shape[1:]), part.offset.new_zeros(num_inputs)
                    )
                    whole.effects[own], whole.offset[own] = part.effects, part.offset
                    places[number] = whole
        return [[place for place in places if place is not None] for places in draws]

    def _extracted(self, game: ProbeGame, position: int, rows: Sequence[int] | None) -> list[Interactions]:
        model = self.models[position]
        try:
            return game.interactions_with_targets(model, rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"ReferenceModels: expected models that take the same inputs and give the same kind of outputs as the "
                f"monitored one, but model {position} ({type(model).__name__}) fails on the probes ({game.probes!r}): "
                f"{error!r}; train it on such inputs, or wrap it in a module that converts inputs and outputs"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the weights, the votes and the fingerprints to a file that loads with ``weights_only=True``."""
        state = {
            "version": FORMAT_VERSION,
            "vote": self.vote,
            "num_raters": self.num_raters,
            "learned_epochs": self._learned_epochs,
            "seen": [sorted(prints) for prints in self.seen],
            "state_dicts": [model.state_dict() for model in self.models],
        }
        torch.save(state, path)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | Sequence[nn.Module]) -> "ReferenceModels":
        """Read reference models from a file.

        Args:
            path: File written by :meth:`save`.
            model: A model of the same architecture, or a list of one for each reference model where these differ; they are
                copied and stay as they are.

        Raises:
            ValueError: If the file is no such file, of another version, or the weights do not fit the model.
        """
        try:
            state = load_safely(path)
        except UnreadableError:
            state = None
        if not isinstance(state, dict) or state.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"ReferenceModels: expected a file written by ReferenceModels.save at {path}, in format {FORMAT_VERSION}; "
                "train the models again and save them"
            )
        weights: list[dict[str, Tensor]] = state["state_dicts"]
        templates = [model] * len(weights) if isinstance(model, nn.Module) else list(model)
        if len(templates) != len(weights):
            raise ValueError(
                f"ReferenceModels: expected one model, or one for each of the {len(weights)} in {path}, got {len(templates)}"
            )
        models = [copy.deepcopy(template).cpu() for template in templates]
        for loaded, own_weights in zip(models, weights, strict=True):
            try:
                loaded.load_state_dict(own_weights)
            except RuntimeError as error:
                raise ValueError(
                    f"ReferenceModels: the weights in {path} do not fit {type(loaded).__name__}: {error}"
                ) from error
        return cls(models, state["vote"], state["seen"], state["num_raters"], state["learned_epochs"])


def _seen_by_each(seen: Iterable[str] | Iterable[Iterable[str]], num_models: int) -> tuple[frozenset[str], ...]:
    collections = list(seen)
    if all(isinstance(item, str) for item in collections):
        return (frozenset(str(item) for item in collections),) * num_models
    if len(collections) != num_models or any(isinstance(item, str) for item in collections):
        raise ValueError(
            f"ReferenceModels: expected in seen one collection of fingerprints for each of the {num_models} models, or one for "
            f"all of them, got {len(collections)} items"
        )
    return tuple(frozenset(collection) for collection in collections)
