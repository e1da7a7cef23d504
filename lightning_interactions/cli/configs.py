"""Configurations of runs, as LightningCLI reads and saves them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import get_loader
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_interactions.cli.errors import BadRunError

__all__ = ["RunCLI", "config_arguments", "find_config"]

NAME = "config.yaml"
"""What LightningCLI calls the file that it saves."""

SCRIPT = "__main__."
"""What classes of the script that ran are saved with."""

CLASS = "package.module.Class"


class RunCLI(LightningCLI):
    """Makes model, data and Trainer of a saved configuration, and runs nothing.

    Saved with the rest are the arguments of the Trainer's method, such as ``ckpt_path`` and ``verbose``. They are read and not
    used: a replay loads its checkpoints itself.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take the arguments of fit, validate, test and predict."""
        taken: set[str] = set()
        for method, skipped in self.subcommands().items():
            taken |= set(parser.add_method_arguments(Trainer, method, skip={*skipped, *taken}))


def find_config(checkpoints: Sequence[str | Path]) -> Path:
    """Find the file that LightningCLI has saved of a run: beside its checkpoints, or one folder above.

    Args:
        checkpoints: Files, or folders of them.

    Raises:
        BadRunError: If there is none, or several.
    """
    folders = [path if path.is_dir() else path.parent for path in map(Path, checkpoints)]
    beside = [
        next((place / NAME for place in (own, own.resolve().parent) if (place / NAME).is_file()), None) for own in folders
    ]
    found = {path.resolve(): path for path in beside if path is not None}
    if not found:
        raise BadRunError(
            f"expected --config, since no {NAME} lies in {' or '.join(map(str, dict.fromkeys(folders)))} or one folder above"
        )
    if len(found) > 1:
        raise BadRunError(
            f"expected checkpoints of one run, or --config, got several runs: {', '.join(map(str, found.values()))}"
        )
    return next(iter(found.values()))


def config_arguments(configs: Sequence[str | Path], classes: Mapping[str, str | None], rest: Sequence[str]) -> list[str]:
    """Write down what LightningCLI is to read.

    Args:
        configs: Files, as for ``fit``; with a level ``fit:`` as well.
        classes: Of ``model`` and ``data``, where they are given apart: what a script hands to LightningCLI is not saved.
        rest: Other arguments of LightningCLI.

    Returns:
        The arguments. Classes of the script that ran are those of the module of a given class.

    Raises:
        BadRunError: If a class is missing.
    """
    contents = [_content(Path(path)) for path in configs]
    known = [content for content in contents if isinstance(content, dict)]
    script = next((path.rpartition(".")[0] for path in classes.values() if path is not None and "." in path), None)
    _check_classes([_of_fit(content) for content in known], configs, classes, rest, script)
    # Before the files, so that arguments without a class are its own; and after them, as it counts more than theirs.
    chosen = [f"--{key}={path}" for key, path in classes.items() if path is not None]
    arguments = [*chosen]
    for path, content in zip(configs, contents, strict=True):
        clean = _with_script(_of_fit(content), script) if isinstance(content, dict) else content
        text = str(path) if clean == content else _yaml(clean)
        arguments += ["--config", text]
    return [*arguments, *chosen, *rest]


def _content(path: Path) -> Any:
    """Read a file; what cannot be read is left to LightningCLI, which says what is wrong with it."""
    try:
        return get_loader("yaml")(path.read_text(encoding="utf-8"))
    except Exception:
        return None


def _yaml(value: Any) -> str:
    """Write YAML on one line, as an argument."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value:+}".replace("+nan", ".nan").replace("inf", ".inf")
    # A slash is escaped, since a text with :// in it would be taken for an address.
    return json.dumps(value, ensure_ascii=False).replace("/", "\\/")


def _of_fit(content: Mapping[str, Any]) -> dict[str, Any]:
    """Lift what is under ``fit:``; other subcommands are of no use here."""
    own = content.get("fit")
    if not isinstance(own, dict):
        return dict(content)
    return {key: value for key, value in content.items() if key not in LightningCLI.subcommands()} | own


def _with_script(value: Any, script: str | None) -> Any:
    """Name classes of the script that ran by its module."""
    if isinstance(value, dict):
        return {key: _renamed(one, script) if key == "class_path" else _with_script(one, script) for key, one in value.items()}
    return [_with_script(one, script) for one in value] if isinstance(value, list) else value


def _renamed(path: Any, script: str | None) -> Any:
    is_known = script is not None and isinstance(path, str) and path.startswith(SCRIPT)
    return f"{script}.{path.removeprefix(SCRIPT)}" if is_known else path


def _check_classes(
    contents: Sequence[Mapping[str, Any]],
    configs: Sequence[str | Path],
    classes: Mapping[str, str | None],
    rest: Sequence[str],
    script: str | None,
) -> None:
    """Say which class is missing, before LightningCLI says what does not fit any other."""
    files = ", ".join(map(str, configs))
    of_script = [path for content in contents for path in _class_paths(content) if path.startswith(SCRIPT)]
    if of_script and script is None:
        name = of_script[0].removeprefix(SCRIPT)
        raise BadRunError(
            f"expected the module of {name}, which {files} has as {of_script[0]}, a class of the script that ran; add "
            f"--model=script.Class for classes of script.py"
        )
    missing = [key for key, path in classes.items() if path is None and _lacks_class(key, contents, rest)]
    if missing:
        options = " ".join(f"--{key}={CLASS}" for key in missing)
        raise BadRunError(
            f"expected the class of {' and '.join(missing)}, which a script handed to LightningCLI and {files} does not name; "
            f"add {options}"
        )


def _lacks_class(key: str, contents: Sequence[Mapping[str, Any]], rest: Sequence[str]) -> bool:
    """Whether nothing says which class a model is of, or data that have arguments; a model may have the data itself."""
    if any(one.startswith((f"--{key}=", f"--{key}.")) for one in rest):
        return False
    given = [content[key] for content in contents if content.get(key) is not None]
    return not any(isinstance(one, str) or "class_path" in one for one in given) and (key == "model" or bool(given))


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        own = value.get("class_path")
        yield from [own] if isinstance(own, str) else []
        for one in value.values():
            yield from _class_paths(one)
    elif isinstance(value, list):
        for one in value:
            yield from _class_paths(one)
