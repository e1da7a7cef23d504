"""The evidence of a run: fitted when it starts, replaced where the default cannot be fitted, saved with its checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_interactions.evidence import Evidence, ParameterNoise, ReferenceModels
from lightning_interactions.game.tasks import Task
from lightning_interactions.references import FittedEvidence, Twins

__all__ = ["RunEvidence"]


class RunEvidence:
    """What decides in a run which interactions generalize.

    Args:
        given: The evidence that the user chose, which decides or fails; if left out, ``Twins`` decide, or parameter noise where
            they cannot be trained.

    Attributes:
        current: What decides now.
        ratings: What the evidence has said of the probes of a run that is gone on with, by their split.
    """

    def __init__(self, given: Evidence | None) -> None:
        self.current: Evidence = Twins() if given is None else given
        self.ratings: dict[str, Any] = {}
        self._is_default = given is None

    @property
    def is_known(self) -> bool:
        """Whether a run that is gone on with needs no other fit: there are ratings, or models."""
        return bool(self.ratings) or self.is_fitted

    @property
    def is_fitted(self) -> bool:
        """Whether there is nothing to fit, or it has been fitted."""
        return not isinstance(self.current, FittedEvidence) or self.current.is_fitted

    @property
    def refused(self) -> Collection[str]:
        """Fingerprints of inputs that too many reference models, if there are, were trained on: no probes."""
        models = self._reference_models
        return () if models is None else models.refused

    def fit(self, trainer: Trainer, model: LightningModule, task: Task) -> None:
        """Let evidence fit itself that does so; where the default cannot, on any process, other evidence decides.

        Args:
            trainer: The Trainer of the run, whose loaders are set up.
            model: The module that it trains.
            task: What is explained.

        Raises:
            Exception: If the user's own evidence fails.
        """
        if not isinstance(self.current, FittedEvidence):
            return
        failure: Exception | None = None
        try:
            self.current.fit(trainer, model, task)
        except Exception as error:
            if not self._is_default:
                raise
            failure = error
        if self._is_default and not trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            self._give_way(failure or "another process failed")

    def recognise(self, prints: Sequence[str], indices: Mapping[str, int]) -> None:
        """Find out which reference models have seen which training probes.

        Args:
            prints: Their fingerprints.
            indices: The index of each in the dataset, where it is known.

        Raises:
            MisconfigurationException: If that is not known of the user's own evidence.
            ValueError: If the user's own evidence knows none of the probes.
        """
        try:
            if isinstance(self.current, FittedEvidence):
                self.current.recognise(prints, indices)
            if self._reference_models is not None:
                self._reference_models.check_training_probes(prints)
        except (MisconfigurationException, ValueError) as error:
            if not self._is_default:
                raise
            self._give_way(error)

    def forget(self) -> None:
        """Begin a new run."""
        self.ratings = {}
        if self._is_default:
            self.current = Twins()

    def state_dict(self, ratings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run that is gone on with needs, in primitives and tensors.

        Args:
            ratings: What the evidence has said of the probes that are there now.
        """
        return {
            # A split of the run before may have yet to pass in this one.
            "ratings": {**self.ratings, **ratings},
            "took_other_evidence": self._is_default and not isinstance(self.current, Twins),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.ratings = state_dict["ratings"]
        if self._is_default and state_dict["took_other_evidence"]:
            self.current = ParameterNoise()

    @property
    def _reference_models(self) -> ReferenceModels | None:
        """The models that are the evidence, if any."""
        if isinstance(self.current, FittedEvidence):
            return self.current.references if self.is_fitted else None
        return self.current if isinstance(self.current, ReferenceModels) else None

    def _give_way(self, reason: Exception | str) -> None:
        """Say why there are no twins, and what decides instead."""
        self.current = ParameterNoise()
        rank_zero_warn(
            "InteractionMonitor: twins (two models on the two halves of the data), which would judge what generalizes, "
            f"cannot be trained: {reason}. {self.current!r} decides instead, by which phase 3 is found late or not at all; "
            "better: evidence=HeldOutReferences(), or reference models of your own (docs/evidence.md)"
        )
