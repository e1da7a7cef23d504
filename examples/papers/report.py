"""The report: which claims hold, how strongly and where they fail, as a table and as figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from tabulate import tabulate

from lightning_interactions.analysis import summarise
from lightning_interactions.reporting import phase_figure, shape_figure, strength_figure, theory_figure
from papers.claims import CLAIMS, FAILS, HOLDS, UNCLEAR, Claim, Finding, overfitted, theory
from papers.runs import Run

__all__ = ["draw_overview", "draw_run", "write_report"]

# Colours that stay apart in every common kind of colour blindness (Okabe & Ito 2008).
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#6E6E6E"
COLOURS = LinearSegmentedColormap.from_list("outcomes", [VERMILION, "#FFFFFF", BLUE])
UNCLEAR_TONE = 0.25
CELL = (1.0, 0.26)
"""Width and height of one cell of the overview, inches."""
LABELS, CURVES, MARGIN = 3.0, 1.15, 0.55
"""Width of the claims' labels, height of one row of curves, space around, inches."""


LIMITS = """- Intervals are over the draw of the probes. Losses of overfitted networks differ so much between inputs that
  claims about the gap on probes stay unclear in single runs; how the number lies over all runs says more.
  Settings are not a sample of anything.
- Phases are detected from about 16 measurements. The detector compares windows of nine, and so detects phase 3
  later here than where every epoch is measured.
- An interaction counts as generalizable if one of three reference models has it, too, with the same sign. Where
  strength is spread over many interactions this happens by chance, as runs with random labels show, and more so
  at high orders; shares by order are not corrected for it.
- The decay that is fitted falls exponentially from order 1 on, which is our choice; strength that is largest at
  order 2 does not fit it. The networks are small and have nine players."""


def draw_run(run: Run, folder: Path) -> None:
    """Draw phases, strength by order, decay and spindle, and the theory of one run."""
    folder = folder / run.setting.file_name
    folder.mkdir(parents=True, exist_ok=True)
    last = run.history.measurements[-1]
    figures = {"phases": phase_figure(run.history), "orders": strength_figure(last), "shape": shape_figure(last)}
    if (fitted := theory(run)) is not None:
        figures["theory"] = theory_figure(*fitted)
    for name, figure in figures.items():
        figure.suptitle(f"{run.setting.title}, seed {run.setting.seed}")
        figure.savefig(folder / f"{name}.png", dpi=100)


def draw_overview(runs: Sequence[Run], findings: Sequence[Finding], path: Path) -> None:
    """Draw share and losses of every setting, and below them in how many of its runs each claim holds."""
    titles = _titles(runs)
    width, height = CELL[0] * len(titles), CELL[1] * len(CLAIMS)
    total = (LABELS + width + 0.2, 2 * (CURVES + 0.2) + height + 2.4 * MARGIN)
    figure = Figure(figsize=total)

    def axes_at(left: float, bottom: float, width: float, height: float, **options: object) -> Axes:
        return figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]), **options)

    grid = axes_at(LABELS, MARGIN, width, height)
    _draw_outcomes(grid, titles, findings)
    for row, draw in enumerate((_draw_losses, _draw_shares)):
        bottom = MARGIN + height + 0.45 + row * (CURVES + 0.2)
        first = None
        for column, title in enumerate(titles):
            axes = axes_at(LABELS + column * CELL[0] + 0.05, bottom, CELL[0] - 0.1, CURVES, sharey=first)
            first = first or axes
            draw(axes, [run for run in runs if run.setting.title == title])
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7, labelleft=column == 0, labelbottom=row == 0, length=2)
            if row == 1:
                axes.set_title(title.replace(", ", "\n"), fontsize=9)
            elif column == 0:
                axes.set_xlabel("epochs", fontsize=8, loc="right", labelpad=1)
        label = (
            "test loss over its\nsmallest; ▼ onset of\nphase 3",
            "share of generalizable\nstrength; dotted:\nits chance level",
        )[row]
        figure.text((LABELS - 0.45) / total[0], (bottom + CURVES / 2) / total[1], label, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_shares(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        summaries = [summarise(measurement).training for measurement in run.history.measurements]
        axes.plot(run.history.epochs, [one.share.value for one in summaries], color=BLUE, linewidth=1)
        axes.plot(run.history.epochs, [one.share_chance.value for one in summaries], color=GREY, linestyle=":", linewidth=1)
    axes.set_ylim(0, 1)


def _draw_losses(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        best = min(run.test_losses)
        axes.plot([loss / best for loss in run.test_losses], color=VERMILION, linewidth=1)
        onset = run.history.onset_epoch(3)
        if onset is not None:
            axes.plot([onset], [min(run.test_losses[onset] / best, 2.4)], "v", color="black", markersize=4)
    axes.set_ylim(0.9, 2.5)


def _draw_outcomes(axes: Axes, titles: Sequence[str], findings: Sequence[Finding]) -> None:
    for row, claim in enumerate(CLAIMS):
        for column, title in enumerate(titles):
            # The control is a column's run with random labels.
            cell = [finding for finding in findings if finding.claim is claim and _noisy_title(finding.run) == title]
            if not cell:
                axes.text(column, row, "–", ha="center", va="center", color=GREY, fontsize=9)
                continue
            tone = sum(map(_tone, cell)) / len(cell)
            axes.fill_between(
                [column - 0.48, column + 0.48], row - 0.46, row + 0.46, color=COLOURS(0.5 + 0.5 * tone), linewidth=0
            )
            text = f"{_Count.of(cell).holds}/{len(cell)}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if abs(tone) > 0.75 else "black")
    axes.set_xlim(-0.5, len(titles) - 0.5)
    axes.set_ylim(len(CLAIMS) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(CLAIMS)), [claim.label for claim in CLAIMS], fontsize=9)
    axes.tick_params(length=0)
    for row, claim in enumerate(CLAIMS):
        if row == 0 or claim.paper != CLAIMS[row - 1].paper:
            axes.axhline(row - 0.5, color="black", linewidth=1)
            height = sum(other.paper == claim.paper for other in CLAIMS)
            axes.annotate(
                claim.paper.split(",")[0].replace(" et al. ", "\net al.\n") if height > 1 else claim.paper,
                (0, row - 0.5), (-LABELS * 72 + 4, -2), ("axes fraction", "data"), "offset points",
                va="top", fontsize=8, color=GREY,
            )  # fmt: skip
    axes.annotate(
        "h/n: the claim holds, with all of its 95 % interval, in h of the n runs that it applies to; –: it applies to none. "
        "Blue: holds in all;\norange: fails in all; pale: unclear, as the interval is too wide, while the number itself meets "
        "the criterion (blue) or misses it (orange).",
        (0, 0), (-LABELS * 72 + 4, -6), "axes fraction", "offset points", va="top", fontsize=8,
    )  # fmt: skip
    axes.spines[:].set_visible(False)


def _tone(finding: Finding) -> float:
    """1 holds, -1 fails, and a little to the side on which an unclear number lies."""
    if finding.outcome == UNCLEAR:
        return UNCLEAR_TONE if finding.claim.met_by(finding.estimate.value) else -UNCLEAR_TONE
    return 1.0 if finding.outcome == HOLDS else -1.0


def write_report(runs: Sequence[Run], findings: Sequence[Finding], path: Path) -> None:
    """Write the table of claims, the runs, and every number, as Markdown."""
    parts = [
        "# What holds of four papers on interactions during training",
        f"{len(runs)} runs of small networks, 20 % of whose training labels were flipped "
        f"({sum(run.setting.random_labels for run in runs)} with random labels in all data). "
        "A claim holds in a run if the whole 95 % interval of its number over the draw of probe inputs meets the criterion, "
        "fails if none of it does, and is unclear otherwise; without an interval the number itself decides. Criteria were "
        "fixed before these runs. Claims about overfitting are checked where the test loss ends more than 5 % above its "
        "smallest.",
        _summary(findings),
        "![Claims by setting](papers.png)",
        "## Claims",
        *(part for paper in dict.fromkeys(claim.paper for claim in CLAIMS) for part in _of_paper(paper, findings)),
        "## Runs",
        _table(
            ("setting", "seed", "test loss: smallest", "at epoch", "at the end", "accuracy: best", "at the end", "overfitted",
             "phases detected", "processor seconds", "figures"),
            [_run_row(run, path.parent) for run in runs],
        ),
        "## All numbers",
        _table(
            ("claim", "setting", "seed", "number", "95 % interval", "outcome", "remark"),
            [_finding_row(finding) for claim in CLAIMS for finding in findings if finding.claim is claim],
        ),
        "## What this does not say",
        LIMITS,
    ]  # fmt: skip
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Count:
    """In how many runs a claim holds, is unclear and fails, and in how many its number meets the criterion."""

    holds: int
    unclear: int
    fails: int
    met: int

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> "_Count":
        outcomes = [finding.outcome for finding in findings]
        met = sum(finding.claim.met_by(finding.estimate.value) for finding in findings)
        return cls(*(outcomes.count(outcome) for outcome in (HOLDS, UNCLEAR, FAILS)), met)

    @property
    def total(self) -> int:
        return self.holds + self.unclear + self.fails


def _summary(findings: Sequence[Finding]) -> str:
    """Sort the claims by how often they hold, and name them."""
    counts = {claim.label: _Count.of([finding for finding in findings if finding.claim is claim]) for claim in CLAIMS}
    groups = {
        "Hold in at least nine of ten runs": lambda count: count.holds >= 0.9 * count.total,
        "Hold in more than half of the runs": lambda count: 0.5 * count.total < count.holds < 0.9 * count.total,
        "Hold in half of the runs or fewer": lambda count: 0 < count.holds <= 0.5 * count.total,
        "Hold in none": lambda count: count.holds == 0,
    }
    lines = []
    for name, belongs in groups.items():
        members = [
            f"{label} ({count.holds} of {count.total}; fails in {count.fails}; met by the number in {count.met})"
            for label, count in _full_labels(counts).items()
            if count.total and belongs(count)
        ]
        lines.append(f"- **{name}** ({len(members)}): {'; '.join(members) or 'no claim'}.")
    left = [label for label, count in counts.items() if not count.total]
    return "\n".join([*lines, *([f"- **Apply to no run**: {'; '.join(left)}."] if left else [])])


def _full_labels(counts: dict[str, _Count]) -> dict[str, _Count]:
    """Put what a label that begins with dots goes on from before it."""
    full, last = {}, ""
    for label, count in counts.items():
        last = last if label.startswith("…") else label
        full[f"{last} {label}" if label.startswith("…") else label] = count
    return full


def _of_paper(paper: str, findings: Sequence[Finding]) -> tuple[str, str]:
    rows = [
        _claim_row(claim, [finding for finding in findings if finding.claim is claim])
        for claim in CLAIMS
        if claim.paper == paper
    ]
    headers = (
        "claim",
        "number",
        "holds if",
        "holds",
        "unclear",
        "fails",
        "met by the number",
        "median",
        "range",
        "does not hold in",
    )
    return f"### {paper}", _table(headers, rows)


def _claim_row(claim: Claim, findings: Sequence[Finding]) -> list[object]:
    count = _Count.of(findings)
    values = [finding.estimate.value for finding in findings]
    return [
        f"**{claim.label}**: {claim.sentence}", claim.measured, claim.criterion,
        count.holds, count.unclear, count.fails, count.met,
        _number(median(values)) if values else "–",
        f"{_number(min(values))} to {_number(max(values))}" if values else "–",
        _where(findings) if values else "applies to no run",
    ]  # fmt: skip


def _where(findings: Sequence[Finding]) -> str:
    """Name the settings in which a claim does not hold in all runs."""
    parts = []
    for title in dict.fromkeys(finding.run.setting.title for finding in findings):
        count = _Count.of([finding for finding in findings if finding.run.setting.title == title])
        numbers = [f"{number} {outcome}" for number, outcome in ((count.fails, FAILS), (count.unclear, UNCLEAR)) if number]
        parts += [f"{title} ({', '.join(numbers)} of {count.total})"] if numbers else []
    return "; ".join(parts) or "nowhere"


def _run_row(run: Run, folder: Path) -> list[object]:
    best = min(range(len(run.test_losses)), key=run.test_losses.__getitem__)
    figures = sorted((folder / "figures" / run.setting.file_name).glob("*.png"))
    return [
        run.setting.title, run.setting.seed, _number(run.test_losses[best]), best, _number(run.test_losses[-1]),
        _number(max(run.test_accuracies)), _number(run.test_accuracies[-1]), "yes" if overfitted(run) else "no",
        ", ".join(f"{phase.number} from epoch {phase.onset.epoch}" for phase in run.history.detections), round(run.seconds),
        " ".join(f"[{figure.stem}]({figure.relative_to(folder).as_posix()})" for figure in figures),
    ]  # fmt: skip


def _finding_row(finding: Finding) -> list[object]:
    found = finding.estimate
    interval = "–" if math.isnan(found.low) else f"{_number(found.low)} to {_number(found.high)}"
    setting = finding.run.setting
    return [finding.claim.label, setting.title, setting.seed, _number(found.value), interval, finding.outcome, found.note]


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    escaped = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(escaped, headers, tablefmt="pipe", disable_numparse=True)


def _titles(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.setting.title for run in runs if not run.setting.random_labels))


def _noisy_title(run: Run) -> str:
    return f"{run.setting.task}, {run.setting.architecture}"


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"
