"""The files of ``configs/`` run as they are, through Lightning's own command line."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import cli
import hydra
import hydra_cli
import pytest
import yaml
from modules import CancerClassifier, CancerData, DigitsClassifier, DigitsData, FineTunedDigits
from texts import TweetData, TweetNetwork

from lightning_interactions import (
    Extraction,
    FeatureGroups,
    HeldOutReferences,
    ImagePatches,
    InteractionMonitor,
    PhaseEarlyStopping,
    Twins,
)
from lightning_interactions.baselines import TrainingMean, Zeros
from lightning_interactions.evidence import ParameterNoise
from lightning_interactions.players import Tokens
from lightning_interactions.references import HoldOutDataModule
from lightning_interactions.tasks import BinaryClassification, Classification, OwnStep
from tests.helpers.trainers import TINY_SET_UP

FOLDER = Path(__file__).parent.parent / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PRESETS = sorted(path.stem for path in (FOLDER / "presets").glob("*.yaml"))

pytestmark = TINY_SET_UP


@dataclass(frozen=True)
class Expected:
    """What a config sets: classes in the order of :func:`plugged_in`, numbers, and the measured ones of two epochs."""

    classes: tuple[type, ...]
    extraction: Extraction
    epochs: list[int]


EXPECTED = {
    "fine_tuning": Expected(
        (FineTunedDigits, DigitsData, ImagePatches, OwnStep, Twins, NoneType),
        Extraction(tolerance=1e-3),
        [0, 1, 2],
    ),
    "held_out": Expected(
        (DigitsClassifier, HoldOutDataModule, ImagePatches, Classification, HeldOutReferences, Zeros),
        Extraction(tolerance=1e-3),
        [0, 1, 2],
    ),
    "image": Expected(
        (DigitsClassifier, DigitsData, ImagePatches, Classification, Twins, Zeros),
        Extraction(tolerance=1e-3),
        [0, 1, 2],
    ),
    "table": Expected(
        (CancerClassifier, CancerData, FeatureGroups, BinaryClassification, ParameterNoise, TrainingMean),
        Extraction(tolerance=1e-3),
        [0, 2],
    ),
    "text": Expected(
        (TweetNetwork, TweetData, Tokens, OwnStep, Twins, NoneType),
        Extraction(tolerance=1e-3),
        [0, 1, 2],
    ),
}

EXPECTED_OF_PRESETS = {
    "economy": Expected((ParameterNoise,), Extraction(tolerance=1e-2, batch_size=256), [0, 1, 2]),
    "full": Expected((Twins, PhaseEarlyStopping), Extraction(tolerance=1e-4), [0, 1, 2]),
    "standard": Expected((Twins, PhaseEarlyStopping), Extraction(tolerance=1e-3), [0, 1, 2]),
}


@pytest.fixture(autouse=True)
def of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep arguments of pytest from the command line, and its seed from other tests."""
    monkeypatch.setattr("sys.argv", ["cli.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Of Lightning's own use.


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """The monitor's."""
    return config["trainer"]["callbacks"][0]["init_args"]


def run(name: str, folder: Path, preset: str | None = None) -> cli.LightningCLI:
    """Run a config on few probes, with reference models of one epoch; with a preset's callbacks if there is one."""
    config, callbacks = read(name), {} if preset is None else read(f"presets/{preset}")
    settings = settings_of(callbacks or config)
    settings["probes"] = {"training": 4, "held_out": 4}
    evidence = settings["evidence"]
    if "ParameterNoise" not in str(evidence):
        path = evidence if isinstance(evidence, str) else evidence["class_path"]
        own = {} if isinstance(evidence, str) else evidence["init_args"]
        settings["evidence"] = {"class_path": path, "init_args": {**own, "training": {"max_epochs": 1, "patience": None}}}
    switches = (f"{switch}=false" for switch in ("logger", "enable_progress_bar", "enable_model_summary"))
    wanted = ("max_epochs=2", "limit_train_batches=20", "accelerator=cpu", f"default_root_dir={folder}", *switches)
    configs = [part for one in (config, callbacks) if one for part in ("--config", yaml.safe_dump(one))]
    return cli.main(["fit", *configs, *(f"--trainer.{one}" for one in wanted)])


def printed(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", "--config", str(path), "--print_config"])
    assert end.value.code == 0
    return capsys.readouterr().out


def plugged_in(found: cli.LightningCLI, monitor: InteractionMonitor) -> tuple[Any, ...]:
    return (found.model, found.datamodule, monitor.players, monitor.task, monitor.evidence, monitor.baseline)


def test_each_config_is_expected_here() -> None:
    assert sorted(EXPECTED) == NAMES
    assert sorted(EXPECTED_OF_PRESETS) == PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_config_runs_with_what_it_names(name: str, tmp_path: Path) -> None:
    found, expected = run(name, tmp_path), EXPECTED[name]
    (monitor,) = (callback for callback in found.trainer.callbacks if isinstance(callback, InteractionMonitor))
    # A data module that holds data out may be of a subclass that both of Lightning's packages know.
    assert all(map(isinstance, plugged_in(found, monitor), expected.classes))
    assert (monitor.extraction, monitor.history.epochs) == (expected.extraction, expected.epochs)
    assert all(bool(measurement.training.measured.all()) for measurement in monitor.history.measurements)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_the_place_of_a_configs_callbacks(preset: str, tmp_path: Path) -> None:
    found, expected = run("image", tmp_path, preset), EXPECTED_OF_PRESETS[preset]
    ours = [one for one in found.trainer.callbacks if isinstance(one, (InteractionMonitor, PhaseEarlyStopping))]
    assert [type(one) for one in ours] == [InteractionMonitor, *expected.classes[1:]]
    assert isinstance(ours[0].evidence, expected.classes[0])
    assert (ours[0].extraction, ours[0].history.epochs) == (expected.extraction, expected.epochs)


def of_hydra(*overrides: str) -> Any:
    with hydra.initialize_config_dir(str(FOLDER / "hydra"), version_base=None):
        return hydra.compose("image", overrides=list(overrides))


def test_hydra_makes_the_monitor_of_the_image_config() -> None:
    monitor = hydra.utils.instantiate(of_hydra("trainer.callbacks.monitor.probes.training=16").trainer.callbacks.monitor)
    expected = EXPECTED["image"]
    assert isinstance(monitor.evidence, Twins)
    assert isinstance(monitor.players, ImagePatches)
    assert (monitor.extraction, monitor.probes.training) == (expected.extraction, 16)
    assert monitor.evidence.training.patience == 5


@pytest.mark.slow
def test_a_run_of_hydra_goes_through(tmp_path: Path) -> None:
    of_monitor = {"probes.training": 4, "probes.held_out": 4, "logging.verbose": "false"}
    of_training = {"max_epochs": 1, "patience": "null"}
    switches = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), "false")
    of_trainer = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": tmp_path, **switches}
    values = {
        **{f"trainer.callbacks.monitor.{name}": value for name, value in of_monitor.items()},
        **{f"trainer.callbacks.monitor.evidence.training.{name}": value for name, value in of_training.items()},
        **{f"trainer.{name}": value for name, value in of_trainer.items()},
    }
    trainer = hydra_cli.run(of_hydra(*(f"++{name}={value}" for name, value in values.items())))
    (monitor,) = (callback for callback in trainer.callbacks if isinstance(callback, InteractionMonitor))
    assert monitor.history.epochs == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_printed_config_has_all_settings_and_prints_itself(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = printed(FOLDER / f"{name}.yaml", capsys)
    assert left_out(read(name), yaml.safe_load(whole)) == []
    (tmp_path / "printed.yaml").write_text(whole, encoding="utf-8")
    assert printed(tmp_path / "printed.yaml", capsys) == whole


def left_out(settings: Any, among: Any, where: str = "") -> list[str]:
    """Name the settings that are not, or with another value, among others; a class path alone is one without arguments."""
    if isinstance(settings, dict) and isinstance(among, dict):
        return [name for key, one in settings.items() for name in left_out(one, among.get(key), f"{where}.{key}")]
    if isinstance(settings, list) and isinstance(among, list) and len(settings) == len(among):
        return [name for one, other in zip(settings, among, strict=True) for name in left_out(one, other, where)]
    if isinstance(settings, str) and isinstance(among, dict):
        return left_out(settings, among.get("class_path"), where)
    return [] if settings == among else [where]


def spoilt(change: dict[str, Any]) -> str:
    """Return the config of images with other settings of the monitor."""
    config = read("image")
    settings_of(config).update(change)
    return yaml.safe_dump(config)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"players": "lightning_interactions.ImagePatchez"}, "has no attribute 'ImagePatchez'"),
        ({"evidence": "lightning_interactions.ImagePatches"}, "does not correspond to a subclass of Evidence"),
        ({"task": "lightning_interactions.tasks.Task"}, "Expected an instantiatable class, but is abstract"),
        ({"schedule": 5}, "Not a valid subclass of Schedule"),
        ({"extraction": {"tolerance": "small"}}, 'Parser key "tolerance"'),
        ({"extraction": {"toleranc": 1e-3}}, "Option 'toleranc' is not accepted"),
        ({"on_error": "ignore"}, 'Parser key "on_error"'),
    ],
)
def test_a_setting_of_a_wrong_type_ends_the_command_and_is_named(
    change: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", "--config", spoilt(change)])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"extraction": {"tolerance": 2.0}}, "Extraction: expected tolerance in (0, 1)"),
        ({"probes": {"training": 0}}, "ProbeSampling: expected training of at least 1"),
        ({"players": {"class_path": "lightning_interactions.ImagePatches", "init_args": {"rows": 0, "cols": 3}}}, "got 0x3"),
    ],
)
def test_a_number_that_makes_no_sense_is_an_error_in_our_words(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        cli.main(["fit", "--config", spoilt(change)])
