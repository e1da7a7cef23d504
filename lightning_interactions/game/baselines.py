"""Baseline values: what a masked player is replaced with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interactions.records.describe import describe

__all__ = ["Baseline", "Constant", "TrainingMean", "Zeros", "check_baseline"]


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
        kinds = sorted({f"{one.dtype} {tuple(one.shape[1:])}" for one in training_inputs})
        if len(kinds) > 1 or not training_inputs[0].is_floating_point():
            raise ValueError(
                f"baseline: TrainingMean expects floating-point inputs of one shape, got {', '.join(kinds)}; use Zeros() or "
                "Constant(...)"
            )
        return torch.cat(list(training_inputs)).mean(dim=0)


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
            check_baseline(self.constant, one)
        return self.constant.to(training_inputs[0])


def check_baseline(value: Tensor, inputs: Tensor) -> None:
    """Refuse a baseline value that does not broadcast to one row of inputs ``[inputs, ...]``."""
    shape = inputs.shape[1:]
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"baseline: expected a value that broadcasts to one input of shape {tuple(shape)}, got shape {tuple(value.shape)}; "
            "leave out the batch axis, and use Zeros() for inputs of different shapes"
        )
