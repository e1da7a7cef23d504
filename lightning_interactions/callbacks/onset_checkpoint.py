"""The weights of the measurements that may turn out to be an onset."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_interactions.callbacks.attempts import Attempt
from lightning_interactions.references.internals import classes

__all__ = ["OnsetKeeper"]


class OnsetKeeper:
    """Keep the weights of each wanted measurement; after training, give the module those of one.

    What is written is a checkpoint for ``load_from_checkpoint`` and ``trainer.test(ckpt_path=...)``: weights, buffers, what the
    module itself adds, hyperparameters, and averages of weights if a callback makes them. Optimizers and loops are not in it.
    It is written when all callbacks and the module are done with the hook in which was measured.

    A state names files, not paths: whoever wrote it decides nothing about what lies elsewhere. A run that is gone on with reads
    what the run before it has kept, and removes only what it has written itself.

    Args:
        dirpath: Folder of the checkpoints; that of the Trainer's ``ModelCheckpoint``, else ``checkpoints`` in its log folder.
        prefix: How file names begin.

    Attributes:
        paths: Where the checkpoint of each kept measurement lies, by the optimizer steps taken then. Those that a loaded state
            names are not among them before training starts.
        best_step: The one that counts as the onset; ``None`` while there is none.
    """

    def __init__(self, dirpath: str | Path | None, prefix: str) -> None:
        self.dirpath = dirpath
        self.prefix = prefix
        self.paths: dict[int, str] = {}
        self.best_step: int | None = None
        self._unwritten: int | None = None
        self._superseded: list[str] = []
        self._own: set[str] = set()
        self._earlier: dict[int, str] = {}
        self._removable: set[str] = set()

    @property
    def best_model_path(self) -> str:
        """Path of the checkpoint of the onset; empty while there is none."""
        return "" if self.best_step is None else self.paths.get(self.best_step, "")

    @property
    def names(self) -> dict[int, str]:
        """File names of the kept checkpoints, for a state that is saved."""
        return {**self._earlier, **{step: os.path.basename(path) for step, path in self.paths.items()}}

    def load(self, names: Any, best_step: int | None) -> None:
        """Take up what a saved state names; the files are looked for when training starts."""
        self.paths, self._earlier, self._removable = {}, {}, set()
        self.best_step = best_step
        for step, name in names.items() if isinstance(names, dict) else [(None, names)]:
            if isinstance(step, int) and self._is_name(name):
                self._earlier[step] = name
            else:
                rank_zero_warn(
                    f"PhaseEarlyStopping: expected a saved state that names files {self.prefix}*.ckpt by the steps of their "
                    f"measurements, without a folder, got {name!r:.200} for {step!r:.50}, which is left out; put the file into "
                    "the folder of the onset's checkpoints or beside ckpt_path, and save its name alone"
                )

    def begin(self) -> None:
        """Forget what a run that was ended has left to write."""
        self._unwritten, self._superseded = None, []

    def check(self, trainer: Trainer) -> None:
        """Say if the onset of the run that is gone on with is missing."""
        for step, path in list(self.paths.items()):
            if step != self._unwritten and not self._all_see(trainer, path):
                del self.paths[step]
                self._say_gone(step, [path])
        self._find_earlier(trainer)

    def keep(self, trainer: Trainer, steps: Collection[int]) -> None:
        """Keep the state of this very moment if its step is wanted, and no other state than the wanted ones.

        The file is written by the next :meth:`write`; its path is known at once, so that checkpoints which others write before
        name it.
        """
        self._find_earlier(trainer)
        self._superseded += [path for step, path in self.paths.items() if step not in steps]
        self.paths = {step: path for step, path in self.paths.items() if step in steps}
        if trainer.global_step in steps and trainer.global_step not in self.paths:
            self.paths[trainer.global_step] = self._free_path(trainer)
            self._unwritten = trainer.global_step

    def restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore weights and buffers as ``trainer.test(ckpt_path=...)`` would; optimizers stay as they are."""
        path, checkpoint = self.best_model_path, None
        if path and self._exists(path):
            try:
                # Python objects among the hyperparameters are no danger in a file that this process wrote.
                checkpoint = trainer.strategy.load_checkpoint(path, weights_only=False if path in self._own else None)
            except Exception as error:
                rank_zero_warn(f"PhaseEarlyStopping: the checkpoint of the onset at {path} cannot be read: {error!r}")
        right = checkpoint is not None and checkpoint.get("global_step") == self.best_step
        if not trainer.strategy.reduce_boolean_decision(right, all=True) or checkpoint is None:
            rank_zero_warn(
                f"PhaseEarlyStopping: expected the checkpoint of the onset at {path or 'some path'} on every rank and found "
                "none or another one there, so the module keeps its final weights"
            )
            return
        final: dict[str, torch.Tensor] = {}
        with Attempt(f"PhaseEarlyStopping: restoring the weights of the onset from {path}", trainer=trainer) as attempt:
            tensors = {name: value for name, value in pl_module.state_dict().items() if isinstance(value, torch.Tensor)}
            final = {name: value.to("cpu", copy=True) for name, value in tensors.items()}
            pl_module.on_load_checkpoint(checkpoint)
            trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
        if attempt.failed:  # What was loaded before it failed must not be mixed with the rest.
            pl_module.load_state_dict(final, strict=False)
        else:
            rank_zero_info(f"PhaseEarlyStopping: restored the weights of the onset from {path}")

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was last wanted, and remove afterwards what is not any more: there is a whole file at any time."""
        if self._unwritten is not None:
            step, self._unwritten = self._unwritten, None
            path = self.paths[step]
            # One process writes, and all may read it next.
            with Attempt(f"PhaseEarlyStopping: writing {path}", trainer=trainer) as attempt:
                trainer.strategy.save_checkpoint(self._checkpoint(trainer, pl_module), path)
            if attempt.failed:
                del self.paths[step]
                return
            self._own.add(path)
            self._removable.add(path)
        superseded, self._superseded = self._superseded, []
        for path in superseded:
            resumed_from = trainer.ckpt_path is not None and _absolute(trainer.ckpt_path) == path
            if path in self._removable and os.path.dirname(path) == self._folder(trainer) and not resumed_from:
                with Attempt(f"PhaseEarlyStopping: removing {path}"):
                    trainer.strategy.remove_checkpoint(path)

    @staticmethod
    def _checkpoint(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        checkpoint = {
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": trainer.strategy.lightning_module_state_dict(),
        }
        if pl_module.hparams:
            checkpoint[pl_module.CHECKPOINT_HYPER_PARAMS_KEY] = dict(pl_module.hparams)
        for callback in trainer.callbacks:
            # Their averages are what the module will have.
            if isinstance(callback, classes("WeightAveraging", "callbacks")):
                callback.on_save_checkpoint(trainer, pl_module, checkpoint)
        for to_go_on in ("current_model_state", "averaging_state"):
            checkpoint.pop(to_go_on, None)
        pl_module.on_save_checkpoint(checkpoint)
        return checkpoint

    def _find_earlier(self, trainer: Trainer) -> None:
        """Look for the files that a loaded state names, in the own folder and beside the checkpoint that is gone on from."""
        if not self._earlier:
            return
        folders = [self._folder(trainer)]
        if trainer.ckpt_path is not None:
            folders.append(os.path.dirname(_absolute(trainer.ckpt_path)))
        for step, name in self._earlier.items():
            candidates = [os.path.join(folder, name) for folder in dict.fromkeys(folders)]
            seen = next((path for path in candidates if self._all_see(trainer, path)), None)
            if seen is None:
                self._say_gone(step, candidates)
            else:
                self.paths[step] = seen
        self._earlier = {}

    def _say_gone(self, step: int, paths: list[str]) -> None:
        # Before the call this is nothing to speak of: the run went on, and a later measurement took the place of this one, as
        # will happen again.
        if step == self.best_step:
            rank_zero_warn(f"PhaseEarlyStopping: {' or '.join(paths)} is gone, so the weights of the onset cannot be restored")

    def _is_name(self, name: Any) -> bool:
        """Whether this is the plain name of a file that such a keeper may have written."""
        return (
            isinstance(name, str)
            and name.startswith(self.prefix)
            and name.endswith(".ckpt")
            and not any(separator in name for separator in ("/", "\\", "\0"))
        )

    def _free_path(self, trainer: Trainer) -> str:
        """Name the state of this moment; files that lie there already belong to another run, or to this one before a resume."""
        stem = os.path.join(self._folder(trainer), f"{self.prefix}-step={trainer.global_step}")
        path, version = f"{stem}.ckpt", 0
        while trainer.is_global_zero and self._exists(path):
            version += 1
            path = f"{stem}-v{version}.ckpt"
        return trainer.strategy.broadcast(path)

    def _folder(self, trainer: Trainer) -> str:
        folder = self.dirpath
        if folder is None:
            savers = [
                saver for saver in trainer.checkpoint_callbacks if isinstance(saver, classes("ModelCheckpoint", "callbacks"))
            ]
            folder = next((saver.dirpath for saver in savers if saver.dirpath), None)
        if folder is None:
            folder = os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        return _absolute(os.path.expanduser(folder))

    def _all_see(self, trainer: Trainer, path: str) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._exists(path), all=True)

    @staticmethod
    def _exists(path: str) -> bool:
        return bool(get_filesystem(path).exists(path))


def _absolute(path: str | Path) -> str:
    return str(path) if "://" in str(path) else os.path.abspath(path)
