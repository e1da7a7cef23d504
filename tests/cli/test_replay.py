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


SCRIPT = """
import lightning as L
import modules
from lightning.pytorch.cli import LightningCLI

class Net(modules.CancerClassifier):
    pass

class Data(modules.CancerData):
    pass

if __name__ == "__main__":
    LightningCLI({classes}, auto_configure_optimizers={optimizes})
"""


@pytest.mark.parametrize("by_name", [False, True], ids=["handed over", "in the config"])
def test_what_lightning_saved_of_a_script_is_enough(by_name: bool, tmp_path: Path) -> None:
    """The script hands its classes to LightningCLI, or its config names them, as ``__main__.Net`` when it is saved."""
    made = config(tmp_path)
    made["trainer"]["logger"] = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "."}}
    monitor, saver = made["trainer"]["callbacks"]
    stopping = {"class_path": "lightning_interactions.PhaseEarlyStopping", "init_args": {"phase": 2, "log_only": True}}
    saver["init_args"] = {"save_top_k": -1, "save_last": True}
    made["trainer"]["callbacks"] = [monitor, stopping, saver]
    for key, name in (("model", "Net"), ("data", "Data")):
        made[key] = {"class_path": f"__main__.{name}"} if by_name else {}
    made["model"] |= {"init_args": {"width": 9}} if by_name else {"width": 9}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    classes = "" if by_name else "Net, Data"
    script = SCRIPT.format(classes=classes, optimizes=by_name).replace("(, ", "(")
    (tmp_path / "script.py").write_text(script, encoding="utf-8")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    live = run("script.py", "fit", "--config", "run.yaml")
    assert live.returncode == 0, live.stderr
    (tmp_path / "run.yaml").unlink()
    folder = tmp_path / "lightning_logs" / "version_0"
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert "ckpt_path" in saved
    assert ("class_path" in saved["model"]) == by_name
    given = ["--model=script.Net"] if by_name else ["--model", "script.Net", "--data", "script.Data"]
    again = run(
        "-m", "lightning_interactions.cli", "replay", "lightning_logs/version_0/checkpoints", *given, "--output", "again.ckpt"
    )
    assert again.returncode == 0, again.stderr
    history = read_run(tmp_path / "again.ckpt").history
    assert history.epochs == [0, 1, 2]
    assert_same_history(history, read_run(folder).history, 1e-6)
    assert "last.ckpt" in again.stderr
    assert "config.yaml" in again.stderr
