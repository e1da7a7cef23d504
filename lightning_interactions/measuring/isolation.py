"""Measuring without leaving a trace in the training run."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import nn

__all__ = ["leave_no_trace", "moved_to", "preserve_random_state"]


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
def leave_no_trace(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Run the body with the model in evaluation mode and without gradients, and undo everything it could change.

    Random states, every submodule's training flag, its buffers and the gradient mode come back as they were, also when the
    body raises. Compiled modules run eagerly in the body, so that no new shape is compiled.

    Args:
        model: The model in training.
        device: The device that it is on.
        seed: Seed for the body.
    """
    flags = {module: module.training for module in model.modules()}
    buffers = [
        (owner, name, buffer, buffer.clone())
        for owner in model.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    # Without torch._dynamo loaded nothing is compiled, and importing it takes seconds.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with preserve_random_state(device, seed), torch.no_grad(), eager:
        try:
            model.eval()
            yield
        finally:
            for module, training in flags.items():
                module.training = training
            for owner, name, buffer, value in buffers:
                # A forward may have written into the buffer, or put another tensor in its place.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                setattr(owner, name, buffer)
