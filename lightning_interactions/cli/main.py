"""Reads the command line, and turns errors into words and exit codes."""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from lightning_interactions.cli.errors import BadRunError, FailedError

__all__ = ["BAD_INPUT", "FAILED", "main"]

FAILED = 1
"""Exit code where the user's own module or data raised an error; what Python itself ends with then."""

BAD_INPUT = 2
"""Exit code where a run, an argument or a path is wrong; what argparse itself ends with."""

RUN = "a checkpoint of a run with a monitor, a file that replay or History.save wrote, or a folder: its newest such file"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name; those of the process if left out.

    Returns:
        The exit code: 0, 1 where a user's module or data raised an error in a replay, 2 where what was given is wrong, and 3
        from ``phases`` where phase 3 was detected.
    """
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and given.command != "replay":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # What a command needs is imported when it runs: Lightning for one of them alone.
    from lightning_interactions.cli import commands

    if given.command == "replay":
        given.rest = rest
    run: Callable[[argparse.Namespace], int] = getattr(commands, given.command)
    try:
        return run(given)
    except (BadRunError, FailedError, OSError, ModuleNotFoundError) as error:
        shows_calls = getattr(given, "traceback", False)
        if shows_calls:
            traceback.print_exception(error.__cause__ or error)
        is_failure = isinstance(error, FailedError)
        hint = "\n  (--traceback prints all calls that led there)" if is_failure and not shows_calls else ""
        print(f"lightning-interactions {given.command}: {error}{hint}", file=sys.stderr)
        return FAILED if is_failure else BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-interactions",
        description="Look at runs that an InteractionMonitor has measured, and measure finished ones.",
        epilog="exit codes: 0 all went well, 1 your own code failed (from replay alone), 2 bad input, "
        "3 phase 3 was detected (from phases alone)",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    one.add_argument("run", metavar="RUN", help=RUN)
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("--name", help="name of the monitor, where the run has several")
    printing = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    printing.add_argument("--json", action="store_true", help="print JSON instead of text")

    def add(name: str, says: str, more: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=says,
            description=f"{says[0].upper()}{says[1:]}. {more}",
            parents=parents,
            formatter_class=argparse.HelpFormatter,
            allow_abbrev=False,
        )

    report = add(
        "report",
        "write one HTML file that says all that is known of a run",
        "Phases, figures, numbers, label issues, the strongest interactions, cost and settings; it needs no other file.",
        one,
        named,
        printing,
    )
    report.add_argument("--output", metavar="FILE", default="report.html", help="the file (default: %(default)s)")

    add(
        "phases",
        "print the phases of a run, and end with a code that a pipeline can use",
        "The code is 0 if phase 3 was not detected, 3 if it was, and 2 if the run cannot be read.",
        one,
        named,
        printing,
    )

    compare = add(
        "compare",
        "print the numbers of several runs beside each other",
        "A warning says where they were measured in different ways, so that their numbers cannot be compared.",
        named,
        printing,
    )
    compare.add_argument("runs", metavar="RUN", nargs="+", help=RUN)
    compare.add_argument("--figure", metavar="FILE", help="draw share and loss of all runs into a .png, .svg or .pdf")

    export = add(
        "export",
        "write a run as tables of plain columns",
        "Measurements with all summaries, inputs, strength by order, interactions and values, as far as the run has them: one "
        ".npz with arrays table/column, or a Parquet file for each table (needs pyarrow).",
        one,
        named,
        printing,
    )
    export.add_argument("--output", metavar="FILE", default="run.npz", help=".npz or .parquet (default: %(default)s)")

    replay = add(
        "replay",
        "measure a finished run from its checkpoints",
        "Model, data, Trainer and monitors come from a file of LightningCLI, as for `fit`; other options go on to it, such as "
        "--trainer.devices=4 or --trainer.num_nodes=2: write --option=value, since a value after a blank would be taken "
        "for a checkpoint. The history is the one that live monitoring would have given, if the "
        "config and the seed are those of the run.",
        printing,
    )
    replay.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help="checkpoints of one run, or folders of them")
    replay.add_argument("--config", metavar="FILE", action="append", required=True, help="YAML of LightningCLI, as for fit")
    replay.add_argument(
        "--output", metavar="FILE", default="replayed.ckpt", help="what the other commands read (default: %(default)s)"
    )
    replay.add_argument("--traceback", action="store_true", help="print the whole traceback of an error, too")
    return parser
