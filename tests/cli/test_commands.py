"""The commands, as a shell runs them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_interactions.cli import main
from lightning_interactions.reporting import html
from tests.cli.files import written
from tests.helpers.run_records import some_history, some_run

COMMANDS = ("report", "phases", "compare", "export", "replay")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A checkpoint of a run that reached phase 3."""
    return written(tmp_path / "run.ckpt", None)


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """A history of a run that did not."""
    some_history((1, 2)).save(tmp_path / "healthy.pt")
    return tmp_path / "healthy.pt"


@pytest.fixture(autouse=True)
def of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure is as good as all of them here; a replay adds to the path of modules."""
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(html, "FIGURES", html.FIGURES[1:2])


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_report_writes_a_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert "page.html" in capsys.readouterr().out
    assert "Phase 3" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "page.html"), "--json"]) == 0
    assert printed(capsys) == {"report": str(tmp_path / "page.html")}


def test_phases_ends_with_a_code(run: Path, healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phases", str(run)]) == 3
    assert main(["phases", str(healthy)]) == 0
    text = capsys.readouterr().out
    assert [text.count(f"Phase {number}:") for number in (1, 2, 3)] == [2, 2, 1]
    assert main(["phases", str(run), "--json"]) == 3
    found = printed(capsys)
    assert (found["phase"], found["phase_3_detected"]) == (3, True)
    assert [one["phase"] for one in found["phases"]] == [1, 2, 3]
    assert found["phases"][2]["onset"] == {"epoch": 3, "step": 30}
    assert found["phases"][0]["confidence"] is None


def test_compare_prints_a_row_for_each_run(
    run: Path, healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(run), str(healthy), str(run), "--json", "--figure", str(tmp_path / "both.png")]) == 0
    rows = printed(capsys)["runs"]
    assert [row["run"] for row in rows] == ["run.ckpt (1)", "healthy.pt", "run.ckpt (2)"]
    assert [row["phase"] for row in rows] == [3, 2, 3]
    assert [row["phase_3_since"] for row in rows] == [3, None, 3]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", str(run), str(healthy)]) == 0
    out = capsys.readouterr()
    assert max(map(len, out.out.splitlines())) <= 120
    assert out.err == ""


def test_compare_says_where_runs_were_measured_differently(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some_history(threshold=0.5).save(tmp_path / "other.pt")
    assert main(["compare", str(run), str(tmp_path / "other.pt")]) == 0
    assert "threshold" in capsys.readouterr().err


def test_compare_names_settings_without_their_digests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, settings in (
        ("a", {"probes": "0" * 64}),
        ("b", {"probes": "1" * 64}),
        ("c", {"probes": "0" * 64, "threshold": 0.5}),
    ):
        some_history(**settings).save(tmp_path / f"{name}.pt")
    assert main(["compare", *(str(tmp_path / f"{name}.pt") for name in "abc")]) == 0
    other_inputs, other_way = capsys.readouterr().err.splitlines()
    assert "cannot be compared" not in other_inputs
    assert "threshold (None, 0.5)" in other_way
    assert all(len(line) < 200 and "0000" not in line and "1111" not in line for line in (other_inputs, other_way))


def test_compare_calls_runs_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for folder, files in (("logs/version_0", ("epoch=1.ckpt",)), ("logs/version_1", ("epoch=1.ckpt", "epoch=2.ckpt"))):
        checkpoints = tmp_path / folder / "checkpoints"
        checkpoints.mkdir(parents=True)
        paths += [written(checkpoints / file, None) for file in files]

    def names(*given: Path) -> list[str]:
        assert main(["compare", *map(str, given), "--json"]) == 0
        return [row["run"] for row in printed(capsys)["runs"]]

    assert names(paths[0], paths[1]) == ["version_0", "version_1"]
    assert names(paths[0].parent, paths[1].parent.parent, tmp_path) == ["version_0", "version_1", tmp_path.name]
    assert names(*paths[1:]) == ["epoch=1.ckpt", "epoch=2.ckpt"]


@pytest.mark.parametrize("name", ["run.npz", "run.parquet"])
def test_export_writes_tables(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert main(["export", str(run), "--output", str(tmp_path / name), "--json"]) == 0
    found = printed(capsys)
    assert found["rows"]["interactions"] == 12
    assert all(Path(path).is_file() for path in found["files"])
    if name.endswith("npz"):
        with np.load(tmp_path / name) as arrays:
            assert arrays["measurements/phase"].tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "nothing.ckpt"], "does not exist"),
        (["phases", "nothing.ckpt"], "does not exist"),
        (["phases", "run.ckpt", "--name", "other"], "named 'other', got one without a name"),
        (["report", "run.ckpt", "--output", "nowhere/page.html"], "nowhere"),
        (["report", "run.ckpt", "--output", "."], "directory"),
        (["export", "run.ckpt", "--output", "run.csv"], ".npz or .parquet"),
        (["export", "run.ckpt", "--output", "nowhere/run.npz"], "nowhere"),
        (["compare", "run.ckpt", "--figure", "both.docx"], "docx"),
        (["compare", "run.ckpt", "--figure", "nowhere/both.png"], "nowhere"),
        (["compare", *["run.ckpt"] * 9, "--figure", "both.png"], "got 9"),
        (["replay", "nothing.ckpt", "--config", "run.yaml"], "nothing.ckpt"),
        (["replay", "run.ckpt"], "expected --config"),
        (["replay", "run.ckpt", "--config", "run.yaml", "--output", "nowhere/replayed.ckpt"], "nowhere"),
    ],
)
def test_bad_input_is_an_error_in_words(
    arguments: list[str], said: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    assert main(arguments) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith(f"lightning-interactions {arguments[0]}: ")
    assert said in out.err


def test_replay_says_how_options_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    assert "--option=value" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["phases"], ["phases", "run.ckpt", "--jsn"], ["replay"]])
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: lightning-interactions" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"] if command else ["--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(name in "\n".join(lines) for name in (COMMANDS if not command else ("--json",)))


@pytest.mark.slow
def test_reading_a_run_needs_no_lightning(run: Path) -> None:
    code = (
        "import sys; from lightning_interactions.cli import main; code = main(sys.argv[1:]); "
        "assert not {'lightning', 'pytorch_lightning'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "phases", str(run)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_several_monitors_need_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = written(tmp_path / "both.ckpt", "a", "b", run=some_run())
    assert main(["phases", str(both)]) == 2
    assert "--name" in capsys.readouterr().err
    assert main(["phases", str(both), "--name", "b"]) == 3
