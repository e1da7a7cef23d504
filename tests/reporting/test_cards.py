"""Figures for TensorBoard's cards that are not those of other test files: timeline, map of order and time, numbers on axes."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History
from lightning_interactions.reporting import heat_map_figure, shape_figure, strength_figure, theory_figure, timeline_figure
from lightning_interactions.reporting.figures.shapes import MOST_NUMBERS, _numbers_around
from tests.helpers.figures import legend_labels, rendered
from tests.helpers.histories import history_from_strengths, with_phases
from tests.reporting.test_figures import bands, line, some_measurements
from tests.reporting.test_shape_figures import some_history, some_measurement, some_second_phase

PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)


def some_phases() -> History:
    return replace(with_phases(some_measurements(), [1, 1, 2, 2, 3, 3]), settings={"loss_unit": "nats"})


CARDS = {
    "timeline": lambda: timeline_figure(some_phases()),
    "map": lambda: heat_map_figure(some_phases()),
    "strength": lambda: strength_figure(some_measurement()),
    "shape": lambda: shape_figure(some_measurement()),
    "theory": lambda: theory_figure(some_second_phase(6), some_history(6)),
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.slow
def test_cards_are_small_squares_with_numbers_on_every_axis(name: str) -> None:
    figure: Figure = CARDS[name]()
    rendered(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert width == height <= 420
    shown = {"x": 0, "y": 0}
    for axes in figure.axes:
        for which, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            numbers = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
            inside = [tick for tick in numbers if tick.label1.get_visible() or tick.label2.get_visible()]
            shown[which] += len(inside)
            if inside:
                assert len(inside) >= 2
            assert all(tick.label1.get_fontsize() >= 7 for tick in inside)
    assert shown["x"] >= 2
    assert shown["y"] >= 2
    # Nothing is cut off.
    box = figure.get_tightbbox()
    assert box.x0 >= -0.05
    assert box.y0 >= -0.05
    assert box.x1 <= figure.get_size_inches()[0] + 0.05
    assert box.y1 <= figure.get_size_inches()[1] + 0.05


def test_the_timeline_is_that_of_the_phase_figure() -> None:
    history = some_phases()
    figure = timeline_figure(history)
    losses, shares = figure.axes
    training = [summarise(measurement).training for measurement in history.measurements]
    assert line(losses, "training probes") == [one.loss.value for one in training]
    assert line(losses, "expected test loss") == [one.expected_test_loss.value for one in training]
    assert line(shares, "training probes") == [one.share.value for one in training]
    assert line(shares, "chance level") == [one.share_chance.value for one in training]
    assert bands(losses) == bands(shares) == [(0, 2), (2, 4), (4, 5)]
    assert (losses.get_ylabel(), shares.get_xlabel()) == ("Loss (nats)", "Completed epochs")
    assert figure.get_suptitle() == "Phase 3, since epoch 4"
    assert "95 % interval" in legend_labels(shares)


def test_the_map_holds_the_strength_of_every_order_and_time() -> None:
    history = some_phases()
    figure = heat_map_figure(history)
    maps = [collection for axes in figure.axes for collection in axes.collections if isinstance(collection, QuadMesh)][:2]
    for mesh, kind in zip(maps, ("generalizable", "non_generalizable"), strict=True):
        by_order = [getattr(summarise(one).training.by_order, kind)[0, 1:] for one in history.measurements]
        assert torch.equal(torch.as_tensor(mesh.get_array().data), torch.stack(by_order).T)
        assert mesh.get_clim() == maps[0].get_clim()
        times, orders = mesh.get_coordinates()[0, :, 0], mesh.get_coordinates()[:, 0, 1]
        assert list(times) == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
        assert list(orders) == [0.5, 1.5, 2.5, 3.5]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["generalizable", "non-generalizable"]
    assert figure.axes[1].get_xlabel().startswith("Completed epochs")


@pytest.mark.parametrize("epochs", [[0], [0, 1], [0, 1, 5, 20]])
def test_maps_of_any_times_are_drawn(epochs: list[int]) -> None:
    figure = heat_map_figure(with_phases(some_measurements(len(epochs), epochs=epochs), [1] * len(epochs)))
    assert len(rendered(figure)) > 1000


def test_a_map_of_nothing_is_drawn_empty() -> None:
    nothing = torch.full((2, 3), math.nan)
    figure = heat_map_figure(with_phases(history_from_strengths(nothing, nothing), [1, 1]))
    assert len(rendered(figure)) > 1000


@PROPERTY
@given(values=st.lists(st.floats(1e-9, 1e9), max_size=6))
def test_a_logarithmic_axis_has_numbers_around_its_values(values: list[float]) -> None:
    numbers = _numbers_around(values)
    assert 2 <= len(numbers) <= MOST_NUMBERS
    assert numbers == sorted(set(numbers))
    if values:
        assert numbers[0] <= min(values) * (1 + 1e-6)
        assert numbers[-1] >= max(values) * (1 - 1e-6)
    for number in numbers:
        digit = number / 10 ** math.floor(math.log10(number) + 1e-9)
        assert min(abs(digit - step) for step in (1, 2, 5, 10)) < 1e-6


def test_a_variance_that_is_zero_but_for_rounding_is_drawn_as_zero() -> None:
    below = theory_figure(some_second_phase(4, [4.0, 3.0, 2.0, 1e-13]), some_history(4)).axes[-1]
    assert [float(height) for height in below.get_lines()[0].get_ydata()][:3] == [4.0, 3.0, 2.0]
    assert legend_labels(below) == ["variance is 0"]
    assert below.get_ylim()[0] > 0.1
