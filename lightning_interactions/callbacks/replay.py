"""Measuring a finished run from its checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.nn.parameter import UninitializedParameter

from lightning_interactions.callbacks.interaction_monitor import InteractionMonitor
from lightning_interactions.records import TimePoint
from lightning_interactions.records.files import UnreadableError, load_safely
from lightning_interactions.references.internals import classes, deaf_logger
from lightning_interactions.references.trainer import progress, without_callbacks_of_its_own

__all__ = ["find_checkpoints", "replay", "save_monitors"]

NAMED = 3
"""So many parameters that do not fit are named."""


@dataclass(frozen=True)
class _Saved:
    """A checkpoint on disk.

    Attributes:
        path: The file.
        time: The moment of the run.
        ends_epoch: Whether it was written at the end of an epoch.
        shapes: Of each tensor of the module's state.
        hyperparameters: Those of the module.
    """

    path: Path
    time: TimePoint
    ends_epoch: bool
    shapes: Mapping[str, tuple[int, ...]]
    hyperparameters: Mapping[str, Any]


def replay(
    trainer: Trainer,
    model: LightningModule,
    checkpoints: Sequence[str | Path],
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
) -> list[InteractionMonitor]:
    """Measure a finished run from its checkpoints, as if its monitors had watched it; nothing is trained but reference models.

    The Trainer sets everything up as for a fit, on its devices and nodes, and ends before the first step. In between its
    monitors fit their evidence, draw their probes and measure the untrained module and each checkpoint. The history is the one
    that live monitoring gives, seconds aside, if module, data and settings are those of the run: the module begins with the
    same weights (or a checkpoint of step 0 is among the others), the data are the same, and the checkpoints were written when
    the run would have been measured. Phases are detected from the checkpoints that there are.

    Args:
        trainer: A new Trainer, made as that of the run. Of its callbacks only the monitors and the progress bar run; it needs a
            limit of epochs or steps, as it had then. Its loggers, which may be those of the run, are told nothing, and are its
            own again afterwards.
        model: The module as it was before the run. It has the weights of the last checkpoint afterwards.
        checkpoints: Files that Lightning has written, in any order; folders stand for the ``.ckpt`` files in them. Several of
            the same moment count once.
        train_dataloaders: As for ``Trainer.fit``.
        val_dataloaders: As for ``Trainer.fit``.
        datamodule: As for ``Trainer.fit``.

    Returns:
        The Trainer's monitors, with the history of the run; one with the defaults if the Trainer had none.

    Raises:
        MisconfigurationException: If a file is no checkpoint of Lightning, or one of another module or run; if the training
            data can only be watched as they pass.
    """
    saved = _in_order([_read(path) for path in find_checkpoints(checkpoints)])
    own = [callback for callback in trainer.callbacks if isinstance(callback, InteractionMonitor)]
    monitors = own or [InteractionMonitor()]
    bars = [callback for callback in trainer.callbacks if isinstance(callback, classes("ProgressBar", "callbacks"))]
    for bar in bars:  # It would show a training that stands still.
        bar.disable()
    for monitor in monitors:
        monitor.replays = len(saved) + (saved[0].time != TimePoint(0, 0))
    trainer.callbacks = [*bars, *monitors, _Replay(saved, monitors)]
    # The end of a training that does not begin must not be put off.
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = None, None
    # They would write into the folder of the run, over its metrics even; a module may count on having one all the same.
    loggers = trainer.loggers
    trainer.loggers = [deaf_logger(model)] if loggers else []
    try:
        with without_callbacks_of_its_own(model):
            trainer.fit(model, train_dataloaders, val_dataloaders, datamodule)
    finally:
        trainer.loggers = loggers
        for monitor in monitors:
            monitor.replays = None
    return monitors


def find_checkpoints(paths: Sequence[str | Path]) -> list[Path]:
    """List checkpoint files; a folder stands for the ``.ckpt`` files in it.

    Raises:
        MisconfigurationException: If there is none, or a file does not exist.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.ckpt")) if path.is_dir() else [path]
        if not inside or not all(one.is_file() for one in inside):
            raise MisconfigurationException(f"replay: expected a checkpoint, or a folder with some, got {path}")
        found += inside
    if not found:
        raise MisconfigurationException("replay: expected at least one checkpoint, got none")
    return list(dict.fromkeys(found))


def save_monitors(monitors: Sequence[InteractionMonitor], path: str | Path) -> None:
    """Write monitors to a file, as a checkpoint has them: what the commands read as a run.

    Args:
        monitors: With a history.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    with Path(path).open("wb") as file:
        torch.save({"callbacks": {monitor.state_key: monitor.state_dict() for monitor in monitors}}, file)


class _Replay(Callback):
    """Lets monitors measure checkpoints, and keeps the Trainer from training.

    Args:
        saved: The checkpoints in the order of time.
        monitors: What measures; they stand before this in the Trainer's list.
    """

    def __init__(self, saved: Sequence[_Saved], monitors: Sequence[InteractionMonitor]) -> None:
        self.saved = saved
        self.monitors = monitors
        self._counts_at_end: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse checkpoints of other modules before anything takes long; begin with the weights of step 0 if there are."""
        _check_fits(pl_module, self.saved)
        if self.saved[0].time == TimePoint(0, 0):
            self._load(trainer, pl_module, self.saved[0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure all checkpoints, and end the fit before the first step."""
        trainer.should_stop = True
        counts = trainer.fit_loop.state_dict()
        with progress(len(self.saved), trainer, "Measuring checkpoints", "checkpoint") as bar:
            for saved in self.saved:
                # That of step 0 was measured as the untrained module.
                waiting = [monitor for monitor in self.monitors if saved.time not in _times(monitor)]
                if waiting:
                    self._load(trainer, pl_module, saved)
                for monitor in waiting:
                    monitor.measure_checkpoint(trainer, pl_module, saved.time, ends_epoch=saved.ends_epoch)
                bar.update()
        self._counts_at_end = trainer.fit_loop.state_dict()
        # Nothing was trained: with those of the run's end the Trainer would say that it had reached its limit.
        trainer.fit_loop.load_state_dict(counts)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the Trainer stand where the checkpoints end, as it did when the run had ended."""
        trainer.fit_loop.load_state_dict(self._counts_at_end)
        # A checkpoint is written before its epoch counts as completed.
        trainer.fit_loop.epoch_progress.current.completed = self.saved[-1].time.epoch

    @staticmethod
    def _load(trainer: Trainer, model: LightningModule, saved: _Saved) -> None:
        """Give the module the weights of a checkpoint, and the Trainer its counts, which a module's step may look at."""
        checkpoint = _load(saved.path)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(_weights(checkpoint))
        trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])


def _times(monitor: InteractionMonitor) -> list[TimePoint]:
    return [measurement.time for measurement in monitor.history.measurements]


def _load(path: Path) -> dict[str, Any]:
    try:
        found = load_safely(path)
    except (UnreadableError, OSError) as error:
        raise MisconfigurationException(f"replay: expected a checkpoint of Lightning: {error}") from error
    if not isinstance(found, dict) or not {"state_dict", "loops", "global_step"} <= found.keys():
        raise MisconfigurationException(
            f"replay: expected a checkpoint that a Trainer has written at {path}, got a file without its state_dict and loops; "
            "weights that PhaseEarlyStopping keeps of an onset do not say where in the run they are from"
        )
    return found


def _weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights that were trained; a run that averages weights saves those beside the averages."""
    found: dict[str, Any] = checkpoint.get("current_model_state", checkpoint["state_dict"])
    return found


def _read(path: Path) -> _Saved:
    checkpoint = _load(path)
    try:
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        completed = epochs["completed"]
        if epochs["processed"] > completed:  # It was written in a hook of the epoch's end,
            ends_epoch = True
        else:  # or after the validation that comes right before.
            ends_epoch = epochs["ready"] > completed and bool(loop["epoch_loop.batch_progress"]["is_last_batch"])
        time = TimePoint(completed + ends_epoch, checkpoint["global_step"])
        weights = {name: one for name, one in _weights(checkpoint).items() if isinstance(one, torch.Tensor)}
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        # One that was written after the fit has the epoch completed, and ends it all the same.
        is_after = completed > 0 and epochs["ready"] == completed
        return _Saved(path, time, ends_epoch or is_after, shapes, dict(checkpoint.get("hyper_parameters", {})))
    except Exception as error:  # Whatever a checkpoint of something else makes of this.
        raise MisconfigurationException(
            f"replay: expected a whole checkpoint of Lightning at {path}, got a broken one: {error!r}"
        ) from error


def _in_order(saved: Sequence[_Saved]) -> list[_Saved]:
    """Sort checkpoints of one run by time; of several of the same moment one is enough."""
    ordered = sorted(saved, key=lambda one: (one.time.step, one.time.epoch))
    first = ordered[0]
    for other in ordered[1:]:
        if first.shapes != other.shapes or first.hyperparameters != other.hyperparameters:
            kind = "weights of other shapes" if first.shapes != other.shapes else "other hyperparameters"
            raise MisconfigurationException(
                f"replay: expected checkpoints of one run, got {first.path} and {other.path}, which have {kind}; replay each "
                "run alone"
            )
    moments: dict[TimePoint, _Saved] = {}
    for one in ordered:
        known = moments.setdefault(one.time, one)
        if known is not one and not _same_weights(known.path, one.path):
            raise MisconfigurationException(
                f"replay: expected checkpoints of one run, got {known.path} and {one.path}, which are of the same moment "
                f"(epoch {one.time.epoch}, step {one.time.step}) and have other weights; replay each run alone"
            )
    return list(moments.values())


def _same_weights(path: Path, other: Path) -> bool:
    own, others = (_weights(_load(one)) for one in (path, other))
    return all(not isinstance(own[name], torch.Tensor) or torch.equal(own[name], others[name]) for name in own)


def _check_fits(model: LightningModule, saved: Sequence[_Saved]) -> None:
    """Refuse checkpoints of another module than this one."""
    state = model.state_dict()
    expected = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    shapes = saved[0].shapes
    without_shape = {name for name, tensor in expected.items() if isinstance(tensor, UninitializedParameter)}
    different = [
        f"{name}: {_shape(expected, name)} in the module, {shapes.get(name, 'none')} in the checkpoint"
        for name in dict.fromkeys([*expected, *shapes])
        if name not in without_shape
        and (name not in expected or name not in shapes or tuple(expected[name].shape) != shapes[name])
    ]
    if different:
        more = f"; and {len(different) - NAMED} more" if len(different) > NAMED else ""
        raise MisconfigurationException(
            f"replay: expected checkpoints of {type(model).__name__} as it is configured, got {saved[0].path}, which is of "
            f"another model: {'; '.join(different[:NAMED])}{more}; configure the module as in the run"
        )


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(tensors[name].shape) if name in tensors else "none"
