"""A point cloud: dark pixels of digits
====================================

The dark pixels of scikit-learn's handwritten digits become points.

Each of 1797 digits becomes a cloud of points with two coordinates and the ink there, padded to 64. A PointNet, which sees a
set of points without order, tells which digit it is; 20 % of the labels that it learns from are wrong. Players are eight
clusters of neighbouring points.

::

    python examples/07_points.py         # to the end; says what stopping would have given
    python examples/07_points.py --stop  # stops at phase three, with the weights of its onset
"""

# %%
# .. figure:: /example_points.png
#    :alt: Phases of the points' run
#
#    The whole run. :doc:`/examples` says what it shows.

# sphinx_gallery_thumbnail_path = "example_points.png"

import lightning as L
import torch
from gallery import Metrics, arguments, flip_labels, make_trainer, probes, report
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, Logging, PhaseEarlyStopping
from lightning_interactions.players import PointGroups

DARK = 4
"""Least ink of a point, of 16."""

Cloud = tuple[Tensor, int]


def clouds() -> list[Tensor]:
    """Make a cloud ``[points, 3]`` of each digit: horizontal and vertical place and ink, all from -1 to 1."""
    found = []
    for image in torch.tensor(load_digits().images).float():
        places = (image >= DARK).nonzero()
        ink = image[places[:, 0], places[:, 1]]
        found.append(torch.stack([places[:, 1] / 3.5 - 1, 1 - places[:, 0] / 3.5, ink / 8 - 1], dim=1))
    return found


def collate(samples: list[Cloud]) -> dict[str, Tensor]:
    """Pad the clouds of a batch to 64 points."""
    points, digits = zip(*samples, strict=True)
    padded = pad_sequence([*points, torch.zeros(64, 3)], batch_first=True)[:-1]
    return {"points": padded, "num_points": torch.tensor([len(cloud) for cloud in points]), "digit": torch.tensor(digits)}


class CloudData(L.LightningDataModule):
    """1200 digits to learn from, with wrong labels, and the others for validation."""

    def __init__(self, seed: int = 1, noise: float = 0.2, batch_size: int = 64) -> None:
        super().__init__()
        self.seed = seed
        self.noise = noise
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        found = clouds()
        labels = torch.tensor(load_digits().target)
        wrong = flip_labels(labels, 10, self.seed, self.noise)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(self.seed)).tolist()
        self.training: list[Cloud] = [(found[index], int(wrong[index])) for index in order[:1200]]
        self.validation: list[Cloud] = [(found[index], int(labels[index])) for index in order[1200:]]

    def train_dataloader(self) -> DataLoader[Cloud]:
        return DataLoader(self.training, self.batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Cloud]:
        return DataLoader(self.validation, 200, collate_fn=collate)


class PointNet(L.LightningModule):
    """The same MLP for each point, the largest of each feature, and another MLP."""

    def __init__(self, width: int = 256, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.of_point = nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, width))
        self.of_cloud = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, points: Tensor, num_points: Tensor) -> Tensor:
        padding = torch.arange(points.shape[1], device=points.device) >= num_points[:, None]
        features = self.of_point(points).masked_fill(padding[:, :, None], -torch.inf)
        return self.of_cloud(features.amax(dim=1))

    def step(self, batch: dict[str, Tensor], name: str) -> Tensor:
        logits = self(batch["points"], batch["num_points"])
        loss = cross_entropy(logits, batch["digit"])
        self.log(f"{name}_loss", loss, batch_size=len(logits))
        self.log(f"{name}_accuracy", (logits.argmax(dim=1) == batch["digit"]).float().mean(), batch_size=len(logits))
        return loss

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.step(batch, "training")

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.step(batch, "validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])


def main() -> None:
    given = arguments(__doc__, "points.png")
    L.seed_everything(given.seed, verbose=False)
    monitor = InteractionMonitor(
        PointGroups(4 if given.quick else 8, leaf="points", coordinates=2),
        probes=probes(given.quick),
        logging=Logging(figures=None, verbose=True),
    )
    stopping = PhaseEarlyStopping(phase=3, restore_best=given.stop, log_only=not given.stop)
    metrics = Metrics()
    trainer = make_trainer(1 if given.quick else 60, monitor, stopping, metrics)
    trainer.fit(PointNet(), datamodule=CloudData(given.seed, given.noise))
    report(monitor, stopping, metrics, given.figure)


if __name__ == "__main__":
    main()
