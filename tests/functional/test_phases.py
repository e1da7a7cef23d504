import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from scipy import stats
from torch import Generator, Tensor

from lightning_interactions.functional.phases import detect_phases
from lightning_interactions.records import Measurement, SplitMeasurement
from tests.helpers.histories import history_from_strengths

Segment = tuple[int, float, float]
"""Number of measurements, and how much G and U grow from each to the next."""

LEARNING: Segment = (6, 1.0, 0.0)
MOSTLY_GENERALIZABLE: Segment = (10, 0.5, 0.4)
MOSTLY_MEMORISED: Segment = (10, 0.0, 1.0)

THREE_PHASES = (LEARNING, MOSTLY_GENERALIZABLE, MOSTLY_MEMORISED)
PHASE_2_BEGINS, PHASE_3_BEGINS, END = 6, 16, 26

WINDOW = 9


def grown(
    segments: Sequence[Segment], num_inputs: int = 32, noise: float = 0.03, seed: int = 0
) -> tuple[Float[Tensor, "times inputs"], Float[Tensor, "times inputs"]]:
    """Grow G from 2 and U from 0.5 in segments; inputs differ in size, and each number is off by a few per cent."""
    generator = Generator().manual_seed(seed)
    rates = torch.tensor([(g, u) for length, g, u in segments for _ in range(length)], dtype=torch.float64)
    levels = torch.tensor([2.0, 0.5]) + rates.cumsum(dim=0) - rates[0]
    size = (0.3 * torch.randn(num_inputs, generator=generator, dtype=torch.float64)).exp()
    errors = noise * torch.randn(2, len(rates), num_inputs, generator=generator, dtype=torch.float64)
    g, u = levels.T[:, :, None] * size * (1 + errors)
    return g, u


def excess_path(levels: Sequence[float], num_inputs: int = 32, noise: float = 0.05) -> Float[Tensor, "times inputs"]:
    """Excess losses that follow a path, up to noise of their own on each input."""
    generator = Generator().manual_seed(1)
    errors = torch.randn(len(levels), num_inputs, generator=generator, dtype=torch.float64)
    return torch.tensor(levels, dtype=torch.float64)[:, None] + noise * errors


def rising_from(begin: int, times: int = END, by: float = 0.1) -> list[float]:
    return [by * max(0, time - begin) for time in range(times)]


def phase_numbers(measurements: Sequence[Measurement], alpha: float = 0.05) -> list[int]:
    return [phase.number for phase in detect_phases(measurements, alpha=alpha)]


def first(numbers: Sequence[int], *wanted: int) -> int:
    """Index of the first call of one of these phases; the length if there is none."""
    return next((time for time, number in enumerate(numbers) if number in wanted), len(numbers))


def driftless_run(generator: Generator, kind: str, times: int = 30, num_inputs: int = 32) -> tuple[Measurement, ...]:
    """Let the logarithms of what every input has learned for good and has memorised walk at random, alike.

    Neither grows more than the other on average. Both grow by 3 % a step, so that there is always something learned, and
    nothing that tells its kind. The evidence calls a quarter of what is memorised generalizable by chance.

    Args:
        generator: Source of randomness.
        kind: "gaussian" steps; "heavy tails": steps of Student's t with three degrees of freedom; "unequal inputs": a few
            inputs hold most of the strength.
        times: Number of measurements.
        num_inputs: Number of training probes.
    """
    shape = (2, times, num_inputs)
    steps = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "heavy tails":
        chi_squared = torch.randn(3, *shape, generator=generator, dtype=torch.float64).square().mean(dim=0)
        # Cut off, so that the exponential gives sizes that can be added up.
        steps = (3 * steps / chi_squared.sqrt()).clamp(-1.5, 1.5)
    spread = 2.0 if kind == "unequal inputs" else 0.5
    size = spread * torch.randn(num_inputs, generator=generator, dtype=torch.float64)
    learned, memorised = ((steps + 0.03).cumsum(dim=1) + size).exp()
    return history_from_strengths(learned + 0.25 * memorised, 0.75 * memorised, chance=0.25)


# Known boundaries


def test_three_phases_are_called_in_order_soon_after_they_begin() -> None:
    g, u = grown(THREE_PHASES)
    numbers = phase_numbers(history_from_strengths(g, u, excess_path(rising_from(PHASE_3_BEGINS))))
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2, 3}
    assert PHASE_2_BEGINS <= first(numbers, 2) <= PHASE_2_BEGINS + 3
    assert PHASE_3_BEGINS <= first(numbers, 3) <= PHASE_3_BEGINS + WINDOW


def test_without_held_out_probes_the_strength_alone_decides() -> None:
    g, u = grown(THREE_PHASES)
    numbers = phase_numbers(history_from_strengths(g, u))
    assert numbers == sorted(numbers)
    assert PHASE_2_BEGINS <= first(numbers, 2) <= PHASE_2_BEGINS + 3
    assert PHASE_3_BEGINS <= first(numbers, 3) <= PHASE_3_BEGINS + WINDOW


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_does_not_change_stays_in_phase_one(seed: int) -> None:
    g, u = grown([(30, 0.0, 0.0)], noise=0.2, seed=seed)
    assert phase_numbers(history_from_strengths(g, u, excess_path(rising_from(0, 30)))) == [1] * 30


def test_measurements_that_are_all_the_same_stay_in_phase_one() -> None:
    g = torch.ones(12, 4, dtype=torch.float64)
    assert phase_numbers(history_from_strengths(g, g, torch.zeros(12, 4))) == [1] * 12


def test_a_rising_share_stays_in_phase_one() -> None:
    g, u = grown([(30, 0.5, 0.05)])
    assert phase_numbers(history_from_strengths(g, u, excess_path(rising_from(0, 30)))) == [1] * 30


def test_a_falling_share_with_mostly_generalizable_gain_is_phase_two_only() -> None:
    g, u = grown([LEARNING, (24, 0.5, 0.4)])
    numbers = phase_numbers(history_from_strengths(g, u, excess_path(rising_from(6, 30))))
    assert set(numbers) == {1, 2}
    assert PHASE_2_BEGINS <= first(numbers, 2) <= PHASE_2_BEGINS + 3
    assert numbers == sorted(numbers)


def test_phase_three_can_follow_phase_one_directly() -> None:
    # Both kinds grow in proportion, so that the share stays at 0.2.
    u, g = grown([(10, 1.0, 0.25)])
    numbers = phase_numbers(history_from_strengths(g, u, excess_path(rising_from(0, 10, by=0.2))))
    assert set(numbers) == {1, 3}
    assert numbers == sorted(numbers)


def test_shrinking_generalizable_strength_is_no_phase_three() -> None:
    # The share falls and U gains on G, but nothing is learned: all strength shrinks.
    g, u = grown([LEARNING, (15, -0.3, 0.0)])
    numbers = phase_numbers(history_from_strengths(g, u, excess_path(rising_from(6, 21))))
    assert set(numbers) == {1, 2}


def test_a_gain_that_is_immaterial_is_no_phase_three() -> None:
    g, u = grown([(30, 0.0, 0.003)], noise=0.0001)
    assert 3 not in phase_numbers(history_from_strengths(g, u))
    # Ten times as much is material: what held it back was the size alone.
    g, u = grown([(30, 0.0, 0.03)], noise=0.0001)
    assert 3 in phase_numbers(history_from_strengths(g, u))


def test_a_gain_on_a_few_inputs_only_is_no_phase_three() -> None:
    g, u = grown(THREE_PHASES)
    u[PHASE_3_BEGINS:, 2:] = u[PHASE_3_BEGINS - 1, 2:]
    u[PHASE_3_BEGINS:, :2] *= 10
    assert 3 not in phase_numbers(history_from_strengths(g, u))


@pytest.mark.parametrize(("chance", "called"), [(0.0, False), (0.4, True)])
def test_strength_that_chance_calls_generalizable_counts_as_memorised(chance: float, called: bool) -> None:
    # G gains more than U at face value; 40 % of what is memorised are called generalizable by chance.
    g, u = grown([LEARNING, (20, 0.55, 0.45)])
    assert (3 in phase_numbers(history_from_strengths(g, u, chance=chance))) is called


def test_inputs_count_relative_to_their_own_strength() -> None:
    # All memorise in proportion to their size, and a few of them hold nearly all strength.
    g, u = grown([(12, 0.0, 1.0)])
    size = (3 * torch.randn(32, generator=Generator().manual_seed(2), dtype=torch.float64)).exp()
    assert phase_numbers(history_from_strengths(g * size, u * size))[-1] == 3


def test_evidence_for_a_phase_counts_from_the_onset_of_the_one_before() -> None:
    g, u = grown([(8, 2.0, 0.0), (8, 0.0, 8.0)])
    onset = first(phase_numbers(history_from_strengths(g, u)), 3)
    assert 8 < onset < 12
    # Two inputs gain so much that the mean gain is generalizable. This alone is no evidence, and the learning of the first
    # epochs, which the last looks have seen, is none for a return.
    g[12:, :2] += 2000
    assert set(phase_numbers(history_from_strengths(g, u))[onset:]) == {3}


# The excess gap


def test_a_flat_excess_gap_holds_phase_three_back() -> None:
    g, u = grown(THREE_PHASES)
    numbers = phase_numbers(history_from_strengths(g, u, excess_path([0.1] * END)))
    assert set(numbers) == {1, 2}


def test_a_falling_excess_gap_holds_phase_three_back() -> None:
    g, u = grown(THREE_PHASES)
    falling = [0.5 - level for level in rising_from(PHASE_3_BEGINS, by=0.05)]
    assert 3 not in phase_numbers(history_from_strengths(g, u, excess_path(falling)))


@pytest.mark.parametrize(("rise", "called"), [(0.08, False), (0.12, True)])
def test_a_rise_of_the_gap_counts_from_a_tenth_of_a_nat(rise: float, called: bool) -> None:
    g, u = grown(THREE_PHASES)
    stepped = [0.1 + rise * (time >= PHASE_3_BEGINS) for time in range(END)]
    assert (3 in phase_numbers(history_from_strengths(g, u, excess_path(stepped, noise=0.0)))) is called


def test_an_excess_loss_that_rises_on_training_probes_too_is_no_gap() -> None:
    g, u = grown(THREE_PHASES)
    rising = rising_from(PHASE_3_BEGINS)
    measurements = history_from_strengths(g, u, excess_path(rising), training_excess=excess_path(rising).flip(1))
    assert 3 not in phase_numbers(measurements)


def test_a_gap_that_opens_on_the_training_side_counts() -> None:
    # Memorising lowers the loss on training probes; the held-out loss need not rise for the gap to.
    g, u = grown(THREE_PHASES)
    falling = [-level for level in rising_from(PHASE_3_BEGINS, by=0.06)]
    measurements = history_from_strengths(g, u, excess_path([0.1] * END), training_excess=excess_path(falling))
    assert 3 in phase_numbers(measurements)


def test_phase_three_waits_for_a_gap_that_rises_late() -> None:
    g, u = grown([LEARNING, MOSTLY_GENERALIZABLE, (20, 0.0, 1.0)])
    late = 28
    numbers = phase_numbers(history_from_strengths(g, u, excess_path(rising_from(late, 36, by=0.2))))
    assert late <= first(numbers, 3) <= late + 3


def test_the_gap_decides_also_where_the_untrained_model_has_no_held_out_probes() -> None:
    # As with an iterable validation loader, whose first batches pass only after the untrained model was measured.
    g, u = grown(THREE_PHASES)
    untrained = history_from_strengths(g, u)[:1]
    later = history_from_strengths(g, u, excess_path([0.1] * END))[1:]
    assert 3 not in phase_numbers((*untrained, *later))


def test_held_out_probes_may_be_fewer_than_training_probes() -> None:
    g, u = grown(THREE_PHASES)
    assert 3 in phase_numbers(history_from_strengths(g, u, excess_path(rising_from(PHASE_3_BEGINS), num_inputs=6)))
    assert 3 not in phase_numbers(history_from_strengths(g, u, excess_path([0.1] * END, num_inputs=6)))


# The return


def test_a_recovery_returns_to_phase_two() -> None:
    g, u = grown([*THREE_PHASES, (14, 3.0, 0.0)])
    recovery = END
    excess = [min(level, 1.0) for level in rising_from(PHASE_3_BEGINS, END + 14)]
    numbers = phase_numbers(history_from_strengths(g, u, excess_path(excess)))
    onset = first(numbers, 3)
    assert PHASE_3_BEGINS <= onset < recovery
    returned = onset + first(numbers[onset:], 2)
    assert recovery <= returned <= recovery + WINDOW
    assert set(numbers[onset:returned]) == {3}
    assert set(numbers[returned:]) == {2}


def test_memorising_that_stops_is_no_recovery() -> None:
    g, u = grown([*THREE_PHASES, (15, 0.0, 0.0)])
    numbers = phase_numbers(history_from_strengths(g, u))
    assert numbers[-1] == 3


def test_a_second_memorising_after_a_recovery_is_phase_three_again() -> None:
    g, u = grown([*THREE_PHASES, (14, 3.0, 0.0), (16, 0.0, 4.0)])
    numbers = phase_numbers(history_from_strengths(g, u))
    changes = [number for time, number in enumerate(numbers) if time == 0 or number != numbers[time - 1]]
    assert changes == [1, 2, 3, 2, 3]


# Inputs that are left out, and few inputs or measurements


def test_inputs_left_out_at_some_measurements_change_little() -> None:
    g, u = grown(THREE_PHASES)
    excess = excess_path(rising_from(PHASE_3_BEGINS))
    whole = phase_numbers(history_from_strengths(g, u, excess))
    g[3:8, :4] = torch.nan
    g[18:, 4] = torch.nan
    excess[10:, 0] = torch.nan
    numbers = phase_numbers(history_from_strengths(g, u, excess))
    assert set(numbers) == {1, 2, 3}
    assert numbers == sorted(numbers)
    assert abs(first(numbers, 2) - first(whole, 2)) <= 2
    assert abs(first(numbers, 3) - first(whole, 3)) <= 2


def test_inputs_left_out_until_the_share_is_largest_hide_no_fall() -> None:
    g, u = grown(THREE_PHASES)
    g[:PHASE_2_BEGINS, :4] = torch.nan
    numbers = phase_numbers(history_from_strengths(g, u))
    assert PHASE_2_BEGINS <= first(numbers, 2) <= PHASE_2_BEGINS + 3


def test_inputs_that_are_always_left_out_do_not_count() -> None:
    g, u = grown(THREE_PHASES)
    excess = excess_path(rising_from(PHASE_3_BEGINS))
    without = detect_phases(history_from_strengths(g[:, 5:], u[:, 5:], excess[:, 5:]))
    g[:, :5] = torch.nan
    excess[:, :5] = torch.nan
    assert [str(phase) for phase in detect_phases(history_from_strengths(g, u, excess))] == [str(phase) for phase in without]


def test_measurements_of_nothing_but_left_out_inputs_call_no_new_phase() -> None:
    g, u = grown([(10, 0.0, 1.0)])
    g[:] = torch.nan
    assert phase_numbers(history_from_strengths(g, u, excess_path([0.0] * 10))) == [1] * 10


def test_inputs_without_any_salient_strength_call_no_new_phase() -> None:
    nothing = torch.zeros(12, 8, dtype=torch.float64)
    assert phase_numbers(history_from_strengths(nothing, nothing, nothing)) == [1] * 12


def test_a_few_inputs_without_strength_do_not_hide_the_phases() -> None:
    g, u = grown(THREE_PHASES)
    g[:, :3] = u[:, :3] = 0
    assert set(phase_numbers(history_from_strengths(g, u))) == {1, 2, 3}


def test_two_inputs_are_enough_to_run_and_too_few_to_call_by_chance() -> None:
    g, u = grown([(20, 0.0, 0.0)], num_inputs=2, noise=0.3)
    assert phase_numbers(history_from_strengths(g, u, excess_path([0.1] * 20, num_inputs=2))) == [1] * 20


@pytest.mark.parametrize(("num_inputs", "called"), [(2, 1), (32, 3)])
def test_inputs_that_agree_exactly_are_evidence_only_in_number(num_inputs: int, called: int) -> None:
    g = torch.full((12, num_inputs), 2.0, dtype=torch.float64)
    u = torch.arange(1.0, 13.0, dtype=torch.float64)[:, None].expand(12, num_inputs)
    assert phase_numbers(history_from_strengths(g, u))[-1] == called


def test_one_input_calls_nothing() -> None:
    g, u = grown(THREE_PHASES, num_inputs=1)
    assert phase_numbers(history_from_strengths(g, u, excess_path(rising_from(PHASE_3_BEGINS), num_inputs=1))) == [1] * END


def test_the_first_measurement_is_phase_one() -> None:
    g, u = grown([(1, 1.0, 1.0)])
    (phase,) = detect_phases(history_from_strengths(g, u, excess_path([0.1]), epochs=[7]))
    assert phase.number == 1
    assert phase.onset_epoch == 7
    assert math.isnan(phase.confidence)


def test_no_measurements_give_no_phases() -> None:
    assert detect_phases(()) == ()


# What a call says


def test_onsets_are_in_completed_epochs_of_the_first_call() -> None:
    g, u = grown(THREE_PHASES)
    epochs = [5 * time for time in range(END)]
    phases = detect_phases(history_from_strengths(g, u, epochs=epochs))
    numbers = [phase.number for phase in phases]
    for number in (1, 2, 3):
        onset = first(numbers, number)
        assert {phase.onset_epoch for phase in phases if phase.number == number} == {5 * onset}


def test_a_phase_that_goes_on_is_the_record_of_its_onset() -> None:
    g, u = grown(THREE_PHASES)
    phases = detect_phases(history_from_strengths(g, u))
    for before, after in itertools.pairwise(phases):
        assert after is before or after.number != before.number


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_confidence_is_at_least_one_minus_alpha(alpha: float) -> None:
    g, u = grown(THREE_PHASES)
    phases = detect_phases(history_from_strengths(g, u), alpha=alpha)
    called = [phase for phase in phases if phase.number != 1]
    assert {phase.number for phase in called} == {2, 3}
    assert all(1 - alpha <= phase.confidence <= 1 for phase in called)
    assert all(math.isnan(phase.confidence) for phase in phases if phase.number == 1)


def test_confidence_is_the_level_at_which_the_call_would_just_be_made() -> None:
    g, u = grown([LEARNING, (24, 0.5, 0.1)], noise=0.15)
    measurements = history_from_strengths(g, u)
    phase = detect_phases(measurements, alpha=0.3)[-1]
    assert phase.number == 2
    level = 1 - phase.confidence
    assert 1e-4 < level <= 0.3
    just_above, just_below = (detect_phases(measurements, alpha=level * factor) for factor in (1.01, 0.99))
    assert first([called.number for called in just_above], 2) == phase.onset_epoch
    assert first([called.number for called in just_below], 2) > phase.onset_epoch


def test_the_reason_for_phase_two_names_both_shares() -> None:
    g, u = grown(THREE_PHASES)
    measurements = history_from_strengths(g, u)
    phases = detect_phases(measurements)
    onset = first([phase.number for phase in phases], 2)
    shares = [measurement.training_summary.share for measurement in measurements]
    assert f"fell from its maximum of {max(shares[:onset]):.2f} to {shares[onset]:.2f}" in phases[onset].reason


def test_the_reason_for_phase_three_names_both_gains_and_the_gap() -> None:
    g, u = grown(THREE_PHASES)
    measurements = history_from_strengths(g, u, excess_path(rising_from(PHASE_3_BEGINS), noise=0.0), chance=0.2)
    phases = detect_phases(measurements)
    onset = first([phase.number for phase in phases], 3)
    assert onset >= WINDOW
    pattern = r"the last 9 measurements .* above chance changed by ([+-][\d.]+) generalizable and ([+-][\d.]+) non-gen"
    found = re.search(pattern, phases[onset].reason)
    assert found is not None
    first_third, last_third = slice(onset - 8, onset - 5), slice(onset - 2, onset + 1)
    memorised = u / (1 - 0.2)
    for said, strength in zip(found.groups(), (g + u - memorised, memorised), strict=True):
        expected = (strength[last_third].mean() - strength[first_third].mean()).item()
        assert float(said) == pytest.approx(expected, abs=0.006)
    gap = re.search(r"the excess gap rose by ([\d.]+) nats", phases[onset].reason)
    assert gap is not None
    gaps = [measurement.excess_gap for measurement in measurements]
    assert float(gap[1]) == pytest.approx(sum(gaps[onset - 2 : onset + 1]) / 3, abs=0.006)


def test_without_held_out_probes_the_reason_is_silent_about_the_gap() -> None:
    g, u = grown(THREE_PHASES)
    phase = detect_phases(history_from_strengths(g, u))[-1]
    assert phase.number == 3
    assert "non-generalizable" in phase.reason
    assert "gap" not in phase.reason


# Properties


@pytest.mark.parametrize("held_out", ["all", "none", "from the third on", "until the twentieth"])
def test_calls_on_a_prefix_are_the_prefix_of_the_calls(held_out: str) -> None:
    g, u = grown([*THREE_PHASES, (14, 3.0, 0.0)], noise=0.1)
    with_gap = history_from_strengths(g, u, excess_path(rising_from(20, END + 14), noise=0.3))
    without = history_from_strengths(g, u)
    begin, end = {"all": (0, 99), "none": (99, 99), "from the third on": (2, 99), "until the twentieth": (0, 20)}[held_out]
    measurements = (*without[:begin], *with_gap[begin:end], *without[max(begin, end) :])
    whole = [str(phase) for phase in detect_phases(measurements)]
    assert len({line.split()[1] for line in whole}) > 1
    for length in range(len(measurements)):
        assert [str(phase) for phase in detect_phases(measurements[:length])] == whole[:length]


@pytest.mark.parametrize("seed", range(4))
def test_a_lower_alpha_never_calls_earlier(seed: int) -> None:
    g, u = grown(THREE_PHASES, num_inputs=12, noise=0.25, seed=seed)
    measurements = history_from_strengths(g, u)
    leaving, onsets = [], []
    for alpha in (0.9, 0.5, 0.1, 0.01, 0.001, 1e-6):
        numbers = phase_numbers(measurements, alpha)
        leaving.append(first(numbers, 2, 3))
        onsets.append(first(numbers, 3))
    assert leaving == sorted(leaving)
    assert onsets == sorted(onsets)
    assert leaving[0] < leaving[-1]


def test_the_unit_of_the_scores_does_not_matter() -> None:
    g, u = grown(THREE_PHASES, noise=0.2)
    numbers = phase_numbers(history_from_strengths(g, u))
    assert set(numbers) == {1, 2, 3}
    assert phase_numbers(history_from_strengths(1000 * g, 1000 * u)) == numbers


def test_the_order_of_inputs_does_not_matter() -> None:
    g, u = grown(THREE_PHASES, noise=0.2)
    order = torch.randperm(32, generator=Generator().manual_seed(0))
    assert phase_numbers(history_from_strengths(g[:, order], u[:, order])) == phase_numbers(history_from_strengths(g, u))


@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "unequal inputs"])
def test_at_most_a_fraction_alpha_of_driftless_runs_has_a_false_onset(kind: str) -> None:
    alpha, runs = 0.05, 80
    generator = Generator().manual_seed(1)
    false_onsets = 0
    for _ in range(runs):
        false_onsets += set(phase_numbers(driftless_run(generator, kind), alpha)) != {1}
    assert false_onsets <= stats.binom.ppf(0.99, runs, alpha)


# Losses


def in_other_units(measurements: Sequence[Measurement], factor: float, unit: str) -> list[Measurement]:
    """The same run with a loss that is a multiple."""

    def scaled(split: SplitMeasurement) -> SplitMeasurement:
        return replace(split, loss=factor * split.loss, explained_loss=factor * split.explained_loss)

    return [
        replace(one, training=scaled(one.training), held_out=one.held_out and scaled(one.held_out), loss_unit=unit)
        for one in measurements
    ]


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_the_unit_of_a_loss_that_is_not_in_nats_does_not_matter(factor: float) -> None:
    g, u = grown(THREE_PHASES)
    measurements = history_from_strengths(g, u, excess_path(rising_from(PHASE_3_BEGINS)))
    expected = detect_phases(in_other_units(measurements, 1.0, "squared metres"))
    assert expected[-1].number == 3
    assert [str(phase) for phase in detect_phases(in_other_units(measurements, factor, "squared metres"))] == [
        str(phase) for phase in expected
    ]
    assert "of the held-out loss then since the share's maximum" in expected[-1].reason


@pytest.mark.parametrize(("rise", "called"), [(0.09, False), (0.11, True)])
def test_a_rise_by_a_tenth_of_the_held_out_loss_is_material(rise: float, called: bool) -> None:
    g, u = grown(THREE_PHASES)
    # The loss is log 2 without non-generalizable interactions, which first add as much that it is 1.
    level = 1 - math.log(2)
    stepped = [level + rise * (time >= PHASE_3_BEGINS) for time in range(END)]
    measurements = history_from_strengths(g, u, excess_path(stepped, noise=0.0))
    assert (3 in phase_numbers(in_other_units(measurements, 7.0, "squared metres"))) is called


def test_a_loss_in_nats_is_measured_in_nats() -> None:
    g, u = grown(THREE_PHASES)
    stepped = [0.05 * (time >= PHASE_3_BEGINS) for time in range(END)]
    measurements = history_from_strengths(g, u, excess_path(stepped, noise=0.0))
    assert 3 not in phase_numbers(measurements)
    assert 3 in phase_numbers(in_other_units(measurements, 3.0, "nats"))


def test_phases_of_an_unknown_loss_are_those_without_held_out_probes() -> None:
    g, u = grown(THREE_PHASES)
    measurements = history_from_strengths(g, u, excess_path([0.1] * END))
    assert 3 not in phase_numbers(measurements)
    unknown = detect_phases(in_other_units(measurements, math.nan, ""))
    assert [str(phase) for phase in unknown] == [str(phase) for phase in detect_phases(history_from_strengths(g, u))]


def test_a_perfect_held_out_loss_calls_nothing_by_itself() -> None:
    g, u = grown(THREE_PHASES)
    measurements = in_other_units(history_from_strengths(g, u, excess_path([0.0] * END)), 0.0, "squared metres")
    assert 3 not in phase_numbers(measurements)


# Errors


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_alpha_must_be_a_probability_between_zero_and_one(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"expected alpha in \(0, 1\), got"):
        detect_phases((), alpha=alpha)


def test_different_numbers_of_training_probes_are_refused() -> None:
    g, u = grown([(3, 1.0, 1.0)], num_inputs=4)
    measurements = (*history_from_strengths(g, u), *history_from_strengths(g[:, :3], u[:, :3]))
    with pytest.raises(ValueError, match="expected measurements on the same probes"):
        detect_phases(measurements)


def test_different_numbers_of_held_out_probes_are_refused() -> None:
    g, u = grown([(3, 1.0, 1.0)], num_inputs=4)
    measurements = [history_from_strengths(g, u, torch.zeros(3, inputs))[0] for inputs in (4, 5)]
    with pytest.raises(ValueError, match="expected measurements on the same probes"):
        detect_phases(measurements)
