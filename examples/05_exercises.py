"""A time series: exercises of the shoulder
========================================

A smartwatch recorded exercises at 50 Hz; the recordings ship in seglearn.

Ten people did seven exercises of physiotherapy with each arm (Burns et al. 2018). A 1-D CNN tells from 2.6 seconds of
acceleration and rotation which exercise it is; 20 % of the labels that it learns from are wrong. It learns from four people,
reference models learn from three others, and the last three are validation data: what generalizes is what holds for other
people. Players are eight segments of time.

::

    python examples/05_exercises.py         # to the end; says what stopping would have given
    python examples/05_exercises.py --stop  # stops at phase three, with the weights of its onset
"""

# %%
# .. figure:: /example_exercises.png
#    :alt: Phases of the exercises' run
#
#    The whole run. :doc:`/examples` says what it shows.

# sphinx_gallery_thumbnail_path = "example_exercises.png"

import lightning as L
import numpy as np
import torch
from gallery import Metrics, arguments, flip_labels, make_trainer, probes, report
from seglearn.datasets import load_watch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import HeldOutReferences, InteractionMonitor, Logging, PhaseEarlyStopping
from lightning_interactions.players import TimeSegments
from lightning_interactions.references import ReferenceTraining

WINDOW = 128
EXERCISES = 7


def windows(people: range) -> tuple[Tensor, Tensor]:
    """Cut the recordings of some people into windows ``[windows, 6 channels, 128 moments]`` that do not overlap."""
    watch = load_watch()
    series, labels = [], []
    for recording, person, exercise in zip(watch["X"], watch["subject"], watch["y"], strict=True):
        if person in people:
            whole = recording[: len(recording) // WINDOW * WINDOW]
            series.append(whole.reshape(-1, WINDOW, whole.shape[1]).transpose(0, 2, 1))
            labels.append(np.full(len(series[-1]), exercise))
    return torch.tensor(np.concatenate(series)).float(), torch.tensor(np.concatenate(labels)).long()


class WatchData(L.LightningDataModule):
    """Four people to learn from, with wrong labels, three for reference models, three for validation."""

    def __init__(self, seed: int = 1, noise: float = 0.2, batch_size: int = 64) -> None:
        super().__init__()
        self.seed = seed
        self.noise = noise
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        training, labels = windows(range(1, 5))
        self.training = TensorDataset(training, flip_labels(labels, EXERCISES, self.seed, self.noise))
        self.reference = TensorDataset(*windows(range(5, 8)))
        self.validation = TensorDataset(*windows(range(8, 11)))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.training, self.batch_size, shuffle=True)

    def reference_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Load what reference models are trained on."""
        return DataLoader(self.reference, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.validation, 500)


class WatchNetwork(L.LightningModule):
    """A 1-D CNN with batch norm."""

    def __init__(self, width: int = 32, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Conv1d(6, width, 9, stride=2, padding=4), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, 2 * width, 9, stride=2, padding=4), nn.BatchNorm1d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(16 * width, 128), nn.ReLU(), nn.Linear(128, EXERCISES),
        )  # fmt: skip

    def forward(self, series: Tensor) -> Tensor:
        return self.layers(series)

    def step(self, batch: list[Tensor], name: str) -> Tensor:
        series, exercises = batch
        logits = self(series)
        loss = cross_entropy(logits, exercises)
        self.log(f"{name}_loss", loss, prog_bar=True)
        self.log(f"{name}_accuracy", (logits.argmax(dim=1) == exercises).float().mean())
        return loss

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.step(batch, "training")

    def validation_step(self, batch: list[Tensor]) -> None:
        self.step(batch, "validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])


def main() -> None:
    given = arguments(__doc__, "exercises.png")
    L.seed_everything(given.seed, verbose=False)
    training = ReferenceTraining(max_epochs=1 if given.quick else 30)
    monitor = InteractionMonitor(
        TimeSegments(4 if given.quick else 8),
        evidence=HeldOutReferences(num_models=1 if given.quick else 3, training=training),
        probes=probes(given.quick),
        logging=Logging(figures=None, verbose=True),
    )
    stopping = PhaseEarlyStopping(phase=3, restore_best=given.stop, log_only=not given.stop)
    metrics = Metrics()
    trainer = make_trainer(1 if given.quick else 30, monitor, stopping, metrics)
    trainer.fit(WatchNetwork(), datamodule=WatchData(given.seed, given.noise))
    report(monitor, stopping, metrics, given.figure)


if __name__ == "__main__":
    main()
