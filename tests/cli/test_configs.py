"""What LightningCLI has read or saved is read again."""

import sys
from pathlib import Path
from typing import Any

import modules
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import get_loader

from lightning_interactions.cli import main
from lightning_interactions.cli.configs import RunCLI, config_arguments, find_config
from lightning_interactions.cli.errors import BadRunError
from tests.helpers.trainers import TINY_SET_UP

pytestmark = [*TINY_SET_UP, pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")]

NONE: dict[str, str | None] = {"model": None, "data": None}
CANCER: dict[str, str | None] = {"model": "modules.CancerClassifier", "data": "modules.CancerData"}
OF_FIT = {"ckpt_path": "away.ckpt", "weights_only": None, "optimizer": None, "lr_scheduler": None}
OF_OTHERS = {"verbose": True, "return_predictions": None}


@pytest.fixture(autouse=True)
def of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Of Lightning's own use.


def made(folder: Path, content: dict[str, Any], classes: dict[str, str | None], *rest: str) -> RunCLI:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"seed_everything": 0, "trainer": {"logger": False, "accelerator": "cpu"}} | content))
    arguments = config_arguments([path], classes, rest)
    return RunCLI(args=arguments, run=False, save_config_callback=None, parser_kwargs={"exit_on_error": False})


def width(cli: RunCLI) -> int:
    assert type(cli.model) is modules.CancerClassifier
    found: int = cli.model.network[0].out_features
    return found


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ({"model": {"width": 5}, "data": {"batch_size": 7}} | OF_FIT, CANCER),
        ({"fit": {"model": {"width": 5}, "data": {"batch_size": 7}} | OF_FIT, "test": {"verbose": True}}, CANCER),
        (
            {"model": {"class_path": CANCER["model"], "init_args": {"width": 5}}, "data": {"class_path": CANCER["data"]}}
            | OF_FIT
            | OF_OTHERS,
            NONE,
        ),
        (
            {"model": {"class_path": "__main__.CancerClassifier", "init_args": {"width": 5}}, "data": {"batch_size": 7}},
            CANCER,
        ),
        ({"model": {"class_path": "modules.DigitsClassifier", "init_args": {"width": 5}}, "data": {"batch_size": 7}}, CANCER),
    ],
    ids=["arguments alone", "under fit", "class paths", "of the script", "another class"],
)
def test_configs_are_taken(content: dict[str, Any], classes: dict[str, str | None], tmp_path: Path) -> None:
    cli = made(tmp_path, content, classes)
    assert width(cli) == 5
    assert type(cli.datamodule) is modules.CancerData
    assert cli.trainer.accelerator.__class__.__name__ == "CPUAccelerator"


def test_options_count_more_than_the_file(tmp_path: Path) -> None:
    assert width(made(tmp_path, {"model": {"width": 5}}, CANCER, "--model.width=6")) == 6


def test_addresses_in_a_config_are_texts(tmp_path: Path) -> None:
    content = {
        "fit": {"trainer": {"default_root_dir": "https://localhost/ü/\U0001f600", "logger": False, "accelerator": "cpu"}}
    }
    assert made(tmp_path, content, CANCER).trainer.default_root_dir == "https://localhost/ü/\U0001f600"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab/:é '\"\\\n#-"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.dictionaries(st.sampled_from(["trainer", "model", "other"]), VALUES, min_size=1))
@pytest.mark.slow
def test_what_is_under_fit_is_handed_on_as_it_is(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fit.yaml"
    path.write_text(yaml.safe_dump({"fit": values}), encoding="utf-8")
    _, _, _, text, *_ = config_arguments([path], CANCER, [])
    assert "://" not in text
    load = get_loader("yaml")
    assert load(text) == load(path.read_text(encoding="utf-8"))["fit"]


@pytest.mark.parametrize(
    ("content", "classes", "named"),
    [
        ({"model": {"width": 5}, "data": {"batch_size": 7}}, NONE, ["--model=", "--data="]),
        ({"model": {"width": 5}, "data": {"batch_size": 7}}, NONE | {"data": CANCER["data"]}, ["--model="]),
        ({"model": {"width": 5}, "data": {"batch_size": 7}}, NONE | {"model": CANCER["model"]}, ["--data="]),
        ({"trainer": {}}, NONE, ["--model="]),
        ({"model": {"class_path": "__main__.Net"}}, NONE, ["--model=", "__main__.Net"]),
    ],
)
def test_a_class_that_is_missing_is_named(
    content: dict[str, Any], classes: dict[str, str | None], named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(BadRunError) as refusal:
        made(tmp_path, content, classes)
    assert all(one in str(refusal.value) for one in named)
    assert ("--data=" in str(refusal.value)) == ("--data=" in named)
    assert "\n" not in str(refusal.value)


class TestFinding:
    def run(self, root: Path, *parts: str) -> Path:
        folder = root.joinpath(*parts)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        return folder

    def test_beside_or_above(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = self.run(tmp_path, "version_0")
        saved = run / "checkpoints"
        assert find_config([run]) == find_config([saved]) == find_config([saved / "last.ckpt", run]) == run / "config.yaml"
        monkeypatch.chdir(saved)
        assert find_config(["."]) == find_config(["last.ckpt"]) == run / "config.yaml"

    def test_none(self, tmp_path: Path) -> None:
        saved = self.run(tmp_path, "version_0") / "checkpoints" / "deep"
        saved.mkdir()
        with pytest.raises(BadRunError, match="expected --config"):
            find_config([saved])

    def test_several(self, tmp_path: Path) -> None:
        runs = [self.run(tmp_path, name) for name in ("version_0", "version_1")]
        with pytest.raises(BadRunError, match="got several"):
            find_config(runs)


def test_a_script_that_runs_when_it_is_imported_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("unguarded_script.py").write_text("import sys\nsys.exit(3)\n")
    Path("config.yaml").write_text("model: {width: 5}\n")
    Path("run.ckpt").touch()
    assert main(["replay", "run.ckpt", "--model", "unguarded_script.Net"]) == 1
    assert "unguarded_script.py:2" in capsys.readouterr().err
