"""Freshly initialised copies of a module."""

import inspect
from collections.abc import Callable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import nn

from lightning_interactions.measuring.shadow import shadow_of

__all__ = ["fresh_copy"]


def fresh_copy(model: LightningModule, factory: Callable[[], LightningModule] | None) -> LightningModule:
    """Make a freshly initialised module, by the factory if there is one; see ``fit_reference_models``.

    Raises:
        MisconfigurationException: If a parameter cannot be re-initialised.
    """
    if factory is not None:
        return factory()
    return _rebuilt(model) or _reinitialised(model)


def _rebuilt(model: LightningModule) -> LightningModule | None:
    """Rebuild a module from its hyperparameters, if every argument was saved and they give the same architecture."""
    # Lightning's command line adds names of its own.
    hparams = {name: value for name, value in model.hparams.items() if not name.startswith("_")}
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
    shadow = shadow_of(model)
    if shadow.shared:
        raise MisconfigurationException(
            f"reference models: {type(model).__name__} cannot be copied: {shadow.shared}; call self.save_hyperparameters() in "
            "the module, or pass training=ReferenceTraining(factory=lambda: YourModule(...))"
        )
    fresh = shadow.module.cpu()
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
            f"reference models: nothing initialises these parameters anew: {left}; call self.save_hyperparameters() in the "
            "module, or pass training=ReferenceTraining(factory=lambda: YourModule(...))"
        )
    return fresh.train()
