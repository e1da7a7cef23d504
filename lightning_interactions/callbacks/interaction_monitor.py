"""The callback that measures a run's interactions."""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_interactions.analysis import detect_phases, explain_second_phase
from lightning_interactions.callbacks.attempts import Attempt
from lightning_interactions.callbacks.checks import (
    check_kinds,
    check_names,
    check_number_of_batches,
    check_same_settings,
    check_shapes,
    check_strategy,
)
from lightning_interactions.callbacks.homecoming import address_of, send_home
from lightning_interactions.callbacks.label_issues import label_issues_of
from lightning_interactions.callbacks.loggers import Loggers, Logging
from lightning_interactions.callbacks.notices import (
    Notices,
    say_failed,
    say_if_long,
    say_limits,
    say_what_is_measured,
    shown,
)
from lightning_interactions.callbacks.preparation import MeterSettings, Preparation
from lightning_interactions.callbacks.run_evidence import RunEvidence
from lightning_interactions.callbacks.run_identity import RunIdentity
from lightning_interactions.callbacks.saved_probes import OtherProbesError
from lightning_interactions.evidence import Evidence
from lightning_interactions.game.baselines import Baseline
from lightning_interactions.game.players import Players
from lightning_interactions.game.steps import FirstBatchError, OwnStep
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.cost import Expense, MeasuringCost
from lightning_interactions.measuring.isolation import Safeguard
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING, Extraction, InteractionMeter
from lightning_interactions.measuring.probes import ProbeSampling
from lightning_interactions.measuring.schedule import FitLength, Planned, Schedule, Timetable
from lightning_interactions.records import History, Interactions, LabelIssues, Phase, PlotKind, SecondPhase, TimePoint
from lightning_interactions.references.fit_length import fit_length
from lightning_interactions.references.internals import steps_logged
from lightning_interactions.reporting import RunRecord, write_html

__all__ = ["InteractionMonitor"]

STATE_VERSION = 2

MOST_FAILED = 1024
"""So many measurements that failed are remembered."""


class InteractionMonitor(Callback):
    """Measure during a training which interactions the network has learned, and which of them generalize.

    Training goes on exactly as it would without the callback: measurements leave weights, random states, buffers and
    modes as they were.

    Args:
        players: The input variables; chosen by the inputs if left out, such as 3x3 patches of images.
        task: What is explained and what is minimised; :class:`~lightning_interactions.tasks.OwnStep` if left out, which finds
            that out from the module's own step.
        evidence: What decides "generalizable"; :class:`~lightning_interactions.Twins` if left out, which trains two models on
            the two halves of the run's data when training starts. Where that cannot be done, such as with streams,
            :class:`~lightning_interactions.evidence.ParameterNoise` takes their place, with a warning that says why.
        baseline: What masked players are replaced with; chosen by the players if left out, zeros for most.
        probes: Which inputs are measured.
        extraction: How they are evaluated and rewritten as interactions.
        schedule: When to measure; :class:`~lightning_interactions.schedules.Planned` if left out: about 40 times in the whole
            fit, denser early, after every epoch if there are fewer.
        alpha: Probability of a false onset in a whole run that the phase detector allows itself.
        logging: What is written where.
        on_error: ``"warn"`` leaves a measurement out that fails, on all processes if it fails on one, and goes on; ``"raise"``
            ends the run. Before the first step any error ends it.
        name: Prefix of the logged names; needed where a Trainer has several monitors.

    Attributes:
        history: All measurements and the phases detected at them, a :class:`~lightning_interactions.records.History`.
        failed: When measurements failed and were left out, in the order of time; the last 1,024.
        replays: How many measurements of checkpoints there will be; ``None`` in a training.
        final_interactions: Interactions on the training probes at the first measurement in phase 3, else at the last one, on
            the CPU: what :meth:`second_phase` explains. ``None`` before the first measurement.
        final_weights: How far each of them generalizes, ``[inputs, types, coalitions]`` in [0, 1].

    Raises:
        MisconfigurationException: Before training, if loaders, callbacks, or the settings of a run that is gone on with are not
            what is needed.
        ValueError: If a setting makes no sense; if inputs, outputs or labels do not fit players, baseline or task.

    Source:
        He et al. 2025 (arXiv 2505.06993), three phases; Zhang et al. 2024 (arXiv 2405.10262), two phases.
    """

    def __init__(
        self,
        players: Players | None = None,
        task: Task | None = None,
        evidence: Evidence | None = None,
        baseline: Baseline | None = None,
        probes: ProbeSampling | None = None,
        extraction: Extraction | None = None,
        schedule: Schedule | None = None,
        alpha: float = 0.05,
        logging: Logging | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        name: str | None = None,
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"InteractionMonitor: expected alpha in (0, 1), got {alpha}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"InteractionMonitor: expected on_error 'warn' or 'raise', got {on_error!r}")
        check_kinds(
            players=(players, Players),
            task=(task, Task),
            evidence=(evidence, Evidence),
            baseline=(baseline, Baseline),
            probes=(probes, ProbeSampling),
            extraction=(extraction, Extraction),
            logging=(logging, Logging),
        )
        self.players = players
        self.task = OwnStep() if task is None else task
        self.baseline = baseline
        self.probes = ProbeSampling() if probes is None else probes
        self.extraction = Extraction() if extraction is None else extraction
        self.alpha = alpha
        self.on_error = on_error
        self.name = name
        self.history = History()
        self.failed: tuple[TimePoint, ...] = ()
        self.replays: int | None = None
        self.final_interactions: Interactions | None = None
        self.final_weights: Tensor | None = None
        self._preparation = Preparation(self._settings, evidence, self.probes)
        self._timetable = Timetable(Planned() if schedule is None else schedule)
        self._loggers = Loggers(name, Logging() if logging is None else logging)
        self._notices = Notices()
        self._expense = Expense()
        self._length = FitLength()
        self._identity = RunIdentity()
        self._safeguard = Safeguard()
        self._address = address_of(self)
        self._is_lazy = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._address = address_of(self, self._address)

    def __repr__(self) -> str:
        return f"InteractionMonitor(name={self.name!r}, alpha={self.alpha}, {self.history!r}, {self.meter!r})"

    @property
    def phase(self) -> Phase | None:
        """The phase that the run is in, as detected at the last measurement; ``None`` before the first."""
        return self.history.phases[-1] if self.history.phases else None

    @property
    def overhead(self) -> float:
        """Part of the wall time since training started that was spent on evidence and measurements; 0 before."""
        return self._expense.part

    @property
    def evidence(self) -> Evidence:
        """What decides "generalizable": what was chosen, or what takes its place where the default cannot be fitted."""
        return self._preparation.evidence.current

    @evidence.setter
    def evidence(self, evidence: Evidence) -> None:
        self._preparation.evidence = RunEvidence(evidence)

    @property
    def meter(self) -> InteractionMeter:
        """What measures; each fit begins with a new one."""
        return self._preparation.meter

    @property
    def state_key(self) -> str:
        """A key of its own for each name."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before there is data."""
        check_names([callback.name for callback in trainer.callbacks if isinstance(callback, InteractionMonitor)])
        check_strategy(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the probes, and measure the untrained model."""
        check_number_of_batches(trainer)
        now = TimePoint(trainer.current_epoch, trainer.global_step)
        data = getattr(trainer.train_dataloader, "dataset", None)
        reason = self._identity.why_another(self.history, now, pl_module, data)
        if reason:
            rank_zero_warn(f"InteractionMonitor: {reason}")
        if reason or (not self.history and now == TimePoint(0, 0)):  # A run that came to nothing may have left something.
            self._forget()
        self._preparation.begin(self._settings, trainer)
        check_same_settings(self.history, self._preparation.known_settings)
        say_limits(trainer, self.task)
        self._expense.begin()
        if not self.history or not self._preparation.evidence.is_known:
            begin = time.perf_counter()
            with self._safeguard.around(trainer.strategy.root_device):
                self._preparation.check_settings(trainer, pl_module)
                self._preparation.fit_evidence(trainer, pl_module)
            self._expense.seconds += time.perf_counter() - begin
        begin = time.perf_counter()
        self._is_lazy, self._length = False, fit_length(trainer)
        self._timetable.begin(now.epoch, now.step, self.history.steps[-1] if self.history else None)
        self._timetable.plan(self._length)
        self._loggers.begin(now.epoch, now.step)
        try:
            check_shapes(pl_module)
            self._find_probes(trainer, pl_module)
        except FirstBatchError as error:
            rank_zero_info(f"InteractionMonitor: the module is measured from the first step on: {error}")
            self._is_lazy = True
            return
        except OtherProbesError as error:
            rank_zero_warn(f"InteractionMonitor: {error}; history and probes start anew")
            self._forget()
            self.on_train_start(trainer, pl_module)
            return
        untrained = now == TimePoint(0, 0) and not trainer.fast_dev_run
        if untrained and self._timetable.due(now.epoch, now.step) and TRAINING in self.meter.splits:
            self._measure(trainer, pl_module, now, step=0, begin=begin, first=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the first batches of training data that cannot be indexed; make up for a measurement that was interrupted.

        A checkpoint of the last step of an epoch is resumed in the next epoch, without the end of the one before; the end of
        training makes up for it if there is none.
        """
        if self._is_lazy:
            return
        self._watch(trainer, pl_module, TRAINING, batch)
        self._measure_within_epoch(trainer, pl_module, steps_logged(trainer) - 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if the schedule asks for it after this optimizer step; an epoch's last one is left to the epoch's end."""
        self._find_probes_if_lazy(trainer, pl_module)
        if not trainer.is_last_batch:
            self._measure_within_epoch(trainer, pl_module, steps_logged(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batches of held-out data that cannot be indexed."""
        if trainer.sanity_checking:
            self._preparation.keeper.watch_sanity_check(batch, dataloader_idx)
        else:
            self._watch(trainer, pl_module, HELD_OUT, batch, dataloader_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure if the schedule asks for it, log the numbers, and tell the callbacks that listen."""
        begin = time.perf_counter()
        now = TimePoint(trainer.current_epoch + 1, trainer.global_step)
        prepared = self._take_probes(trainer, pl_module, ends_epoch=True)
        if self._timetable.due(now.epoch, now.step) or trainer.fast_dev_run:
            if prepared:
                self._measure(trainer, pl_module, now, step=max(steps_logged(trainer) - 1, 0), begin=begin)
            else:
                self._leave_out(now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what can be said only now, and say if measuring took much of the time."""
        if not self._is_lazy and self.replays is None:
            self._measure_within_epoch(trainer, pl_module, max(steps_logged(trainer) - 1, 0))
        say_failed(self.failed, self.history)
        if not trainer.fast_dev_run:
            self._notices.say_at_end(self.history)
        if self.replays is None and not trainer.fast_dev_run:
            say_if_long(self._expense)
        if self.final_interactions is not None:
            step = max(steps_logged(trainer) - 1, 0)
            self._loggers.finish(trainer, self.history, self.final_interactions, self.meter, step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the history to the process that the user looks at, if it is another one."""
        send_home(trainer, self, self._address)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the process as it was, also where a measurement was interrupted; it is made up for in a run that goes on."""
        self._safeguard.restore()

    def plot(self, kind: PlotKind = "phases", ax: Any = None) -> tuple[Any, Any]:
        """Plot the history; see :meth:`~lightning_interactions.records.History.plot`.

        Raises:
            ValueError: If nothing was measured yet, there is no such kind, or the number of axes is another one.
        """
        return self.history.plot(kind, ax)

    def second_phase(self) -> tuple[SecondPhase, History]:
        """Fit the theory of learning under parameter noise; see :func:`~lightning_interactions.analysis.explain_second_phase`.

        Raises:
            ValueError: If nothing was measured yet.
        """
        if self.final_interactions is None:
            raise ValueError("InteractionMonitor: expected at least one measurement, got none; train with this monitor first")
        return explain_second_phase(self.history, self.final_interactions)

    def label_issues(self, model: LightningModule, inputs: Any, targets: Any = None) -> LabelIssues:
        """Find out which labels a module had to memorise.

        Wrong labels rank high: at the onset of phase 3 about as high as by the plain loss; the mean loss of held-out reference
        models finds them better (``tests/benchmarks/label_issues.py``).

        Args:
            model: The monitored module, during or after its training; measured by this process alone.
            inputs: A batch of training data as the loader gives it; or inputs as the model takes them, a tree of tensors
                ``[inputs, ...]``.
            targets: The targets that it was trained with, beside such inputs; ``None`` beside a batch.

        Returns:
            The loss of each input with and without what does not generalize, in the order of ``inputs``; NaN, and ranked last,
            for inputs that cannot be judged: too many reference models were trained on them, none of their targets counts
            (``ignore_index``, a class of weight 0), or their outputs are not finite. As in training, the mean over the judged
            inputs is the loss of all, so that an input of many tokens or a heavy class counts more.

        Raises:
            ValueError: If this monitor has watched no training yet, or inputs or targets do not fit.
        """
        return label_issues_of(self._preparation, model, inputs, targets)

    def measure_checkpoint(self, trainer: Trainer, pl_module: LightningModule, now: TimePoint, *, ends_epoch: bool) -> None:
        """Measure the module with the weights of a checkpoint; see :func:`~lightning_interactions.callbacks.replay`.

        Args:
            trainer: The Trainer, after its ``on_train_start``, with the counts of the checkpoint.
            pl_module: The module with its weights.
            now: The moment of the run.
            ends_epoch: Whether this is the end of an epoch.

        Raises:
            MisconfigurationException: If the training data can only be watched as they pass.
        """
        begin = time.perf_counter()
        self._find_probes_if_lazy(trainer, pl_module)
        if TRAINING not in self.meter.splits:
            raise MisconfigurationException(
                "InteractionMonitor: expected training data of which samples can be loaded by their index, got a stream, of "
                "which nothing passes here; hand probes in with probes=ProbeSampling(training=(inputs, targets))"
            )
        step = max(steps_logged(trainer) - ends_epoch, 0)
        self._measure(trainer, pl_module, now, step=step, begin=begin, first=True)

    def state_dict(self) -> dict[str, Any]:
        """Return history, probes, baseline values and up to when it was measured, in primitives and tensors."""
        final, weights = self.final_interactions, self.final_weights
        kept = None
        if final is not None and weights is not None:
            # Half precision is enough to tell how far they generalize.
            kept = {"effects": final.effects, "offset": final.offset, "weights": weights.half()}
        return {
            "version": STATE_VERSION,
            "history": self.history.to_dict(),
            "failed": [[time.epoch, time.step] for time in self.failed],
            "final_interactions": kept,
            **self._timetable.state_dict(),
            **self._preparation.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            ValueError: If it is of another version.
        """
        if state_dict.get("version") != STATE_VERSION:
            raise ValueError(
                f"InteractionMonitor: expected a state of version {STATE_VERSION} in the checkpoint, got version "
                f"{state_dict.get('version')}; go on with the version of this package that wrote it, or without this callback"
            )
        self._identity.resume()
        self.history = History.from_dict(state_dict["history"])
        self.failed = tuple(TimePoint(epoch, step) for epoch, step in state_dict["failed"])
        final = state_dict["final_interactions"]
        self.final_interactions = None if final is None else Interactions(final["effects"], final["offset"])
        self.final_weights = None if final is None else final["weights"].to(final["effects"].dtype)
        self._timetable.load_state_dict(state_dict)
        self._preparation.load_state_dict(state_dict)

    def report(self, path: str | Path) -> None:
        """Write one HTML file that says all that is known of the run: phases, figures, numbers, cost, label issues.

        Args:
            path: The file; it is overwritten.

        Raises:
            ValueError: If nothing was measured yet.
            OSError: If the file cannot be written.
        """
        title = "this run" if self.name is None else self.name
        record = RunRecord.from_state(self.state_dict(), title, self.name)
        # The state has large probes by their index alone.
        live = {split: probes.to("cpu") for split, probes in self._preparation.keeper.probes.items()}
        write_html(replace(record, probes=live), path)

    @property
    def _settings(self) -> MeterSettings:
        """What meters are made with, as it is set now."""
        return MeterSettings(self.task, self.players, self.baseline, self.extraction, self.probes.seed)

    def _forget(self) -> None:
        """Begin anew."""
        self.history, self.failed, self._notices = History(), (), Notices()
        self.final_interactions = self.final_weights = None
        self._preparation.forget()
        self._timetable.load_state_dict({})

    def _find_probes(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the probes, and get ready for the splits that have some."""
        with self._safeguard.around(trainer.strategy.root_device):
            self._plan(self._preparation.find(trainer, pl_module))

    def _find_probes_if_lazy(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the probes of a module that could not be measured before, and can be now."""
        if self._is_lazy:
            self._is_lazy = False
            self._find_probes(trainer, pl_module)

    def _take_probes(self, trainer: Trainer, pl_module: LightningModule, *, ends_epoch: bool) -> bool:
        """Get ready for splits whose probes have passed; say whether nothing has failed, so that it can be measured.

        Raises:
            MisconfigurationException: If a setting is wrong, which trying again would not mend.
        """
        if self._preparation.is_complete:
            return True
        # Several processes draw together: what fails on one would keep the others waiting.
        raises = self.on_error == "raise" or trainer.world_size > 1
        device = trainer.strategy.root_device
        with Attempt("InteractionMonitor: getting the probes ready", raises=raises) as attempt, self._safeguard.around(device):
            try:
                self._plan(self._preparation.take(trainer, pl_module, ends_epoch=ends_epoch))
            except MisconfigurationException:
                attempt.raises = True
                raise
        return not attempt.failed

    def _plan(self, new: tuple[str, ...]) -> None:
        """Plan the measurements with splits that are ready now, and check that they go on with the run's."""
        if not new:
            return
        forwards = self.meter.forwards
        measurements = self._timetable.plan(self._length, forwards) if self.replays is None else self.replays
        self._expense.planned = MeasuringCost(forwards, measurements, self._length.training_forwards)
        if TRAINING in new:
            say_what_is_measured(self.meter, self._expense.planned)
        settings = self._preparation.run_settings
        check_same_settings(self.history, settings)
        self.history = History(self.history.measurements, self.history.phases, settings)

    def _watch(self, trainer: Trainer, pl_module: LightningModule, split: str, batch: Any, dataloader_idx: int = 0) -> None:
        """Keep a batch that passes if it is needed; of the first one say at once what is wrong with it."""
        keeper = self._preparation.keeper
        raises = self.on_error == "raise" or not keeper.has_passed(split)
        with Attempt(f"InteractionMonitor: keeping a {split} batch", raises=raises):
            keeper.watch(split, batch, dataloader_idx)
        self._preparation.check_first(trainer, pl_module)

    def _measure_within_epoch(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        """Measure if a moment is due and there are probes, and log it at a loggers' step."""
        if trainer.fast_dev_run or not self._timetable.due(trainer.current_epoch, trainer.global_step):
            return
        begin = time.perf_counter()
        now = TimePoint(trainer.current_epoch, trainer.global_step)
        if not self._take_probes(trainer, pl_module, ends_epoch=False):
            self._leave_out(now)
        elif TRAINING in self.meter.splits:
            self._measure(trainer, pl_module, now, step=step, begin=begin)
        else:
            self._timetable.done()

    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, now: TimePoint, *, step: int, begin: float, first: bool = False
    ) -> None:
        """Measure, detect, log, and tell the callbacks that listen.

        Args:
            trainer: The Trainer of the run.
            pl_module: The monitored module.
            now: The moment of the run.
            step: Where loggers put it.
            begin: When the work for this measurement began, by :func:`time.perf_counter`.
            first: Whether this is before the first step, where an error ends the run.
        """
        if TRAINING not in self.meter.splits:
            raise MisconfigurationException(
                "InteractionMonitor: no training input has passed in the first epoch, so there is nothing to measure; hand "
                "probes in with probes=ProbeSampling(training=(inputs, targets))"
            )
        what = f"InteractionMonitor: the measurement after epoch {now.epoch}, step {now.step}"
        raises, device = self.on_error == "raise" or first, trainer.strategy.root_device
        with Attempt(what, raises=raises, trainer=trainer) as attempt, self._safeguard.around(device):
            with nullcontext() if self.history else shown(self.meter, trainer):
                measurement = self.meter.measure(pl_module, now)
            phases = detect_phases((*self.history.measurements, measurement), alpha=self.alpha)
            history = self.history.append(measurement, phases[-1])
            tags = self._loggers.tags(trainer, history)
        if attempt.failed:
            self._leave_out(now)
            return
        if self.history.onset_epoch(3) is None:
            self.final_interactions = self.meter.interactions[TRAINING].to("cpu")
            self.final_weights = self.meter.weights[TRAINING].to("cpu")
        self.history = history
        self._timetable.done()
        self._notices.say(history, self.meter.left_out)
        self._loggers.draw_if_due(trainer, self.history, self.meter, step)
        for callback in trainer.callbacks:
            if notify := getattr(callback, "on_interactions_measured", None):
                notify(trainer, pl_module, self)
        seconds = time.perf_counter() - begin
        self.history = self.history.with_seconds(seconds)
        if (timed := self._expense.measured(seconds)) is not None:
            rank_zero_info(f"InteractionMonitor: {timed.timing}")
        self._loggers.write(trainer, self.history, tags, step, self.overhead)

    def _leave_out(self, now: TimePoint) -> None:
        """Note a measurement that failed."""
        self.failed = (*self.failed, now)[-MOST_FAILED:]
        self._timetable.done()
