"""The mathematics and the meter load without Lightning, and every public name is where its dotted path says."""

import importlib
import subprocess
import sys

import pytest

NAMESPACES = ("analysis", "baselines", "evidence", "functional", "players", "reporting", "schedules", "tasks")
HEAVY = ("lightning", "pytorch_lightning", "lightning_fabric", "matplotlib", "tensorboard")


@pytest.mark.parametrize("room", ["records", "functional", "game", "evidence", "measuring"])
def test_rooms_without_lightning_load_neither_it_nor_anything_that_draws(room: str) -> None:
    namespaces = "players, tasks, baselines" if room == "game" else "records"
    code = (
        f"import sys, lightning_interactions.{room}\n"
        f"from lightning_interactions import {namespaces}\n"
        f"print(sorted({set(HEAVY)!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


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
