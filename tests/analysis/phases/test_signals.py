import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from lightning_interactions.analysis.phases.signals import FEWEST_TRUSTED, MAX_CHANCE, PhaseSignals
from lightning_interactions.analysis.summary import excess_gap_of, share_of
from tests.helpers.histories import history_from_strengths

TIMES, INPUTS, HELD_OUT = 4, 10, 3
NUMBERS = ("loss_known", "most_cost", "last_early")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=Generator().manual_seed(seed), dtype=torch.float64) + 0.5


@pytest.fixture
def strengths() -> tuple[Tensor, Tensor]:
    g, u = drawn(2, TIMES, INPUTS)
    return g, u


def test_training_probes_come_before_held_out_ones(strengths: tuple[Tensor, Tensor]) -> None:
    held_out = drawn(2, TIMES, HELD_OUT, seed=1)
    g, u = (torch.cat(parts, dim=1) for parts in zip(strengths, held_out, strict=True))
    measurements = history_from_strengths(
        *strengths, drawn(TIMES, HELD_OUT, seed=2), held_out_strengths=(held_out[0], held_out[1]), chance=0.2
    )
    signals = PhaseSignals.of(measurements)
    torch.testing.assert_close(signals.share, g / (g + u))
    torch.testing.assert_close(signals.non_generalizable, u / (1 - 0.2))
    torch.testing.assert_close(signals.generalizable + signals.non_generalizable, g + u)
    assert signals.pooled_share.tolist() == [share_of(measurement.training) for measurement in measurements]
    assert signals.excess_gap.tolist() == [excess_gap_of(measurement) for measurement in measurements]
    assert {getattr(signals, name).dtype for name in vars(signals) if name not in NUMBERS} == {torch.float64}


def test_the_cost_is_the_expected_test_loss_of_training_probes_and_the_loss_of_held_out_ones(
    strengths: tuple[Tensor, Tensor],
) -> None:
    expected, excess = drawn(TIMES, INPUTS, seed=3), drawn(TIMES, HELD_OUT, seed=4)
    signals = PhaseSignals.of(history_from_strengths(*strengths, excess, expected_test_loss=expected))
    torch.testing.assert_close(signals.cost[:, :INPUTS], expected)
    # At the best temperature, of one or more, they cost less on average.
    losses = excess + math.log(2)
    assert bool((signals.cost[:, INPUTS:].mean(dim=1) <= losses.mean(dim=1) + 1e-9).all())
    torch.testing.assert_close(signals.plain_cost, torch.cat([expected, losses], dim=1).mean(dim=1))
    assert signals.loss_known


@pytest.mark.parametrize(("trusted", "all_count"), [(FEWEST_TRUSTED - 1, True), (FEWEST_TRUSTED, False)])
def test_disputed_labels_do_not_count_unless_too_few_are_left(
    strengths: tuple[Tensor, Tensor], trusted: int, all_count: bool
) -> None:
    raters = torch.where(torch.arange(INPUTS) < trusted, 1.0, -1.5)
    signals = PhaseSignals.of(history_from_strengths(*strengths, expected_test_loss=drawn(TIMES, INPUTS), rater_score=raters))
    counts = signals.cost.isfinite()
    assert bool(counts[:, :trusted].all())
    assert bool((counts[:, trusted:] == all_count).all())
    # Their strengths count all the same.
    assert bool(signals.share.isfinite().all())


def test_without_a_loss_the_cost_is_the_net_non_generalizable_strength(strengths: tuple[Tensor, Tensor]) -> None:
    measurements = []
    for one in history_from_strengths(*strengths, torch.zeros(TIMES, HELD_OUT)):
        assert one.held_out is not None
        unknown = [
            replace(s, loss=s.loss * torch.nan, expected_test_loss=s.loss * torch.nan) for s in (one.training, one.held_out)
        ]
        measurements.append(replace(one, training=unknown[0], held_out=unknown[1]))
    signals = PhaseSignals.of(measurements)
    assert not signals.loss_known
    torch.testing.assert_close(signals.cost, strengths[1] - strengths[0])


def test_inputs_and_measurements_that_are_left_out_are_nan(strengths: tuple[Tensor, Tensor]) -> None:
    g, u = strengths
    g[1, 2] = torch.nan
    without, with_held_out = history_from_strengths(g, u), history_from_strengths(g, u, torch.zeros(TIMES, HELD_OUT))
    signals = PhaseSignals.of((*without[:2], *with_held_out[2:]))
    for column in (signals.share, signals.generalizable, signals.non_generalizable, signals.cost):
        missing = torch.zeros(TIMES, INPUTS + HELD_OUT, dtype=torch.bool)
        missing[1, 2] = missing[:2, INPUTS:] = True
        assert torch.equal(column.isnan(), missing)
    assert signals.excess_gap.isnan().tolist() == [True, True, False, False]


def test_chance_is_cut_off_where_it_leaves_no_evidence(strengths: tuple[Tensor, Tensor]) -> None:
    signals = PhaseSignals.of(history_from_strengths(*strengths, chance=1.0))
    torch.testing.assert_close(signals.non_generalizable, strengths[1] / (1 - MAX_CHANCE))


def test_an_input_without_strength_has_no_share_and_has_gained_nothing() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    signals = PhaseSignals.of(history_from_strengths(nothing, nothing, chance=0.5))
    assert bool(signals.share.isnan().all())
    assert not signals.generalizable.any()
    assert not signals.non_generalizable.any()


# Medians


def test_medians_are_those_of_measurements_in_a_row(strengths: tuple[Tensor, Tensor]) -> None:
    signals = PhaseSignals.of(history_from_strengths(*strengths, drawn(TIMES, HELD_OUT)))
    medians = signals.medians(3)
    for name, column in vars(signals).items():
        if name in NUMBERS:
            assert getattr(medians, name) is column
        else:
            expected = torch.stack([column[first : first + 3].median(dim=0).values for first in range(TIMES - 2)])
            assert torch.equal(getattr(medians, name), expected)


def test_the_median_of_two_is_their_mean_and_that_of_nothing_is_nan(strengths: tuple[Tensor, Tensor]) -> None:
    g, u = strengths
    g[1, 0] = g[:3, 1] = torch.nan
    signals = PhaseSignals.of(history_from_strengths(g, u))
    generalizable = signals.medians(3).generalizable
    assert generalizable[0, 0].item() == pytest.approx((signals.generalizable[0, 0] + signals.generalizable[2, 0]).item() / 2)
    assert generalizable[:, 1].isnan().tolist() == [True, False]


def test_of_fewer_measurements_than_a_median_takes_there_is_none(strengths: tuple[Tensor, Tensor]) -> None:
    medians = PhaseSignals.of(history_from_strengths(*strengths)[:2]).medians(3)
    assert medians.share.shape == (0, INPUTS)
    assert medians.pooled_share.shape == (0,)


def test_different_numbers_of_inputs_are_refused(strengths: tuple[Tensor, Tensor]) -> None:
    g, u = strengths
    with pytest.raises(ValueError, match=r"expected measurements on the same probes, got .* \[9, 10\]; begin a history anew"):
        PhaseSignals.of((*history_from_strengths(g, u), *history_from_strengths(g[:, 1:], u[:, 1:])))
