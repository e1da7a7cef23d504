"""The trainings that rivals need besides the run itself, each kept to its end, in a file of its own beside the run's.

======================  ===========================================================================================
training                what is done
======================  ===========================================================================================
``validation split``    on four fifths of the noisy training data; its loss on the other fifth says when to stop
``halves``, ``fifths``  cross-validation in 2 and 5 folds: one training without each fold, and the loss on it
``second``              on all training data with another seed, for the agreement of two runs on unlabelled inputs
``flipped``             on all training data, 5 % of whose labels are knowingly changed; accuracy on their given labels
======================  ===========================================================================================

All have as many epochs as the run. They are trained by a plain loop, whose steps are those of a Trainer.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from competitors import Accuracy, ValidationLoss
from papers import files
from runs import Size
from tasks import PLAIN, TASKS, Conditioned, Setting, make_model, make_parts
from torch import Tensor

__all__ = ["Trainings", "default_parts", "load_or_make_trainings", "load_trainings", "train"]

FILE_VERSION = 1
ALL_PARTS = ("validation split", "halves", "fifths", "second", "flipped")
VALIDATION_FRACTION, FLIPPED_FRACTION = 0.2, 0.05
SEEDS_WITH_ALL = (0, 100)
"""Other runs, and those under conditions, have only what is always made: it takes a quarter of the time."""

ALWAYS = ("validation split", "halves")

Measures = dict[str, Callable[[Conditioned], Any]]


@dataclass(frozen=True, eq=False)
class Trainings:
    """What is kept of the trainings of a setting.

    Attributes:
        curves: One number after each epoch, by training and name: ``test_loss`` and ``test_accuracy`` where its weights would
            be used, ``loss`` on the data that was left out (of each fold ``loss 0``, ``loss 1`` …), and ``accuracy`` on the
            knowingly changed labels as they were given.
        predictions: ``[epochs, inputs, classes]``; logits on held-out inputs without their labels, by training: ``second``,
            ``half 0``, ``half 1``.
    """

    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)


def train(
    model: Conditioned,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    measures: Measures,
) -> dict[str, list[Any]]:
    """Train a model, and measure it after each epoch in evaluation mode without gradients.

    Args:
        model: A fresh model.
        inputs: All that it trains on.
        labels: Their labels.
        batch_size: Inputs in a batch; the last one of an epoch may be smaller.
        epochs: Epochs.
        seed: Seed of the order of inputs, and of augmentation.
        measures: What is measured, by name.
    """
    configured = model.configure_optimizers()
    (optimizer,), schedulers = configured if isinstance(configured, tuple) else ([configured], [])
    curves: dict[str, list[Any]] = {name: [] for name in measures}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            model.train()
            for rows in torch.randperm(len(labels)).split(batch_size):
                loss = model.training_step((inputs[rows], labels[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
            model.eval()
            with torch.no_grad():
                for name, measure in measures.items():
                    curves[name].append(measure(model))
    return curves


def default_parts(setting: Setting) -> tuple[str, ...]:
    """List the trainings that are made for a setting."""
    return ALL_PARTS if setting.seed in SEEDS_WITH_ALL and setting.condition == PLAIN else ALWAYS


def make_trainings(setting: Setting, size: Size, parts: Sequence[str]) -> Trainings:
    """Make trainings one after the other."""
    data = make_parts(setting)
    inputs, labels = data["training"].tensors
    unlabelled = data["validation"].tensors[0]
    on_test = {"test_loss": ValidationLoss(*data["test"].tensors), "test_accuracy": Accuracy(*data["test"].tensors)}
    batch_size = TASKS[setting.task].architectures[setting.architecture].batch_size
    generator = torch.Generator().manual_seed(setting.seed + 7)
    order = torch.randperm(len(labels), generator=generator)
    found = Trainings()

    def run(rows: Tensor, number: int, measures: Measures, own: Tensor = labels) -> dict[str, list[Any]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * setting.seed + 100 + number)
            model = make_model(setting, size.epochs)
        options = {"batch_size": batch_size, "epochs": size.epochs, "seed": 1000 * setting.seed + 200 + number}
        return train(model, inputs[rows], own[rows], **options, measures=measures)

    if "validation split" in parts:
        out, kept = order.split([round(VALIDATION_FRACTION * len(order)), len(order) - round(VALIDATION_FRACTION * len(order))])
        found.curves["validation split"] = run(kept, 0, {"loss": ValidationLoss(inputs[out], labels[out]), **on_test})
    for part, folds in (("halves", 2), ("fifths", 5)):
        if part not in parts:
            continue
        found.curves[part] = {}
        for fold in range(folds):
            out = order[fold::folds]
            kept = torch.cat([order[other::folds] for other in range(folds) if other != fold])
            measures = {"loss": ValidationLoss(inputs[out], labels[out])}
            if part == "halves":
                measures["logits"] = lambda model: model(unlabelled)
            curves = run(kept, 10 * folds + fold, measures)
            found.curves[part][f"loss {fold}"] = curves["loss"]
            if part == "halves":
                found.predictions[f"half {fold}"] = torch.stack(curves["logits"])
    if "second" in parts:
        curves = run(torch.arange(len(labels)), 1, {"logits": lambda model: model(unlabelled)})
        found.predictions["second"] = torch.stack(curves["logits"])
    if "flipped" in parts:
        changed = order[: round(FLIPPED_FRACTION * len(order))]
        own, num_classes = labels.clone(), TASKS[setting.task].num_classes
        shift = torch.randint(1, num_classes, (len(changed),), generator=generator)
        own[changed] = (labels[changed] + shift) % num_classes
        as_given = {
            "accuracy": Accuracy(inputs[changed], labels[changed]),
            "loss": ValidationLoss(inputs[changed], labels[changed]),
        }
        found.curves["flipped"] = run(torch.arange(len(labels)), 2, {**as_given, **on_test}, own)
    return found


def load_or_make_trainings(setting: Setting, size: Size, folder: Path, parts: Sequence[str] | None = None) -> Trainings:
    """Read the trainings of a setting from their file in a folder; make them first if there is none."""
    found = load_trainings(setting, size, folder)
    if found is None:
        found = make_trainings(setting, size, default_parts(setting) if parts is None else parts)
        files.write(_path(setting, folder), _key(setting, size), dict(vars(found)))
    return found


def load_trainings(setting: Setting, size: Size, folder: Path) -> Trainings | None:
    """Read the trainings of a setting; ``None`` if there are none."""
    state = files.read(_path(setting, folder), _key(setting, size))
    return None if state is None else Trainings(**state)


def _path(setting: Setting, folder: Path) -> Path:
    return folder / f"{setting.file_name}.trainings.pt"


def _key(setting: Setting, size: Size) -> dict[str, Any]:
    return {"version": FILE_VERSION, "setting": asdict(setting), "epochs": size.epochs}
