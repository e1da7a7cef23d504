"""Figures of the benchmark: regrets of all rules, what they cost, and what the signals do in the runs with the worst ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from competitors import best_epoch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report import Results, median_with_interval
from rules import ALONE, HELD_OUT, ORACLE, RULES, Record, at_onset, outcome
from runs import Run
from tasks import PLAIN

from lightning_interactions.analysis.phases.signals import PhaseSignals

__all__ = ["draw_compute", "draw_regrets", "draw_worst"]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.5"
SMALLEST = 1e-3
NUM_WORST = 4


def draw_regrets(results: Results, path: Path) -> None:
    """Draw the regret in test loss of every rule, one dot a run with label noise."""
    found = {name: [one.loss for _, one in results.of_rule(name)] for name in results.outcomes}
    found = {name: regrets for name, regrets in found.items() if regrets}
    if not found:
        return
    figure = Figure(figsize=(10, 0.4 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    generator = np.random.default_rng(0)
    for row, (name, own) in enumerate(found.items()):
        regrets, color = np.array(own), _color(results, name)
        scatter = row + generator.uniform(-0.2, 0.2, len(regrets))
        axes.scatter(np.maximum(regrets, SMALLEST), scatter, s=9, alpha=0.6, color=color, linewidths=0)
        axes.plot([max(float(np.median(regrets)), SMALLEST)] * 2, [row - 0.35, row + 0.35], color="black", linewidth=2)
    for color, label in ((ORANGE, "looks at held-out labels"), (BLUE, "needs no more labels than the training data has")):
        axes.scatter([], [], s=20, color=color, label=label)
    axes.plot([], [], color="black", linewidth=2, label="median")
    axes.axvline(0.02, color=GREY, linestyle=":", linewidth=1)
    axes.axvline(0.1, color=GREY, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([0.001, 0.01, 0.02, 0.1, 1], ["≤ 0.1", "1", "2", "10", "100"])
    axes.set_xlabel("Regret: test loss of the returned weights over the best of the run, minus 1, %")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    _save(figure, path)


def draw_compute(results: Results, path: Path) -> None:
    """Draw what every rule takes beside its median regret, with the interval of this over runs; from cheap to dear."""
    found = {name: [one for _, one in results.of_rule(name)] for name in results.outcomes if name != ORACLE}
    computes = {name: float(np.median([one.compute for one in own])) for name, own in found.items() if own}
    names = sorted(computes, key=lambda name: computes[name])
    if not names:
        return
    figure = Figure(figsize=(11, 0.3 * len(names) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, name in enumerate(names):
        middle, low, high = (max(one, SMALLEST) for one in median_with_interval([one.loss for one in found[name]]))
        color, marker = _color(results, name), "D" if name.startswith("phase 3") else "o"
        left.plot(computes[name], row, marker, color=color)
        right.plot([low, high], [row, row], color=color, linewidth=1.5, alpha=0.5)
        right.plot(middle, row, marker, color=color)
    for axes, label in (
        (left, "Compute until the stop\n(median, plain trainings)"),
        (right, "Regret in test loss, %\n(median, its 95 % interval)"),
    ):
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    right.set_xticks([0.001, 0.01, 0.1, 1], ["≤ 0.1", "1", "10", "100"])
    left.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    left.set_yticks(range(len(names)), [f"{name} ({len(found[name])} runs)" for name in names])
    left.invert_yaxis()
    for color, label in ((ORANGE, "looks at held-out labels"), (BLUE, "needs no more labels than the training data has")):
        left.plot([], [], "o", color=color, label=label)
    left.plot([], [], "D", color=GREY, label="phase 3")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    _save(figure, path)


def _color(results: Results, name: str) -> str:
    return ORANGE if results.rules[name].held_out else BLUE


def draw_worst(runs: Sequence[Run], path: Path) -> None:
    """Draw what was seen in the runs with the largest regret at the onset, for each evidence: which signal fails where."""
    noisy = [run for run in runs if run.setting.is_noisy]
    if not noisy:
        return
    worst = {
        RULES[name].kind: sorted(noisy, key=lambda run, name=name: -outcome(RULES[name], Record(run)).loss)[:NUM_WORST]
        for name in (ALONE, HELD_OUT)
    }
    figure = Figure(figsize=(12, 2.6 * sum(map(len, worst.values()))), layout="constrained")
    rows = figure.subplots(sum(map(len, worst.values())), 3, squeeze=False)
    for axes, (run, kind) in zip(rows, [(run, kind) for kind, own in worst.items() for run in own], strict=True):
        _draw_run(axes, run, kind)
    for axes in rows[0][[0, 2]]:
        axes.legend(edgecolor="none", framealpha=0.9, fontsize="small")
    for axes in rows[-1]:
        axes.set_xlabel("Completed epochs")
    _save(figure, path)


def _draw_run(axes: np.ndarray, run: Run, kind: str) -> None:
    history, losses = run.histories[kind], np.array(run.curves["test_loss"])
    epochs, signals = history.epochs, PhaseSignals.of(history.measurements)
    stop, best = at_onset(history), best_epoch(run.curves["test_loss"]).kept
    axes[0].plot(epochs[1:], losses / losses.min(), color=ORANGE, label="test loss / best")
    axes[0].set_ylim(0.95, min(3, 1.05 * losses[best:].max(initial=losses.min()) / losses.min() + 0.2))
    axes[1].plot(epochs, signals.cost.nanmean(dim=1), color=BLUE)
    axes[2].plot(epochs, signals.generalizable.nanmean(dim=1), color=GREEN, label="generalizable, above chance")
    axes[2].plot(epochs, signals.non_generalizable.nanmean(dim=1), color=ORANGE, label="non-generalizable")
    for panel, label in zip(axes, ("Test loss / best", "Expected test loss, nats", "Strength, nats"), strict=True):
        panel.set_ylabel(label)
        panel.axvline(best, color="black", linestyle=":", label="best test loss" if panel is axes[0] else None)
        panel.axvline(stop.kept, color=BLUE, label="returned weights" if panel is axes[0] else None)
        if stop.stopped is not None:
            panel.axvline(stop.stopped, color=BLUE, linestyle="--", label="detection of phase 3" if panel is axes[0] else None)
        panel.spines[["top", "right"]].set_visible(False)
    noise = f"{100 * run.setting.noise:.0f} % noise" if run.setting.noise else "natural noise"
    noise += "" if run.setting.condition == PLAIN else f", {run.setting.condition}"
    regret = 100 * (losses[stop.kept - 1] / losses.min() - 1)
    axes[1].set_title(
        f"{run.setting.task}, {run.setting.architecture}, {noise}, seed {run.setting.seed}, {kind}: regret {regret:.1f} %",
        fontsize="medium",
    )


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
