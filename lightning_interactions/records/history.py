"""What one measurement keeps, and the history of a run; nothing here computes more than a table of its own contents."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Bool, Float
from tabulate import tabulate
from torch import Tensor

from lightning_interactions.records.interactions import OrderStrength

__all__ = ["History", "Measurement", "Phase", "SplitMeasurement", "Summary"]


@dataclass(frozen=True)
class SplitMeasurement:
    """One measurement on the probes of one split (training or held-out), input by input.

    Attributes:
        strength: Strength by order, type, sign and verdict.
        chance_generalizable: ``[inputs]``, score units; the strength that chance would call generalizable.
        empty_score: ``[inputs]``, score units; ``v(∅)``.
        full_score: ``[inputs]``, score units; ``v(N)``.
        explained_score: ``[inputs]``, score units; ``v(N)`` without the salient non-generalizable interactions.
    """

    strength: OrderStrength
    chance_generalizable: Float[Tensor, " inputs"]
    empty_score: Float[Tensor, " inputs"]
    full_score: Float[Tensor, " inputs"]
    explained_score: Float[Tensor, " inputs"]

    @property
    def measured(self) -> Bool[Tensor, " inputs"]:
        """Which inputs were measured; the others gave NaN or infinite outputs and are left out."""
        return self.strength.non_salient.isfinite().all(dim=(1, 2, 3))


@dataclass(frozen=True)
class Summary:
    """The numbers of one split's measurement that are logged; NaN where a number does not exist.

    Attributes:
        loss: Cross-entropy in nats, mean over probes.
        generalizable: Total strength of generalizable interactions, score units, mean over probes.
        non_generalizable: Total strength of non-generalizable interactions, score units, mean over probes.
        non_salient: Total strength of what is not salient, score units, mean over probes.
        share: Generalizable strength over salient strength, in [0, 1].
        share_chance: The same share against the evidence of other inputs.
        share_above_chance: ``(share - chance) / (1 - chance)``; 0 is chance, 1 is all.
        mean_order: Mean order of the salient interactions, weighted by strength.
        cancellation: ``Σ|I| / |v(N) - v(∅)|``; 1 means that nothing cancels.
        left_out: Number of inputs whose outputs were not finite.
    """

    loss: float
    generalizable: float
    non_generalizable: float
    non_salient: float
    share: float
    share_chance: float
    share_above_chance: float
    mean_order: float
    cancellation: float
    left_out: int


@dataclass(frozen=True)
class Measurement:
    """Everything measured at one moment of a training run.

    Attributes:
        epoch: Completed epochs; 0 is the untrained model.
        global_step: Optimizer steps taken so far.
        seconds: Wall-clock time that the measurement took.
        training: Per-input numbers on the training probes.
        held_out: Per-input numbers on the held-out probes; ``None`` without a validation loader.
        training_summary: The logged numbers of the training probes.
        held_out_summary: The logged numbers of the held-out probes; ``None`` without a validation loader.
        loss_gap: Held-out minus training loss, nats; NaN without held-out probes.
        remaining_gap: The loss gap that remains without the non-generalizable interactions, nats.
        excess_gap: ``loss_gap - remaining_gap``: what the non-generalizable interactions add, nats.
    """

    epoch: int
    global_step: int
    seconds: float
    training: SplitMeasurement
    held_out: SplitMeasurement | None
    training_summary: Summary
    held_out_summary: Summary | None
    loss_gap: float
    remaining_gap: float
    excess_gap: float

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Measurement":
        """Rebuild a measurement from ``dataclasses.asdict``."""
        splits = {name: _split_from_dict(state[name]) for name in ("training", "held_out")}
        summaries = {
            name: None if state[name] is None else Summary(**state[name]) for name in ("training_summary", "held_out_summary")
        }
        return cls(**{**state, **splits, **summaries})


@dataclass(frozen=True)
class Phase:
    """The phase of training that a run is in, as called at one measurement.

    Attributes:
        number: 1 (noise is removed, simple interactions are learned), 2 (more complex interactions are learned, mostly
            generalizable) or 3 (mainly non-generalizable interactions are learned).
        onset_epoch: Completed epochs when this phase was called.
        confidence: One minus the evidence level spent on the call, in [0, 1]; NaN in phase 1, which needs no evidence.
        reason: Why, in words with the numbers.
    """

    number: int
    onset_epoch: int
    confidence: float
    reason: str

    def __str__(self) -> str:
        """Say the phase in one line."""
        confidence = "" if self.confidence != self.confidence else f", confidence {self.confidence:.4f}"
        return f"phase {self.number} since epoch {self.onset_epoch}{confidence}: {self.reason}"


@dataclass(frozen=True)
class History:
    """All measurements of a run with the phase that was called at each; a history that grows is a new record.

    Attributes:
        measurements: In the order of time.
        phases: The phase called at each measurement, from what was known then.
    """

    measurements: tuple[Measurement, ...] = ()
    phases: tuple[Phase, ...] = ()

    def __len__(self) -> int:
        return len(self.measurements)

    @property
    def epochs(self) -> list[int]:
        """Completed epochs of every measurement."""
        return [measurement.epoch for measurement in self.measurements]

    def append(self, measurement: Measurement, phase: Phase) -> "History":
        """Return a history that is longer by one measurement and the phase called at it."""
        return History((*self.measurements, measurement), (*self.phases, phase))

    def onset_epoch(self, phase: int) -> int | None:
        """Return the completed epochs at which a phase was first called; ``None`` if it never was."""
        return next((called.onset_epoch for called in self.phases if called.number == phase), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the history as nested dicts and lists of primitives and tensors, safe for ``weights_only`` loading."""
        return {
            "measurements": [asdict(measurement) for measurement in self.measurements],
            "phases": [asdict(phase) for phase in self.phases],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "History":
        """Rebuild a history from :meth:`to_dict`."""
        return cls(
            tuple(Measurement.from_dict(measurement) for measurement in state["measurements"]),
            tuple(Phase(**phase) for phase in state["phases"]),
        )

    def __str__(self) -> str:
        """Print one row a measurement."""
        return tabulate(
            [_row(measurement, phase) for measurement, phase in zip(self.measurements, self.phases, strict=True)],
            headers=_HEADERS,
            floatfmt=".3f",
            missingval="-",
        )


_HEADERS = (
    "epoch",
    "training loss",
    "held-out loss",
    "generalizable",
    "non-generalizable",
    "share",
    "chance",
    "mean order",
    "excess gap",
    "phase",
    "seconds",
)


def _row(measurement: Measurement, phase: Phase) -> Sequence[float | int | None]:
    training, held_out = measurement.training_summary, measurement.held_out_summary
    return (
        measurement.epoch,
        training.loss,
        None if held_out is None else held_out.loss,
        training.generalizable,
        training.non_generalizable,
        training.share,
        training.share_chance,
        training.mean_order,
        None if held_out is None else measurement.excess_gap,
        phase.number,
        measurement.seconds,
    )


def _split_from_dict(state: dict[str, Any] | None) -> SplitMeasurement | None:
    return None if state is None else SplitMeasurement(**{**state, "strength": OrderStrength(**state["strength"])})
