"""Other early-stopping rules, from their papers: a yardstick for stopping at the onset of phase three.

A measure gives one number after every epoch, :class:`RuleStopping` keeps these numbers as a curve, and a rule is a pure
function from the curve to a :class:`Stop`::

    stopping = RuleStopping(ValidationLoss(inputs, labels), partial(stop_by_patience, patience=5))
    L.Trainer(callbacks=[stopping]).fit(model, loader)
    stopping.stop.stopped, stopping.stop.kept, stopping.seconds

======================  ==========================================  =====================================
measure                 rule                                        source
======================  ==========================================  =====================================
``ValidationLoss``      ``stop_by_patience``                        Prechelt, Early stopping, but when?
``PredictionChanges``   ``stop_by_label_wave``                      Yuan et al., arXiv 2502.07551
``GradientDisparity``   ``stop_by_gradient_disparity``              Forouzesh and Thiran, arXiv 2107.06665
``EvidenceCriterion``   ``stop_by_evidence_criterion``              Mahsereci et al., arXiv 1703.09580
``ValidationLoss``      ``best_epoch`` on test data                 none: it looks at the test data
``Accuracy``            ``best_epoch(largest=True)`` on test data   none: it looks at the test data
======================  ==========================================  =====================================

Two rules are left out because we know no more of them than abstracts say, and will not guess at the rest: GradStop (arXiv
2508.19028) and the cosine distance of two networks' last layers (CDC, arXiv 2208.09529). Rules that need other trainings are
in ``rules.py``.

Number ``i`` of a curve, from 0, belongs to ``i + 1`` completed epochs. A number that is not a number is neither an improvement
nor an increase.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_interactions.measuring.isolation import shadowed

__all__ = [
    "Accuracy",
    "CalibratedLoss",
    "EvidenceCriterion",
    "GradientDisparity",
    "PredictionChanges",
    "RuleStopping",
    "Stop",
    "ValidationLoss",
    "best_epoch",
    "evidence_criterion",
    "gradient_disparity",
    "stop_by_evidence_criterion",
    "stop_by_gradient_disparity",
    "stop_by_label_wave",
    "stop_by_patience",
]


@dataclass(frozen=True)
class Stop:
    """What a rule says about a curve.

    Attributes:
        stopped: Completed epochs when the training ends; ``None`` if the rule has not fired.
        kept: Completed epochs of the weights that are returned; those at the end of the curve if nothing speaks for others.
    """

    stopped: int | None
    kept: int


Measure = Callable[[L.LightningModule], float]
Rule = Callable[[Sequence[float]], Stop]


def stop_by_patience(losses: Sequence[float], patience: int = 3) -> Stop:
    """Stop when ``patience`` epochs in a row had no loss below the smallest one so far; keep the weights of the smallest one.

    The criterion UP of Prechelt (1998), "Early stopping, but when?", section 2, counts strips with a growing error. What is
    counted here is what Lightning's ``EarlyStopping`` counts with ``min_delta=0`` and ``check_finite=False``.

    Args:
        losses: On validation data, one an epoch.
        patience: Epochs in a row without a strictly smaller loss.
    """
    best, smallest, waited = None, math.inf, 0
    for epoch, loss in enumerate(losses, start=1):
        if loss < smallest:
            best, smallest, waited = epoch, loss, 0
        else:
            waited += 1
        if waited == patience:
            return Stop(epoch, best or epoch)
    return Stop(None, best or len(losses))


def stop_by_label_wave(changes: Sequence[float], window: int = 3, patience: int = 1) -> Stop:
    """Stop at the first local minimum of the moving average of the prediction changes, and keep its weights.

    Yuan, Feng and Liu (ICLR 2024, arXiv 2502.07551), "Early stopping against label noise without validation data". From the
    paper: the average is of the last ``window`` epochs (equation 3), its first local minimum counts (equation 4), and algorithm
    1 finds it: a smaller average than all before is a new minimum whose weights are stored, and after ``patience`` other
    averages, of equal ones too, the training stops. Not in the paper, so decided here:

    - ``window``: none is recommended; 3 has the strongest correlation with test accuracy of the paper's 1, 2, 3, 5 and 10.
    - ``patience``: algorithm 1 leaves it open; 1 is equation 4 to the letter, and larger ones confirm a minimum.
    - Only full windows count, so the first average belongs to ``window + 1`` completed epochs.

    Args:
        changes: :class:`PredictionChanges`, one an epoch; the first is ignored, because no epoch comes before it.
        window: Epochs of the moving average; the paper's k.
        patience: Averages in a row that are not below the smallest one; the paper's p.
    """
    averages = [sum(changes[end - window : end]) / window for end in range(window + 1, len(changes) + 1)]
    stop, before = stop_by_patience(averages, patience), len(changes) - len(averages)
    return Stop(None if stop.stopped is None else stop.stopped + before, stop.kept + before)


def stop_by_gradient_disparity(disparities: Sequence[float], increases: int = 5, *, consecutive: bool = False) -> Stop:
    """Stop when the gradient disparity has increased for the fifth time since the beginning, and keep the last weights.

    Forouzesh and Thiran (ECML PKDD 2021, arXiv 2107.06665), "Disparity between batches as a signal for early stopping". From
    the paper: five increases since the beginning of the training, in a row or not, or (its other threshold) five in a row.
    Decided here: an increase is one over the epoch before, and the weights are those at the stop, because the rule prefers no
    earlier epoch.

    Args:
        disparities: :class:`GradientDisparity`, one an epoch.
        increases: How many of them stop.
        consecutive: Whether they have to be in a row.
    """
    count = 0
    for epoch, (before, now) in enumerate(pairwise(disparities), start=2):
        if now > before:
            count += 1
        elif consecutive:
            count = 0
        if count == increases:
            return Stop(epoch, epoch)
    return Stop(None, len(disparities))


def stop_by_evidence_criterion(criteria: Sequence[float]) -> Stop:
    """Stop as soon as the evidence-based criterion is above zero, and keep the last weights.

    Mahsereci, Balles, Lassner and Hennig (2017, arXiv 1703.09580), "Early stopping without a validation set". From the paper:
    gradients no larger than the noise in them say nothing of the expected loss any more, and that is where the criterion
    crosses zero. Decided here: it is looked at after every epoch.

    Args:
        criteria: :class:`EvidenceCriterion`, one an epoch.
    """
    for epoch, criterion in enumerate(criteria, start=1):
        if criterion > 0:
            return Stop(epoch, epoch)
    return Stop(None, len(criteria))


def best_epoch(curve: Sequence[float], *, largest: bool = False) -> Stop:
    """Keep the first epoch with the smallest (or largest) number of the whole curve: on test data, what no rule can know."""
    return stop_by_patience([-number for number in curve] if largest else curve, patience=len(curve) + 1)


@dataclass(frozen=True, eq=False)
class ValidationLoss:
    """Mean cross-entropy on given data, in nats, in evaluation mode: of a validation set, of the probes, of the test data."""

    inputs: Tensor
    labels: Tensor

    def __call__(self, model: L.LightningModule) -> float:
        return cross_entropy(model(self.inputs.to(model.device)), self.labels.to(model.device)).item()


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Part of given data on which the largest logit is that of the label, in evaluation mode."""

    inputs: Tensor
    labels: Tensor

    def __call__(self, model: L.LightningModule) -> float:
        predictions = model(self.inputs.to(model.device)).argmax(dim=1)
        return float((predictions == self.labels.to(model.device)).float().mean())


TEMPERATURES = torch.logspace(-1, 1, 41)


@dataclass(frozen=True, eq=False)
class CalibratedLoss:
    """Mean cross-entropy at the best of 41 temperatures from 0.1 to 10: the loss without over-confidence. For test data."""

    inputs: Tensor
    labels: Tensor

    def __call__(self, model: L.LightningModule) -> float:
        logits, labels = model(self.inputs.to(model.device)), self.labels.to(model.device)
        return min(cross_entropy(logits / temperature, labels).item() for temperature in TEMPERATURES.tolist())


class PredictionChanges:
    """Number of training examples whose predicted class is another one than at the last call, for :func:`stop_by_label_wave`.

    Yuan, Feng and Liu (2024), equation 2; not a number at the first call, because there is nothing to compare with. The paper
    does not say how the predictions are made: here with the weights at the end of the epoch, in evaluation mode. The authors'
    code collects them during the epoch, so that it needs no forward of its own, but weights and mode are those of the training.

    Args:
        inputs: All training inputs, in an order that stays the same.
    """

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self._last: Tensor | None = None

    def __call__(self, model: L.LightningModule) -> float:
        predictions, last = model(self.inputs.to(model.device)).argmax(dim=1), self._last
        self._last = predictions
        return math.nan if last is None else float((predictions != last).sum())


def gradient_disparity(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the mean l2 distance between the gradients of all pairs of batches, at the same weights.

    Forouzesh and Thiran (2021), equation 6 and the averaging after it. As in the paper the losses of a batch are divided by
    their standard deviation, so that early and late epochs have one scale; as in the authors' code it is the unbiased one, and
    the gradient goes through it. Parameters without a gradient are left out; no ``.grad`` is touched.

    Args:
        model: Gives logits; in the mode that it is in.
        inputs: ``[batches, batch size, ...]``; at least two of each.
        labels: ``[batches, batch size]``, as noisy as in training.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = []
    for batch_inputs, batch_labels in zip(inputs, labels, strict=True):
        losses = cross_entropy(model(batch_inputs), batch_labels, reduction="none")
        parts = torch.autograd.grad((losses / losses.std()).mean(), parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return float(torch.pdist(torch.stack(gradients)).mean())


class GradientDisparity:
    """:func:`gradient_disparity` of fresh, disjoint batches of the training data, for :func:`stop_by_gradient_disparity`.

    The model is in training mode, as in the authors' code; :class:`RuleStopping` gives everything back that this changes.

    Args:
        inputs: All training inputs.
        labels: Their labels, as noisy as in training.
        batch_size: That of the training.
        num_batches: The paper's s.
        seed: Of the draws of batches, which have a generator of their own.

    Raises:
        ValueError: If the data are too few for the batches, or there are no two batches or no two inputs in each.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int, num_batches: int = 5, seed: int = 0) -> None:
        if min(batch_size, num_batches) < 2 or batch_size * num_batches > len(inputs):
            raise ValueError(
                f"expected at least 2 batches of at least 2 inputs that {len(inputs)} inputs are enough for, "
                f"got {num_batches} batches of {batch_size}"
            )
        self.inputs, self.labels = inputs, labels
        self.shape = num_batches, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, model: L.LightningModule) -> float:
        drawn = torch.randperm(len(self.inputs), generator=self.generator)[: math.prod(self.shape)].view(self.shape)
        model.train()
        with torch.enable_grad():
            return gradient_disparity(model, self.inputs[drawn].to(model.device), self.labels[drawn].to(model.device))


def evidence_criterion(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return ``1 - B/D Σ g²/s²`` of a batch: below zero while its gradient is larger than the noise in it.

    Mahsereci et al. (2017), equation 7 and its form for batches: ``g`` is the mean gradient of ``B`` inputs, ``s²`` the
    unbiased variance of their own gradients, and the mean is over the ``D`` parameters. Decided here: a parameter without any
    variance (of a dead unit) is left out, because the ratio does not exist.

    Args:
        model: Gives logits, row by row (so without batch norm); in the mode that it is in.
        inputs: ``[batch size, ...]``, at least two.
        labels: ``[batch size]``, as noisy as in training.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def loss(weights: dict[str, Tensor], one_input: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(model, weights, (one_input[None],)), label[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, inputs, labels)
    total, number = 0.0, 0
    for gradient in gradients.values():
        variance, mean = torch.var_mean(gradient.detach().flatten(1), dim=0)
        varies = variance > 0
        total += float((mean[varies].square() / variance[varies]).sum())
        number += int(varies.sum())
    return 1 - len(inputs) * total / number if number else math.nan


class EvidenceCriterion:
    """:func:`evidence_criterion` of a fresh batch of the training data; not a number after the first one above zero.

    The model is in training mode; the paper takes the batch that is trained on. What comes after the stop is not measured,
    because the gradients of single inputs take long.

    Args:
        inputs: All training inputs.
        labels: Their labels, as noisy as in training.
        batch_size: That of the training.
        seed: Seed of the draws of batches, which have a generator of their own.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int, seed: int = 0) -> None:
        self.inputs, self.labels = inputs, labels
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.has_fired = False

    def __call__(self, model: L.LightningModule) -> float:
        if self.has_fired:
            return math.nan
        rows = torch.randperm(len(self.inputs), generator=self.generator)[: self.batch_size]
        model.train()
        criterion = evidence_criterion(model, self.inputs[rows], self.labels[rows])
        self.has_fired = criterion > 0
        return criterion


class RuleStopping(L.Callback):
    """Measures after every epoch, without a trace in the training, and ends it when the rule fires if asked to.

    Args:
        measure: Is called in evaluation mode and without gradients; for one run.
        rule: Sees the curve up to now.
        log_only: Record only, and let the training go on.

    Attributes:
        curve: One number a completed epoch.
        seconds: Processor time of all measurements.
    """

    def __init__(self, measure: Measure, rule: Rule, *, log_only: bool = True) -> None:
        self.measure, self.rule, self.log_only = measure, rule, log_only
        self.curve: list[float] = []
        self.seconds = 0.0

    @property
    def stop(self) -> Stop:
        """What the rule says about the curve up to now."""
        return self.rule(self.curve)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        begin = time.process_time()
        # Another seed at every epoch, so that dropout is drawn anew where it is on.
        with shadowed(pl_module, pl_module.device, len(self.curve), trainer) as shadow:
            self.curve.append(self.measure(shadow))
        self.seconds += time.process_time() - begin
        if not self.log_only and self.stop.stopped is not None:
            trainer.should_stop = True
