import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.analysis import OneInteraction, strongest_interactions, telling_inputs
from lightning_interactions.functional.strength import salient_mask
from lightning_interactions.records import EFFECT_TYPES, Interactions

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
THRESHOLD = 0.05


def some_interactions(seed: int, inputs: int = 5, players: int = 3) -> tuple[Interactions, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    effects = torch.randn(inputs, 2, 2**players, generator=generator, dtype=torch.float64)
    effects[:, :, 0] = 0
    weights = torch.rand(inputs, 2, 2**players, generator=generator, dtype=torch.float64).round(decimals=1)
    return Interactions(effects, torch.zeros(inputs, dtype=torch.float64)), weights


def all_of(interactions: Interactions, weights: Tensor, row: int) -> list[tuple[float, float, OneInteraction]]:
    """Strength of both kinds of every salient interaction of an input, one by one."""
    salient = salient_mask(interactions, THRESHOLD)
    found = []
    for kind, name in enumerate(EFFECT_TYPES):
        for coalition in range(interactions.effects.shape[-1]):
            if not salient[row, kind, coalition]:
                continue
            effect, weight = interactions.effects[row, kind, coalition].item(), weights[row, kind, coalition].item()
            players = tuple(player for player in range(10) if coalition >> player & 1)
            found.append((abs(effect) * weight, abs(effect) * (1 - weight), OneInteraction(players, name, effect, weight)))
    return found


@PROPERTY
@given(seed=st.integers(0, 10_000), number=st.integers(1, 20))
def test_they_are_the_strongest_of_all(seed: int, number: int) -> None:
    interactions, weights = some_interactions(seed)
    for row, found in enumerate(strongest_interactions(interactions, weights, THRESHOLD, number)):
        every = all_of(interactions, weights, row)
        for kind, own in enumerate((found.generalizable, found.non_generalizable)):
            expected = sorted((one for one in every if one[kind] > 1e-12), key=lambda one: -one[kind])
            assert list(own) == [one[2] for one in expected[:number]]


def test_an_input_that_was_not_measured_or_judged_has_none_and_is_not_chosen() -> None:
    interactions, weights = some_interactions(0)
    interactions.effects[1] = math.nan
    weights[3] = math.nan
    found = strongest_interactions(interactions, weights, THRESHOLD)
    assert [bool(own.generalizable) for own in found] == [True, False, True, False, True]
    assert [bool(own.non_generalizable) for own in found] == [True, False, True, False, True]
    assert sorted(telling_inputs(interactions, weights, THRESHOLD, 10)) == [0, 2, 4]


def test_inputs_of_either_kind_are_chosen_in_turn() -> None:
    effects = torch.zeros(4, 2, 4, dtype=torch.float64)
    effects[:, 0, 3] = torch.tensor([1.0, 2.0, 3.0, 0.0])
    weights = torch.zeros_like(effects)
    weights[1] = 1.0
    chosen = telling_inputs(Interactions(effects, effects[:, 0, 0]), weights, THRESHOLD, 2)
    assert chosen == [1, 2]
    everything = telling_inputs(Interactions(effects, effects[:, 0, 0]), weights, THRESHOLD, 9)
    assert sorted(everything) == [0, 1, 2]


def test_nothing_learned_is_nothing_found() -> None:
    nothing = torch.zeros(2, 2, 8, dtype=torch.float64)
    interactions, weights = Interactions(nothing, nothing[:, 0, 0]), nothing
    assert all(
        not own.generalizable + own.non_generalizable for own in strongest_interactions(interactions, weights, THRESHOLD)
    )
    assert telling_inputs(interactions, weights, THRESHOLD) == []
