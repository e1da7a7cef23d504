"""What one measurement of a training run found, input by input."""

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Estimate", "Measurement", "OrderStrength", "SplitMeasurement", "TimePoint"]

LEAST_RATER_SCORE = -1.0
"""Log-odds, nats; with less the raters dispute a label."""


@dataclass(frozen=True, order=True)
class TimePoint:
    """A moment of a training run.

    Attributes:
        epoch: Completed epochs; 0 is the untrained model.
        step: Optimizer steps taken.
    """

    epoch: int
    step: int


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over the draw of probes, which says nothing of other training seeds.

    Attributes:
        value: The number; NaN where it does not exist.
        low: Lower end; NaN if there are fewer than two inputs, or the number does not exist.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Say the number and both ends."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, eq=False)
class OrderStrength:
    """Strength ``Σ|I(S)|`` over ``|S| = order``, per input, in score units.

    The last axis is indexed by the order itself, 0 to n; order 0 is always zero. A left-out input is a row of NaN.

    Attributes:
        generalizable: ``[inputs, types, signs, orders]``; the generalizable part of the salient interactions.
        non_generalizable: The rest of the salient interactions.
        non_salient: All interactions that are not salient.
    """

    generalizable: Float[Tensor, "inputs types signs orders"]
    non_generalizable: Float[Tensor, "inputs types signs orders"]
    non_salient: Float[Tensor, "inputs types signs orders"]


@dataclass(frozen=True, eq=False)
class SplitMeasurement:
    """One measurement on the probes of one split (training or held-out), input by input; NaN for a left-out input.

    Attributes:
        generalizable: ``[inputs]``, score units; strength of the generalizable part of the salient interactions.
        non_generalizable: ``[inputs]``, score units; strength of the rest of the salient interactions.
        non_salient: ``[inputs]``, score units; strength of what is not salient.
        chance_generalizable: ``[inputs]``, score units; the strength that chance would call generalizable.
        empty_score: ``[inputs]``, score units; ``v(∅)``.
        full_score: ``[inputs]``, score units; ``v(N)``.
        explained_score: ``[inputs]``, score units; ``v(N)`` without the salient non-generalizable interactions.
        loss: ``[inputs]``, loss units; the loss at ``v(N)``. All NaN if the loss is not known.
        explained_loss: ``[inputs]``, loss units; the loss at ``explained_score``.
        expected_test_loss: ``[inputs]``, loss units; the loss expected on such an input if the network was not trained on it:
            what generalizes stays, and the sum of the other salient interactions is random, with mean 0 and a standard
            deviation of a fifth of their strength.
        rater_score: ``[inputs]``, score units; the mean score of other models that have not seen the input. NaN if the
            evidence asks no other model, or the score is no log-odds of a label.
        strength: Strength by order, type, sign and kind. Of all inputs, or, in a history's older measurements, the mean over
            the measured ones as a single row.
    """

    generalizable: Float[Tensor, " inputs"]
    non_generalizable: Float[Tensor, " inputs"]
    non_salient: Float[Tensor, " inputs"]
    chance_generalizable: Float[Tensor, " inputs"]
    empty_score: Float[Tensor, " inputs"]
    full_score: Float[Tensor, " inputs"]
    explained_score: Float[Tensor, " inputs"]
    loss: Float[Tensor, " inputs"]
    explained_loss: Float[Tensor, " inputs"]
    expected_test_loss: Float[Tensor, " inputs"]
    rater_score: Float[Tensor, " inputs"]
    strength: OrderStrength

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        return f"SplitMeasurement(inputs={len(self)}, measured={int(self.measured.sum())})"

    @property
    def measured(self) -> Bool[Tensor, " inputs"]:
        """Which inputs were measured; on the others the model, or one that rates it, gave NaN or infinite outputs."""
        return self.non_salient.isfinite()

    @property
    def disputed(self) -> Bool[Tensor, " inputs"]:
        """Which labels the raters dispute by odds of e to 1 or more; none where no other model was asked."""
        return self.rater_score < LEAST_RATER_SCORE

    @property
    def is_condensed(self) -> bool:
        """Whether strength by order is kept as its mean over the measured inputs only."""
        return len(self.strength.non_salient) != len(self)

    def condensed(self) -> "SplitMeasurement":
        """Keep of the strength by order its mean over the measured inputs only; all else stays input by input."""
        if self.is_condensed:
            return self
        means = {name: part.nanmean(dim=0, keepdim=True) for name, part in vars(self.strength).items()}
        return SplitMeasurement(**{**vars(self), "strength": OrderStrength(**means)})


INPUT_FIELDS = tuple(field.name for field in fields(SplitMeasurement) if field.name != "strength")
"""The fields of :class:`SplitMeasurement` that hold one number for each input."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Everything measured at one moment of a training run; all other numbers are computed from it.

    Attributes:
        time: When.
        seconds: Wall-clock time that it took, with all that was done with it: drawing probes, weighing evidence, detecting,
            drawing figures; not writing these numbers to loggers, nor training reference models before the run.
        training: On the training probes.
        held_out: On the held-out probes; ``None`` if there are none.
        is_early: Whether models that were trained as the run is, on less of its data, still learned what holds on other inputs
            after so many epochs; the run has not memorised more than they had.
    """

    time: TimePoint
    seconds: float
    training: SplitMeasurement
    held_out: SplitMeasurement | None
    is_early: bool = False

    def __repr__(self) -> str:
        return f"Measurement({self.time}, training={self.training}, held_out={self.held_out})"

    @property
    def splits(self) -> dict[str, SplitMeasurement]:
        """What was measured on each split that there is, by its name."""
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        return {"training": self.training, **held_out}
