"""Which labels a model had to memorise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LabelIssues"]


@dataclass(frozen=True)
class LabelIssues:
    """How likely each label is an issue; NaN where the output was not finite, or no evidence may judge the input.

    Attributes:
        share: ``[inputs]`` in [0, 1]; the part of its salient strength that does not generalize. NaN where nothing is salient.
        loss: ``[inputs]``, loss units; its loss.
        explained_loss: ``[inputs]``, loss units; what its loss would be without the interactions that do not generalize.
    """

    share: Float[Tensor, " inputs"]
    loss: Float[Tensor, " inputs"]
    explained_loss: Float[Tensor, " inputs"]

    @property
    def ranking(self) -> Int[Tensor, " inputs"]:
        """Positions of the inputs: those first whose label is worst explained by what generalizes; NaN last."""
        return self.explained_loss.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
