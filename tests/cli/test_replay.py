"""A finished run of LightningCLI, replayed by the command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
import yaml

from lightning_interactions.cli import main
from lightning_interactions.cli.runs import read_run
from lightning_interactions.records import History
from tests.callbacks.runs import assert_same_history
from tests.helpers.trainers import TINY_SET_UP

THIRDS = [list(range(first, first + 10)) for first in (0, 10, 20)]

ROOT = Path(__file__).parent.parent.parent

pytestmark = [*TINY_SET_UP, pytest.mark.slow]


def config(folder: Path) -> dict[str, Any]:
    """A table, measured after every epoch of two and saved as often."""
    monitor = {
        "players": {"class_path": "lightning_interactions.FeatureGroups", "init_args": {"groups": THIRDS}},
        "evidence": {
            "class_path": "lightning_interactions.Twins",
            "init_args": {"training": {"max_epochs": 1, "patience": None}},
        },
        "probes": {"training": 6, "held_out": 4},
        "schedule": {"class_path": "lightning_interactions.schedules.EveryNEpochs"},
    }
    saver = {"dirpath": str(folder / "saved"), "save_top_k": -1}
    switches = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return {
        "seed_everything": 3,
        "model": {"class_path": "modules.CancerClassifier"},
        "data": {"class_path": "modules.CancerData"},
        "trainer": {
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "default_root_dir": str(folder),
            **switches,
            "callbacks": [
                {"class_path": "lightning_interactions.InteractionMonitor", "init_args": monitor},
                {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver},
            ],
        },
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, History]:
    """The config of a run in a folder with its checkpoints, and what its monitor has seen."""
    monkeypatch.setattr("sys.argv", ["cli.py"])
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Of Lightning's own use.
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config(tmp_path)), encoding="utf-8")
    live = cli.main(["fit", "--config", str(path)])
    (monitor,) = (one for one in live.trainer.callbacks if type(one).__name__ == "InteractionMonitor")
    return path, monitor.history


def test_a_replay_is_the_run_that_was(run: tuple[Path, History], capsys: pytest.CaptureFixture[str]) -> None:
    path, seen = run
    output = path.parent / "again.ckpt"
    arguments = ["replay", str(path.parent / "saved"), "--config", str(path), "--output", str(output)]
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["measurements"]) for one in found["monitors"]] == [(None, 3)]
    again = read_run(output)
    assert_same_history(again.history, seen, 1e-6)
    assert again.weights is not None
    # The same run has the same state in its own checkpoints.
    live = read_run(path.parent / "saved")
    assert live.weights is not None
    assert torch.equal(live.weights, again.weights)
    assert main(["compare", str(output), str(path.parent / "saved")]) == 0
    assert "measured in different ways" not in capsys.readouterr().err


def test_a_replay_of_two_processes_is_what_two_processes_have_seen(tmp_path: Path) -> None:
    of_two = config(tmp_path)
    of_two["trainer"] |= {"devices": 2, "strategy": "ddp"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(of_two), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}", "OMP_NUM_THREADS": "1"}
    for command in (
        [str(ROOT / "examples" / "cli.py"), "fit"],
        ["-m", "lightning_interactions.cli", "replay", "saved", "--output", "again.ckpt"],
    ):
        done = subprocess.run(
            [sys.executable, *command, "--config", "run.yaml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    again, seen = read_run(tmp_path / "again.ckpt").history, read_run(tmp_path / "saved").history
    assert again.epochs == [0, 1, 2]
    assert_same_history(again, seen, 1e-6)


def test_a_model_that_is_configured_otherwise_is_refused(run: tuple[Path, History], capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = run
    output = path.parent / "again.ckpt"
    arguments = ["replay", str(path.parent / "saved"), "--config", str(path), "--output", str(output)]
    capsys.readouterr()
    assert main([*arguments, "--model.init_args.width=8"]) == 2
    assert "another model" in capsys.readouterr().err
    assert not output.exists()
