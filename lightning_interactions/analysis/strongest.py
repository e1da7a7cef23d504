"""The strongest interactions of single inputs, to be looked at."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_interactions.functional.strength import salient_mask
from lightning_interactions.records import EFFECT_TYPES, Interactions

__all__ = ["OneInteraction", "StrongestInteractions", "strongest_interactions", "telling_inputs"]


@dataclass(frozen=True)
class OneInteraction:
    """One interaction of one input.

    Attributes:
        players: The players of its set, by number.
        effect_type: ``"and"``, which counts when all of them are there, or ``"or"``, when at least one is.
        effect: What it adds to the score, score units.
        weight: How far evidence takes it for generalizable, in [0, 1].
    """

    players: tuple[int, ...]
    effect_type: str
    effect: float
    weight: float


@dataclass(frozen=True)
class StrongestInteractions:
    """The strongest salient interactions of one input, each kind from the strongest on.

    Attributes:
        generalizable: By the generalizable part of their strength.
        non_generalizable: By the rest of it.
    """

    generalizable: tuple[OneInteraction, ...]
    non_generalizable: tuple[OneInteraction, ...]


def strongest_interactions(
    interactions: Interactions, weights: Float[Tensor, "inputs types coalitions"], threshold: float, number: int = 3
) -> tuple[StrongestInteractions, ...]:
    """Find the strongest salient interactions of each input.

    Args:
        interactions: What a measurement found.
        weights: How far evidence takes each for generalizable, in [0, 1]; NaN where it cannot be said.
        threshold: Salience threshold ``τ``.
        number: At most so many of each kind.

    Returns:
        Those of every input, in their order; none for an input that could not be measured or judged.
    """
    kinds = _strength_of_kinds(interactions, weights, threshold)
    found = []
    for row, effects in enumerate(interactions.effects):
        of_kinds = []
        for strength in kinds:
            flat = strength[row].flatten()
            places = flat.argsort(descending=True, stable=True)[:number]
            of_kinds.append(tuple(_one(effects, weights[row], int(place)) for place in places if flat[place] > 0))
        found.append(StrongestInteractions(*of_kinds))
    return tuple(found)


def telling_inputs(
    interactions: Interactions, weights: Float[Tensor, "inputs types coalitions"], threshold: float, number: int = 4
) -> list[int]:
    """Choose inputs to look at: in turn those with most generalizable and with most non-generalizable strength.

    Args:
        interactions: What a measurement found.
        weights: How far evidence takes each for generalizable, in [0, 1]; NaN where it cannot be said.
        threshold: Salience threshold ``τ``.
        number: At most so many.

    Returns:
        Their numbers, without those that could not be measured or judged.
    """
    generalizable, rest = (part.sum(dim=(1, 2)) for part in _strength_of_kinds(interactions, weights, threshold))
    share = (generalizable / (generalizable + rest)).nan_to_num(nan=0.0)
    # The share alone would choose inputs on which the network has learned next to nothing.
    orders = [
        (strength * part).argsort(descending=True).tolist() for strength, part in ((generalizable, share), (rest, 1 - share))
    ]
    in_turn = [row for pair in zip(*orders, strict=True) for row in pair]
    there = (generalizable + rest) > 0
    return [row for row in dict.fromkeys(in_turn) if bool(there[row])][:number]


def _strength_of_kinds(
    interactions: Interactions, weights: Float[Tensor, "inputs types coalitions"], threshold: float
) -> tuple[Float[Tensor, "inputs types coalitions"], Float[Tensor, "inputs types coalitions"]]:
    strength = (interactions.effects.abs() * salient_mask(interactions, threshold)).double()
    generalizable = strength * weights
    judged = torch.isfinite(generalizable).all(dim=-1).all(dim=-1)[:, None, None] & strength.isfinite()
    zero = torch.zeros_like(strength)
    return torch.where(judged, generalizable, zero), torch.where(judged, strength - generalizable, zero)


def _one(effects: Float[Tensor, "types coalitions"], weights: Float[Tensor, "types coalitions"], place: int) -> OneInteraction:
    kind, coalition = divmod(place, effects.shape[-1])
    players = tuple(player for player in range(coalition.bit_length()) if coalition >> player & 1)
    return OneInteraction(players, EFFECT_TYPES[kind], float(effects[kind, coalition]), float(weights[kind, coalition]))
