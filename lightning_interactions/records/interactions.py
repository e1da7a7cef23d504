"""What is known of inputs: their interactions, and what evidence says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["EFFECT_TYPES", "SIGNS", "Certificate", "EvidenceWeights", "Interactions", "SampledInteractions"]

EFFECT_TYPES = ("and", "or")
"""Meaning of an axis named ``types``."""

SIGNS = ("positive", "negative")
"""Meaning of an axis named ``signs``."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """Sparse AND and OR effects that add up to the values: exactly, unless a noise tolerance was asked for.

    Attributes:
        effects: ``[inputs, types, coalitions]``, score units, types in the order of :data:`EFFECT_TYPES`. An AND effect counts
            when all players of its set are unmasked, an OR effect when at least one is. Column 0 is zero, and so are the ORs
            of single players: such an OR is the same term as the AND and is folded into it.
        offset: ``[inputs]``, score units; the value ``v(∅)`` of the fully masked input.
    """

    effects: Float[Tensor, "inputs types coalitions"]
    offset: Float[Tensor, " inputs"]

    def __len__(self) -> int:
        return len(self.offset)

    def __repr__(self) -> str:
        return f"Interactions(inputs={len(self)}, coalitions={self.effects.shape[-1]}, dtype={self.effects.dtype})"

    @property
    def and_effects(self) -> Float[Tensor, "inputs coalitions"]:
        """AND effects, a view."""
        return self.effects[:, 0]

    @property
    def or_effects(self) -> Float[Tensor, "inputs coalitions"]:
        """OR effects, a view."""
        return self.effects[:, 1]

    @property
    def full_score(self) -> Float[Tensor, " inputs"]:
        """``v(N)``, score units: on the whole input every interaction counts."""
        return self.offset + self.effects.sum(dim=(1, 2))

    def to(self, *args: object, **kwargs: object) -> "Interactions":
        """Convert dtype or device, as :meth:`torch.Tensor.to` does."""
        return Interactions(self.effects.to(*args, **kwargs), self.offset.to(*args, **kwargs))  # type: ignore[call-overload]

    def select(self, rows: Tensor | Sequence[int]) -> "Interactions":
        """Return the interactions of some inputs, by index or mask."""
        index = torch.as_tensor(rows, device=self.offset.device)
        index = index if index.dtype == torch.bool else index.long()
        return Interactions(self.effects[index], self.offset[index])


@dataclass(frozen=True)
class Certificate:
    """Proof of how close interactions are to the sparsest split, before OR effects of single players are folded.

    Attributes:
        objective: ``[inputs]``, score units; ``‖I‖₁ + (ε/2s)‖I‖₂²`` of the interactions, with ``ε = 0.01`` and ``s`` the mean
            absolute Möbius transform of the values plus that of the values with their coalitions complemented.
        lower_bound: ``[inputs]``, score units; no split of the same values, within the same noise tolerance, has a smaller
            objective.
        iterations: ``[inputs]``; solver iterations spent on each input.
    """

    objective: Float[Tensor, " inputs"]
    lower_bound: Float[Tensor, " inputs"]
    iterations: Int[Tensor, " inputs"]

    @property
    def gap(self) -> Float[Tensor, " inputs"]:
        """How far the objective may be above the smallest, as a fraction of the objective."""
        return torch.where(self.objective == 0, 0.0, (self.objective - self.lower_bound) / self.objective)


@dataclass(frozen=True)
class SampledInteractions:
    """A sparse sum of AND and OR effects that was fitted to the values of some coalitions.

    It does not match the values exactly, on the fitted coalitions or on others. How far it is off is measured on held-out
    coalitions, which took no part in the fit nor in any choice of it, and is part of the result. The errors are averages
    over such draws: coalitions of another kind may be matched worse.

    Attributes:
        players: ``[interactions, players]``; the set of each interaction, true for its players.
        is_or: ``[interactions]``; true for an OR, which counts when at least one of its players is unmasked, false for an
            AND, which counts when all are. Single players are ANDs.
        effects: ``[inputs, interactions]``, score units; zero where an input does not have the interaction.
        offset: ``[inputs]``, score units; what the sum gives to the fully masked input. Fitted: close to ``v(∅)``.
        rms_error: ``[inputs]``, score units; root mean square of value minus sum over the held-out coalitions.
        max_error: ``[inputs]``, score units; largest absolute difference over the held-out coalitions.
        spread: ``[inputs]``, score units; standard deviation of the values over the held-out coalitions.
        num_forwards: Masked forwards of each input, which is the number of coalitions, held-out ones included.
        num_held_out: How many of them were held out.
        order: Every set of at most so many players was a candidate; larger ones only where the search came upon them.
        blind_spot: What the result cannot see, in words with the numbers.
    """

    players: Bool[Tensor, "interactions players"]
    is_or: Bool[Tensor, " interactions"]
    effects: Float[Tensor, "inputs interactions"]
    offset: Float[Tensor, " inputs"]
    rms_error: Float[Tensor, " inputs"]
    max_error: Float[Tensor, " inputs"]
    spread: Float[Tensor, " inputs"]
    num_forwards: int
    num_held_out: int
    order: int
    blind_spot: str

    @property
    def orders(self) -> Int[Tensor, " interactions"]:
        """Number of players of every interaction."""
        return self.players.sum(dim=1)

    @property
    def relative_error(self) -> Float[Tensor, " inputs"]:
        """RMS error over the spread: 0 explains all, 1 no more than a constant; zero where nothing varies nor errs."""
        return torch.where(self.rms_error > 0, self.rms_error / self.spread, 0.0)


@dataclass(frozen=True, eq=False)
class EvidenceWeights:
    """How far evidence takes each interaction for generalizable.

    Attributes:
        weights: ``[inputs, types, coalitions]`` in [0, 1]; 1 is generalizable, 0 is not, NaN where it cannot be said.
        chance_weights: The same weights as evidence that knows nothing of the input's target would give them, on average.
        rater_score: ``[inputs]``, score units; the mean score of other models that have not seen the input. ``None`` if the
            evidence asks no other model.
    """

    weights: Float[Tensor, "inputs types coalitions"]
    chance_weights: Float[Tensor, "inputs types coalitions"]
    rater_score: Float[Tensor, " inputs"] | None = None
