import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.analysis import share_near_chance, summarise
from lightning_interactions.records import Measurement
from tests.helpers.histories import history_from_strengths

CHANCE = 0.5


def measured(*shares: float) -> tuple[Measurement, ...]:
    """Measurements of six probes with such shares, of which a half is chance."""
    g = torch.tensor(shares, dtype=torch.float64)[:, None] + 0.01 * torch.linspace(-1, 1, 6)
    return history_from_strengths(g, 1 - g, chance=CHANCE)


def test_a_share_above_chance_is_nothing_to_say() -> None:
    assert share_near_chance([]) is None
    assert share_near_chance(measured(0.7)) is None
    assert share_near_chance(measured(0.4, 0.7)) is None


def test_a_share_that_was_never_above_is_told_from_one_that_has_fallen() -> None:
    never, fallen = share_near_chance(measured(0.4, 0.5, 0.4)), share_near_chance(measured(0.4, 0.8, 0.9, 0.7, 0.4, 0.3))
    assert never is not None
    assert fallen is not None
    assert never.never_above
    assert not fallen.never_above
    assert fallen.above_until is not None
    assert fallen.above_until.epoch == 3
    assert never.note != fallen.note
    assert "0.40" in never.note
    assert "epoch 3" in fallen.note


def test_one_measurement_above_may_be_an_accident() -> None:
    once, twice = share_near_chance(measured(0.4, 0.7, 0.4, 0.7, 0.4)), share_near_chance(measured(0.7, 0.7, 0.4))
    assert once is not None
    assert twice is not None
    assert once.never_above
    assert not twice.never_above


def test_the_chance_level_is_compared_input_by_input() -> None:
    # Shares differ by far more among inputs than from their chance level.
    g: Tensor = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).repeat(2, 1)
    salient = torch.linspace(1, 2, 12, dtype=torch.float64)
    history = history_from_strengths(g * salient, (1 - g) * salient, chance=0.45)
    training = summarise(history[-1]).training
    assert (share_near_chance(history) is None) == (training.share_above_chance.low > 0)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(shares=st.lists(st.sampled_from([0.3, 0.4, 0.6, 0.8]), min_size=1, max_size=6))
def test_what_was_seen_once_stays_seen(shares: list[float]) -> None:
    history = measured(*shares)
    found = [share_near_chance(history[: place + 1]) for place in range(len(history))]
    were_above = [share > CHANCE and before > CHANCE for before, share in zip([0.0, *shares], shares, strict=False)]
    for place, (share, near) in enumerate(zip(shares, found, strict=True)):
        assert (near is None) == (share > CHANCE)
        assert near is None or near.never_above == (not any(were_above[: place + 1]))
