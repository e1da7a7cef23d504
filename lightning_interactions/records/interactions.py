"""What is known of inputs: the probes, their interactions, and what evidence says of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["EFFECT_TYPES", "SIGNS", "Certificate", "Interactions", "Probes", "Verdict"]

EFFECT_TYPES = ("and", "or")
"""Meaning of an axis named ``types``."""

SIGNS = ("positive", "negative")
"""Meaning of an axis named ``signs``."""


@dataclass(frozen=True)
class Interactions:
    """Sparse AND and OR effects that add up to the values exactly.

    Attributes:
        and_effects: ``[inputs, coalitions]``, score units; ``and_effects[i, S]`` counts when all players of ``S`` are
            unmasked. Column 0 is zero.
        or_effects: ``[inputs, coalitions]``, score units; counts when at least one player of ``S`` is unmasked. Column 0
            is zero, and so are single players: their OR is the same trigger as their AND and is folded into it.
        offset: ``[inputs]``, score units; the value ``v(∅)`` of the fully masked input.
    """

    and_effects: Float[Tensor, "inputs coalitions"]
    or_effects: Float[Tensor, "inputs coalitions"]
    offset: Float[Tensor, " inputs"]

    @property
    def effects(self) -> Float[Tensor, "inputs types coalitions"]:
        """Both kinds of effects on one axis, in the order of :data:`EFFECT_TYPES`."""
        return torch.stack([self.and_effects, self.or_effects], dim=1)


@dataclass(frozen=True)
class Certificate:
    """Proof of how close interactions are to the sparsest split, before OR effects of single players are folded.

    Attributes:
        objective: ``[inputs]``, score units; ``‖I‖₁ + (ε/2s)‖I‖₂²`` of the interactions.
        lower_bound: ``[inputs]``, score units; no split of the same values has a smaller objective.
        iterations: ``[inputs]``; solver iterations spent on each input.
    """

    objective: Float[Tensor, " inputs"]
    lower_bound: Float[Tensor, " inputs"]
    iterations: Int[Tensor, " inputs"]

    @property
    def gap(self) -> Float[Tensor, " inputs"]:
        """How far the objective may be above the smallest, as a fraction of the objective."""
        return ((self.objective - self.lower_bound) / self.objective).nan_to_num(0.0)


@dataclass(frozen=True)
class Probes:
    """The fixed inputs on which every measurement of a run is made.

    Attributes:
        inputs: ``[inputs, ...]``, what the model takes.
        targets: ``[inputs]`` or ``[inputs, 1]``, the classes that the score looks at.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Verdict:
    """How far evidence takes each interaction for generalizable.

    Attributes:
        weights: ``[inputs, types, coalitions]`` in [0, 1]; 1 is generalizable, 0 is not.
        chance_weights: The same weights as evidence that knows nothing of the input's target would give them, on average.
    """

    weights: Float[Tensor, "inputs types coalitions"]
    chance_weights: Float[Tensor, "inputs types coalitions"]
