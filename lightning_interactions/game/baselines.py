"""Baseline values: what a masked player is replaced with."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Baseline", "Constant", "TrainingMean", "Zeros"]


@runtime_checkable
class Baseline(Protocol):
    """Chooses baseline values, once for a run."""

    def value(self, training_inputs: Tensor) -> Tensor:
        """Return the baseline value for one input.

        Args:
            training_inputs: A sample of training inputs, ``[inputs, ...]``.

        Returns:
            A tensor that broadcasts to the shape of one input.
        """
        ...


@dataclass(frozen=True)
class Zeros:
    """Zero everywhere: black pixels, or the mean of standardised features."""

    def value(self, training_inputs: Tensor) -> Tensor:
        """Return zeros; see :class:`Baseline`."""
        return torch.zeros_like(training_inputs[0])


@dataclass(frozen=True)
class TrainingMean:
    """The mean over a sample of training inputs, entry by entry."""

    def value(self, training_inputs: Tensor) -> Tensor:
        """Return the mean; see :class:`Baseline`."""
        return training_inputs.mean(dim=0)


@dataclass(frozen=True)
class Constant:
    """A given baseline value.

    Attributes:
        tensor: Broadcasts to the shape of one input.
    """

    tensor: Tensor

    def value(self, training_inputs: Tensor) -> Tensor:
        """Return the given value; see :class:`Baseline`.

        Raises:
            ValueError: If it does not broadcast to the shape of one input.
        """
        shape = training_inputs.shape[1:]
        try:
            fits = torch.broadcast_shapes(self.tensor.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"baseline: expected a value that broadcasts to one input of shape {tuple(shape)}, got shape "
                f"{tuple(self.tensor.shape)}; leave out the batch axis"
            )
        return self.tensor.to(training_inputs)
