"""Measuring without leaving a trace in the training run."""

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from lightning_interactions.game.steps import on_stage
from lightning_interactions.measuring.shadow import shadow_of

Module = TypeVar("Module", bound=nn.Module)

__all__ = ["moved_to", "preserve_random_state", "shadowed"]


@contextmanager
def preserve_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and give them their states back whatever happens.

    Args:
        device: The device whose generator is kept besides the CPU's.
        seed: Seed for the body, so that it draws the same in every run.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    on_accelerator = device.type != "cpu"
    with torch.random.fork_rng(
        devices=[device] if on_accelerator else [], device_type=device.type if on_accelerator else "cuda"
    ):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            if on_accelerator:
                torch.get_device_module(device).manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def moved_to(device: torch.device, model: nn.Module) -> Iterator[None]:
    """Run the body with a model on a device, and move it back to where its parameters were."""
    parameter = next(model.parameters(), None)
    home = device if parameter is None else parameter.device
    try:
        model.to(device)
        yield
    finally:
        model.to(home)


@contextmanager
def shadowed(model: Module, device: torch.device, seed: int, trainer: Any = None) -> Iterator[Module]:
    """Run the body with a copy of a model in evaluation mode, on a stage, without gradients, and leave no trace in the model.

    Random states and the gradient mode come back as they were, also when the body raises. Compiled modules run eagerly in the
    body, so that no new shape is compiled.

    Args:
        model: The model in training.
        device: The device to run on.
        seed: Seed for the body.
        trainer: The Trainer of the run, of which the model's steps see a stand-in; ``None`` if there is none.

    Yields:
        The copy.
    """
    # Without torch._dynamo loaded nothing is compiled, and importing it takes seconds.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with preserve_random_state(device, seed), torch.no_grad(), eager:
        shadow = shadow_of(model)
        for name, reason in shadow.shared.items():
            warnings.warn(
                f"the attribute {name} of {type(model).__name__} cannot be copied, so that measuring may change it: {reason}",
                stacklevel=2,
            )
        with on_stage(shadow.module.eval().to(device), trainer):
            yield shadow.module
