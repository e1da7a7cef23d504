"""One training to its end, with everything recorded that our rules look at, kept in a file of its own."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from competitors import (
    Accuracy,
    CalibratedLoss,
    EvidenceCriterion,
    GradientDisparity,
    PredictionChanges,
    RuleStopping,
    ValidationLoss,
    best_epoch,
)
from papers import files
from tasks import PLAIN, TASKS, Setting, make_model, make_parts
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import Extraction, History, InteractionMeter, fit_reference_models
from lightning_interactions.analysis import detect_phases, summarise
from lightning_interactions.evidence import Evidence, ReferenceModels
from lightning_interactions.functional.extraction import extract_interactions
from lightning_interactions.measuring.facts import facts_of
from lightning_interactions.measuring.isolation import shadowed
from lightning_interactions.records import (
    EvidenceWeights,
    Interactions,
    Measurement,
    OrderStrength,
    Probes,
    SplitMeasurement,
    TimePoint,
)
from lightning_interactions.records.measurement import INPUT_FIELDS
from lightning_interactions.references import ReferenceTraining
from lightning_interactions.references.folds import make_plans
from lightning_interactions.tasks import Classification

__all__ = [
    "KINDS", "REFERENCES", "TWINS", "TWINS_HELD_OUT", "Run", "Setting", "Size", "default_kinds", "first", "load",
    "load_or_make", "load_values",
]  # fmt: skip

FILE_VERSION = 4
THRESHOLD = 0.05
AT_ONCE = 256
"""So many tables of values are rewritten as interactions at once."""

TWINS, TWINS_HELD_OUT, REFERENCES = "twins", "twins, held-out probes", "references"

KINDS: dict[str, dict[str, Any] | None] = {
    TWINS: {"folds": 2, "num_models": 1, "vote": 1},
    REFERENCES: None,
    "three twins a half": {"folds": 2, "num_models": 3, "vote": "any"},
    "five folds": {"folds": 5, "num_models": 1, "vote": 1},
    "six models a half, two votes": {"folds": 2, "num_models": 6, "vote": 2},
}
"""Arguments of ``fit_reference_models`` with the run's own training data, by kind of evidence; held-out data if ``None``."""

SEEDS_WITH_ALL, NOISES_WITH_ALL = (0, 100), (0.2,)
"""Other runs have no reference models on held-out data, and no evidence-based criterion: these take half the time."""


@dataclass(frozen=True)
class Size:
    """How large all runs are.

    Attributes:
        training_probes: Number of training probes where there are no held-out ones.
        held_out_probes: Number of held-out probes, where there are any; there are so many training probes less then.
        tolerance: Relative duality gap of the interactions.
        epochs: Of the monitored run, and of reference models at most.
    """

    training_probes: int = 64
    held_out_probes: int = 32
    tolerance: float = 1e-3
    epochs: int = 45


@dataclass(frozen=True, eq=False)
class Run:
    """What is kept of a run.

    Attributes:
        setting: What it is of.
        histories: All measurements with the phases detected at them, by kind of evidence, as far as it was recorded.
        curves: One number after each epoch, from the first on: ``test_loss`` (nats), ``test_accuracy``,
            ``calibrated_test_loss`` (at the best temperature), ``validation_loss`` (on all held-out data, the reference models'
            included), ``probe_loss`` (on the held-out probes), ``prediction_changes``, ``gradient_disparity`` and
            ``evidence_criterion``.
        twin_losses: Of each twin the mean loss on the half that it has not seen, after each of its epochs.
        predictions: ``[epochs, inputs, classes]``; logits of the run on held-out inputs, whose labels nobody has seen.
        salient: ``[rows, 4]``; time, probe (held-out ones after the training's), type and coalition of each salient
            interaction of the run.
        salient_effects: ``[rows]``; these interactions, score units.
        ratings: What the raters of each kind of evidence say, by split: ``signs``, ``finite`` and ``score``, and the signs
            that each draw of other targets gave.
        seconds: Processor time: of the plain ``training``, of each curve, and for each evidence of all it does before the
            training (``… before``) and at one measurement (``… measurement``).
    """

    setting: Setting
    histories: dict[str, History]
    curves: dict[str, list[float]]
    twin_losses: list[list[float]]
    predictions: Tensor
    salient: Tensor
    salient_effects: Tensor
    ratings: dict[str, dict[str, dict[str, Any]]]
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


class Nothing(Evidence):
    """Knows of no interaction whether it generalizes."""

    def weigh(self, interactions: Interactions, threshold: float, **_given: Any) -> EvidenceWeights:
        nothing = torch.zeros_like(interactions.effects)
        return EvidenceWeights(nothing, nothing)


class Watch(L.Callback):
    """Keeps the values of all probes after every epoch, and measures them after the training with every kind of evidence.

    What a monitor does after each epoch is done at once at the end, because it is three times as fast so. What one measurement
    of a monitor costs is found out with one.

    Args:
        evidence: What decides what generalizes, by its kind.
        probes: Training and held-out probes.
        task: Name of the task.
        tolerance: Relative duality gap of the interactions.
    """

    def __init__(
        self, evidence: Mapping[str, ReferenceModels], probes: Mapping[str, Probes], task: str, tolerance: float
    ) -> None:
        self.evidence, self.probes, self.players = evidence, probes, TASKS[task].players
        self.task, self.extraction = Classification(), Extraction(threshold=THRESHOLD, tolerance=tolerance)
        asked_often = Remembering()
        meter = InteractionMeter(asked_often, self.players, evidence=Nothing(), extraction=self.extraction).prepare(probes)
        self.seconds: dict[str, float] = {}
        self.prepared: dict[str, dict[str, Any]] = {}
        for kind, own in evidence.items():
            for split in probes:
                begin = time.process_time()
                self.prepared.setdefault(kind, {})[split] = own.prepare(meter._splits[split])
                self.seconds[f"{kind} before, {split}"] = time.process_time() - begin
            asked_often.outputs = {}
        meter = InteractionMeter(self.task, self.players, evidence=Nothing(), extraction=self.extraction).prepare(probes)
        self.games = {split: meter._splits[split].game for split in probes}
        self.moments: list[TimePoint] = []
        self.values: dict[str, list[Tensor]] = {split: [] for split in probes}
        self.forward_seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(trainer, pl_module, trainer.current_epoch + 1)

    def _keep(self, trainer: L.Trainer, model: L.LightningModule, epoch: int) -> None:
        begin = time.process_time()
        self.moments.append(TimePoint(epoch, trainer.global_step))
        with shadowed(model, model.device, 0, trainer) as shadow:
            for split, game in self.games.items():
                self.values[split].append(game.values(shadow))
        self.forward_seconds += time.process_time() - begin

    def interactions(self, split: str) -> list[Interactions]:
        """Rewrite the values of each moment as interactions."""
        tables = torch.cat(self.values[split])
        if not bool(tables.isfinite().all()):
            raise ValueError("expected a training that does not diverge, got values that are not finite")
        found = [extract_interactions(part, tolerance=self.extraction.tolerance) for part in tables.split(AT_ONCE)]
        effects, offset = torch.cat([one.effects for one in found]), torch.cat([one.offset for one in found])
        number = len(self.probes[split])
        return [Interactions(*pair) for pair in zip(effects.split(number), offset.split(number), strict=True)]

    def measurements(self, interactions: Mapping[str, Sequence[Interactions]]) -> dict[str, list[Measurement]]:
        """Measure every moment with every kind of evidence: twins with and without held-out probes.

        Held-out probes take the place of the last training probes, as they do in a monitor.
        """
        found = {}
        for kind in self.evidence:
            own = [self._facts(kind, split, interactions[split]) for split in ("training", "held_out")]
            learned = self.evidence[kind].learned_epochs(self.prepared[kind]["training"])
            rows = [
                (one, learned > 0 and one.epoch <= learned, *splits) for one, *splits in zip(self.moments, *own, strict=True)
            ]
            if kind != REFERENCES:
                found[kind] = [Measurement(one, 0.0, training, None, early) for one, early, training, _ in rows]
            if kind in (TWINS, REFERENCES):
                name = TWINS_HELD_OUT if kind == TWINS else kind
                beside = len(self.probes["training"]) - len(self.probes["held_out"])
                found[name] = [Measurement(one, 0.0, first(own, beside), held_out, early) for one, early, own, held_out in rows]
        return found

    def _facts(self, kind: str, split: str, interactions: Sequence[Interactions]) -> list[SplitMeasurement]:
        own, prepared, probes = self.evidence[kind], self.prepared[kind][split], self.probes[split]
        weights = (own.weigh(one, THRESHOLD, prepared=prepared) for one in interactions)
        return [facts_of(one, said, THRESHOLD, self.task, probes) for one, said in zip(interactions, weights, strict=True)]

    def monitor_seconds(self, model: nn.Module, history: Sequence[Measurement]) -> float:
        """Measure once as a monitor with twins does, on the training probes, with numbers and phases of the history so far."""
        meter = InteractionMeter(self.task, self.players, evidence=self.evidence[TWINS], extraction=self.extraction)
        meter._prepared["training"] = self.prepared[TWINS]["training"]
        plain = InteractionMeter(self.task, self.players, evidence=Nothing(), extraction=self.extraction)
        meter._splits = plain.prepare({"training": self.probes["training"]})._splits
        begin = time.process_time()
        meter.measure(model)
        summarise(history[-1])
        measured = time.process_time() - begin
        begin = time.process_time()
        detect_phases(history)
        # Detection looks at all measurements again, each time at those so far: half of this on average.
        return measured + (time.process_time() - begin) / 2


class TwinLosses(L.Callback):
    """Keeps the loss of each twin on the half that it has not seen, after each epoch.

    Args:
        inputs: All training inputs.
        labels: Their labels, as noisy as in training.
        seed: Seed of the twins' training.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, seed: int) -> None:
        everything = range(len(labels))
        plans = make_plans(list(everything), 1, 2, stops=True, knows_loss=True, seed=seed)
        self.others = [sorted({*everything} - {*plan.training, *plan.stopping}) for plan in plans]
        self.inputs, self.labels = inputs, labels
        self.losses: list[list[float]] = []
        self.seconds = 0.0

    def __deepcopy__(self, _memo: Any) -> "TwinLosses":
        return self

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.losses.append([])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        begin = time.process_time()
        rows = self.others[len(self.losses) - 1]
        with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
            self.losses[-1].append(cross_entropy(shadow(self.inputs[rows]), self.labels[rows]).item())
        self.seconds += time.process_time() - begin


class Predictions(L.Callback):
    """Keeps the logits of the run on some inputs after each epoch."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self.logits: list[Tensor] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with shadowed(pl_module, pl_module.device, 0, trainer) as shadow:
            self.logits.append(shadow(self.inputs))


def default_kinds(setting: Setting) -> tuple[str, ...]:
    """List the kinds of evidence that a run is measured with."""
    return (TWINS, REFERENCES) if _with_all(setting) else (TWINS,)


def _with_all(setting: Setting) -> bool:
    return setting.seed in SEEDS_WITH_ALL and setting.noise in NOISES_WITH_ALL and setting.condition == PLAIN


def make_run(setting: Setting, size: Size, kinds: Sequence[str]) -> tuple[Run, dict[str, Tensor]]:
    """Train reference models, and then the network to its end.

    Returns:
        The run, and the values of its probes, ``[times, probes, coalitions]``, by split.
    """
    task = TASKS[setting.task]
    batch_size = task.architectures[setting.architecture].batch_size
    parts = make_parts(setting)
    inputs, labels = parts["training"].tensors
    L.seed_everything(setting.seed, verbose=False)
    model = make_model(setting, size.epochs)
    twin_losses = TwinLosses(inputs, labels, 1000 * setting.seed + 500)

    def fitted(kind: str) -> ReferenceModels:
        arguments = KINDS[kind]
        watchers = {"callbacks": [twin_losses]} if kind == TWINS else {}
        training = ReferenceTraining(
            max_epochs=size.epochs,
            seed=1000 * setting.seed + (0 if arguments is None else 500),
            factory=lambda: make_model(setting, size.epochs),
            trainer={"accelerator": "cpu", **watchers},
        )
        # On the run's own data they are trained with its own loader.
        of_run = DataLoader(parts["training"], batch_size, shuffle=True)
        loader = DataLoader(parts["reference"], 32, shuffle=True) if arguments is None else of_run
        return fit_reference_models(model, loader, training=training, **(arguments or {}))

    evidence, seconds = {}, {}
    for kind in kinds:
        begin = time.process_time()
        evidence[kind] = fitted(kind)
        seconds[kind] = time.process_time() - begin
    seconds[TWINS] -= twin_losses.seconds
    generator = torch.Generator().manual_seed(setting.seed)
    probes = {
        "training": _drawn(parts["training"], size.training_probes, generator),
        "held_out": _drawn(parts["validation"], size.held_out_probes, generator),
    }
    watch = Watch(evidence, probes, setting.task, size.tolerance)

    held_out = (torch.cat(columns) for columns in zip(parts["reference"].tensors, parts["validation"].tensors, strict=True))
    measures = {
        "test_loss": ValidationLoss(*parts["test"].tensors),
        "test_accuracy": Accuracy(*parts["test"].tensors),
        "calibrated_test_loss": CalibratedLoss(*parts["test"].tensors),
        "validation_loss": ValidationLoss(*held_out),
        "probe_loss": ValidationLoss(*_tensors(probes["held_out"])),
        "prediction_changes": PredictionChanges(inputs),
        "gradient_disparity": GradientDisparity(inputs, labels, min(batch_size, len(labels) // 5)),
    }
    if _with_all(setting):
        measures["evidence_criterion"] = EvidenceCriterion(inputs, labels, min(batch_size, len(labels) // 5))
    recorders = {name: RuleStopping(measure, best_epoch) for name, measure in measures.items()}
    predictions = Predictions(parts["validation"].tensors[0])
    trainer = L.Trainer(
        max_epochs=size.epochs,
        callbacks=[watch, predictions, *recorders.values()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begin = time.process_time()
    trainer.fit(model, DataLoader(parts["training"], batch_size, shuffle=True))
    beside = watch.forward_seconds + sum(one.seconds for one in recorders.values())
    plain = time.process_time() - begin - beside

    interactions = {split: watch.interactions(split) for split in probes}
    measured = watch.measurements(interactions)
    measurement_seconds = watch.monitor_seconds(model, measured[TWINS])
    costs = {"training": plain, **{name: recorder.seconds for name, recorder in recorders.items()}}
    for kind in measured:
        fits = TWINS if kind == TWINS_HELD_OUT else kind
        # As many probes are measured with held-out ones as without.
        costs[f"{kind} before"] = seconds[fits] + watch.seconds[f"{fits} before, training"]
        costs[f"{kind} measurement"] = measurement_seconds
    costs["twin losses before"] = seconds[TWINS]
    salient, salient_effects = _salient(interactions)
    run = Run(
        setting=setting,
        histories={kind: History(tuple(own), detect_phases(own)) for kind, own in measured.items()},
        curves={name: one.curve for name, one in recorders.items()},
        twin_losses=twin_losses.losses,
        predictions=torch.stack(predictions.logits),
        salient=salient,
        salient_effects=salient_effects,
        ratings={kind: {split: _said(ratings) for split, ratings in own.items()} for kind, own in watch.prepared.items()},
        seconds=costs,
    )
    return run, {split: torch.stack(own) for split, own in watch.values.items()}


def load_or_make(setting: Setting, size: Size, folder: Path, kinds: Sequence[str] | None = None) -> Run:
    """Read a run from its file in a folder; make it first if there is none."""
    path = folder / f"{setting.file_name}.pt"
    run = load(setting, size, path)
    if run is None:
        run, values = make_run(setting, size, default_kinds(setting) if kinds is None else kinds)
        files.write(path.with_suffix(".values.pt"), _key(setting, size), values)
        _save(run, size, path)
    return run


def load(setting: Setting, size: Size, path: Path) -> Run | None:
    """Read a run; ``None`` if there is none of this setting and size."""
    state = files.read(path, _key(setting, size))
    if state is None:
        return None
    # Phases are detected anew, so that a change of the detector needs no new runs.
    measured = {kind: History.from_dict(history).measurements for kind, history in state.pop("histories").items()}
    histories = {kind: History(own, detect_phases(own)) for kind, own in measured.items()}
    return Run(setting=setting, histories=histories, **state)


def load_values(setting: Setting, size: Size, path: Path) -> dict[str, Tensor] | None:
    """Read the values of a run's probes, ``[times, probes, coalitions]`` by split, from beside its file."""
    return files.read(path.with_suffix(".values.pt"), _key(setting, size))


def _save(run: Run, size: Size, path: Path) -> None:
    state = dict(vars(run))
    setting = state.pop("setting")
    state["histories"] = {kind: history.to_dict() for kind, history in run.histories.items()}
    files.write(path, _key(setting, size), state)


def _key(setting: Setting, size: Size) -> dict[str, Any]:
    return {"version": FILE_VERSION, "setting": asdict(setting), "size": asdict(size)}


def _salient(interactions: Mapping[str, Sequence[Interactions]]) -> tuple[Tensor, Tensor]:
    """List all salient interactions, training probes before held-out ones."""
    by_split = (torch.stack([one.effects for one in interactions[split]]) for split in ("training", "held_out"))
    effects = torch.cat(list(by_split), dim=1)
    magnitude = effects.abs()
    salient = magnitude > THRESHOLD * magnitude.amax(dim=(2, 3), keepdim=True)
    return salient.nonzero().to(torch.int16), effects[salient]


def _said(ratings: Any) -> dict[str, Any]:
    return {
        "signs": ratings.votes.signs,
        "finite": ratings.votes.finite,
        "score": ratings.score,
        "learned_epochs": ratings.learned_epochs,
        "by_chance": [one.signs for one in ratings.by_chance],
    }


def first(split: SplitMeasurement, count: int) -> SplitMeasurement:
    """Keep the first probes of a split."""
    strength = OrderStrength(**{name: part[:count] for name, part in vars(split.strength).items()})
    return SplitMeasurement(**{name: getattr(split, name)[:count] for name in INPUT_FIELDS}, strength=strength)


def _drawn(part: TensorDataset, count: int, generator: torch.Generator) -> Probes:
    inputs, labels = part.tensors
    rows = torch.randperm(len(labels), generator=generator)[:count]
    return Probes.of((inputs[rows], labels[rows]))


def _tensors(probes: Probes) -> tuple[Tensor, Tensor]:
    """Return the inputs and labels of probes of one shape."""
    (group,) = probes.groups
    return group.inputs.tree, group.targets.tree
