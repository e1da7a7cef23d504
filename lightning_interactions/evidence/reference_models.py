"""The papers' evidence: models of the same task, trained on held-out data."""

import copy
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.evidence.protocol import InteractionsOf, Judge
from lightning_interactions.functional.generalization import shared_interactions
from lightning_interactions.records import Interactions, Verdict

__all__ = ["VOTES", "ReferenceModels"]

VOTES = ("any", "majority", "all")
"""How many of the reference models must share an interaction."""

FORMAT_VERSION = 1


class ReferenceModels:
    """An interaction generalizes if reference models, trained on data that the run never sees, have it too.

    The chance level is what they share of it on other inputs, or when they are asked about another target of the same input,
    whichever is more. Where labels say nothing about inputs, the latter cannot be told apart from the share itself. For it
    each reference model is evaluated up to four times before the training, and never again.

    Args:
        models: Trained models that take the same inputs and give the same kind of outputs as the monitored one; they are
            copied, and the copies put into evaluation mode.
        vote: ``"any"`` (the papers' rule), ``"majority"`` or ``"all"``.
        seen: What :func:`fingerprints` returns for the inputs that the models were trained on; probes among them are
            refused. Empty if unknown.

    Raises:
        ValueError: If there is no model, or the vote has no such name.

    Source:
        He et al. 2025 (arXiv 2505.06993), generalizable interactions.
    """

    def __init__(self, models: Iterable[nn.Module], vote: str = "any", seen: Iterable[str] = ()) -> None:
        self.models: tuple[nn.Module, ...] = tuple(copy.deepcopy(model).eval() for model in models)
        if not self.models:
            raise ValueError("ReferenceModels: expected at least one trained model, got none")
        if vote not in VOTES:
            raise ValueError(f"ReferenceModels: expected a vote among {VOTES}, got {vote!r}")
        self.vote = vote
        self.seen = frozenset(seen)

    def prepare(
        self,
        interactions_of: InteractionsOf,
        threshold: float,
        for_other_targets: Sequence[InteractionsOf] = (),
        inputs: Tensor | None = None,
    ) -> Judge:
        """Extract the reference interactions once, and return the judge that compares with them; see :class:`Evidence`."""
        references, *by_chance = (
            [extract(model) for model in self.models] for extract in (interactions_of, *for_other_targets)
        )
        min_votes = {"any": 1, "majority": len(references) // 2 + 1, "all": len(references)}[self.vote]

        def judge(_model: nn.Module, interactions: Interactions, _counterpart: Interactions | None = None) -> Verdict:
            return shared_interactions(
                interactions, references, min_votes=min_votes, threshold=threshold, others_by_chance=by_chance
            )

        return judge

    def save(self, path: str | Path) -> None:
        """Write the weights, the vote and the fingerprints to a file that loads with ``weights_only=True``."""
        state = {
            "version": FORMAT_VERSION,
            "vote": self.vote,
            "seen": sorted(self.seen),
            "state_dicts": [model.state_dict() for model in self.models],
        }
        torch.save(state, path)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> "ReferenceModels":
        """Read reference models from a file.

        Args:
            path: File written by :meth:`save`.
            model: A model of the same architecture; it is copied and stays as it is.

        Raises:
            ValueError: If the file is no such file, or the weights do not fit the model.
        """
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError):
            state = None
        if not isinstance(state, dict) or state.get("version") != FORMAT_VERSION:
            raise ValueError(f"ReferenceModels: expected a file written by ReferenceModels.save at {path}")
        models = [copy.deepcopy(model).cpu() for _ in state["state_dicts"]]
        for loaded, weights in zip(models, state["state_dicts"], strict=True):
            try:
                loaded.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(
                    f"ReferenceModels: the weights in {path} do not fit {type(model).__name__}: {error}"
                ) from error
        return cls(models, state["vote"], state["seen"])
