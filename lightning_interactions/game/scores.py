"""Scores: one number of a model's output that the game is about, and the losses that go with them."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.game.losses import CrossEntropy, Loss, SquaredError

__all__ = ["CrossEntropy", "Loss", "Score", "SquaredError", "default_loss", "log_odds", "prediction"]


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


def prediction(outputs: Tensor, targets: Tensor) -> Float[Tensor, " inputs"]:
    """Take the one output of a regression model as it is.

    Args:
        outputs: Predictions, ``[inputs]`` or ``[inputs, 1]``.
        targets: One number for each input, ``[inputs]`` or ``[inputs, 1]``; the score does not depend on them.

    Returns:
        Scores ``[inputs]`` in the units of the target.

    Raises:
        ValueError: If there are several outputs or targets for an input.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or not outputs.is_floating_point():
        got = f"{outputs.dtype} of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"score: expected predictions [inputs] or [inputs, 1] from the model, got {got}; find them in the output with "
            "forward=lambda model, inputs: model(inputs)['prediction'] or the like"
        )
    if outputs.numel() != len(outputs):
        raise ValueError(
            f"score: expected one output for each input, [inputs] or [inputs, 1], got shape {tuple(outputs.shape)}; explain "
            "one of them with score=lambda outputs, targets: outputs[:, 0], and "
            "loss=lambda score, targets: (score - targets[:, 0]) ** 2"
        )
    if targets.ndim == 0 or targets.numel() != len(outputs) != 0:
        raise ValueError(
            f"score: expected one target for each of {len(outputs)} inputs, got shape {tuple(targets.shape)}; pick one with "
            "unpack=lambda batch: (batch[0], batch[1][:, 0]) or the like"
        )
    return outputs.reshape(-1)


def default_loss(score: Score) -> Loss | None:
    """Return the loss that is minimised where a score is explained: :class:`CrossEntropy` for the log-odds,
    :class:`SquaredError` for a prediction, ``None`` for a score that is not known.
    """
    if score is log_odds:
        return CrossEntropy()
    return SquaredError() if score is prediction else None


def _class_indices(targets: Tensor, num_inputs: int, num_classes: int) -> Tensor:
    classes = targets.reshape(-1)
    if len(classes) != num_inputs or not bool((classes == classes.long()).all()):
        raise ValueError(
            f"score: expected one class index for each of {num_inputs} inputs, got targets of shape {tuple(targets.shape)} "
            f"and {targets.dtype}; pass score=lightning_interactions.scores.prediction for regression, or a score and loss "
            "of your own for soft labels"
        )
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if len(outside):
        raise ValueError(
            f"score: expected labels from 0 to {num_classes - 1} for these outputs, got {outside[:5].tolist()}; check the "
            "labels, or the width of the model's last layer"
        )
    return classes.long()
