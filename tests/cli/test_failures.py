"""A replay of a module, of data or of a config that fails: one error that says what and where."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_interactions import FeatureGroups
from lightning_interactions.cli import main
from lightning_interactions.cli.errors import BadRunError, FailedError
from lightning_interactions.cli.failures import in_words
from tests.helpers.models import TabularClassifier, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer

pytestmark = [*TINY_SET_UP, pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")]

CODE = '''"""What a user has written."""

import lightning as L

from tests.helpers.models import TabularClassifier, tabular_loader


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return tabular_loader(24)


class Missing(Data):
    def setup(self, stage):
        self.rows = open("nowhere.csv")


class Unbuilt(TabularClassifier):
    def __init__(self, width: int = 8):
        super().__init__()
        raise ValueError(f"no width of {width}")


class Stepless(TabularClassifier):
    def training_step(self, batch, batch_index):
        return undefined


class Wide(TabularClassifier):
    def __init__(self):
        super().__init__(num_classes=5)
'''


def config(**changed: Any) -> dict[str, Any]:
    switches = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    evidence = {"class_path": "lightning_interactions.Twins", "init_args": {"training": {"max_epochs": 1, "patience": None}}}
    monitor = {"evidence": evidence, "probes": {"training": 2, "held_out": 0}}
    callbacks = [{"class_path": "lightning_interactions.InteractionMonitor", "init_args": monitor}]
    return {
        "seed_everything": 3,
        "model": "tests.helpers.models.TabularClassifier",
        "data": "of_a_user.Data",
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1, "accelerator": "cpu", "callbacks": callbacks, **switches},
        **changed,
    }


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of one epoch."""
    root = tmp_path_factory.mktemp("run")
    trainer = quiet_trainer(root, max_epochs=1)
    trainer.fit(TabularClassifier(), tabular_loader(24))
    trainer.save_checkpoint(root / "last.ckpt")
    return root / "last.ckpt"


@pytest.fixture(autouse=True)
def of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what a user has written; a replay adds it to the path of modules."""
    (tmp_path / "of_a_user.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "of_a_user", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Of Lightning's own use.


def line_of(code: str) -> int:
    return next(number for number, line in enumerate(CODE.splitlines(), start=1) if code in line)


def replayed(checkpoint: Path, *options: str, **changed: Any) -> int:
    Path("run.yaml").write_text(yaml.safe_dump(config(**changed)), encoding="utf-8")
    return main(["replay", str(checkpoint), "--config", "run.yaml", *options])


@pytest.mark.parametrize(
    ("changed", "kind", "code"),
    [
        ({"model": "of_a_user.Stepless"}, "NameError", "return undefined"),
        ({"model": "of_a_user.Unbuilt"}, "ValueError", "raise ValueError"),
        ({"data": "of_a_user.Missing"}, "FileNotFoundError", "open("),
    ],
    ids=["step", "model", "data"],
)
def test_what_the_users_own_code_raises_is_said_with_its_place(
    changed: dict[str, Any], kind: str, code: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replayed(checkpoint, **changed) == 1
    said = capsys.readouterr().err
    assert f"lightning-interactions replay: {kind}: " in said
    assert f"{tmp_path / 'of_a_user.py'}:{line_of(code)}, in " in said
    assert "Traceback" not in said
    assert not Path("replayed.ckpt").exists()


def test_the_traceback_is_printed_where_it_is_asked_for(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(checkpoint, "--traceback", data="of_a_user.Missing") == 1
    calls, _, said = capsys.readouterr().err.partition("lightning-interactions replay: ")
    assert "Traceback (most recent call last)" in calls
    assert said.startswith("FileNotFoundError")


@pytest.mark.parametrize(
    ("options", "changed", "named"),
    [
        ([], {"model": "of_a_user.Nothing"}, "of_a_user.Nothing"),
        ([], {"model": "no_such_module.Model"}, "no_such_module"),
        (["--trainer.nothing=3"], {}, "--trainer.nothing"),
        (["--trainer.max_epochs=many"], {}, "trainer.max_epochs"),
        (["--config=nothing.yaml"], {}, "nothing.yaml"),
        ([], {"model": "of_a_user.Wide"}, "(5, 8) in the module, (3, 8) in the checkpoint"),
        (["--trainer.max_epochs=0"], {}, "expected measurements"),
    ],
    ids=["class", "module", "option", "value", "file", "other model", "no epochs"],
)
def test_a_config_that_is_wrong_is_bad_input(
    options: list[str], changed: dict[str, Any], named: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replayed(checkpoint, *options, **changed) == 2
    said = capsys.readouterr().err
    assert "lightning-interactions replay: " in said
    assert named in said
    assert "usage:" not in said
    assert "Traceback" not in said


def test_code_without_a_file_is_no_place() -> None:
    with pytest.raises(FailedError) as failed, in_words():
        exec(compile("json.loads('{')", "<what nobody has written>", "exec"), {"json": json})
    assert f"at {__file__}:" in str(failed.value)


@pytest.mark.parametrize("error", [MisconfigurationException("expected a"), BadRunError("expected b")])
def test_what_is_refused_stays_in_its_own_words(error: Exception) -> None:
    with pytest.raises(BadRunError) as refused, in_words():
        raise error
    assert str(refused.value) == str(error)


def test_what_this_package_refuses_is_bad_input() -> None:
    with pytest.raises(BadRunError, match="players"), in_words():
        FeatureGroups([])
