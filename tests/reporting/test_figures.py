import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement, TimePoint
from lightning_interactions.reporting import phase_figure, strength_figure
from lightning_interactions.reporting.figures.phases import PHASE_BANDS, TimeAxis
from tests.helpers.figures import legend_labels, rendered
from tests.helpers.histories import history_from_strengths, with_phases


def some_measurements(
    times: int = 6, *, held_out: bool = True, left_out: bool = False, epochs: Sequence[int] | None = None
) -> tuple[Measurement, ...]:
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, times, 4, generator=generator, dtype=torch.float64) + 0.5
    if left_out:
        g[:, 0] = torch.nan
    return history_from_strengths(g, u, excess if held_out else None, epochs=epochs)


def line(axes: Axes, label: str) -> list[float]:
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return [float(number) for number in found.get_ydata()]


def bands(axes: Axes) -> list[tuple[float, float]]:
    """Begin and end of every shaded stretch, in the order of drawing."""
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches if isinstance(patch, Rectangle)]


def band_colors(axes: Axes) -> list[tuple[float, ...]]:
    return [tuple(round(channel, 3) for channel in patch.get_facecolor()) for patch in axes.patches]


def as_rgba(color: str) -> tuple[float, ...]:
    return (*(round(int(color[i : i + 2], 16) / 255, 3) for i in (1, 3, 5)), 1.0)


def mean_by_sign(by_input: Tensor, measured: Tensor) -> Tensor:
    """``[signs, orders]`` from order 1 on."""
    return by_input[measured].sum(dim=1).mean(dim=0)[:, 1:]


# Strength by order


@pytest.mark.parametrize("left_out", [False, True])
def test_bars_are_as_high_as_the_measured_strength(left_out: bool) -> None:
    measurement = some_measurements(left_out=left_out)[2]
    (axes,) = strength_figure(measurement).axes
    strength, measured = measurement.training.strength, measurement.training.measured
    assert int(measured.sum()) == (3 if left_out else 4)
    expected = {
        "generalizable": mean_by_sign(strength.generalizable, measured),
        "non-generalizable": mean_by_sign(strength.non_generalizable, measured),
    }
    containers = {container.get_label(): container for container in axes.containers}
    assert list(containers) == [f"{kind} ({sign})" for kind in expected for sign in "+–"]
    for kind, direction in (("generalizable", 1), ("non-generalizable", -1)):
        base = torch.zeros(3, dtype=torch.float64)
        for sign, name in enumerate("+–"):
            bars = containers[f"{kind} ({name})"]
            centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
            assert centres == pytest.approx([1, 2, 3])
            assert [bar.get_height() for bar in bars] == pytest.approx((direction * expected[kind][sign]).tolist())
            # Stacked: negative effects begin where positive ones end.
            assert [bar.get_y() for bar in bars] == pytest.approx(base.tolist())
            base = base + direction * expected[kind][sign]
        assert base.abs().sum() > 0


def test_the_strength_figure_says_what_it_shows() -> None:
    measurement = some_measurements(left_out=True, epochs=[0, 5, 10, 15, 20, 25])[3]
    figure = strength_figure(measurement)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "Order (players in the interaction)"
    assert axes.get_ylabel() == "Strength (score units)"
    assert axes.get_title() == "Strength by order\nafter epoch 15, step 30 (3 probes)"
    assert legend_labels(figure) == [
        "95 % interval",
        *("generalizable (+)", "generalizable (–)", "non-generalizable (+)", "non-generalizable (–)"),
    ]
    assert len(rendered(figure)) > 1000


def test_the_four_kinds_of_bars_have_colours_of_their_own() -> None:
    (axes,) = strength_figure(some_measurements()[0]).axes
    colors = [tuple(container[0].get_facecolor()) for container in axes.containers]
    assert len(set(colors)) == 4


def test_intervals_of_both_kinds_stand_on_their_side_of_the_axis() -> None:
    measurement = some_measurements()[0]
    (axes,) = strength_figure(measurement).axes
    by_order = summarise(measurement).training.by_order
    drawn = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    for lines, ends, direction in zip(
        drawn, (by_order.generalizable[1:], by_order.non_generalizable[1:]), (1, -1), strict=True
    ):
        for order, segment in enumerate(lines.get_segments(), start=1):
            assert [tuple(point) for point in segment] == [(order, direction * float(end)) for end in ends[:, order]]


def test_strength_below_the_axis_is_labelled_without_a_sign() -> None:
    (axes,) = strength_figure(some_measurements()[0]).axes
    labels = [axes.yaxis.get_major_formatter()(tick, 0) for tick in (-1.5, 0, 0.25)]
    assert labels == ["1.5", "0", "0.25"]


def test_orders_are_whole_numbers() -> None:
    figure = strength_figure(some_measurements()[0])
    rendered(figure)
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_a_condensed_measurement_is_drawn_without_intervals() -> None:
    whole = some_measurements()[0]
    condensed = replace(whole, training=whole.training.condensed())
    (axes,), (expected,) = strength_figure(condensed).axes, strength_figure(whole).axes
    assert not any(isinstance(collection, LineCollection) for collection in axes.collections)
    for bars, others in zip(axes.containers, expected.containers, strict=True):
        assert [bar.get_height() for bar in bars] == pytest.approx([bar.get_height() for bar in others])
    assert "95 % interval" not in legend_labels(strength_figure(condensed))


def test_a_measurement_of_nothing_is_drawn_empty() -> None:
    nothing = torch.full((1, 3), torch.nan)
    figure = strength_figure(history_from_strengths(nothing, nothing)[0])
    assert "(0 probes)" in figure.axes[0].get_title()
    assert len(rendered(figure)) > 1000


# Phases


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("numbers", [[1], [1, 1], [1, 1, 1, 2], [1, 1, 2, 2, 3, 3], [1, 3, 3, 2, 2, 3]])
def test_phase_figures_of_any_history_are_drawn(held_out: bool, numbers: list[int]) -> None:
    history = with_phases(some_measurements(len(numbers), held_out=held_out), numbers)
    figure = phase_figure(history)
    assert len(figure.axes) == 3
    assert len(rendered(figure)) > 1000


def test_lines_are_the_summaries() -> None:
    measurements = some_measurements(epochs=[0, 2, 4, 6, 8, 10])
    losses, shares, gaps = phase_figure(with_phases(measurements, [1] * 6)).axes
    summaries = [summarise(measurement) for measurement in measurements]
    training = [summary.training for summary in summaries]
    assert line(losses, "training probes") == [one.loss.value for one in training]
    assert line(losses, "held-out probes") == [one.held_out.loss.value for one in summaries if one.held_out is not None]
    assert line(losses, "expected test loss") == [one.expected_test_loss.value for one in training]
    assert line(shares, "training probes") == [one.share.value for one in training]
    assert line(shares, "chance level") == [one.share_chance.value for one in training]
    gap_lines = [list(line.get_ydata()) for line in gaps.get_lines()]
    assert [summary.excess_gap.value for summary in summaries] in gap_lines
    for axes in (losses, shares):
        assert all(list(line.get_xdata()) == [0, 2, 4, 6, 8, 10] for line in axes.get_lines())
    assert list(gaps.get_lines()[0].get_xdata()) == [0, 2, 4, 6, 8, 10]


def test_the_phase_figure_says_what_it_shows() -> None:
    history = replace(with_phases(some_measurements(), [1, 1, 2, 2, 3, 3]), settings={"loss_unit": "nats"})
    losses, shares, gaps = phase_figure(history).axes
    assert losses.get_ylabel() == "Loss (nats)"
    assert shares.get_ylabel() == "Share of generalizable\nstrength"
    assert gaps.get_ylabel() == "Excess gap (nats)"
    assert gaps.get_xlabel() == "Completed epochs"
    assert legend_labels(losses) == ["training probes", "held-out probes", "expected test loss"]
    assert legend_labels(shares) == ["training probes", "95 % interval", "chance level"]
    assert legend_labels(gaps) == ["95 % interval"]
    assert shares.get_ylim() == (0, 1)


def test_detections_after_their_onset_are_dashed_lines() -> None:
    history = with_phases(some_measurements(), [1, 1, 2, 2, 3, 3])
    later = [replace(phase, detected=TimePoint(5, 50)) if phase.number == 3 else phase for phase in history.phases]
    losses, *others = phase_figure(replace(history, phases=tuple(later))).axes
    assert [line.get_xdata()[0] for line in losses.get_lines() if line.get_label() == "phase detected"] == [5]
    assert legend_labels(losses)[-1] == "phase detected"
    assert all("phase detected" not in legend_labels(axes) for axes in others)


def test_legends_cover_no_curve() -> None:
    figure = phase_figure(with_phases(some_measurements(), [1, 1, 2, 2, 3, 3]))
    rendered(figure)
    boxes = []
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is not None
        boxes.append(legend.get_window_extent())
        assert boxes[-1].y0 >= axes.bbox.y1
    labels = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(box.overlaps(label) for box in boxes for label in labels)


def polygon(axes: Axes) -> list[tuple[float, float]]:
    """Corners of the only band between two curves, without repetitions."""
    (band,) = [collection for collection in axes.collections if isinstance(collection, PolyCollection)]
    return sorted({(float(x), float(y)) for x, y in band.get_paths()[0].vertices})


def test_bands_around_share_and_excess_gap_are_the_intervals() -> None:
    measurements = some_measurements(epochs=[0, 2, 4, 6, 8, 10])
    _, shares, gaps = phase_figure(with_phases(measurements, [1] * 6)).axes
    for axes, intervals in (
        (shares, [summarise(measurement).training.share for measurement in measurements]),
        (gaps, [summarise(measurement).excess_gap for measurement in measurements]),
    ):
        corners = [(2.0 * time, end) for time, interval in enumerate(intervals) for end in (interval.low, interval.high)]
        assert polygon(axes) == sorted(corners)


def test_losses_are_labelled_with_their_unit() -> None:
    for unit, label in (("nats", " (nats)"), ("target units²", " (target units²)"), ("", "")):
        history = replace(with_phases(some_measurements(), [1] * 6), settings={"loss_unit": unit})
        losses, _, gaps = phase_figure(history).axes
        assert losses.get_ylabel() == f"Loss{label}"
        assert gaps.get_ylabel() == f"Excess gap{label}"


@pytest.mark.slow
def test_an_unknown_loss_is_said_to_be_unknown() -> None:
    unknown = []
    for one in some_measurements(held_out=False):
        nothing = torch.full_like(one.training.loss, torch.nan)
        split = replace(one.training, loss=nothing, explained_loss=nothing, expected_test_loss=nothing)
        unknown.append(replace(one, training=split))
    figure = phase_figure(with_phases(unknown, [1] * 6))
    assert "no loss is known" in [text.get_text() for text in figure.axes[0].texts]
    assert len(rendered(figure)) > 1000
    losses = phase_figure(with_phases(some_measurements(), [1] * 6)).axes[0]
    assert "no loss is known" not in [text.get_text() for text in losses.texts]


def test_without_held_out_probes_the_figure_says_so() -> None:
    losses, _, gaps = phase_figure(with_phases(some_measurements(held_out=False), [1] * 6)).axes
    assert legend_labels(losses) == ["training probes", "expected test loss"]
    assert "no held-out probes" in [text.get_text() for text in gaps.texts]
    assert not legend_labels(gaps)
    _, _, gaps = phase_figure(with_phases(some_measurements(), [1] * 6)).axes
    assert "no held-out probes" not in [text.get_text() for text in gaps.texts]


def test_held_out_probes_that_come_later_leave_a_hole() -> None:
    measurements = (*some_measurements(held_out=False)[:1], *some_measurements()[1:])
    figure = phase_figure(with_phases(measurements, [1] * 6))
    held_out = line(figure.axes[0], "held-out probes")
    assert [math.isnan(loss) for loss in held_out] == [True] + [False] * 5
    assert "no held-out probes" not in [text.get_text() for text in figure.axes[2].texts]
    assert len(rendered(figure)) > 1000


PHASE_CASES = pytest.mark.parametrize(
    ("numbers", "epochs", "expected"),
    [
        ([1, 1, 1], [0, 1, 2], [(1, 0, 2)]),
        ([1, 1, 2, 2, 3, 3], [0, 1, 2, 3, 4, 5], [(1, 0, 2), (2, 2, 4), (3, 4, 5)]),
        ([1, 3, 3, 2, 2, 3], [0, 5, 10, 15, 20, 25], [(1, 0, 5), (3, 5, 15), (2, 15, 25), (3, 25, 26)]),
        ([1], [4], [(1, 4, 5)]),
    ],
    ids=["one", "three", "return", "single measurement"],
)


@PHASE_CASES
def test_bands_match_the_phases(numbers: list[int], epochs: list[int], expected: list[tuple[int, int, int]]) -> None:
    figure = phase_figure(with_phases(some_measurements(len(numbers), epochs=epochs), numbers))
    for axes in figure.axes:
        assert bands(axes) == [(begin, end) for _, begin, end in expected]
        assert band_colors(axes) == [as_rgba(PHASE_BANDS[number]) for number, _, _ in expected]
    labels = [(text.get_text(), text.xy[0]) for text in figure.axes[0].texts if text.get_text().isdigit()]
    assert labels == [(str(number), (begin + end) / 2) for number, begin, end in expected]
    assert "phase" in [text.get_text() for text in figure.axes[0].texts]
    assert not figure.axes[1].texts


@PHASE_CASES
def test_every_phase_is_in_sight(numbers: list[int], epochs: list[int], expected: list[tuple[int, int, int]]) -> None:
    figure = phase_figure(with_phases(some_measurements(len(numbers), epochs=epochs), numbers))
    for axes in figure.axes:
        left, right = axes.get_xlim()
        assert left <= epochs[0]
        assert all(begin < right for _, begin, _ in expected)


def test_an_onset_whose_measurement_was_left_out_of_a_long_history_is_drawn_where_it_was() -> None:
    history = with_phases(some_measurements(6, epochs=[0, 1, 2, 3, 4, 5]), [1, 1, 2, 2, 3, 3])
    kept = [0, 1, 3, 5]
    fewer = History(tuple(history.measurements[time] for time in kept), tuple(history.phases[time] for time in kept))
    assert bands(phase_figure(fewer).axes[0]) == [(0, 2), (2, 4), (4, 5)]


def test_measurements_within_an_epoch_are_drawn_over_optimizer_steps() -> None:
    history = with_phases(some_measurements(5, epochs=[0, 0, 0, 0, 1]), [1, 1, 2, 2, 3])
    assert TimeAxis.of(history).places(history) == [0, 10, 20, 30, 40]
    figure = phase_figure(history)
    losses, shares, gaps = figure.axes
    assert gaps.get_xlabel() == "Optimizer steps"
    assert all(list(line.get_xdata()) == history.steps for axes in (losses, shares) for line in axes.get_lines())
    # A phase that is detected at the last measurement is seen, too.
    assert bands(gaps) == [(0, 20), (20, 40), (40, 50)]
    assert len(rendered(figure)) > 1000


def test_measurements_at_the_ends_of_epochs_are_drawn_over_epochs() -> None:
    history = with_phases(some_measurements(3, epochs=[0, 2, 7]), [1] * 3)
    axis = TimeAxis.of(history)
    assert (axis.name, axis.places(history)) == ("epoch", [0, 2, 7])
    assert TimeAxis.of(History()).places(History()) == []


def test_the_phases_have_colours_of_their_own() -> None:
    assert sorted(PHASE_BANDS) == [1, 2, 3]
    assert len(set(PHASE_BANDS.values())) == 3


def test_an_empty_history_has_no_phase_figure() -> None:
    with pytest.raises((ValueError, IndexError)):
        phase_figure(History())


# No global state


@pytest.mark.slow
def test_figures_are_made_without_pyplot_or_lightning() -> None:
    script = """
import sys
from lightning_interactions.reporting import phase_figure, strength_figure
from tests.helpers.histories import history_from_strengths, with_phases
import torch
measurements = history_from_strengths(torch.ones(3, 2), torch.ones(3, 2), torch.zeros(3, 2))
figures = [strength_figure(measurements[0]), phase_figure(with_phases(measurements, [1, 2, 3]))]
assert all(len(figure.axes) for figure in figures)
print(sorted(name for name in sys.modules if name in ("lightning", "matplotlib.pyplot", "matplotlib.figure")))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['matplotlib.figure']"


def test_figures_are_not_registered_with_pyplot() -> None:
    before = pyplot.get_fignums()
    strength_figure(some_measurements()[0])
    phase_figure(with_phases(some_measurements(), [1] * 6))
    assert pyplot.get_fignums() == before
