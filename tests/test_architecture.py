import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lightning_interactions

PACKAGE = "lightning_interactions"
FOLDER = Path(lightning_interactions.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))

ROOMS = ("records", "functional", "game", "evidence", "tracking", "metrics", "reporting", "callbacks", "cli")
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
LIGHTNING_ROOMS = {"callbacks", "cli"}

MAX_LINES = 310

ROOT_NAMES = [
    "FeatureGroups",
    "History",
    "ImagePatches",
    "InteractionMonitor",
    "InteractionStrength",
    "Interactions",
    "ParameterNoise",
    "PhaseEarlyStopping",
    "ReferenceModels",
    "baselines",
    "evidence",
    "fit_reference_models",
    "functional",
    "players",
    "scores",
]

NAMESPACES = {
    "players": ["FeatureGroups", "ImagePatches", "Players", "default_players"],
    "baselines": ["Baseline", "Constant", "TrainingMean", "Zeros"],
    "evidence": [
        "Evidence",
        "InputAgreement",
        "InteractionsOf",
        "Judge",
        "OrderShape",
        "ParameterNoise",
        "ReferenceModels",
        "fingerprints",
    ],
    "scores": ["CrossEntropy", "Loss", "Score", "SquaredError", "default_loss", "log_odds", "prediction"],
}


def imported_modules(tree: ast.AST, package: str) -> list[str]:
    """List every module that is imported anywhere in a tree, by its full name; names that are imported are appended.

    ``from a import b`` gives ``a.b``, whatever ``b`` is, so that it names a submodule as well as what is in one.
    """
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            modules += [f"{module}.{alias.name}" for alias in node.names]
    return modules


def own_rooms(tree: ast.AST, package: str) -> set[str]:
    """The second part of every import of the package's own modules."""
    parts = [module.split(".") for module in imported_modules(tree, package)]
    return {part[1] if len(part) > 1 else "" for part in parts if part[0] == PACKAGE}


def late_imports(tree: ast.AST, package: str) -> set[str]:
    """Rooms that are imported inside functions."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return set().union(*(own_rooms(function, package) for function in functions))


def room_of(file: Path) -> str:
    """The room that a file lies in; empty for the root."""
    first = file.relative_to(FOLDER).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def package_of(file: Path) -> str:
    return ".".join((PACKAGE, *file.relative_to(FOLDER).parent.parts))


def room_files() -> list[Path]:
    return [file for file in FILES if room_of(file)]


def as_test_id(file: Path) -> str:
    return str(file.relative_to(FOLDER))


def public_namespace(name: str) -> ModuleType:
    module = getattr(lightning_interactions, name)
    assert isinstance(module, ModuleType)
    return module


def ruff_order(names: list[str]) -> list[str]:
    """Sort as ruff's RUF022 does: constants, then classes, then the rest."""
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))


# Rooms


def test_imports_are_found_in_every_form() -> None:
    source = """
import os.path
import lightning_interactions.game.scores as scores
from lightning_interactions import evidence
from lightning_interactions.records import History
from ..functional import phases
from .measurement import summarise
def late():
    from lightning_interactions.metrics import InteractionStrength
    import torch
"""
    tree = ast.parse(source)
    package = f"{PACKAGE}.tracking"
    assert own_rooms(tree, package) == {"game", "evidence", "records", "functional", "tracking", "metrics"}
    assert late_imports(tree, package) == {"metrics"}
    assert "os.path" in imported_modules(tree, package)


def test_every_file_lies_in_a_known_room() -> None:
    rooms = {room_of(file) for file in room_files()}
    assert rooms <= set(ROOMS)
    assert rooms >= set(ROOMS) - {"cli"}


@pytest.mark.parametrize("file", room_files(), ids=as_test_id)
def test_a_room_imports_only_itself_and_rooms_to_its_left(file: Path) -> None:
    allowed = set(ROOMS[: ROOMS.index(room_of(file)) + 1])
    assert own_rooms(ast.parse(file.read_text()), package_of(file)) <= allowed


@pytest.mark.parametrize("file", room_files(), ids=as_test_id)
def test_only_callbacks_and_cli_import_lightning(file: Path) -> None:
    roots = {module.split(".")[0] for module in imported_modules(ast.parse(file.read_text()), package_of(file))}
    assert room_of(file) in LIGHTNING_ROOMS or not roots & LIGHTNING


def test_the_callbacks_do_import_lightning() -> None:
    modules = {
        module.split(".")[0]
        for file in room_files()
        if room_of(file) == "callbacks"
        for module in imported_modules(ast.parse(file.read_text()), package_of(file))
    }
    assert "lightning" in modules


@pytest.mark.parametrize("file", FILES, ids=as_test_id)
def test_own_modules_are_imported_at_the_top(file: Path) -> None:
    assert late_imports(ast.parse(file.read_text()), package_of(file)) == set()


@pytest.mark.parametrize("file", FILES, ids=as_test_id)
def test_a_module_stays_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MAX_LINES


# Names


def test_root_names_are_exactly_the_expected_ones() -> None:
    assert lightning_interactions.__all__ == ROOT_NAMES
    assert len(lightning_interactions.__all__) <= 15
    assert ruff_order(ROOT_NAMES) == ROOT_NAMES


def test_root_names_can_be_imported_and_nothing_else_is_public() -> None:
    others = []
    for name in dir(lightning_interactions):
        value = getattr(lightning_interactions, name)
        submodule = isinstance(value, ModuleType) and value.__name__ == f"{PACKAGE}.{name}" and name in ROOMS
        if not name.startswith("_") and name not in ROOT_NAMES and not submodule:
            others.append(name)
    assert others == []
    # A star import fails where a name of __all__ does not exist.
    names: dict[str, object] = {}
    exec(f"from {PACKAGE} import *", names)
    assert set(ROOT_NAMES) <= set(names)


@pytest.mark.parametrize("name", sorted(NAMESPACES))
def test_public_namespaces_hold_exactly_the_expected_names(name: str) -> None:
    assert list(public_namespace(name).__all__) == NAMESPACES[name]


@pytest.mark.parametrize("name", ["baselines", "evidence", "functional", "players", "scores"])
def test_names_of_public_namespaces_are_sorted_and_exist(name: str) -> None:
    namespace = public_namespace(name)
    names = list(namespace.__all__)
    assert names
    assert names == ruff_order(names)
    assert len(names) == len(set(names))
    assert [missing for missing in names if not hasattr(namespace, missing)] == []


def test_every_function_of_the_core_is_reached_through_functional() -> None:
    for name in lightning_interactions.functional.__all__:
        value = getattr(lightning_interactions.functional, name)
        assert value.__module__.startswith(f"{PACKAGE}.functional.")
        assert name in importlib.import_module(value.__module__).__all__


def test_the_core_is_importable_without_lightning() -> None:
    # The root imports the callbacks, so it is replaced by an empty package on the same path.
    script = (
        "import sys, types\n"
        "for name in ('lightning', 'pytorch_lightning'): sys.modules[name] = None\n"
        f"root = types.ModuleType('{PACKAGE}'); root.__path__ = [{str(FOLDER)!r}]; sys.modules['{PACKAGE}'] = root\n"
        f"import {PACKAGE}.functional, {PACKAGE}.game.evaluation, {PACKAGE}.evidence, {PACKAGE}.tracking.measurement\n"
        f"import {PACKAGE}.tracking.probes, {PACKAGE}.tracking.schedule, {PACKAGE}.reporting\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_type_information_is_shipped() -> None:
    assert (FOLDER / "py.typed").is_file()
