import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor

from lightning_interactions import PhaseEarlyStopping
from lightning_interactions.callbacks import PhaseStoppingReason
from lightning_interactions.records import History, TimePoint
from tests.callbacks.runs import TINY_SET_UP, Scripted, assert_same_history, quiet_trainer, script_phases
from tests.callbacks.runs import fewest as few
from tests.helpers.models import PlainTabularClassifier, TabularClassifier, UncountedSteps, tabular_loader

pytestmark = [
    *TINY_SET_UP,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # Lightning begins the loader of an interrupted epoch from its start, and says so.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    # Runs are gone on with without the callback that recorded the first part.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

Weights = dict[str, Tensor]


class Counting(PlainTabularClassifier):
    """Trains alike with and without a break; counts its epochs in a buffer, in its own hook."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epochs", torch.zeros(()))

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)

    def on_train_epoch_end(self) -> None:
        self.epochs += 1

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]


class Diary(Callback):
    """Keeps the weights and buffers after every epoch, by the number of epochs."""

    def __init__(self) -> None:
        self.weights: dict[int, Weights] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights[trainer.current_epoch] = snapshot(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights[trainer.current_epoch] = snapshot(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights[trainer.current_epoch] = snapshot(pl_module)


class Interrupting(Callback):
    """Ends a run with an error in its second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise ConnectionError("power cut")


def snapshot(module: LightningModule) -> Weights:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(actual: Weights, expected: Weights) -> bool:
    assert actual.keys() == expected.keys()
    return all(torch.equal(actual[name], expected[name]) for name in expected)


def restoring(**options: Any) -> PhaseEarlyStopping:
    return PhaseEarlyStopping(**{"restore_best": True, "verbose": False, **options})


def announced(*announced_at: int, then: Sequence[int | Scripted] = ()) -> list[int | Scripted]:
    """Phase 1 with the onsets that phase 3 would have, one for each measurement, and what comes then."""
    return [*(Scripted(1, tests={3: (onset, 0.5)}) for onset in announced_at), *then]


def fit(
    root: Path, *callbacks: Callback, epochs: int = 6, model: type[LightningModule] = TabularClassifier, **options: Any
) -> tuple[Weights, Trainer]:
    """Train, and return the weights and buffers at the end."""
    torch.manual_seed(0)
    module, resume = model(), options.pop("resume", None)
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=list(callbacks), **options)
    trainer.fit(module, tabular_loader(16), tabular_loader(8, seed=1), ckpt_path=resume)
    return snapshot(module), trainer


def kept_files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*onset*.ckpt"))


@pytest.mark.parametrize(
    ("announced_at", "onset", "first"),
    [
        pytest.param([0, 0, 0], 0, "monitor", marks=pytest.mark.slow),
        pytest.param([0, 0, 0], 0, "stopping", marks=pytest.mark.slow),
        ([0, 1, 1], 1, "monitor"),
        ([0, 0, 2], 2, "stopping"),
        pytest.param([0, 1, 2], 2, "monitor", marks=pytest.mark.slow),
        pytest.param([0, 1, 1], 3, "stopping", marks=pytest.mark.slow),
    ],
)
def test_the_module_gets_the_weights_of_the_onset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced_at: list[int], onset: int, first: str
) -> None:
    script_phases(monkeypatch, announced(*announced_at, then=[Scripted(3, onset=onset)]))
    diary, stopping, monitor = Diary(), restoring(), few()
    callbacks = [monitor, stopping] if first == "monitor" else [stopping, monitor]
    weights, trainer = fit(tmp_path, diary, *callbacks)
    assert trainer.current_epoch == 3
    assert (stopping.onset_epoch, stopping.onset_step, stopping.detected_epoch) == (onset, 2 * onset, 3)
    assert [same(weights, diary.weights[epoch]) for epoch in range(4)] == [epoch == onset for epoch in range(4)]
    # One checkpoint is left, of the weights alone.
    assert [os.path.basename(stopping.best_model_path)] == kept_files(tmp_path) == [f"phase-3-onset-step={2 * onset}.ckpt"]
    checkpoint = torch.load(stopping.best_model_path, weights_only=True)
    assert checkpoint["global_step"] == 2 * onset
    assert checkpoint.keys().isdisjoint({"optimizer_states", "loops", "callbacks"})
    assert same(snapshot(TabularClassifier.load_from_checkpoint(stopping.best_model_path)), weights)


def test_a_run_that_ends_without_a_call_keeps_its_final_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 0, 2))
    diary, stopping = Diary(), restoring()
    weights, _ = fit(tmp_path, few(), stopping, diary, epochs=4)
    assert same(weights, diary.weights[4])
    assert stopping.best_model_path == ""
    # A run that is gone on with may need it.
    assert kept_files(tmp_path) == ["phase-3-onset-step=4.ckpt"]


def test_final_weights_stay_where_patience_was_not_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 1, 1, then=[Scripted(3, onset=1)]))
    diary, stopping = Diary(), restoring(patience=2)
    weights, _ = fit(tmp_path, few(), stopping, diary, epochs=4)
    assert same(weights, diary.weights[4])
    assert torch.load(stopping.best_model_path, weights_only=True)["global_step"] == 2


def test_patience_that_ends_with_the_last_epoch_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 1, 1, then=[Scripted(3, onset=1)]))
    diary, stopping = Diary(), restoring(patience=1)
    weights, _ = fit(tmp_path, few(), stopping, diary, epochs=4)
    assert same(weights, diary.weights[1])
    assert (stopping.wait_count, stopping.stopped_epoch) == (1, 3)


def test_a_second_entry_has_an_onset_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    back = [Scripted(2, tests={3: (3, 0.5)}), Scripted(2, tests={3: (4, 0.5)})]
    script_phases(monkeypatch, announced(0, 1, then=[Scripted(3, onset=1), *back, Scripted(3, onset=4)]))
    diary, stopping = Diary(), restoring(patience=1)
    weights, trainer = fit(tmp_path, few(), stopping, diary)
    assert trainer.current_epoch == 6
    assert (stopping.onset_epoch, stopping.detected_epoch, stopping.wait_count) == (4, 5, 1)
    assert same(weights, diary.weights[4])
    assert kept_files(tmp_path) == ["phase-3-onset-step=8.ckpt"]


def test_without_tests_the_detection_is_the_onset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 1, 3])
    diary, stopping = Diary(), restoring()
    weights, _ = fit(tmp_path, few(), stopping, diary)
    assert same(weights, diary.weights[2])


@pytest.mark.parametrize("script", [[1, 1, 1, Scripted(3, onset=1)], announced(0, 1, 2, then=[Scripted(3, onset=1)])])
def test_an_onset_that_no_test_announced_is_replaced_by_the_detection_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: list[int | Scripted]
) -> None:
    script_phases(monkeypatch, script)
    diary, stopping = Diary(), restoring()
    with pytest.warns(UserWarning, match="no checkpoint was kept at the onset after epoch 1, .* the detection, after epoch 3"):
        weights, _ = fit(tmp_path, few(), stopping, diary)
    assert same(weights, diary.weights[3])
    assert stopping.onset_epoch == 1


@pytest.mark.slow
def test_phase_2_keeps_the_onset_of_each_phase_that_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [Scripted(1, tests={2: (at, 0.9), 3: (min(at, 1), 0.9)}) for at in range(3)]
    for number, onset in ((2, 2), (3, 1)):
        script_phases(monkeypatch, [*claims, Scripted(number, onset=onset)])
        diary, stopping = Diary(), restoring(phase=2, dirpath=tmp_path / str(number))
        weights, _ = fit(tmp_path, few(), stopping, diary)
        assert same(weights, diary.weights[onset])
        assert kept_files(tmp_path / str(number)) == [f"phase-2-onset-step={2 * onset}.ckpt"]


def test_log_only_keeps_the_checkpoint_and_leaves_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 1, then=[Scripted(3, onset=1), Scripted(2, tests={3: (3, 0.5)})]))
    diary, stopping = Diary(), restoring(log_only=True)
    weights, trainer = fit(tmp_path, few(), stopping, diary, epochs=4)
    assert trainer.current_epoch == 4
    assert same(weights, diary.weights[4])
    assert torch.load(stopping.best_model_path, weights_only=True)["global_step"] == 2
    assert stopping.stopping_reason is PhaseStoppingReason.NOT_STOPPED


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"min_epochs": 5}, marks=pytest.mark.slow),
        pytest.param({"min_steps": 9}, marks=pytest.mark.slow),
        {"check_val_every_n_epoch": 2, "min_epochs": 5},
    ],
    ids=str,
)
def test_a_stop_that_is_put_off_restores_the_onset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    # The phase goes back before the end; the decision stays, as with Lightning's own EarlyStopping.
    script_phases(monkeypatch, announced(0, 1, then=[Scripted(3, onset=1), 3, 2]))
    diary, stopping = Diary(), restoring()
    weights, trainer = fit(tmp_path, few(), stopping, diary, epochs=9, **options)
    assert (trainer.current_epoch, stopping.stopped_epoch) == (5, 4)
    assert same(weights, diary.weights[1])


def test_a_fast_dev_run_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [Scripted(1, tests={3: (0, 0.5)})])
    fit(tmp_path, few(), restoring(), fast_dev_run=True)
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_the_checkpoint_of_another_run_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    first, second = restoring(), restoring()
    fit(tmp_path, few(), first)
    fit(tmp_path, few(), second)
    assert kept_files(tmp_path) == ["phase-3-onset-step=2-v1.ckpt", "phase-3-onset-step=2.ckpt"]
    assert first.best_model_path != second.best_model_path


def test_it_keeps_out_of_the_way_of_the_users_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 1, then=[Scripted(3, onset=1)]))
    saver = ModelCheckpoint(tmp_path / "mine", save_top_k=-1, save_last=True)
    diary, stopping, monitor = Diary(), restoring(), few()
    weights, trainer = fit(tmp_path, monitor, stopping, diary, saver, enable_checkpointing=True)
    assert same(weights, diary.weights[1])
    files = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert files == ["epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt", "last.ckpt", "phase-3-onset-step=2.ckpt"]
    # "last" and "best" are still the user's.
    assert same(torch.load(tmp_path / "mine" / "last.ckpt", weights_only=True)["state_dict"], diary.weights[2])
    assert trainer.callbacks == [monitor, stopping, diary, saver]
    assert trainer.checkpoint_callback is saver


def test_a_failed_run_leaves_the_callbacks_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0))
    monitor, stopping, interrupting = few(), restoring(), Interrupting()
    trainer = quiet_trainer(tmp_path, callbacks=[monitor, stopping, interrupting])
    with pytest.raises(ConnectionError, match="power cut"):
        trainer.fit(TabularClassifier(), tabular_loader(16), tabular_loader(8, seed=1))
    assert trainer.callbacks == [monitor, stopping, interrupting]


def test_averaged_weights_are_restored_as_of_the_onset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 1, then=[Scripted(3, onset=1)]))
    stopping, average = restoring(), EMAWeightAveraging(decay=0.5)
    weights, _ = fit(tmp_path, average, few(), stopping)
    expected, _ = fit(tmp_path, EMAWeightAveraging(decay=0.5), epochs=1)
    assert same(weights, expected)


def test_the_first_to_decide_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 2, 2, 3, 3])
    diary, early, late = Diary(), restoring(phase=2), restoring(phase=3)
    weights, _ = fit(tmp_path, few(), late, early, diary, min_epochs=5)
    assert same(weights, diary.weights[1])
    assert early.stopping_reason is PhaseStoppingReason.PHASE_ONSET
    assert (late.stopping_reason, late.onset_epoch) == (PhaseStoppingReason.NOT_STOPPED, 3)


SCRIPT = announced(0, 1, 2, 2, then=[Scripted(3, onset=2, tests={3: (2, 0.01)})])


class Rounds(Callback):
    """Counts its epochs, after the monitor in the list of callbacks."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.count = state_dict["count"]


def watch(root: Path, *more: Callback, resume: Any = None, epochs: int = 9, **options: Any) -> dict[str, Any]:
    """Train with two monitors and a callback that counts, and return what came of it."""
    monitors, rounds, diary = [few(name="a"), few(name="b")], Rounds(), Diary()
    stopping = restoring(monitor="a", patience=1, **options)
    final, trainer = fit(
        root,
        stopping,
        *monitors,
        rounds,
        diary,
        *more,
        model=Counting,
        resume=resume,
        epochs=epochs,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in more),
    )
    return {
        "final": final,
        "last": diary.weights[trainer.current_epoch],
        "histories": [monitor.history for monitor in monitors],
        "rounds": rounds.count,
        "epochs": trainer.current_epoch,
        "rate": trainer.optimizers[0].param_groups[0]["lr"],
        "stopping": stopping,
    }


def assert_same_outcome(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in ("final", "last"):
        assert same(actual[key], expected[key]), key
    for key in ("rounds", "epochs", "rate"):
        assert actual[key] == expected[key], key
    for history, other in zip(actual["histories"], expected["histories"], strict=True):
        assert isinstance(history, History)
        assert_same_history(history, other, 1e-6)
    paths = {"kept": None}
    states = [{**outcome["stopping"].state_dict(), **paths} for outcome in (actual, expected)]
    assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize(("broken_after", "on_epoch_end"), [(1, True), (2, False), (3, True), (4, True), (4, False), (5, True)])
def test_a_resumed_run_decides_and_restores_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_after: int, on_epoch_end: bool
) -> None:
    script_phases(monkeypatch, SCRIPT)
    unbroken = watch(tmp_path / "unbroken")
    assert (unbroken["epochs"], unbroken["stopping"].stopped_epoch) == (5, 4)
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=on_epoch_end)
    watch(tmp_path, saver, epochs=broken_after)
    resumed = watch(tmp_path, resume=tmp_path / f"epoch={broken_after - 1}.ckpt")
    assert_same_outcome(resumed, unbroken)


def callback_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Find the state of PhaseEarlyStopping in a checkpoint."""
    state: dict[str, Any] = next(state for state in checkpoint["callbacks"].values() if "kept" in state)
    return state


def change_kept(path: Path, kept: Any) -> None:
    """Let a checkpoint name other files."""
    checkpoint = torch.load(path, weights_only=True)
    callback_state(checkpoint)["kept"] = kept
    torch.save(checkpoint, path)


def contents(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["first", "second"])
def test_a_resumed_run_leaves_the_onset_of_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    script_phases(monkeypatch, SCRIPT)
    saver = ModelCheckpoint(tmp_path / "first", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    first = watch(tmp_path / "first", saver)
    before = contents(tmp_path / "first")
    assert Path(first["stopping"].best_model_path) in before
    # The same up to the third measurement, and another onset then.
    script_phases(monkeypatch, announced(0, 1, 2, 3, 3, then=[Scripted(3, onset=3)]))
    resumed = watch(tmp_path / where, resume=tmp_path / "first" / "epoch=1.ckpt", dirpath=tmp_path / where)
    assert resumed["final"]["epochs"] == 3
    assert resumed["stopping"].best_model_path == str(tmp_path / where / "a-phase-3-onset-step=6.ckpt")
    after = contents(tmp_path / "first")
    assert {path: after.get(path) for path in before} == before


def test_a_resumed_run_in_one_process_with_the_same_callback_leaves_the_onset_of_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_phases(monkeypatch, announced(0, 1, 2, 2, then=[Scripted(3, onset=2)]))
    stopping = restoring(dirpath=tmp_path)
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(tmp_path, few(), stopping, saver, enable_checkpointing=True)
    script_phases(monkeypatch, announced(0, 1, 2, 3, then=[Scripted(3, onset=3)]))
    fit(tmp_path, few(), stopping, resume=tmp_path / "epoch=1.ckpt")
    assert kept_files(tmp_path) == ["phase-3-onset-step=4.ckpt", "phase-3-onset-step=6.ckpt"]


@pytest.mark.slow
def test_a_run_in_another_folder_restores_from_beside_the_checkpoint_that_it_is_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_phases(monkeypatch, SCRIPT)
    watch(tmp_path / "first", ModelCheckpoint(tmp_path / "first", save_last=True), epochs=4)
    last = tmp_path / "first" / "last.ckpt"
    assert callback_state(torch.load(last, weights_only=True))["kept"] == {4: "a-phase-3-onset-step=4.ckpt"}
    resumed = watch(tmp_path / "second", resume=last)
    assert resumed["final"]["epochs"] == 2
    assert resumed["stopping"].best_model_path == str(tmp_path / "first" / "a-phase-3-onset-step=4.ckpt")


@pytest.mark.slow
def test_an_onset_in_neither_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, SCRIPT)
    saver = ModelCheckpoint(tmp_path / "first", save_last=True)
    watch(tmp_path, saver, epochs=4, dirpath=tmp_path / "elsewhere")
    said = r"second/a-phase-3-onset-step=4.ckpt or .*first/a-phase-3-onset-step=4.ckpt is gone"
    with pytest.warns(UserWarning, match="PhaseEarlyStopping") as warned:
        resumed = watch(tmp_path, resume=tmp_path / "first" / "last.ckpt", dirpath=tmp_path / "second")
    messages = [str(warning.message) for warning in warned if "PhaseEarlyStopping" in str(warning.message)]
    assert re.search(said, messages[0])
    assert "the module keeps its final weights" in messages[1]
    assert resumed["final"]["epochs"] == 5


NO_NAMES = (
    "",
    ".",
    "..",
    "{run}/..",
    "{run}/../precious",
    "{run}/epoch=0.ckpt",
    "{precious}",
    "../precious",
    "a-phase-3-onset/../../precious/weights.ckpt",
    "a-phase-3-onset/../../precious/a-phase-3-onset.ckpt",
    "a-phase-3-onset\\..\\weights.ckpt",
    "a-phase-3-onset\0.ckpt",
    "epoch=0.ckpt",
    "a-phase-3-onset-step=2",
    7,
    None,
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_state_names_plain_files_alone(tmp_path: Path, name: Any) -> None:
    (tmp_path / "weights.ckpt").write_text("precious")
    name = name.format(run=tmp_path, precious=tmp_path) if isinstance(name, str) else name
    stopping = restoring(dirpath=tmp_path, monitor="a")
    with pytest.warns(UserWarning, match="expected a saved state that names files") as warned:
        stopping.load_state_dict({**stopping.state_dict(), "kept": {1: name}})
    assert any(f"got {name!r} for 1" in str(warning.message) for warning in warned)
    assert stopping.state_dict()["kept"] == {}
    assert contents(tmp_path) == {tmp_path / "weights.ckpt": b"precious"}


@pytest.mark.parametrize("moved", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["{precious}", *(pytest.param(name, marks=pytest.mark.slow) for name in NO_NAMES if name != "{precious}")]
)
def test_a_state_addresses_no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, moved: bool) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    script_phases(monkeypatch, SCRIPT)
    watch(run, ModelCheckpoint(run, filename="{epoch}", save_top_k=-1), epochs=1)
    precious.mkdir()
    for file in ("weights.ckpt", "a-phase-3-onset.ckpt"):
        (precious / file).write_text("precious")
    name = name.format(run=run, precious=precious) if isinstance(name, str) else name
    change_kept(run / "epoch=0.ckpt", {1: name})
    before = contents(run, precious)
    with pytest.warns(UserWarning, match="expected a saved state that names files") as warned:
        resumed = watch(run, resume=run / "epoch=0.ckpt", dirpath=tmp_path / "new" if moved else run, epochs=3)
    assert any(f"got {name!r} for 1" in str(warning.message) for warning in warned)
    assert list(resumed["stopping"].state_dict()["kept"]) == [4]
    after = contents(run, precious)
    assert {path: after.get(path) for path in before} == before


def test_a_state_that_names_nothing_by_steps_is_said(tmp_path: Path) -> None:
    stopping = restoring(dirpath=tmp_path)
    for kept in ("phase-3-onset-step=2.ckpt", {"2": "phase-3-onset-step=2.ckpt"}, None):
        with pytest.warns(UserWarning, match="by the steps of their measurements"):
            stopping.load_state_dict({"kept": kept})
        assert stopping.state_dict()["kept"] == {}


def test_a_file_or_folder_that_a_state_names_in_the_own_folder_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_phases(monkeypatch, SCRIPT)
    watch(tmp_path, ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1), epochs=1)
    folder = tmp_path / "a-phase-3-onset-folder.ckpt"
    folder.mkdir()
    (folder / "weights.ckpt").write_text("precious")
    (tmp_path / "a-phase-3-onset-mine.ckpt").write_text("precious")
    change_kept(tmp_path / "epoch=0.ckpt", {0: folder.name, 1: "a-phase-3-onset-mine.ckpt"})
    before = contents(tmp_path)
    watch(tmp_path, resume=tmp_path / "epoch=0.ckpt", epochs=3)
    after = contents(tmp_path)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("monitor", ["a/b", "a\\b", "..", "a b"])
def test_the_files_of_any_monitor_have_plain_names(monitor: str) -> None:
    stopping = restoring(monitor=monitor)
    names = {4: f"{stopping._keeper.prefix}-step=4.ckpt"}
    stopping.load_state_dict({"kept": names})
    assert stopping.state_dict()["kept"] == names


class Raw(UncountedSteps, TabularClassifier):
    pass


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_where_steps_are_not_counted_no_weights_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, announced(0, 1, then=[Scripted(3, onset=1)]))
    diary = Diary()
    with pytest.warns(UserWarning, match="optimizers whose steps the Trainer counts"):
        weights, trainer = fit(tmp_path, few(), restoring(), diary, model=Raw)
    assert trainer.current_epoch == 2
    assert same(weights, diary.weights[2])


@pytest.mark.slow
def test_a_stopped_run_trains_on_with_log_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, SCRIPT)
    saver = ModelCheckpoint(tmp_path, save_last=True)
    stopped = watch(tmp_path, saver)
    resumed = watch(tmp_path, resume=tmp_path / "last.ckpt", log_only=True, epochs=7)
    assert (stopped["epochs"], resumed["epochs"]) == (5, 7)
    assert same(resumed["final"], resumed["last"])
    assert resumed["stopping"].best_model_path == stopped["stopping"].best_model_path


def test_a_checkpoint_that_is_gone_is_said_and_the_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deleting(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            os.remove(stopping.best_model_path)

    script_phases(monkeypatch, [1, 1, 3])
    diary, stopping = Diary(), restoring(patience=1)
    with pytest.warns(UserWarning, match="expected the checkpoint of the onset at .*onset-step=4.ckpt.* final weights"):
        weights, _ = fit(tmp_path, few(), stopping, diary, Deleting())
    assert same(weights, diary.weights[3])


def test_another_checkpoint_under_its_name_is_not_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overwriting(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(stopping.best_model_path)

    script_phases(monkeypatch, [1, 1, 3])
    diary, stopping = Diary(), restoring(patience=1)
    with pytest.warns(UserWarning, match="none or another one there"):
        weights, _ = fit(tmp_path, few(), stopping, diary, Overwriting())
    assert same(weights, diary.weights[3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "said", "restored"),
    [
        (3, ["keeps the weights of the detection, after epoch 4"], 4),
        (4, ["step=4.ckpt is gone, so the weights of the onset", "the module keeps its final weights"], 5),
    ],
)
def test_a_resumed_run_says_that_a_checkpoint_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, said: list[str], restored: int
) -> None:
    script_phases(monkeypatch, SCRIPT)
    watch(tmp_path, ModelCheckpoint(tmp_path, save_last=True), epochs=epochs)
    os.remove(tmp_path / "a-phase-3-onset-step=4.ckpt")
    with pytest.warns(UserWarning, match="PhaseEarlyStopping") as warned:
        resumed = watch(tmp_path, resume=tmp_path / "last.ckpt")
    messages = [str(warning.message) for warning in warned if "PhaseEarlyStopping" in str(warning.message)]
    assert len(messages) == len(said)
    assert all(part in message for part, message in zip(said, messages, strict=True))
    assert resumed["final"]["epochs"] == restored


@pytest.mark.parametrize("batch", [3, 4])
def test_a_measurement_after_a_batch_is_kept_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    class InBetween(Callback):
        """Makes a measurement after a batch, at which phase 3 is detected."""

        weights: Weights

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_args: Any) -> None:
            if trainer.global_step == batch:
                self.weights = snapshot(pl_module)
                script_phases(monkeypatch, [*[1] * len(monitor.history), 3])
                now = TimePoint(trainer.current_epoch + 1, trainer.global_step)
                monitor._measure(trainer, pl_module, now, step=0, begin=0.0)

    script_phases(monkeypatch, [1])
    monitor, stopping, between = few(), restoring(), InBetween()
    weights, _ = fit(tmp_path, monitor, stopping, between)
    assert same(weights, between.weights)
    assert (stopping.onset_step, stopping.stopped_epoch) == (batch, 1)
    assert torch.load(stopping.best_model_path, weights_only=True)["global_step"] == batch


def test_the_folder_is_the_users_or_the_one_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [1, 3])
    given, logged = restoring(dirpath=str(tmp_path / "given")), restoring()
    fit(tmp_path, few(), given)
    fit(tmp_path, few(), logged, logger=True)
    assert Path(given.best_model_path).parent == tmp_path / "given"
    assert Path(logged.best_model_path).parent == tmp_path / "lightning_logs" / "version_0" / "checkpoints"
