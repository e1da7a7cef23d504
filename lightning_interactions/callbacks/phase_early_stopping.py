"""Stopping a run when a phase of training sets in."""

from enum import Enum
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_interactions.callbacks.homecoming import address_of, send_home
from lightning_interactions.callbacks.interaction_monitor import InteractionMonitor
from lightning_interactions.callbacks.onset_checkpoint import OnsetKeeper
from lightning_interactions.records import Measurement, Phase

__all__ = ["PhaseEarlyStopping", "PhaseStoppingReason"]

STATE_VERSION = 1


class PhaseStoppingReason(Enum):
    """Why a run was stopped, in the manner of Lightning's ``EarlyStoppingReason``."""

    NOT_STOPPED = 0
    PHASE_ONSET = 1


class PhaseEarlyStopping(Callback):
    """Stop training when the :class:`InteractionMonitor` of the same Trainer detects a phase.

    The position in the list of callbacks does not matter: the monitor tells this callback about every measurement. The
    decision to stop is made once and stays, also where ``min_epochs`` or ``min_steps`` put off the end; a run that is resumed
    after it ends at once, unless with ``log_only``.

    With ``restore_best`` the module has, after a stop by this callback, the weights and buffers of the phase's onset: of the
    measurement from which on the phase is seen, which lies at or before the one at which it is detected. Before the phase is
    detected the weights of measurements that may turn out to be the onset are kept in files, without the state of optimizers
    and loops: ``Model.load_from_checkpoint(stopping.best_model_path)``. If training ends in another way, the final weights
    stay. With Lightning's ``WeightAveraging`` the average at the onset is kept and restored (phases are always measured on
    the weights that are trained).

    Stock callbacks work on the logged scalars, too; they look after each epoch, and find the last value logged::

        EarlyStopping("interactions/phase", mode="max", stopping_threshold=2.5, patience=max_epochs,
                      strict=False, check_on_train_epoch_end=True)
        ModelCheckpoint(monitor="interactions/expected_test_loss", mode="min", every_n_epochs=n, save_on_train_epoch_end=True)

    ``check_on_train_epoch_end`` and ``save_on_train_epoch_end`` make them look after the measurement where validation is not
    after each epoch. Where measurements are not (``EveryNEpochs(n)``), ``strict=False`` bears that there is no value at first,
    and ``every_n_epochs=n`` keeps the old value from being taken for that of newer weights.

    Args:
        phase: The phase at whose onset to stop, 2 or 3.
        alpha: Stop only on a confidence of ``1 - alpha`` or more, which is at most the monitor's ``alpha``; the same as the
            monitor's if left out. A phase detected on less counts from the first measurement on that reaches it in the phase.
        patience: Further measurements that must stay in the phase (or a later one); a return begins anew.
        restore_best: Give the module the weights of the onset when this callback has stopped the run.
        log_only: Note the onset, and with ``restore_best`` keep its checkpoint, but train on and restore nothing.
        dirpath: Where ``restore_best`` keeps its checkpoint; with the Trainer's other checkpoints if left out. Every process
            must see this folder. A resumed run also looks beside the checkpoint that it is resumed from, and leaves the files
            of the run before it there.
        monitor: Name of the monitor to follow; may be left out if there is only one.
        verbose: Say the onset and its reason on the console.

    Attributes:
        onset_epoch: Completed epochs at the onset of the phase that the run is in, and after the decision of the one that
            decided; ``None`` while there is none.
        onset_step: Optimizer steps taken then.
        detected_epoch: Completed epochs at the measurement at which the phase had confidence enough; ``None`` until then.
        wait_count: Measurements in the phase since then.
        stopped_epoch: Lightning's zero-based epoch in which training was stopped; 0 if it was not.
        stopping_reason: A :class:`PhaseStoppingReason`.
        stopping_reason_message: The reason in words, with its numbers; ``None`` until the decision.

    Raises:
        MisconfigurationException: If ``phase`` is neither 2 nor 3, ``alpha`` not in (0, 1), or ``patience`` negative; when
            training starts, if there is no such monitor, or it allows itself fewer errors than ``alpha``.
    """

    def __init__(
        self,
        phase: int = 3,
        *,
        alpha: float | None = None,
        patience: int = 0,
        restore_best: bool = False,
        log_only: bool = False,
        dirpath: str | Path | None = None,
        monitor: str | None = None,
        verbose: bool = True,
    ) -> None:
        if phase not in (2, 3):
            raise MisconfigurationException(f"PhaseEarlyStopping: expected phase 2 or 3, got {phase}")
        if (alpha is not None and not 0 < alpha < 1) or patience < 0:
            raise MisconfigurationException(
                f"PhaseEarlyStopping: expected alpha in (0, 1) and patience of at least 0, got {alpha} and {patience}"
            )
        self.phase = phase
        self.alpha = alpha
        self.patience = patience
        self.restore_best = restore_best
        self.log_only = log_only
        self.monitor = monitor
        self.verbose = verbose
        prefix = "" if monitor is None else monitor.replace("/", "-").replace("\\", "-") + "-"
        self._address = address_of(self)
        self._keeper = OnsetKeeper(dirpath, f"{prefix}phase-{phase}-onset")
        self.onset_epoch: int | None = None
        self.onset_step: int | None = None
        self.detected_epoch: int | None = None
        self.wait_count = 0
        self.stopped_epoch = 0
        self.stopping_reason = PhaseStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._address = address_of(self, self._address)

    @property
    def best_model_path(self) -> str:
        """Path of the checkpoint of the onset, with ``restore_best``; empty while there is none."""
        return self._keeper.best_model_path

    @property
    def state_key(self) -> str:
        """A key of its own for each phase and monitor."""
        return self._generate_state_key(phase=self.phase, monitor=self.monitor)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a monitor to follow, and forget the onset of a run before this one."""
        if stage != "fit":
            return
        self._check(self._followed(trainer))
        if trainer.global_step == 0:  # The state of a run that is gone on with is loaded later.
            self.load_state_dict({})
        self._keeper.begin()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again if the run that is gone on with was stopped."""
        if self.restore_best:
            self._keeper.check(trainer)
        if self._stops:
            rank_zero_info(
                f"PhaseEarlyStopping: this run was stopped before, in {self.stopping_reason_message}; it trains on with "
                "log_only=True"
            )
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights of a measurement at the end of the last epoch, if they may be needed."""
        self._keeper.write(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the weights of a measurement after the last batch, if they may be needed."""
        self._keeper.write(trainer, pl_module)

    def on_interactions_measured(self, trainer: Trainer, pl_module: LightningModule, monitor: InteractionMonitor) -> None:
        """Decide whether to stop; called by the monitor after each of its measurements."""
        if trainer.fast_dev_run or monitor.phase is None or (self.monitor is not None and monitor.name != self.monitor):
            return
        if self._decided:
            return
        phase, agree = monitor.phase, trainer.strategy.reduce_boolean_decision
        if not agree(phase.number >= self.phase, all=False):
            self.onset_epoch = self.onset_step = self.detected_epoch = self._keeper.best_step = None
            self.wait_count = 0
            self._keep(trainer, {one.onset.step for one in phase.tests if one.phase >= self.phase})
            return
        measurement = monitor.history.measurements[-1]
        if self.onset_step is None:
            self._enter(trainer, phase, measurement)
        if self.detected_epoch is not None:
            self.wait_count += 1
        elif agree(self._suffices(phase), all=False):
            self.detected_epoch = measurement.time.epoch
        if self.detected_epoch is not None and self.wait_count >= self.patience:
            self._decide(trainer, phase)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epochs that ``min_epochs`` and ``min_steps`` add."""
        if self._stops:
            self.stopped_epoch = trainer.current_epoch

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the weights of the onset, when no callback has anything left to do with those of the end.

        Before, the weights of the last measurement are written, if they may be needed.
        """
        self._keeper.write(trainer, pl_module)
        # Without a step to go back to it has been said why.
        if self._stops and self.restore_best and self._keeper.best_step is not None:
            self._keeper.restore(trainer, pl_module)
        send_home(trainer, self, self._address)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, in primitives."""
        return {
            "version": STATE_VERSION,
            "onset_epoch": self.onset_epoch,
            "onset_step": self.onset_step,
            "detected_epoch": self.detected_epoch,
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
            "kept": self._keeper.names,
            "best_step": self._keeper.best_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; missing keys keep their defaults."""
        self.onset_epoch = state_dict.get("onset_epoch")
        self.onset_step = state_dict.get("onset_step")
        self.detected_epoch = state_dict.get("detected_epoch")
        self.wait_count = state_dict.get("wait_count", 0)
        self.stopped_epoch = state_dict.get("stopped_epoch", 0)
        self.stopping_reason = PhaseStoppingReason(state_dict.get("stopping_reason", PhaseStoppingReason.NOT_STOPPED.value))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")
        self._keeper.load(state_dict.get("kept", {}), state_dict.get("best_step"))

    @property
    def _decided(self) -> bool:
        return self.stopping_reason_message is not None

    @property
    def _stops(self) -> bool:
        return self.stopping_reason is PhaseStoppingReason.PHASE_ONSET and not self.log_only

    def _followed(self, trainer: Trainer) -> InteractionMonitor:
        monitors = {callback.name: callback for callback in trainer.callbacks if isinstance(callback, InteractionMonitor)}
        names = list(monitors)
        if not names or (self.monitor is not None and self.monitor not in names):
            wanted = "an InteractionMonitor" if self.monitor is None else f"an InteractionMonitor named {self.monitor!r}"
            raise MisconfigurationException(
                f"PhaseEarlyStopping: expected {wanted} among the Trainer's callbacks, found {names or 'none'}"
            )
        if self.monitor is None and len(names) > 1:
            raise MisconfigurationException(
                f"PhaseEarlyStopping: there are several monitors, say which to follow: monitor= one of {names}"
            )
        return monitors[names[0] if self.monitor is None else self.monitor]

    def _check(self, monitor: InteractionMonitor) -> None:
        if self.alpha is not None and self.alpha > monitor.alpha:
            raise MisconfigurationException(
                f"PhaseEarlyStopping: expected alpha of at most {monitor.alpha}, on which the monitor detects phases, got "
                f"{self.alpha}; to stop on less evidence, let the monitor detect on less with its own alpha"
            )

    def _suffices(self, phase: Phase) -> bool:
        """Whether this measurement, or the detection, has confidence enough that the phase followed has come."""
        if self.alpha is None:
            return True
        detected = phase.number >= self.phase and phase.confidence >= 1 - self.alpha
        return detected or any(one.p_value <= self.alpha for one in phase.tests if one.phase >= self.phase)

    def _enter(self, trainer: Trainer, phase: Phase, measurement: Measurement) -> None:
        """Note the onset, and keep the state that comes nearest to it."""
        now = measurement.time
        # A rank that is overruled knows of no onset.
        onset = phase.onset if phase.number >= self.phase else now
        self.onset_epoch, self.onset_step = trainer.strategy.broadcast((onset.epoch, onset.step))
        if not self.restore_best:
            return
        if now.step == 0 < now.epoch:
            rank_zero_warn(
                "PhaseEarlyStopping: expected optimizers whose steps the Trainer counts, got none, so no weights can be told "
                "to be those of the onset and restore_best restores none; return the optimizers from configure_optimizers"
            )
            return
        best = self.onset_step
        if best not in (*self._keeper.paths, now.step):
            best = now.step
            rank_zero_warn(
                f"PhaseEarlyStopping: no checkpoint was kept at the onset after epoch {self.onset_epoch}, which no test "
                f"announced or whose file is gone, so restore_best keeps the weights of the detection, after epoch {now.epoch}"
            )
        self._keeper.best_step = best
        self._keep(trainer, {best})

    def _keep(self, trainer: Trainer, steps: set[int]) -> None:
        if self.restore_best:
            self._keeper.keep(trainer, trainer.strategy.broadcast(steps))

    def _decide(self, trainer: Trainer, phase: Phase) -> None:
        """Note why to stop, and do so unless only to log or another such callback has stopped the run already."""
        stayed = f"; {self.wait_count} further measurements stayed in it" if self.patience else ""
        self.stopping_reason_message = f"{phase}{stayed}"
        if self.verbose:
            rank_zero_info(f"PhaseEarlyStopping: {self.stopping_reason_message}")
        stopped = any(isinstance(callback, PhaseEarlyStopping) and callback._stops for callback in trainer.callbacks)
        if not self.log_only and not stopped:
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason = PhaseStoppingReason.PHASE_ONSET
