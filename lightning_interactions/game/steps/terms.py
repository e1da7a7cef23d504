"""What a call of a loss function says of the rows of a batch.

A loss function makes a number of each *element*: of a row, or of a position of it, or of each of its numbers. Per function:

==========================================  ==========  ==========================================  ==========================
function                                    an element  counts if                                   a mean divides by
==========================================  ==========  ==========================================  ==========================
``cross_entropy``, ``nll_loss``             a position  its target is not ignored, its class        the sum of those elements'
                                                        has a weight                                class weights
``cross_entropy`` of probabilities          a position  always                                      the number of elements
the three multi-margin losses               a position  always                                      the number of elements
all others                                  a number    always                                      the number of elements
==========================================  ==========  ==========================================  ==========================

The reduction makes one number of the elements of all rows:

- ``"mean"`` divides their sum as above, ``"batchmean"`` by the length of the first axis, ``"sum"`` by nothing;
- ``"none"`` leaves it to the step, of which :meth:`LossTerm.element_weights` is told the derivative: it adds the elements up,
  takes a mean of some, or a mean of all with a factor for each, whether they count or not.

A row is left out where none of its elements counts, whatever a mean divides by (:meth:`LossTerm.counts`,
:meth:`LossTerm.divides`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
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

__all__ = ["LossTerm", "Prediction", "weighs_rows"]

OVER_CLASSES = (F.cross_entropy, F.nll_loss)
OVER_LABELS = (F.binary_cross_entropy_with_logits, F.binary_cross_entropy)
OF_NUMBERS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
OF_SEVERAL_LABELS = (F.multilabel_margin_loss, F.multilabel_soft_margin_loss)

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
        reduction: How its losses become one number; ``"none"`` if the step says that.
        task: What is explained of it; minus the loss of a row if ``None``.
        num_classes: Number of classes, where it is about classes.
        flattened: Whether rows and positions are one axis.
        positions_first: Whether positions are outside of rows on that axis.
        adds_up: Whether the step adds up losses without a reduction, whatever their number.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any]
    reduction: str
    task: Task | None
    num_classes: int
    flattened: bool
    positions_first: bool = False
    adds_up: bool = False

    @classmethod
    def of(cls, call: LossCall, num_rows: int) -> "LossTerm | None":
        """Say what a call explains; ``None`` if it is not about so many rows, or weighs rows by a tensor of its own."""
        outputs, targets = _elements(call)
        if not outputs.numel() or len(outputs) % num_rows or outputs.is_complex() or weighs_rows(call):
            return None
        flattened = len(outputs) != num_rows
        task = _task(call, outputs, targets, flattened)
        return cls(call.function, call.options, call.reduction, task, outputs.shape[-1], flattened)

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

    @property
    def is_sum(self) -> bool:
        """Whether the losses of rows are added up, whatever their number."""
        return self.reduction == "sum" or self.adds_up

    @property
    def is_one_number(self) -> bool:
        """Whether each row has one element, and all count the same, so that a row's loss is the same in a sum and a mean."""
        one_element = isinstance(self.task, (Classification, SoftClassification, Prediction))
        return one_element and self.options.get("weight") is None

    def element_weights(self, gradient: Tensor, targets: Tensor) -> Tensor | None:
        """Arrange by rows how much each element counts in what a step makes of losses without a reduction.

        Args:
            gradient: The derivative of the step's loss by each element.
            targets: Targets ``[rows, ...]``, as :meth:`rows` gives them.

        Returns:
            ``[rows, ...]``: of a sum what each element is multiplied with; whether each is one of those of which the step takes
            a mean; else, in floating point, what each is multiplied with in a mean of all. ``None`` where each counts as much
            as any other, in a sum or a mean of all.
        """
        arranged = self._arranged(gradient, len(targets))
        if self.adds_up:
            return None if bool((arranged == 1).all()) else arranged
        counting = (arranged != 0) & self.counts(targets).reshape(arranged.shape)
        for some in (torch.ones_like(counting), counting):
            those = arranged[some]
            if _are_constant(those) and abs(float(those.sum()) - 1) <= 1e-3:
                return None if bool(some.all()) else some
        return arranged * gradient.numel()

    def counts(self, targets: Tensor, element_weights: Tensor | None = None) -> Bool[Tensor, "rows elements"]:
        """Say of each element of each row whether it counts at all; see the table above."""
        rows = len(targets)
        if self._is_of_class_indices(targets):
            counts = self._class_weights(targets) > 0
        else:
            counts = torch.ones(rows, self._num_elements(targets), dtype=torch.bool, device=targets.device)
        return counts if element_weights is None else counts & (element_weights.reshape(rows, -1) != 0).to(counts.device)

    def divides(self, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Return each row's part of the number by which the sum of losses is divided: 1 if it is not; see the table above."""
        rows = len(targets)
        if self.reduction == "mean" and self._is_of_class_indices(targets):
            return self._class_weights(targets).sum(dim=1)
        if element_weights is not None and element_weights.dtype == torch.bool:
            return element_weights.reshape(rows, -1).sum(dim=1).float()
        own = 1 if self.is_sum else self._num_elements(targets)
        if self.reduction == "batchmean":
            own = targets.shape[1] if self.flattened else 1
        return torch.full((rows,), float(own), device=targets.device)

    def score(self, outputs: Tensor, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Return what is explained of each row."""
        if self.task is None:
            losses = self.losses(outputs, targets, element_weights)
            return -losses / self.divides(targets, element_weights).to(losses)
        return self.task.score(self.logits(outputs), targets)

    def loss(
        self, score: Float[Tensor, " rows"], targets: Tensor, element_weights: Tensor | None = None
    ) -> Float[Tensor, " rows"]:
        """Return the loss of each row as a function of its score, as exactly as that can be; see :class:`Task`.

        Where a row has several elements beside one score, it is that of elements with equal log-odds.
        """
        divides = self.divides(targets, element_weights).to(score)
        losses = -score * divides if self.task is None else self._losses_of_score(score, targets, element_weights)
        return losses / divides.mean()

    def losses(self, outputs: Tensor, targets: Tensor, element_weights: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Compute the sum of each row's losses as the call does."""
        options = {name: value.to(outputs) if isinstance(value, Tensor) else value for name, value in self.options.items()}
        if targets.is_floating_point():
            targets = targets.to(outputs.dtype)
        if self.function in (*OVER_CLASSES, *OF_SEVERAL_LABELS, F.multi_margin_loss):
            classes = outputs.shape[-1]
            targets = targets.reshape(-1) if targets.ndim < outputs.ndim else targets.reshape(-1, classes)
            outputs_by_element = outputs.reshape(-1, classes)
        else:
            outputs_by_element = outputs
        elements: Tensor = self.function(outputs_by_element, targets, reduction="none", **options)
        return _weighted(elements.reshape(len(outputs), -1), element_weights).sum(dim=1)

    def reduced(self, losses: Float[Tensor, " rows"], divides: Float[Tensor, " rows"]) -> Tensor:
        """Reduce sums of losses to the number that the call gives for these rows together."""
        return losses.sum() if self.is_sum else losses.sum() / divides.sum().to(losses)

    def check(self, outputs: Tensor) -> None:
        """Refuse a negative log-likelihood of what are no log-probabilities.

        Raises:
            ValueError: If the last axis does not hold the logarithms of probabilities.
        """
        total = outputs.cpu().double().logsumexp(dim=-1) if self.function is F.nll_loss else torch.zeros(1)
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

    def _losses_of_score(
        self, score: Float[Tensor, " rows"], targets: Tensor, element_weights: Tensor | None
    ) -> Float[Tensor, " rows"]:
        """Return the sum of each row's losses where all its elements have equal log-odds, which add up to the score."""
        if isinstance(self.task, (MultiLabel, SoftClassification, Prediction)):
            weight = self.options.get("weight")
            joint = self.task.loss(score, targets) if isinstance(self.task, Prediction) else -F.logsigmoid(score)
            joint = joint if weight is None else joint * weight.flatten()[0].to(score)
            # All elements of a row count the same: for others several labels have no joint log-odds.
            of_row = None if element_weights is None else element_weights.reshape(len(score), -1)[:, :1]
            return _weighted(joint[:, None], of_row)[:, 0]
        counts = self.counts(targets, element_weights)
        of_element = (score[:, None] / counts.sum(dim=1, keepdim=True).clamp(min=1)).expand(counts.shape)
        if self._is_of_class_indices(targets):
            of_one = Classification(self.options["weight"], self.options.get("label_smoothing", 0.0), self.num_classes)
            classes = torch.where(counts, targets.reshape(counts.shape), 0)
            losses, _ = of_one.weighted_losses(of_element.reshape(-1), classes.reshape(-1))
            return _weighted(losses.reshape(counts.shape) * counts, element_weights).sum(dim=1)
        of_element = of_element.reshape(targets.shape)
        if self.function in OVER_LABELS:
            logits = torch.where(targets >= 0.5, of_element, -of_element)
            of_element = logits.sigmoid() if self.function is F.binary_cross_entropy else logits
        return self.losses(of_element, targets, element_weights)

    def _is_of_class_indices(self, targets: Tensor) -> bool:
        return self.function in OVER_CLASSES and not targets.is_floating_point()

    def _class_weights(self, targets: Tensor) -> Float[Tensor, "rows elements"]:
        """Return the weight of each position's class; 0 where the target is ignored."""
        classes = targets.reshape(len(targets), -1)
        counts: Tensor = classes != self.options["ignore_index"]
        weight = self.options["weight"]
        return counts.float() if weight is None else weight.to(targets.device)[torch.where(counts, classes, 0)] * counts

    def _num_elements(self, targets: Tensor) -> int:
        """Return how many numbers the function gives for a row without a reduction."""
        has_classes = self.function in (*OVER_CLASSES, *OF_SEVERAL_LABELS) and not self._is_of_class_indices(targets)
        return targets[0].numel() // (targets.shape[-1] if has_classes else 1)

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


def _weighted(elements: Float[Tensor, "rows elements"], element_weights: Tensor | None) -> Float[Tensor, "rows elements"]:
    return elements if element_weights is None else elements * element_weights.reshape(len(elements), -1).to(elements)


def _are_constant(numbers: Tensor) -> bool:
    return bool(((numbers - numbers.mean()).abs() <= 1e-4 * numbers.abs().mean()).all())


def weighs_rows(call: LossCall) -> bool:
    """Whether a call has a tensor of weights with a number for each row, of which nothing says how it goes on."""
    weight: Tensor | None = call.options.get("weight")
    if weight is None:
        return False
    if call.function in OVER_LABELS:
        return weight.ndim == _elements(call)[0].ndim and len(weight) > 1
    return call.function in OF_NUMBERS


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
    weight = options.get("weight")
    if call.function in OVER_CLASSES:
        one_position = outputs.ndim == 2 and not flattened
        smoothing = options.get("label_smoothing", 0.0)
        if targets.is_floating_point():
            return SoftClassification() if one_position and weight is None and not smoothing else None
        if not one_position:
            return TokenClassification(options["ignore_index"])
        return Classification(weight, smoothing, outputs.shape[-1])
    one_number = outputs.numel() == len(outputs) and not flattened
    if call.function in OVER_LABELS:
        pos_weight = options.get("pos_weight")
        if one_number:
            return BinaryClassification(1.0 if pos_weight is None else float(pos_weight))
        if not bool(((targets == 0) | (targets == 1)).all()):
            return None
        if flattened or outputs.ndim > 2:
            return TokenClassification()
        # The joint log-odds only tell the sum of the labels' losses.
        weigh_the_same = pos_weight is None or bool((pos_weight == 1).all())
        return MultiLabel() if weigh_the_same and (weight is None or bool((weight == weight.flatten()[0]).all())) else None
    return Prediction(call.function, options) if call.function in OF_NUMBERS and one_number else None
