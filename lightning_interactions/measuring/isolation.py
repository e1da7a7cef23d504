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

from lightning_interactions.functional.precision import Arithmetic
from lightning_interactions.game.steps import on_stage
from lightning_interactions.measuring.shadow import shadow_of

Module = TypeVar("Module", bound=nn.Module)

__all__ = ["RandomStates", "Safeguard", "moved_to", "preserve_random_state", "shadowed"]


class RandomStates:
    """The states of Python's, NumPy's and torch's global generators at one moment.

    Args:
        device: The device whose generator is kept besides the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._accelerator = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)

    def restore(self) -> None:
        """Give the generators these states back; may be called again."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._accelerator is not None:
            torch.get_device_module(self._device).set_rng_state(self._accelerator, self._device)


class _GlobalState:
    """What measuring changes in the process for a while, at one moment: random states, arithmetic, gradient mode.

    Args:
        device: The device that is measured on.
    """

    def __init__(self, device: torch.device) -> None:
        self._random, self._arithmetic, self._gradients = RandomStates(device), Arithmetic(), torch.is_grad_enabled()

    def restore(self) -> None:
        """Set all back; may be called again."""
        self._random.restore()
        self._arithmetic.restore()
        torch.set_grad_enabled(self._gradients)


class Safeguard:
    """Gives the process its state back after an interrupt.

    Context managers do so, too. But an interrupt that comes while one is entered or left may keep it from that.
    """

    def __init__(self) -> None:
        self._before: _GlobalState | None = None

    def __getstate__(self) -> dict[str, None]:
        return {"_before": None}  # It is the state of this process.

    @contextmanager
    def around(self, device: torch.device) -> Iterator[None]:
        """Let :meth:`restore` undo what an interrupt leaves of the body.

        Args:
            device: The device that is measured on.
        """
        self._before = _GlobalState(device)
        try:
            yield
        except Exception:
            self._before = None
            raise
        self._before = None

    def restore(self) -> None:
        """Set all back as it was before the body, if that was interrupted."""
        if self._before is not None:
            self._before.restore()
            self._before = None


@contextmanager
def preserve_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and give them their states back whatever happens.

    Args:
        device: The device whose generator is kept besides the CPU's.
        seed: Seed for the body, so that it draws the same in every run.
    """
    before = RandomStates(device)
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
    finally:
        before.restore()


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
