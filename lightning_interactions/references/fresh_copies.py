"""Freshly initialised copies of a module."""

import copy
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_interactions.measuring.shadow import shadow_of

__all__ = ["fresh_copy"]

SAME_DISTRIBUTION = 1e-6
"""With a smaller p-value, in any tensor, weights are no draw from the initialisation; divided by the number of tensors."""

MOST_COMPARED = 4096
"""Numbers of a tensor that are compared: they tell any other distribution that matters."""


def fresh_copy(
    model: LightningModule, factory: Callable[[], LightningModule] | None, *, begins: bool = False
) -> LightningModule:
    """Make a module as it is before its training: by the factory if there is one, else freshly initialised.

    Args:
        model: The module.
        factory: Makes such modules.
        begins: Whether the weights of the module are those that its training begins with. If a fresh initialisation gives
            others, as of a pretrained module or one with an initialisation of its own, or none is known, these are taken.

    Raises:
        MisconfigurationException: If the module can be neither initialised anew nor copied.
    """
    if factory is not None:
        return factory()
    if not begins:
        return _rebuilt(model) or _reinitialised(model)
    try:
        fresh = _rebuilt(model) or _reinitialised(model)
    except Exception:  # Whatever a constructor does without what it needs.
        return _copied(model)
    return fresh if _is_of_same_distribution(model, fresh) else _copied(model)


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
    if _shapes(rebuilt) != _shapes(model):
        return None
    _take_over_methods(model, rebuilt)
    return rebuilt


def _take_over_methods(model: LightningModule, fresh: LightningModule) -> None:
    """Hang on a copy what methods hang on the module itself, as Lightning's command line hangs a ``configure_optimizers``.

    What they hold, such as an optimizer of the module's parameters, is copied with the parameters of the copy.
    """
    own, others = ([*one.parameters(), *one.buffers()] for one in (model, fresh))
    copied: dict[int, Any] = {id(model): fresh, **{id(one): other for one, other in zip(own, others, strict=True)}}
    for name, method in vars(model).items():
        if isinstance(method, MethodType) and method.__self__ is model:
            setattr(fresh, name, MethodType(copy.deepcopy(method.__func__, copied), fresh))


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of parameters and buffers; not by ``state_dict``, which calls hooks of the user's."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: tensor.shape for name, tensor in tensors}


def _reinitialised(model: LightningModule) -> LightningModule:
    """Copy a module and initialise every parameter anew, and refuse parameters that nothing initialises."""
    fresh = _copied(model)
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
    return fresh


def _copied(model: LightningModule) -> LightningModule:
    shadow = shadow_of(model)
    if shadow.shared:
        raise MisconfigurationException(
            f"reference models: {type(model).__name__} cannot be copied: {shadow.shared}; call self.save_hyperparameters() in "
            "the module, or pass training=ReferenceTraining(factory=lambda: YourModule(...))"
        )
    _take_over_methods(model, shadow.module)
    return shadow.module.cpu().train()


def _is_of_same_distribution(model: nn.Module, fresh: nn.Module) -> bool:
    """Whether the weights of a module can be another draw from the initialisation of a fresh one."""
    pairs = [
        (own, other)
        for own, other in zip(model.parameters(), fresh.parameters(), strict=True)
        if not isinstance(own, UninitializedParameter) and not isinstance(other, UninitializedParameter)
    ]
    return all(_p_value(own, other) * len(pairs) > SAME_DISTRIBUTION for own, other in pairs)


def _p_value(own: Tensor, other: Tensor) -> float:
    """Two-sample Kolmogorov-Smirnov test of some of the numbers of two tensors."""
    some, others = (
        tensor.detach().flatten()[:: max(1, tensor.numel() // MOST_COMPARED)].double().cpu() for tensor in (own, other)
    )
    return 1.0 if torch.equal(some, others) else float(ks_2samp(some.numpy(), others.numpy()).pvalue)
