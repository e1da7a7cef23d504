"""The command as an installation puts it beside Python, in a process of its own."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import lightning_interactions
from tests.cli.files import written
from tests.helpers.run_records import some_history

SCRIPT = Path(sysconfig.get_path("scripts")) / (
    "lightning-interactions.exe" if sys.platform == "win32" else "lightning-interactions"
)


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with the package that the other tests import."""
    home = str(Path(lightning_interactions.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": home, "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(SCRIPT), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [(["--help"], 0, "usage: lightning-interactions"), (["replay", "--help"], 0, "--traceback"), (["unknown"], 2, "")],
    ids=["help", "help of a command", "unknown"],
)
def test_the_installed_command_helps(arguments: list[str], code: int, out: str, tmp_path: Path) -> None:
    done = ran(tmp_path, *arguments)
    assert done.returncode == code
    assert out in done.stdout
    assert ("usage: lightning-interactions" in done.stderr) is (code == 2)


def test_help_loads_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('it takes seconds')", encoding="utf-8")
    home = str(Path(lightning_interactions.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), home])}
    done = subprocess.run([str(SCRIPT), "--help"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_installed_command_ends_with_the_code_of_what_it_finds(tmp_path: Path) -> None:
    written(tmp_path / "run.ckpt", None)
    some_history((1, 2)).save(tmp_path / "healthy.pt")
    done = ran(tmp_path, "phases", "run.ckpt", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["phase"] == 3
    assert ran(tmp_path, "phases", "healthy.pt").returncode == 0
    done = ran(tmp_path, "phases", "nothing.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not exist" in done.stderr
