"""Tasks: where a batch has its inputs and targets, how the model runs on them, what is explained and what is minimised."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_interactions.game.scores import joint_log_odds, log_odds, prediction, soft_log_odds
from lightning_interactions.records import ProbeGroup, Probes, Rows
from lightning_interactions.records.describe import describe

__all__ = [
    "BinaryClassification",
    "Classification",
    "MultiLabel",
    "Regression",
    "SoftClassification",
    "Task",
    "TokenClassification",
]


class Task(ABC):
    """What differs between projects. A task of your own takes five lines::

        class Captioned(tasks.Classification):
            def unpack(self, batch):
                return batch["image"], batch["label"]

            def forward(self, model, inputs):
                return model(inputs)["logits"]

    Inputs and targets are trees of tensors (a tensor, or tuples, dicts and dataclasses of them) whose first axis is the row.
    """

    score_is_log_odds: bool = False
    """Whether the score is the log-odds of a label, in nats, so that a negative one means that the label is unlikely."""

    score_depends_on_targets: bool = True
    """Whether the same outputs have other scores for other targets."""

    loss_unit: str = ""
    """Unit of the loss, for labels."""

    is_ready: bool = True
    """Whether inputs and targets can be told apart without a model."""

    largest_batch: int | None = None
    """Most rows that may be run together; ``None`` for any number."""

    outputs_depend_on_targets: bool = False
    """Whether the outputs are others for other targets, as with a margin on the logit of the label."""

    def __repr__(self) -> str:
        return describe(self)

    @property
    def knows_loss(self) -> bool:
        """Whether the task has a loss of its own."""
        return type(self).loss is not Task.loss

    def unpack(self, batch: Any) -> tuple[Any, Any]:
        """Find inputs and targets in a batch; batches ``(inputs, targets)`` unless overridden.

        Raises:
            ValueError: If the batch is no pair.
        """
        if isinstance(batch, Sequence) and len(batch) == 2 and not isinstance(batch, str):
            return batch[0], batch[1]
        got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, Collection) else type(batch).__name__
        raise ValueError(
            f"task: expected batches (inputs, targets), got {got}; say where they are with a task of your own:\n"
            "    class MyTask(tasks.Classification):\n"
            "        def unpack(self, batch):\n"
            "            return batch['image'], batch['label']\n"
            "    InteractionMonitor(task=MyTask())"
        )

    def read(self, model: nn.Module, batch: Rows) -> Probes:
        """Find inputs and targets of a whole batch.

        Args:
            model: The model that will be measured; a step of its own may say what the loss gets.
            batch: The batch, on the model's device.

        Raises:
            ValueError: If there are none, or not one target for each input.
        """
        return Probes.of(self.unpack(batch.tree))

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """Run the model; ``model(inputs)`` unless overridden."""
        return model(inputs)

    @abstractmethod
    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the scalar that is explained, one for each row.

        Raises:
            ValueError: If outputs or targets are not what the score is defined for.
        """

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"] | None:
        """Return what training minimises as a function of the score, such that its mean is the loss of training.

        Args:
            score: Finite scores, float64 on the CPU.
            targets: Their targets on the CPU.

        Returns:
            One number a row; ``None``, unless overridden, where the loss is not known: losses and gaps are then NaN.
        """
        return None

    def row_weights(self, targets: Any) -> Float[Tensor, " rows"] | None:
        """Return the weights of rows that :meth:`loss` norms to a mean of 1; ``None``, unless overridden, for none."""
        return None

    def exact_losses(self, outputs: Any, targets: Any) -> Float[Tensor, "rows 2"] | None:
        """Return what training minimises as a function of the outputs, where it is no function of the score.

        Args:
            outputs: What :meth:`forward` returned.
            targets: Their targets.

        Returns:
            The sum of each row's losses and the weight that it has in a mean over rows; ``None``, unless overridden, where
            :meth:`loss` says all.
        """
        return None

    def reduce_exact(self, losses: Float[Tensor, "rows 2"]) -> Float[Tensor, " rows"]:
        """Make of :meth:`exact_losses` of all rows that are measured together losses whose mean is that of training."""
        return losses[:, 0] / losses[:, 1].mean()

    def begin(self, state: Mapping[str, Any] | None = None) -> None:  # noqa: B027 - most tasks find nothing out
        """Forget what was found out about another model; go on with what is saved, if anything is."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was found out and must stay the same in a run that is gone on with, in primitives."""
        return {}

    def rows(self, batch: Any) -> Rows:
        """Take a whole batch for rows, for :meth:`read`; without names where only :meth:`unpack` knows them."""
        try:
            return Rows.of(batch)
        except ValueError:
            return Rows(batch, 0, {})

    def inputs(self, batch: Any) -> Rows:
        """Find the inputs of a batch, as :meth:`read` does, without running a model."""
        return Rows.of(self.unpack(batch)[0])

    def given(self, model: nn.Module, inputs: Any, targets: Any = None) -> tuple[Probes, Int[Tensor, " probes"], int]:
        """Take rows that are handed in, on the model's device.

        Args:
            model: The model, in evaluation mode.
            inputs: Inputs as the model takes them; a whole batch of the loader if there are no targets beside it.
            targets: Their targets.

        Returns:
            Probes, which of the rows each of them is, and the number of rows: the task may group rows and leave some out.
        """
        probes = Probes.of(self.unpack(inputs) if targets is None else (inputs, targets))
        return probes, torch.arange(len(probes)), len(probes)

    def scores(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Run the model and score its outputs, ``[rows]`` in float32 or wider."""
        return self.score(widened(self.forward(model, inputs)), targets)

    def mean_loss(self, model: nn.Module, groups: Iterable[ProbeGroup]) -> float:
        """Compute the mean loss of rows, as exactly as the task knows it; rows whose loss is not finite count, too.

        Args:
            model: The model.
            groups: Inputs with targets, on its device; each is run at once, or in parts where rows must be run alone.
        """
        parts = (part for group in groups for part in group.split(self.largest_batch))
        if type(self).exact_losses is not Task.exact_losses:
            outputs = ((widened(self.forward(model, part.inputs.tree)), part.targets.tree) for part in parts)
            exact = [self.exact_losses(*own) for own in outputs]
            return float(self.reduce_exact(torch.cat([one.cpu().double() for one in exact if one is not None])).mean())
        # A loss may depend on the targets of all rows, such as on the sum of their weights.
        of_kind: dict[Any, list[tuple[Tensor, Rows]]] = {}
        for part in parts:
            score = self.scores(model, part.inputs.tree, part.targets.tree).cpu().double()
            of_kind.setdefault(part.targets.kind, []).append((score, part.targets.to("cpu")))
        together = [([score for score, _ in own], own[0][1].join([rows for _, rows in own[1:]])) for own in of_kind.values()]
        return float(self.losses_of_kinds([torch.cat(scores) for scores, _ in together], [own for _, own in together]).mean())

    def losses_of_kinds(self, scores: Sequence[Float[Tensor, " _"]], targets: Sequence[Rows]) -> Float[Tensor, " rows"]:
        """Apply the loss to rows of several kinds of targets, such as of several lengths.

        Args:
            scores: Scores for each kind; see :meth:`losses`.
            targets: The targets for each kind.

        Returns:
            Losses of all rows; what the loss norms over rows is normed over all of them.
        """
        losses = [self.losses(score, own) for score, own in zip(scores, targets, strict=True)]
        weights = [self.row_weights(own.tree) for own in targets]
        counting = [own.cpu().double()[score.isfinite()] for own, score in zip(weights, scores, strict=True) if own is not None]
        if len(losses) > 1 and len(counting) == len(losses):
            overall = torch.cat(counting).mean()
            losses = [loss * (own.mean() / overall) if len(own) else loss for loss, own in zip(losses, counting, strict=True)]
        return torch.cat(losses)

    def losses(self, score: Float[Tensor, " rows"], targets: Rows) -> Float[Tensor, " rows"]:
        """Apply the loss to the rows with finite scores.

        Args:
            score: Scores, float64 on the CPU; NaN for a row that is left out.
            targets: One for each row, on any device.

        Returns:
            Losses, NaN where a row is left out, and everywhere where the loss is not known.

        Raises:
            ValueError: If the loss does not give one number for each row.
        """
        losses = torch.full_like(score, torch.nan)
        finite = score.isfinite()
        if not bool(finite.any()):
            return losses
        found = self.loss(score[finite], targets.select(finite).to("cpu").tree)
        if found is None:
            return losses
        if not isinstance(found, Tensor) or found.shape != score[finite].shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"loss: expected one number for each of {int(finite.sum())} inputs, a tensor [inputs], got {got}; take no mean "
                "over inputs (reduction='none'), and reshape targets [inputs, 1] to [inputs]"
            )
        losses[finite] = found.detach().to(losses)
        return losses


def widened(outputs: Any) -> Any:
    """Convert a narrow floating-point tensor to float32, and leave anything else as it is."""
    narrow = isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.dtype.itemsize < 4
    return outputs.float() if narrow else outputs


class Classification(Task):
    """One class out of several (or of two, by one logit); explains the log-odds ``v`` of the target class.

    - The loss is the cross-entropy: exactly ``softplus(-v)``.
    - With class weights it is ``w_y softplus(-v)`` over the mean weight of the inputs that are measured together. A mean
      over them is then ``Σ w_y l / Σ w_y``, PyTorch's weighted mean, exactly; an input of a heavy class counts more.
    - With label smoothing the probabilities of the other classes count too, and ``v`` only tells their sum: they are assumed
      to be equal, ``(1 - p)/(C - 1)`` each. That is exact for two classes and where the other logits are equal, else a lower
      bound.

    Args:
        class_weights: ``[classes]``, at least 0; the ``weight`` of :func:`torch.nn.functional.cross_entropy`.
        label_smoothing: Part of each target that is spread evenly over all classes, in [0, 1].
        num_classes: Number of classes ``C``; needed for label smoothing without class weights.

    Raises:
        ValueError: If these are not such numbers, or do not agree; or, when called, if a label has no weight.

    Source:
        He et al. 2025 (arXiv 2505.06993), the scalar output; Szegedy et al. 2016 (arXiv 1512.00567), label smoothing.
    """

    score_is_log_odds = True
    loss_unit = "nats"

    def __init__(
        self,
        class_weights: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"Classification: expected label_smoothing in [0, 1], got {label_smoothing}")
        weights = None
        if class_weights is not None:
            weights = torch.as_tensor(class_weights, dtype=torch.float64)
            if weights.ndim != 1 or not bool((weights >= 0).all()) or num_classes not in (None, len(weights)):
                raise ValueError(
                    "Classification: expected class_weights of at least 0, one for each class, got "
                    f"{weights.tolist()} and num_classes={num_classes}"
                )
        elif label_smoothing and (num_classes is None or num_classes < 2):
            raise ValueError(
                f"Classification: label_smoothing={label_smoothing} needs the number of classes, got "
                f"num_classes={num_classes}; pass num_classes=10 or the like"
            )
        self.class_weights = None if weights is None else tuple(weights.tolist())
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the log-odds of the target class, nats; see :func:`~lightning_interactions.game.scores.log_odds`."""
        return log_odds(outputs, targets)

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return the cross-entropy of each row in nats; see the class."""
        losses, weights = self.weighted_losses(score, targets)
        return losses if self.class_weights is None else losses / weights.mean()

    def weighted_losses(
        self, score: Float[Tensor, " rows"], targets: Any
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Return losses in nats, multiplied with the weights of their classes, and these weights."""
        of_target = torch.nn.functional.softplus(-score)
        if self.class_weights is None and not self.label_smoothing:
            return of_target, torch.ones_like(of_target)
        own_or_equal = (1.0,) * (self.num_classes or 0) if self.class_weights is None else self.class_weights
        weights = torch.tensor(own_or_equal, dtype=torch.float64).to(score)
        classes = _classes(targets).to(score.device)
        outside = (classes < 0) | (classes >= len(weights))
        if len(classes) != len(score) or bool(outside.any()):
            raise ValueError(
                f"Classification: expected one label from 0 to {len(weights) - 1} for each of {len(score)} inputs, got "
                f"{classes[outside][:5].tolist() or tuple(targets.shape)}; pass one class weight for each "
                "class, or the right num_classes"
            )
        own = weights[classes]
        loss = (1 - self.label_smoothing) * own * of_target
        if self.label_smoothing:
            # -log of the probability of each other class, if they are equal.
            of_other = torch.nn.functional.softplus(score) + torch.tensor(len(weights) - 1).to(score).log()
            loss = loss + self.label_smoothing / len(weights) * (own * of_target + (weights.sum() - own) * of_other)
        return loss, own

    def row_weights(self, targets: Any) -> Float[Tensor, " rows"] | None:
        """Return the weight of each row's class, if there are class weights."""
        return None if self.class_weights is None else torch.tensor(self.class_weights)[_classes(targets).cpu()]


def _classes(targets: Tensor) -> Tensor:
    return targets.reshape(-1).long()


class BinaryClassification(Classification):
    """Two classes by one logit ``z``; explains ``±z``, the log-odds of the more likely target class.

    The loss is that of :class:`torch.nn.BCEWithLogitsLoss`: ``softplus(-v)``, times ``pos_weight`` where the target is 1. A
    target between 0 and 1 is the probability of class 1.

    Args:
        pos_weight: Weight of class 1, above 0.

    Raises:
        ValueError: If the weight is not above 0; or, when called, if there is more than one logit an input, or a target is not
            in [0, 1].
    """

    def __init__(self, pos_weight: float = 1.0) -> None:
        if not pos_weight > 0:
            raise ValueError(f"BinaryClassification: expected pos_weight above 0, got {pos_weight}")
        super().__init__()
        self.pos_weight = pos_weight

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the log-odds of the target class, nats."""
        soft = targets.is_floating_point() and bool(((targets >= 0) & (targets <= 1)).all())
        score = super().score(outputs, (targets >= 0.5).long() if soft else targets)
        if outputs.numel() != len(outputs):
            raise ValueError(
                f"BinaryClassification: expected one logit for each input, got shape {tuple(outputs.shape)}; pass "
                "task=tasks.Classification() for one logit a class"
            )
        return score

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return the weighted binary cross-entropy of each row in nats."""
        positive: Tensor = targets.reshape(-1).to(score)
        logit = torch.where(positive >= 0.5, score, -score)
        softplus = torch.nn.functional.softplus
        return self.pos_weight * positive * softplus(-logit) + (1 - positive) * softplus(logit)


class SoftClassification(Task):
    """Probabilities of classes as targets; explains ``v = -log(e^l - 1)`` with ``l`` the cross-entropy of a row.

    Where one class has probability 1, that is the log-odds of this class. The loss is exactly ``softplus(-v)``.
    """

    score_is_log_odds = True
    loss_unit = "nats"

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the score of each row, nats; see :func:`~lightning_interactions.game.scores.soft_log_odds`."""
        return soft_log_odds(outputs, targets)

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return the cross-entropy of each row in nats."""
        return torch.nn.functional.softplus(-score)


class TokenClassification(Task):
    """One class for each position of a row, such as tokens or pixels; explains the sum of their log-odds.

    The loss is the mean cross-entropy over all positions that are measured together. That of a row is a function of all its
    log-odds; as a function of their sum it is that of equal ones, a lower bound.

    Args:
        ignore_index: Target of positions that do not count.

    Source:
        Cheng et al. 2025 (arXiv 2502.10162) explain such sums for language models.
    """

    score_is_log_odds = True
    loss_unit = "nats"

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the sum of the log-odds of the target classes, nats.

        Args:
            outputs: Logits ``[rows, positions, classes]``, or one logit for two classes ``[rows, positions]``.
            targets: Classes ``[rows, positions]``.
        """
        counts = targets != self.ignore_index
        logits = outputs.reshape(targets.numel(), -1)
        of_position = log_odds(logits, torch.where(counts, targets, 0).reshape(-1)).reshape(targets.shape)
        return torch.where(counts, of_position, 0).flatten(1).sum(dim=1)

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return each row's part of the mean cross-entropy, nats, if all its positions had the same log-odds."""
        positions = self.row_weights(targets).to(score)
        return positions * torch.nn.functional.softplus(-score / positions.clamp(min=1)) / positions.mean().clamp(min=1e-300)

    def row_weights(self, targets: Any) -> Float[Tensor, " rows"]:
        """Return how many positions of each row count."""
        positions: Tensor = (targets != self.ignore_index).flatten(1).sum(dim=1).float()
        return positions


class MultiLabel(Task):
    """Several labels that an input may have or not, one logit each; explains the log-odds that all of them are right.

    The loss is that of :class:`torch.nn.BCEWithLogitsLoss`: the mean of the labels' cross-entropies, exactly
    ``softplus(-v)`` over their number.
    """

    score_is_log_odds = True
    loss_unit = "nats"

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the joint log-odds, nats; see :func:`~lightning_interactions.game.scores.joint_log_odds`."""
        return joint_log_odds(outputs, targets)

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return the mean binary cross-entropy of each row in nats."""
        num_labels: int = targets.shape[1]
        return -torch.nn.functional.logsigmoid(score) / num_labels


class Regression(Task):
    """One number an input; explains the prediction ``v`` itself. The loss is the squared error ``(v - y)²``."""

    score_depends_on_targets = False
    loss_unit = "target units²"

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the prediction in target units; see :func:`~lightning_interactions.game.scores.prediction`."""
        return prediction(outputs, targets)

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"]:
        """Return the squared error of each row.

        Raises:
            ValueError: If there is not one target for each row.
        """
        if targets.numel() != len(score) or targets.ndim == 0:
            raise ValueError(
                f"Regression: expected one target for each of {len(score)} inputs, got shape {tuple(targets.shape)}; pick one "
                "in the task's unpack(batch), such as return batch[0], batch[1][:, 0]"
            )
        numbers: Tensor = targets.reshape(-1).to(score)
        return (score - numbers).square()
