"""What a call of a loss function says of the rows of a batch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lightning_interactions.game.steps.calls import LossCall
from lightning_interactions.game.tasks import (
    BinaryClassification,
    Classification,
    MultiLabel,
    Regression,
    SoftClassification,
    Task,
    TokenClassification,
)

__all__ = ["LossTerm", "Prediction"]

OVER_CLASSES = (F.cross_entropy, F.nll_loss)
OVER_LABELS = (F.binary_cross_entropy_with_logits, F.binary_cross_entropy)
OF_NUMBERS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
OF_WHOLE_ROWS = (F.multi_margin_loss, F.multilabel_margin_loss, F.multilabel_soft_margin_loss)

LARGEST_LOG = 100.0
"""Where :func:`torch.nn.functional.binary_cross_entropy` cuts logarithms off."""

NORMED = 1e-2
"""How far a sum of probabilities may be from 1."""


class Prediction(Regression):
    """One number a row; explains it. The loss is any function of torch of it and the target.

    Args:
        function: The loss function of torch.
        options: Its options, without the reduction.
    """

    def __init__(self, function: Callable[..., Tensor], options: Mapping[str, Any]) -> None:
        self.function = function
        self.options = dict(options)
        self.loss_unit = "target units²" if function is F.mse_loss else "target units"

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return the loss of each row."""
        loss: Tensor = self.function(score, targets.reshape(-1).to(score), reduction="none", **self.options)
        return loss


@dataclass(frozen=True)
class LossTerm:
    """One loss of a step, row by row.

    Attributes:
        function: The loss function.
        options: Its options, without the reduction.
        reduction: How its losses become one number.
        task: What is explained of it; minus the loss of a row if ``None``.
        flattened: Whether rows and positions are one axis.
        positions_first: Whether positions are outside of rows on that axis.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any]
    reduction: str
    task: Task | None
    flattened: bool
    positions_first: bool = False

    @classmethod
    def of(cls, call: LossCall, num_rows: int) -> "LossTerm | None":
        """Say what a call explains; ``None`` if it is not about so many rows, or weighs rows by a tensor of its own."""
        outputs, targets = _elements(call)
        weight: Tensor | None = call.options.get("weight")
        weighs_rows = call.function in OVER_LABELS and weight is not None and weight.ndim == outputs.ndim and len(weight) > 1
        if not outputs.numel() or len(outputs) % num_rows or outputs.is_complex() or weighs_rows:
            return None
        flattened = len(outputs) != num_rows
        return cls(call.function, call.options, call.reduction, _task(call, outputs, targets, flattened), flattened)

    def __str__(self) -> str:
        return str(self.function.__name__)

    @property
    def is_about_classes(self) -> bool:
        """Whether it is a loss of classes, tokens, pixels or labels."""
        return self.function in OVER_CLASSES or self.function in OVER_LABELS

    def fits(self, call: LossCall) -> bool:
        """Whether the elements of another call can be those of one row."""
        return self.flattened or len(_elements(call)[0]) == 1

    def with_positions_first(self) -> "LossTerm":
        """Return the same for positions outside of rows."""
        return replace(self, positions_first=True)

    def rows(self, call: LossCall, num_rows: int) -> tuple[Tensor, Tensor]:
        """Arrange outputs and targets of a call by rows.

        Returns:
            Outputs ``[rows, ...]``, with the classes on the last axis, and targets ``[rows, ...]``.

        Raises:
            ValueError: If there are other numbers of elements than rows ask for.
        """
        outputs, targets = _elements(call)
        if len(outputs) % num_rows or (len(outputs) != num_rows and not self.flattened):
            raise ValueError(
                f"OwnStep: expected a multiple of {num_rows} rows in {call.name}, got {len(outputs)} elements: how many count "
                "depends on what is masked; choose other players or another baseline, or pass a task of your own"
            )
        return self._arranged(outputs, num_rows), self._arranged(targets, num_rows)

    def updated(self, call: LossCall, num_rows: int) -> "LossTerm":
        """Take up the options of a later call, such as a label smoothing that falls with the epoch."""
        if all(_same(option, call.options[name]) for name, option in self.options.items()):
            return self
        task = self.task
        if type(task) in (Classification, BinaryClassification, Prediction):
            task = _task(call, *_elements(call), flattened=len(_elements(call)[0]) != num_rows)
        return replace(self, options=call.options, task=task)

    def element_weights(self, gradient: Tensor, num_rows: int) -> Tensor | None:
        """Arrange by rows how much each element counts in what a step makes of losses without a reduction.

        Args:
            gradient: The derivative of the step's loss by each element.
            num_rows: Number of rows.

        Returns:
            ``[rows, ...]``: 0 and 1 where the step takes a mean of some, else what each is multiplied with in a mean of all;
            ``None`` for the mean of all.
        """
        arranged = self._arranged(gradient, num_rows)
        counting = gradient[gradient != 0]
        are_equal = bool(((counting - counting.mean()).abs() <= 1e-4 * counting.abs().mean()).all())
        if are_equal and abs(float(counting.sum()) - 1) <= 1e-3:
            return None if counting.numel() == gradient.numel() else (arranged != 0).float()
        return arranged * gradient.numel()

    def score(self, outputs: Tensor, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Return what is explained of each row."""
        if self.task is None:
            losses = self.losses(outputs, targets, element_weights)
            return -losses if self.reduction in ("sum", "batchmean") else -losses / self.weights(targets, element_weights)
        return self.task.score(self.logits(outputs), targets)

    def loss(
        self, score: Float[Tensor, " rows"], targets: Tensor, element_weights: Tensor | None = None
    ) -> Float[Tensor, " rows"] | None:
        """Return the loss of each row as a function of its score, as exactly as that can be; see :class:`Task`."""
        if self.task is None:
            weights = self.row_weights(targets, element_weights)
            return -score if weights is None else -score * (weights / weights.mean()).to(score)
        loss = self.task.loss(score, targets)
        if loss is None:
            return None
        if element_weights is not None and not _is_mask(element_weights):
            loss = (
                loss * element_weights.flatten(1).mean(dim=1).to(score)
                if element_weights.ndim > 1
                else loss * element_weights.to(score)
            )
        return loss * self.weights(targets).mean().to(score) if self.reduction in ("sum", "batchmean") else loss

    def losses(self, outputs: Tensor, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Compute the sum of each row's losses as the call does."""
        options = {name: value.to(outputs) if isinstance(value, Tensor) else value for name, value in self.options.items()}
        if targets.is_floating_point():
            targets = targets.to(outputs.dtype)
        if self.function in OVER_CLASSES:
            classes = outputs.shape[-1]
            targets = targets.reshape(-1, classes) if targets.is_floating_point() else targets.reshape(-1)
            outputs_by_element = outputs.reshape(-1, classes)
        else:
            outputs_by_element = outputs
        elements: Tensor = self.function(outputs_by_element, targets, reduction="none", **options)
        by_row = elements.reshape(len(outputs), -1)
        return (by_row if element_weights is None else by_row * element_weights.reshape(len(outputs), -1).to(by_row)).sum(dim=1)

    def weights(self, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Return the weight that each row has in a mean: how many elements count, or the sum of their class weights."""
        rows = len(targets)
        if element_weights is not None and _is_mask(element_weights):
            return element_weights.reshape(rows, -1).sum(dim=1)
        if self.function in OVER_CLASSES and not targets.is_floating_point():
            classes = targets.reshape(rows, -1)
            counts: Tensor = classes != self.options["ignore_index"]
            weight = self.options["weight"]
            of_classes: Tensor = (
                torch.ones_like(classes, dtype=torch.float32)
                if weight is None or self.reduction == "none"
                else weight.to(targets.device)[torch.where(counts, classes, 0)]
            )
            row_weights: Tensor = (of_classes * counts).sum(dim=1)
            return row_weights
        elements = 1 if self.function in OF_WHOLE_ROWS else targets[0].numel()
        if self.function in OVER_CLASSES:  # Probabilities as targets: the classes of a position count once.
            elements //= targets.shape[-1]
        return torch.full((rows,), float(elements), dtype=torch.float32, device=targets.device)

    def row_weights(self, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"] | None:
        """Return the weights of rows that :meth:`loss` norms to a mean of 1, if any."""
        if self.reduction in ("sum", "batchmean"):
            return None
        return self.weights(targets, element_weights) if self.task is None else self.task.row_weights(targets)

    def reduced(self, losses: Float[Tensor, " rows"], weights: Float[Tensor, " rows"]) -> Tensor:
        """Reduce sums of losses to the number that the call gives for these rows together; the mean for ``"none"``."""
        divisor = {"sum": 1.0, "batchmean": float(len(losses))}.get(self.reduction)
        return losses.sum() / (weights.sum().to(losses) if divisor is None else divisor)

    def by_row(self, losses: Float[Tensor, " rows"], weights: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Give each row its part, such that the mean over the rows that are measured together is their loss.

        For a sum it is the row's own sum.
        """
        return losses if self.reduction in ("sum", "batchmean") else losses / weights.mean()

    def check(self, outputs: Tensor) -> None:
        """Refuse a negative log-likelihood of what are no log-probabilities.

        Raises:
            ValueError: If the last axis does not hold the logarithms of probabilities.
        """
        total = outputs.double().logsumexp(dim=-1) if self.function is F.nll_loss else torch.zeros(1)
        if not bool((total.abs() <= math.log1p(NORMED)).all()):
            raise ValueError(
                "OwnStep: nll_loss expects log-probabilities, whose exponentials sum to 1, got sums from "
                f"{total.min().exp().item():.3g} to {total.max().exp().item():.3g}; use cross_entropy for logits, or "
                "log_softmax before nll_loss"
            )

    def logits(self, outputs: Tensor) -> Tensor:
        """Turn what the loss takes into logits: probabilities of labels into their log-odds."""
        if self.function is F.binary_cross_entropy:
            return outputs.log().clamp(min=-LARGEST_LOG) - (-outputs).log1p().clamp(min=-LARGEST_LOG)
        return outputs

    def _arranged(self, elements: Tensor, num_rows: int) -> Tensor:
        if not self.flattened:
            return elements
        if self.positions_first:
            return elements.reshape(-1, num_rows, *elements.shape[1:]).transpose(0, 1)
        return elements.reshape(num_rows, -1, *elements.shape[1:])


def _same(option: Any, other: Any) -> bool:
    if isinstance(option, Tensor) and isinstance(other, Tensor):
        return option.shape == other.shape and bool(torch.equal(option, other.to(option.device)))
    return bool(option == other) if not isinstance(other, Tensor) and not isinstance(option, Tensor) else False


def _is_mask(element_weights: Tensor) -> bool:
    return bool(((element_weights == 0) | (element_weights == 1)).all())


def _elements(call: LossCall) -> tuple[Tensor, Tensor]:
    """Put the classes of a call last, and outputs and targets into one shape."""
    outputs, targets = call.outputs, call.targets
    if call.function in OVER_CLASSES:
        soft = targets.is_floating_point()
        if outputs.ndim == 1:
            outputs, targets = outputs[None], targets[None]
        return outputs.movedim(1, -1), targets.movedim(1, -1) if soft else targets
    if call.function in (*OF_NUMBERS, *OVER_LABELS) and outputs.shape != targets.shape:
        outputs, targets = torch.broadcast_tensors(outputs, targets)
    return (outputs, targets) if outputs.ndim else (outputs[None], targets[None])


def _task(call: LossCall, outputs: Tensor, targets: Tensor, flattened: bool) -> Task | None:
    """Choose what is explained; ``None`` for minus the loss."""
    options = call.options
    if call.function in OVER_CLASSES:
        one_position = outputs.ndim == 2 and not flattened
        if targets.is_floating_point():
            return SoftClassification() if one_position and options["weight"] is None else None
        if not one_position:
            return TokenClassification(options["ignore_index"])
        return Classification(options["weight"], options.get("label_smoothing", 0.0), outputs.shape[-1])
    one_number = outputs.numel() == len(outputs) and not flattened
    if call.function in OVER_LABELS:
        pos_weight = options.get("pos_weight")
        if one_number:
            return BinaryClassification(1.0 if pos_weight is None else float(pos_weight))
        if not bool(((targets == 0) | (targets == 1)).all()):
            return None
        return TokenClassification() if flattened or outputs.ndim > 2 else MultiLabel()
    return Prediction(call.function, options) if call.function in OF_NUMBERS and one_number else None
