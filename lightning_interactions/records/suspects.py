"""Which inputs a model has memorised."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Suspects"]


@dataclass(frozen=True)
class Suspects:
    """How suspect each input is.

    Attributes:
        share: ``[inputs]`` in [0, 1]; the part of its salient strength that does not generalize. NaN where nothing is salient,
            or the output was not finite.
        loss: ``[inputs]``, loss units; its loss, for comparison.
        explained_loss: ``[inputs]``, loss units; its loss without the salient interactions that do not generalize. Flipped
            labels stand out more by it than by the share (``tests/benchmarks/suspects.py``).
    """

    share: Float[Tensor, " inputs"]
    loss: Float[Tensor, " inputs"]
    explained_loss: Float[Tensor, " inputs"]

    @property
    def ranking(self) -> Int[Tensor, " inputs"]:
        """Positions of the inputs, the most suspect first and those without a share last; equal shares by their loss."""
        by_loss = self.loss.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        return by_loss[self.share[by_loss].nan_to_num(-torch.inf).argsort(descending=True, stable=True)]
