"""Monitored runs, each kept in a file of its own so that an interrupted command goes on where it stopped."""

import logging
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from modules import Curve
from torch.utils.data import DataLoader

from lightning_interactions import (
    Extraction,
    History,
    InteractionMonitor,
    Interactions,
    Logging,
    ProbeSampling,
    fit_reference_models,
)
from lightning_interactions.references import ReferenceTraining
from lightning_interactions.schedules import DenserEarly
from papers import files
from papers.tasks import QUICK_TASKS, TASKS, make_parts

__all__ = ["EXTRACTION", "Run", "Setting", "Size", "be_a_worker", "load", "load_or_make", "save"]

FILE_VERSION = 2

EXTRACTION = Extraction(tolerance=None)
"""Strengths at a looser tolerance differ by some percent, and some claims are about as much."""


@dataclass(frozen=True)
class Size:
    """How large all runs are.

    Attributes:
        reference_epochs: Epochs of each reference model.
        probes: Training probes, and as many held-out ones.
    """

    reference_epochs: int = 15
    probes: int = 24


@dataclass(frozen=True)
class Setting:
    """What a run is of.

    Attributes:
        task: Name of a task.
        architecture: Name of one of its architectures.
        seed: Of data, training and reference models.
        random_labels: All labels are random, so that nothing generalizes.
    """

    task: str
    architecture: str
    seed: int
    random_labels: bool = False

    @property
    def title(self) -> str:
        """Task and architecture, without the seed."""
        return f"{self.task}, {self.architecture}" + (", random labels" if self.random_labels else "")

    @property
    def file_name(self) -> str:
        return f"{self.title} {self.seed}".replace(",", "").replace(" ", "-")


@dataclass(frozen=True, eq=False)
class Run:
    """What is kept of a run.

    Attributes:
        setting: What it is of.
        history: All measurements, and the phases detected at them.
        final: Interactions on the training probes at the first measurement in phase 3, else at the last one.
        training_losses: Loss on all training data with their spoilt labels, after 0, 1, 2 … epochs, nats.
        test_losses: Loss on all test data, nats.
        test_accuracies: Accuracy on them.
        seconds: Processor time, the training of the reference models included.
    """

    setting: Setting
    history: History
    final: Interactions
    training_losses: list[float]
    test_losses: list[float]
    test_accuracies: list[float]
    seconds: float


def monitored_run(setting: Setting, size: Size) -> Run:
    """Train reference models and then the monitored network, with a Trainer."""
    begin = time.process_time()
    task = {**TASKS, **QUICK_TASKS}[setting.task]
    architecture = task.architectures[setting.architecture]
    parts = make_parts(task, setting.seed, random_labels=setting.random_labels)
    L.seed_everything(setting.seed, verbose=False)
    model = architecture.classifier()
    references = fit_reference_models(
        model,
        DataLoader(parts["reference"], 32, shuffle=True),
        training=ReferenceTraining(
            max_epochs=size.reference_epochs,
            factory=architecture.classifier,
            seed=1000 * setting.seed,
            trainer={"accelerator": "cpu"},
        ),
    )
    monitor = InteractionMonitor(
        task.players,
        evidence=references,
        probes=ProbeSampling(size.probes, size.probes, setting.seed),
        extraction=EXTRACTION,
        schedule=DenserEarly(architecture.epochs),
        logging=Logging(figures=None),
    )
    on_training, on_test = (Curve(*parts[name].tensors) for name in ("training", "test"))
    trainer = L.Trainer(
        max_epochs=architecture.epochs,
        callbacks=[on_training, on_test, monitor],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training = DataLoader(parts["training"], architecture.batch_size, shuffle=True)
    trainer.fit(model, training, DataLoader(parts["validation"], 200))
    assert monitor.final_interactions is not None
    return Run(
        setting, monitor.history, monitor.final_interactions,
        on_training.losses, on_test.losses, on_test.accuracies,
        time.process_time() - begin,
    )  # fmt: skip


def save(run: Run, size: Size, path: Path) -> None:
    """Write a run."""
    state = {**vars(run), "history": run.history.to_dict(), "final": vars(run.final)}
    files.write(path, _key(state.pop("setting"), size), state)


def load(setting: Setting, size: Size, path: Path) -> Run | None:
    """Read a run; ``None`` if there is none of this setting and size."""
    state = files.read(path, _key(setting, size))
    if state is None:
        return None
    history, final = History.from_dict(state.pop("history")), Interactions(**state.pop("final"))
    return Run(setting=setting, history=history, final=final, **state)


def load_or_make(setting: Setting, size: Size, folder: Path) -> Run:
    """Read a run from its file in a folder; make it first if there is none."""
    path = folder / f"{setting.file_name}.pt"
    run = load(setting, size, path)
    if run is None:
        run = monitored_run(setting, size)
        save(run, size, path)
    return run


def be_a_worker() -> None:
    """Use one thread, and leave out what Lightning tells of every run."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "The '.*' does not have many workers")
    warnings.filterwarnings("ignore", "The number of training batches")
    warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
    warnings.filterwarnings("ignore", "GPU available but not used")
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")


def _key(setting: Setting, size: Size) -> dict[str, Any]:
    return {"version": FILE_VERSION, "setting": asdict(setting), "size": asdict(size)}
