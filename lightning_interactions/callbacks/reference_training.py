"""Training reference models with a Trainer of their own."""

import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_interactions.callbacks.isolation import preserve_random_state
from lightning_interactions.evidence import ReferenceModels, fingerprints
from lightning_interactions.evidence.reference_models import VOTES
from lightning_interactions.tracking.probes import Unpack, input_target_pair

__all__ = ["fit_reference_models"]


def fit_reference_models(
    model: LightningModule,
    train_dataloader: Any,
    *,
    num_models: int = 3,
    max_epochs: int = 15,
    vote: str = "any",
    factory: Callable[[], LightningModule] | None = None,
    unpack: Unpack = input_target_pair,
    val_dataloaders: Any = None,
    seed: int = 0,
    **trainer_kwargs: Any,
) -> ReferenceModels:
    """Train freshly initialised copies of a model on data that the monitored run never sees.

    The copies are made by ``factory``; without one, by ``type(model)(**model.hparams)`` where the saved hyperparameters
    rebuild the same architecture; else by re-initialising every parameter of a copy. The model itself, and the global random
    states, stay as they are, and nothing is logged.

    Args:
        model: The model whose training will be monitored.
        train_dataloader: Held-out data, with the task's labels.
        num_models: How many to train, each from its own seed.
        max_epochs: Epochs for each.
        vote: How many of them must share an interaction: ``"any"``, ``"majority"`` or ``"all"``.
        factory: Makes a freshly initialised module; needed for fine-tuning and for parameters without an initialiser.
        unpack: Finds ``(inputs, targets)`` in a batch; batches ``(x, y)`` if left out.
        val_dataloaders: Data for the module's validation step, for schedules or callbacks that watch it; may be left out.
        seed: Seed of the first model; the others follow.
        trainer_kwargs: More arguments for the :class:`lightning.pytorch.Trainer`.

    Returns:
        The models, with fingerprints of all inputs that they were trained on.

    Raises:
        MisconfigurationException: If ``num_models`` or ``max_epochs`` is smaller than 1, the vote has no such name, the
            factory gives a module twice, or a parameter cannot be re-initialised.

    Source:
        He et al. 2025 (arXiv 2505.06993), which trains such models on the test set.
    """
    if num_models < 1 or max_epochs < 1:
        raise MisconfigurationException(
            f"fit_reference_models: expected num_models and max_epochs of at least 1, got {num_models} and {max_epochs}"
        )
    settings: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "devices": 1,
        **trainer_kwargs,
    }
    if vote not in VOTES:
        raise MisconfigurationException(f"fit_reference_models: expected a vote among {VOTES}, got {vote!r}")
    callbacks = settings.pop("callbacks", None) or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    seen = _SeenInputs(unpack)
    models: list[LightningModule] = []
    for position in range(num_models):
        with preserve_random_state(_accelerator(), seed + position), _quiet_trainer():
            fresh = _fresh_copy(model, factory)
            if any(fresh is other for other in (model, *models)):
                raise MisconfigurationException(
                    "fit_reference_models: expected a new module from every call of factory, got the same one again; make it "
                    "in the factory: lambda: YourModule(...)"
                )
            trainer = Trainer(**settings, max_epochs=max_epochs, callbacks=[*copy.deepcopy(callbacks), seen])
            trainer.fit(fresh, train_dataloader, val_dataloaders)
        models.append(fresh.cpu())
    return ReferenceModels(models, vote, seen.fingerprints)


class _SeenInputs(Callback):
    """Collects the fingerprints of all inputs that a run trains on."""

    def __init__(self, unpack: Unpack) -> None:
        self.unpack = unpack
        self.fingerprints: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        inputs, _ = self.unpack(batch)
        self.fingerprints.update(fingerprints(inputs))


@contextmanager
def _quiet_trainer() -> Iterator[None]:
    """Keep Lightning's notes on hardware and epochs for the run that the user looks at; warnings still come through.

    All but one: that there is a validation step and no validation loader is as it should be.
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
            yield
    finally:
        logger.setLevel(level)


def _fresh_copy(model: LightningModule, factory: Callable[[], LightningModule] | None) -> LightningModule:
    if factory is not None:
        return factory()
    return _rebuilt(model) or _reinitialised(model)


def _rebuilt(model: LightningModule) -> LightningModule | None:
    """Rebuild a module from its hyperparameters, if every argument was saved and they give the same architecture."""
    hparams = dict(model.hparams)
    parameters = inspect.signature(type(model).__init__).parameters
    named = {
        name
        for name, parameter in list(parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    if named != set(hparams):
        return None
    rebuilt = type(model)(**hparams)
    same = {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    return rebuilt if same else None


def _reinitialised(model: LightningModule) -> LightningModule:
    """Copy a module and initialise every parameter anew, and refuse parameters that nothing initialises."""
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in fresh.parameters():
            # Whatever is still NaN afterwards was not initialised.
            parameter.fill_(torch.nan)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset) and not isinstance(module, nn.Transformer):
                reset()
    left = [name for name, parameter in fresh.named_parameters() if bool(parameter.isnan().any())]
    if left:
        raise MisconfigurationException(
            f"fit_reference_models: nothing initialises these parameters anew: {left}; call self.save_hyperparameters() in the "
            "module, or pass factory=lambda: YourModule(...)"
        )
    return fresh.train()


def _accelerator() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
