"""What part of the wall time of a training the monitor takes at its defaults, and what the time goes into.

    python tests/benchmarks/overhead.py                    # an MLP, a small CNN and a ResNet on 5,000 rows: half an hour
    python tests/benchmarks/overhead.py --quick            # fewer rows, players, probes and epochs: a minute
    python tests/benchmarks/overhead.py --device cuda      # 50,000 images

Each network is trained alone for some epochs, to know how long one takes, and then with a monitor at its defaults, with a
TensorBoard logger. A run of E epochs has as many measurements as the schedule plans for it, each as long as the median one
here: that gives the share of wall time for any E, without training so long. Reference models, which are trained before, are
counted apart: they are no part of a measurement.

The share is bounded on runs that take as long as 250 measurements or more; on shorter ones it is printed.
"""

import argparse
import cProfile
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import lightning as L
import torch
from hook import PARTS, seconds_of_parts
from lightning.pytorch.loggers import TensorBoardLogger
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor
from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.measuring import ProbeSampling
from lightning_interactions.measuring.cost import MeasuringCost
from lightning_interactions.measuring.schedule import FitLength, Planned, number_of_moments
from lightning_interactions.players import FeatureGroups, ImagePatches
from lightning_interactions.references import fit_reference_models

MOST_OF_LONG_RUNS = 0.15
"""Largest share of wall time on runs that take as long as so many measurements."""

LONG_RUN = 250

EPOCHS = (10, 30, 100, 300, 1000)


class Classifier(L.LightningModule):
    """A network with the plainest steps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_index: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(channels, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.around = nn.Identity() if channels == outputs else nn.Conv2d(channels, outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.way(images) + self.around(images))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2048, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def table_of(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 10, generator=generator)
    scores = torch.stack([rows[:, 0] * rows[:, 1] + rows[:, 2], rows[:, 3] * rows[:, 4] - rows[:, 6], rows[:, 7]], dim=1)
    return TensorDataset(rows, _with_wrong_labels(scores.argmax(dim=1), 3, generator))


def images_of(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(10, (count,), generator=generator)
    images = nn.functional.interpolate(shapes, 32)[labels] + 1.5 * torch.randn(count, 3, 32, 32, generator=generator)
    return TensorDataset(images, _with_wrong_labels(labels, 10, generator))


def _with_wrong_labels(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    wrong = torch.rand(len(labels), generator=generator) < 0.2
    return torch.where(wrong, torch.randint(num_classes, labels.shape, generator=generator), labels)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], TensorDataset]]] = {
    "MLP, 10 features": (mlp, table_of),
    "CNN, 32x32": (cnn, images_of),
    "ResNet, 32x32": (resnet, images_of),
}


class ClockedMonitor(InteractionMonitor):
    """A monitor that profiles each of its measurements.

    Attributes:
        seconds: Wall time of each measurement, all counted.
        parts: Processor time of each part; see :mod:`hook`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seconds: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.profiled = False

    def _measure(self, *args: Any, **settings: Any) -> None:
        if self.profiled:  # The last measurement: profiling takes time of its own.
            profile = cProfile.Profile(time.process_time)
            begin = time.process_time()
            profile.runcall(super()._measure, *args, **settings)
            parts = seconds_of_parts(profile)
            self.parts.append({**parts, "other": time.process_time() - begin - sum(parts.values())})
            return
        begin = time.perf_counter()
        super()._measure(*args, **settings)
        self.seconds.append(time.perf_counter() - begin)


class EpochClock(L.Callback):
    """Wall time of each epoch, without what callbacks do at its end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.begin = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.begin)


class ProfileLast(L.Callback):
    """Switches to profiling in the last epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ClockedMonitor):
                callback.profiled = trainer.current_epoch + 1 == trainer.max_epochs


@dataclass(frozen=True)
class Found:
    """What was measured of one network.

    Attributes:
        epoch: Seconds of an epoch.
        measurement: Seconds of a measurement.
        evidence: Seconds to fit the reference models.
        parts: Processor seconds of each part of a measurement.
        cost: By counting.
        samples: Training samples.
    """

    epoch: float
    measurement: float
    evidence: float
    parts: dict[str, float]
    cost: MeasuringCost
    samples: int

    def planned(self, epochs: int) -> int:
        """Count the measurements of a run of so many epochs."""
        length = FitLength.of_limits(epochs=epochs, steps_per_epoch=-(-self.samples // 64))
        number = number_of_moments(Planned().for_fit(length), length)
        assert number is not None
        return number

    def share(self, epochs: int) -> float:
        """Share of the wall time of a run, measurements and reference models counted."""
        monitor = self.planned(epochs) * self.measurement + self.evidence
        return monitor / (monitor + epochs * self.epoch)

    @property
    def long_run(self) -> int:
        """The fewest epochs that take as long as many measurements."""
        return -(-int(LONG_RUN * self.measurement / self.epoch) // 1)


def evidence_of(module: L.LightningModule, loader: Any, quick: bool) -> ReferenceModels:
    """Two models, each trained on one half of the data."""
    if quick:
        return ReferenceModels([module, Classifier(module.network)])
    return fit_reference_models(module, loader, folds=2, num_models=1, vote=1)


def find(name: str, count: int, epochs: int, quick: bool, device: str) -> Found:
    """Train a network with a monitor."""
    make, data_of = NETWORKS[name]
    L.seed_everything(0, verbose=False)
    module, data, held_out = Classifier(make()), data_of(count, 1), data_of(500, 2)
    loaders = DataLoader(data, 64, shuffle=True), DataLoader(held_out, 256)
    begin = time.perf_counter()
    evidence = evidence_of(module, loaders[0], quick)
    of_evidence = time.perf_counter() - begin
    few = FeatureGroups([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]) if make is mlp else ImagePatches(2, 3)
    settings = {"players": few, "probes": ProbeSampling(4, 4)} if quick else {}
    monitor, clock = ClockedMonitor(evidence=evidence, **settings), EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs,
            callbacks=[clock, monitor, ProfileLast()],
            logger=TensorBoardLogger(folder),
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, *loaders)
    # The first epoch and the first measurement warm up.
    return Found(
        epoch=median(clock.seconds[1:]),
        measurement=median(monitor.seconds[1:]),
        evidence=of_evidence,
        parts=monitor.parts[-1],
        cost=MeasuringCost(monitor.meter.forwards).timed(median(monitor.seconds[1:])),
        samples=count,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, players, probes and epochs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    parser.add_argument("--only", help="a network whose name begins so")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bound is missed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="The '.*' does not have many workers")
    quick = arguments.quick
    count = 300 if quick else 50_000 if arguments.device == "cuda" else 5000
    found = {
        name: find(name, count, 2 if quick else 5, quick, arguments.device)
        for name in NETWORKS
        if name.startswith(arguments.only or "")
    }
    shares, parts, missed = [], [], 0
    for name, one in found.items():
        cells = [f"{one.share(epochs):.0%} ({one.planned(epochs)})" for epochs in EPOCHS]
        long = one.share(one.long_run)
        missed += long > MOST_OF_LONG_RUNS
        shares.append(
            [name, f"{one.epoch:.3f}", f"{one.measurement:.3f}", f"{one.evidence:.1f}", *cells, one.long_run, f"{long:.0%}"]
        )
        parts.append([name, *(f"{one.parts[part]:.3f}" for part in (*PARTS, "other"))])
    columns = [f"{epochs} epochs" for epochs in EPOCHS]
    headers = ["network", "epoch, s", "measurement, s", "references, s", *columns, "epochs of a long run", "its share"]
    print(f"Share of wall time, and measurements in brackets; {count} rows, {arguments.device}\n")
    print(tabulate(shares, headers, disable_numparse=True))
    print("\nProcessor seconds of one measurement, under a profiler\n")
    print(tabulate(parts, ["network", *PARTS, "other"], disable_numparse=True))
    return int(arguments.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
