"""What loggers get besides scalars: real ones of Lightning, and what they write."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn

from lightning_interactions import ImagePatches, InteractionMonitor
from lightning_interactions.callbacks import canvases, loggers
from lightning_interactions.reporting import phase_layout
from lightning_interactions.schedules import EveryNEpochs
from tests.callbacks.runs import TINY_SET_UP, RecordingLogger, few, quiet_trainer, script_phases
from tests.helpers.models import ImageClassifier, TabularClassifier, image_data, tabular_loader

pytestmark = TINY_SET_UP

LAYOUT = "custom_scalars__config__"
FIGURES = {"interactions/phases", *(f"interactions-figures/{name}" for name in ("strength_by_order", "order_and_time"))}


class Bare(L.LightningModule):
    """Has no hyperparameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def training_step(self, batch: Any, _batch_index: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_index: int) -> Tensor:
        return self.training_step(batch, batch_index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root: Path, *callbacks: L.Callback, model: L.LightningModule | None = None, **options: Any) -> L.Trainer:
    trainer = quiet_trainer(root, callbacks=list(callbacks), **options)
    trainer.fit(TabularClassifier() if model is None else model, tabular_loader(24), tabular_loader(12, seed=1))
    return trainer


def written(logger: TensorBoardLogger) -> EventAccumulator:
    logger.experiment.flush()
    found = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    return found


def texts(found: EventAccumulator, tag: str) -> dict[int, str]:
    return {event.step: event.tensor_proto.string_val[0].decode() for event in found.Tensors(f"{tag}/text_summary")}


def hyperparameters(found: EventAccumulator) -> dict[str, Any]:
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    return dict(HParamsPluginData.FromString(content).session_start_info.hparams)


# TensorBoard


def test_tensorboard_gets_a_layout_a_text_for_each_measurement_and_the_settings_once(tmp_path: Path) -> None:
    logger, monitor = TensorBoardLogger(tmp_path), few()
    fit(tmp_path, monitor, logger=logger)
    found = written(logger)
    (layout,) = found.Tensors(LAYOUT)
    assert Layout.FromString(layout.tensor_proto.string_val[0]) == phase_layout({None: monitor.history})
    steps = [event.step for event in found.Scalars("interactions/phase")]
    for tag, value in (("interactions-layout/one", 1), ("interactions-layout/three", 3)):
        assert [(event.step, event.value) for event in found.Scalars(tag)] == [(step, value) for step in steps]
    phases = texts(found, "interactions/phase")
    assert list(phases) == [0, 2, 5]
    assert "epoch 2" in phases[5]
    assert list(texts(found, "interactions/settings")) == [0]
    assert sum(file.startswith("events") for file in os.listdir(logger.log_dir)) == 1
    assert os.listdir(Path(logger.log_dir).parent) == ["version_0"]


@pytest.mark.slow
def test_several_monitors_have_one_layout_and_users_may_have_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(loggers, "rank_zero_info", said.append)
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, first := few(name="a"), second := few(name="b"), logger=logger, max_epochs=1)
    # TensorBoard reads the last one.
    *_, layout = written(logger).Tensors(LAYOUT)
    expected = phase_layout({"a": first.history, "b": second.history})
    assert Layout.FromString(layout.tensor_proto.string_val[0]) == expected
    (command,) = [line for line in said if "tensorboard" in line]
    assert str(logger.root_dir) in command
    said.clear()
    other = TensorBoardLogger(tmp_path / "other")
    other.experiment.add_custom_scalars({"mine": {"chart": ["Multiline", ["loss"]]}})
    fit(tmp_path, few(layout=False), logger=other, max_epochs=1)
    assert not [line for line in said if "tensorboard" in line]
    assert not [tag for tag in written(other).Tags()["scalars"] if "layout" in tag]
    (layout,) = written(other).Tensors(LAYOUT)
    assert [category.title for category in Layout.FromString(layout.tensor_proto.string_val[0]).category] == ["mine"]


def test_settings_are_hyperparameters_of_a_run_that_has_no_others(tmp_path: Path) -> None:
    logger, monitor = TensorBoardLogger(tmp_path), few()
    fit(tmp_path, monitor, model=Bare(), logger=logger, max_epochs=1)
    found = hyperparameters(written(logger))
    assert set(found) == set(monitor.history.settings)
    assert found["players"].string_value == monitor.history.settings["players"]
    assert found["threshold"].number_value == monitor.history.settings["threshold"]


@pytest.mark.slow
def test_hyperparameters_of_the_users_are_left_alone(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(), logger=logger, max_epochs=1)
    assert set(hyperparameters(written(logger))) == set(TabularClassifier().hparams)
    late = TensorBoardLogger(tmp_path / "late")
    fit(tmp_path, few(hparams=False), model=Bare(), logger=late, max_epochs=1)
    late.log_hyperparams({"mine": 1}, {"final": 0.5})
    assert set(hyperparameters(written(late))) == {"mine"}


@pytest.mark.slow
def test_inputs_are_drawn_at_the_detection_of_phase_3_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3, 3, 3])
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(figures=EveryNEpochs(100)), logger=logger, max_epochs=4)
    found = written(logger)
    examples = [tag for tag in found.Tags()["images"] if "on_input" in tag]
    assert examples == [f"interactions-figures/on_input_{place}" for place in (1, 2, 3, 4)]
    for tag in examples:
        assert [image.step for image in found.Images(tag)] == [5, 11]
    assert set(found.Tags()["images"]) >= FIGURES


@pytest.mark.slow
def test_without_figures_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3, 3])
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, few(figures=None), logger=logger)
    assert written(logger).Tags()["images"] == []


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_layout(tmp_path: Path) -> None:
    logger, monitor, model = TensorBoardLogger(tmp_path), few(), TabularClassifier()
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], logger=logger, max_epochs=1)
    trainer.fit(model, tabular_loader(24), tabular_loader(12, seed=1))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, tabular_loader(24), tabular_loader(12, seed=1))
    layouts = {event.tensor_proto.string_val[0] for event in written(logger).Tensors(LAYOUT)}
    assert layouts == {phase_layout({None: monitor.history}).SerializeToString()}


@pytest.mark.slow
def test_a_log_of_100_epochs_is_small(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    monitor = few(players=ImagePatches(3, 3), figures=InteractionMonitor()._loggers.logging.figures)
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], logger=logger, max_epochs=100)
    loaders = [torch.utils.data.DataLoader(image_data(16, seed=seed), batch_size=8) for seed in (0, 1)]
    trainer.fit(ImageClassifier(), *loaders)
    logger.experiment.flush()
    size = sum(file.stat().st_size for file in Path(logger.log_dir).rglob("*") if file.is_file())
    assert len(monitor.history) > 30
    assert len(written(logger).Images("interactions/phases")) > 5
    assert size < 10e6


# Other loggers


def test_known_loggers_of_both_packages_take_figures() -> None:
    canvases.teach_known_loggers()
    for package in (L.loggers, pytorch_lightning.loggers):
        for name, expected in (
            ("TensorBoardLogger", True),
            ("WandbLogger", True),
            ("MLFlowLogger", True),
            ("CSVLogger", False),
        ):
            kind = getattr(package, name)
            assert canvases.takes(canvases.draw_figure, kind.__new__(kind)) is expected


@pytest.mark.slow
def test_nothing_is_drawn_for_loggers_that_take_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_args: Any) -> Figure:
        raise AssertionError("nobody looks at it")

    for name in ("timeline_figure", "strength_figure", "heat_map_figure", "shape_figure", "input_figure", "theory_figure"):
        monkeypatch.setattr(f"lightning_interactions.callbacks.loggers.{name}", drawn)
    monitor = few(figures=EveryNEpochs())
    fit(tmp_path, monitor, logger=[RecordingLogger(), CSVLogger(tmp_path)])
    assert len(monitor.history) == 3


class Drawing(RecordingLogger):
    """A logger that was taught to take figures."""


@pytest.mark.slow
def test_a_logger_can_be_taught_to_take_figures(tmp_path: Path) -> None:
    got: list[tuple[str, int]] = []

    def draw(_logger: Drawing, tag: str, figure: Figure, step: int) -> None:
        assert isinstance(figure, Figure)
        got.append((tag, step))

    canvases.draw_figure.register(Drawing, draw)
    fit(tmp_path, few(figures=EveryNEpochs()), logger=Drawing())
    assert {tag for tag, step in got if step == 2} == {*FIGURES, "interactions-figures/decay_and_spindle"}
    assert {"interactions-figures/on_input_1"} <= {tag for tag, step in got if step == 5}


@pytest.mark.slow
def test_no_key_is_step_and_every_tag_is_in_a_group(tmp_path: Path) -> None:
    logger = RecordingLogger()
    fit(tmp_path, few(), few(name="other"), logger=logger, max_epochs=1)
    tags = {tag for _, metrics in logger.calls for tag in metrics}
    assert "step" not in tags
    groups = {tag.partition("/")[0] for tag in tags - {"epoch"}}
    names = ("interactions", "interactions-by-order", "interactions-heldout", "interactions-diagnostics")
    assert groups == {*names, *(f"other-{name}" for name in names)}


class Blocking(L.Callback):
    """Puts a file into the place of a folder while other callbacks act at an epoch's end."""

    def __init__(self, folder: Callable[[], str], epoch: int) -> None:
        self.folder = folder
        self.epoch = epoch

    def block(self, trainer: L.Trainer) -> None:
        folder = Path(self.folder())
        if trainer.current_epoch == self.epoch:
            folder.rename(folder.with_name("moved"))
            folder.write_text("in the way")

    def free(self, trainer: L.Trainer) -> None:
        folder = Path(self.folder())
        if trainer.current_epoch == self.epoch:
            folder.unlink()
            folder.with_name("moved").rename(folder)


class Before(Blocking):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.block(trainer)


class After(Blocking):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.free(trainer)


def test_a_log_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    logger, monitor = CSVLogger(tmp_path), few()
    before, after = (kind(lambda: logger.log_dir, 0) for kind in (Before, After))
    with pytest.warns(UserWarning, match="write_scalars to CSVLogger failed and is left out"):
        fit(tmp_path, before, monitor, after, logger=logger)
    assert monitor.history.epochs == [0, 1, 2]
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        shares = [row for row in csv.DictReader(file) if row["interactions/share"]]
    assert [row["step"] for row in shares] == ["0", "2", "5"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_gets_scalars_figures_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    logger, monitor = MLFlowLogger("run", tracking_uri=f"file:{tmp_path / 'store'}"), few(figures=EveryNEpochs())
    fit(tmp_path, monitor, logger=logger)
    client, run = logger.experiment, logger.run_id
    history = client.get_metric_history(run, "interactions/share")
    assert [metric.step for metric in history] == [0, 2, 5]
    for group in ("interactions-by-order/generalizable_01", "interactions-diagnostics/seconds", "interactions-heldout/loss"):
        assert [metric.step for metric in client.get_metric_history(run, group)] == [0, 2, 5]
    artifacts = {str(path.relative_to(tmp_path)).partition("artifacts/")[2] for path in (tmp_path / "store").rglob("*.*")}
    assert {f"{tag}/step_00000002.png" for tag in FIGURES} <= artifacts
    assert "interactions-figures/on_input_1/step_00000005.png" in artifacts
    assert "interactions/phase/step_00000005.md" in artifacts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_gets_scalars_figures_and_texts_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("DO_NOT_TRACK", "true")):
        monkeypatch.setenv(name, value)
    logger, monitor = WandbLogger(save_dir=tmp_path, offline=True, project="run"), few(figures=EveryNEpochs())
    fit(tmp_path, monitor, logger=logger)
    summary = dict(logger.experiment.summary)
    share = monitor.history.measurements[-1].training
    assert summary["interactions/share"] == pytest.approx(
        float(share.generalizable.sum() / (share.generalizable + share.non_generalizable).sum())
    )
    assert "step" not in summary
    logger.experiment.finish()
    pictures = {str(path.relative_to(tmp_path)).partition("images/")[2].rpartition("_")[0] for path in tmp_path.rglob("*.png")}
    drawn = {name.rpartition("_")[0] for name in pictures}
    assert {*FIGURES, "interactions-figures/on_input_1"} <= drawn
    pages = {str(path.relative_to(tmp_path)).partition("html/")[2]: path for path in tmp_path.rglob("*.html")}
    assert [name.rsplit("_", 2)[0] for name in sorted(pages)] == [
        *["interactions/phase_text"] * 3,
        "interactions/settings_text",
    ]
    assert {path.read_text(encoding="utf-8").count("<table>") for path in pages.values()} == {1}
    assert summary["interactions/phase"] == monitor.history.phases[-1].number


def test_the_monitor_plots_its_history(tmp_path: Path) -> None:
    monitor = few()
    with pytest.raises(ValueError, match="at least one measurement"):
        monitor.plot()
    fit(tmp_path, monitor, max_epochs=1)
    axes = Figure().add_subplot()
    figure, drawn = monitor.plot("share", axes)
    assert drawn is axes
    assert figure is axes.figure
    assert axes.get_lines()
