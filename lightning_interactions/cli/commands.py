"""What each command does; its arguments are read in :mod:`lightning_interactions.cli.main`."""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from lightning_interactions.analysis import share_near_chance, summarise
from lightning_interactions.cli.errors import BadRunError
from lightning_interactions.cli.runs import read_run
from lightning_interactions.records import Estimate, History, Phase, TimePoint
from lightning_interactions.reporting import (
    PhaseInWords,
    RunRecord,
    compare_figure,
    explain_detections,
    export_tables,
    history_table,
    write_html,
    write_tables,
)

__all__ = ["compare", "export", "phases", "replay", "report"]

PHASE_3 = 3
"""Exit code of ``phases`` where phase 3 was detected."""

CHECKPOINTS = "checkpoints"
"""What Lightning calls the folder of checkpoints in that of a run."""

PROBES = "probes"
"""The setting that says which inputs are measured."""

LETTERS_OF_VALUE = 30
"""Of longer values nobody sees the difference in a line."""


def report(given: argparse.Namespace) -> int:
    """Write the HTML report of a run."""
    run = read_run(given.run, given.name)
    write_html(run, given.output)
    _say(given, {"report": str(given.output)}, f"wrote {given.output}")
    return 0


def phases(given: argparse.Namespace) -> int:
    """Print the phases of a run."""
    run = read_run(given.run, given.name)
    now = run.history.phases[-1]
    found = run.history.first_detection(3)
    near_chance = share_near_chance(run.history.measurements)
    notes = {**({} if near_chance is None else {"near_chance": near_chance.note}), **now.notes}
    text = "\n\n".join([*map(str, explain_detections(run.history)), *(f"Note: {note}." for note in notes.values())])
    _say(
        given,
        {
            "run": run.title,
            "phase": now.number,
            "phase_3_detected": found is not None,
            "phases": _phases(run.history),
            "notes": notes,
        },
        text,
    )
    return 0 if found is None else PHASE_3


def compare(given: argparse.Namespace) -> int:
    """Print several runs beside each other."""
    runs = [read_run(path, given.name) for path in given.runs]
    names = _short_names(_known_as(given.runs, [run.title for run in runs]))
    for name, run in zip(names[1:], runs[1:], strict=True):
        different = _different(runs[0].history, run.history)
        if different == [PROBES]:
            said = "measured on other inputs, so that small differences of their numbers may come from these"
        else:
            said = f"measured in different ways, so that their numbers cannot be compared: other {', '.join(different)}"
        if different:
            print(f"warning: {names[0]} and {name} were {said}", file=sys.stderr)
    rows = [_row(name, run) for name, run in zip(names, runs, strict=True)]
    if given.figure is not None:
        histories = {name: run.history for name, run in zip(names, runs, strict=True)}
        try:
            compare_figure(histories).savefig(given.figure, dpi=150)
        except ValueError as error:  # Too many runs, or a format that matplotlib does not know.
            raise BadRunError(str(error)) from error
    headers = {name: name.replace("held_out", "held-out").replace("_", "\n") for name in rows[0]}
    text = tabulate([_printed(row) for row in rows], headers=headers, floatfmt=".3f", missingval="-")
    _say(given, {"runs": rows} | ({} if given.figure is None else {"figure": str(given.figure)}), text)
    return 0


def export(given: argparse.Namespace) -> int:
    """Write a run as tables."""
    run = read_run(given.run, given.name)
    tables = export_tables(run)
    try:
        files = write_tables(tables, given.output)
    except ValueError as error:
        raise BadRunError(str(error)) from error
    sizes = {name: len(next(iter(table.values()))) for name, table in tables.items()}
    text = f"wrote {', '.join(map(str, files))}: " + ", ".join(f"{size} {name}" for name, size in sizes.items())
    _say(given, {"files": [str(path) for path in files], "rows": sizes}, text)
    return 0


def replay(given: argparse.Namespace) -> int:
    """Measure a finished run from its checkpoints."""
    from lightning.pytorch.utilities import rank_zero_info

    from lightning_interactions.callbacks.replay import find_checkpoints, replay, save_monitors
    from lightning_interactions.cli.configs import RunCLI, config_arguments, find_config
    from lightning_interactions.cli.failures import importing, in_words

    # Where a script of the user's would find their modules; a command begins elsewhere.
    sys.path.insert(0, str(Path.cwd()))
    # Nobody wants to learn only after the measurements that they cannot be written.
    output = Path(given.output)
    if not output.parent.is_dir():
        raise BadRunError(f"expected --output in a folder that exists, got {output}")
    with in_words():
        checkpoints = find_checkpoints(given.checkpoints)
        configs = given.config
        if configs is None:
            configs = [find_config(given.checkpoints)]
            rank_zero_info(f"replay: takes model, data and Trainer from {configs[0]}")
        arguments = config_arguments(configs, {"model": given.model, "data": given.data}, given.rest)
        with importing(), warnings.catch_warnings():
            # It takes them for a script's that has arguments of its own; ours are these.
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            made = RunCLI(
                args=arguments,
                run=False,
                save_config_callback=None,
                parser_kwargs={"exit_on_error": False},  # What is wrong is hard to find under fifty lines of usage.
            )
        monitors = replay(made.trainer, made.model, checkpoints, datamodule=made.datamodule)
    if not made.trainer.is_global_zero:
        return 0
    if not any(monitor.history for monitor in monitors):
        raise BadRunError("expected measurements, got none; give the Trainer the epochs or steps of the run, and see warnings")
    save_monitors(monitors, output)
    text = "\n\n".join(history_table(monitor.history) for monitor in monitors) + f"\n\nwrote {output}"
    found = {
        "run": str(output),
        "checkpoints": [str(path) for path in checkpoints],
        "monitors": [
            {
                "name": monitor.name,
                "measurements": len(monitor.history),
                "phases": _phases(monitor.history),
            }
            for monitor in monitors
        ],
    }
    _say(given, found, text)
    return 0


def _row(name: str, run: RunRecord) -> dict[str, Any]:
    """The numbers of a run that are compared."""
    history = run.history
    summaries = [summarise(measurement) for measurement in history.measurements]
    last = summaries[-1]
    onset = history.first_detection(3)
    losses = [summary.held_out.loss.value for summary in summaries if summary.held_out is not None]
    least = min((loss for loss in losses if math.isfinite(loss)), default=None)
    return {
        "run": name,
        "measurements": len(history),
        "last_epoch": history.epochs[-1],
        "phase": history.phases[-1].number,
        "phase_3_since": None if onset is None else onset.onset.epoch,
        "confidence": None if onset is None else onset.confidence,
        "share": _number(last.training.share),
        "share_by_chance": _number(last.training.share_chance),
        "held_out_loss": None if last.held_out is None else _number(last.held_out.loss),
        "least_held_out_loss": least,
        "excess_gap": _number(last.excess_gap),
        "seconds": sum(measurement.seconds for measurement in history.measurements),
    }


def _printed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What fits a line."""
    return {name: round(value) if name == "seconds" else value for name, value in row.items() if name != "measurements"}


def _number(estimate: Estimate) -> float | None:
    return estimate.value if math.isfinite(estimate.value) else None


def _phases(history: History) -> list[dict[str, Any]]:
    return [_phase(phase, words) for phase, words in zip(history.detections, explain_detections(history), strict=True)]


def _phase(phase: Phase, words: PhaseInWords) -> dict[str, Any]:
    def moment(time: TimePoint | None) -> dict[str, int] | None:
        return None if time is None else {"epoch": time.epoch, "step": time.step}

    return {
        "phase": phase.number,
        "name": words.name,
        "onset": moment(phase.onset),
        "earliest": moment(phase.earliest),
        "latest": moment(phase.latest),
        "detected": moment(phase.detected),
        "confidence": phase.confidence if math.isfinite(phase.confidence) else None,
        "reason": phase.reason,
        "advice": words.advice,
    }


def _different(history: History, other: History) -> list[str]:
    """Name the settings that differ, with both values where these are short."""
    found = []
    for name in history.names_of_different_settings(other.settings):
        both = [str(one.settings.get(name)) for one in (history, other)]
        found.append(f"{name} ({both[0]}, {both[1]})" if max(map(len, both)) <= LETTERS_OF_VALUE else name)
    return found


def _known_as(given: Sequence[str], titles: Sequence[str]) -> list[str]:
    """Call runs as their users do: by the folder that is given, or that has the checkpoint in it, such as ``version_0``."""
    known = []
    for one, title in zip(given, titles, strict=True):
        path = Path(one).resolve() if Path(one).is_dir() else Path(title)
        inside = path if Path(one).is_dir() else path.parent
        known.append(str(inside.parent if inside.name == CHECKPOINTS else path))
    # Of several files of one run their names tell more.
    return [
        title if known.count(one) > 1 and titles.count(title) == 1 else one for one, title in zip(known, titles, strict=True)
    ]


def _short_names(titles: Sequence[str]) -> list[str]:
    """Name runs by the end of their paths that tells them apart."""
    parts = [Path(title).parts for title in titles]
    for length in range(1, max(map(len, parts)) + 1):
        short = [str(Path(*own[-length:])) for own in parts]
        if len(set(short)) == len(set(titles)):
            break
    numbered = [f"{name} ({short[: place + 1].count(name)})" for place, name in enumerate(short)]
    return [name if short.count(name) == 1 else other for name, other in zip(short, numbered, strict=True)]


def _say(given: argparse.Namespace, found: Mapping[str, Any], text: str) -> None:
    """Print what was found, as JSON if that was asked for."""
    print(json.dumps(found, indent=2, allow_nan=False) if given.json else text)
