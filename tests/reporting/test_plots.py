from collections.abc import Iterator
from typing import get_args

import jaxtyping
import matplotlib as mpl
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, PlotKind
from lightning_interactions.reporting import plot
from tests.helpers.figures import rendered
from tests.helpers.histories import with_phases
from tests.reporting.test_figures import line, some_measurements

PANELS = {"phases": 3, "heat_map": 2, "decay_and_spindle": 2}


@pytest.fixture(autouse=True)
def without_display() -> Iterator[None]:
    mpl.use("agg")
    yield
    pyplot.close("all")


def some_history() -> History:
    return with_phases(some_measurements(), [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("kind", get_args(PlotKind))
@pytest.mark.slow
def test_every_kind_is_drawn_alone_and_in_axes_that_are_there(kind: PlotKind) -> None:
    number = PANELS.get(kind, 1)
    figure, axes = some_history().plot(kind)
    assert isinstance(figure, Figure)
    assert len(axes if isinstance(axes, list) else [axes]) == number
    assert figure.number in pyplot.get_fignums()
    assert len(rendered(figure)) > 1000
    own = Figure(layout="constrained")
    there = list(own.subplots(number, squeeze=False)[:, 0])
    drawn, given = plot(some_history(), kind, there if number > 1 else there[0])
    assert drawn is own
    assert (given if isinstance(given, list) else [given]) == there
    assert len(rendered(own)) > 1000
    assert all(panel.has_data() for panel in there)


def test_the_default_shows_losses_share_and_gap() -> None:
    history = some_history()
    _, axes = history.plot()
    losses, share, gap = axes
    summaries = [summarise(measurement) for measurement in history.measurements]
    assert line(losses, "training probes") == [one.training.loss.value for one in summaries]
    assert line(share, "training probes") == [one.training.share.value for one in summaries]
    assert [one.excess_gap.value for one in summaries] in [list(drawn.get_ydata()) for drawn in gap.get_lines()]


def test_wrong_kinds_axes_and_histories_are_refused() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.raises(ValueError, match="expected a kind among"):
        plot(some_history(), "colours")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one measurement"):
        History().plot()
    axes: Axes = Figure().add_subplot()
    with pytest.raises(ValueError, match="expected 3 axes for 'phases', got 1"):
        some_history().plot("phases", axes)
