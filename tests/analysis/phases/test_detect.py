import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Generator

from lightning_interactions.analysis.phases.changes import (
    CLEAR_RISE,
    LEVELS,
    MAINLY,
    MATERIAL_GROWTH,
    MATERIAL_RISE,
    RECENT,
    STANDING,
)
from lightning_interactions.analysis.phases.detect import detect_phases, phases_of
from lightning_interactions.analysis.phases.signals import FEWEST_TRUSTED, PhaseSignals
from lightning_interactions.analysis.summary import share_of
from lightning_interactions.records import Measurement, PhaseTest, SplitMeasurement, TimePoint
from tests.helpers.phase_runs import (
    END,
    LARGEST_SHARE,
    LEARNING,
    LEAST_COST,
    MOSTLY_GENERALIZABLE,
    MOSTLY_NON_GENERALIZABLE,
    NULLS,
    RECOVERING,
    THREE_PHASES,
    Run,
    Segment,
    grown,
    null_signals,
    stepped,
)

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True)


class Change(NamedTuple):
    """A phase that was detected, where it began, and at which measurement it was detected."""

    number: int
    onset: int
    detection: int


def changes(measurements: Sequence[Measurement], alpha: float = 0.05) -> list[Change]:
    """List all changes of phase; moments are indices of measurements, whatever their epochs."""
    found = detect_phases(measurements, alpha=alpha)
    steps = [measurement.time.step for measurement in measurements]
    return [
        Change(after.number, steps.index(after.onset.step), steps.index(after.detected.step))
        for before, after in itertools.pairwise(found)
        if after.number != before.number
    ]


def numbers(found: Sequence[Change]) -> list[int]:
    return [change.number for change in found]


def detection_of(measurements: Sequence[Measurement], number: int) -> int:
    """Index at which a phase was first detected; the length if it never was."""
    return next((change.detection for change in changes(measurements) if change.number == number), len(measurements))


def followed(measurements: Sequence[Measurement], number: int) -> list[PhaseTest]:
    """What each measurement said of one phase, where it said anything."""
    return [test for phase in detect_phases(measurements) for test in phase.tests if test.phase == number]


# Known boundaries


def test_the_phases_of_a_sharp_run_begin_where_they_do_and_are_detected_as_soon_as_can_be() -> None:
    assert changes(grown(THREE_PHASES).measured()) == [
        Change(2, LARGEST_SHARE, LARGEST_SHARE + RECENT),
        Change(3, LEAST_COST, LEAST_COST + RECENT),
    ]


def test_held_out_probes_that_agree_change_nothing() -> None:
    run = grown(THREE_PHASES)
    excess = run.expected_test_loss.mean(dim=1) - 0.5
    assert changes(run.held_out(excess.tolist())) == changes(run.measured())


def test_a_gradual_run_has_its_onsets_at_the_largest_share_and_the_least_cost() -> None:
    # What is gained goes from generalizable to memorised little by little, and the cost is a parabola.
    times, bottom = 40, 18
    segments = [Segment(1, 1 - time / 30, time / 30, (time - bottom - 0.5) * 0.003) for time in range(times)]
    measurements = grown(segments, noise=0.0).measured()
    shares = [share_of(measurement.training) for measurement in measurements]
    found = changes(measurements)
    assert numbers(found) == [2, 3]
    assert abs(found[0].onset - shares.index(max(shares))) <= 1
    assert abs(found[1].onset - bottom) <= 1
    assert all(change.detection <= change.onset + 12 for change in found)


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_run_has_its_onsets_nearby(seed: int) -> None:
    found = changes(grown(THREE_PHASES, num_inputs=64, noise=0.2, seed=seed).measured())
    assert numbers(found) == [2, 3]
    assert abs(found[0].onset - LARGEST_SHARE) <= 2
    assert abs(found[1].onset - LEAST_COST) <= 2


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_does_not_change_stays_in_phase_one(seed: int) -> None:
    run = grown([Segment(30, 0.0, 0.0, 0.0)], noise=0.2, seed=seed)
    assert changes(run.measured()) == []
    assert changes(run.held_out([0.01 * time for time in range(30)])) == []


def test_measurements_that_are_all_the_same_stay_in_phase_one() -> None:
    assert changes(stepped([2.0, 1.0, 1.0]).held_out([0.1] * 8)) == []


def test_a_rising_share_stays_in_phase_one() -> None:
    assert changes(grown([Segment(30, 0.5, 0.05, -0.02)]).measured()) == []


def test_a_falling_share_with_mostly_generalizable_gain_is_phase_two_only() -> None:
    # Even where the expected cost rises.
    run = grown([LEARNING, Segment(24, 0.5, 0.4, 0.05)])
    assert changes(run.measured()) == [Change(2, LARGEST_SHARE, LARGEST_SHARE + RECENT)]


def test_memorising_while_the_expected_cost_still_falls_is_phase_two_only() -> None:
    run = grown([LEARNING, Segment(24, 0.0, 1.0, -0.02)])
    assert changes(run.measured()) == [Change(2, LARGEST_SHARE, LARGEST_SHARE + RECENT)]


def test_phase_three_can_follow_phase_one_directly() -> None:
    # Both kinds grow in proportion, so that the share stays.
    run = grown([Segment(12, 0.25, 1.0, 0.05)], start=(0.25, 1.0, 1.0))
    (change,) = changes(run.measured())
    assert change.number == 3
    assert change.onset <= 1


def test_phase_three_wins_ties() -> None:
    run = grown([LEARNING, MOSTLY_NON_GENERALIZABLE])
    assert changes(run.measured()) == [Change(3, LARGEST_SHARE, LARGEST_SHARE + RECENT)]


def test_fine_tuning_may_begin_in_phase_two() -> None:
    found = changes(grown([MOSTLY_GENERALIZABLE, MOSTLY_NON_GENERALIZABLE], start=(8.0, 0.5, 1.0)).measured())
    assert numbers(found) == [2, 3]
    assert found[0] == Change(2, 0, RECENT)
    assert found[1] == Change(3, 9, 9 + RECENT)


def test_a_run_may_begin_in_phase_three() -> None:
    run = grown([MOSTLY_NON_GENERALIZABLE], start=(8.0, 0.5, 1.0))
    assert changes(run.measured()) == [Change(3, 0, RECENT)]


def test_a_recovery_returns_to_phase_two_and_memorising_again_is_phase_three_again() -> None:
    run = grown([*THREE_PHASES, RECOVERING, Segment(16, 0.0, 4.0, 0.05)])
    found = changes(run.measured())
    assert numbers(found) == [2, 3, 2, 3]
    assert found[2] == Change(2, END - 1, END - 1 + RECENT)
    assert found[3] == Change(3, END - 1 + 14, END - 1 + 14 + RECENT)


# The boundaries of each condition: a step that suffices by a hair, and one that does not


def is_detected(run: Run, number: int = 3, **options: Any) -> bool:
    return number in numbers(changes(run.measured(**options)))


@pytest.mark.parametrize(("by", "detected"), [(0.99, False), (1.01, True)])
def test_phase_three_needs_a_material_growth(by: float, detected: bool) -> None:
    run = stepped([2.0, 1.0 + 3 * MATERIAL_GROWTH * by, 1.5])
    assert is_detected(run) is detected
    assert is_detected(run.map(torch.Tensor.float), chance=0.0) is detected


@pytest.mark.parametrize(("by", "detected"), [(0.99, False), (1.01, True)])
def test_phase_three_needs_a_material_rise_of_the_cost(by: float, detected: bool) -> None:
    assert is_detected(stepped([2.0, 2.0, 1 + MATERIAL_RISE * by])) is detected


@pytest.mark.parametrize(
    ("change", "plain_change", "detected"),
    [
        (0.0, CLEAR_RISE + 0.01, True),
        (0.0, CLEAR_RISE - 0.01, False),
        (-0.9 * MATERIAL_RISE, CLEAR_RISE + 0.01, True),
        # Who stops here gives up what is still learned.
        (-1.1 * MATERIAL_RISE, CLEAR_RISE + 0.01, False),
    ],
)
def test_a_cost_that_stands_still_at_the_best_temperature_suffices_if_it_clearly_rises_as_it_is(
    change: float, plain_change: float, detected: bool
) -> None:
    signals = PhaseSignals.of(stepped([2.0, 2.0, 1.0]).measured())
    # The median around the onset is 0.5, and a single measurement was so low that no other one is the onset.
    cost = torch.tensor([1.0, 0.5, 0.4, *[0.5] * 5], dtype=torch.float64)
    cost[4:] *= 1 + change
    plain_cost = torch.ones(8, dtype=torch.float64)
    plain_cost[4:] += plain_change
    signals = replace(signals, cost=cost[:, None].expand(8, 32), plain_cost=plain_cost)
    found = phases_of(signals, [TimePoint(time, time) for time in range(8)], 0.05)
    assert (found[-1].number == 3) is detected


def test_phase_three_cannot_begin_as_long_as_models_that_learn_from_less_still_learn() -> None:
    measurements = grown(THREE_PHASES).measured()
    late = LEAST_COST + 3
    early = tuple(replace(one, is_early=one.time.epoch <= late) for one in measurements)
    assert changes(early)[-1] == Change(3, late, late + RECENT)
    sooner = tuple(replace(one, is_early=one.time.epoch <= LEAST_COST - 1) for one in measurements)
    assert changes(sooner) == changes(measurements)
    assert 3 not in numbers(changes([replace(one, is_early=True) for one in measurements]))
    # Phase 2 is nothing that they could learn away.
    assert changes(early)[0] == changes(measurements)[0]


@pytest.mark.parametrize(("later", "by", "moves"), [(-1, 0.1, True), (0, 0.1, True), (1, 0.9, False), (1, 1.1, True)])
def test_a_minimum_that_has_stood_is_left_for_a_material_improvement_only(later: int, by: float, moves: bool) -> None:
    at, lower = 3, 3 + STANDING + later
    cost = torch.full((24,), 1.2, dtype=torch.float64)
    cost[at], cost[lower] = 1.0, 1 - MATERIAL_RISE * by
    signals = PhaseSignals.of(grown([Segment(24, 0.0, 1.0, 0.0)]).measured())
    signals = replace(signals, cost=cost[:, None].expand(24, 32), plain_cost=cost)
    times = [TimePoint(time, time) for time in range(24)]
    # With such an alpha nothing is detected, and the onset can move as long as it likes.
    (test,) = [one for one in phases_of(signals, times, 1e-6)[-1].tests if one.phase == 3]
    assert test.onset.epoch == (lower if moves else at)


@pytest.mark.parametrize(("by", "detected"), [(0.99, False), (1.01, True)])
def test_without_a_loss_the_cost_is_what_is_memorised_and_not_learned(by: float, detected: bool) -> None:
    # The strength grows by far more than is material, and what is memorised by little more than what is learned.
    run = stepped([2.1, 1.1 + 3 * MATERIAL_RISE * by, math.nan])
    run.expected_test_loss[:] = torch.nan
    assert is_detected(run) is detected


@pytest.mark.parametrize(("learned", "detected"), [(0.9, True), (1.1, False)])
def test_phase_three_needs_more_memorised_than_learned_on_average(learned: float, detected: bool) -> None:
    # All but two inputs memorise alike; two learn so much that the mean gain is of one kind or of the other.
    after = torch.tensor([[2.0], [2.0], [1.5]]).repeat(1, 32)
    after[0, :2] += 16 * learned / MAINLY
    assert is_detected(stepped(after)) is detected


@pytest.mark.parametrize("gap", [-0.1, 0.0, 0.1])
def test_the_excess_gap_is_told_but_decides_nothing(gap: float) -> None:
    run = stepped([2.0, 2.0, 2.0])
    rising = torch.tensor([0.1] * 3 + [0.4] * 5, dtype=torch.float64)
    own = rising - torch.tensor([0.0] * 3 + [gap] * 5, dtype=torch.float64)
    measurements = run.held_out(rising.tolist(), training_excess=own[:, None].expand(-1, 32))
    assert numbers(changes(measurements))[-1] == 3
    assert detect_phases(measurements)[-1].findings["excess_gap"] == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize("number", [2, 3])
def test_a_change_needs_most_inputs(number: int) -> None:
    detections = []
    for agreeing in (20, 24, 28, 32, 36, 40):
        after = torch.tensor([[2.0], [2.0], [1.5 if number == 3 else 1.0]]).repeat(1, 40)
        # The others learn: what they gain is generalizable, and their share rises.
        after[0, agreeing:], after[1, agreeing:] = 2.5, 1.0
        detections.append(detection_of(stepped(after, times=12).measured(), number))
    assert detections == sorted(detections, reverse=True)
    assert detections[0] == 12
    assert detections[-1] == 2 + RECENT


def test_phase_two_needs_a_fall_of_the_share_of_all_too() -> None:
    # A single large input holds most strength, and its share rises.
    run = stepped([2.0, 1.5, 1.0])
    assert is_detected(run, 2)
    run.generalizable[:, 0] = 1000 * torch.arange(1.0, 9.0)
    assert not is_detected(run, 2)


@pytest.mark.parametrize("seen", range(1, 2 * RECENT))
def test_a_change_must_be_seen_in_the_median_of_the_last_measurements(seen: int) -> None:
    at = 3
    run = stepped([2.0, 3.0, 2.0], at=at, times=at + 1 + seen)
    # An onset is known with the measurement after it.
    assert is_detected(run) is (seen >= RECENT)


def test_shrinking_generalizable_strength_is_no_phase_three() -> None:
    # The share falls and U gains on G, but nothing is learned: all strength shrinks.
    assert numbers(changes(grown([LEARNING, Segment(15, -0.3, 0.0, 0.05)]).measured())) == [2]


@pytest.mark.parametrize(("chance", "detected"), [(0.0, False), (0.4, True)])
def test_strength_that_chance_calls_generalizable_counts_as_memorised(chance: float, detected: bool) -> None:
    # G gains more than U at face value; 40 % of what is memorised is called generalizable by chance.
    assert is_detected(grown([LEARNING, Segment(20, 0.55, 0.45, 0.05)]), chance=chance) is detected


def test_inputs_count_alike_whatever_their_size() -> None:
    run = grown([Segment(12, 0.0, 1.0, 0.05)])
    size = (3 * torch.randn(32, generator=Generator().manual_seed(2), dtype=torch.float64)).exp()
    assert is_detected(run.map(lambda column: column * size))


def after_memorising(later: Sequence[float], times: int = 8) -> Run:
    """Memorise from measurement 2 on, so that phase 3 is detected, and let something else be from measurement 8 on."""
    run = stepped([2.0, 3.0, 2.0], times=8)
    end = torch.tensor(later, dtype=torch.float64)[:, None, None].expand(3, times, 32)
    return Run(
        *(
            torch.cat(parts)
            for parts in zip((run.generalizable, run.non_generalizable, run.expected_test_loss), end, strict=True)
        )
    )


@pytest.mark.parametrize(("by", "returns"), [(0.99, False), (1.01, True)])
def test_a_return_needs_a_material_fall_of_the_cost(by: float, returns: bool) -> None:
    run = after_memorising([4.0, 3.0, 2 - 2 * MATERIAL_RISE * by])
    assert numbers(changes(run.measured())) == ([3, 2] if returns else [3])


@pytest.mark.parametrize(
    "later",
    [[2.0, 3.0, 1.0], [1.0, 1.0, 1.0], [3.0, 4.1, 1.0], [4.0, 3.0, 2.5]],
    ids=["stands", "forgets", "memorises", "costs"],
)
def test_what_is_no_return(later: list[float]) -> None:
    assert numbers(changes(after_memorising(later).measured())) == [3]


def test_what_was_learned_before_the_detection_of_phase_three_is_no_evidence_for_a_return() -> None:
    run = grown([LEARNING, Segment(12, 0.0, 4.0, 0.05), Segment(12, 0.0, 0.0, -0.05)], noise=0.001)
    # Two inputs gain so much that the mean gain is generalizable.
    run.generalizable[18:, :2] += 2000
    assert numbers(changes(run.measured())) == [3]


# Which losses count


def test_inputs_with_labels_that_other_models_contradict_do_not_count_in_the_cost() -> None:
    # Twelve of 32 have wrong labels, and to memorise them makes the right labels less costly.
    run = grown(THREE_PHASES)
    run.expected_test_loss[:, :12] = torch.linspace(9, 1, END)[:, None]
    peers = torch.full((32,), 2.0)
    assert numbers(changes(run.measured(rater_score=peers))) == [2]
    peers[:12] = -2.0
    assert changes(run.measured(rater_score=peers)) == changes(grown(THREE_PHASES).measured())


@pytest.mark.parametrize("trusted", [FEWEST_TRUSTED - 1, FEWEST_TRUSTED])
def test_all_labels_count_where_too_few_are_trusted(trusted: int) -> None:
    run = grown(THREE_PHASES)
    run.expected_test_loss[:, :trusted] = torch.linspace(50, 1, END)[:, None]
    peers = torch.full((32,), -2.0)
    peers[:trusted] = 2.0
    # All together cost least at the end because of the few that are trusted; the others cost least where they did.
    found = numbers(changes(run.measured(rater_score=peers)))
    assert found == [2]
    run = grown(THREE_PHASES)
    run.expected_test_loss[:, trusted:] = torch.linspace(50, 1, END)[:, None]
    found = numbers(changes(run.measured(rater_score=peers)))
    assert found == ([2, 3] if trusted == FEWEST_TRUSTED else [2])


def test_the_loss_of_held_out_probes_counts_as_it_is() -> None:
    run = grown(THREE_PHASES)
    falling = torch.linspace(2, 0.1, END)
    # As many held-out probes as training probes, and they cost less and less.
    assert numbers(changes(run.held_out(falling.tolist()))) == [2]


def with_unknown_loss(measurements: Sequence[Measurement]) -> list[Measurement]:
    def unknown(split: SplitMeasurement) -> SplitMeasurement:
        nothing = torch.full_like(split.loss, torch.nan)
        return replace(split, loss=nothing, explained_loss=nothing, expected_test_loss=nothing)

    return [
        replace(one, training=unknown(one.training), held_out=one.held_out and unknown(one.held_out)) for one in measurements
    ]


def test_where_no_loss_is_known_the_strengths_decide() -> None:
    # What is memorised less what is learned is smallest at the end of the first two segments together.
    measurements = grown(THREE_PHASES).measured()
    found = changes(with_unknown_loss(measurements))
    assert found == [Change(2, LARGEST_SHARE, LARGEST_SHARE + RECENT), Change(3, LEAST_COST, LEAST_COST + RECENT)]
    assert not detect_phases(with_unknown_loss(measurements))[-1].findings.keys() & {"loss_before", "loss_after"}


FALLING = [5.0 - 0.15 * time for time in range(END)]
"""A held-out loss that falls to the end, faster than the expected test loss rises: the expected cost never does."""


def test_held_out_probes_whose_loss_is_unknown_do_not_hold_phase_three_back() -> None:
    measurements = grown(THREE_PHASES).held_out(FALLING)
    assert numbers(changes(measurements)) == [2]
    assert numbers(changes(with_unknown_loss(measurements))) == [2, 3]


def test_a_history_that_has_held_out_probes_only_later() -> None:
    # As with an iterable validation loader, whose first batches pass only after the untrained model was measured.
    run = grown(THREE_PHASES)
    excess = (run.expected_test_loss.mean(dim=1) - 0.5).tolist()
    for begin in (1, LARGEST_SHARE, LEAST_COST - 2):
        mixed = (*run.measured()[:begin], *run.held_out(excess)[begin:])
        assert changes(mixed) == changes(run.measured())
        falling = (*run.measured()[:begin], *run.held_out(FALLING)[begin:])
        assert numbers(changes(falling)) == [2]


def test_held_out_probes_may_be_fewer_than_training_probes() -> None:
    run = grown(THREE_PHASES)
    excess = (run.expected_test_loss.mean(dim=1) - 0.5).tolist()
    assert changes(run.held_out(excess, num_inputs=6)) == changes(run.measured())


# Inputs that are left out, and few inputs or measurements


def test_inputs_left_out_at_some_measurements_change_little() -> None:
    run = grown(THREE_PHASES)
    run.generalizable[3:8, :4] = torch.nan
    run.generalizable[18:, 4] = torch.nan
    run.generalizable[::3, 5] = torch.nan
    run.generalizable[12:15] = torch.nan
    found = changes(run.measured())
    assert numbers(found) == [2, 3]
    assert abs(found[0].onset - LARGEST_SHARE) <= 1
    assert abs(found[1].onset - LEAST_COST) <= 1
    assert all(change.detection - change.onset <= RECENT + 2 for change in found)


@pytest.mark.slow
@pytest.mark.parametrize("time", range(END))
def test_a_measurement_without_any_input_hides_nothing(time: int) -> None:
    run = grown(THREE_PHASES)
    run.generalizable[time] = torch.nan
    found = changes(run.measured())
    assert numbers(found) == [2, 3]
    assert abs(found[0].onset - LARGEST_SHARE) <= 1
    assert abs(found[1].onset - LEAST_COST) <= 1
    assert all(change.detection - change.onset <= RECENT + 2 for change in found)


def test_inputs_left_out_until_the_share_is_largest_hide_no_fall() -> None:
    run = grown(THREE_PHASES)
    run.generalizable[: LARGEST_SHARE + 1, :4] = torch.nan
    (change, *_) = changes(run.measured())
    assert change.number == 2
    assert change.detection <= LARGEST_SHARE + RECENT + 2


def test_inputs_that_are_always_left_out_do_not_count() -> None:
    run = grown(THREE_PHASES)
    without = detect_phases(run.map(lambda column: column[:, 5:]).measured())
    run.generalizable[:, :5] = torch.nan
    assert [str(phase) for phase in detect_phases(run.measured())] == [str(phase) for phase in without]


def test_measurements_of_nothing_but_left_out_inputs_begin_no_new_phase() -> None:
    run = grown([MOSTLY_NON_GENERALIZABLE])
    run.generalizable[:] = torch.nan
    assert changes(run.held_out([0.1 * time for time in range(10)])) == []


def test_inputs_without_any_salient_strength_begin_no_new_phase() -> None:
    run = grown([MOSTLY_NON_GENERALIZABLE])
    run.generalizable[:] = run.non_generalizable[:] = 0
    assert changes(run.measured()) == []


def test_a_few_inputs_without_strength_do_not_hide_the_phases() -> None:
    run = grown(THREE_PHASES)
    run.generalizable[:, :3] = run.non_generalizable[:, :3] = 0
    assert numbers(changes(run.measured())) == [2, 3]


@pytest.mark.parametrize("num_inputs", [1, 2, 4])
def test_a_few_inputs_run_and_are_too_few_for_any_detection(num_inputs: int) -> None:
    assert changes(grown(THREE_PHASES, num_inputs=num_inputs).measured()) == []


def test_the_first_measurement_is_phase_one() -> None:
    (phase,) = detect_phases(grown([LEARNING]).measured(epochs=range(7, 13))[:1])
    assert (phase.number, phase.onset.epoch, phase.detected.epoch) == (1, 7, 7)
    assert math.isnan(phase.confidence)
    # Restoring the weights of an onset needs to know that it may be here.
    assert [(test.phase, test.onset.epoch, test.p_value) for test in phase.tests] == [(2, 7, math.inf), (3, 7, math.inf)]


def test_no_measurements_give_no_phases() -> None:
    assert detect_phases(()) == ()


# Intervals between measurements


def test_epochs_and_steps_do_not_matter() -> None:
    run = grown([*THREE_PHASES, RECOVERING])
    times = len(run.expected_test_loss)
    epochs = [time**2 for time in range(times)]
    steps = [1000 + 3 * time + time**3 for time in range(times)]
    uneven = detect_phases(run.measured(epochs=epochs, steps=steps))
    for phase, even in zip(uneven, detect_phases(run.measured()), strict=True):
        assert (phase.number, phase.confidence) == pytest.approx((even.number, even.confidence), nan_ok=True)
        assert phase.findings == even.findings
        assert (phase.onset.epoch, phase.onset.step) == (epochs[even.onset.epoch], steps[even.onset.epoch])
        assert (phase.detected.epoch, phase.detected.step) == (epochs[even.detected.epoch], steps[even.detected.epoch])
        for test, of_even in zip(phase.tests, even.tests, strict=True):
            assert (test.phase, test.p_value, test.findings) == (of_even.phase, of_even.p_value, of_even.findings)
            assert (test.onset.epoch, test.onset.step) == (epochs[of_even.onset.epoch], steps[of_even.onset.epoch])


def test_measurements_within_one_epoch_are_told_apart_by_their_steps() -> None:
    found = detect_phases(grown(THREE_PHASES).measured(epochs=[0] * END, steps=range(END)))
    assert found[-1].onset.epoch == 0
    assert found[-1].onset.step == LEAST_COST


@pytest.mark.parametrize(
    "kept", [range(0, END, 2), range(1, END, 2), [*range(12), *range(12, END, 2)], [0, *range(2, 14, 3), *range(14, END)]]
)
def test_a_history_with_fewer_measurements_has_its_onsets_within_one_of_them(kept: Sequence[int]) -> None:
    measurements = grown(THREE_PHASES).measured()
    found = changes([measurements[time] for time in kept])
    assert numbers(found) == [2, 3]
    for change, truth in zip(found, (LARGEST_SHARE, LEAST_COST), strict=True):
        nearest = min(range(len(kept)), key=lambda index: abs(kept[index] - truth))
        assert abs(change.onset - nearest) <= 1
        assert change.detection <= change.onset + RECENT + 1


# What a detection says


def test_a_phase_keeps_its_onset_and_its_detection() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).measured())
    for before, after in itertools.pairwise(found):
        if after.number == before.number:
            assert replace(after, tests=()) == replace(before, tests=()) or after.number == 1


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.5])
def test_confidence_is_at_least_one_minus_alpha(alpha: float) -> None:
    found = detect_phases(grown(THREE_PHASES).measured(), alpha=alpha)
    assert {phase.number for phase in found} == {1, 2, 3}
    assert all(1 - alpha <= phase.confidence <= 1 for phase in found if phase.number != 1)
    assert all(math.isnan(phase.confidence) for phase in found if phase.number == 1)


def test_confidence_is_one_minus_the_level_at_which_it_would_just_be_detected() -> None:
    measurements = grown([LEARNING, Segment(24, 0.5, 0.1, -0.01)], noise=0.15, num_inputs=20).measured()
    phase = detect_phases(measurements, alpha=0.3)[-1]
    assert phase.number == 2
    p_value = round(1 - phase.confidence, 9)
    assert p_value in (*LEVELS, 0.3)
    lower = [level for level in LEVELS if level < p_value]
    found, less = (changes(measurements, alpha=alpha) for alpha in (p_value, max(lower)))
    assert found[0].detection == phase.detected.epoch
    assert less == [] or less[0].detection > phase.detected.epoch


def test_a_detection_is_the_test_of_its_measurement() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).measured(), alpha=0.05)
    for before, after in itertools.pairwise(found):
        p_values = {test.phase: test.p_value for test in after.tests}
        begun = [number for number, p_value in p_values.items() if p_value <= 0.05 and number != before.number]
        assert after.number == max(begun, default=before.number)
        if begun:
            (test,) = (test for test in after.tests if test.phase == after.number)
            assert (after.onset.step, after.findings) == (test.onset.step, test.findings)
            assert after.confidence == 1 - test.p_value


def test_every_measurement_has_a_test_of_what_can_come_next_and_of_the_phase_it_is_in() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).measured())
    assert [number for number, _ in itertools.groupby(phase.number for phase in found)] == [1, 2, 3, 2]
    for phase in found:
        assert [test.phase for test in phase.tests] == [2, 3]
        own = [test for test in phase.tests if test.phase == phase.number]
        assert all(test.onset.step == phase.onset.step for test in own)


def test_the_test_of_phase_three_goes_on_after_the_detection_and_keeps_its_onset() -> None:
    tests = followed(grown(THREE_PHASES).measured(), 3)
    after = tests[LEAST_COST + RECENT :]
    assert {test.onset.epoch for test in after} == {LEAST_COST}
    assert all(test.p_value <= 0.05 for test in after)
    # It stops to hold where the cost is what it was, and keeps its onset even so.
    recovered = followed(grown([*THREE_PHASES, Segment(14, 0.0, 0.0, -0.05)]).measured(), 3)[LEAST_COST + RECENT :]
    assert {test.onset.epoch for test in recovered} == {LEAST_COST}
    assert recovered[-1].p_value == math.inf


def test_an_onset_that_begins_anew_forgets_what_was_said_of_the_one_before() -> None:
    run = stepped([2.0, 3.0, 1 + MATERIAL_RISE / 2], at=2, times=9)
    run.expected_test_loss[7:] = 0.5
    tests = followed(run.measured(), 3)
    assert tests[5].findings
    assert tests[-1].p_value == math.inf
    assert tests[-1].findings == tests[0].findings == {}


def test_phase_two_is_found_by_both_shares_and_how_many_inputs_agree() -> None:
    phase = detect_phases(stepped([2.0, 2.0, 1.0]).measured())[-1]
    assert phase.number == 2
    assert phase.findings == pytest.approx({"share_before": 2 / 3, "share_after": 0.5, "more": 32, "probes": 32})


def test_phase_three_is_found_by_gains_losses_and_the_gap() -> None:
    run = stepped([2.25, 2.0, 1.5])
    gains = {"generalizable": 0.25, "non_generalizable": 1.0, "more": 32, "probes": 32}
    phase = detect_phases(run.measured())[-1]
    assert phase.number == 3
    losses = {"loss_before": 1.0, "loss_after": 1.5}
    assert phase.findings == pytest.approx({**gains, **losses, **{f"plain_{name}": loss for name, loss in losses.items()}})
    # All held-out probes are wrong from the beginning, and only grow surer of it: at the best temperature they cost the same.
    before = (1 + math.log(2) + 0.1) / 2
    losses = {"loss_before": before, "loss_after": before + 0.25}
    # As they are, they cost more.
    losses |= {"plain_loss_before": before, "plain_loss_after": before + 0.25 + 0.1}
    expected = {**gains, "probes": 64, "more": 64, **losses, "excess_gap": 0.2}
    assert detect_phases(run.held_out([0.1] * 3 + [0.3] * 5))[-1].findings == pytest.approx(expected, abs=1e-3)


def test_findings_are_plain_numbers_that_are_put_in_words() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).held_out([0.1] * (END + 14)))
    assert {phase.number for phase in found} == {1, 2, 3}
    for one in (*found, *(test for phase in found for test in phase.tests)):
        assert {type(number) for number in one.findings.values()} <= {float}
        assert all(f"{number:.2f}" in one.reason for name, number in one.findings.items() if name.startswith("share"))


# Properties


@st.composite
def wandering_runs(draw: st.DrawFn) -> Run:
    """Draw a run that learns, memorises and forgets at random rates, with inputs that are left out at random."""
    rate = st.sampled_from([-0.3, 0.0, 0.3, 1.0])
    slope = st.sampled_from([-0.05, 0.0, 0.05])
    segments = [Segment(draw(st.integers(3, 7)), draw(rate), draw(rate), draw(slope)) for _ in range(draw(st.integers(2, 4)))]
    seed = draw(st.integers(0, 10_000))
    run = grown(segments, num_inputs=20, noise=draw(st.sampled_from([0.01, 0.1])), seed=seed, start=(9.0, 9.0, 2.0))
    left_out = torch.rand(run.expected_test_loss.shape, generator=Generator().manual_seed(seed)) < draw(
        st.sampled_from([0.0, 0.1])
    )
    return run.map(lambda column: column.abs().masked_fill(left_out, torch.nan))


def said(measurements: Sequence[Measurement], alpha: float = 0.3) -> list[str]:
    """All that is said of each measurement, tests and all."""
    return [repr(phase) for phase in detect_phases(measurements, alpha=alpha)]


def outline(measurements: Sequence[Measurement], alpha: float = 0.3) -> list[Any]:
    """All but the findings."""
    return [
        (
            *(phase.number, phase.onset.step, phase.detected.step, repr(phase.confidence)),
            *((test.phase, test.onset.step, test.p_value) for test in phase.tests),
        )
        for phase in detect_phases(measurements, alpha=alpha)
    ]


@PROPERTY
@given(wandering_runs())
@pytest.mark.slow
def test_detections_on_a_prefix_are_the_prefix_of_the_detections(run: Run) -> None:
    measurements = run.measured()
    whole = said(measurements)
    for length in range(len(measurements)):
        assert said(measurements[:length]) == whole[:length]


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [(0, 99), (2, 99), (0, 20)])
def test_detections_on_a_prefix_are_the_prefix_of_the_detections_also_with_held_out_probes(held_out: tuple[int, int]) -> None:
    run = grown([*THREE_PHASES, RECOVERING], noise=0.1)
    begin, end = held_out
    excess = (run.expected_test_loss.mean(dim=1) - 0.3).tolist()
    without, with_them = run.measured(), run.held_out(excess)
    measurements = (*without[:begin], *with_them[begin:end], *without[max(begin, end) :])
    whole = said(measurements, alpha=0.05)
    assert numbers(changes(measurements)) == [2, 3, 2]
    for length in range(len(measurements)):
        assert said(measurements[:length], alpha=0.05) == whole[:length]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_inputs_does_not_matter(seed: int) -> None:
    # Only how signs are flipped hangs on it.
    run = grown(THREE_PHASES, noise=0.1)
    order = torch.randperm(32, generator=Generator().manual_seed(seed))
    assert changes(run.map(lambda column: column[:, order]).measured()) == changes(run.measured())


@pytest.mark.slow
@PROPERTY
@given(wandering_runs(), st.sampled_from([2.0**-20, 0.5, 1024.0]))
def test_the_unit_of_the_scores_does_not_matter(run: Run, factor: float) -> None:
    other = Run(factor * run.generalizable, factor * run.non_generalizable, run.expected_test_loss)
    assert outline(other.measured()) == outline(run.measured())


@PROPERTY
@given(wandering_runs(), st.sampled_from([2.0**-20, 0.5, 1024.0]))
@pytest.mark.slow
def test_the_unit_of_the_loss_does_not_matter(run: Run, factor: float) -> None:
    other = Run(run.generalizable, run.non_generalizable, factor * run.expected_test_loss)
    assert outline(other.measured()) == outline(run.measured())


@pytest.mark.slow
@PROPERTY
@given(wandering_runs())
def test_a_lower_alpha_never_leaves_phase_one_earlier(run: Run) -> None:
    measurements = run.measured()
    leaving, onsets = [], []
    for alpha in (0.9, 0.5, 0.1, 0.01, 0.001, 1e-6):
        found = changes(measurements, alpha)
        leaving.append(next((change.detection for change in found), 99))
        onsets.append(next((change.detection for change in found if change.number == 3), 99))
    assert leaving == sorted(leaving)
    assert onsets == sorted(onsets)


@PROPERTY
@given(wandering_runs())
def test_onsets_lie_before_detections_and_those_of_tests_stay_or_move_on(run: Run) -> None:
    measurements = run.measured()
    found = detect_phases(measurements, alpha=0.3)
    onsets: dict[int, int] = {}
    for look, phase in enumerate(found):
        assert phase.onset.epoch <= phase.detected.epoch <= look
        for test in phase.tests:
            before = onsets.get(test.phase, test.onset.epoch)
            # It stays, or moves to the newest measurement that can be an onset.
            assert before <= test.onset.epoch <= look
            assert test.onset.epoch == before or test.onset.epoch >= look - RECENT // 2
            onsets[test.phase] = test.onset.epoch


# Error control; tests/benchmarks/detection.py has thousands of runs


@pytest.mark.slow
@pytest.mark.parametrize("kind", NULLS)
@pytest.mark.parametrize("runs", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_at_most_a_fraction_alpha_of_runs_without_a_change_has_a_false_onset(kind: str, runs: int) -> None:
    generator = Generator().manual_seed(1)
    times = [TimePoint(time, time) for time in range(16)]
    drawn = [null_signals(kind, len(times), 16, generator) for _ in range(runs)]
    false = sum(phases_of(signals, times, 0.05)[-1].number != 1 for signals in drawn)
    assert false <= stats.binom.ppf(0.99, runs, 0.05)


# A single wild measurement


@dataclass(frozen=True)
class Spike:
    """What one wild measurement multiplies."""

    generalizable: float = 1.0
    non_generalizable: float = 1.0
    cost: float = 1.0
    gap: float = 0.0

    def of(self, measurement: Measurement) -> Measurement:
        training = measurement.training
        spiked = replace(
            training,
            generalizable=self.generalizable * training.generalizable,
            non_generalizable=self.non_generalizable * training.non_generalizable,
            expected_test_loss=self.cost * training.expected_test_loss,
            # What is not explained by what generalizes narrows the gap on training probes.
            explained_loss=training.explained_loss + self.gap,
        )
        return replace(measurement, training=spiked)


SPIKES = {
    "strong": Spike(8, 8),
    "weak": Spike(0.1, 0.1),
    "high share": Spike(8, 0.1),
    "low share": Spike(0.1, 8),
    "costly": Spike(cost=4),
    "cheap": Spike(cost=0.1),
    "wide gap": Spike(gap=5.0),
    "narrow gap": Spike(gap=-5.0),
    "all bad": Spike(0.1, 8, 4, 5.0),
    "all good": Spike(8, 0.1, 0.1, -5.0),
    "weak and cheap": Spike(0.1, 0.1, 0.1, -5.0),
}


def with_spike(measurements: Sequence[Measurement], spike: Spike, time: int) -> list[Measurement]:
    return [*measurements[:time], spike.of(measurements[time]), *measurements[time + 1 :]]


@pytest.mark.parametrize("time", [0, 2])
def test_a_measurement_that_is_far_better_than_those_beside_it_need_not_be_reached_again(time: int) -> None:
    measurements = grown(THREE_PHASES).measured()
    found = changes(with_spike(measurements, SPIKES["all good"], time))
    assert numbers(found) == [2, 3]
    assert abs(found[-1].onset - LEAST_COST) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_a_single_wild_measurement_detects_nothing(spike: Spike) -> None:
    times = 10
    steady = grown([Segment(times, 0.5, 0.4, -0.02)], start=(5.0, 4.0, 1.0)).held_out(
        [0.1 + 0.01 * time for time in range(times)]
    )
    memorising = grown([Segment(times, 0.0, 1.0, -0.02)]).held_out([0.1 + 0.01 * time for time in range(times)])
    assert changes(steady) == []
    assert numbers(changes(memorising)) == [2]
    for time in range(times):
        assert changes(with_spike(steady, spike, time)) == []
        assert numbers(changes(with_spike(memorising, spike, time))) == [2]


@pytest.mark.slow
@pytest.mark.parametrize("times", [range(1, END, 6), pytest.param(range(END), marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_a_single_wild_measurement_hides_nothing(spike: Spike, times: Sequence[int]) -> None:
    run = grown(THREE_PHASES)
    measurements = run.held_out((run.expected_test_loss.mean(dim=1) - 0.4).tolist())
    largest_share, least_cost = spike.generalizable > spike.non_generalizable, spike.cost < 1
    for time in times:
        found = changes(with_spike(measurements, spike, time))
        assert numbers(found) == [2, 3], time
        for change, onset, extreme in zip(found, (LARGEST_SHARE, LEAST_COST), (largest_share, least_cost), strict=True):
            # The best measurement that was seen is the onset, even if it is a single one: its weights are the ones to keep.
            if extreme and change.onset == time:
                continue
            assert abs(change.onset - onset) <= 2, time
            assert change.detection <= onset + RECENT + 3, time


@pytest.mark.slow
@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_a_single_wild_measurement_returns_from_no_phase_three(spike: Spike) -> None:
    measurements = grown([LEARNING, Segment(14, 0.0, 1.0, 0.05)]).held_out([0.1 + 0.02 * time for time in range(20)])
    for time in range(LARGEST_SHARE + RECENT, 20):
        # One at the detection may delay it, so that phase 2 comes first.
        found = changes(with_spike(measurements, spike, time))
        assert numbers(found)[-1] == 3, time
        assert found[-1].onset <= LARGEST_SHARE + 1 or (spike.cost < 1 and found[-1].onset == time), time


# Errors


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_alpha_must_be_a_probability_between_zero_and_one(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"expected alpha in \(0, 1\), got"):
        detect_phases((), alpha=alpha)


def test_different_numbers_of_training_probes_are_refused() -> None:
    run = grown([LEARNING], num_inputs=4)
    fewer = run.map(lambda column: column[:, :3])
    with pytest.raises(ValueError, match="expected measurements on the same probes"):
        detect_phases((*run.measured(), *fewer.measured()))


def test_different_numbers_of_held_out_probes_are_refused() -> None:
    run = grown([LEARNING], num_inputs=5)
    measurements = [run.held_out([0.1] * 6, num_inputs=inputs)[0] for inputs in (4, 5)]
    with pytest.raises(ValueError, match="expected measurements on the same probes"):
        detect_phases(measurements)
