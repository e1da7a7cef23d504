"""Baseline values: what a masked player is replaced with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interactions.records.describe import describe

__all__ = ["Baseline", "Constant", "TrainingMean", "Zeros"]


class Baseline(ABC):
    """Chooses baseline values, once for a run."""

    def __repr__(self) -> str:
        return describe(self)

    @abstractmethod
    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the baseline value for one row of a tensor that is masked.

        Args:
            training_inputs: That tensor in a sample of training inputs, ``[inputs, ...]``, one for each group of equal shapes.

        Returns:
            A tensor that broadcasts to one row of each.

        Raises:
            ValueError: If there is none.
        """


class Zeros(Baseline):
    """Zero everywhere: black pixels, or the mean of standardised features."""

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return a zero; see :class:`Baseline`."""
        return training_inputs[0].new_zeros(())


class TrainingMean(Baseline):
    """The mean over a sample of training inputs, entry by entry; they must have one shape."""

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the mean; see :class:`Baseline`."""
        shapes = [tuple(one.shape[1:]) for one in training_inputs]
        if len(shapes) > 1:
            raise ValueError(
                f"baseline: TrainingMean expects inputs of one shape, got {shapes}; use Zeros() or Constant(...) for inputs of "
                "different shapes"
            )
        return training_inputs[0].mean(dim=0)


class Constant(Baseline):
    """A given baseline value.

    Args:
        value: A number, nested lists of numbers or a tensor that broadcasts to one row.
    """

    def __init__(self, value: float | list[float] | Tensor) -> None:
        self.constant = torch.as_tensor(value)

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the given value; see :class:`Baseline`."""
        for one in training_inputs:
            shape = one.shape[1:]
            try:
                fits = torch.broadcast_shapes(self.constant.shape, shape) == shape
            except RuntimeError:
                fits = False
            if not fits:
                raise ValueError(
                    f"baseline: expected a value that broadcasts to one input of shape {tuple(shape)}, got shape "
                    f"{tuple(self.constant.shape)}; leave out the batch axis"
                )
        return self.constant.to(training_inputs[0])
