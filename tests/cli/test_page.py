"""Every command of docs/commands.md runs as it stands there."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import cli
import pytest
import yaml

from lightning_interactions.cli import main
from lightning_interactions.reporting import html
from tests.cli.files import written
from tests.cli.test_replay import config
from tests.helpers.run_records import some_history
from tests.helpers.trainers import TINY_SET_UP

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
LINES = re.findall(r"^lightning-interactions .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
REPLAYS = [line for line in LINES if "replay" in line]

pytestmark = TINY_SET_UP


def run(line: str) -> int:
    """Run a line up to what a shell would make of it."""
    return main(shlex.split(line.split("||")[0])[1:])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where the runs of the page are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(html, "FIGURES", html.FIGURES[1:2])
    for version in ("version_0", "version_1"):
        (tmp_path / "lightning_logs" / version / "checkpoints").mkdir(parents=True)
        written(tmp_path / "lightning_logs" / version / "checkpoints" / "last.ckpt", None)
    some_history((1, 2)).save("history.pt")
    return tmp_path


def test_the_page_has_every_command() -> None:
    assert {line.split()[1] for line in LINES} == {"report", "phases", "compare", "export", "replay"}


@pytest.mark.parametrize("line", [line for line in LINES if line not in REPLAYS])
def test_a_command_of_the_page_runs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert run(line) == (3 if "phases lightning_logs" in line else 0)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_replays_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cli.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Of Lightning's own use.
    Path("run.yaml").write_text(yaml.safe_dump(config(folder)), encoding="utf-8")
    cli.main(["fit", "--config", "run.yaml"])
    shutil.move("saved", "checkpoints")
    # Modules of the user's own, which only this folder has.
    source = "import modules\n\n\nclass WineNet(modules.CancerClassifier):\n    pass\n\n\nWineData = modules.CancerData\n"
    Path("net.py").write_text(source, encoding="utf-8")
    Path("run.yaml").write_text(yaml.safe_dump({**config(folder), "model": {"class_path": "net.WineNet"}}), encoding="utf-8")
    logged = folder / "lightning_logs" / "version_0"
    shutil.copy("run.yaml", logged / "config.yaml")
    shutil.rmtree(logged / "checkpoints")
    shutil.copytree("checkpoints", logged / "checkpoints")
    monkeypatch.setattr("sys.path", list(sys.path))
    for line in REPLAYS:
        assert run(line) == 0
    assert (folder / "replayed.ckpt").is_file()
