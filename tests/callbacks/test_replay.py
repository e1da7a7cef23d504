"""A replay of a run's checkpoints gives the history that live monitoring gives."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from lightning_interactions import HeldOutReferences, InteractionMonitor, PhaseEarlyStopping, ProbeSampling, Twins
from lightning_interactions.callbacks import replay
from lightning_interactions.callbacks.onset_checkpoint import OnsetKeeper
from lightning_interactions.callbacks.replay import find_checkpoints, save_monitors
from lightning_interactions.evidence import Evidence, ParameterNoise
from lightning_interactions.records import History, TimePoint
from lightning_interactions.references import HoldOutDataModule, ReferenceTraining
from lightning_interactions.schedules import EveryNEpochs, EveryNSteps, Schedule
from tests.callbacks.runs import TINY_SET_UP, assert_same_history, few, fewest, quiet_trainer
from tests.helpers.broken_files import broken
from tests.helpers.models import StreamedDataset, TabularClassifier, tabular_data, tabular_loader

pytestmark = [
    *TINY_SET_UP,
    # The second run finds the files of the first.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

TOLERANCE = 1e-6


class Watchful(TabularClassifier):
    """Scales its loss by where the run is, which a replay must know."""

    def loss(self, batch: Any) -> Tensor:
        return (1 + 0.1 * self.global_step + 0.5 * self.current_epoch) * super().loss(batch)

    def configure_callbacks(self) -> list[Callback]:
        return [EarlyStopping("never logged", strict=True)]


def seeded(kind: type[LightningModule] = TabularClassifier, **options: Any) -> LightningModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**options)


def loaders() -> tuple[Any, Any]:
    return tabular_loader(24), tabular_loader(12, seed=1)


def saver(folder: Path, **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}-{step}", **when)


def live(root: Path, monitor: InteractionMonitor, *callbacks: Callback, model: LightningModule | None = None) -> History:
    trainer = quiet_trainer(
        root, max_epochs=3, enable_checkpointing=True, callbacks=[monitor, *callbacks, saver(root / "epochs")]
    )
    trainer.fit(seeded() if model is None else model, *loaders())
    return monitor.history


def replayed(root: Path, monitor: InteractionMonitor, model: LightningModule | None = None, folder: str = "epochs") -> History:
    trainer = quiet_trainer(root, max_epochs=3, callbacks=[PhaseEarlyStopping(phase=3), monitor], min_epochs=2)
    own = seeded() if model is None else model
    assert replay(trainer, own, [root / folder], *loaders()) == [monitor]
    assert trainer.callbacks[0] is monitor
    return monitor.history


TRAINING = ReferenceTraining(max_epochs=2, patience=None)


@pytest.mark.parametrize(
    "evidence",
    [ParameterNoise(), pytest.param(Twins(TRAINING), marks=pytest.mark.slow)],
    ids=["parameter noise", "twins"],
)
@pytest.mark.slow
def test_a_replay_measures_what_a_monitor_has_seen(tmp_path: Path, evidence: Evidence) -> None:
    options = {"evidence": evidence, "schedule": EveryNEpochs()}
    seen = live(tmp_path, few(**options))
    if isinstance(evidence, Twins):
        options["evidence"] = Twins(TRAINING)  # Trained anew.
    again = replayed(tmp_path, few(**options))
    assert again.epochs == [0, 1, 2, 3]
    assert_same_history(again, seen, TOLERANCE)


@pytest.mark.slow
def test_models_of_held_out_data_are_fitted_alike(tmp_path: Path) -> None:
    def run(again: bool) -> History:
        monitor = few(evidence=HeldOutReferences(2, training=TRAINING), schedule=EveryNEpochs())
        callbacks = [monitor] if again else [monitor, saver(tmp_path / "epochs")]
        trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=callbacks, enable_checkpointing=not again)
        data = HoldOutDataModule(*loaders(), fraction=0.5)
        if again:
            replay(trainer, seeded(), [tmp_path / "epochs"], datamodule=data)
        else:
            trainer.fit(seeded(), datamodule=data)
        return monitor.history

    seen = run(False)
    assert_same_history(run(True), seen, TOLERANCE)


@pytest.mark.parametrize(
    ("schedule", "when"),
    [pytest.param(EveryNEpochs(), {"every_n_epochs": 1}, marks=pytest.mark.slow), (EveryNSteps(2), {"every_n_train_steps": 2})],
    ids=["epochs", "steps"],
)
@pytest.mark.slow
def test_a_step_that_looks_at_the_trainer_is_told_where_the_run_was(
    tmp_path: Path, schedule: Schedule, when: dict[str, int]
) -> None:
    seen, again = fewest(schedule=schedule), fewest(schedule=schedule)
    model = seeded(Watchful)
    model.configure_callbacks = list  # type: ignore[method-assign]
    trainer = quiet_trainer(
        tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[seen, saver(tmp_path / "epochs", **when)]
    )
    trainer.fit(model, *loaders())
    replayed(tmp_path, again, seeded(Watchful))
    assert again.history.steps == seen.history.steps
    assert_same_history(again.history, seen.history, TOLERANCE)


@pytest.mark.slow
def test_weights_that_were_trained_are_measured_and_not_their_averages(tmp_path: Path) -> None:
    seen = live(tmp_path, fewest(schedule=EveryNEpochs()), WeightAveraging(use_buffers=True))
    assert_same_history(replayed(tmp_path, fewest(schedule=EveryNEpochs())), seen, TOLERANCE)


@pytest.mark.slow
def test_a_checkpoint_of_step_0_stands_for_another_beginning(tmp_path: Path) -> None:
    class AtStart(Callback):
        def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "epochs" / "begin.ckpt")

    seen = live(tmp_path, fewest(schedule=EveryNEpochs()), AtStart())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = TabularClassifier()
    assert_same_history(replayed(tmp_path, fewest(schedule=EveryNEpochs()), other), seen, TOLERANCE)


@pytest.mark.slow
def test_checkpoints_after_validation_after_training_and_twice_are_the_same_moments(tmp_path: Path) -> None:
    monitor = fewest(schedule=EveryNEpochs(3))
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[monitor, ModelCheckpoint(tmp_path / "epochs", save_last=True)],
    )
    trainer.fit(seeded(), *loaders())
    trainer.save_checkpoint(tmp_path / "epochs" / "after.ckpt")
    again = replayed(tmp_path, fewest(schedule=EveryNEpochs(3)))
    assert [(time.epoch, time.step) for time in (one.time for one in again.measurements)] == [(0, 0), (3, trainer.global_step)]
    assert_same_history(again, monitor.history, TOLERANCE)


@pytest.mark.slow
def test_a_saved_replay_has_the_state_of_each_monitor(tmp_path: Path) -> None:
    live(tmp_path, fewest(schedule=EveryNEpochs()))
    monitor = fewest(schedule=EveryNEpochs(), name="one")
    replayed(tmp_path, monitor)
    save_monitors([monitor], tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["callbacks"][monitor.state_key]
    assert_same_history(History.from_dict(state["history"]), monitor.history, 0)
    assert monitor.replays is None


class Talkative(TabularClassifier):
    """Counts on a logger of its own when it begins."""

    def on_train_start(self) -> None:
        assert self.logger is not None
        self.logger.log_metrics({"begun": 1.0}, step=0)


def test_what_the_run_has_logged_stays_as_it_is(tmp_path: Path) -> None:
    def run(again: bool) -> None:
        logger = CSVLogger(tmp_path, version=0)
        callbacks = [fewest(schedule=EveryNEpochs())] if again else [saver(tmp_path / "epochs")]
        trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=not again, logger=logger)
        if again:
            replay(trainer, seeded(Talkative), [tmp_path / "epochs"], *loaders())
        else:
            trainer.fit(seeded(Talkative), *loaders())
        assert trainer.loggers == [logger]

    def logged() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "lightning_logs").rglob("*") if path.is_file()}

    run(again=False)
    before = logged()
    assert "metrics.csv" in [path.name for path in before]
    run(again=True)
    assert logged() == before


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run without a monitor."""
    root = tmp_path_factory.mktemp("written")
    for name, options in {"epochs": {}, "wide": {"num_classes": 5}, "slow": {"learning_rate": 0.01}}.items():
        trainer = quiet_trainer(root, max_epochs=1, enable_checkpointing=True, callbacks=[saver(root / name)])
        trainer.fit(seeded(**options), tabular_loader(24))
    return root


class Standing(TabularClassifier):
    """Takes down where the Trainer says that the run is."""

    def __init__(self) -> None:
        super().__init__()
        self.stands: list[tuple[int, int]] = []

    def on_train_start(self) -> None:
        self.stands.append((self.current_epoch, self.global_step))

    def on_train_end(self) -> None:
        self.stands.append((self.current_epoch, self.global_step))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("limit", [{"max_epochs": 1}, {"max_epochs": -1, "max_steps": 3}], ids=["epochs", "steps"])
def test_a_fit_that_has_trained_nothing_says_of_no_limit_that_it_was_reached(
    written: Path, tmp_path: Path, limit: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    model, monitor = seeded(Standing), fewest(held_out=0, schedule=EveryNEpochs())
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], **limit)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        replay(trainer, model, [written / "epochs"], tabular_loader(24))
    assert monitor.history.epochs == [0, 1]
    said = [record.getMessage() for record in caplog.records]
    assert any("InteractionMonitor: " in text for text in said)
    assert not any("reached" in text for text in said)
    assert model.stands == [(0, 0), (1, 3)]
    assert (trainer.current_epoch, trainer.global_step) == (1, 3)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
class TestFolders:
    @pytest.fixture
    def folder(self, written: Path, tmp_path: Path) -> Path:
        """A checkpoint of a run, and an onset file as ``PhaseEarlyStopping`` keeps it."""
        folder = tmp_path / "version_0" / "checkpoints"
        folder.mkdir(parents=True)
        (path,) = find_checkpoints([written / "epochs"])
        shutil.copy(path, folder / "epoch.ckpt")
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        trainer.fit(seeded(), tabular_loader(24))
        keeper = OnsetKeeper(folder, "phase-3-onset")
        keeper.keep(trainer, {trainer.global_step})
        keeper.write(trainer, trainer.lightning_module)
        return folder

    def test_onset_files_and_those_of_others_are_skipped_with_a_line(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        torch.save([1, 2], folder / "other.ckpt")
        (onset,) = folder.glob("phase-3-*")
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            assert find_checkpoints([folder]) == [folder / "epoch.ckpt"]
        (said,) = caplog.messages
        assert onset.name in said
        assert "other.ckpt" in said

    def test_one_that_is_broken_is_not_passed_over(self, folder: Path) -> None:
        (folder / "broken.ckpt").write_bytes(b"no checkpoint")
        assert find_checkpoints([folder]) == [folder / "broken.ckpt", folder / "epoch.ckpt"]

    def test_the_folder_of_a_run_stands_for_its_checkpoints(self, folder: Path) -> None:
        assert find_checkpoints([folder.parent]) == [folder / "epoch.ckpt"]

    def test_one_without_any_of_a_run_is_refused(self, folder: Path) -> None:
        (folder / "epoch.ckpt").unlink()
        with pytest.raises(MisconfigurationException, match=r"where 1 \.ckpt"):
            find_checkpoints([folder])

    def test_the_same_moment_is_measured_once_with_a_line(
        self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.copy(folder / "epoch.ckpt", folder / "last.ckpt")
        monitor = fewest(held_out=0, schedule=EveryNEpochs())
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            replay(quiet_trainer(tmp_path, callbacks=[monitor]), seeded(), [folder], tabular_loader(24))
        assert monitor.history.epochs == [0, 1]
        assert [text for text in caplog.messages if "last.ckpt" in text and "epoch.ckpt" in text]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
class TestBadInput:
    def refused(self, root: Path, *paths: Path, train: Any = None) -> str:
        trainer = quiet_trainer(root, callbacks=[fewest(held_out=0)])
        with pytest.raises(MisconfigurationException) as refusal:
            replay(trainer, seeded(), paths, tabular_loader(24) if train is None else train)
        return str(refusal.value)

    def test_of_another_model(self, written: Path, tmp_path: Path) -> None:
        assert "network.4.weight: (3, 8) in the module, (5, 8) in the checkpoint" in self.refused(tmp_path, written / "wide")

    def test_of_two_models(self, written: Path, tmp_path: Path) -> None:
        assert "weights of other shapes" in self.refused(tmp_path, written / "epochs", written / "wide")

    def test_of_two_runs(self, written: Path, tmp_path: Path) -> None:
        assert "other hyperparameters" in self.refused(tmp_path, written / "epochs", written / "slow")

    def test_of_two_runs_of_the_same_settings(self, written: Path, tmp_path: Path) -> None:
        (path,) = find_checkpoints([written / "epochs"])
        other = torch.load(path, weights_only=True)
        other["state_dict"]["network.0.bias"] += 1
        torch.save(other, tmp_path / "other.ckpt")
        assert "of the same moment" in self.refused(tmp_path, path, tmp_path / "other.ckpt")

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00trueR."])
    def test_broken(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "broken.ckpt").write_bytes(content)
        assert "cannot be read safely" in self.refused(tmp_path, tmp_path / "broken.ckpt")

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    @pytest.mark.slow
    def test_broken_anywhere(self, written: Path, tmp_path: Path, data: st.DataObject) -> None:
        (path,) = find_checkpoints([written / "epochs"])
        (tmp_path / "broken.ckpt").write_bytes(data.draw(broken(path.read_bytes())))
        trainer = quiet_trainer(tmp_path, callbacks=[fewest(held_out=0)])
        trainer.fit = Mock()  # type: ignore[method-assign]
        with suppress(MisconfigurationException):
            replay(trainer, seeded(), [tmp_path / "broken.ckpt", path], tabular_loader(24))
            assert trainer.fit.called

    @pytest.mark.parametrize(
        "content",
        [[1, 2], {"state_dict": {}}, {"state_dict": {}, "loops": {}, "global_step": 1}],
        ids=["list", "weights", "loops"],
    )
    def test_foreign(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "foreign.ckpt")
        assert "expected a" in self.refused(tmp_path, tmp_path / "foreign.ckpt")

    def test_missing(self, tmp_path: Path) -> None:
        assert "expected a checkpoint, or a folder" in self.refused(tmp_path, tmp_path / "nothing.ckpt")
        assert "expected a checkpoint, or a folder" in self.refused(tmp_path, tmp_path)
        assert "got none" in self.refused(tmp_path)

    def test_data_that_only_pass(self, written: Path, tmp_path: Path) -> None:
        stream = torch.utils.data.DataLoader(StreamedDataset(tabular_data(24), 24), batch_size=8)
        assert "got a stream" in self.refused(tmp_path, written / "epochs", train=stream)

    def test_data_that_only_pass_are_measured_on_given_probes(self, written: Path, tmp_path: Path) -> None:
        data = tabular_data(24)
        inputs, targets = data.tensors
        monitor = fewest(schedule=EveryNEpochs())
        monitor = InteractionMonitor(
            evidence=monitor.evidence,
            probes=ProbeSampling(training=(inputs[:4], targets[:4]), held_out=0),
            extraction=monitor.extraction,
        )
        stream = torch.utils.data.DataLoader(StreamedDataset(data, 24), batch_size=8)
        replay(quiet_trainer(tmp_path, callbacks=[monitor]), seeded(), [written / "epochs"], stream)
        assert [one.time.epoch for one in monitor.history.measurements] == [0, 1]
        assert monitor.history.measurements[0].time == TimePoint(0, 0)
