"""The papers' evidence: models of the same task, trained on held-out data."""

import copy
import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.evidence.base import InteractionsOf, Judge
from lightning_interactions.functional.generalization import shared_interactions
from lightning_interactions.records import Interactions, Verdict
from lightning_interactions.records.inputs import fingerprints

__all__ = ["VOTES", "ReferenceModels", "votes_needed"]

VOTES = ("any", "majority", "all")
"""How many of the reference models that judge an input must share an interaction; or a number of them."""

FORMAT_VERSION = 2


def votes_needed(vote: str | int, num_voters: int) -> int:
    """Return how many of an input's voters must share an interaction.

    Args:
        vote: ``"any"`` (1), ``"majority"`` (more than half), ``"all"``, or the number itself.
        num_voters: How many reference models judge each input.

    Raises:
        ValueError: If the vote has no such name, or there are not so many voters.
    """
    named = {"any": 1, "majority": num_voters // 2 + 1, "all": num_voters}
    needed = vote if isinstance(vote, int) and not isinstance(vote, bool) else named.get(str(vote), 0)
    if not 1 <= needed <= num_voters:
        raise ValueError(
            f"ReferenceModels: expected a vote among {VOTES} or a number from 1 to {num_voters}, how many reference models "
            f"judge each input, got {vote!r}; lower it, or train more reference models"
        )
    return needed


class ReferenceModels:
    """An interaction generalizes if reference models, trained on data that the run never sees, have it too.

    A model never judges an input that it was trained on. Each input is judged by ``num_voters`` models that have not seen
    it: probe number ``i`` by the first such in circular order from model ``i * num_voters`` on, so that inputs that nobody
    has seen are spread over the models, and every input has as many votes. Inputs that too many models have seen must not
    be probes.

    The chance level is what they share of it on other inputs, or when they are asked about another target of the same input,
    whichever is more. Where labels say nothing about inputs, the latter cannot be told apart from the share itself. For it
    each reference model is evaluated up to four times before the training, and never again.

    Args:
        models: Trained models that take the same inputs and give the same kind of outputs as the monitored one, of whatever
            architecture; they are copied, and the copies put into evaluation mode.
        vote: ``"any"`` (the papers' rule), ``"majority"``, ``"all"``, or a number: at least so many of an input's voters.
        seen: What :func:`fingerprints` returns for the inputs that the models were trained on: one collection for each
            model, or a single one that holds for all of them. Empty if unknown.
        num_voters: How many models judge each input; all of them if left out.

    Attributes:
        models: The copies.
        vote: As given.
        seen: Fingerprints of what each model was trained on.
        num_voters: How many models judge each input.

    Raises:
        ValueError: If there is no model, the vote has no such name or needs more voters than there are, there are more voters
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
        num_voters: int | None = None,
    ) -> None:
        self.models: tuple[nn.Module, ...] = tuple(copy.deepcopy(model).eval() for model in models)
        if not self.models:
            raise ValueError("ReferenceModels: expected at least one trained model, got none")
        self.num_voters = len(self.models) if num_voters is None else num_voters
        if not 1 <= self.num_voters <= len(self.models):
            raise ValueError(
                f"ReferenceModels: expected num_voters between 1 and the {len(self.models)} models, got {num_voters}"
            )
        votes_needed(vote, self.num_voters)
        self.vote = vote
        self.seen = _seen_by_each(seen, len(self.models))

    @property
    def refused(self) -> frozenset[str]:
        """Fingerprints of inputs that too many models have seen for ``num_voters`` to be left: no probes."""
        spare = len(self.models) - self.num_voters
        times_seen = Counter(fingerprint for prints in self.seen for fingerprint in prints)
        return frozenset(fingerprint for fingerprint, times in times_seen.items() if times > spare)

    def prepare(
        self,
        interactions_of: InteractionsOf,
        threshold: float,
        for_other_targets: Sequence[InteractionsOf] = (),
        inputs: Tensor | None = None,
    ) -> Judge:
        """Extract the reference interactions once, and return the judge that compares with them; see :class:`Evidence`.

        Raises:
            ValueError: If a reference model fails on the probes, too many have seen one of them, or it is known what
                they have seen but not what the probes are.
        """
        voters = None if inputs is None else self._voters(inputs)
        if voters is None and any(self.seen):
            raise ValueError(
                "ReferenceModels: expected the probes in prepare(..., inputs=), to tell which models have seen them, got none"
            )
        references, *by_chance = (self._votes(extract, voters, inputs) for extract in (interactions_of, *for_other_targets))
        min_votes = votes_needed(self.vote, self.num_voters)
        peer_score = torch.stack([one.offset + one.effects.sum(dim=(1, 2)) for one in references]).mean(dim=0)

        def judge(_model: nn.Module, interactions: Interactions, _counterpart: Interactions | None = None) -> Verdict:
            verdict = shared_interactions(
                interactions, references, min_votes=min_votes, threshold=threshold, others_by_chance=by_chance
            )
            return replace(verdict, peer_score=peer_score)

        return judge

    def _voters(self, inputs: Tensor) -> Tensor:
        """Find who judges each input: positions of models, ``[voters, inputs]``."""
        by_input = []
        for row, fingerprint in enumerate(fingerprints(inputs)):
            circle = [(row * self.num_voters + step) % len(self.models) for step in range(len(self.models))]
            eligible = [position for position in circle if fingerprint not in self.seen[position]]
            if len(eligible) < self.num_voters:
                raise ValueError(
                    f"ReferenceModels: expected probes that {self.num_voters} of the {len(self.models)} models were not "
                    f"trained on, but probe {row} was seen by all but {len(eligible)}; use other probes, or reference "
                    "models trained on other data"
                )
            by_input.append(eligible[: self.num_voters])
        return torch.tensor(by_input, dtype=torch.long).reshape(-1, self.num_voters).T

    def _votes(self, extract: InteractionsOf, voters: Tensor | None, inputs: Tensor | None) -> list[Interactions]:
        """Evaluate every model on the inputs that it judges: as many interactions of all inputs as there are voters."""
        num_models = len(self.models)
        rows_of: list[list[int] | None] = [None] * num_models
        if voters is not None:
            judged = [(voters == position).any(dim=0) for position in range(num_models)]
            rows_of = [None if bool(own.all()) else own.nonzero()[:, 0].tolist() for own in judged]
        found = [self._extracted(extract, position, inputs, rows) for position, rows in enumerate(rows_of)]
        if voters is None:  # Only now it is known how many inputs there are.
            starts = self.num_voters * torch.arange(len(found[0].offset))
            voters = (torch.arange(self.num_voters)[:, None] + starts) % num_models
        # Where each input stands among those that a model was asked about.
        places = torch.zeros(num_models, voters.shape[1], dtype=torch.long)
        for position, rows in enumerate(rows_of):
            asked = list(range(voters.shape[1])) if rows is None else rows
            places[position, asked] = torch.arange(len(asked))
        return [
            Interactions(
                *(
                    torch.stack([parts[model][places[model, row]] for row, model in enumerate(slot.tolist())])
                    for parts in zip(*(vars(interactions).values() for interactions in found), strict=True)
                )
            )
            for slot in voters
        ]

    def _extracted(
        self, extract: InteractionsOf, position: int, inputs: Tensor | None, rows: Sequence[int] | None
    ) -> Interactions:
        model = self.models[position]
        try:
            return extract(model) if rows is None else extract(model, rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            of_shape = "" if inputs is None else f" of shape {tuple(inputs.shape)}"
            raise ValueError(
                f"ReferenceModels: expected models that take the same inputs and give the same kind of outputs as the "
                f"monitored one, but model {position} ({type(model).__name__}) fails on the probes{of_shape}: {error!r}; train "
                "it on such inputs, or wrap it in a module that converts inputs and outputs"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the weights, the votes and the fingerprints to a file that loads with ``weights_only=True``."""
        state = {
            "version": FORMAT_VERSION,
            "vote": self.vote,
            "num_voters": self.num_voters,
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
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError):
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
        return cls(models, state["vote"], state["seen"], state["num_voters"])


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
