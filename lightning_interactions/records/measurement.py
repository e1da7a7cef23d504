"""What one measurement of a training run found."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Measurement", "OrderStrength", "SplitMeasurement", "Summary"]


@dataclass(frozen=True)
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
        share_chance: The same share against evidence that knows nothing of the input's target.
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


def _split_from_dict(state: dict[str, Any] | None) -> SplitMeasurement | None:
    return None if state is None else SplitMeasurement(**{**state, "strength": OrderStrength(**state["strength"])})
