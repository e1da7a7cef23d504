"""One self-contained HTML file that says all that is known of a run."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.image import imsave

from lightning_interactions.analysis import (
    OneInteraction,
    explain_second_phase,
    find_label_issues,
    shape_of,
    share_near_chance,
    strongest_interactions,
    summarise,
)
from lightning_interactions.analysis.second_phase import MOST_PLAYERS_OF_THEORY
from lightning_interactions.game.axes import COLOURS, axis_of_channels
from lightning_interactions.records import Estimate, History, Interactions, ProbeGroup
from lightning_interactions.reporting.figures import (
    heat_map_figure,
    phase_figure,
    shape_figure,
    strength_figure,
    theory_figure,
)
from lightning_interactions.reporting.figures.pictures import pixels_of, target_of
from lightning_interactions.reporting.run_record import RunRecord
from lightning_interactions.reporting.words import explain_detections, explain_phase

__all__ = ["FIGURES", "FigureOfRun", "html_report", "write_html"]

MOST_LABEL_ISSUES = 12
MOST_INPUTS = 8
MOST_INTERACTIONS = 3
"""So many of each kind, of one input."""

SMALLEST_IMAGE = 4
"""Pixels of a side; a smaller tensor of three axes is taken for something else."""

DOTS_PER_INCH = 120


@dataclass(frozen=True)
class FigureOfRun:
    """A figure in the report.

    Attributes:
        title: Heading.
        caption: What is seen, and how to read it.
        draw: Draws it; returns ``None`` where the run has not what it takes.
    """

    title: str
    caption: str
    draw: Callable[[RunRecord], Figure | None]


def _draw_shape(run: RunRecord) -> Figure | None:
    last = run.history.measurements[-1]
    return None if shape_of(last) is None else shape_figure(last)


def _draw_theory(run: RunRecord) -> Figure | None:
    final = run.interactions
    if final is None or final.effects.shape[-1] > 2**MOST_PLAYERS_OF_THEORY:
        return None
    second_phase, explained = explain_second_phase(run.history, final)
    return theory_figure(second_phase, explained) if explained else None


FIGURES: tuple[FigureOfRun, ...] = (
    FigureOfRun(
        "Phases",
        "Losses, the share of generalizable strength with its level by chance, and what non-generalizable interactions add to "
        "the loss gap. Bands are the phases; a share that falls while the expected test loss rises is phase 3.",
        lambda run: phase_figure(run.history),
    ),
    FigureOfRun(
        "Strength by order, last measurement",
        "How strong interactions of 1, 2, 3 … players are: above the axis what generalizes, below what does not.",
        lambda run: strength_figure(run.history.measurements[-1]),
    ),
    FigureOfRun(
        "Strength by order over time",
        "The same numbers at every measurement: the brighter, the stronger. In phase 3 mostly the second map gets brighter.",
        lambda run: heat_map_figure(run.history),
    ),
    FigureOfRun(
        "Decay and spindle, last measurement",
        "The same strength as a decay, which simple patterns give, and a spindle of middle orders, which noise gives.",
        _draw_shape,
    ),
    FigureOfRun(
        "Theory of the second phase",
        "Strength by order as the theory of learning under parameter noise predicts it, beside what was measured.",
        _draw_theory,
    ),
)
"""The figures of the report, in their order."""


def write_html(run: RunRecord, path: str | Path) -> None:
    """Write the report of a run to a file; see :func:`html_report`.

    Args:
        run: With at least one measurement.
        path: The file; it is overwritten.

    Raises:
        ValueError: If nothing was measured.
        OSError: If the file cannot be written.
    """
    # Before the figures are drawn, which takes a while.
    _check_writable(Path(path))
    Path(path).write_text(html_report(run), encoding="utf-8", errors="replace")


def html_report(run: RunRecord) -> str:
    """Say all that is known of a run in one page that needs no other file and loads nothing.

    Everything that comes from the run is escaped. A figure that cannot be drawn is replaced with the reason.

    Args:
        run: With at least one measurement.

    Raises:
        ValueError: If nothing was measured.
    """
    run.check_measured()
    environment = Environment(
        loader=PackageLoader("lightning_interactions.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(**_content(run))


def _check_writable(path: Path) -> None:
    """Find out whether a file can be written, and leave none behind where there was none."""
    existed = path.exists()
    with path.open("ab"):
        pass
    if not existed:
        path.unlink()


def _content(run: RunRecord) -> dict[str, Any]:
    history = run.history
    last = history.measurements[-1]
    near_chance = share_near_chance(history.measurements)
    doubted = near_chance is not None and near_chance.never_above
    notes = list(history.phases[-1].notes.values())
    return {
        "run": run,
        "phase": explain_phase(history.phases[-1], near_chance),
        "number": history.phases[-1].number,
        "detections": explain_detections(history),
        "doubt": near_chance.note if near_chance is not None and doubted else "",
        "notes": notes if near_chance is None or doubted else [near_chance.note, *notes],
        "last": last,
        "figures": [_drawn(figure, run) for figure in FIGURES],
        "numbers": _numbers(history),
        "cost": _cost(run),
        "label_issues": _label_issues(run),
        "inputs": [] if run.interactions is None else _inputs(run, run.interactions),
        "judged_at": history.measurements[run.place_of_interactions].time,
        "measurements": _measurements(history),
        "settings": {str(name): str(value) for name, value in history.settings.items()},
    }


def _drawn(figure: FigureOfRun, run: RunRecord) -> dict[str, str]:
    """Draw a figure; what goes wrong with one must not cost the others."""
    said = {"title": figure.title, "caption": figure.caption, "png": "", "missing": ""}
    try:
        drawn = figure.draw(run)
    except Exception as error:  # A figure may fail in any way.
        return {**said, "missing": f"This figure could not be drawn: {error!r:.500}"}
    if drawn is None:
        return {**said, "missing": "The run has not what this figure takes."}
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return {**said, "png": base64.b64encode(content.getvalue()).decode("ascii")}


def _numbers(history: History) -> list[dict[str, str]]:
    """The numbers of the last measurement, with what they are."""
    summary = summarise(history.measurements[-1])
    unit = str(history.settings.get("loss_unit", "loss units"))
    rows: list[tuple[str, Estimate | None, Estimate | None, str]] = []
    for name, field, what in (
        ("loss", "loss", f"mean loss, {unit}"),
        ("expected test loss", "expected_test_loss", f"if the network were not trained on these inputs, {unit}"),
        ("generalizable strength", "generalizable", "score units"),
        ("non-generalizable strength", "non_generalizable", "score units"),
        ("share", "share", "generalizable part of the salient strength"),
        ("share by chance", "share_chance", "the same against evidence that knows nothing of the target"),
        ("mean order", "mean_order", "players in an interaction, weighted by strength"),
        ("cancellation", "cancellation", "strength over the score that it nets; 1 if nothing cancels"),
    ):
        held_out = None if summary.held_out is None else getattr(summary.held_out, field)
        rows.append((name, getattr(summary.training, field), held_out, what))
    found = [
        {"name": name, "training": _estimate(training), "held_out": _estimate(held_out), "what": what}
        for name, training, held_out, what in rows
    ]
    gaps = (("loss gap", summary.loss_gap, "held-out minus training loss"), ("excess gap", summary.excess_gap, "its part that "
            "non-generalizable interactions add"))  # fmt: skip
    return found + [
        {"name": name, "training": "", "held_out": _estimate(gap), "what": f"{what}, {unit}"} for name, gap, what in gaps
    ]


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _cost(run: RunRecord) -> dict[str, str]:
    seconds = [one.seconds for one in run.history.measurements]
    first = run.history.measurements[0]
    probes = {"training": len(first.training)} | ({} if first.held_out is None else {"held-out": len(first.held_out)})
    found = {
        "measurements": str(len(seconds)),
        "probes": ", ".join(f"{number} {split}" for split, number in probes.items()),
        "seconds of a measurement": f"{sorted(seconds)[len(seconds) // 2]:.1f} (median)",
        "seconds of all": f"{sum(seconds):.1f}, without training reference models",
    }
    if run.interactions is not None:
        found["players"] = str(run.num_players)
    if run.forwards:
        found["forwards"] = f"{run.forwards:,} a measurement at most, of all models that are measured"
    if run.failed:
        found["failed measurements"] = ", ".join(f"epoch {time.epoch}, step {time.step}" for time in run.failed)
    return found


def _label_issues(run: RunRecord) -> list[dict[str, str]]:
    """The training probes whose labels are worst explained by what generalizes."""
    issues = find_label_issues(run.judged)
    worst = [place for place in issues.ranking.tolist() if math.isfinite(float(issues.explained_loss[place]))]
    disputed = run.judged.disputed.tolist()
    return [
        {
            "input": _input(run, place),
            "label": _label(run, place),
            "loss": f"{float(issues.loss[place]):.3f}",
            "explained_loss": f"{float(issues.explained_loss[place]):.3f}",
            "share": f"{float(issues.share[place]):.0%}" if math.isfinite(float(issues.share[place])) else "–",
            "disputed": "yes" if disputed[place] else "",
        }
        for place in worst[:MOST_LABEL_ISSUES]
    ]


def _inputs(run: RunRecord, interactions: Interactions) -> list[dict[str, Any]]:
    """The strongest interactions on some inputs, those first whose labels are worst explained."""
    weights = torch.full_like(interactions.effects, math.nan) if run.weights is None else run.weights
    ranking = [place for place in find_label_issues(run.judged).ranking.tolist() if place < len(interactions)]
    measured = interactions.effects.isfinite().all(dim=-1).all(dim=-1)
    shown = [place for place in ranking if bool(measured[place])][:MOST_INPUTS]
    # Of inputs that were not judged, all are in one list.
    judged = weights.isfinite().all(dim=-1).all(dim=-1)
    weights = weights.where(judged[:, None, None], 1.0)[shown]
    strongest = strongest_interactions(interactions.select(shown), weights, run.threshold, MOST_INTERACTIONS)
    found: list[dict[str, Any]] = []
    for place, own in zip(shown, strongest, strict=True):
        names = run.names_of(place)
        both = {"generalizable": own.generalizable, "not generalizable": own.non_generalizable}
        kinds = both if bool(judged[place]) else {"all": own.generalizable}
        found.append(
            {
                "input": _input(run, place),
                "label": _label(run, place),
                "picture": _picture(run, place),
                "kinds": [{"kind": kind, "rows": [_row(one, names) for one in ones]} for kind, ones in kinds.items()],
            }
        )
    return found


def _row(one: OneInteraction, names: tuple[str, ...]) -> dict[str, str]:
    return {
        "type": one.effect_type.upper() if len(one.players) > 1 else "",
        "players": " · ".join(names[player] for player in one.players),
        "effect": f"{one.effect:+.3f}",
    }


def _input(run: RunRecord, place: int) -> str:
    index = run.indices[place] if place < len(run.indices) else None
    return f"probe {place}" if index is None else f"probe {place}, sample {index}"


def _probe(run: RunRecord, place: int) -> ProbeGroup | None:
    """Return a training probe, where probes are kept."""
    probes = run.probes.get("training")
    return None if probes is None or place >= len(probes) else probes.select([place]).groups[0]


def _label(run: RunRecord, place: int) -> str:
    """Write the target of a probe, where it is a single number."""
    probe = _probe(run, place)
    return "" if probe is None else target_of(probe)


def _picture(run: RunRecord, place: int) -> str:
    """Draw a probe that is an image as a PNG in base64; empty for others."""
    probe = _probe(run, place)
    images = [] if probe is None else list(probe.inputs.leaves.values())
    if len(images) != 1 or not images[0].is_floating_point():
        return ""
    image = images[0].detach().cpu()
    channels = axis_of_channels(image) if image.ndim == 4 else None
    sides = [length for axis, length in enumerate(image.shape) if axis not in (0, channels)]
    is_image = len(sides) == 2 and (channels is None or image.shape[channels] in COLOURS)
    if not is_image or min(sides) < SMALLEST_IMAGE or not bool(image.isfinite().all()):
        return ""
    content = io.BytesIO()
    imsave(content, pixels_of(image, channels).numpy(), cmap="gray", vmin=0, vmax=1, format="png")
    return base64.b64encode(content.getvalue()).decode("ascii")


def _measurements(history: History) -> Sequence[Sequence[str]]:
    rows = []
    for measurement, phase in zip(history.measurements, history.phases, strict=True):
        summary = summarise(measurement)
        held_out = None if summary.held_out is None else summary.held_out.loss
        numbers = (summary.training.loss, held_out, summary.training.expected_test_loss, summary.training.generalizable,
                   summary.training.non_generalizable, summary.training.share, summary.excess_gap)  # fmt: skip
        rows.append([str(measurement.time.epoch), str(measurement.time.step), *map(_estimate, numbers), str(phase.number)])
    return rows
