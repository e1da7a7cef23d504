"""The callback that measures a run's interactions."""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from lightning_interactions.analysis import detect_phases, explain_second_phase, find_label_issues
from lightning_interactions.callbacks.attempts import Attempt
from lightning_interactions.callbacks.homecoming import address_of, send_home
from lightning_interactions.callbacks.loggers import Loggers, Logging
from lightning_interactions.callbacks.probes import ProbeKeeper, digest, moved
from lightning_interactions.callbacks.saved_probes import OtherProbesError
from lightning_interactions.evidence import Evidence, InputAgreement, OrderShape, ParameterNoise, ReferenceModels
from lightning_interactions.game.baselines import Baseline
from lightning_interactions.game.players import Players, Some
from lightning_interactions.game.steps import FirstBatchError, IgnoredError, OwnStep
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.cost import MeasuringCost, duration
from lightning_interactions.measuring.isolation import GlobalState, shadowed
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING, Extraction, InteractionMeter, Ranks
from lightning_interactions.measuring.probes import ProbeSampling
from lightning_interactions.measuring.schedule import Planned, Schedule, Timetable
from lightning_interactions.records import (
    History,
    Interactions,
    LabelIssues,
    Measurement,
    Phase,
    PlotKind,
    Probes,
    SecondPhase,
    TimePoint,
)
from lightning_interactions.references import FittedEvidence, Twins
from lightning_interactions.references.fit_length import fit_length
from lightning_interactions.references.internals import classes, steps_logged
from lightning_interactions.references.trainer import progress
from lightning_interactions.reporting import RunRecord, explain_phase, write_html

__all__ = ["InteractionMonitor"]

STATE_VERSION = 2

MOST_FAILED = 1024
"""So many measurements that failed are remembered."""

NAMES_OF_SPLITS = {TRAINING: "training", HELD_OUT: "held-out"}

MUCH_OVERHEAD = 0.1
"""Part of the wall time above which it is named."""

BASELINE_SAMPLE = 256
"""So many training inputs are looked at to choose baseline values that depend on them (if there are)."""

OF_DTYPES = ("dtype", "scalar type")
"""What torch's errors of dtypes that do not go together have in common."""

SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
"""Strategies under which no process has the whole model."""


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
        meter: What measures, an :class:`~lightning_interactions.measuring.InteractionMeter`.
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
        _check_kinds(
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
        self.evidence: Evidence = Twins() if evidence is None else evidence
        self.baseline = baseline
        self.probes = ProbeSampling() if probes is None else probes
        self.extraction = Extraction() if extraction is None else extraction
        self.alpha = alpha
        self.on_error = on_error
        self.name = name
        self.history = History()
        self.failed: tuple[TimePoint, ...] = ()
        self.replays: int | None = None
        self.meter = self._new_meter()
        self.final_interactions: Interactions | None = None
        self.final_weights: Tensor | None = None
        self._player_names: list[dict[str, Any]] = []
        self._evidence_is_default = evidence is None
        self._ratings: dict[str, Any] = {}
        self._began = self._spent = 0.0
        self._cost: MeasuringCost | None = None
        self._saved_task: dict[str, Any] = {}
        self._run: tuple[Callable[[], Any], ...] = ()
        self._is_resumed = False
        self._before: GlobalState | None = None
        self._is_lazy = False
        self._said_left_out: set[str] = set()
        self._said_notes: set[str] = set()
        self._address = address_of(self)
        self._keeper = ProbeKeeper(self.probes, self.task)
        self._timetable = Timetable(Planned() if schedule is None else schedule)
        self._loggers = Loggers(name, Logging() if logging is None else logging)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_run": (), "_before": None}

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
        return self._spent / (time.perf_counter() - self._began) if self._spent else 0.0

    @property
    def state_key(self) -> str:
        """A key of its own for each name."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before there is data."""
        names = [callback.name for callback in trainer.callbacks if isinstance(callback, InteractionMonitor)]
        if len(names) != len(set(names)):
            raise MisconfigurationException(
                f"InteractionMonitor: several monitors need different names, got {names}; pass name= to each"
            )
        sharding = tuple(kind for name in SHARDING for kind in classes(name, "strategies"))
        if isinstance(trainer.strategy, sharding):
            raise MisconfigurationException(
                f"InteractionMonitor: {type(trainer.strategy).__name__} shards the model, which is not supported; "
                "measure on one device or with DDP"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the probes, and measure the untrained model."""
        now = TimePoint(trainer.current_epoch, trainer.global_step)
        is_resumed, self._is_resumed = self._is_resumed, False
        if now == TimePoint(0, 0) and not self.history:
            self._forget()  # What a run that came to nothing has left.
        last = self.history.measurements[-1].time if self.history else now
        begins = now == TimePoint(0, 0) and not is_resumed
        # A run that steps its optimizers past the Trainer stays at step 0, so that epochs alone tell where it is.
        is_ahead = last.step > now.step or (now.step == 0 and last.epoch > now.epoch)
        if self.history and (begins or is_ahead):
            rank_zero_warn(
                f"InteractionMonitor: the history reaches epoch {last.epoch}, step {last.step} and this run begins after epoch "
                f"{now.epoch}, step {now.step}, so it is another run: history and probes start anew"
            )
            self._forget()
        _check_number_of_batches(trainer)
        self._begin_other_run(trainer, pl_module)
        self.task.begin(self._saved_task)
        known = self.meter.settings
        chosen_later = {name for name in ("players", "baseline") if getattr(self, name) is None}
        self._check_settings({name: value for name, value in known.items() if name not in (*chosen_later, *self._said_by_step)})
        if not self.task.knows_loss:
            rank_zero_warn(
                f"InteractionMonitor: {self.task!r} knows no loss, so losses and gaps are NaN, and phases are detected without "
                "them; give the task a loss(score, targets), such as return (score - targets) ** 2"
            )
        if any(isinstance(callback, classes("Timer", "callbacks")) for callback in trainer.callbacks):
            rank_zero_info("InteractionMonitor: the Trainer's max_time counts evidence and measurements, too")
        begin = self._began = time.perf_counter()
        self._spent, self._cost = 0.0, None
        if not self.history or not (self._ratings or self._is_fitted):
            with self._restorable(trainer):
                self._fit_evidence(trainer, pl_module)
            self._spent, begin = time.perf_counter() - begin, time.perf_counter()
        baseline_values = self.meter.baseline_values
        self.meter = self._new_meter(trainer)
        self.meter.baseline_values = baseline_values
        self._keeper.forward_context = self._forward_context(trainer)
        self._keeper.refused = () if self._reference_models is None else self._reference_models.refused
        self._timetable.begin(now.epoch, now.step, self.history.steps[-1] if self.history else None)
        self._timetable.plan(fit_length(trainer))
        self._loggers.begin(now.epoch, now.step)
        self._is_lazy = any(isinstance(parameter, UninitializedParameter) for parameter in pl_module.parameters())
        if self._is_lazy:
            rank_zero_info(
                "InteractionMonitor: the module has parameters without a shape, so it is measured from the first step on"
            )
            return
        try:
            with self._restorable(trainer):
                self._prepare(trainer, pl_module, self._find_probes)
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
        if self._is_lazy:
            self._is_lazy = False
            with self._restorable(trainer):
                self._prepare(trainer, pl_module, self._find_probes)
        if not trainer.is_last_batch:
            self._measure_within_epoch(trainer, pl_module, steps_logged(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batches of held-out data that cannot be indexed."""
        if trainer.sanity_checking:
            self._keeper.watch_sanity_check(batch, dataloader_idx)
        else:
            self._watch(trainer, pl_module, HELD_OUT, batch, dataloader_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure if the schedule asks for it, log the numbers, and tell the callbacks that listen."""
        begin = time.perf_counter()
        now = TimePoint(trainer.current_epoch + 1, trainer.global_step)
        prepared = self._prepare_more(trainer, pl_module, self._keeper.take_passed)
        if self._timetable.due(now.epoch, now.step) or trainer.fast_dev_run:
            if prepared:
                self._measure(trainer, pl_module, now, step=max(steps_logged(trainer) - 1, 0), begin=begin)
            else:
                self._leave_out(now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what can be said only now, and say if measuring took much of the time."""
        if not self._is_lazy and self.replays is None:
            self._measure_within_epoch(trainer, pl_module, max(steps_logged(trainer) - 1, 0))
        if self.failed:
            rank_zero_info(
                f"InteractionMonitor: {len(self.failed)} of {len(self.failed) + len(self.history)} measurements failed and are "
                "missing in the history; when, is in monitor.failed"
            )
        if self.overhead > MUCH_OVERHEAD and not trainer.fast_dev_run and self.replays is None:
            rank_zero_info(
                f"InteractionMonitor: measuring took {duration(self._spent)}, {self.overhead:.0%} of the training's wall time; "
                "schedule=schedules.Planned(measurements=20) measures half as often, fewer probes or players make each cheaper"
            )
        if self.final_interactions is not None:
            step = max(steps_logged(trainer) - 1, 0)
            self._loggers.finish(trainer, self.history, self.final_interactions, self.meter, step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the history to the process that the user looks at, if it is another one."""
        send_home(trainer, self, self._address)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the process as it was, also where a measurement was interrupted; it is made up for in a run that goes on."""
        if self._before is not None:
            self._before.restore()
            self._before = None

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

    def label_issues(self, model: LightningModule, inputs: Any, targets: Any) -> LabelIssues:
        """Find out which labels a module had to memorise.

        Wrong labels rank high: at the onset of phase 3 about as high as by the plain loss; the mean loss of held-out reference
        models finds them better (``tests/benchmarks/label_issues.py``).

        Args:
            model: The monitored module, during or after its training; measured by this process alone.
            inputs: Training inputs as the model takes them, a tree of tensors ``[inputs, ...]``.
            targets: The targets that it was trained with.

        Returns:
            The loss of each input with and without what does not generalize, in the order of ``inputs``; NaN, and ranked last,
            for inputs that cannot be judged: too many reference models were trained on them, none of their targets counts
            (``ignore_index``, a class of weight 0), or their outputs are not finite. As in training, the mean over the judged
            inputs is the loss of all, so that an input of many tokens or a heavy class counts more.

        Raises:
            ValueError: If this monitor has watched no training yet, or inputs or targets do not fit.
        """
        if self.meter.baseline_values is None:
            raise ValueError("InteractionMonitor: expected a run that this monitor has watched, got none; train with it first")
        numbers = torch.full((len(fields(LabelIssues)), len(Probes.of((inputs, targets)))), torch.nan, dtype=torch.float64)
        if not numbers.numel():
            raise ValueError("InteractionMonitor: expected at least one input to find label issues in, got none")
        trainer = model._trainer if isinstance(model._trainer, classes("Trainer")) else None
        with self._shadow(trainer, model) as shadow, self._forward_context(trainer)():
            try:
                asked, places = self.task.given(shadow, *(moved(tree, model.device) for tree in (inputs, targets)))
            except IgnoredError:  # No target counts, so there is no label to judge.
                return LabelIssues(*numbers)
        refused = frozenset[str]() if self._reference_models is None else self._reference_models.refused
        rows = torch.tensor([fingerprint not in refused for fingerprint in asked.fingerprints])
        if not bool(rows.any()):
            return LabelIssues(*numbers)
        meter = self._new_meter(trainer, alone=True)
        meter.players, meter.baseline_values = self.meter.players, self.meter.baseline_values
        held_out = self._keeper.probes.get(HELD_OUT) if isinstance(self.evidence, InputAgreement) else None
        with_held_out = {} if held_out is None else {HELD_OUT: held_out.to(model.device)}
        with self._precision_named(trainer):
            meter.prepare({**with_held_out, "asked": asked.select(rows)}, model=model)
        found = find_label_issues(meter.measure_splits(model)["asked"])
        numbers[:, places[rows]] = torch.stack(list(vars(found).values()))
        return LabelIssues(*numbers)

    def state_dict(self) -> dict[str, Any]:
        """Return history, probes, baseline values and up to when it was measured, in primitives and tensors."""
        final, baseline = self.final_interactions, self.meter.baseline_values
        return {
            "version": STATE_VERSION,
            "task": self.task.state_dict() or self._saved_task,
            "history": self.history.to_dict(),
            "failed": [[time.epoch, time.step] for time in self.failed],
            "final_interactions": None if final is None else self._final_state(final),
            "player_names": self._player_names,
            "players": self.meter.players.state() if isinstance(self.meter.players, Some) else {},
            "baseline": None if baseline is None else {name: value.cpu() for name, value in baseline.items()},
            # A split of the run before may have yet to pass in this one.
            "ratings": {**self._ratings, **self.meter.ratings},
            "forwards": self.meter.forwards,
            "took_other_evidence": self._evidence_is_default and not isinstance(self.evidence, Twins),
            **self._timetable.state_dict(),
            **self._keeper.state_dict(),
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
        self._is_resumed = True
        self._run = ()  # It goes on with whatever module and data the run is resumed with.
        self._saved_task = state_dict["task"]
        self.history = History.from_dict(state_dict["history"])
        self.failed = tuple(TimePoint(epoch, step) for epoch, step in state_dict["failed"])
        final = state_dict["final_interactions"]
        self.final_interactions = None if final is None else Interactions(final["effects"], final["offset"])
        self.final_weights = None if final is None else final["weights"].to(final["effects"].dtype)
        self._player_names = state_dict["player_names"]
        self.meter.baseline_values = state_dict["baseline"]
        self._ratings = state_dict["ratings"]
        if self._evidence_is_default and state_dict["took_other_evidence"]:
            self.evidence = self.meter.evidence = ParameterNoise()
        if isinstance(self.players, Some):
            self.players.load(state_dict["players"])
        self._timetable.load_state_dict(state_dict)
        self._keeper.load_state_dict(state_dict)

    def _final_state(self, final: Interactions) -> dict[str, Tensor]:
        """Return the interactions at the onset; how far they generalize in half precision, which is enough to tell."""
        assert self.final_weights is not None
        return {"effects": final.effects, "offset": final.offset, "weights": self.final_weights.half()}

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
        live = {split: probes.to("cpu") for split, probes in self._keeper.probes.items()}
        write_html(replace(record, probes=live), path)

    def _new_meter(self, trainer: Trainer | None = None, *, alone: bool = False) -> InteractionMeter:
        """Make a meter with this monitor's settings, for a Trainer's processes or for this one alone."""
        ranks = Ranks()
        if trainer is not None and trainer.world_size > 1 and not alone:
            ranks = Ranks(trainer.global_rank, trainer.world_size, partial(trainer.strategy.reduce, reduce_op="sum"))
        return InteractionMeter(
            self.task,
            self.players,
            self.baseline,
            self.evidence,
            self.extraction,
            ranks=ranks,
            forward_context=None if trainer is None else self._forward_context(trainer),
            chance_level=not alone,
            seed=self.probes.seed,
            trainer=trainer,
        )

    def _forward_context(self, trainer: Trainer | None) -> Callable[[], AbstractContextManager[object]]:
        """Return in which context the module's step runs: the Trainer's, if it is asked for."""
        if trainer is None or not self.extraction.trainer_precision:
            return nullcontext
        context: Callable[[], AbstractContextManager[object]] = trainer.precision_plugin.forward_context
        return context

    @contextmanager
    def _shadow(self, trainer: Trainer | None, model: LightningModule) -> Iterator[LightningModule]:
        """Run the body with a copy of the module that leaves no trace."""
        with shadowed(model, model.device, self.probes.seed, trainer) as shadow, self._precision_named(trainer):
            yield shadow

    @contextmanager
    def _precision_named(self, trainer: Trainer | None) -> Iterator[None]:
        """Name the setting to change in an error of dtypes that do not go together.

        Raises:
            ValueError: If the body raises such an error.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self.extraction.trainer_precision or not any(word in str(error) for word in OF_DTYPES):
                raise
            precision = "its precision" if trainer is None else f"precision={trainer.precision!r}"
            raise ValueError(
                "InteractionMonitor: expected a model that runs in the dtype of its weights, got an error of dtypes; if it "
                f"runs under the Trainer's {precision}, pass extraction=Extraction(trainer_precision=True), which measures it "
                f"so. The error: {error}"
            ) from error

    @property
    def _said_by_step(self) -> tuple[str, ...]:
        """Settings that are known when the task has seen a batch."""
        return () if self.task.is_ready else ("loss_unit",)

    @property
    def _is_fitted(self) -> bool:
        """Whether the evidence has nothing to fit, or has fitted it."""
        return not isinstance(self.evidence, FittedEvidence) or self.evidence.is_fitted

    @property
    def _reference_models(self) -> ReferenceModels | None:
        """The models that are the evidence, if any."""
        if isinstance(self.evidence, FittedEvidence):
            return self.evidence.references if self._is_fitted else None
        return self.evidence if isinstance(self.evidence, ReferenceModels) else None

    def _forget(self) -> None:
        """Begin anew."""
        self.history, self._saved_task, self._said_left_out = History(), {}, set()
        self.final_interactions = self.final_weights = None
        self._player_names = []
        self._said_notes, self.failed = set(), ()
        self._ratings = {}
        if self._evidence_is_default:
            self.evidence = Twins()
        self.meter = self._new_meter()
        self._timetable.load_state_dict({})
        self._keeper.load_state_dict({})

    def _fit_evidence(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let evidence fit itself that does so; where the default cannot, take other evidence."""
        if not isinstance(self.evidence, FittedEvidence):
            return
        failure: Exception | None = None
        try:
            self.evidence.fit(trainer, pl_module, self.task)
        except Exception as error:
            if not self._evidence_is_default:
                raise
            failure = error
        if self._evidence_is_default and not trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            self._take_other_evidence(failure)

    def _take_other_evidence(self, reason: Exception | None) -> None:
        """Say why there are no twins, and what decides instead."""
        self.evidence = self.meter.evidence = ParameterNoise()
        why = reason or "another process failed"
        rank_zero_warn(
            "InteractionMonitor: two models on the two halves of the data, which would judge what generalizes, cannot be "
            f"trained: {why}. {self.evidence!r} decides instead, by which phase 3 is found late or not at all; better: "
            "evidence=HeldOutReferences(), or reference models of your own (docs/evidence.md)"
        )

    def _find_probes(self, trainer: Trainer, model: LightningModule) -> None:
        sample_size = BASELINE_SAMPLE if self.baseline is not None and self.baseline.needs_sample else 0
        self._keeper.find(trainer, model, sample_size)

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, find_probes: Callable[..., None]) -> None:
        """Prepare each split that has probes now and is not prepared yet."""
        with self._shadow(trainer, pl_module) as shadow:
            find_probes(trainer, shadow)
        probes = self._keeper.probes
        if TRAINING not in probes:  # Training inputs have yet to pass, and the baseline values with them.
            return
        new = {name: own for name, own in probes.items() if name not in self.meter.splits}
        ratings = {name: self._ratings[name] for name in new if name in self._ratings}
        if not self._is_fitted and len(ratings) < len(new):
            self._fit_evidence(trainer, pl_module)
        if TRAINING in new and TRAINING not in ratings:
            self._recognise(new[TRAINING])
        with self._precision_named(trainer), self._shown(trainer):
            self.meter.prepare(new, model=pl_module, sample=self._keeper.sample, ratings=ratings)
        length = fit_length(trainer)
        measurements = self._timetable.plan(length, self.meter.forwards) if self.replays is None else self.replays
        self._cost = MeasuringCost(self.meter.forwards, measurements, length.training_forwards)
        self._keeper.sample = None  # The baseline values are chosen.
        if TRAINING in new:
            self._say_what_is_measured(probes)
        settings = {**self.meter.settings, "probes": digest(probes[TRAINING])}
        self._check_settings(settings)
        self.history = History(self.history.measurements, self.history.phases, settings)

    def _prepare_more(self, trainer: Trainer, pl_module: LightningModule, take_probes: Callable[..., None]) -> bool:
        """Prepare the splits whose probes were not there before; say whether nothing has failed, so that it can be measured.

        Raises:
            MisconfigurationException: If a setting is wrong, which trying again would not mend.
        """
        if not self._keeper.waiting and self._keeper.probes.keys() <= set(self.meter.splits):
            return True
        # Several processes draw together: what fails on one would keep the others waiting.
        raises = self.on_error == "raise" or trainer.world_size > 1
        with Attempt("InteractionMonitor: getting the probes ready", raises=raises) as attempt, self._restorable(trainer):
            try:
                self._prepare(trainer, pl_module, take_probes)
            except MisconfigurationException:
                attempt.raises = True
                raise
        return not attempt.failed

    @contextmanager
    def _shown(self, trainer: Trainer) -> Iterator[None]:
        """Show that the first measurement goes on, where it takes long."""
        with progress(None, trainer, "Measuring interactions", "input") as bar:
            self.meter.tick = bar.update
            try:
                yield
            finally:
                self.meter.tick = None

    @contextmanager
    def _restorable(self, trainer: Trainer) -> Iterator[None]:
        """Let :meth:`on_exception` give back what an interrupt may keep the body from giving back."""
        self._before = GlobalState(trainer.strategy.root_device)
        try:
            yield
        except Exception:
            self._before = None
            raise
        self._before = None

    def _recognise(self, probes: Probes) -> None:
        """Find out which reference models have seen which probes."""
        try:
            if isinstance(self.evidence, FittedEvidence):
                self.evidence.recognise(probes.fingerprints, self._keeper.indices)
            if self._reference_models is not None:
                self._reference_models.check_training_probes(probes.fingerprints)
        except (MisconfigurationException, ValueError) as error:
            if not self._evidence_is_default:
                raise
            self._take_other_evidence(error)

    def _watch(self, trainer: Trainer, pl_module: LightningModule, split: str, batch: Any, dataloader_idx: int = 0) -> None:
        """Keep a batch that passes if it is needed; of the first one say at once what is wrong with it."""
        raises = self.on_error == "raise" or not self._keeper.has_passed(split)
        with Attempt(f"InteractionMonitor: keeping a {split} batch", raises=raises):
            self._keeper.watch(split, batch, dataloader_idx)
        if self._keeper.unchecked:
            with self._shadow(trainer, pl_module) as shadow:
                first = self._keeper.check_first(shadow)
            trial = self._new_meter(trainer, alone=True)
            trial.evidence = OrderShape()  # The others have work to do before.
            with self._precision_named(trainer):
                trial.prepare(first, model=pl_module)

    def _begin_other_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew if this is not the module, or not the data, of the run that the history is of."""
        watched = [pl_module, getattr(trainer.train_dataloader, "dataset", None)]
        before = [reference() for reference in self._run]
        self._run = tuple(map(_reference, watched))
        other = [own for own, one in zip(watched, before, strict=False) if one is not own and one is not None]
        if self.history and before and other:
            rank_zero_warn(
                f"InteractionMonitor: the history is of another {'module' if pl_module in other else 'data set'} than this fit "
                "trains, so history and probes start anew; use a monitor for each"
            )
            self._forget()

    def _say_what_is_measured(self, probes: Mapping[str, Probes]) -> None:
        """Say in one line what was found out and chosen, and what it will cost."""
        players = self.meter.players
        assert players is not None
        groups = [group.inputs for group in probes[TRAINING].groups]
        with Attempt("InteractionMonitor: naming the players"):  # Only reports need names.
            self._player_names = [{"probes": len(inputs), "names": list(players.names(inputs))} for inputs in groups]
        explained = self.task.explains if isinstance(self.task, OwnStep) else repr(self.task)
        numbers = " and ".join(f"{len(own)} {NAMES_OF_SPLITS[split]}" for split, own in probes.items())
        of_players = f"{players.num_players(groups[0])} players ({type(players).__name__})"
        rank_zero_info(
            f"InteractionMonitor: measures {numbers} inputs of {of_players}, masked with {self.meter.baseline!r}; explains "
            f"{explained}; evidence: {type(self.evidence).__name__}; plans {self._cost}"
        )

    def _warn_of_left_out(self, measurement: Measurement) -> None:
        """Say of which split nothing can be measured, and why."""
        for name, reason in self.meter.left_out.items():
            if name not in self._said_left_out:
                self._said_left_out.add(name)
                rank_zero_warn(
                    f"InteractionMonitor: all {name} probes are left out of the measurement after epoch "
                    f"{measurement.time.epoch}, because {reason}"
                )

    def _say_notes(self, phase: Phase) -> None:
        """Say each kind of note once in a run, and that phase 3 was detected."""
        if phase.number == 3 and phase.detected == self.history.measurements[-1].time:
            rank_zero_info(f"InteractionMonitor: {explain_phase(phase)}")
        for kind, note in phase.notes.items():
            if kind not in self._said_notes:
                self._said_notes.add(kind)
                rank_zero_info(f"InteractionMonitor: after epoch {self.history.epochs[-1]}, {note}")

    def _check_settings(self, settings: dict[str, Any]) -> None:
        """Refuse to go on with a run whose measurements were made in another way."""
        different = self.history.different_settings({**self.history.settings, **settings}) if self.history else []
        if different:
            raise MisconfigurationException(
                "InteractionMonitor: expected the settings of the run that is gone on with, got others, whose measurements "
                f"cannot be compared: {'; '.join(different)}; go on with the old settings, or begin a new run"
            )

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
        if self._is_lazy:
            self._is_lazy = False
            self._prepare(trainer, pl_module, self._find_probes)
        if TRAINING not in self.meter.splits:
            raise MisconfigurationException(
                "InteractionMonitor: expected training data of which samples can be loaded by their index, got a stream, of "
                "which nothing passes here; hand probes in with probes=ProbeSampling(training=(inputs, targets))"
            )
        step = max(steps_logged(trainer) - ends_epoch, 0)
        self._measure(trainer, pl_module, now, step=step, begin=begin, first=True)

    def _measure_within_epoch(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        """Measure if a moment is due and there are probes, and log it at a loggers' step."""
        if trainer.fast_dev_run or not self._timetable.due(trainer.current_epoch, trainer.global_step):
            return
        begin = time.perf_counter()
        now = TimePoint(trainer.current_epoch, trainer.global_step)
        if not self._prepare_more(trainer, pl_module, self._keeper.take_complete):
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
        with Attempt(what, raises=self.on_error == "raise" or first, trainer=trainer) as attempt, self._restorable(trainer):
            with nullcontext() if self.history else self._shown(trainer):
                measurement = self.meter.measure(pl_module, now)
            phases = detect_phases((*self.history.measurements, measurement), alpha=self.alpha)
            history = self.history.append(measurement, phases[-1])
            tags = self._loggers.tags(trainer, history)
        if attempt.failed:
            self._leave_out(now)
            return
        self._warn_of_left_out(measurement)
        if self.history.onset_epoch(3) is None:
            self.final_interactions = self.meter.interactions[TRAINING].to("cpu")
            self.final_weights = self.meter.weights[TRAINING].to("cpu")
        self.history = history
        self._timetable.done()
        self._say_notes(phases[-1])
        self._loggers.draw_if_due(trainer, self.history, self.meter, step)
        for callback in trainer.callbacks:
            if notify := getattr(callback, "on_interactions_measured", None):
                notify(trainer, pl_module, self)
        seconds = time.perf_counter() - begin
        self.history = self.history.with_seconds(seconds)
        self._spent += seconds
        if self._cost is not None and self._cost.seconds is None:
            self._cost = self._cost.timed(seconds)
            rank_zero_info(f"InteractionMonitor: {self._cost.timing}")
        self._loggers.write(trainer, self.history, tags, step, self.overhead)

    def _leave_out(self, now: TimePoint) -> None:
        """Note a measurement that failed."""
        self.failed = (*self.failed, now)[-MOST_FAILED:]
        self._timetable.done()


def _check_number_of_batches(trainer: Trainer) -> None:
    """Refuse processes that would not meet at the end of an epoch, where they would wait for each other for ever."""
    if trainer.world_size == 1:
        return
    numbers: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(numbers, trainer.num_training_batches)
    if len(set(numbers)) > 1:
        raise MisconfigurationException(
            f"InteractionMonitor: expected as many training batches in every process, got {numbers}; use a "
            "DistributedSampler, or Trainer(limit_train_batches=) with the smallest of these numbers"
        )


def _reference(one: Any) -> Callable[[], Any]:
    """Refer to an object without keeping it alive; to nothing where that cannot be, as with a list."""
    try:
        return weakref.ref(one)
    except TypeError:
        return _nothing


def _nothing() -> None:
    return None


def _check_kinds(**settings: tuple[object, type]) -> None:
    """Refuse what is plugged in where something else belongs."""
    for name, (given, kind) in settings.items():
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"InteractionMonitor: expected {name} to be a {kind.__name__}, or left out, got {given!r}")
