"""Fitting reference models to data that the monitored run never sees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.game.steps import OwnStep
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.records.describe import describe
from lightning_interactions.references.fit_length import fit_length
from lightning_interactions.references.folds import Plan, make_plans
from lightning_interactions.references.internals import classes
from lightning_interactions.references.loaders import as_indices, sampler_pool, unrepeatable
from lightning_interactions.references.saved_models import SavedModels
from lightning_interactions.references.settings import QUIET, Ensemble, ReferenceTraining, in_run
from lightning_interactions.references.sharing import Sharing
from lightning_interactions.references.trainer import ReferenceTrainer, accelerator, introduce

__all__ = ["Fitted", "fit_ensemble", "fit_reference_models"]

NEARLY = 0.05
"""A loss so little above the smallest one, as a fraction of it, is as good. Chosen on digits and breast cancer."""

WITHOUT_EFFECT = {*QUIET, "logger", "default_root_dir", "accelerator", "devices", "callbacks", "max_epochs"}
"""Trainer arguments that a file of finished models is not compared by."""


@dataclass(frozen=True)
class Fitted:
    """Reference models that were trained.

    Attributes:
        references: The models.
        indices: Dataset indices of the samples that each was trained or stopped on; empty where the data has none.
        is_repeatable: Whether samples are the same whenever they are loaded, so that their content tells who has seen them.
    """

    references: ReferenceModels
    indices: tuple[Sequence[int], ...]
    is_repeatable: bool


def fit_reference_models(
    model: LightningModule,
    data: Any,
    *,
    task: Task | None = None,
    folds: int | None = None,
    num_models: int | None = None,
    vote: str | int = "any",
    training: ReferenceTraining | None = None,
    resume_from: str | Path | None = None,
) -> ReferenceModels:
    """Train freshly initialised copies of a model on data that the monitored run never sees.

    The model, the data's generators and the global random states stay as they are, and nothing is logged. What the choices
    mean, and what they cost, is in docs/evidence.md.

    Args:
        model: The model whose training will be monitored.
        data: Held-out data: a loader, or a data module with a ``reference_dataloader()``, which
            :class:`~lightning_interactions.references.HoldOutDataModule` makes of any other. With ``folds`` the run's own
            training data: its loader, or its data module; ``folds=2`` gives twins.
        task: The task that the monitor explains; the module's own step if left out.
        folds: Number of parts for cross-fitting, at least 2: models of a part are trained on all the others.
        num_models: How many to train; with ``folds``, for each. 3 if left out, 1 with ``folds``.
        vote: How many of an input's raters must share an interaction: ``"any"``, ``"majority"``, ``"all"``, or a number.
        training: How each is trained.
        resume_from: File of finished models: made where there is none, else gone on from. Settings are compared, data and
            code are not.

    Returns:
        The models, with fingerprints of all inputs that each was trained or stopped on.

    Raises:
        MisconfigurationException: If settings, data, model, task and file do not go together; the message says how.

    Source:
        He et al. 2025 (arXiv 2505.06993). Cross-fitting: Chernozhukov et al. 2018, Econometrics Journal 21(1).
    """
    ensemble = Ensemble.of(folds, num_models, vote)
    training = ReferenceTraining() if training is None else training
    datamodule = data if isinstance(data, classes("LightningDataModule")) else None
    with preserve_random_state(accelerator(), training.seed):
        task = OwnStep() if task is None else task
        loader = _set_up_loader(data, folds)
    return fit_ensemble(model, loader, datamodule, ensemble, task, training, resume_from).references


def fit_ensemble(
    model: LightningModule,
    loader: Any,
    datamodule: LightningDataModule | None,
    ensemble: Ensemble,
    task: Task,
    training: ReferenceTraining,
    resume_from: str | Path | None,
    run: Trainer | None = None,
) -> Fitted:
    """Train reference models on a loader; see :func:`fit_reference_models`.

    Args:
        model: The model whose training will be monitored.
        loader: The data.
        datamodule: The data module whose hooks move batches, if there is one; it is not set up.
        ensemble: How many models, on which parts.
        task: The task.
        training: How each is trained.
        resume_from: File of finished models, if there is to be one.
        run: The Trainer of the run that is monitored, if it has begun; who has seen what may be told by indices then.

    Raises:
        MisconfigurationException: See :func:`fit_reference_models`.
    """
    if run is not None:
        training = in_run(training, run)
    with preserve_random_state(accelerator(), training.seed), Sharing(run).together():
        pool = _pool(loader, ensemble)
        if pool is not None and not task.is_ready:
            introduce(task, model, loader, datamodule, pool, training)
        changes = unrepeatable(loader, pool, task) if pool is not None and ensemble.folds is not None else ""
        if changes and run is None:
            raise MisconfigurationException(
                "reference models: folds need inputs that are the same whenever they are loaded, to know which model has seen "
                f"which, but {changes}; pass evidence=Twins() to the monitor, which goes by their indices, or take random "
                "augmentation out of the dataset (into training_step)"
            )
        plans = make_plans(
            pool,
            ensemble.num_models,
            ensemble.folds,
            stops=training.patience is not None,
            knows_loss=task.knows_loss,
            seed=training.seed,
        )
        arguments = _arguments(training, plans[0], pool, run)
        saved = None
        if resume_from is not None:
            saved = SavedModels(resume_from, _decisive(model, pool, ensemble, task, training, arguments))
        _tell(plans, pool, arguments["max_epochs"], saved, run)
        trainer = ReferenceTrainer(
            model=model,
            task=task,
            loader=loader,
            datamodule=datamodule,
            training=training,
            arguments=arguments,
            in_folds=ensemble.folds is not None,
            looks_at_content=not changes,
            saved=saved,
            run=run,
        )
    with preserve_random_state(accelerator(), training.seed):
        fitted = trainer.fit(plans)
        models, seen = [one.model for one in fitted], [one.seen for one in fitted]
        learned = 0 if ensemble.folds is None else learned_epochs([one.losses for one in fitted])
        references = ReferenceModels(models, ensemble.vote, seen, num_raters=ensemble.num_models, learned_epochs=learned)
        return Fitted(references, tuple(_used(plan) for plan in plans), all(seen))


def _used(plan: Plan) -> Sequence[int]:
    """List the samples that a model is trained or stopped on."""
    parts = [plan.stopping] if plan.training is None else [plan.training, plan.stopping]
    return as_indices(np.concatenate(parts))


def learned_epochs(losses: Sequence[Sequence[float]]) -> int:
    """Return after how many epochs the mean loss of some models on inputs kept from them was nearly as small as ever.

    Args:
        losses: Of each model after each of its epochs.

    Returns:
        The first epoch at which it was within :data:`NEARLY` of its smallest, as far as all were trained; 0 if nothing is
        known.
    """
    means = [sum(of_epoch) / len(of_epoch) for of_epoch in zip(*losses, strict=False)]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return 0
    enough = min(finite) + NEARLY * abs(min(finite))
    return next(epoch for epoch, mean in enumerate(means, start=1) if mean <= enough)


def _arguments(training: ReferenceTraining, plan: Plan, pool: Sequence[int] | None, run: Trainer | None) -> dict[str, Any]:
    """Return the arguments of the Trainers, which train on a part of each epoch if the run does."""
    stops = bool(plan.stopping)
    if run is None:
        return training.trainer_arguments(stops=stops)
    arguments = training.trainer_arguments(stops=stops, most_epochs=fit_length(run).epochs or math.inf)
    limit = run.limit_train_batches
    if isinstance(limit, int) and plan.training is not None and pool:
        limit = max(1, round(limit * len(plan.training) / len(pool)))
    return {"limit_train_batches": limit, **arguments}


def _pool(loader: Any, ensemble: Ensemble) -> Sequence[int] | None:
    """List the samples of the data; refuse data without indices where there are folds."""
    pool = sampler_pool(loader)
    if pool is None and ensemble.folds is not None:
        raise MisconfigurationException(
            "reference models: folds need data with indices, a torch DataLoader of a map-style dataset without a batch "
            f"sampler of its own, got {type(loader).__name__}; make such a loader, or hold data out instead"
        )
    return pool


def _set_up_loader(data: Any, folds: int | None) -> Any:
    """Find the loader of the references' data, and set its data module up."""
    if not isinstance(data, classes("LightningDataModule")):
        return data
    make = getattr(data, "reference_dataloader" if folds is None else "train_dataloader", None)
    if make is None:
        name = type(data).__name__
        raise MisconfigurationException(
            f"fit_reference_models: expected a loader, or a data module with a reference_dataloader(), got {name} without one; "
            f"hold a part of its training data out with HoldOutDataModule({name}(...)) from lightning_interactions.references, "
            "or pass folds=2 for cross-fitting on all of it"
        )
    data.prepare_data()
    data.setup("fit")
    return make()


def _decisive(
    model: LightningModule,
    pool: Sequence[int] | None,
    ensemble: Ensemble,
    task: Task,
    training: ReferenceTraining,
    arguments: dict[str, Any],
) -> dict[str, Any]:
    """List what decides on the models and can be compared, in primitives."""
    return {
        "model": type(model).__name__,
        "factory": describe(training.factory),
        "task": repr(task),
        "num_samples": None if pool is None else len(pool),
        "folds": ensemble.folds,
        "num_models": ensemble.num_models,
        "seed": training.seed,
        "max_epochs": arguments["max_epochs"],
        "patience": training.patience,
        "trainer": describe({name: arguments[name] for name in sorted(arguments.keys() - WITHOUT_EFFECT)}),
    }


def _tell(
    plans: list[Plan],
    pool: Sequence[int] | None,
    max_epochs: int | None,
    saved: SavedModels | None,
    run: Trainer | None,
) -> None:
    """Say in one line what will be fitted, and what it costs at most."""
    own, inputs = plans[0], "all the data"
    if pool is not None and own.training is not None:
        inputs = f"{len(own.training) + len(own.stopping)} of {len(pool)} inputs"
    taken = f"; {len(saved)} are finished in {saved.path}" if saved else ""
    cost = ""
    epochs = None if run is None else fit_length(run).epochs
    if epochs and pool and max_epochs:
        trained = sum(len(plan.training or pool) for plan in plans)
        cost = f", {trained * max_epochs / (len(pool) * epochs):.0%} of what the run trains on".replace("%", " %")
    if run is not None and run.world_size > 1:
        cost += f", shared out over {run.world_size} processes of one device each"
    rank_zero_info(f"reference models: training {len(plans)}, each on {inputs} for at most {max_epochs} epochs{cost}{taken}")
