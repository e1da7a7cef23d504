"""Evidence of reference models that fits itself when training starts."""

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_interactions.evidence import Evidence, ProbeGame, ReferenceModels
from lightning_interactions.evidence.reference_models import Ratings, votes_needed
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.records import EvidenceWeights, Interactions
from lightning_interactions.records.describe import describe
from lightning_interactions.references.fit import WITHOUT_EFFECT, Fitted, fit_ensemble
from lightning_interactions.references.settings import TWINS, Ensemble, ReferenceTraining
from lightning_interactions.references.sharing import Sharing

__all__ = ["FittedEvidence", "HeldOutReferences", "Twins"]


class FittedEvidence(Evidence):
    """Reference models that are trained when the monitored training starts, before its first step.

    The same settings give the same models. A resumed run trains none again: its checkpoint has their votes on the probes.

    Args:
        training: How each model is trained.
        resume_from: File of finished models; see :func:`~lightning_interactions.references.fit_reference_models`.
    """

    def __init__(self, training: ReferenceTraining | None, resume_from: str | Path | None) -> None:
        self.training = ReferenceTraining() if training is None else training
        self.resume_from = resume_from
        self._fitted: Fitted | None = None

    def __repr__(self) -> str:
        # The file, loaders that are only watched, and where and how loudly the models are trained decide nothing.
        arguments = {name: value for name, value in self.training.trainer.items() if name not in WITHOUT_EFFECT}
        decisive = {**vars(self), "training": replace(self.training, val_dataloaders=None, trainer=arguments)}
        decisive.pop("resume_from")
        said = (f"{name}={describe(value)}" for name, value in decisive.items() if not name.startswith("_"))
        return f"{type(self).__name__}({', '.join(said)})"

    @property
    def is_fitted(self) -> bool:
        """Whether the models have been trained."""
        return self._fitted is not None

    @property
    def references(self) -> ReferenceModels:
        """The trained models.

        Raises:
            RuntimeError: Before they are.
        """
        if self._fitted is None:
            raise RuntimeError(
                f"{type(self).__name__}: expected reference models, but none have been trained yet; the monitor calls "
                "fit(trainer, model, task) when training starts. A run that is gone on with needs their votes alone: pass "
                "resume_from='references.pt' to keep the models as well"
            )
        return self._fitted.references

    @property
    @abstractmethod
    def ensemble(self) -> Ensemble:
        """How many models are trained, on which parts of the data."""

    @property
    def refused(self) -> frozenset[str]:
        """Fingerprints of inputs that too many models were trained on: no probes."""
        return self.references.refused

    def recognise(self, prints: Sequence[str], indices: Mapping[str, int]) -> None:
        """Find out which models have seen the probes, where the content of an input does not tell, since it changes.

        Args:
            prints: Fingerprints of the training probes.
            indices: The index of each in the dataset, where it is known.

        Raises:
            MisconfigurationException: If the content does not tell, and an index is not known.
        """
        if self._fitted is None or self.ensemble.folds is None:
            return
        unknown = len([one for one in prints if one not in indices])
        if unknown and not self._fitted.is_repeatable:
            raise MisconfigurationException(
                f"{type(self).__name__}: expected to know which model has seen which input, but inputs are not the same "
                f"whenever they are loaded, and the indices of {unknown} of {len(prints)} training probes are not known; let "
                "the monitor draw the probes, or take random augmentation out of the dataset (into training_step)"
            )
        numbers = np.fromiter(indices.values(), np.int64)
        self.references.seen = tuple(
            seen | set(itertools.compress(indices, np.isin(numbers, np.asarray(own))))
            for seen, own in zip(self.references.seen, self._fitted.indices, strict=True)
        )

    @abstractmethod
    def loader(self, trainer: Trainer) -> Any:
        """Return the data that the models are trained on.

        Args:
            trainer: The Trainer of the run, whose loaders are set up.

        Raises:
            MisconfigurationException: If there is none.
        """

    def fit(self, trainer: Trainer, model: LightningModule, task: Task) -> None:
        """Train the models, and leave no trace in the run. What fails on one process of the run fails on all.

        Args:
            trainer: The Trainer of the run, whose loaders are set up.
            model: The module that it trains.
            task: Finds inputs and targets in a batch, and has the loss for early stopping.

        Raises:
            MisconfigurationException: If model, data and settings do not go together.
            RuntimeError: If another process failed.
        """
        with Sharing(trainer).together():
            loader = self.loader(trainer)
        tries = bool(trainer.fast_dev_run)
        self._fitted = fit_ensemble(
            model,
            loader,
            trainer.datamodule,
            self.ensemble,
            task,
            self.training,
            None if tries else self.resume_from,
            trainer,
        )

    def prepare(self, game: ProbeGame) -> Any:
        """Extract the raters' interactions once; see :class:`~lightning_interactions.evidence.ReferenceModels`."""
        return self.references.prepare(game)

    def learned_epochs(self, prepared: Any) -> int:
        """Return what is known of the models' trainings; see :class:`~lightning_interactions.evidence.Evidence`."""
        ratings: Ratings = prepared
        return ratings.learned_epochs

    def to_state(self, prepared: Any) -> dict[str, Any]:
        """Return the raters' votes, so that a run that is gone on with needs no other trainings."""
        ratings: Ratings = prepared
        return ratings.to_state()

    def from_state(self, state: Mapping[str, Any]) -> Any:
        """Take up the raters' votes."""
        return Ratings.from_state(state)

    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        """Compare with what the raters have; see :class:`~lightning_interactions.evidence.ReferenceModels`."""
        if prepared is None:
            return self.references.weigh(interactions, threshold, ratings=ratings, counterpart=counterpart)
        votes: Ratings = prepared
        return votes.weigh(interactions, votes_needed(self.ensemble.vote, self.ensemble.num_models))


class HeldOutReferences(FittedEvidence):
    """Reference models trained on data that is held out from the run: the papers' evidence.

    The run's data module gives that data by a ``reference_dataloader()``; :class:`HoldOutDataModule` makes one of any other::

        monitor = InteractionMonitor(evidence=HeldOutReferences())
        trainer.fit(model, datamodule=HoldOutDataModule(datamodule))

    Args:
        num_models: How many models.
        vote: How many of them must share an interaction: ``"any"``, ``"majority"``, ``"all"``, or a number.
        training: How each is trained.
        resume_from: File of finished models; see :func:`~lightning_interactions.references.fit_reference_models`.

    Raises:
        MisconfigurationException: If a number is too small, or the vote has no such name or needs more models.

    Source:
        He et al. 2025 (arXiv 2505.06993), which trains such models on the test set.
    """

    def __init__(
        self,
        num_models: int = 3,
        vote: int | str = "any",
        training: ReferenceTraining | None = None,
        resume_from: str | Path | None = None,
    ) -> None:
        Ensemble.of(None, num_models, vote)
        self.num_models = num_models
        self.vote = vote
        super().__init__(training, resume_from)

    def loader(self, trainer: Trainer) -> Any:
        """Return what the data module holds out."""
        make = getattr(trainer.datamodule, "reference_dataloader", None)
        if make is None:
            got = "loaders" if trainer.datamodule is None else type(trainer.datamodule).__name__
            raise MisconfigurationException(
                f"HeldOutReferences: expected a data module with a reference_dataloader(), got {got}; hold a part of the "
                "training data out: trainer.fit(model, datamodule=HoldOutDataModule(datamodule)), or HoldOutDataModule("
                "train_loader, val_loader); or use Twins(), which need no such data"
            )
        with preserve_random_state(trainer.strategy.root_device, self.training.seed):
            return make()

    @property
    def ensemble(self) -> Ensemble:
        """How many models are trained, all on the same data."""
        return Ensemble.of(None, self.num_models, self.vote)


class Twins(FittedEvidence):
    """Two models, each trained on one half of the run's own training data; each judges the half that it has not seen.

    What one half of the data teaches as well as the other will hold on new data. No label is given up: the run trains on all of
    its data. Twins are trained when the run starts, before its first step, as the run trains: they begin as it begins (with a
    fresh initialisation, or with the run's own weights where these are pretrained), for at most as many epochs, and stop early.
    That takes less than one more training; they are asked once, so that measurements cost nothing more.

    Samples may be augmented at random: whose half a probe belongs to is known by its index.

    Args:
        training: How each is trained.
        resume_from: File of finished models; see :func:`~lightning_interactions.references.fit_reference_models`.

    Source:
        He et al. 2025 (arXiv 2505.06993), generalizable interactions; cross-fitting in two parts: Chernozhukov et al. 2018,
        Double/debiased machine learning, Econometrics Journal 21(1).
    """

    def __init__(self, training: ReferenceTraining | None = None, resume_from: str | Path | None = None) -> None:
        super().__init__(training, resume_from)

    def loader(self, trainer: Trainer) -> Any:
        """Return the run's training loader."""
        return trainer.train_dataloader

    @property
    def ensemble(self) -> Ensemble:
        """Two models on two halves."""
        return TWINS
