import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

from lightning_interactions.analysis import shape_of
from lightning_interactions.functional import strength_by_sign
from lightning_interactions.records import DecaySpindle, History, Measurement, OrderStrength, SecondPhase
from lightning_interactions.reporting import shape_figure, theory_figure
from tests.helpers.figures import legend_labels, rendered
from tests.helpers.histories import history_from_strengths, with_phases


def some_measurement(strength: Tensor | None = None) -> Measurement:
    """Measure five inputs with seven players, or strengths that are given."""
    if strength is None:
        strength = torch.rand(3, 5, 2, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = strength.sum(dim=(2, 3, 4))
    (measurement,) = history_from_strengths(inputs[0][None], inputs[1][None], epochs=[3], steps=[70])
    return replace(measurement, training=replace(measurement.training, strength=OrderStrength(*strength)))


def measured_shape(measurement: Measurement) -> DecaySpindle:
    shape = shape_of(measurement)
    assert shape is not None
    return shape


def some_history(times: int, epochs: Sequence[int] | None = None) -> History:
    ones = torch.ones(times, 2)
    return with_phases(history_from_strengths(ones, ones, epochs=epochs), [1] * times)


def some_second_phase(times: int, variances: list[float] | None = None) -> SecondPhase:
    generator = torch.Generator().manual_seed(0)
    predicted, strength = torch.rand(2, times, 6, generator=generator, dtype=torch.float64)
    r_squared = torch.rand(times, generator=generator, dtype=torch.float64)
    variance = torch.logspace(1, -2, times, dtype=torch.float64) if variances is None else torch.tensor(variances)
    return SecondPhase(variance, predicted, strength, r_squared)


def heights(axes: Axes, container: int = 0) -> list[float]:
    return [bar.get_height() for bar in axes.containers[container]]


def lines(axes: Axes) -> list[list[float]]:
    """Vertical places of all lines but the axis of zero strength."""
    return [[float(number) for number in line.get_ydata()] for line in axes.get_lines() if len(line.get_xdata()) > 2]


# Decay and spindle


def test_the_shape_is_drawn_over_the_measured_strength() -> None:
    measurement = some_measurement()
    strength, shape = strength_by_sign(measurement.training.strength), measured_shape(measurement)
    axes, _ = shape_figure(measurement).axes
    for row, direction in enumerate((1, -1)):
        assert heights(axes, row) == pytest.approx((direction * strength[row, 1:]).tolist())
        drawn = lines(axes)[3 * row : 3 * row + 3]
        expected = (shape.decay[row], shape.spindle, shape.total[row])
        for line, part in zip(drawn, expected, strict=True):
            assert line == pytest.approx((direction * part[1:]).tolist())
    assert len(lines(axes)) == 6


def test_the_same_fit_is_drawn_over_what_generalizes() -> None:
    measurement = some_measurement()
    strength, shape = measurement.training.strength, measured_shape(measurement)
    _, beside = shape_figure(measurement).axes
    for container, (part, direction) in enumerate(((strength.generalizable, 1), (strength.non_generalizable, -1))):
        by_order = part.sum(dim=(1, 2)).mean(dim=0)[1:]
        assert heights(beside, container) == pytest.approx((direction * by_order).tolist())
    decay, spindle = lines(beside)
    assert decay == pytest.approx(shape.decay.sum(dim=0)[1:].tolist())
    assert spindle == pytest.approx((-2 * shape.spindle[1:]).tolist())
    assert [text.get_text() for text in beside.texts] == ["general-\nizable", "non-gener-\nalizable"]


def test_a_condensed_measurement_has_the_same_shape_figure() -> None:
    whole = some_measurement()
    condensed = replace(whole, training=whole.training.condensed())
    for axes, expected in zip(shape_figure(condensed).axes, shape_figure(whole).axes, strict=True):
        for container in (0, 1):
            assert heights(axes, container) == pytest.approx(heights(expected, container))
        for line, other in zip(lines(axes), lines(expected), strict=True):
            assert line == pytest.approx(other)


def test_the_shape_figure_says_what_it_shows() -> None:
    measurement = some_measurement()
    shape, figure = measured_shape(measurement), shape_figure(measurement)
    axes, below = figure.axes
    assert figure.get_suptitle() == "Decay and spindle after epoch 3, step 70"
    assert below.get_xlabel() == "Order (players in the interaction)"
    assert axes.get_ylabel() == "Strength (score)"
    assert legend_labels(figure) == [
        f"decay ({shape.share:.0%} of the fit)",
        "spindle",
        f"their sum ($R^2$ = {shape.r_squared:.2g})",
        "measured",
    ]
    assert [text.get_text() for text in axes.texts] == ["positive\neffects", "negative\neffects"]
    assert axes.yaxis.get_major_formatter()(-1.5, 0) == "1.5"
    assert len(rendered(figure)) > 1000


def test_the_parts_have_colours_of_their_own() -> None:
    axes, _ = shape_figure(some_measurement()).axes
    colors = [line.get_color() for line in axes.get_lines()[:3]]
    assert len({*colors, axes.containers[0][0].get_facecolor()}) == 4
    assert [line.get_color() for line in axes.get_lines()[3:6]] == colors


@pytest.mark.slow
@pytest.mark.parametrize("orders", [2, 3, 10])
def test_no_strength_is_drawn_empty(orders: int) -> None:
    figure = shape_figure(some_measurement(torch.zeros(3, 4, 2, 2, orders, dtype=torch.float64)))
    assert legend_labels(figure)[0] == "decay (– of the fit)"
    assert len(rendered(figure)) > 1000


def test_where_nothing_was_measured_the_shape_figure_says_so() -> None:
    figure = shape_figure(some_measurement(torch.full((3, 4, 2, 2, 6), torch.nan, dtype=torch.float64)))
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["nothing was measured"]] * 2
    assert len(rendered(figure)) > 1000


# The theory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "drawn"),
    [
        (1, [0]),
        (2, [0, 1]),
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 3, 4]),
        (7, [0, 2, 4, 6]),
        (16, [0, 5, 10, 15]),
    ],
)
def test_evenly_spread_measurements_are_drawn(times: int, drawn: list[int]) -> None:
    second_phase = some_second_phase(times)
    figure = theory_figure(second_phase, some_history(times, [2 * place for place in range(times)]))
    *panels, below = figure.axes
    assert len(panels) == len(drawn)
    for panel, place in zip(panels, drawn, strict=True):
        assert heights(panel) == pytest.approx(second_phase.strength[place, 1:].tolist())
        assert lines(panel) == [pytest.approx(second_phase.predicted[place, 1:].tolist())]
        assert panel.get_title().startswith(f"epoch {2 * place}: ")
    (line,) = below.get_lines()
    assert list(line.get_xdata()) == [2 * place for place in range(times)]
    assert [float(number) for number in line.get_ydata()] == pytest.approx(second_phase.variance.tolist())
    assert len(rendered(figure)) > 1000


@pytest.mark.slow
def test_a_theory_of_measurements_within_an_epoch_is_drawn_over_optimizer_steps() -> None:
    *panels, below = theory_figure(some_second_phase(2), some_history(2, [1, 1])).axes
    assert [panel.get_title().split(":")[0] for panel in panels] == ["step 0", "step 10"]
    assert below.get_xlabel() == "Optimizer steps"
    assert list(below.get_lines()[0].get_xdata()) == [0, 10]


def test_the_theory_figure_says_what_it_shows() -> None:
    figure = theory_figure(some_second_phase(6, [11.0, 0.5, 0.25, 0.125, 1e-6, 0.0]), some_history(6, [1, 2, 4, 8, 16, 32]))
    *panels, below = figure.axes
    assert [panel.get_title().split(" = ")[0] for panel in panels] == [f"epoch {epoch}: $R^2$" for epoch in (1, 4, 8, 32)]
    assert all("$R^2$ = 0." in panel.get_title() for panel in panels)
    assert sorted(legend_labels(figure)) == ["real", "theory"]
    assert below.get_xlabel() == "Completed epochs"
    assert below.get_ylabel() == "Noise variance $\\sigma^2$"
    assert below.get_yscale() == "log"


def test_panels_share_their_axes() -> None:
    *panels, below = theory_figure(some_second_phase(6), some_history(6)).axes
    assert {panel.get_ylim() for panel in panels} == {panels[0].get_ylim()}
    assert {panel.get_xlim() for panel in panels} == {panels[0].get_xlim()}
    assert below.get_ylim() != panels[0].get_ylim()


def test_limits_of_the_variance_are_marked_at_the_edges() -> None:
    figure = theory_figure(some_second_phase(4, [math.inf, 2.0, 0.5, 0.0]), some_history(4))
    below = figure.axes[-1]
    inside, zero, infinite = below.get_lines()
    assert [math.isnan(number) for number in inside.get_ydata()] == [True, False, False, True]
    assert (list(zero.get_xdata()), list(zero.get_ydata())) == ([3], [0])
    assert (list(infinite.get_xdata()), list(infinite.get_ydata())) == ([0], [1])
    assert legend_labels(below) == ["variance is 0", "variance is infinite"]
    assert len(rendered(figure)) > 1000


@pytest.mark.parametrize("limit", [0.0, math.inf])
@pytest.mark.slow
def test_variances_at_limits_alone_are_drawn(limit: float) -> None:
    assert len(rendered(theory_figure(some_second_phase(3, [limit] * 3), some_history(3)))) > 1000


@pytest.mark.parametrize(("times", "measurements"), [(0, 0), (3, 2), (2, 3)])
def test_every_variance_has_its_measurement(times: int, measurements: int) -> None:
    with pytest.raises(ValueError, match=f"expected the {times} measurements of the fit, at least one, got {measurements}"):
        theory_figure(some_second_phase(times), some_history(measurements))


def test_figures_are_not_registered_with_pyplot() -> None:
    before = pyplot.get_fignums()
    shape_figure(some_measurement())
    theory_figure(some_second_phase(4), some_history(4))
    assert pyplot.get_fignums() == before
