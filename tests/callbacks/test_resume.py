import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_interactions import FeatureGroups, HeldOutReferences, InteractionMonitor, PhaseEarlyStopping, baselines, tasks
from lightning_interactions.callbacks import PhaseStoppingReason
from lightning_interactions.callbacks.interaction_monitor import STATE_VERSION
from lightning_interactions.evidence import OrderShape, ParameterNoise, ReferenceModels
from lightning_interactions.records import History
from tests.callbacks.runs import (
    TINY_SET_UP,
    assert_same_history,
    few,
    other_models,
    other_references,
    prints_of_pairs,
    probes_of,
    quiet_trainer,
    script_phases,
)
from tests.helpers.models import (
    DeterministicClassifier,
    GloballyAugmentedDataset,
    StreamedDataset,
    TabularClassifier,
    UncountedSteps,
    tabular_data,
    tabular_loader,
)

pytestmark = [
    *TINY_SET_UP,
    # A resumed run finds the checkpoints of the run that it goes on with, as it should.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # Lightning begins the loader of an interrupted epoch from its start, and says so.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

TOLERANCE = 1e-6


def seeded() -> LightningModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DeterministicClassifier()


def fit(
    root: Path, epochs: int, *callbacks: Callback, resume: Any = None, train: Any = None, model: Any = None, **options: Any
) -> Trainer:
    """Train in order, without anything random; ``resume`` is a checkpoint to go on from."""
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=list(callbacks), **options)
    trainer.fit(
        seeded() if model is None else model,
        tabular_loader(24) if train is None else train,
        tabular_loader(12, seed=1),
        ckpt_path=resume,
    )
    return trainer


def evidences() -> dict[str, Any]:
    return {"parameter noise": ParameterNoise(), "reference models": other_references()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, History]:
    """Histories of four epochs at a stretch, with each kind of evidence."""
    monitors = {name: few(evidence=evidence, name=name) for name, evidence in evidences().items()}
    with warnings.catch_warnings():
        # The marks of the tests do not reach a fixture.
        warnings.simplefilter("ignore")
        fit(tmp_path_factory.mktemp("unbroken"), 4, *monitors.values())
    return {name: monitor.history for name, monitor in monitors.items()}


@pytest.mark.parametrize("evidence", ["parameter noise", "reference models"])
@pytest.mark.parametrize(
    "saved_by", ["trainer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("validation end", "last"))]
)
@pytest.mark.slow
def test_a_resumed_run_has_the_history_of_an_unbroken_one(
    tmp_path: Path, unbroken: dict[str, History], evidence: str, saved_by: str
) -> None:
    first, resumed = (few(evidence=evidences()[evidence]) for _ in range(2))
    if saved_by == "trainer":
        savers: list[list[Callback]] = [[], []]
        fit(tmp_path, 2, first).save_checkpoint(tmp_path / "last.ckpt")
    else:
        on_epoch_end = saved_by == "last"
        savers = [[ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=on_epoch_end)] for _ in range(2)]
        fit(tmp_path, 2, first, *savers[0], enable_checkpointing=True)
    trainer = fit(
        tmp_path,
        4,
        resumed,
        *savers[1],
        resume=tmp_path / "last.ckpt",
        model=DeterministicClassifier(),
        enable_checkpointing=bool(savers[1]),
    )
    assert trainer.current_epoch == 4
    assert resumed.history.epochs == [0, 1, 2, 3, 4]
    assert_same_history(resumed.history, unbroken[evidence], TOLERANCE)
    assert str(resumed.phase) == str(unbroken[evidence].phases[-1])


def test_a_run_interrupted_in_the_middle_of_an_epoch_resumes_to_the_same_history(tmp_path: Path) -> None:
    class PullsThePlug(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_args: Any) -> None:
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "mid-epoch.ckpt")
                raise ConnectionError("power cut")

    first, resumed = few(), few()
    with pytest.raises(ConnectionError, match="power cut"):
        fit(tmp_path, 4, first, PullsThePlug())
    assert first.history.epochs == [0, 1, 2]
    fit(tmp_path, 4, resumed, resume=tmp_path / "mid-epoch.ckpt", model=DeterministicClassifier())
    assert resumed.history.epochs == [0, 1, 2, 3, 4]
    for measurement, expected in zip(first.history.measurements, resumed.history.measurements[:3], strict=True):
        assert torch.equal(measurement.training.full_score, expected.training.full_score)


@pytest.mark.slow
def test_a_run_interrupted_after_its_last_step_gets_its_last_measurement_when_it_is_resumed(tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_args: Any) -> None:
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "last.ckpt")

    whole, resumed = few(), few()
    fit(tmp_path, 2, whole, Saves())
    assert whole.history.steps == [0, 3, 6]
    # The checkpoint was written before the end of the epoch, which Lightning never comes to again.
    fit(tmp_path, 2, resumed, resume=tmp_path / "last.ckpt")
    assert_same_history(resumed.history, whole.history, TOLERANCE)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_probes_and_baseline_whatever_its_loader_gives(tmp_path: Path) -> None:
    first, resumed = few(), few(seed=9)
    fit(tmp_path, 1, first).save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 2, resumed, resume=tmp_path / "saved.ckpt", train=tabular_loader(24, seed=4))
    saved, taken_up = first.state_dict(), resumed.state_dict()
    assert saved["digests"] == taken_up["digests"]
    assert saved["baseline"].keys() == taken_up["baseline"].keys() == {"0"}
    assert torch.equal(saved["baseline"]["0"], taken_up["baseline"]["0"])
    assert resumed.history.epochs == [0, 1, 2]


@pytest.mark.slow
def test_large_probes_are_saved_by_their_index(
    tmp_path: Path, unbroken: dict[str, History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_interactions.callbacks.probes.SAVED_WHOLE", 0)
    first, resumed, other = (few(evidence=ParameterNoise()) for _ in range(3))
    fit(tmp_path, 2, first).save_checkpoint(tmp_path / "saved.ckpt")
    state = first.state_dict()
    assert state["probes"] == {"training": None, "held_out": None}
    assert [len(state["read_again"][split]["fingerprints"]) for split in ("training", "held_out")] == [6, 4]
    fit(tmp_path, 4, resumed, resume=tmp_path / "saved.ckpt", model=DeterministicClassifier())
    assert_same_history(resumed.history, unbroken["parameter noise"], TOLERANCE)
    assert resumed.state_dict()["read_again"] == state["read_again"]
    with pytest.warns(UserWarning, match="start anew"):
        fit(tmp_path, 4, other, resume=tmp_path / "saved.ckpt", train=tabular_loader(24, seed=4))
    assert other.history.epochs == [3, 4]
    assert other.state_dict()["read_again"] != state["read_again"]


def test_large_probes_that_are_others_when_they_are_read_again_are_saved_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_interactions.callbacks.probes.SAVED_WHOLE", 0)
    monitor = few()
    fit(tmp_path, 1, monitor, train=DataLoader(GloballyAugmentedDataset(tabular_data(24)), batch_size=8))
    state = monitor.state_dict()
    assert list(state["read_again"]) == ["held_out"]
    assert state["probes"]["held_out"] is None
    assert len(probes_of(monitor, "training")) == 6


@pytest.mark.slow
def test_a_resumed_run_on_streamed_data_has_the_history_of_an_unbroken_one(tmp_path: Path) -> None:
    def stream() -> DataLoader[Any]:
        return DataLoader(StreamedDataset(tabular_data(24), 24), batch_size=8)

    unbroken, first, resumed = few(), few(), few()
    fit(tmp_path, 3, unbroken, train=stream())
    fit(tmp_path, 1, first, train=stream()).save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 3, resumed, resume=tmp_path / "saved.ckpt", train=stream())
    assert_same_history(resumed.history, unbroken.history, TOLERANCE)


class Scaling(DeterministicClassifier):
    """Transfers batches in its own way, as augmentation and normalisation on the device do."""

    def on_after_batch_transfer(self, batch: Any, _loader_index: int) -> Any:
        inputs, targets = batch
        return inputs / 10, targets


@pytest.mark.slow
def test_saved_probes_do_not_pass_the_modules_transfer_hooks_a_second_time(tmp_path: Path) -> None:
    first, resumed = few(), few()
    fit(tmp_path, 1, first, model=Scaling()).save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 2, resumed, model=Scaling(), resume=tmp_path / "saved.ckpt")
    for split in ("training", "held_out"):
        saved, taken_up = (probes_of(monitor, split) for monitor in (first, resumed))
        assert torch.equal(saved, taken_up), split


def test_the_checkpoint_loads_with_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 2])
    saver = ModelCheckpoint(tmp_path, save_last=True)
    monitor, stopping = few(evidence=other_references()), PhaseEarlyStopping(2, log_only=True, verbose=False)
    fit(tmp_path, 2, monitor, stopping, saver, enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    ours = checkpoint["callbacks"][monitor.state_key]
    assert ours["version"] == STATE_VERSION
    assert [epoch for epoch, _ in ours["history"]["times"]] == [0, 1, 2]
    assert [phase["number"] for phase in ours["history"]["phases"]] == [1, 2, 2]
    assert checkpoint["callbacks"][stopping.state_key]["onset_epoch"] == 1


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    first = few()
    fit(tmp_path, 1, first).save_checkpoint(tmp_path / "saved.ckpt")
    checkpoint = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    checkpoint["callbacks"][first.state_key]["version"] = 7
    torch.save(checkpoint, tmp_path / "saved.ckpt")
    with pytest.raises(ValueError, match=rf"version {STATE_VERSION}.*version 7"):
        fit(tmp_path, 2, few(), resume=tmp_path / "saved.ckpt")


def records_of(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The dicts of a saved state whose keys are names of fields."""
    split = state["history"]["splits"]["training"]
    return {
        "state": state,
        "history": state["history"],
        "split": split,
        "inputs": split["inputs"],
        "strength": split["strength"]["full"],
        "phase": state["history"]["phases"][0],
        "interactions": state["final_interactions"],
        "group": state["probes"]["training"][0],
        "part": state["probes"]["training"][0]["inputs"],
    }


@pytest.mark.slow
def test_a_state_with_more_fields_is_gone_on_with(tmp_path: Path) -> None:
    first, resumed, unbroken = (few(evidence=other_references()) for _ in range(3))
    fit(tmp_path, 3, unbroken)
    fit(tmp_path, 1, first).save_checkpoint(tmp_path / "saved.ckpt")
    checkpoint = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    for record in records_of(checkpoint["callbacks"][first.state_key]).values():
        record["surplus"] = torch.ones(2)
    torch.save(checkpoint, tmp_path / "saved.ckpt")
    fit(tmp_path, 3, resumed, resume=tmp_path / "saved.ckpt", model=DeterministicClassifier())
    assert_same_history(resumed.history, unbroken.history, TOLERANCE)


@pytest.mark.slow
def test_a_run_that_is_limited_by_steps_alone_is_gone_on_with(tmp_path: Path) -> None:
    unbroken, first, resumed = few(), few(), few()
    fit(tmp_path, -1, unbroken, max_steps=12)
    savers = [ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True) for _ in range(2)]
    options: dict[str, Any] = {"enable_checkpointing": True}
    fit(tmp_path, -1, first, savers[0], max_steps=6, **options)
    last = tmp_path / "last.ckpt"
    fit(tmp_path, -1, resumed, savers[1], resume=last, model=DeterministicClassifier(), max_steps=12, **options)
    assert resumed.history.steps == unbroken.history.steps == [0, 3, 6, 9, 12]
    assert_same_history(resumed.history, unbroken.history, TOLERANCE)


class Raw(UncountedSteps, DeterministicClassifier):
    pass


def raw() -> Raw:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Raw()


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@pytest.mark.parametrize("saved_at", [1, 2, 4])
@pytest.mark.slow
def test_a_run_whose_optimizers_the_trainer_does_not_know_is_gone_on_with(tmp_path: Path, saved_at: int) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_args: Any) -> None:
            batches.append(1)
            if len(batches) == saved_at:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")
                raise ConnectionError("power cut")

    batches: list[int] = []
    first, resumed = few(), few()
    with pytest.raises(ConnectionError):
        fit(tmp_path, 3, first, Saves(), model=raw())
    trainer = fit(tmp_path, 3, resumed, resume=tmp_path / "saved.ckpt", model=Raw())
    assert (trainer.current_epoch, trainer.global_step) == (3, 0)
    assert resumed.history.epochs == [0, 1, 2, 3]
    for before, after in zip(first.history.measurements, resumed.history.measurements, strict=False):
        assert torch.equal(before.training.full_score, after.training.full_score)
    # Another run with the same monitor begins anew.
    with pytest.warns(UserWarning, match="history and probes start anew"):
        fit(tmp_path, 1, resumed, model=raw())
    assert resumed.history.epochs == [0, 1]


def test_a_broken_history_is_refused() -> None:
    monitor = few()
    state = monitor.state_dict()
    del state["history"]["times"]
    with pytest.raises(ValueError, match="History"):
        monitor.load_state_dict(state)


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("players", {"players": FeatureGroups([[0, 1], [2, 3]])}),
        ("threshold", {"threshold": 0.1}),
        ("noise_tolerance", {"noise_tolerance": 0.05}),
        ("tolerance", {"tolerance": 1e-4}),
        ("evidence", {"evidence": OrderShape()}),
        ("task", {"task": tasks.Classification(label_smoothing=0.1, num_classes=3)}),
        ("baseline", {"baseline": baselines.TrainingMean()}),
    ],
    ids=str,
)
@pytest.mark.slow
def test_a_resume_with_other_settings_is_refused_before_training(tmp_path: Path, setting: str, options: dict[str, Any]) -> None:
    fit(tmp_path, 1, few()).save_checkpoint(tmp_path / "saved.ckpt")
    with pytest.raises(MisconfigurationException, match=f"{setting}: .*, now "):
        fit(tmp_path, 2, few(**options), resume=tmp_path / "saved.ckpt")


def test_other_settings_are_refused_before_evidence_fits_itself(tmp_path: Path) -> None:
    class Fits(HeldOutReferences):
        def fit(self, *_args: Any) -> None:
            raise AssertionError("too late")

    fit(tmp_path, 1, few()).save_checkpoint(tmp_path / "saved.ckpt")
    with pytest.raises(MisconfigurationException, match="evidence: "):
        fit(tmp_path, 2, few(evidence=Fits()), resume=tmp_path / "saved.ckpt")


@pytest.mark.slow
def test_the_same_monitor_goes_on_where_its_run_is_resumed_with_another_instance_of_the_module(tmp_path: Path) -> None:
    monitor, unbroken = few(), few()
    fit(tmp_path, 2, unbroken)
    fit(tmp_path, 1, monitor).save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 2, monitor, resume=tmp_path / "saved.ckpt", model=DeterministicClassifier())
    assert_same_history(monitor.history, unbroken.history, TOLERANCE)


def test_a_resume_with_other_probes_handed_in_keeps_those_of_the_run(tmp_path: Path) -> None:
    fit(tmp_path, 1, first := few()).save_checkpoint(tmp_path / "saved.ckpt")
    resumed = few(training=tabular_data(5, seed=7).tensors)
    fit(tmp_path, 2, resumed, resume=tmp_path / "saved.ckpt")
    assert torch.equal(probes_of(resumed, "training"), probes_of(first, "training"))


def test_an_empty_state_of_the_stopping_callback_is_tolerated() -> None:
    stopping = PhaseEarlyStopping()
    stopping.load_state_dict({})
    assert (stopping.onset_epoch, stopping.stopped_epoch) == (None, 0)
    assert stopping.stopping_reason is PhaseStoppingReason.NOT_STOPPED


def test_a_checkpoint_from_before_the_monitor_is_gone_on_with(tmp_path: Path) -> None:
    fit(tmp_path, 2).save_checkpoint(tmp_path / "saved.ckpt")
    monitor = few()
    fit(tmp_path, 3, monitor, resume=tmp_path / "saved.ckpt")
    # The model is not untrained any more, so the first measurement comes after the next epoch.
    assert monitor.history.epochs == [3]


def test_the_state_of_the_monitor_survives_a_round_trip(tmp_path: Path) -> None:
    first, second = few(), few()
    fit(tmp_path, 2, first)
    second.load_state_dict(first.state_dict())
    assert_same_history(second.history, first.history, tolerance=0)
    assert second.phase == first.phase
    assert str(second.history) == str(first.history)


@pytest.mark.slow
def test_each_named_monitor_takes_up_its_own_history(tmp_path: Path) -> None:
    def pair() -> list[InteractionMonitor]:
        return [few(name="often"), few(name="other", training=3)]

    first, resumed = pair(), pair()
    fit(tmp_path, 1, *first).save_checkpoint(tmp_path / "saved.ckpt")
    fit(tmp_path, 2, *reversed(resumed), resume=tmp_path / "saved.ckpt")
    for before, after in zip(first, resumed, strict=True):
        assert after.history.epochs == [0, 1, 2]
        assert torch.equal(
            after.history.measurements[1].training.full_score, before.history.measurements[1].training.full_score
        )


def test_saved_probes_that_new_reference_models_have_seen_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, 1, few(evidence=other_references())).save_checkpoint(tmp_path / "saved.ckpt")
    references = ReferenceModels(other_models(), seen=prints_of_pairs(*tabular_data(24).tensors))
    with pytest.raises((MisconfigurationException, ValueError), match="reference models were trained on"):
        fit(tmp_path, 2, few(evidence=references), resume=tmp_path / "saved.ckpt")


def test_phase_early_stopping_survives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3, 2])
    first, resumed = (PhaseEarlyStopping(log_only=True, verbose=False) for _ in range(2))
    fit(tmp_path, 2, few(), first).save_checkpoint(tmp_path / "saved.ckpt")
    assert first.onset_epoch == 2
    fit(tmp_path, 3, few(), resumed, resume=tmp_path / "saved.ckpt")
    assert resumed.onset_epoch == 2
    assert resumed.stopping_reason_message == first.stopping_reason_message
    assert resumed.stopping_reason is PhaseStoppingReason.NOT_STOPPED


def test_a_stop_is_remembered_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    stopped, loaded = (PhaseEarlyStopping(verbose=False) for _ in range(2))
    trainer = fit(tmp_path, 4, few(), stopped, model=TabularClassifier())
    assert trainer.current_epoch == 1
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    loaded.load_state_dict(torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"][stopped.state_key])
    assert loaded.stopping_reason is PhaseStoppingReason.PHASE_ONSET
    assert (loaded.onset_epoch, loaded.stopped_epoch) == (1, 0)
    assert loaded.stopping_reason_message == stopped.stopping_reason_message
