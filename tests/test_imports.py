"""The mathematics and the meter load without Lightning, and every public name is where its dotted path says."""

import importlib
import subprocess
import sys

import pytest

NAMESPACES = ("analysis", "baselines", "evidence", "functional", "players", "reporting", "schedules", "tasks")
HEAVY = ("lightning", "pytorch_lightning", "lightning_fabric", "matplotlib", "tensorboard")


@pytest.mark.slow
def test_rooms_without_lightning_load_neither_it_nor_anything_that_draws() -> None:
    names = [f"lightning_interactions.{room}" for room in ("records", "functional", "game", "evidence", "measuring")]
    names += [f"lightning_interactions.{namespace}" for namespace in ("players", "tasks", "baselines")]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, sorted({set(HEAVY)!r} & {{loaded.split('.')[0] for loaded in sys.modules}}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines() == [f"{name} []" for name in names]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_name_of_a_namespace_can_be_imported_by_its_path(namespace: str) -> None:
    module = importlib.import_module(f"lightning_interactions.{namespace}")
    assert module.__all__
    assert all(hasattr(module, name) for name in module.__all__)
    assert getattr(importlib.import_module("lightning_interactions"), namespace) is module


def test_every_name_of_the_root_can_be_imported() -> None:
    package = importlib.import_module("lightning_interactions")
    assert set(NAMESPACES) < set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = package.nothing_like_this
