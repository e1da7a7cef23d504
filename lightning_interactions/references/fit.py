"""Training reference models with a Trainer of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils._pytree import tree_leaves

from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.game.evaluation import Forward, call_model
from lightning_interactions.game.losses import Loss
from lightning_interactions.game.scores import Score, default_loss, log_odds
from lightning_interactions.measuring.isolation import preserve_random_state
from lightning_interactions.measuring.probes import Unpack, input_target_pair
from lightning_interactions.references.folds import check_settings, find_loader, make_plans
from lightning_interactions.references.hold_out import DataPart
from lightning_interactions.references.keys import describe, describe_data
from lightning_interactions.references.loaders import check_repeatable, sampler_pool
from lightning_interactions.references.saved_models import ReferenceCache
from lightning_interactions.references.screening import screened
from lightning_interactions.references.trainer import Fitter, accelerator

__all__ = ["fit_reference_models"]

NUM_MODELS, NUM_MODELS_OF_FOLD, VOTES_OF_FOLD = 3, 6, 2
"""Where the user leaves them open. Without folds they are the papers'; with folds what agreed best with the papers'."""

SCREENING_MODELS = 3
"""At most so many models for each fold find out which labels are contradicted."""

EPOCHS_WITH_STOPPING, EPOCHS_WITHOUT = 50, 15

WITHOUT_EFFECT = ("logger", "default_root_dir", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
"""Trainer arguments that do not change the weights."""


def fit_reference_models(
    model: LightningModule,
    data: Any,
    *,
    num_models: int | None = None,
    max_epochs: int | None = None,
    vote: str | int | None = None,
    factory: Callable[[], LightningModule] | None = None,
    folds: int | None = None,
    screen_labels: bool | None = None,
    early_stopping: bool = True,
    patience: int = 5,
    cache_dir: str | Path | None = None,
    unpack: Unpack = input_target_pair,
    forward: Forward = call_model,
    score: Score = log_odds,
    loss: Loss | None = None,
    val_dataloaders: Any = None,
    seed: int = 0,
    **trainer_kwargs: Any,
) -> ReferenceModels:
    """Train freshly initialised copies of a model on data that the monitored run never sees.

    The copies are made by ``factory``; without one, by ``type(model)(**model.hparams)`` where the saved hyperparameters
    rebuild the same architecture; else by re-initialising every parameter of a copy. The model itself, the data's generators
    and the global random states stay as they are, and nothing is logged.

    **Early stopping.** A fifth of the data, another one for each model, is kept from its training. The loss on it is
    measured after each epoch, the training stops when it no longer falls, and the weights with the smallest one are kept.

    **Cross-fitting** (``folds``) needs no held-out data: the run's own training data is split into parts; for each of
    them ``num_models`` models are trained on all the others, and only these judge its inputs. Inputs that no model has seen
    are spread over all models, so that every input has ``num_models`` judges. Inputs are told apart by their content, so they
    must be the same whenever they are loaded, here and in the run (pass its ``precision`` if that is a ``-true`` one); those
    that occur twice in the data may have been seen by too many, and do not become probes. Two folds do; more did not help where
    we compared.

    **Screening of labels** (``screen_labels``): training data may have wrong labels. Before the models that judge, up to three
    for each fold are trained to find out which labels are contradicted by models that have not seen them: those to which they
    prefer another class by odds of e to 1. The models that judge are trained on the rest. An input whose right label is
    contradicted only makes the data smaller; it can still be judged. That an input's own label had a say in what its judges
    were trained on is the one way in which it reaches them.

    **Cache.** Each finished model is written to ``cache_dir`` at once, under a key of the data, the freshly initialised
    module with its source code, and all settings, so that a run that was killed goes on where it stopped. What the code
    calls outside the module's own classes, the hooks and the factory is not part of the key.

    Args:
        model: The model whose training will be monitored.
        data: Held-out data with the task's labels: a loader, or a data module with a ``reference_dataloader()``, which
            :class:`HoldOutReferences` makes of any other. With ``folds`` the training data of the run: its loader, or its
            data module.
        num_models: How many to train, each from its own seed; with ``folds``, for each fold. 3 if left out, 6 with ``folds``.
        max_epochs: Epochs for each, at most; 50 with early stopping and 15 without if left out.
        vote: How many of an input's judges must share an interaction: ``"any"``, ``"majority"``, ``"all"``, or a number.
            Any if left out, 2 with ``folds`` (any if there is but one model for each).
        factory: Makes a freshly initialised module; needed for fine-tuning and for parameters without an initialiser, and
            may make another architecture that takes the same inputs and gives the same kind of outputs.
        folds: Number of parts for cross-fitting, at least 2.
        screen_labels: Whether to leave out contradicted labels when cross-fitting; if left out, only where the score is the
            log-odds.
        early_stopping: Whether to stop early. Off, with a warning, where the data has no indices, a fifth of it is fewer
            than 10 inputs, or no loss is known for the score.
        patience: Epochs without a smaller loss before the training stops.
        cache_dir: Folder for finished models; none are kept if left out.
        unpack: Finds ``(inputs, targets)`` in a batch; batches ``(x, y)`` if left out.
        forward: Gets logits from the module and inputs, for early stopping; ``model(inputs)`` if left out.
        score: The scalar that the monitor explains; the log-odds of the target class if left out.
        loss: The loss of scores, for early stopping; if left out, the cross-entropy for log-odds and the squared error for
            ``prediction``.
        val_dataloaders: Data for the module's validation step, for schedules or callbacks that watch it; may be left out.
        seed: Seed of the split and of the first model; the other models follow.
        trainer_kwargs: More arguments for the :class:`lightning.pytorch.Trainer`.

    Returns:
        The models, with fingerprints of all inputs that each was trained or stopped on.

    Raises:
        MisconfigurationException: If a number is too small, the vote has no such name or needs too many voters, the data module
            has no ``reference_dataloader()``, data for folds or a cache has no indices, inputs for folds are not the same
            whenever they are loaded, the loss for early stopping cannot be computed, the factory gives a module twice, or a
            parameter cannot be re-initialised.

    Source:
        He et al. 2025 (arXiv 2505.06993), which trains such models on the test set. Cross-fitting: Chernozhukov et al. 2018,
        Double/debiased machine learning, Econometrics Journal 21(1). Screening: Northcutt et al. 2021, Confident learning,
        Journal of Artificial Intelligence Research 70.
    """
    if num_models is None:
        num_models = NUM_MODELS if folds is None else NUM_MODELS_OF_FOLD
    if vote is None:
        vote = "any" if folds is None else min(VOTES_OF_FOLD, num_models)
    check_settings(num_models, max_epochs, vote, folds, patience)
    if screen_labels and (folds is None or score is not log_odds):
        raise MisconfigurationException(
            "fit_reference_models: screen_labels needs folds and the log-odds as the score, got "
            f"folds={folds} and score={getattr(score, '__name__', score)}; leave it out"
        )
    with preserve_random_state(accelerator(), seed):
        loader = find_loader(data, folds)
    pool = sampler_pool(loader)
    if pool is None and (folds is not None or cache_dir is not None):
        raise MisconfigurationException(
            "fit_reference_models: folds and cache_dir need data with indices, a torch DataLoader of a map-style dataset "
            f"without a batch sampler of its own, got {type(loader).__name__}; leave both out, or make such a loader"
        )
    loss = default_loss(score) if loss is None else loss
    if folds is not None and pool is not None:
        check_repeatable(loader, pool, unpack)
    plans = make_plans(pool, num_models, folds, early_stopping, seed, loss)
    stops = bool(plans[0].stopping)
    settings: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "devices": 1,
        "max_epochs": (EPOCHS_WITH_STOPPING if stops else EPOCHS_WITHOUT) if max_epochs is None else max_epochs,
        **trainer_kwargs,
    }
    callbacks = settings.pop("callbacks", None) or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    cache = None
    if cache_dir is not None:
        decisive = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
        functions = [factory, unpack, *((forward, score, loss, patience) if stops else ())]
        datamodule = data.inner if isinstance(data, DataPart) else data if isinstance(data, LightningDataModule) else None
        hooks = None if datamodule is None else [type(datamodule), dict(datamodule.hparams)]
        cache = ReferenceCache(
            cache_dir,
            describe([decisive, callbacks, functions, hooks, accelerator().type, _versions()])
            + "".join(_describe_loaders(loader if val_dataloaders is None else [loader, val_dataloaders], unpack)),
        )
    fitter = Fitter(
        model=model,
        factory=factory,
        data=data,
        loader=loader,
        val_dataloaders=val_dataloaders,
        settings=settings,
        callbacks=callbacks,
        unpack=unpack,
        forward=forward,
        score=score,
        loss=loss,
        patience=patience,
        repeatable=folds is not None,
        cache=cache,
    )
    if folds is not None and pool is not None and screen_labels is not False and score is log_odds:
        credible = screened(fitter, pool, min(num_models, SCREENING_MODELS), folds, early_stopping, seed)
        plans = make_plans(credible, num_models, folds, early_stopping, seed, loss)
    models, seen = fitter.fit(plans)
    return ReferenceModels(models, vote, seen, num_voters=num_models)


def _describe_loaders(loaders: Any, unpack: Unpack) -> Iterator[str]:
    """Describe the data behind every loader, for a cache."""
    for loader in tree_leaves(loaders):
        pool = sampler_pool(loader)
        if pool is None:
            raise MisconfigurationException(
                f"fit_reference_models: cache_dir needs loaders whose data has indices, also in val_dataloaders, got "
                f"{type(loader).__name__}; leave one of both out"
            )
        yield describe_data(loader, pool, unpack)


def _versions() -> list[str]:
    return [".".join(module.__version__.split(".")[:2]) for module in (torch, lightning)]
