"""Finding and reading the runs that commands are given: safely, with tensors and primitives alone."""

import ast
import copy
from pathlib import Path
from typing import Any

from lightning_interactions.cli.errors import BadRunError
from lightning_interactions.records import History
from lightning_interactions.records.files import UnreadableError, load_safely
from lightning_interactions.reporting import RunRecord

__all__ = ["read_run"]

ENDINGS = (".ckpt", ".pt", ".pth")
"""Of checkpoints and history files."""

STATE = {"version", "history", "final_interactions"}
"""What the state of a monitor has among others."""


def read_run(path: str | Path, name: str | None = None) -> RunRecord:
    """Read a run.

    Args:
        path: A checkpoint of Lightning with the state of a monitor, what ``replay`` wrote, a file of ``History.save``, or a
            folder of such files: the newest one that can be read counts.
        name: Name of the monitor, where a checkpoint has several.

    Raises:
        BadRunError: If there is no such run, or it has no measurement.
    """
    path = Path(path)
    if path.is_dir():
        return _newest(path, name)
    if not path.is_file():
        raise BadRunError(f"expected a checkpoint, a history file or a folder of them, got {path}, which does not exist")
    run = _of_file(path, name)
    if not run.history:
        raise BadRunError(f"{path}: expected a run with at least one measurement, got an empty history; train with it first")
    return run


def _newest(folder: Path, name: str | None) -> RunRecord:
    """Read the newest run in a folder and those below it; links are not followed out of it."""
    root = folder.resolve()
    inside = [path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file()]
    contained = [path for path in inside if path.resolve().is_relative_to(root)]
    problems: list[Exception] = []
    for path in sorted(contained, key=lambda one: (one.stat().st_mtime_ns, str(one)), reverse=True):
        try:
            return read_run(path, name)
        except (BadRunError, OSError) as error:
            problems.append(error)
    if not problems:
        raise BadRunError(f"{folder}: expected a folder with a checkpoint or a history file ({', '.join(ENDINGS)}), found none")
    raise BadRunError(
        f"{folder}: expected a folder with a run, found {len(problems)} files and none; the newest: {problems[0]}"
    )


def _of_file(path: Path, name: str | None) -> RunRecord:
    try:
        content = load_safely(path)
    except UnreadableError as error:
        raise BadRunError(str(error)) from error
    if not isinstance(content, dict):
        raise BadRunError(f"{path}: expected a checkpoint or a history, got a file with {type(content).__name__}")
    try:
        if {"version", "settings", "splits", "phases"} <= content.keys():
            return RunRecord(History.from_dict(content), str(path))
        monitors = _monitors(content)
        if not monitors:
            raise BadRunError(
                f"{path}: expected a checkpoint with the state of an InteractionMonitor, got one without; it was written by a "
                "run without monitor (lightning-interactions replay measures it), or with weights alone"
            )
        chosen = _chosen(monitors, name, path)
        # The run may go on, and write the file anew.
        return RunRecord.from_state(copy.deepcopy(monitors[chosen]), str(path), chosen)
    except BadRunError:
        raise
    except ValueError as error:
        raise BadRunError(f"{path}: {error}") from error


def _monitors(checkpoint: dict[Any, Any]) -> dict[str | None, dict[str, Any]]:
    """Find the states of monitors in a checkpoint, by their names."""
    callbacks = checkpoint.get("callbacks")
    found: dict[str | None, dict[str, Any]] = {}
    for key, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if isinstance(state, dict) and state.keys() >= STATE:
            found[_name_of(str(key))] = state
    return found


def _name_of(key: str) -> str | None:
    """Read the name out of a callback's key, such as ``InteractionMonitor{'name': None}``."""
    try:
        arguments = ast.literal_eval(key[key.index("{") :])
        name = arguments.get("name")
    except (ValueError, SyntaxError, AttributeError):
        return key
    return name if name is None else str(name)


def _chosen(monitors: dict[str | None, Any], name: str | None, path: Path) -> str | None:
    known = ", ".join("one without a name" if one is None else repr(one) for one in monitors)
    if name is None and len(monitors) > 1:
        if None in monitors:
            return None
        raise BadRunError(f"{path}: expected --name, since there are several monitors: {known}")
    if name is not None and name not in monitors:
        raise BadRunError(f"{path}: expected a monitor named {name!r}, got {known}")
    return next(iter(monitors)) if name is None else name
