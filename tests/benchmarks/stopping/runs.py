"""One training to its end, with everything recorded that any rule looks at, kept in a file of its own."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from competitors import Accuracy, GradientDisparity, PredictionChanges, RuleStopping, ValidationLoss, best_epoch
from papers.tasks import make_parts
from tasks import TASKS
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import History, ReferenceModels, fit_reference_models
from lightning_interactions.analysis.phases.detect import detect_phases
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.scores import default_loss, log_odds
from lightning_interactions.measuring.isolation import leave_no_trace
from lightning_interactions.measuring.meter import Split, combine_splits, interactions_on_probes, measure_splits
from lightning_interactions.records import Measurement, Probes

__all__ = ["CROSS_FITTED", "REFERENCES", "Run", "Setting", "Size", "load", "load_or_make"]

FILE_VERSION = 1
THRESHOLD = 0.05
REFERENCES, CROSS_FITTED = "references", "cross-fitted"


@dataclass(frozen=True)
class Size:
    """How large all runs are.

    Attributes:
        training_probes: Number of training probes.
        held_out_probes: Number of held-out probes, where there are any.
        tolerance: Relative duality gap of the interactions. Strengths differ by 2 % from those at the default, which takes
            ten times as long.
        epochs: Of the monitored run; the architecture's if ``None``.
        reference_epochs: Of each reference model, at most.
    """

    training_probes: int = 32
    held_out_probes: int = 32
    tolerance: float = 1e-3
    epochs: int | None = None
    reference_epochs: int = 50


@dataclass(frozen=True)
class Setting:
    """What a run is of.

    Attributes:
        task: Name of a task.
        architecture: Name of one of its architectures.
        noise: Probability that a training label is flipped; ``None`` for a null run, where all labels of all parts are random.
        seed: Of data, training and reference models.
    """

    task: str
    architecture: str
    noise: float | None
    seed: int

    @property
    def file_name(self) -> str:
        """Name of its file, without suffix."""
        noise = "random" if self.noise is None else f"{100 * self.noise:.0f}"
        return f"{self.task}-{self.architecture}-{noise}-{self.seed}".replace(" ", "-")


@dataclass(frozen=True, eq=False)
class Run:
    """What is kept of a run.

    Attributes:
        setting: What it is of.
        histories: All measurements with the phases called at them, by the evidence: with reference models trained on held-out
            data, and with held-out probes; and with cross-fitted models, without any held-out input.
        curves: One number after each epoch, from the first on: ``test_loss`` (nats), ``test_accuracy``, ``validation_loss`` (on
            all held-out data, the reference models' included), ``probe_loss`` (on the held-out probes), ``prediction_changes``
            and ``gradient_disparity``.
        seconds: Processor time: of the plain ``training``, of each curve, and for each evidence of all it does before the
            training (``… before``) and at one measurement (``… measurement``, mean).
    """

    setting: Setting
    histories: dict[str, History]
    curves: dict[str, list[float]]
    seconds: dict[str, float]


class Remembering:
    """Calls a model, and remembers what it gave until it is told to forget.

    Reference models are asked about several targets of the same masked inputs; only the first time needs a forward pass.
    """

    def __init__(self) -> None:
        self.outputs: dict[tuple[int, bytes], Tensor] | None = {}

    def __call__(self, model: nn.Module, inputs: Tensor) -> Tensor:
        if self.outputs is None:
            return model(inputs)
        key = id(model), hashlib.sha256(inputs.numpy().tobytes()).digest()
        if key not in self.outputs:
            self.outputs[key] = model(inputs)
        return self.outputs[key]

    def forget(self) -> None:
        self.outputs = None


class Watch(L.Callback):
    """Measures the same interactions with every evidence, as a monitor for each would.

    Args:
        evidence: What decides what generalizes.
        probes: Training and held-out probes.
        task: Name of the task.
        tolerance: Relative duality gap of the interactions.
    """

    def __init__(self, evidence: dict[str, ReferenceModels], probes: dict[str, Probes], task: str, tolerance: float) -> None:
        forward = Remembering()
        games = {name: Game(part, TASKS[task].players, torch.zeros(()), forward=forward) for name, part in probes.items()}
        self.extract = {name: interactions_on_probes(game, tolerance=tolerance) for name, game in games.items()}
        others = {
            name: [interactions_on_probes(other, tolerance=tolerance) for other in game.with_other_targets()]
            for name, game in games.items()
        }
        self.splits: dict[str, dict[str, Split]] = {}
        self.seconds: dict[str, float] = {}
        self.all_seconds = 0.0
        for kind, models in evidence.items():
            begin = time.process_time()
            # Without held-out labels there are no held-out probes.
            asked = list(games) if kind == REFERENCES else ["training"]
            self.splits[kind] = {
                name: Split(
                    self.extract[name],
                    models.prepare(self.extract[name], THRESHOLD, others[name], probes[name].inputs),
                    probes[name].targets,
                    default_loss(log_odds),
                )
                for name in asked
            }
            self.seconds[f"{kind} before"] = time.process_time() - begin
            self.seconds[f"{kind} measurement"] = 0.0
        forward.forget()
        self.measurements: dict[str, list[Measurement]] = {kind: [] for kind in evidence}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch + 1)

    def _measure(self, trainer: L.Trainer, model: L.LightningModule, epoch: int) -> None:
        found, extraction, before = {}, {}, time.process_time()
        with leave_no_trace(model, model.device, seed=0):
            for name, extract in self.extract.items():
                begin = time.process_time()
                found[name] = extract(model)
                extraction[name] = time.process_time() - begin
            for kind, splits in self.splits.items():
                begin = time.process_time()
                measured = measure_splits(model, splits, {name: found[name] for name in splits}, THRESHOLD)
                measurement = combine_splits(
                    measured["training"], measured.get("held-out"), epoch=epoch, global_step=trainer.global_step, seconds=0.0
                )
                self.measurements[kind].append(measurement)
                detect_phases(self.measurements[kind])
                seconds = time.process_time() - begin + sum(extraction[name] for name in splits)
                self.seconds[f"{kind} measurement"] += seconds / ((trainer.max_epochs or 0) + 1)
        self.all_seconds += time.process_time() - before

    def histories(self) -> dict[str, History]:
        """All measurements, with the phases that were called at them: calls are causal."""
        return {kind: History(tuple(own), detect_phases(own)) for kind, own in self.measurements.items()}


def make_run(setting: Setting, size: Size) -> Run:
    """Train reference models, and then the network to its end."""
    task = TASKS[setting.task]
    architecture = task.architectures[setting.architecture]
    parts = make_parts(task, setting.seed, noise=setting.noise or 0.0, random_labels=setting.noise is None)
    L.seed_everything(setting.seed, verbose=False)
    model = architecture.classifier()
    fit: dict[str, Any] = {
        "factory": architecture.classifier, "accelerator": "cpu", "max_epochs": size.reference_epochs,
    }  # fmt: skip
    held_out, training = (DataLoader(parts[name], 32, shuffle=True) for name in ("reference", "training"))
    references, seconds_of_references = _timed(lambda: fit_reference_models(model, held_out, seed=1000 * setting.seed, **fit))
    cross_fitted, seconds_of_folds = _timed(
        lambda: fit_reference_models(model, training, folds=2, seed=1000 * setting.seed + 500, **fit)
    )
    generator = torch.Generator().manual_seed(setting.seed)
    probes = {
        "training": _drawn(parts["training"], size.training_probes, generator),
        "held-out": _drawn(parts["validation"], size.held_out_probes, generator),
    }
    watch = Watch({REFERENCES: references, CROSS_FITTED: cross_fitted}, probes, setting.task, size.tolerance)
    watch.seconds[f"{REFERENCES} before"] += seconds_of_references
    watch.seconds[f"{CROSS_FITTED} before"] += seconds_of_folds

    everything_held_out = (
        torch.cat(columns) for columns in zip(parts["reference"].tensors, parts["validation"].tensors, strict=True)
    )
    inputs, labels = parts["training"].tensors
    batch_size = min(architecture.batch_size, len(labels) // 5)
    recorders = {
        "test_loss": RuleStopping(ValidationLoss(*parts["test"].tensors), best_epoch),
        "test_accuracy": RuleStopping(Accuracy(*parts["test"].tensors), best_epoch),
        "validation_loss": RuleStopping(ValidationLoss(*everything_held_out), best_epoch),
        "probe_loss": RuleStopping(ValidationLoss(probes["held-out"].inputs, probes["held-out"].targets), best_epoch),
        "prediction_changes": RuleStopping(PredictionChanges(inputs), best_epoch),
        "gradient_disparity": RuleStopping(GradientDisparity(inputs, labels, batch_size), best_epoch),
    }
    trainer = L.Trainer(
        max_epochs=architecture.epochs if size.epochs is None else size.epochs,
        callbacks=[watch, *recorders.values()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begin = time.process_time()
    trainer.fit(model, DataLoader(parts["training"], architecture.batch_size, shuffle=True))
    seconds = {**watch.seconds, **{name: recorder.seconds for name, recorder in recorders.items()}}
    seconds["training"] = time.process_time() - begin - watch.all_seconds - sum(one.seconds for one in recorders.values())
    return Run(setting, watch.histories(), {name: one.curve for name, one in recorders.items()}, seconds)


def load_or_make(setting: Setting, size: Size, folder: Path) -> Run:
    """Read a run from its file in a folder; make it first if there is none."""
    path = folder / f"{setting.file_name}.pt"
    run = load(setting, size, path)
    if run is None:
        run = make_run(setting, size)
        _save(run, size, path)
    return run


def load(setting: Setting, size: Size, path: Path) -> Run | None:
    """Read a run; ``None`` if there is none of this setting and size."""
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    if any(state.pop(name, None) != value for name, value in _key(setting, size).items()):
        return None
    # Phases are called anew, so that a change of the detector needs no new runs.
    measured = {kind: History.from_dict(history).measurements for kind, history in state["histories"].items()}
    histories = {kind: History(own, detect_phases(own)) for kind, own in measured.items()}
    return Run(setting, histories, state["curves"], state["seconds"])


def _save(run: Run, size: Size, path: Path) -> None:
    """Write a run so that the file is whole or not there; it loads with ``weights_only=True``."""
    histories = {kind: history.to_dict() for kind, history in run.histories.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    state = {**_key(run.setting, size), "histories": histories, "curves": run.curves, "seconds": run.seconds}
    torch.save(state, unfinished)
    unfinished.replace(path)


def _key(setting: Setting, size: Size) -> dict[str, Any]:
    return {"version": FILE_VERSION, "setting": asdict(setting), "size": asdict(size)}


def _drawn(part: TensorDataset, count: int, generator: torch.Generator) -> Probes:
    inputs, labels = part.tensors
    rows = torch.randperm(len(labels), generator=generator)[:count]
    return Probes(inputs[rows], labels[rows])


def _timed(fit: Callable[[], ReferenceModels]) -> tuple[ReferenceModels, float]:
    begin = time.process_time()
    return fit(), time.process_time() - begin
