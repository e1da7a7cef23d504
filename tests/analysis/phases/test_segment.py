import math

import torch
from torch import Tensor

from lightning_interactions.analysis.phases.detect import detect_phases
from lightning_interactions.analysis.phases.segment import segment_phases
from lightning_interactions.records import History, TimePoint
from tests.helpers.histories import history_from_strengths, with_phases

TIMES, SECOND, THIRD = 24, 6, 14


def run(noise: float = 0.0, num_inputs: int = 32, third: int = THIRD) -> History:
    """Let the share be largest at one time and the expected loss smallest at a later one, up to noise on each input."""
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(TIMES, dtype=torch.float64)[:, None]

    def noisy(path: Tensor) -> Tensor:
        return path * (1 + noise * torch.randn(TIMES, num_inputs, generator=generator, dtype=torch.float64))

    generalizable = noisy(2 + times.clamp(max=SECOND) + 0.4 * (times - SECOND).clamp(min=0))
    non_generalizable = noisy(1 + 0.8 * (times - SECOND).clamp(min=0))
    cost = noisy(0.5 + 0.05 * (times - third).abs())
    measurements = history_from_strengths(generalizable, non_generalizable, expected_test_loss=cost)
    return History(measurements, detect_phases(measurements))


def test_change_points_are_the_largest_share_and_the_smallest_cost() -> None:
    second, third = segment_phases(run())
    assert (second.phase, second.time) == (2, TimePoint(SECOND, 10 * SECOND))
    assert (third.phase, third.time) == (3, TimePoint(THIRD, 10 * THIRD))
    # All inputs agree, so the draw of probes does not matter.
    assert (second.low, second.high) == (SECOND, SECOND)
    assert (third.low, third.high) == (THIRD, THIRD)


def test_change_points_are_compared_with_the_online_onsets() -> None:
    for change_point, onset in zip(segment_phases(run()), (SECOND, THIRD), strict=True):
        assert (change_point.online_onset, change_point.measurements_late) == (TimePoint(onset, 10 * onset), 0)
    history = with_phases(run().measurements, [1] * 8 + [2] * 10 + [3] * 6)
    assert [change_point.measurements_late for change_point in segment_phases(history)] == [8 - SECOND, 18 - THIRD]
    history = with_phases(run().measurements, [1] * TIMES)
    assert [(one.online_onset, one.measurements_late) for one in segment_phases(history)] == [(None, None)] * 2


def test_an_onset_whose_measurement_was_left_out_of_a_long_history_has_no_place_in_it() -> None:
    history = run()
    kept = [time for time in range(TIMES) if time != SECOND]
    fewer = History(tuple(history.measurements[time] for time in kept), tuple(history.phases[time] for time in kept))
    second, third = segment_phases(fewer)
    assert (second.online_onset, second.measurements_late) == (TimePoint(SECOND, 10 * SECOND), None)
    assert third.measurements_late == 0


def test_noise_widens_the_intervals_around_the_change_points() -> None:
    for found in segment_phases(run(noise=0.3)):
        assert found.low <= found.time.epoch <= found.high
        assert found.high > found.low


def test_fewer_inputs_widen_the_intervals() -> None:
    few, many = (segment_phases(run(0.2, num_inputs))[1] for num_inputs in (6, 200))
    assert few.high - few.low > many.high - many.low


def test_what_still_falls_at_the_end_has_no_change_point() -> None:
    assert [one.phase for one in segment_phases(run(third=TIMES - 1))] == [2]


def test_phase_two_begins_no_later_than_phase_three() -> None:
    second, third = segment_phases(run(third=3))
    assert second.time.epoch == third.time.epoch == 3


def test_inputs_that_were_left_out_do_not_count() -> None:
    whole = run(0.1)
    cost = torch.stack([measurement.training.expected_test_loss for measurement in whole.measurements])
    g, u = (
        torch.stack([getattr(one.training, kind) for one in whole.measurements])
        for kind in ("generalizable", "non_generalizable")
    )
    cost[3, 0] = g[3, 0] = torch.nan
    holes = history_from_strengths(g, u, expected_test_loss=cost)
    without = history_from_strengths(g[:, 1:], u[:, 1:], expected_test_loss=cost[:, 1:])
    found, expected = (segment_phases(History(one, whole.phases)) for one in (holes, without))
    assert found == expected


def test_one_measurement_or_nothing_measured_has_no_change_points() -> None:
    history = run()
    assert segment_phases(History()) == ()
    assert segment_phases(History(history.measurements[:1], history.phases[:1])) == ()
    nothing = torch.full((4, 3), torch.nan, dtype=torch.float64)
    assert segment_phases(with_phases(history_from_strengths(nothing, nothing), [1] * 4)) == ()


def test_a_single_input_has_no_intervals() -> None:
    second, third = segment_phases(run(num_inputs=1))
    assert (second.time.epoch, third.time.epoch) == (SECOND, THIRD)
    assert all(math.isnan(end) for one in (second, third) for end in (one.low, one.high))
