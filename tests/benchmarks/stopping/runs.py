"""One training to its end, with everything recorded that any rule looks at, kept in a file of its own."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from competitors import Accuracy, GradientDisparity, PredictionChanges, RuleStopping, ValidationLoss, best_epoch
from papers import files
from papers.tasks import make_parts
from tasks import TASKS
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import Extraction, History, InteractionMeter, fit_reference_models
from lightning_interactions.analysis import detect_phases, summarise
from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.measuring.facts import facts_of
from lightning_interactions.records import Measurement, Probes, TimePoint
from lightning_interactions.references import ReferenceTraining
from lightning_interactions.tasks import Classification
from tests.benchmarks.panel import Panel

__all__ = ["CROSS_FITTED", "REFERENCES", "Run", "Setting", "Size", "load", "load_or_make"]

FILE_VERSION = 2
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
        histories: All measurements with the phases detected at them, by the evidence: with reference models trained on held-out
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


class Remembering(Classification):
    """Runs a model, and remembers what it gave until it is told to forget.

    Reference models are asked about several targets of the same masked inputs; only the first time needs a forward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[tuple[int, bytes], Tensor] | None = {}

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        if self.outputs is None:
            return model(inputs)
        key = id(model), hashlib.sha256(inputs.numpy().tobytes()).digest()
        if key not in self.outputs:
            self.outputs[key] = model(inputs)
        return self.outputs[key]

    def forget(self) -> None:
        self.outputs = None


class Watch(L.Callback):
    """Measures the same interactions after every epoch with both kinds of evidence, as a monitor for each would.

    Each split has a meter of its own, so that what it costs can be read off the clock: without held-out labels there are no
    held-out probes.

    Args:
        evidence: What decides what generalizes, by its kind: of both splits, and of the training probes alone.
        probes: Training and held-out probes.
        task: Name of the task.
        tolerance: Relative duality gap of the interactions.
    """

    def __init__(self, evidence: dict[str, ReferenceModels], probes: dict[str, Probes], task: str, tolerance: float) -> None:
        extraction = Extraction(threshold=THRESHOLD, tolerance=tolerance)
        self.probes, self.task = probes, Remembering()
        self.panel = Panel(evidence)
        self.meters: dict[str, InteractionMeter] = {}
        preparation = {}
        for split, judge in {"training": self.panel, "held_out": evidence[REFERENCES]}.items():
            begin = time.process_time()
            meter = InteractionMeter(self.task, TASKS[task].players, evidence=judge, extraction=extraction)
            self.meters[split] = meter.prepare({split: probes[split]})
            preparation[split] = time.process_time() - begin
        self.task.forget()
        self.seconds = {f"{kind} before": self.panel.preparation[kind] for kind in evidence}
        self.seconds[f"{REFERENCES} before"] += preparation["held_out"]
        self.seconds |= {f"{kind} measurement": 0.0 for kind in evidence}
        self.all_seconds = 0.0
        self.measurements: dict[str, list[Measurement]] = {kind: [] for kind in evidence}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch + 1)

    def _measure(self, trainer: L.Trainer, model: L.LightningModule, epoch: int) -> None:
        moment = TimePoint(epoch, trainer.global_step)
        found, seconds = {}, {}
        for split, meter in self.meters.items():
            begin = time.process_time()
            found[split] = meter.measure_splits(model)[split]
            seconds[split] = time.process_time() - begin
        self._keep(REFERENCES, Measurement(moment, 0.0, found["training"], found["held_out"]), sum(seconds.values()), trainer)
        begin = time.process_time()
        weights = self.panel.weights[0][CROSS_FITTED]
        interactions = self.meters["training"].interactions["training"]
        cross_fitted = facts_of(interactions, weights, THRESHOLD, self.task, self.probes["training"])
        own_seconds = time.process_time() - begin
        self._keep(CROSS_FITTED, Measurement(moment, 0.0, cross_fitted, None), seconds["training"] + own_seconds, trainer)
        self.all_seconds += sum(seconds.values()) + own_seconds

    def _keep(self, kind: str, measurement: Measurement, seconds: float, trainer: L.Trainer) -> None:
        """Do what a monitor does with a measurement, and count its cost."""
        begin = time.process_time()
        self.measurements[kind].append(measurement)
        summarise(measurement)
        detect_phases(self.measurements[kind])
        spent = time.process_time() - begin
        self.all_seconds += spent
        self.seconds[f"{kind} measurement"] += (seconds + spent) / ((trainer.max_epochs or 0) + 1)

    def histories(self) -> dict[str, History]:
        """All measurements, with the phases that were detected at them: detection is causal."""
        return {kind: History(tuple(own), detect_phases(own)) for kind, own in self.measurements.items()}


def make_run(setting: Setting, size: Size) -> Run:
    """Train reference models, and then the network to its end."""
    task = TASKS[setting.task]
    architecture = task.architectures[setting.architecture]
    parts = make_parts(task, setting.seed, noise=setting.noise or 0.0, random_labels=setting.noise is None)
    L.seed_everything(setting.seed, verbose=False)
    model = architecture.classifier()

    def training_of(seed: int) -> ReferenceTraining:
        return ReferenceTraining(
            max_epochs=size.reference_epochs, seed=seed, factory=architecture.classifier, trainer={"accelerator": "cpu"}
        )

    held_out, training = (DataLoader(parts[name], 32, shuffle=True) for name in ("reference", "training"))
    references, seconds_of_references = _timed(
        lambda: fit_reference_models(model, held_out, training=training_of(1000 * setting.seed))
    )
    cross_fitted, seconds_of_folds = _timed(
        lambda: fit_reference_models(model, training, folds=2, training=training_of(1000 * setting.seed + 500))
    )
    generator = torch.Generator().manual_seed(setting.seed)
    probes = {
        "training": _drawn(parts["training"], size.training_probes, generator),
        "held_out": _drawn(parts["validation"], size.held_out_probes, generator),
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
        "probe_loss": RuleStopping(ValidationLoss(*_tensors(probes["held_out"])), best_epoch),
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
    state = files.read(path, _key(setting, size))
    if state is None:
        return None
    # Phases are detected anew, so that a change of the detector needs no new runs.
    measured = {kind: History.from_dict(history).measurements for kind, history in state["histories"].items()}
    histories = {kind: History(own, detect_phases(own)) for kind, own in measured.items()}
    return Run(setting, histories, state["curves"], state["seconds"])


def _save(run: Run, size: Size, path: Path) -> None:
    histories = {kind: history.to_dict() for kind, history in run.histories.items()}
    files.write(path, _key(run.setting, size), {"histories": histories, "curves": run.curves, "seconds": run.seconds})


def _key(setting: Setting, size: Size) -> dict[str, Any]:
    return {"version": FILE_VERSION, "setting": asdict(setting), "size": asdict(size)}


def _drawn(part: TensorDataset, count: int, generator: torch.Generator) -> Probes:
    inputs, labels = part.tensors
    rows = torch.randperm(len(labels), generator=generator)[:count]
    return Probes.of((inputs[rows], labels[rows]))


def _tensors(probes: Probes) -> tuple[Tensor, Tensor]:
    """Return the inputs and labels of probes of one shape."""
    (group,) = probes.groups
    return group.inputs.tree, group.targets.tree


def _timed(fit: Callable[[], ReferenceModels]) -> tuple[ReferenceModels, float]:
    begin = time.process_time()
    return fit(), time.process_time() - begin
