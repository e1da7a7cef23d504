"""Scores: one number of a model's output that the game is about."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Score", "log_odds"]


class Score(Protocol):
    """Turns model outputs and targets into one scalar for each input."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " inputs"]:
        """Return the score of each input.

        Raises:
            ValueError: If outputs or targets are not what the score is defined for.
        """
        ...


def log_odds(outputs: Tensor, targets: Tensor) -> Float[Tensor, " inputs"]:
    """Compute the log-odds of the target class, ``log p/(1-p)``, stably from logits.

    Args:
        outputs: Logits ``[inputs, classes]``, or one logit for two classes, ``[inputs]`` or ``[inputs, 1]``.
        targets: Class indices ``[inputs]``, or ``[inputs, 1]`` beside one logit; 0 and 1 may be floating point.

    Returns:
        Scores ``[inputs]`` in nats: ``z_y - logsumexp`` of the other logits, or ``±z`` for one logit ``z``. The
        cross-entropy of an input is ``softplus`` of minus its score.

    Raises:
        ValueError: If the outputs are not such logits or the targets not such classes.

    Source:
        He et al. 2025 (arXiv 2505.06993), the scalar output of a classifier.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2) or not outputs.is_floating_point():
        got = f"{outputs.dtype} of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"score: expected logits [inputs, classes] or one logit [inputs] from the model, got {got}; find them in the "
            "output with forward=lambda model, inputs: model(inputs)['logits'] or the like"
        )
    logits = outputs.reshape(len(outputs), -1)
    classes = _class_indices(targets, len(logits), max(logits.shape[1], 2)).to(logits.device)
    if logits.shape[1] == 1:
        return logits[:, 0] * (2 * classes - 1)
    target = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    return logits[target] - logits.masked_fill(target, -torch.inf).logsumexp(dim=1)


def _class_indices(targets: Tensor, num_inputs: int, num_classes: int) -> Tensor:
    classes = targets.reshape(-1)
    if len(classes) != num_inputs or not bool((classes == classes.long()).all()):
        raise ValueError(
            f"score: expected one class index for each of {num_inputs} inputs, got targets of shape {tuple(targets.shape)} "
            f"and {targets.dtype}; pass a score of your own for soft labels or regression"
        )
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if len(outside):
        raise ValueError(
            f"score: expected labels from 0 to {num_classes - 1} for these outputs, got {outside[:5].tolist()}; check the "
            "labels, or the width of the model's last layer"
        )
    return classes.long()
