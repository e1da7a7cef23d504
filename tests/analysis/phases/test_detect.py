import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from lightning_interactions.tracking import measurement as measuring
from scipy import stats
from torch import Generator, Tensor

from lightning_interactions.analysis.phases.changes import MATERIAL_GROWTH, MATERIAL_RISE, RECENT
from lightning_interactions.analysis.phases.detect import detect_phases
from lightning_interactions.functional import phase_changes, phase_columns
from lightning_interactions.records import Claim, Measurement, OrderStrength, SplitMeasurement
from tests.helpers.histories import history_from_strengths

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True)


class Segment(NamedTuple):
    """How many measurements, and what they add to G, U and the expected cost, each to the one before."""

    length: int
    generalizable: float
    non_generalizable: float
    cost: float


LEARNING = Segment(6, 1.0, 0.0, -0.05)
MOSTLY_GENERALIZABLE = Segment(10, 0.5, 0.4, -0.02)
MOSTLY_MEMORISED = Segment(10, 0.0, 1.0, 0.05)
RECOVERING = Segment(14, 3.0, 0.0, -0.05)

THREE_PHASES = (LEARNING, MOSTLY_GENERALIZABLE, MOSTLY_MEMORISED)
LARGEST_SHARE, LEAST_COST, END = 5, 15, 26
"""Where the share is largest and an unseen input is expected to cost least, and how long the run is."""


@dataclass
class Run:
    """What is known of each training probe at each measurement."""

    generalizable: Float[Tensor, "times inputs"]
    non_generalizable: Float[Tensor, "times inputs"]
    unseen_loss: Float[Tensor, "times inputs"]

    def measured(self, **options: Any) -> tuple[Measurement, ...]:
        return history_from_strengths(
            self.generalizable, self.non_generalizable, **{"unseen_loss": self.unseen_loss, **options}
        )

    def held_out(self, excess: Sequence[float], num_inputs: int = 32, **options: Any) -> tuple[Measurement, ...]:
        """Add held-out probes with the strengths of the first training probes and an excess loss that is given."""
        levels = torch.tensor(excess, dtype=torch.float64)[:, None].expand(-1, num_inputs)
        strengths = (self.generalizable[:, :num_inputs], self.non_generalizable[:, :num_inputs])
        return self.measured(held_out_excess=levels, held_out_strengths=strengths, **options)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Run":
        return Run(change(self.generalizable), change(self.non_generalizable), change(self.unseen_loss))


def grown(
    segments: Sequence[Segment],
    num_inputs: int = 32,
    noise: float = 0.02,
    seed: int = 0,
    start: tuple[float, float, float] = (2.0, 0.5, 1.0),
) -> Run:
    """Let G, U and the cost go in segments; inputs differ in size, and each number is off by a few per cent."""
    generator = Generator().manual_seed(seed)
    rates = torch.tensor([segment[1:] for segment in segments for _ in range(segment.length)], dtype=torch.float64)
    levels = torch.tensor(start) + rates.cumsum(dim=0) - rates[0]
    size = (0.3 * torch.randn(num_inputs, generator=generator, dtype=torch.float64)).exp()
    errors = noise * torch.randn(3, len(rates), num_inputs, generator=generator, dtype=torch.float64)
    return Run(*(levels.T[:, :, None] * size * (1 + errors)))


def stepped(
    after: Sequence[float] | Float[Tensor, "3 inputs"], num_inputs: int = 32, at: int = 2, times: int = 8, tail: int = 0
) -> Run:
    """Let G, U and the cost be 2, 1 and 1 up to a measurement and something else from the next on, the same for all inputs."""
    later = torch.as_tensor(after, dtype=torch.float64)
    later = later[:, None].expand(3, num_inputs) if later.ndim == 1 else later
    before = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)[:, None].expand(3, later.shape[1])
    return Run(*torch.stack([before] * (at + 1) + [later] * (times + tail - at - 1), dim=1))


class Change(NamedTuple):
    """A phase that was called, where it began, and at which measurement it was called."""

    number: int
    onset: int
    call: int


def changes(measurements: Sequence[Measurement], alpha: float = 0.05) -> list[Change]:
    """List all changes of phase; moments are indices of measurements, whatever their epochs."""
    found = detect_phases(measurements, alpha=alpha)
    steps = [measurement.global_step for measurement in measurements]
    return [
        Change(after.number, steps.index(after.onset_step), steps.index(after.called_step))
        for before, after in itertools.pairwise(found)
        if after.number != before.number
    ]


def numbers(found: Sequence[Change]) -> list[int]:
    return [change.number for change in found]


def call_of(measurements: Sequence[Measurement], number: int) -> int:
    """Index at which a phase was first called; the length if it never was."""
    return next((change.call for change in changes(measurements) if change.number == number), len(measurements))


def claims_on(measurements: Sequence[Measurement], number: int) -> list[Claim]:
    """What each measurement said of one phase, where it said anything."""
    return [claim for phase in detect_phases(measurements) for claim in phase.claims if claim.phase == number]


@pytest.fixture(autouse=True, scope="module")
def _no_intervals() -> Iterator[None]:
    """Leave the intervals out: no phase depends on them, and they take longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "split_intervals", lambda _split: None)
        patch.setattr(measuring, "gap_intervals", lambda _training, _held_out: (None, None, None))
        yield


# Known boundaries


def test_the_phases_of_a_sharp_run_begin_where_they_do_and_are_called_as_soon_as_can_be() -> None:
    assert changes(grown(THREE_PHASES).measured()) == [
        Change(2, LARGEST_SHARE, LARGEST_SHARE + RECENT),
        Change(3, LEAST_COST, LEAST_COST + RECENT),
    ]


def test_held_out_probes_that_agree_change_nothing() -> None:
    run = grown(THREE_PHASES)
    excess = run.unseen_loss.mean(dim=1) - 0.5
    assert changes(run.held_out(excess.tolist())) == changes(run.measured())


def test_a_gradual_run_has_its_onsets_at_the_largest_share_and_the_least_cost() -> None:
    # What is gained goes from generalizable to memorised little by little, and the cost is a parabola.
    times, bottom = 40, 18
    segments = [Segment(1, 1 - time / 30, time / 30, (time - bottom - 0.5) * 0.003) for time in range(times)]
    measurements = grown(segments, noise=0.0).measured()
    shares = [measurement.training_summary.share for measurement in measurements]
    found = changes(measurements)
    assert numbers(found) == [2, 3]
    assert abs(found[0].onset - shares.index(max(shares))) <= 1
    assert abs(found[1].onset - bottom) <= 1
    assert all(change.call <= change.onset + 12 for change in found)


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
    # Even where an unseen input is expected to cost more and more.
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
    run = grown([LEARNING, MOSTLY_MEMORISED])
    assert changes(run.measured()) == [Change(3, LARGEST_SHARE, LARGEST_SHARE + RECENT)]


def test_fine_tuning_may_begin_in_phase_two() -> None:
    found = changes(grown([MOSTLY_GENERALIZABLE, MOSTLY_MEMORISED], start=(8.0, 0.5, 1.0)).measured())
    assert numbers(found) == [2, 3]
    assert found[0] == Change(2, 0, RECENT)
    assert found[1] == Change(3, 9, 9 + RECENT)


def test_a_run_may_begin_in_phase_three() -> None:
    run = grown([MOSTLY_MEMORISED], start=(8.0, 0.5, 1.0))
    assert changes(run.measured()) == [Change(3, 0, RECENT)]


def test_a_recovery_returns_to_phase_two_and_memorising_again_is_phase_three_again() -> None:
    run = grown([*THREE_PHASES, RECOVERING, Segment(16, 0.0, 4.0, 0.05)])
    found = changes(run.measured())
    assert numbers(found) == [2, 3, 2, 3]
    assert found[2] == Change(2, END - 1, END - 1 + RECENT)
    assert found[3] == Change(3, END - 1 + 14, END - 1 + 14 + RECENT)


# The boundaries of each condition: a step that suffices by a hair, and one that does not


def is_called(run: Run, number: int = 3, **options: Any) -> bool:
    return number in numbers(changes(run.measured(**options)))


@pytest.mark.parametrize(("by", "called"), [(0.99, False), (1.01, True)])
def test_phase_three_needs_a_material_growth(by: float, called: bool) -> None:
    run = stepped([2.0, 1.0 + 3 * MATERIAL_GROWTH * by, 1.5])
    assert is_called(run) is called
    assert is_called(run.map(torch.Tensor.float), chance=0.0) is called


@pytest.mark.parametrize(("by", "called"), [(0.99, False), (1.01, True)])
def test_phase_three_needs_a_material_rise_of_the_cost(by: float, called: bool) -> None:
    assert is_called(stepped([2.0, 2.0, 1 + MATERIAL_RISE * by])) is called


@pytest.mark.parametrize(("by", "called"), [(0.99, False), (1.01, True)])
def test_without_a_loss_the_cost_is_what_is_memorised_and_not_learned(by: float, called: bool) -> None:
    # The strength grows by far more than is material, and what is memorised by little more than what is learned.
    run = stepped([3.0, 2.0 + 3 * MATERIAL_RISE * by, math.nan])
    run.unseen_loss[:] = torch.nan
    assert is_called(run) is called


@pytest.mark.parametrize(("learned", "called"), [(0.9, True), (1.1, False)])
def test_phase_three_needs_more_memorised_than_learned_on_average(learned: float, called: bool) -> None:
    # All but two inputs memorise alike; two learn so much that the mean gain is of one kind or of the other.
    after = torch.tensor([[2.0], [2.0], [1.5]]).repeat(1, 32)
    after[0, :2] += 16 * learned
    assert is_called(stepped(after)) is called


@pytest.mark.parametrize("gap", [-0.1, 0.0, 0.1])
def test_the_excess_gap_is_told_but_decides_nothing(gap: float) -> None:
    run = stepped([2.0, 2.0, 2.0])
    rising = torch.tensor([0.1] * 3 + [0.4] * 5, dtype=torch.float64)
    own = rising - torch.tensor([0.0] * 3 + [gap] * 5, dtype=torch.float64)
    measurements = run.held_out(rising.tolist(), training_excess=own[:, None].expand(-1, 32))
    assert numbers(changes(measurements))[-1] == 3
    assert f"the excess gap changed by {gap:+.3f}" in detect_phases(measurements)[-1].reason


def fewest_that_agree(look: int, kind: int, num_inputs: int, alpha: float = 0.05) -> int:
    """The fewest inputs that suffice at one look, counted from the definition."""
    budget = phase_changes.BUDGET_SHARES[kind] * alpha / (look * (look + 1) * look)
    return next(
        k
        for k in range(num_inputs)
        if sum(math.comb(num_inputs, j) for j in range(k, num_inputs + 1)) <= budget * 2**num_inputs
    )


@pytest.mark.parametrize(("missing", "called"), [(0, True), (1, False)])
def test_phase_three_needs_most_inputs(missing: int, called: bool) -> None:
    at = 2
    enough = fewest_that_agree(at + RECENT, 3, 40)
    after = torch.tensor([[2.0], [2.0], [1.5]]).repeat(1, 40)
    after[0, enough - missing :] += 1.01
    # Later looks have less to spend, so it is never called if not at once.
    found = changes(stepped(after, at=at, times=at + RECENT + 4).measured())
    assert (Change(3, at, at + RECENT) in found) is called
    assert (3 in numbers(found)) is called


@pytest.mark.parametrize(("missing", "called"), [(0, True), (1, False)])
def test_phase_two_needs_most_inputs(missing: int, called: bool) -> None:
    at = 2
    enough = fewest_that_agree(at + RECENT, 2, 40)
    after = torch.tensor([[2.0], [1.5], [1.0]]).repeat(1, 40)
    after[1, enough - missing :] = 0.99
    found = changes(stepped(after, at=at, times=at + RECENT + 4).measured())
    assert found == ([Change(2, at, at + RECENT)] if called else [])


def test_phase_two_needs_a_fall_of_the_share_of_all_too() -> None:
    # A single large input holds most strength, and its share rises.
    run = stepped([2.0, 1.5, 1.0])
    assert is_called(run, 2)
    run.generalizable[:, 0] = 1000 * torch.arange(1.0, 9.0)
    assert not is_called(run, 2)


@pytest.mark.parametrize("seen", range(1, 2 * RECENT))
def test_a_change_must_be_seen_in_the_median_of_the_last_measurements(seen: int) -> None:
    at = 3
    run = stepped([2.0, 3.0, 2.0], at=at, times=at + 1 + seen)
    # An onset is known with the measurement after it.
    assert is_called(run) is (seen >= RECENT)


def test_shrinking_generalizable_strength_is_no_phase_three() -> None:
    # The share falls and U gains on G, but nothing is learned: all strength shrinks.
    assert numbers(changes(grown([LEARNING, Segment(15, -0.3, 0.0, 0.05)]).measured())) == [2]


@pytest.mark.parametrize(("chance", "called"), [(0.0, False), (0.4, True)])
def test_strength_that_chance_calls_generalizable_counts_as_memorised(chance: float, called: bool) -> None:
    # G gains more than U at face value; 40 % of what is memorised are called generalizable by chance.
    assert is_called(grown([LEARNING, Segment(20, 0.55, 0.45, 0.05)]), chance=chance) is called


def test_inputs_count_alike_whatever_their_size() -> None:
    run = grown([Segment(12, 0.0, 1.0, 0.05)])
    size = (3 * torch.randn(32, generator=Generator().manual_seed(2), dtype=torch.float64)).exp()
    assert is_called(run.map(lambda column: column * size))


def after_memorising(later: Sequence[float], times: int = 8) -> Run:
    """Memorise from measurement 2 on, so that phase 3 is called, and let something else be from measurement 8 on."""
    run = stepped([2.0, 3.0, 2.0], times=8)
    end = torch.tensor(later, dtype=torch.float64)[:, None, None].expand(3, times, 32)
    return Run(
        *(torch.cat(parts) for parts in zip((run.generalizable, run.non_generalizable, run.unseen_loss), end, strict=True))
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


def test_what_was_learned_before_the_call_of_phase_three_is_no_evidence_for_a_return() -> None:
    run = grown([LEARNING, Segment(12, 0.0, 4.0, 0.05), Segment(12, 0.0, 0.0, -0.05)], noise=0.001)
    # Two inputs gain so much that the mean gain is generalizable.
    run.generalizable[18:, :2] += 2000
    assert numbers(changes(run.measured())) == [3]


# Which losses count


def test_inputs_with_labels_that_other_models_contradict_do_not_count_in_the_cost() -> None:
    # Twelve of 32 have wrong labels, and to memorise them makes the right labels less costly.
    run = grown(THREE_PHASES)
    run.unseen_loss[:, :12] = torch.linspace(9, 1, END)[:, None]
    peers = torch.full((32,), 2.0)
    assert numbers(changes(run.measured(peer_score=peers))) == [2]
    peers[:12] = -2.0
    assert changes(run.measured(peer_score=peers)) == changes(grown(THREE_PHASES).measured())


@pytest.mark.parametrize("trusted", [phase_columns.FEWEST_TRUSTED - 1, phase_columns.FEWEST_TRUSTED])
def test_all_labels_count_where_too_few_are_trusted(trusted: int) -> None:
    run = grown(THREE_PHASES)
    run.unseen_loss[:, :trusted] = torch.linspace(50, 1, END)[:, None]
    peers = torch.full((32,), -2.0)
    peers[:trusted] = 2.0
    # All together cost least at the end because of the few that are trusted; the others cost least where they did.
    found = numbers(changes(run.measured(peer_score=peers)))
    assert found == [2]
    run = grown(THREE_PHASES)
    run.unseen_loss[:, trusted:] = torch.linspace(50, 1, END)[:, None]
    found = numbers(changes(run.measured(peer_score=peers)))
    assert found == ([2, 3] if trusted == phase_columns.FEWEST_TRUSTED else [2])


def test_the_loss_of_held_out_probes_counts_as_it_is() -> None:
    run = grown(THREE_PHASES)
    falling = torch.linspace(2, 0.1, END)
    # As many held-out probes as training probes, and they cost less and less.
    assert numbers(changes(run.held_out(falling.tolist()))) == [2]


def with_unknown_loss(measurements: Sequence[Measurement]) -> list[Measurement]:
    def unknown(split: SplitMeasurement) -> SplitMeasurement:
        nothing = torch.full_like(split.loss, torch.nan)
        return replace(split, loss=nothing, explained_loss=nothing, unseen_loss=nothing)

    return [
        replace(
            one,
            training=unknown(one.training),
            held_out=one.held_out and unknown(one.held_out),
            excess_gap=math.nan,
            loss_unit="",
        )
        for one in measurements
    ]


def test_where_no_loss_is_known_the_strengths_decide() -> None:
    # What is memorised less what is learned is smallest at the end of the first two segments together.
    measurements = grown(THREE_PHASES).measured()
    found = changes(with_unknown_loss(measurements))
    assert found == [Change(2, LARGEST_SHARE, LARGEST_SHARE + RECENT), Change(3, LEAST_COST, LEAST_COST + RECENT)]
    assert "no loss is known" in detect_phases(with_unknown_loss(measurements))[-1].reason


FALLING = [5.0 - 0.15 * time for time in range(END)]
"""A held-out loss that falls to the end, faster than the unseen loss rises: the expected cost never does."""


def test_held_out_probes_whose_loss_is_unknown_do_not_hold_phase_three_back() -> None:
    measurements = grown(THREE_PHASES).held_out(FALLING)
    assert numbers(changes(measurements)) == [2]
    assert numbers(changes(with_unknown_loss(measurements))) == [2, 3]


def test_a_history_that_has_held_out_probes_only_later() -> None:
    # As with an iterable validation loader, whose first batches pass only after the untrained model was measured.
    run = grown(THREE_PHASES)
    excess = (run.unseen_loss.mean(dim=1) - 0.5).tolist()
    for begin in (1, LARGEST_SHARE, LEAST_COST - 2):
        mixed = (*run.measured()[:begin], *run.held_out(excess)[begin:])
        assert changes(mixed) == changes(run.measured())
        falling = (*run.measured()[:begin], *run.held_out(FALLING)[begin:])
        assert numbers(changes(falling)) == [2]


def test_held_out_probes_may_be_fewer_than_training_probes() -> None:
    run = grown(THREE_PHASES)
    excess = (run.unseen_loss.mean(dim=1) - 0.5).tolist()
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
    assert all(change.call - change.onset <= RECENT + 2 for change in found)


@pytest.mark.parametrize("time", range(END))
def test_a_measurement_without_any_input_hides_nothing(time: int) -> None:
    run = grown(THREE_PHASES)
    run.generalizable[time] = torch.nan
    found = changes(run.measured())
    assert numbers(found) == [2, 3]
    assert abs(found[0].onset - LARGEST_SHARE) <= 1
    assert abs(found[1].onset - LEAST_COST) <= 1
    assert all(change.call - change.onset <= RECENT + 2 for change in found)


def test_inputs_left_out_until_the_share_is_largest_hide_no_fall() -> None:
    run = grown(THREE_PHASES)
    run.generalizable[: LARGEST_SHARE + 1, :4] = torch.nan
    (change, *_) = changes(run.measured())
    assert change.number == 2
    assert change.call <= LARGEST_SHARE + RECENT + 2


def test_inputs_that_are_always_left_out_do_not_count() -> None:
    run = grown(THREE_PHASES)
    without = detect_phases(run.map(lambda column: column[:, 5:]).measured())
    run.generalizable[:, :5] = torch.nan
    assert [str(phase) for phase in detect_phases(run.measured())] == [str(phase) for phase in without]


def test_measurements_of_nothing_but_left_out_inputs_call_no_new_phase() -> None:
    run = grown([MOSTLY_MEMORISED])
    run.generalizable[:] = torch.nan
    assert changes(run.held_out([0.1 * time for time in range(10)])) == []


def test_inputs_without_any_salient_strength_call_no_new_phase() -> None:
    run = grown([MOSTLY_MEMORISED])
    run.generalizable[:] = run.non_generalizable[:] = 0
    assert changes(run.measured()) == []


def test_a_few_inputs_without_strength_do_not_hide_the_phases() -> None:
    run = grown(THREE_PHASES)
    run.generalizable[:, :3] = run.non_generalizable[:, :3] = 0
    assert numbers(changes(run.measured())) == [2, 3]


@pytest.mark.parametrize("num_inputs", [1, 2, 4])
def test_a_few_inputs_run_and_are_too_few_for_any_call(num_inputs: int) -> None:
    assert changes(grown(THREE_PHASES, num_inputs=num_inputs).measured()) == []


def test_the_first_measurement_is_phase_one() -> None:
    (phase,) = detect_phases(grown([LEARNING]).measured(epochs=range(7, 13))[:1])
    assert (phase.number, phase.onset_epoch, phase.called_epoch) == (1, 7, 7)
    assert math.isnan(phase.confidence)
    # Restoring the weights of an onset needs to know that it may be here.
    assert [(claim.phase, claim.onset_epoch, claim.level) for claim in phase.claims] == [(2, 7, math.inf), (3, 7, math.inf)]


def test_no_measurements_give_no_phases() -> None:
    assert detect_phases(()) == ()


# Intervals between measurements


def test_epochs_and_steps_do_not_matter() -> None:
    run = grown([*THREE_PHASES, RECOVERING])
    times = len(run.unseen_loss)
    epochs = [time**2 for time in range(times)]
    steps = [1000 + 3 * time + time**3 for time in range(times)]
    uneven = detect_phases(run.measured(epochs=epochs, steps=steps))
    for phase, even in zip(uneven, detect_phases(run.measured()), strict=True):
        assert (phase.number, phase.confidence, phase.reason) == pytest.approx(
            (even.number, even.confidence, even.reason), nan_ok=True
        )
        assert (phase.onset_epoch, phase.onset_step) == (epochs[even.onset_epoch], steps[even.onset_epoch])
        assert (phase.called_epoch, phase.called_step) == (epochs[even.called_epoch], steps[even.called_epoch])
        for claim, of_even in zip(phase.claims, even.claims, strict=True):
            assert (claim.phase, claim.level, claim.reason) == (of_even.phase, of_even.level, of_even.reason)
            assert (claim.onset_epoch, claim.onset_step) == (epochs[of_even.onset_epoch], steps[of_even.onset_epoch])


def test_measurements_within_one_epoch_are_told_apart_by_their_steps() -> None:
    found = detect_phases(grown(THREE_PHASES).measured(epochs=[0] * END, steps=range(END)))
    assert found[-1].onset_epoch == 0
    assert found[-1].onset_step == LEAST_COST


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
        assert change.call <= change.onset + RECENT + 1


# What a call says


def test_a_phase_keeps_its_onset_and_its_call() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).measured())
    for before, after in itertools.pairwise(found):
        if after.number == before.number:
            assert replace(after, claims=()) == replace(before, claims=()) or after.number == 1


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_confidence_is_at_least_one_minus_alpha(alpha: float) -> None:
    found = detect_phases(grown(THREE_PHASES).measured(), alpha=alpha)
    assert {phase.number for phase in found} == {1, 2, 3}
    assert all(1 - alpha <= phase.confidence <= 1 for phase in found if phase.number != 1)
    assert all(math.isnan(phase.confidence) for phase in found if phase.number == 1)


def test_confidence_is_the_level_at_which_the_call_would_just_be_made() -> None:
    measurements = grown([LEARNING, Segment(24, 0.5, 0.1, -0.01)], noise=0.15, num_inputs=20).measured()
    phase = detect_phases(measurements, alpha=0.3)[-1]
    assert phase.number == 2
    level = 1 - phase.confidence
    assert 1e-4 < level <= 0.3
    just_above, just_below = (changes(measurements, alpha=level * factor) for factor in (1.01, 0.99))
    assert just_above[0].call == phase.called_epoch
    assert just_below == [] or just_below[0].call > phase.called_epoch


def test_a_call_is_the_claim_of_its_measurement() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).measured(), alpha=0.05)
    for before, after in itertools.pairwise(found):
        levels = {claim.phase: claim.level for claim in after.claims}
        begun = [number for number, level in levels.items() if level <= 0.05 and number != before.number]
        assert after.number == max(begun, default=before.number)
        if begun:
            (claim,) = (claim for claim in after.claims if claim.phase == after.number)
            assert (after.onset_step, after.reason) == (claim.onset_step, claim.reason)
            assert after.confidence == 1 - claim.level


def test_every_measurement_has_a_claim_for_what_can_come_next_and_for_the_phase_it_is_in() -> None:
    found = detect_phases(grown([*THREE_PHASES, RECOVERING]).measured())
    assert [number for number, _ in itertools.groupby(phase.number for phase in found)] == [1, 2, 3, 2]
    for phase in found:
        assert [claim.phase for claim in phase.claims] == [2, 3]
        own = [claim for claim in phase.claims if claim.phase == phase.number]
        assert all(claim.onset_step == phase.onset_step for claim in own)


def test_the_claim_on_phase_three_goes_on_after_the_call_and_keeps_its_onset() -> None:
    claims = claims_on(grown(THREE_PHASES).measured(), 3)
    after = claims[LEAST_COST + RECENT :]
    assert {claim.onset_epoch for claim in after} == {LEAST_COST}
    assert all(claim.level <= 0.05 for claim in after)
    # It stops to hold where the cost is what it was, and keeps its onset even so.
    recovered = claims_on(grown([*THREE_PHASES, Segment(14, 0.0, 0.0, -0.05)]).measured(), 3)[LEAST_COST + RECENT :]
    assert {claim.onset_epoch for claim in recovered} == {LEAST_COST}
    assert recovered[-1].level == math.inf


def test_an_onset_that_begins_anew_forgets_what_was_said_of_the_one_before() -> None:
    run = stepped([2.0, 3.0, 1.02], at=2, times=9)
    run.unseen_loss[7:] = 0.5
    claims = claims_on(run.measured(), 3)
    assert "unseen" not in claims[-1].reason
    assert claims[-1].level == math.inf
    assert claims[-1].reason == claims[0].reason != claims[5].reason


def test_the_reason_for_phase_two_names_both_shares_and_how_many_inputs() -> None:
    measurements = stepped([2.0, 2.0, 1.0]).measured()
    phase = detect_phases(measurements)[-1]
    assert "from its maximum of 0.67 to 0.50, and on 32 of 32 probes" in phase.reason


def test_the_reason_for_phase_three_names_gains_costs_and_the_gap() -> None:
    run = stepped([2.25, 2.0, 1.5])
    without, held_out = run.measured(), run.held_out([0.1] * 3 + [0.3] * 5)
    reason = detect_phases(without)[-1].reason
    assert "changed by +0.25 generalizable and +1.00 non-generalizable, the latter by more on 32 of 32 probes" in reason
    assert "went from 1.000 to 1.500" in reason
    assert "gap" not in reason
    assert "the excess gap changed by +0.200" in detect_phases(held_out)[-1].reason
    before = (1 + math.log(2) + 0.1) / 2
    assert f"went from {before:.3f} to {before + 0.35:.3f}" in detect_phases(held_out)[-1].reason


# Properties


@st.composite
def wandering_runs(draw: st.DrawFn) -> Run:
    """Draw a run that learns, memorises and forgets at random rates, with inputs that are left out at random."""
    rate = st.sampled_from([-0.3, 0.0, 0.3, 1.0])
    slope = st.sampled_from([-0.05, 0.0, 0.05])
    segments = [Segment(draw(st.integers(3, 7)), draw(rate), draw(rate), draw(slope)) for _ in range(draw(st.integers(2, 4)))]
    seed = draw(st.integers(0, 10_000))
    run = grown(segments, num_inputs=20, noise=draw(st.sampled_from([0.01, 0.1])), seed=seed, start=(9.0, 9.0, 2.0))
    left_out = torch.rand(run.unseen_loss.shape, generator=Generator().manual_seed(seed)) < draw(st.sampled_from([0.0, 0.1]))
    return run.map(lambda column: column.abs().masked_fill(left_out, torch.nan))


def said(measurements: Sequence[Measurement], alpha: float = 0.3) -> list[str]:
    """All that is said of each measurement, claims and all."""
    return [repr(phase) for phase in detect_phases(measurements, alpha=alpha)]


def outline(measurements: Sequence[Measurement], alpha: float = 0.3) -> list[Any]:
    """All but the words."""
    return [
        (
            *(phase.number, phase.onset_step, phase.called_step, repr(phase.confidence)),
            *((claim.phase, claim.onset_step, claim.level) for claim in phase.claims),
        )
        for phase in detect_phases(measurements, alpha=alpha)
    ]


@PROPERTY
@given(wandering_runs())
def test_calls_on_a_prefix_are_the_prefix_of_the_calls(run: Run) -> None:
    measurements = run.measured()
    whole = said(measurements)
    for length in range(len(measurements)):
        assert said(measurements[:length]) == whole[:length]


@pytest.mark.parametrize("held_out", [(0, 99), (2, 99), (0, 20)])
def test_calls_on_a_prefix_are_the_prefix_of_the_calls_also_with_held_out_probes(held_out: tuple[int, int]) -> None:
    run = grown([*THREE_PHASES, RECOVERING], noise=0.1)
    begin, end = held_out
    excess = (run.unseen_loss.mean(dim=1) - 0.3).tolist()
    without, with_them = run.measured(), run.held_out(excess)
    measurements = (*without[:begin], *with_them[begin:end], *without[max(begin, end) :])
    whole = said(measurements, alpha=0.05)
    assert numbers(changes(measurements)) == [2, 3, 2]
    for length in range(len(measurements)):
        assert said(measurements[:length], alpha=0.05) == whole[:length]


@PROPERTY
@given(wandering_runs(), st.permutations(range(20)))
def test_the_order_of_inputs_does_not_matter(run: Run, order: list[int]) -> None:
    assert outline(run.map(lambda column: column[:, order]).measured()) == outline(run.measured())


@PROPERTY
@given(wandering_runs(), st.sampled_from([2.0**-20, 0.5, 1024.0]))
def test_the_unit_of_the_scores_does_not_matter(run: Run, factor: float) -> None:
    other = Run(factor * run.generalizable, factor * run.non_generalizable, run.unseen_loss)
    assert outline(other.measured()) == outline(run.measured())


@PROPERTY
@given(wandering_runs(), st.sampled_from([2.0**-20, 0.5, 1024.0]))
def test_the_unit_of_the_loss_does_not_matter(run: Run, factor: float) -> None:
    other = Run(run.generalizable, run.non_generalizable, factor * run.unseen_loss)
    assert outline(other.measured()) == outline(run.measured())


@PROPERTY
@given(wandering_runs())
def test_a_lower_alpha_never_leaves_phase_one_earlier(run: Run) -> None:
    measurements = run.measured()
    leaving, onsets = [], []
    for alpha in (0.9, 0.5, 0.1, 0.01, 0.001, 1e-6):
        found = changes(measurements, alpha)
        leaving.append(next((change.call for change in found), 99))
        onsets.append(next((change.call for change in found if change.number == 3), 99))
    assert leaving == sorted(leaving)
    assert onsets == sorted(onsets)


@PROPERTY
@given(wandering_runs())
def test_onsets_lie_before_calls_and_those_of_claims_stay_or_move_on(run: Run) -> None:
    measurements = run.measured()
    found = detect_phases(measurements, alpha=0.3)
    onsets: dict[int, int] = {}
    for look, phase in enumerate(found):
        assert phase.onset_epoch <= phase.called_epoch <= look
        for claim in phase.claims:
            before = onsets.get(claim.phase, claim.onset_epoch)
            # It stays, or moves to the newest measurement that can be an onset.
            assert before <= claim.onset_epoch <= look
            assert claim.onset_epoch == before or claim.onset_epoch >= look - RECENT // 2
            onsets[claim.phase] = claim.onset_epoch


# Error control


def driftless_run(generator: Generator, kind: str, times: int, num_inputs: int) -> tuple[Measurement, ...]:
    """Let the logarithms of what every input has learned for good, has memorised and is expected to cost walk at random.

    What is learned and what is memorised walk alike: neither grows more than the other on average. Both grow by 3 % a step,
    so that there is always something gained, and nothing that tells its kind. The evidence calls a quarter of what is
    memorised generalizable by chance. Costs walk together, and each a little for itself.

    Args:
        generator: Source of randomness.
        kind: "gaussian" steps; "heavy tails": steps of Student's t with three degrees of freedom; "unequal inputs": a few
            inputs hold most of the strength.
        times: Number of measurements.
        num_inputs: Number of training probes.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    steps = 0.1 * normal(3, times, num_inputs)
    if kind == "heavy tails":
        chi_squared = normal(3, 3, times, num_inputs).square().mean(dim=0)
        # Cut off, so that the exponential gives sizes that can be added up.
        steps = (3 * steps / chi_squared.sqrt()).clamp(-1.5, 1.5)
    size = (2.0 if kind == "unequal inputs" else 0.5) * normal(num_inputs)
    drift = torch.tensor([0.03, 0.03, 0.0], dtype=torch.float64)[:, None, None]
    together = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)[:, None, None] * 0.1 * normal(times, 1)
    learned, memorised, cost = ((steps + drift + together).cumsum(dim=1) + size).exp()
    return bare(learned + 0.25 * memorised, 0.75 * memorised, cost, chance=0.25)


def bare(g: Tensor, u: Tensor, cost: Tensor, chance: float) -> tuple[Measurement, ...]:
    """Make measurements of nothing but what phases depend on, which is quick."""
    (template,) = history_from_strengths(g[:1], u[:1])
    rest = torch.zeros_like(g)
    return tuple(
        replace(
            template,
            epoch=time,
            global_step=time,
            training=replace(
                template.training,
                strength=OrderStrength(*(strength[time, :, None, None, None] for strength in (g, u, rest))),
                chance_generalizable=chance * (g[time] + u[time]),
                unseen_loss=cost[time],
            ),
            training_summary=replace(template.training_summary, share=float(g[time].sum() / (g[time] + u[time]).sum())),
        )
        for time in range(len(g))
    )


def false_onsets(kind: str, runs: int, alpha: float, times: int = 14) -> int:
    generator = Generator().manual_seed(1)
    return sum(bool(changes(driftless_run(generator, kind, times, 16), alpha)) for _ in range(runs))


KINDS = ("gaussian", "heavy tails", "unequal inputs")


@pytest.mark.parametrize("kind", KINDS)
def test_at_most_a_fraction_alpha_of_driftless_runs_has_a_false_onset(kind: str) -> None:
    # No allowance for chance: the bound is by far not reached.
    assert false_onsets(kind, 100, 0.05) <= 0.05 * 100


def test_if_every_look_spent_the_whole_budget_there_would_be_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase_changes, "_budget", lambda _kind, _look: 1.0)
    runs, alpha = 60, 0.05
    found = sum(false_onsets(kind, runs, alpha, times=26) for kind in KINDS)
    assert found > stats.binom.ppf(0.999, len(KINDS) * runs, alpha)


def test_the_budget_of_all_looks_onsets_and_kinds_is_one() -> None:
    spent = sum(look * phase_changes._budget(kind, look) for kind in phase_changes.BUDGET_SHARES for look in range(1, 2000))
    assert 0.999 < spent <= 1


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
        by_order = (
            self.generalizable * training.strength.generalizable,
            self.non_generalizable * training.strength.non_generalizable,
            training.strength.non_salient,
        )
        split = replace(training, strength=OrderStrength(*by_order), unseen_loss=self.cost * training.unseen_loss)
        return replace(
            measurement,
            training=split,
            training_summary=measuring.summarise(split),
            excess_gap=measurement.excess_gap + self.gap,
        )


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


@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_a_single_wild_measurement_calls_nothing(spike: Spike) -> None:
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


@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_a_single_wild_measurement_hides_nothing(spike: Spike) -> None:
    run = grown(THREE_PHASES)
    measurements = run.held_out((run.unseen_loss.mean(dim=1) - 0.4).tolist())
    largest_share, least_cost = spike.generalizable > spike.non_generalizable, spike.cost < 1
    for time in range(END):
        found = changes(with_spike(measurements, spike, time))
        assert numbers(found) == [2, 3], time
        for change, onset, extreme in zip(found, (LARGEST_SHARE, LEAST_COST), (largest_share, least_cost), strict=True):
            # The best measurement that was seen is the onset, even if it is a single one: its weights are the ones to keep.
            if extreme and change.onset == time:
                continue
            assert abs(change.onset - onset) <= 2, time
            assert change.call <= onset + RECENT + 3, time


@pytest.mark.parametrize("spike", SPIKES.values(), ids=SPIKES)
def test_a_single_wild_measurement_returns_from_no_phase_three(spike: Spike) -> None:
    measurements = grown([LEARNING, Segment(14, 0.0, 1.0, 0.05)]).held_out([0.1 + 0.02 * time for time in range(20)])
    for time in range(LARGEST_SHARE + RECENT, 20):
        # One at the call may delay it, so that phase 2 comes first.
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
