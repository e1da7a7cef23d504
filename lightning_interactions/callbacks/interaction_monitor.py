"""The callback that measures a run's interactions."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_interactions.analysis.phases.detect import detect_phases
from lightning_interactions.analysis.second_phase import explain_second_phase
from lightning_interactions.callbacks.loggers import Publisher, steps_logged
from lightning_interactions.callbacks.probes import HELD_OUT, TRAINING, ProbeKeeper
from lightning_interactions.callbacks.split_setup import SplitSetup, check_run
from lightning_interactions.evidence import Evidence, ReferenceModels, choose_evidence
from lightning_interactions.game.baselines import Baseline, Constant, Zeros
from lightning_interactions.game.evaluation import Forward, call_model
from lightning_interactions.game.losses import Loss, unit_of
from lightning_interactions.game.players import Players
from lightning_interactions.game.scores import Score, default_loss, log_odds
from lightning_interactions.measuring.isolation import leave_no_trace
from lightning_interactions.measuring.meter import Split, combine_splits
from lightning_interactions.measuring.probes import Unpack, input_target_pair
from lightning_interactions.measuring.schedule import EveryNEpochs, Schedule
from lightning_interactions.measuring.timetable import Timetable
from lightning_interactions.records import History, Interactions, Phase, Probes, SecondPhase, Suspects

__all__ = ["InteractionMonitor"]

STATE_VERSION = 1


class InteractionMonitor(Callback):
    """Measure during a training which interactions the network has learned, and which of them generalize.

    Training goes on exactly as it would without the callback: measurements leave weights, random states, buffers and
    modes as they were.

    Args:
        players: The input variables. 3x3 patches of 4-D inputs and features of 2-D inputs if left out.
        evidence: What decides "generalizable". If left out, what agreed best with reference models of all that needs no other
            model: :class:`ParameterNoise`; a note at the beginning of the training says by how much, and what agrees better.
        baseline: What masked players are replaced with: an object of ``lightning_interactions.baselines``, or a
            tensor that broadcasts to one input; zeros if left out.
        score: The scalar that is explained; the log-odds of the target class if left out,
            ``lightning_interactions.scores.prediction`` for regression.
        loss: What training minimises, a function of scores and targets (``scores.CrossEntropy`` has weights and smoothing). If
            left out, the cross-entropy of log-odds, the squared error of a prediction, and nothing for another score: losses
            and gaps are then NaN, and phases are called without.
        unpack: Finds ``(inputs, targets)`` in a batch; batches ``(x, y)`` if left out.
        forward: Gets logits from the module and inputs; ``model(inputs)`` if left out.
        num_training_probes: Number of training inputs that are measured.
        num_held_out_probes: Number of inputs of the first validation loader that are measured; 0 leaves held-out data alone.
        training_probes: ``(inputs, targets)`` to measure instead of drawing them, as the model takes them.
        held_out_probes: ``(inputs, targets)`` to measure instead of drawing them, as the model takes them.
        schedule: When to measure, an object of ``lightning_interactions.measuring.schedule`` or of your own: after some epochs,
            or after some optimizer steps for trainings of few long epochs; every epoch if left out.
        threshold: Salience threshold ``τ``, a fraction of an input's largest interaction.
        noise_tolerance: ``κ``: how far an output may be missed for fewer interactions, a fraction of ``|v(N) - v(∅)|``; 0
            matches all exactly. It is part of every result: strengths are lower with it.
        solver_tolerance: Relative duality gap of the sparsest split; see :func:`functional.extract_interactions`. 1e-3 is about
            ten times as fast as what is taken if left out, and strengths differ by about 2 %. Outputs are matched anyway.
        alpha: Probability of a false onset in a whole run that the phase detector allows itself.
        max_players: Refuse more players than this: a measurement costs ``2^n`` forwards for each probe.
        batch_size: Masked inputs in one forward pass; lower it if they do not fit beside the training.
        trainer_precision: Run the forwards under the Trainer's autocast and TF32 setting, not in the dtype of the weights.
        figures: Draw figures for TensorBoard at each measurement.
        raise_logging_errors: Let a failing logger end the run, instead of a warning.
        verbose: Print a table row at each measurement.
        seed: Seed of the draw of probes.
        name: Prefix of the logged names; needed where a Trainer has several monitors.

    Attributes:
        history: All measurements and the phases called at them, a :class:`~lightning_interactions.records.History`.
        phase: The phase that the run is in; ``None`` before the first measurement.
        final_interactions: Interactions on the training probes at the first measurement in phase 3, else at the last one, on
            the CPU: what :meth:`second_phase` explains. ``None`` before the first measurement.

    Raises:
        MisconfigurationException: Before training, if the loaders, players, labels or callbacks are not what is needed.
        TypeError, ValueError: If ``schedule`` is none; if inputs, outputs or labels do not fit players, baseline or score.

    Source:
        He et al. 2025 (arXiv 2505.06993), three phases; Zhang et al. 2024 (arXiv 2405.10262), two phases.
    """

    def __init__(
        self,
        players: Players | None = None,
        evidence: Evidence | None = None,
        *,
        baseline: Baseline | Tensor | None = None,
        score: Score = log_odds,
        loss: Loss | None = None,
        unpack: Unpack = input_target_pair,
        forward: Forward = call_model,
        num_training_probes: int = 32,
        num_held_out_probes: int = 32,
        training_probes: tuple[Tensor, Tensor] | None = None,
        held_out_probes: tuple[Tensor, Tensor] | None = None,
        schedule: Schedule | None = None,
        threshold: float = 0.05,
        noise_tolerance: float = 0.0,
        solver_tolerance: float | None = None,
        alpha: float = 0.05,
        max_players: int = 16,
        batch_size: int = 1024,
        trainer_precision: bool = False,
        figures: bool = True,
        raise_logging_errors: bool = False,
        verbose: bool = False,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        if num_training_probes < 1 or num_held_out_probes < 0 or not 0 < alpha < 1:
            raise MisconfigurationException(
                "InteractionMonitor: expected num_training_probes >= 1, num_held_out_probes >= 0 and alpha in (0, 1), "
                f"got {num_training_probes}, {num_held_out_probes} and {alpha}"
            )
        evidence, self._evidence_note = choose_evidence() if evidence is None else (evidence, "")
        self.evidence = evidence
        self.loss = default_loss(score) if loss is None else loss
        self.alpha = alpha
        self.seed = seed
        self.name = name
        self.history = History()
        self.final_interactions: Interactions | None = None
        self._setup = SplitSetup(
            players=players,
            evidence=evidence,
            score=score,
            loss=self.loss,
            forward=forward,
            threshold=threshold,
            noise_tolerance=noise_tolerance,
            solver_tolerance=solver_tolerance,
            max_players=max_players,
            batch_size=batch_size,
            trainer_precision=trainer_precision,
        )
        self._keeper = ProbeKeeper(
            num_probes={TRAINING: num_training_probes, HELD_OUT: num_held_out_probes},
            given={TRAINING: training_probes, HELD_OUT: held_out_probes},
            unpack=unpack,
            baseline=Constant(baseline) if isinstance(baseline, Tensor) else Zeros() if baseline is None else baseline,
            refused=evidence.refused if isinstance(evidence, ReferenceModels) else (),
            seed=seed,
        )
        self._timetable = Timetable(EveryNEpochs() if schedule is None else schedule)
        self._publisher = Publisher(self, name=name, figures=figures, verbose=verbose, raise_errors=raise_logging_errors)
        self._splits: dict[str, Split] = {}

    @property
    def phase(self) -> Phase | None:
        """The phase that the run is in, as called at the last measurement."""
        return self.history.phases[-1] if self.history.phases else None

    @property
    def state_key(self) -> str:
        """A key of its own for each name."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before there is data."""
        check_run(trainer, [callback.name for callback in trainer.callbacks if isinstance(callback, InteractionMonitor)])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the probes, and measure the untrained model."""
        epoch, step = trainer.current_epoch, trainer.global_step
        if self.history and (step == 0 or self.history.steps[-1] > step):
            rank_zero_warn(
                f"InteractionMonitor: the history reaches step {self.history.steps[-1]} and this run begins after step {step}, "
                "so it is another run: history and probes start anew"
            )
            self.load_state_dict({})
        self._setup.tell(self._evidence_note)
        self._timetable.begin(epoch, step)
        self._publisher.begin()
        self._splits = {}
        self._start_splits(trainer, pl_module, self._keeper.find)
        untrained = (epoch, step) == (0, 0) and not trainer.fast_dev_run
        if untrained and self._timetable.due(epoch, step) and TRAINING in self._splits:
            self._measure(trainer, pl_module, epoch)
            self._publisher.untrained(trainer, pl_module, self.history)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the first batches of training data that cannot be indexed; make up for a measurement that was interrupted.

        A checkpoint of the last step of an epoch is resumed in the next epoch, without the end of the one before.
        """
        self._keeper.watch(TRAINING, batch)
        self._measure_within_epoch(trainer, pl_module, steps_logged(trainer) - 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if the schedule asks for it after this optimizer step; an epoch's last one is left to the epoch's end."""
        if not trainer.is_last_batch:
            self._measure_within_epoch(trainer, pl_module, steps_logged(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batches of held-out data that cannot be indexed."""
        if dataloader_idx == 0 and not trainer.sanity_checking:
            self._keeper.watch(HELD_OUT, batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure if the schedule asks for it, log the numbers, and tell the callbacks that listen."""
        epoch = trainer.current_epoch + 1
        if self._keeper.waiting:
            self._start_splits(trainer, pl_module, self._keeper.take_passed)
        if self._timetable.due(epoch, trainer.global_step) or trainer.fast_dev_run:
            self._measure(trainer, pl_module, epoch)
            self._publisher.at_epoch_end(trainer, pl_module, self.history)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what can be said only now."""
        if self.final_interactions is not None:
            self._publisher.at_train_end(trainer, self.history, self.final_interactions)

    def second_phase(self) -> tuple[SecondPhase, History]:
        """Fit the theory of learning under parameter noise in hindsight; see :func:`explain_second_phase`.

        Raises:
            ValueError: If nothing was measured yet.
        """
        if self.final_interactions is None:
            raise ValueError("InteractionMonitor: expected at least one measurement, got none; train with this monitor first")
        return explain_second_phase(self.history, self.final_interactions)

    def suspects(self, model: LightningModule, inputs: Tensor, targets: Tensor) -> Suspects:
        """Find out which inputs a module has memorised rather than understood.

        Wrong labels rank high: at the onset of phase 3 about as high as by the plain loss; the mean loss of held-out reference
        models finds them better (``tests/benchmarks/suspects.py``).

        Args:
            model: The monitored module, during or after its training; measured by this process alone.
            inputs: ``[inputs, ...]``, training inputs as the model takes them.
            targets: ``[inputs, ...]``, the targets that it was trained with.

        Returns:
            The loss of each input with and without what does not generalize; NaN for inputs that too many reference models
            were trained on.

        Raises:
            ValueError: If this monitor has watched no training yet, or inputs or targets do not fit.
        """
        baseline = self._keeper.baseline_value
        if baseline is None:
            raise ValueError("InteractionMonitor: expected a run that this monitor has watched, got none; train with it first")
        probes = Probes(inputs.to(model.device), targets.to(model.device))
        with self._isolated(model):
            return self._setup.suspects(model, probes, self._keeper.probes.get(HELD_OUT), baseline)

    def state_dict(self) -> dict[str, Any]:
        """Return history, probes, baseline value and up to when it was measured, in primitives and tensors."""
        return {
            "version": STATE_VERSION,
            "history": self.history.to_dict(),
            "final_interactions": None if self.final_interactions is None else dict(vars(self.final_interactions)),
            **self._timetable.state_dict(),
            **self._keeper.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; missing keys keep their defaults."""
        self.history = History.from_dict(state_dict["history"]) if "history" in state_dict else History()
        final = state_dict.get("final_interactions")
        self.final_interactions = None if final is None else Interactions(**final)
        self._timetable.load_state_dict(state_dict)
        self._keeper.load_state_dict(state_dict)

    def _isolated(self, pl_module: LightningModule) -> AbstractContextManager[None]:
        return leave_no_trace(pl_module, pl_module.device, self.seed)

    def _start_splits(self, trainer: Trainer, pl_module: LightningModule, find_probes: Callable[[Trainer], None]) -> None:
        """Set up each split that has probes now and is not set up yet."""
        with self._isolated(pl_module):
            find_probes(trainer)
            baseline = self._keeper.baseline_value
            if baseline is not None:  # Else training inputs have yet to pass.
                new = {name: probes for name, probes in self._keeper.probes.items() if name not in self._splits}
                self._splits |= self._setup.splits(trainer, pl_module, new, baseline)

    def _measure_within_epoch(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        """Measure if a moment is due and there are probes, and publish it at a loggers' step."""
        if trainer.fast_dev_run or not self._timetable.due(trainer.current_epoch, trainer.global_step):
            return
        if self._keeper.waiting:
            self._start_splits(trainer, pl_module, self._keeper.take_complete)
        if TRAINING in self._splits:
            self._measure(trainer, pl_module, trainer.current_epoch)
            self._publisher.within_epoch(trainer, pl_module, self.history, step=step)

    def _measure(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        begin = time.perf_counter()
        with self._isolated(pl_module):
            splits, found = self._setup.measure(pl_module, self._splits)
        if TRAINING not in splits:
            raise MisconfigurationException(
                "InteractionMonitor: no training input has passed in the first epoch, so there is nothing to measure; hand "
                "probes in with training_probes=(inputs, targets)"
            )
        measurement = combine_splits(
            splits[TRAINING],
            splits.get(HELD_OUT),
            epoch=epoch,
            global_step=trainer.global_step,
            seconds=time.perf_counter() - begin,
            loss_unit=unit_of(self.loss),
        )
        phases = detect_phases((*self.history.measurements, measurement), alpha=self.alpha)
        if self.history.onset_epoch(3) is None:
            self.final_interactions = Interactions(*(part.cpu() for part in vars(found[TRAINING]).values()))
        self.history = self.history.append(measurement, phases[-1])
