import dataclasses
import math

import torch
from torch import Tensor

from lightning_interactions.analysis.phases.detect import detect_phases
from lightning_interactions.functional import segment_phases
from lightning_interactions.records import History
from tests.helpers.histories import history_from_strengths, with_phases

TIMES, SECOND, THIRD = 24, 6, 14


def run(noise: float = 0.0, num_inputs: int = 32, third: int = THIRD) -> History:
    """Let the share be largest at one time and the expected loss smallest at a later one, up to noise on each input."""
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(TIMES, dtype=torch.float64)[:, None]

    def noisy(path: Tensor) -> Tensor:
        return path * (1 + noise * torch.randn(TIMES, num_inputs, generator=generator, dtype=torch.float64))

    learned = noisy(2 + times.clamp(max=SECOND) + 0.4 * (times - SECOND).clamp(min=0))
    memorised = noisy(1 + 0.8 * (times - SECOND).clamp(min=0))
    cost = noisy(0.5 + 0.05 * (times - third).abs())
    measurements = history_from_strengths(learned, memorised, unseen_loss=cost)
    return History(measurements, detect_phases(measurements))


def test_boundaries_are_the_largest_share_and_the_smallest_cost() -> None:
    second, third = segment_phases(run())
    assert (second.phase, second.epoch, second.step) == (2, SECOND, 10 * SECOND)
    assert (third.phase, third.epoch, third.step) == (3, THIRD, 10 * THIRD)
    # All inputs agree, so the draw of probes does not matter.
    assert (second.interval.low, second.interval.high) == (SECOND, SECOND)
    assert (third.interval.low, third.interval.high) == (THIRD, THIRD)


def test_boundaries_are_compared_with_the_online_onsets() -> None:
    for boundary, onset in zip(segment_phases(run()), (SECOND, THIRD), strict=True):
        assert (boundary.online_epoch, boundary.measurements_late) == (onset, 0)
        assert str(boundary).endswith(f"online since epoch {onset}")
    history = with_phases(run().measurements, [1] * 8 + [2] * 10 + [3] * 6)
    assert [boundary.measurements_late for boundary in segment_phases(history)] == [8 - SECOND, 18 - THIRD]
    history = with_phases(run().measurements, [1] * TIMES)
    assert [(one.online_epoch, one.measurements_late) for one in segment_phases(history)] == [(None, None)] * 2
    assert str(segment_phases(history)[1]).endswith("not called online")


def test_the_place_of_an_onset_from_before_steps_were_kept_is_not_known() -> None:
    history = run()
    old = tuple(dataclasses.replace(phase, onset_step=-1, called_step=-1) for phase in history.phases)
    found = segment_phases(History(history.measurements, old))
    assert [(one.online_epoch, one.measurements_late) for one in found] == [(SECOND, None), (THIRD, None)]


def test_noise_widens_the_intervals_around_the_boundaries() -> None:
    for boundary in segment_phases(run(noise=0.3)):
        assert boundary.interval.low <= boundary.epoch <= boundary.interval.high
        assert boundary.interval.high > boundary.interval.low


def test_fewer_inputs_widen_the_intervals() -> None:
    few, many = (segment_phases(run(0.2, num_inputs))[1].interval for num_inputs in (6, 200))
    assert few.high - few.low > many.high - many.low


def test_what_still_falls_at_the_end_has_no_boundary() -> None:
    assert [boundary.phase for boundary in segment_phases(run(third=TIMES - 1))] == [2]


def test_phase_two_begins_no_later_than_phase_three() -> None:
    second, third = segment_phases(run(third=3))
    assert second.epoch == third.epoch == 3


def test_inputs_that_were_left_out_do_not_count() -> None:
    whole = run(0.1)
    cost = torch.stack([measurement.training.unseen_loss for measurement in whole.measurements])
    g, u = (
        torch.stack([getattr(one.training.strength, kind).sum(dim=(1, 2, 3)) for one in whole.measurements])
        for kind in ("generalizable", "non_generalizable")
    )
    cost[3, 0] = g[3, 0] = torch.nan
    holes = history_from_strengths(g, u, unseen_loss=cost)
    without = history_from_strengths(g[:, 1:], u[:, 1:], unseen_loss=cost[:, 1:])
    found, expected = (segment_phases(History(one, whole.phases)) for one in (holes, without))
    assert found == expected


def test_one_measurement_or_nothing_measured_has_no_boundaries() -> None:
    history = run()
    assert segment_phases(History()) == ()
    assert segment_phases(History(history.measurements[:1], history.phases[:1])) == ()
    nothing = torch.full((4, 3), torch.nan, dtype=torch.float64)
    assert segment_phases(with_phases(history_from_strengths(nothing, nothing), [1] * 4)) == ()


def test_a_single_input_has_no_intervals() -> None:
    second, third = segment_phases(run(num_inputs=1))
    assert (second.epoch, third.epoch) == (SECOND, THIRD)
    assert all(math.isnan(end) for one in (second, third) for end in (one.interval.low, one.interval.high))
