"""By how much a label is ahead of every other class."""

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.game.scores import log_odds

__all__ = ["label_margin"]


def label_margin(outputs: Tensor, targets: Tensor) -> Float[Tensor, " inputs"]:
    """Compare the label with the most likely other class: difference of their logits, ``[inputs]`` in nats.

    Raises:
        ValueError: If the outputs are no logits or the targets no classes; see
            :func:`~lightning_interactions.game.scores.log_odds`.
    """
    score = log_odds(outputs, targets)
    logits = outputs.reshape(len(outputs), -1)
    if logits.shape[1] == 1:
        return score
    labelled = torch.nn.functional.one_hot(targets.reshape(-1).long().to(logits.device), logits.shape[1]).bool()
    return logits[labelled] - logits.masked_fill(labelled, -torch.inf).amax(dim=1)
