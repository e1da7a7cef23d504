import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.agreement import agreement_by_chance, agreement_by_order
from lightning_interactions.functional.coalitions import coalition_orders
from lightning_interactions.records import Interactions

PROPERTY = settings(max_examples=20, deadline=None, derandomize=True)

NUM_PLAYERS = 4


def random_interactions(seed: int, num_inputs: int = 5) -> Interactions:
    effects = torch.randn(num_inputs, 2, 2**NUM_PLAYERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    effects[:, :, 0] = 0
    return with_effects(effects)


def with_effects(effects: Tensor) -> Interactions:
    return Interactions(effects, effects.new_zeros(len(effects)))


def overlap(means: list[list[float]], others: list[list[float]], order: int) -> float:
    """Σ min / Σ max set by set, positive and negative parts apart."""
    smaller = larger = 0.0
    for kind in range(2):
        for s in range(2**NUM_PLAYERS):
            if s.bit_count() == order:
                a, b = means[kind][s], others[kind][s]
                smaller += min(abs(a), abs(b)) if a * b > 0 else 0.0
                larger += max(abs(a), abs(b)) if a * b > 0 else abs(a) + abs(b)
    return smaller / larger if larger else 0.0


@PROPERTY
@given(st.integers(0, 1000))
def test_agreement_is_the_overlap_of_the_means(seed: int) -> None:
    first, second = random_interactions(seed), random_interactions(seed + 5000, 3)
    means, others = (part.effects.mean(dim=0).tolist() for part in (first, second))
    expected = [overlap(means, others, order) for order in range(NUM_PLAYERS + 1)]
    torch.testing.assert_close(agreement_by_order(first, second), torch.tensor(expected, dtype=torch.float64))


@PROPERTY
@given(st.integers(0, 1000))
def test_agreement_is_symmetric_and_does_not_depend_on_the_unit(seed: int) -> None:
    first, second = random_interactions(seed), random_interactions(seed + 5000)
    agreement = agreement_by_order(first, second)
    torch.testing.assert_close(agreement_by_order(second, first), agreement)
    scaled = (with_effects(3 * part.effects) for part in (first, second))
    torch.testing.assert_close(agreement_by_order(*scaled), agreement)
    assert bool(((agreement >= 0) & (agreement <= 1)).all())


def test_equal_means_agree_and_opposite_means_do_not() -> None:
    first = random_interactions(0)
    expected = torch.ones(NUM_PLAYERS + 1, dtype=torch.float64)
    expected[0] = 0
    torch.testing.assert_close(agreement_by_order(first, first), expected)
    assert not agreement_by_order(first, with_effects(-first.effects)).any()


def test_an_order_without_effects_agrees_by_zero() -> None:
    effects = random_interactions(0).effects * (coalition_orders(NUM_PLAYERS) != 2)
    agreement = agreement_by_order(with_effects(effects), with_effects(effects))
    assert agreement.tolist() == [0, 1, 0, 1, 1]


def test_inputs_of_nan_are_left_out() -> None:
    first, second = random_interactions(0), random_interactions(1)
    broken = first.effects.clone()
    broken[2] = torch.nan
    rest = with_effects(first.effects[[0, 1, 3, 4]])
    torch.testing.assert_close(agreement_by_order(with_effects(broken), second), agreement_by_order(rest, second))


def test_chance_compares_every_set_with_the_others_of_its_order() -> None:
    first, second = random_interactions(0), random_interactions(1)
    means, others = (part.effects.mean(dim=0).tolist() for part in (first, second))
    expected = []
    for order in range(NUM_PLAYERS + 1):
        own = [s for s in range(2**NUM_PLAYERS) if s.bit_count() == order]
        total = 0.0
        for shift in range(1, 16):
            shifted = [list(row) for row in others]
            for kind in range(2):
                for place, s in enumerate(own):
                    further = 1 + (shift - 1) % max(len(own) - 1, 1)
                    shifted[kind][s] = others[kind][own[(place + further) % len(own)]]
            total += overlap(means, shifted, order)
        expected.append(total / 15)
    torch.testing.assert_close(agreement_by_chance(first, second), torch.tensor(expected, dtype=torch.float64))


def test_effects_that_agree_by_chance_alone_agree_at_the_chance_level() -> None:
    first, second = random_interactions(0, 200), random_interactions(1, 200)
    difference = agreement_by_order(first, second)[2:4] - agreement_by_chance(first, second)[2:4]
    assert float(difference.abs().max()) < 0.15
    same = random_interactions(0, 200)
    assert float((agreement_by_order(first, same) - agreement_by_chance(first, same))[1:4].min()) > 0.4


def test_one_player_has_no_other_set() -> None:
    one = with_effects(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))
    assert agreement_by_order(one, one).tolist() == [0, 1]
    assert agreement_by_chance(one, one).tolist() == pytest.approx([0, 1])


def test_a_single_effect_agrees_with_no_other_set() -> None:
    effects = torch.zeros(1, 2, 2**NUM_PLAYERS)
    effects[0, 0, 1] = 1.0
    one = with_effects(effects)
    assert agreement_by_order(one, one)[1] == 1
    assert agreement_by_chance(one, one)[1] == 0
