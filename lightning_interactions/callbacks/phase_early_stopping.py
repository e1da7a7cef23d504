"""Stopping a run when a phase of training sets in."""

from enum import Enum
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_interactions.callbacks.interaction_monitor import InteractionMonitor

__all__ = ["PhaseEarlyStopping", "PhaseStoppingReason"]

STATE_VERSION = 1


class PhaseStoppingReason(Enum):
    """Why a run was stopped, in the manner of Lightning's ``EarlyStoppingReason``."""

    NOT_STOPPED = 0
    PHASE_ONSET = 1


class PhaseEarlyStopping(Callback):
    """Stop training when the :class:`InteractionMonitor` of the same Trainer calls a phase.

    The position in the list of callbacks does not matter: the monitor tells this callback about every measurement.

    Args:
        phase: The phase at whose onset to stop, 2 or 3.
        log_only: Note the onset but train on.
        monitor: Name of the monitor to follow; may be left out if there is only one.
        verbose: Say the onset and its reason on the console.

    Attributes:
        onset_epoch: Completed epochs at the first onset of the phase; ``None`` until it happens.
        stopped_epoch: Lightning's zero-based epoch in which training was stopped; 0 if it was not.
        stopping_reason: A :class:`PhaseStoppingReason`.
        stopping_reason_message: The reason of the onset in words, with its numbers; ``None`` until then.

    Raises:
        MisconfigurationException: If ``phase`` is neither 2 nor 3, or, when training starts, if there is no such monitor.
    """

    def __init__(self, phase: int = 3, *, log_only: bool = False, monitor: str | None = None, verbose: bool = True) -> None:
        if phase not in (2, 3):
            raise MisconfigurationException(f"PhaseEarlyStopping: expected phase 2 or 3, got {phase}")
        self.phase = phase
        self.log_only = log_only
        self.monitor = monitor
        self.verbose = verbose
        self.onset_epoch: int | None = None
        self.stopped_epoch = 0
        self.stopping_reason = PhaseStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None

    @property
    def state_key(self) -> str:
        """A key of its own for each phase and monitor."""
        return self._generate_state_key(phase=self.phase, monitor=self.monitor)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a monitor to follow."""
        if stage != "fit":
            return
        names = [callback.name for callback in trainer.callbacks if isinstance(callback, InteractionMonitor)]
        if not names or (self.monitor is not None and self.monitor not in names):
            wanted = "an InteractionMonitor" if self.monitor is None else f"an InteractionMonitor named {self.monitor!r}"
            raise MisconfigurationException(
                f"PhaseEarlyStopping: expected {wanted} among the Trainer's callbacks, found {names or 'none'}"
            )
        if self.monitor is None and len(names) > 1:
            raise MisconfigurationException(
                f"PhaseEarlyStopping: there are several monitors, say which to follow: monitor= one of {names}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the onset of a run before this one."""
        if trainer.global_step == 0:
            self.load_state_dict({})

    def on_interactions_measured(self, trainer: Trainer, pl_module: LightningModule, monitor: InteractionMonitor) -> None:
        """Stop if the monitored phase has begun; called by the monitor after each of its measurements."""
        if trainer.fast_dev_run or monitor.phase is None or (self.monitor is not None and monitor.name != self.monitor):
            return
        begun = trainer.strategy.reduce_boolean_decision(monitor.phase.number >= self.phase, all=False)
        if not begun:
            return
        if self.onset_epoch is None:
            self.onset_epoch = monitor.phase.onset_epoch
            self.stopping_reason_message = str(monitor.phase)
            if self.verbose:
                rank_zero_info(f"PhaseEarlyStopping: {monitor.phase}")
        if not self.log_only:
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason = PhaseStoppingReason.PHASE_ONSET

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, in primitives."""
        return {
            "version": STATE_VERSION,
            "onset_epoch": self.onset_epoch,
            "stopped_epoch": self.stopped_epoch,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; missing keys keep their defaults."""
        self.onset_epoch = state_dict.get("onset_epoch")
        self.stopped_epoch = state_dict.get("stopped_epoch", 0)
        self.stopping_reason = PhaseStoppingReason(state_dict.get("stopping_reason", PhaseStoppingReason.NOT_STOPPED.value))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")
