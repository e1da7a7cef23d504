"""What the examples 03 to 07 share: their arguments, some wrong labels, and what they report."""

import argparse
import time
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping, ProbeSampling
from lightning_interactions.reporting import phase_figure

__all__ = ["Metrics", "arguments", "flip_labels", "make_trainer", "probes", "report"]


def arguments(description: str, figure: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds: goes through all the code and means nothing")
    parser.add_argument("--stop", action="store_true", help="stop when phase three is detected, with the weights of its onset")
    parser.add_argument("--seed", type=int, default=1, help="seed of data and training (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.2, help="part of the training labels that is wrong (default: %(default)s)"
    )
    parser.add_argument("--figure", type=Path, default=Path(figure), help="the phase plot (default: %(default)s)")
    return parser.parse_args()


def flip_labels(labels: Tensor, num_classes: int, seed: int, noise: float) -> Tensor:
    """Replace some labels with another class, as careless annotators do.

    Args:
        labels: Classes ``0 … num_classes - 1``.
        num_classes: How many classes there are.
        seed: Seed of the draw.
        noise: Probability that a label is replaced.
    """
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.rand(labels.shape, generator=generator) < noise
    shift = torch.randint(1, num_classes, labels.shape, generator=generator)
    return (labels + flipped * shift) % num_classes


def probes(quick: bool) -> ProbeSampling:
    return ProbeSampling(training=8, held_out=8) if quick else ProbeSampling()


class Metrics(L.Callback):
    """Keeps what the module logs in validation, after 1, 2 … epochs."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.began = self.trains = time.perf_counter()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.began = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trains = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def make_trainer(max_epochs: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_epochs=max_epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def report(monitor: InteractionMonitor, stopping: PhaseEarlyStopping, metrics: Metrics, figure: Path) -> None:
    """Print phases, what they were worth on validation data, and what they cost; draw the phase plot."""

    def line(moment: str, epoch: int) -> None:
        if epoch == 0:
            print(f"{moment:<20} epoch   0: the untrained model")
        else:
            logged = metrics.logged[epoch - 1]
            print(
                f"{moment:<20} epoch {epoch:>3}: accuracy {logged['validation_accuracy']:.3f}, "
                f"loss {logged['validation_loss']:.3f} on validation data"
            )

    took, history = time.perf_counter() - metrics.began, monitor.history
    print(f"\n{monitor.phase}")
    if stopping.onset_epoch is None or stopping.detected_epoch is None:
        print("phase 3 did not begin")
    else:
        line("onset of phase three", stopping.onset_epoch)
        line("its detection", stopping.detected_epoch)
    losses = [logged["validation_loss"] for logged in metrics.logged]
    line("smallest loss", losses.index(min(losses)) + 1)
    line("end", len(losses))
    measuring = sum(measurement.seconds for measurement in history.measurements)
    before = max(metrics.trains - metrics.began - history.measurements[0].seconds, 0.0)
    print(
        f"cost: {took:.0f} s, of which {before:.0f} s before the first epoch, for evidence, and {measuring:.0f} s "
        f"for {len(history)} measurements"
    )
    phase_figure(history).savefig(figure, dpi=120)
    print(f"picture: {figure}")
