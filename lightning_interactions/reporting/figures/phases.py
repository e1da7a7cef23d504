"""Figures of a run over time, and of the strength at one moment."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_interactions.analysis import Summary, summarise
from lightning_interactions.records import Estimate, History, Measurement, TimePoint
from lightning_interactions.reporting.figures.cards import (
    TEXT,
    TITLE,
    card,
    finish_orders,
    finish_strength,
    small_legend,
    style,
)

__all__ = [
    "BLUE",
    "GREY",
    "VERMILION",
    "TimeAxis",
    "draw_excess_gap",
    "draw_heat_map",
    "draw_losses",
    "draw_share",
    "draw_strength",
    "heat_map_figure",
    "phase_figure",
    "strength_figure",
    "timeline_figure",
]

# Colours that stay apart in every common kind of colour blindness (Okabe & Ito 2008).
BLUE, SKY, VERMILION, ORANGE, GREY = "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#6E6E6E"
INTERVAL = "95 % interval"
PHASE_BANDS = {1: "#EAF3FA", 2: "#FDF3DC", 3: "#FBE3D6"}


@dataclass(frozen=True)
class TimeAxis:
    """What tells the measurements of a history apart: completed epochs, or steps where several lie within one epoch.

    Attributes:
        by_step: Whether it is steps.
    """

    by_step: bool

    @classmethod
    def of(cls, history: History) -> "TimeAxis":
        """Choose the axis of a history."""
        return cls(by_step=len(set(history.epochs)) < len(history))

    @property
    def name(self) -> str:
        """One unit of it."""
        return "step" if self.by_step else "epoch"

    @property
    def label(self) -> str:
        """What stands below the axis."""
        return "Optimizer steps" if self.by_step else "Completed epochs"

    def place(self, time: TimePoint) -> int:
        """Where a moment lies on it."""
        return time.step if self.by_step else time.epoch

    def places(self, history: History) -> list[int]:
        """Where the measurements lie on it."""
        return history.steps if self.by_step else history.epochs


def strength_figure(measurement: Measurement) -> Figure:
    """Draw the strength of interactions by order, generalizable above the axis and non-generalizable below; for a card.

    Args:
        measurement: Drawn for its training probes, mean over the inputs that were measured.

    Returns:
        A figure with one axis; positive and negative effects are stacked in two tones, with 95 % intervals for their sums.
    """
    figure = card()
    axes = figure.add_subplot()
    draw_strength(axes, measurement)
    small_legend(figure, columns=2, place="outside lower center")
    return figure


def draw_strength(axes: Axes, measurement: Measurement) -> None:
    """Draw what :func:`strength_figure` shows, without its legend."""
    strength = measurement.training.strength
    for by_input, direction, tones, kind in (
        (strength.generalizable, 1, (BLUE, SKY), "generalizable"),
        (strength.non_generalizable, -1, (VERMILION, ORANGE), "non-generalizable"),
    ):
        by_sign = by_input.sum(dim=1).nanmean(dim=0)[:, 1:]
        orders = list(range(1, by_sign.shape[1] + 1))
        base = torch.zeros(by_sign.shape[1], dtype=by_sign.dtype)
        for sign, tone, part in zip(("+", "–"), tones, by_sign, strict=True):
            axes.bar(orders, (direction * part).tolist(), bottom=base.tolist(), color=tone, width=0.8, label=f"{kind} ({sign})")
            base = base + direction * part
    by_order = summarise(measurement).training.by_order
    for (low, high), direction, label in (
        (by_order.generalizable[1:, 1:], 1, INTERVAL),
        (by_order.non_generalizable[1:, 1:], -1, f"_{INTERVAL}"),
    ):
        if bool(low.isfinite().any()):
            ends = (direction * low).tolist(), (direction * high).tolist()
            axes.vlines(range(1, len(low) + 1), *ends, color="black", linewidth=1.2, label=label)
    finish_orders(axes)
    finish_strength(axes)
    time, probes = measurement.time, int(measurement.training.measured.sum())
    style(
        axes,
        title=f"Strength by order\nafter epoch {time.epoch}, step {time.step} ({probes} probes)",
        x="Order (players in the interaction)",
        y="Strength (score units)",
    )


def timeline_figure(history: History) -> Figure:
    """Draw losses and share over time, and the phases as bands from onset to onset; :func:`phase_figure` for a card.

    Args:
        history: At least one measurement; its setting ``loss_unit`` is the unit of the loss.

    Returns:
        A figure with two axes on one axis of time.
    """
    figure = card()
    losses, shares = figure.subplots(2, sharex=True)
    draw_losses(losses, history, legend=False)
    draw_share(shares, history, legend=False)
    losses.set_xlabel("")
    losses.set_title("")
    shares.set_title("")
    for axes, columns, height in ((losses, 2, 1.1), (shares, 3, 1.01)):
        # Above the axes, since their curves may be anywhere; those of the losses above the phases.
        small_legend(axes, columns=columns, place="lower center", above=height)
    phase, axis = history.phases[-1], TimeAxis.of(history)
    figure.suptitle(f"Phase {phase.number}, since {axis.name} {axis.place(phase.onset)}", fontsize=TITLE)
    return figure


def heat_map_figure(history: History) -> Figure:
    """Draw the strength of both kinds of interactions as maps of order and time; for a card.

    Args:
        history: At least one measurement.

    Returns:
        A figure with an axis for each kind, on one axis of time and one scale of colours.
    """
    figure = card()
    draw_heat_map(list(figure.subplots(2, sharex=True)), history)
    return figure


def draw_heat_map(panels: Sequence[Axes], history: History) -> None:
    """Draw generalizable strength into the first axes, and non-generalizable strength into the second."""
    axis = TimeAxis.of(history)
    times = axis.places(history)
    edges = [times[0] - 0.5, *((a + b) / 2 for a, b in itertools.pairwise(times)), times[-1] + 0.5]
    summaries = [summarise(measurement).training.by_order for measurement in history.measurements]
    maps = [
        torch.stack([getattr(summary, kind)[0, 1:] for summary in summaries]).T.nan_to_num(nan=0.0)
        for kind in ("generalizable", "non_generalizable")
    ]
    most = max(float(torch.stack(maps).max()), 1e-12)
    for panel, strengths, kind in zip(panels, maps, ("generalizable", "non-generalizable"), strict=True):
        orders = [order + 0.5 for order in range(len(strengths) + 1)]
        mesh = panel.pcolormesh(edges, orders, strengths.numpy(), cmap="cividis", vmin=0, vmax=most)
        panel.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for phase in history.detections[1:]:
            panel.axvline(axis.place(phase.onset), color="white", linewidth=1.2)
            panel.axvline(axis.place(phase.onset), color="black", linewidth=1.2, linestyle=":")
        style(panel, title=f"{kind}", y="Order")
        panel.set_xlim(edges[0], edges[-1])
    style(panels[-1], x=f"{axis.label} (dotted: onset of a phase)")
    figure = panels[0].figure
    bar = figure.colorbar(mesh, ax=list(panels), pad=0.02, aspect=30)
    bar.set_label("Strength (score units)", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT, length=2.5, pad=2)


def draw_losses(axes: Axes, history: History, *, legend: bool = True) -> None:
    """Draw losses over time, with the phases, and a legend."""
    axis, summaries = TimeAxis.of(history), [summarise(measurement) for measurement in history.measurements]
    _draw_losses(axes, axis.places(history), summaries)
    _finish_time(axes, history, axis, "Losses", f"Loss{_in_unit(history)}", labelled=True, legend=legend)


def draw_share(axes: Axes, history: History, *, legend: bool = True) -> None:
    """Draw the share over time with its interval and its chance level, with the phases, and a legend."""
    axis, summaries = TimeAxis.of(history), [summarise(measurement) for measurement in history.measurements]
    _draw_share(axes, axis.places(history), summaries)
    _finish_time(axes, history, axis, "What part of the strength generalizes", "Generalizable share", legend=legend)


def draw_excess_gap(axes: Axes, history: History) -> None:
    """Draw the excess gap over time with its interval, with the phases, and a legend."""
    axis, summaries = TimeAxis.of(history), [summarise(measurement) for measurement in history.measurements]
    _draw_gaps(axes, axis.places(history), summaries)
    _finish_time(axes, history, axis, "What memorised interactions add to the gap", f"Excess gap{_in_unit(history)}")


def _finish_time(
    axes: Axes, history: History, axis: TimeAxis, title: str, label: str, *, labelled: bool = False, legend: bool = True
) -> None:
    _draw_bands(axes, history, axis, labelled=labelled, size=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    style(axes, title=title, x=axis.label, y=label)
    if legend and axes.get_legend_handles_labels()[0]:
        small_legend(axes)


def _in_unit(history: History) -> str:
    unit = history.settings.get("loss_unit", "")
    return f" ({unit})" if unit else ""


def phase_figure(history: History) -> Figure:
    """Draw losses, share and excess gap over time with 95 % intervals, and the phases as bands from onset to onset.

    A dashed line is the detection of a phase where it came after its onset. Besides the losses on both kinds of probes there is
    the test loss that is expected from the training probes.

    Args:
        history: At least one measurement; its setting ``loss_unit`` is the unit of the loss.

    Returns:
        A figure with three axes on one axis of time: completed epochs, or optimizer steps where several measurements lie within
        one epoch.
    """
    figure = Figure(figsize=(7, 7), layout="constrained")
    losses, shares, gaps = figure.subplots(3, sharex=True)
    axis, summaries = TimeAxis.of(history), [summarise(measurement) for measurement in history.measurements]
    times = axis.places(history)
    in_unit = _in_unit(history)

    _draw_losses(losses, times, summaries)
    losses.set_ylabel(f"Loss{in_unit}")

    _draw_share(shares, times, summaries)
    shares.set_ylabel("Share of generalizable\nstrength")

    _draw_gaps(gaps, times, summaries)
    gaps.set_ylabel(f"Excess gap{in_unit}")
    gaps.set_xlabel(axis.label)
    gaps.xaxis.set_major_locator(MaxNLocator(integer=True))

    for axes in (losses, shares, gaps):
        axes.spines[["top", "right"]].set_visible(False)
        _draw_bands(axes, history, axis, labelled=axes is losses)
        # Above the axes, since their curves may be anywhere; those of the losses above the phases.
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            above = (1, 1.11 if axes is losses else 1.01)
            axes.legend(
                handles, labels, frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=above, ncols=len(handles),
                borderaxespad=0, columnspacing=1.5,
            )  # fmt: skip
    return figure


def _draw_losses(axes: Axes, times: Sequence[int], summaries: Sequence[Summary]) -> None:
    training = [summary.training for summary in summaries]
    held_out = [math.nan if summary.held_out is None else summary.held_out.loss.value for summary in summaries]
    expected = [one.expected_test_loss.value for one in training]
    axes.plot(times, [one.loss.value for one in training], color=BLUE, marker=".", label="training probes")
    if any(summary.held_out is not None for summary in summaries):
        axes.plot(times, held_out, color=VERMILION, marker=".", linestyle="--", label="held-out probes")
    axes.plot(times, expected, color=BLUE, linestyle=":", label="expected test loss")
    if all(math.isnan(loss) for loss in (*held_out, *(one.loss.value for one in training))):
        axes.text(0.5, 0.5, "no loss is known", transform=axes.transAxes, ha="center", va="center", color=GREY)


def _draw_share(axes: Axes, times: Sequence[int], summaries: Sequence[Summary]) -> None:
    training = [summary.training for summary in summaries]
    share = [one.share for one in training]
    axes.plot(times, [one.value for one in share], color=BLUE, marker=".", label="training probes")
    _draw_intervals(axes, times, share, BLUE)
    axes.plot(times, [one.share_chance.value for one in training], color=GREY, linestyle=":", label="chance level")
    axes.set_ylim(0, 1)


def _draw_gaps(axes: Axes, times: Sequence[int], summaries: Sequence[Summary]) -> None:
    if all(summary.held_out is None for summary in summaries):
        axes.text(0.5, 0.5, "no held-out probes", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])
        return
    excess = [summary.excess_gap for summary in summaries]
    axes.plot(times, [one.value for one in excess], color=VERMILION, marker=".")
    _draw_intervals(axes, times, excess, VERMILION)
    axes.axhline(0, color="black", linewidth=0.8)


def _draw_intervals(axes: Axes, times: Sequence[int], estimates: Sequence[Estimate], color: str) -> None:
    low, high = [one.low for one in estimates], [one.high for one in estimates]
    axes.fill_between(times, low, high, color=color, alpha=0.2, linewidth=0, label=INTERVAL)


def _draw_bands(axes: Axes, history: History, axis: TimeAxis, *, labelled: bool, size: float = 10) -> None:
    """Shade the stretch of each phase, from its onset to the next one's; a dashed line is a detection that came later."""
    times = axis.places(history)
    onsets, detections = [(times[0], history.phases[0].number)], []
    for phase in history.detections[1:]:
        onset, detected = axis.place(phase.onset), axis.place(phase.detected)
        # A phase whose onset turns out to lie before that of the last one leaves nothing of it.
        onsets.append((max(onset, onsets[-1][0]), phase.number))
        detections += [detected] if onset < detected else []
    # A phase that has only just begun gets a band as wide as one epoch, or the steps between the last measurements.
    width = times[-1] - times[-2] if axis.by_step else 1
    ends = [begin for begin, _ in onsets[1:]] + [max(times[-1], onsets[-1][0] + width)]
    for number, detected in enumerate(detections):
        label = "phase detected" if labelled and number == 0 else None
        axes.axvline(detected, color=GREY, linestyle="--", linewidth=1, zorder=1, label=label)
    for (begin, number), end in zip(onsets, ends, strict=True):
        if begin == end:
            continue
        axes.axvspan(begin, end, color=PHASE_BANDS[number], linewidth=0, zorder=0)
        if labelled:
            middle = (begin + end) / 2
            axes.annotate(
                f"{number}", (middle, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center", fontsize=size
            )
    if labelled:
        axes.annotate("phase", (0, 1), (-6, 3), "axes fraction", "offset points", ha="right", fontsize=size)
    axes.set_xlim(times[0], ends[-1])
