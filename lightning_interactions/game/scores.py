"""Scores: one number of a model's output that the game is about, as functions of outputs and targets."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["joint_log_odds", "log_odds", "prediction", "soft_log_odds"]

NEGLIGIBLE = 40.0
"""Logit ``z`` from which on ``log softplus(-z)`` is ``-z`` in any dtype."""


def log_odds(outputs: Any, targets: Tensor) -> Float[Tensor, " inputs"]:
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
    logits = _logits(outputs, "logits [inputs, classes] or one logit [inputs]", (1, 2))
    logits = logits.reshape(len(logits), -1)
    classes = _class_indices(targets, len(logits), max(logits.shape[1], 2)).to(logits.device)
    if logits.shape[1] == 1:
        return logits[:, 0] * (2 * classes - 1)
    target = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    return logits[target] - logits.masked_fill(target, -torch.inf).logsumexp(dim=1)


def soft_log_odds(outputs: Any, targets: Tensor) -> Float[Tensor, " inputs"]:
    """Compute ``-log(e^l - 1)``, where ``l`` is the cross-entropy of probabilities as targets.

    Args:
        outputs: Logits ``[inputs, classes]``.
        targets: Probabilities ``[inputs, classes]``; their sum is 1.

    Returns:
        Scores ``[inputs]`` in nats; the cross-entropy of an input is ``softplus`` of minus its score. Where one class has
        probability 1 these are its log-odds.

    Raises:
        ValueError: If outputs and targets are not so.
    """
    logits = _logits(outputs, "logits [inputs, classes]", (2,))
    if targets.shape != logits.shape or not bool((targets >= 0).all()):
        raise ValueError(
            f"score: expected a probability for each of the logits {tuple(logits.shape)}, got {targets.dtype} of shape "
            f"{tuple(targets.shape)}"
        )
    probabilities = targets.to(logits)
    loss = -(probabilities * logits.log_softmax(dim=1)).sum(dim=1)
    hard = probabilities.amax(dim=1) == 1
    of_class = log_odds(logits, probabilities.argmax(dim=1))
    return torch.where(hard, of_class, -(loss + (-(-loss).expm1()).log()))


def joint_log_odds(outputs: Any, targets: Tensor) -> Float[Tensor, " inputs"]:
    """Compute the log-odds that all labels of an input are right, ``log P/(1-P)`` of the product ``P`` of their probabilities.

    Args:
        outputs: Logits ``[inputs, labels]``, one for each label that an input may have or not.
        targets: 0 or 1, ``[inputs, labels]``.

    Returns:
        Scores ``[inputs]`` in nats. The sum of the labels' binary cross-entropies is ``softplus`` of minus the score.

    Raises:
        ValueError: If outputs and targets are not so.
    """
    logits = _logits(outputs, "logits [inputs, labels]", (2,))
    if targets.shape != logits.shape or not bool(((targets == 0) | (targets == 1)).all()):
        raise ValueError(
            f"score: expected targets 0 and 1 of the shape {tuple(logits.shape)} of the logits, got {targets.dtype} of shape "
            f"{tuple(targets.shape)}; for one class out of several use tasks.Classification, else write a Task of your own"
        )
    margins = logits * (2 * targets.to(logits) - 1)
    losses = -torch.nn.functional.logsigmoid(margins)
    # The score is -log(e^s - 1) with s the sum of the losses, which may be too small for a number of its own.
    log_losses = torch.where(margins > NEGLIGIBLE, -margins, losses.log())
    total, log_total = losses.sum(dim=1), log_losses.logsumexp(dim=1)
    small = total.clamp(torch.finfo(total.dtype).tiny, 0.5)
    return -torch.where(total < 0.5, log_total + (small.expm1() / small).log(), total + (-(-total).exp()).log1p())


def prediction(outputs: Any, targets: Tensor) -> Float[Tensor, " inputs"]:
    """Take the one output of a regression model as it is.

    Args:
        outputs: Predictions, ``[inputs]`` or ``[inputs, 1]``.
        targets: One number for each input, ``[inputs]`` or ``[inputs, 1]``; the score does not depend on them.

    Returns:
        Scores ``[inputs]`` in the units of the target.

    Raises:
        ValueError: If there are several outputs or targets for an input.
    """
    predictions = _logits(outputs, "predictions [inputs] or [inputs, 1]", None)
    if predictions.numel() != len(predictions):
        raise ValueError(
            f"score: expected one output for each input, [inputs] or [inputs, 1], got shape {tuple(predictions.shape)}; "
            "explain one of them with a Task whose score(outputs, targets) returns outputs[:, 0]"
        )
    if targets.ndim == 0 or targets.numel() != len(predictions) != 0:
        raise ValueError(
            f"score: expected one target for each of {len(predictions)} inputs, got shape {tuple(targets.shape)}; pick one in "
            "the task's unpack(batch), such as return batch[0], batch[1][:, 0]"
        )
    return predictions.reshape(-1)


def _logits(outputs: object, expected: str, axes: tuple[int, ...] | None) -> Tensor:
    if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim and (axes is None or outputs.ndim in axes):
        return outputs
    got = f"{outputs.dtype} of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
    raise ValueError(
        f"score: expected {expected} from the model, got {got}; find them in the output with the task's "
        "forward(model, inputs), such as return model(inputs)['logits']"
    )


def _class_indices(targets: Tensor, num_inputs: int, num_classes: int) -> Tensor:
    classes = targets.reshape(-1)
    if len(classes) != num_inputs or not bool((classes == classes.long()).all()):
        raise ValueError(
            f"score: expected one class index for each of {num_inputs} inputs, got targets of shape {tuple(targets.shape)} "
            f"and {targets.dtype}; pass task=lightning_interactions.tasks.Regression() for regression, tasks.MultiLabel() for "
            "several labels an input, or a Task of your own for soft labels"
        )
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if len(outside):
        raise ValueError(
            f"score: expected labels from 0 to {num_classes - 1} for these outputs, got {outside[:5].tolist()}; check the "
            "labels, or the width of the model's last layer"
        )
    return classes.long()
