"""Sensitivity: how the curves move with every choice
==================================================

Show how the curves of one run move with every choice that the monitor leaves to you.

::

    python examples/02_sensitivity.py            # about ten minutes; also draws sensitivity.png
    python examples/02_sensitivity.py --quick    # seconds: goes through all the code and means nothing

One small CNN is trained on scikit-learn's digits with 20 % of its training labels flipped, under many monitors at once that
measure the same network at the same moments. Each differs from the base in one thing: number of reference models, draw of
probes, salience threshold τ, noise tolerance κ, baseline value, or grid of patches. Few probes and few measurements keep it
short, so that phase three is seldom detected here; the curves are what to look at.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from papers.runs import EXTRACTION, be_a_worker
from papers.series import Series, peak_order, rank_correlation
from papers.tasks import TASKS, make_parts
from tabulate import tabulate
from torch.utils.data import DataLoader

from lightning_interactions import (
    History,
    ImagePatches,
    InteractionMonitor,
    Logging,
    ProbeSampling,
    baselines,
    fit_reference_models,
)
from lightning_interactions.analysis import summarise
from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.references import ReferenceTraining
from lightning_interactions.schedules import Schedule

# Colours that stay apart in every common kind of colour blindness (Okabe & Ito 2008).
BASE_STYLE = {"color": "#000000", "marker": "o", "linestyle": "-", "zorder": 3}
STYLES = (
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#0072B2", "marker": "^", "linestyle": "-."},
)

Panels = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Moments(Schedule):
    """Measures after these epochs, 0 being the untrained network."""

    epochs: tuple[int, ...]

    def due(self, epoch: int) -> bool:
        return epoch in self.epochs


@dataclass(frozen=True)
class Size:
    """How large the run is.

    Attributes:
        counts: Numbers of reference models; the most of them are trained.
        base_count: The base's.
        grids: Grids of patches.
        base_grid: The base's.
        reference_epochs: Epochs of each reference model, at most.
        probes: Training probes, and as many held-out ones.
        epochs: Completed epochs at the measurements, up to the end.
    """

    counts: tuple[int, ...] = (1, 3, 5)
    base_count: int = 3
    grids: tuple[tuple[int, int], ...] = ((2, 3), (2, 4), (3, 3))
    base_grid: tuple[int, int] = (3, 3)
    reference_epochs: int = 15
    probes: int = 16
    epochs: tuple[int, ...] = (0, 1, 2, 4, 8, 14, 24, 45)


QUICK = Size((1, 2, 3), 1, ((1, 2), (1, 3), (2, 2)), (1, 3), reference_epochs=1, probes=4, epochs=(0, 1, 2))


def first(references: ReferenceModels, count: int) -> ReferenceModels:
    return ReferenceModels(references.models[:count], seen=references.seen[:count])


def make_panels(references: ReferenceModels, size: Size) -> Panels:
    """List what is varied: by title and label, the monitor's arguments that differ from the base's, which has none."""
    return {
        "reference models, K": {
            str(count): {} if count == size.base_count else {"evidence": first(references, count)} for count in size.counts
        },
        "draw of probes": {
            f"seed {seed}": {} if seed == 0 else {"probes": ProbeSampling(size.probes, size.probes, seed)} for seed in range(3)
        },
        "salience threshold, τ": {
            f"{value:g}": {} if value == EXTRACTION.threshold else {"extraction": replace(EXTRACTION, threshold=value)}
            for value in (0.02, 0.05, 0.1)
        },
        "noise tolerance, κ": {
            f"{value:g}": {"extraction": replace(EXTRACTION, noise_tolerance=value)} if value else {}
            for value in (0.0, 0.02, 0.05)
        },
        "baseline value": {
            "zeros": {},
            "training mean": {"baseline": baselines.TrainingMean()},
            "grey (0.5)": {"baseline": baselines.Constant(0.5)},
        },
        "grid of patches": {
            f"{rows}x{cols}": {} if (rows, cols) == size.base_grid else {"players": ImagePatches(rows, cols)}
            for rows, cols in size.grids
        },
    }


def train(seed: int, size: Size) -> dict[str, dict[str, History]]:
    """Train one network under all monitors; return their histories by title and label."""
    task = TASKS["digits"]
    architecture = task.architectures["CNN"]
    parts = make_parts(task, seed)
    L.seed_everything(seed, verbose=False)
    model = architecture.classifier()
    references = fit_reference_models(
        model,
        DataLoader(parts["reference"], 32, shuffle=True),
        num_models=max(size.counts),
        training=ReferenceTraining(
            max_epochs=size.reference_epochs,
            factory=architecture.classifier,
            seed=1000 * seed,
            trainer={"accelerator": "cpu"},
        ),
    )
    panels = make_panels(references, size)
    base = {
        "players": ImagePatches(*size.base_grid),
        "evidence": first(references, size.base_count),
        "probes": ProbeSampling(size.probes, size.probes),
        "extraction": EXTRACTION,
        "schedule": Moments(size.epochs),
        "logging": Logging(figures=None),
    }
    base_monitor = InteractionMonitor(**base, name="base")
    monitors = {
        title: {
            label: InteractionMonitor(**{**base, **changed}, name=f"{title} {label}") if changed else base_monitor
            for label, changed in variants.items()
        }
        for title, variants in panels.items()
    }
    others = [monitor for row in monitors.values() for monitor in row.values() if monitor is not base_monitor]
    trainer = L.Trainer(
        max_epochs=size.epochs[-1],
        callbacks=[base_monitor, *others],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training = DataLoader(parts["training"], architecture.batch_size, shuffle=True)
    trainer.fit(model, training, DataLoader(parts["validation"], 200))
    return {title: {label: monitor.history for label, monitor in row.items()} for title, row in monitors.items()}


def row_of(history: History, base: History) -> list[float | int | str | None]:
    """Say in a few numbers what a history's curves look like; the untrained network does not count."""
    series, trained = Series.of(history), slice(1, None)
    summaries = [summarise(measurement) for measurement in history.measurements[trained]]
    shares, end = series.shares[trained], summaries[-1]
    peak = int(shares.argmax())
    chance = torch.tensor([summary.training.share_chance.value for summary in summaries])
    g, u = (part[-1].sum(dim=1).mean(dim=0) for part in (series.generalizable, series.non_generalizable))
    return [
        shares[peak].item(),
        history.epochs[trained][peak],
        shares[-1].item(),
        f"{end.training.share.low:.2f}..{end.training.share.high:.2f}",
        (shares[peak] - shares[-1]).item(),
        chance.nanmean().item(),
        rank_correlation(shares[:, None], Series.of(base).shares[trained, None]).item(),
        int(peak_order(g)),
        int(peak_order(u)),
        end.excess_gap.value,
        history.onset_epoch(3),
        sum(measurement.seconds for measurement in history.measurements) / len(history),
    ]


HEADERS = (
    "varied", "value", "peak share", "epoch", "end share", "(interval)", "fall", "mean chance", "rank corr.",
    "peak order G", "peak order U", "excess gap", "phase 3", "seconds",
)  # fmt: skip


def draw(found: dict[str, dict[str, History]], base: History, path: Path) -> None:
    """Draw share over epochs and final strength by order, one column for each thing that is varied."""
    figure = Figure(figsize=(2.9 * len(found), 6.6), layout="constrained")
    rows = figure.subplots(2, len(found), sharey="row")
    for (title, histories), shares, orders in zip(found.items(), *rows, strict=True):
        styles = iter(STYLES)
        for label, history in histories.items():
            style = BASE_STYLE if history is base else next(styles)
            name = f"{label} (base)" if history is base else label
            draw_share(shares, history, name, style, band=history is base)
            draw_orders(orders, history, style, band=history is base)
        # Above the axes, since the curves may be anywhere.
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.02)}
        shares.legend(title=title, **place, frameon=False, title_fontproperties={"weight": "bold"})
        shares.set_xlabel("Completed epochs")
        orders.set_xlabel("Order")
        for axes in (shares, orders):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
    rows[0][0].set_ylim(0, 1)
    rows[1][0].set_ylim(bottom=0)
    rows[0][0].set_ylabel("Share of generalizable strength")
    rows[1][0].set_ylabel("Non-generalizable strength\nat the end (score units)")
    figure.supxlabel("Bands: 95 % interval of the base over the draw of probes", fontsize="medium", color="#6E6E6E")
    figure.savefig(path, dpi=120)


def draw_share(axes: Axes, history: History, label: str, style: dict[str, Any], *, band: bool) -> None:
    axes.plot(history.epochs, Series.of(history).shares, label=label, markersize=4, **style)
    if band:
        ends = [summarise(measurement).training.share for measurement in history.measurements]
        low, high = [end.low for end in ends], [end.high for end in ends]
        axes.fill_between(history.epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def draw_orders(axes: Axes, history: History, style: dict[str, Any], *, band: bool) -> None:
    by_order = Series.of(history).non_generalizable[-1].sum(dim=1).mean(dim=0)
    orders = range(1, len(by_order) + 1)
    axes.plot(orders, by_order, markersize=4, **style)
    if band:
        _, low, high = summarise(history.measurements[-1]).training.by_order.non_generalizable[:, 1:]
        axes.fill_between(orders, low, high, color=style["color"], alpha=0.15, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--seed", type=int, default=40, help="seed of data and training (default: %(default)s)")
    parser.add_argument("--figure", type=Path, default=Path("sensitivity.png"), help="figure (default: %(default)s)")
    arguments = parser.parse_args()
    be_a_worker()
    found = train(arguments.seed, QUICK if arguments.quick else Size())
    base = found["draw of probes"]["seed 0"]
    rows = [
        [title, f"{label} (base)" if history is base else label, *row_of(history, base)]
        for title, histories in found.items()
        for label, history in histories.items()
    ]
    print(tabulate(rows, HEADERS, floatfmt=".2f", missingval="-"))
    draw(found, base, arguments.figure)
    print(f"\n{arguments.figure}")


if __name__ == "__main__":
    main()
