"""Faults, each injected for real into the measurement after the second epoch, a logger, a file, evidence or a process.

Beside each monitored run goes one without the monitor, in which the same fault strikes whatever is there to be struck. Weights
and random states are the same to the bit, and the history has all measurements or those alone that are named as failed.
"""

import errno
import os
import random
import re
import signal
import time
import warnings
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, OnExceptionCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping, Twins
from lightning_interactions.evidence import ParameterNoise
from lightning_interactions.players import FeatureGroups
from lightning_interactions.records import Interactions
from lightning_interactions.references.trainer import ReferenceTrainer
from lightning_interactions.schedules import EveryNEpochs
from lightning_interactions.tasks import Classification
from tests.callbacks.runs import (
    TINY_SET_UP,
    RecordingLogger,
    Scripted,
    SinglePlayers,
    assert_same_history,
    fewest,
    quiet_trainer,
    script_phases,
)
from tests.callbacks.test_bit_identity import random_states
from tests.helpers.models import StreamedDataset, TabularClassifier, tabular_data, tabular_loader

pytestmark = [
    pytest.mark.slow,
    *TINY_SET_UP,
    # The faults are said; what is said is looked at.
    pytest.mark.filterwarnings("default::UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

EPOCHS = 4
INTERRUPTS = 200
STRUCK = 2
"""Completed epochs at the measurement in which faults strike."""

FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


class Switch(Callback):
    """Is on while the callbacks after it do what they do after the second epoch."""

    on = False

    def on_train_start(self, *_args: Any) -> None:
        Switch.on = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Switch.on = trainer.current_epoch + 1 == STRUCK

    def on_train_epoch_start(self, *_args: Any) -> None:
        Switch.on = False

    on_train_end = on_exception = on_train_epoch_start


class Struck(TabularClassifier):
    """Does something else in its forwards while the switch is on."""

    def __init__(self, strike: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        self.strike = strike
        self.hparams.clear()

    def forward(self, inputs: Tensor) -> Any:
        logits = self.network(inputs)
        return logits if self.strike is None or not Switch.on else self.strike(logits)


def raises(error: BaseException) -> Callable[..., Any]:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise error

    return fail


def while_on(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """A function that fails while the switch is on."""

    def either(*args: Any, **options: Any) -> Any:
        if Switch.on:
            raise error
        return function(*args, **options)

    return either


def only_few_rows(logits: Tensor) -> Tensor:
    if len(logits) > 4:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return logits


def too_deep(logits: Tensor) -> Tensor:
    return too_deep(logits)


def sends(number: signal.Signals) -> Callable[[Tensor], Tensor]:
    def strike(logits: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return logits

    return strike


def spoils_random_states(_logits: Tensor) -> Tensor:
    torch.manual_seed(99)
    raise RuntimeError("spoilt")


class FailingEvidence(SinglePlayers):
    """Cannot weigh while the switch is on."""

    def weigh(self, interactions: Interactions, threshold: float, **others: Any) -> Any:
        if Switch.on:
            raise ZeroDivisionError("no weights")
        return super().weigh(interactions, threshold, **others)


class FailingRaters(ParameterNoise):
    """The second rater is missing, or fails, while the switch is on."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def raters(self, model: Any) -> Any:
        for number, rater in enumerate(super().raters(model)):
            if Switch.on and number == 1:
                if self.error is None:
                    return
                raise self.error
            yield rater


class FailingGroups(FeatureGroups):
    """Cannot mask while the switch is on."""

    def masking(self, *args: Any) -> Any:
        if Switch.on:
            raise IndexError("no such player")
        return super().masking(*args)


class FailingTask(Classification):
    """Has no losses while the switch is on."""

    def losses(self, *args: Any, **options: Any) -> Any:
        if Switch.on:
            raise FloatingPointError("no loss")
        return super().losses(*args, **options)


class Listener(Callback):
    """Fails at what it is told while the switch is on."""

    def on_interactions_measured(self, *_args: Any) -> None:
        if Switch.on:
            raise ConnectionError("the listener is gone")


class FailingLogger(RecordingLogger):
    """Fails at some of the metrics.

    Args:
        refuses: Whether it does.
        fails_to_save: Whether it cannot write what it took.
    """

    def __init__(self, refuses: Callable[[Mapping[str, float]], bool], fails_to_save: bool = False) -> None:
        super().__init__()
        self.refuses = refuses
        self.fails_to_save = fails_to_save
        self.unsaved = False

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.refuses(metrics):
            raise OSError("refused")
        super().log_metrics(metrics, step)
        self.unsaved = self.fails_to_save and "interactions/phase" in metrics

    def save(self) -> None:
        if self.unsaved:
            self.unsaved = False
            raise FULL_DISK


@dataclass(frozen=True)
class Fault:
    """What strikes, and what is left.

    Attributes:
        strike: What the module's forward does in its place.
        patches: What functions are replaced with, by where they are looked up; they get the function.
        monitor: Options of the monitor.
        logger: Makes the logger.
        more: Makes further callbacks.
        missing: Whether the measurement is left out, and named.
        said: What a warning says.
        ends: The error that ends the run, if that is what should be.
        measured: Completed epochs at the measurements, where that differs.
    """

    strike: Callable[[Tensor], Any] | None = None
    patches: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    monitor: Callable[[], dict[str, Any]] = dict
    logger: Callable[[Path], Any] = lambda _root: False
    more: Callable[[], list[Callback]] = list
    missing: bool = False
    said: str = ""
    ends: type[BaseException] | None = None
    measured: tuple[int, ...] | None = None


def left_out(strike: Callable[[Tensor], Any] | None, said: str, **options: Any) -> Fault:
    return Fault(strike, missing=True, said=f"epoch 2, step 6 failed and is left out: .*{said}", **options)


def patched(target: str, error: Exception, said: str, **options: Any) -> Fault:
    return left_out(None, said, patches={target: lambda function: while_on(function, error)}, **options)


def logs(refuses: Callable[[Mapping[str, float]], bool] = lambda _metrics: False, **options: Any) -> Fault:
    return Fault(logger=lambda _root: FailingLogger(refuses, **options), said="write_scalars to FailingLogger failed")


def draws(target: str, replacement: Callable[[Any], Any], said: str, **options: Any) -> Fault:
    return Fault(
        patches={target: replacement},
        logger=lambda root: TensorBoardLogger(root),
        monitor=lambda: {"figures": EveryNEpochs()},
        said=said,
        **options,
    )


def nearly_full(_usage: Any) -> Callable[[Any], Any]:
    usage = namedtuple("usage", "total used free")
    return lambda _path: usage(2**40, 2**40 - 2**20, 2**20)


ROOM = "lightning_interactions"
FAULTS = {
    # In the module.
    "an error": left_out(raises(RuntimeError("broken")), "broken"),
    "an assertion": left_out(raises(AssertionError("wrong")), "wrong"),
    "no attribute": left_out(raises(AttributeError("self.mask")), "mask"),
    "the end of an iterator": left_out(raises(StopIteration()), "StopIteration"),
    "endless recursion": left_out(too_deep, "RecursionError"),
    "no memory for anything": left_out(raises(torch.OutOfMemoryError("out of memory")), "OutOfMemoryError"),
    "no memory in Python": left_out(raises(MemoryError("no memory")), "MemoryError"),
    "memory for a few rows": Fault(only_few_rows),
    "fewer rows": left_out(lambda logits: logits[:-1], ""),
    "no tensor": left_out(lambda _logits: "logits", ""),
    "NaN": Fault(lambda logits: logits * torch.nan, said="all training probes are left out"),
    "infinity": Fault(lambda logits: logits + torch.inf, said="all training probes are left out"),
    "random states": left_out(spoils_random_states, "spoilt"),
    "the gradient mode": left_out(lambda logits: torch.set_grad_enabled(True) and logits.backward(), ""),
    "an error that ends the run": Fault(
        raises(RuntimeError("broken")), monitor=lambda: {"on_error": "raise"}, ends=RuntimeError, measured=(0, 1)
    ),
    # In what is plugged in.
    "evidence": left_out(None, "no weights", monitor=lambda: {"evidence": FailingEvidence()}),
    "a rater": left_out(None, "no rater", monitor=lambda: {"evidence": FailingRaters(LookupError("no rater"))}),
    "a missing rater": left_out(None, "models_beside=2, got 1", monitor=lambda: {"evidence": FailingRaters(None)}),
    "players": left_out(None, "no such player", monitor=lambda: {"players": FailingGroups([[0, 1], [2, 3]])}),
    "a task": left_out(None, "no loss", monitor=lambda: {"task": FailingTask(num_classes=3)}),
    "a listener": Fault(more=lambda: [Listener()], ends=ConnectionError, measured=(0, 1, 2)),
    # In the package.
    "a copy": patched(f"{ROOM}.measuring.isolation.shadow_of", TypeError("no copy"), "no copy"),
    "an extraction": patched(f"{ROOM}.measuring.split.extract_interactions", torch.linalg.LinAlgError("singular"), "singular"),
    "the detector": patched(f"{ROOM}.callbacks.interaction_monitor.detect_phases", ValueError("no phase"), "no phase"),
    "the scalars": patched(f"{ROOM}.callbacks.loggers.scalars", KeyError("tag"), "tag"),
    # In loggers.
    "a logger": logs(lambda metrics: "interactions/phase" in metrics),
    "a logger of plain tags": logs(lambda metrics: any("/" in tag for tag in metrics)),
    "a logger of few tags": logs(lambda metrics: len(metrics) > 20),
    "a logger that cannot write": logs(fails_to_save=True),
    "a logger that ends the run": Fault(
        logger=lambda _root: FailingLogger(lambda metrics: "interactions/phase" in metrics and Switch.on),
        monitor=lambda: {"raise_errors": True},
        ends=OSError,
        measured=(0, 1, 2),
    ),
    # In figures.
    "a figure": draws(f"{ROOM}.callbacks.loggers.strength_figure", lambda _function: raises(ValueError("ink")), "ink"),
    "a figure's file": draws("torch.utils.tensorboard.SummaryWriter.add_figure", lambda _f: raises(FULL_DISK), "No space"),
    "a disk that is nearly full": draws(f"{ROOM}.callbacks.loggers.shutil.disk_usage", nearly_full, "MiB of free disk"),
    "the theory": draws(f"{ROOM}.callbacks.loggers.explain_second_phase", lambda _f: raises(ValueError("theory")), "theory"),
    # Signals.
    "Ctrl-C": Fault(sends(signal.SIGINT), ends=SystemExit, measured=(0, 1)),
    "a request to end": Fault(sends(signal.SIGTERM), ends=SIGTERMException, measured=(0, 1, 2)),
}


@dataclass
class Outcome:
    """What a run leaves."""

    weights: dict[str, Tensor]
    random_states: list[Any]
    settings: tuple[Any, ...]
    error: BaseException | None
    warned: list[str]


def settings() -> tuple[Any, ...]:
    return torch.is_grad_enabled(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def train(root: Path, fault: Fault, *monitors: Callback, train_loader: Any = None) -> Outcome:
    torch.manual_seed(0)
    model, error = Struck(fault.strike), None
    interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        callbacks = [Switch(), *monitors, *fault.more()]
        trainer = quiet_trainer(root, max_epochs=EPOCHS, callbacks=callbacks, logger=fault.logger(root))
        loader = tabular_loader(24, shuffle=True) if train_loader is None else train_loader
        try:
            trainer.fit(model, loader, tabular_loader(12, seed=1))
        except (Exception, SystemExit) as caught:
            error = caught
        finally:
            signal.signal(signal.SIGINT, interrupt)  # Lightning ignores it while it shuts down.
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return Outcome(weights, random_states(), settings(), error, [str(one.message) for one in warned])


def assert_unharmed(monitored: Outcome, control: Outcome) -> None:
    assert monitored.settings == control.settings
    assert monitored.random_states == control.random_states
    assert monitored.weights.keys() == control.weights.keys()
    for name, value in control.weights.items():
        assert torch.equal(monitored.weights[name], value), name


class Ends(Callback):
    """Ends a run without a monitor where the other one ends."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if Switch.on and self.error is SIGTERMException:
            os.kill(os.getpid(), signal.SIGTERM)
        elif Switch.on:
            raise self.error


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_harms_neither_the_run_nor_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fault = FAULTS[name]
    control = train(tmp_path / "control", fault, *([Ends(fault.ends)] if fault.ends else []))
    for target, replace in fault.patches.items():
        monkeypatch.setattr(target, replace(resolve_name(target)))
    monitor = fewest(**fault.monitor())
    monitored = train(tmp_path / "monitored", fault, monitor)
    if fault.ends is None:
        assert monitored.error is None
    else:
        assert isinstance(monitored.error, fault.ends)
    assert_unharmed(monitored, control)
    every = tuple(epoch for epoch in range(EPOCHS + 1) if not (fault.missing and epoch == STRUCK))
    assert tuple(monitor.history.epochs) == (fault.measured or every)
    assert [time.epoch for time in monitor.failed] == ([STRUCK] if fault.missing else [])
    if fault.said:
        assert any(re.search(fault.said, one, re.DOTALL) for one in monitored.warned), monitored.warned


# Files of onsets

ANNOUNCED = [Scripted(1, tests={3: (0, 0.5)}), Scripted(1, tests={3: (1, 0.5)}), Scripted(3, onset=1)]
"""The onset is the measurement after the first epoch."""


def rewritten(change: Callable[[Path], None]) -> Callable[[PhaseEarlyStopping], Callback]:
    """Make a callback that changes the file of the onset when the training is over."""

    def make(stopping: PhaseEarlyStopping) -> Callback:
        return LambdaCallback(on_train_end=lambda *_args: change(Path(stopping.best_model_path)))

    return make


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def of_other_shape(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {name: value + 1 for name, value in checkpoint["state_dict"].items()}
    checkpoint["state_dict"]["network.4.weight"] = torch.zeros(2, 2)
    torch.save(checkpoint, path)


def of_unknown_things(path: Path) -> None:
    torch.save({"global_step": 3, "state_dict": {"network.0.weight": "weights"}}, path)


class Hooked(Struck):
    """Fails in the hooks of checkpoints."""

    fails_at = ""

    def on_save_checkpoint(self, _checkpoint: dict[str, Any]) -> None:
        if self.fails_at == "save":
            raise RuntimeError("not saved")

    def on_load_checkpoint(self, _checkpoint: dict[str, Any]) -> None:
        if self.fails_at == "load":
            raise RuntimeError("not loaded")


@dataclass(frozen=True)
class FileFault:
    """What befalls the file of the onset.

    Attributes:
        patches: As of a :class:`Fault`.
        spoil: Makes a callback that spoils the file.
        fails_at: Which hook of the module fails.
        folder: Where the file is to be, below a file.
        restored: Whether the weights of the onset come back all the same.
        said: What a warning says.
    """

    said: str
    patches: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    spoil: Callable[[PhaseEarlyStopping], Callback] | None = None
    fails_at: str = ""
    folder: str = "onsets"
    restored: bool = False


STRATEGY = "lightning.pytorch.strategies.SingleDeviceStrategy"
FILE_FAULTS = {
    "a full disk": FileFault("writing .* failed.*No space", {f"{STRATEGY}.save_checkpoint": lambda _f: raises(FULL_DISK)}),
    "a read-only disk": FileFault(
        "writing .* failed.*Read-only", {f"{STRATEGY}.save_checkpoint": lambda _f: raises(READ_ONLY)}
    ),
    "a folder that cannot be made": FileFault("writing .* failed.*NotADirectory", folder="file/onsets"),
    "no memory for the file": FileFault("writing .* failed", {f"{STRATEGY}.save_checkpoint": lambda _f: raises(MemoryError())}),
    "a file that cannot be removed": FileFault(
        "removing .* failed", {f"{STRATEGY}.remove_checkpoint": lambda _f: raises(READ_ONLY)}, restored=True
    ),
    "a file that is cut off": FileFault("cannot be read", spoil=rewritten(cut_off)),
    "an empty file": FileFault("cannot be read", spoil=rewritten(lambda path: path.write_bytes(b""))),
    "another file": FileFault("cannot be read", spoil=rewritten(lambda path: path.write_text("a text"))),
    "a file that is gone": FileFault("keeps its final weights", spoil=rewritten(Path.unlink)),
    "weights of another shape": FileFault("restoring .* failed", spoil=rewritten(of_other_shape)),
    "what is no weights": FileFault("restoring .* failed", spoil=rewritten(of_unknown_things)),
    "the module's hook of saving": FileFault("writing .* failed.*not saved", fails_at="save"),
    "the module's hook of loading": FileFault("restoring .* failed.*not loaded", fails_at="load"),
}


@pytest.mark.parametrize("name", FILE_FAULTS)
def test_a_fault_of_an_onsets_file_leaves_the_final_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fault = FILE_FAULTS[name]
    script_phases(monkeypatch, ANNOUNCED)
    (tmp_path / "file").write_text("in the way")
    outcomes: list[dict[str, Tensor]] = []
    for epochs in (1, 2, None):
        torch.manual_seed(0)
        model, callbacks = Hooked(), list[Callback]()
        if epochs is None:
            for target, replace in fault.patches.items():
                monkeypatch.setattr(target, replace(resolve_name(target)))
            model.fails_at = fault.fails_at
            stopping = PhaseEarlyStopping(restore_best=True, dirpath=tmp_path / fault.folder)
            callbacks = [fewest(), stopping, *([] if fault.spoil is None else [fault.spoil(stopping)])]
        trainer = quiet_trainer(tmp_path, max_epochs=epochs or EPOCHS, callbacks=callbacks)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            trainer.fit(model, tabular_loader(24, shuffle=True), tabular_loader(12, seed=1))
        outcomes.append({name: value.clone() for name, value in model.state_dict().items()})
    onset, final, left = outcomes
    assert trainer.current_epoch == 2
    expected = onset if fault.restored else final
    assert all(torch.equal(left[key], value) for key, value in expected.items())
    said = [str(one.message) for one in warned]
    assert any(re.search(fault.said, one, re.DOTALL) for one in said), said


# Streams


def stream() -> DataLoader[Any]:
    return DataLoader(StreamedDataset(tabular_data(24), 24), batch_size=8)


class FailsToPrepare(SinglePlayers):
    """Cannot prepare so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def prepare(self, game: Any) -> None:
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("not ready")


def test_probes_of_a_stream_that_fail_to_be_prepared_are_prepared_the_next_time(tmp_path: Path) -> None:
    fault = Fault(monitor=lambda: {"evidence": FailsToPrepare(2)})
    control = train(tmp_path, fault, train_loader=stream())
    monitor = fewest(evidence=FailsToPrepare(2), training=24)
    monitored = train(tmp_path, fault, monitor, train_loader=stream())
    assert_unharmed(monitored, control)
    assert monitored.error is None
    assert [time.epoch for time in monitor.failed] == [1, 2]
    assert monitor.history.epochs == [3, 4]


def test_a_later_batch_of_a_stream_that_cannot_be_kept_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []

    def copied(batch: Any) -> Any:
        passed.append(len(passed))
        if passed[-1] == 2:  # After one of the sanity check and the first one of training.
            raise torch.OutOfMemoryError("out of memory")
        return batch

    control = train(tmp_path, Fault(), train_loader=stream())
    monkeypatch.setattr(f"{ROOM}.callbacks.probes.copied", copied)
    monitor = fewest(training=24)
    monitored = train(tmp_path, Fault(), monitor, train_loader=stream())
    assert_unharmed(monitored, control)
    assert monitored.error is None
    assert monitor.history.epochs == [1, 2, 3, 4]
    assert monitor.failed == ()


# Reference models


@pytest.mark.parametrize(
    ("evidence", "error", "ends"),
    [
        (None, RuntimeError("no training"), None),
        (None, torch.OutOfMemoryError("out of memory"), None),
        (None, FULL_DISK, None),
        (Twins, RuntimeError("no training"), RuntimeError),
        (None, KeyboardInterrupt(), SystemExit),
    ],
    ids=str,
)
def test_a_reference_training_that_fails_ends_the_run_before_it_begins_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: Any, error: BaseException, ends: Any
) -> None:
    if ends is None:
        control = train(tmp_path, Fault())
    else:
        torch.manual_seed(0)
        model = Struck()
        control = Outcome({name: value.clone() for name, value in model.state_dict().items()}, [], settings(), None, [])
    trained = ReferenceTrainer._trained

    def fails(self: ReferenceTrainer, plan: Any, *others: Any) -> Any:
        if plan.seed % 2:
            torch.set_grad_enabled(False)
            torch.set_float32_matmul_precision("high")
            raise error
        return trained(self, plan, *others)

    monkeypatch.setattr(ReferenceTrainer, "_trained", fails)
    monitor = fewest(evidence=None if evidence is None else evidence())
    before = settings()
    try:
        monitored = train(tmp_path, Fault(), monitor)
    finally:
        after = settings()
        torch.set_grad_enabled(True)
        torch.set_float32_matmul_precision(before[1])
    assert isinstance(monitored.error, ends) if ends else monitored.error is None
    for name, value in control.weights.items():
        assert torch.equal(monitored.weights[name], value), name
    if ends is None:
        assert monitor.history.epochs == [0, 1, 2, 3, 4]
        assert isinstance(monitor.evidence, ParameterNoise)
    if isinstance(error, KeyboardInterrupt):
        assert after == before


# Interrupts


class Steady(Struck):
    """Nothing random, so that a resumed run, which cannot know the random state, trains as an unbroken one."""

    def __init__(self, strike: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__(strike)
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def resumable(root: Path, monitor: InteractionMonitor, epochs: int, model: Steady, **options: Any) -> None:
    saver = OnExceptionCheckpoint(root, filename="interrupted")
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=[Switch(), monitor, saver], enable_checkpointing=True)
    trainer.fit(model, tabular_loader(24), tabular_loader(12, seed=1), **options)


def test_interrupts_at_any_moment_of_a_measurement_leave_the_process_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, monitor, armed = Steady(), fewest(evidence=ParameterNoise()), False
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[monitor])
    trainer.fit(model, tabular_loader(24), tabular_loader(12, seed=1))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    now, before = monitor.history.measurements[-1].time, (settings(), random_states())

    def interrupt(*_args: Any) -> None:
        if armed:
            raise KeyboardInterrupt

    begin = time.perf_counter()
    monitor._measure(trainer, model, now, step=0, begin=begin)
    seconds, num_interrupted, draws = time.perf_counter() - begin, 0, random.Random(0)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(INTERRUPTS):
            armed = True
            try:
                signal.setitimer(signal.ITIMER_REAL, draws.uniform(1e-6, seconds))
                monitor._measure(trainer, model, now, step=0, begin=begin)
                armed = False
            except KeyboardInterrupt as error:
                armed = False
                num_interrupted += 1
                monitor.on_exception(trainer, model, error)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert (settings(), random_states()) == before
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert num_interrupted > INTERRUPTS // 4
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("epochs", "then"), [(EPOCHS, EPOCHS), (STRUCK, EPOCHS)], ids=["in the middle", "at the end of a run that is then longer"]
)
def test_a_measurement_that_is_interrupted_leaves_no_noise_and_is_made_up_for(tmp_path: Path, epochs: int, then: int) -> None:
    histories = []
    for strike in (None, sends(signal.SIGINT)):
        torch.manual_seed(0)
        model, monitor = Steady(strike), fewest(evidence=ParameterNoise())
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            resumable(tmp_path, monitor, then if strike is None else epochs, model)
        except SystemExit:
            assert monitor.history.epochs == [0, 1]
            saved = torch.load(tmp_path / "interrupted.ckpt", weights_only=True)["state_dict"]
            assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
            monitor = fewest(evidence=ParameterNoise())
            resumable(tmp_path, monitor, then, Steady(), ckpt_path=tmp_path / "interrupted.ckpt")
        finally:
            signal.signal(signal.SIGINT, interrupt)
        histories.append(monitor.history)
    unbroken, resumed = histories
    assert_same_history(resumed, unbroken, 1e-6)
