"""Inner features of a CNN: textures
=================================

Photographs of bricks, grass and gravel, which ship in scikit-image.

Each photograph is cut into crops of 24x24 pixels that do not overlap; crops of its lower part are validation data. A small
residual network tells from a crop, brought to zero mean and unit contrast, which of the three it shows; 20 % of the labels
that it learns from are wrong. Players are 3x3 patches of what its second stage gives, not of the image: features of a
neighbourhood, not pixels. What lies before runs once for each image.

::

    python examples/06_textures.py         # to the end; says what stopping would have given
    python examples/06_textures.py --stop  # stops at phase three, with the weights of its onset
"""

# %%
# .. figure:: /example_textures.png
#    :alt: Phases of the textures' run
#
#    The whole run. :doc:`/examples` says what it shows.

# sphinx_gallery_thumbnail_path = "example_textures.png"

import lightning as L
import torch
from gallery import Metrics, arguments, flip_labels, make_trainer, probes, report
from skimage import data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor, Logging, PhaseEarlyStopping
from lightning_interactions.players import FeatureMapPatches

SIZE = 24
TEXTURES = (data.brick, data.grass, data.gravel)


def crops(photograph: Tensor) -> Tensor:
    """Cut a photograph into crops ``[crops, 1, height, width]`` of zero mean and unit contrast, from top to bottom."""
    rows = photograph.float().unfold(0, SIZE, SIZE).unfold(1, SIZE, SIZE)
    whole = rows.reshape(-1, 1, SIZE, SIZE)
    return (whole - whole.mean(dim=(2, 3), keepdim=True)) / whole.std(dim=(2, 3), keepdim=True)


class TextureData(L.LightningDataModule):
    """Upper parts of the photographs to learn from, with wrong labels, and lower parts for validation."""

    def __init__(self, seed: int = 1, noise: float = 0.2, batch_size: int = 64) -> None:
        super().__init__()
        self.seed = seed
        self.noise = noise
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        upper, lower = [], []
        for photograph in TEXTURES:
            whole = crops(torch.from_numpy(photograph()))
            upper.append(whole[: len(whole) * 5 // 8])
            lower.append(whole[len(whole) * 5 // 8 :])
        labels = torch.arange(len(TEXTURES)).repeat_interleave(len(upper[0]))
        self.training = TensorDataset(torch.cat(upper), flip_labels(labels, len(TEXTURES), self.seed, self.noise))
        labels = torch.arange(len(TEXTURES)).repeat_interleave(len(lower[0]))
        self.validation = TensorDataset(torch.cat(lower), labels)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.training, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.validation, 500)


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.path(features) + self.shortcut(features))


class TextureNetwork(L.LightningModule):
    """A residual network of three stages."""

    def __init__(self, width: int = 12, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.first = Block(1, width)
        self.second = Block(width, 2 * width, stride=2)
        self.third = Block(2 * width, 4 * width, stride=2)
        self.head = nn.Linear(4 * width * (SIZE // 4) ** 2, len(TEXTURES))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(images))).flatten(1))

    def step(self, batch: list[Tensor], name: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.log_dict({f"{name}_loss": loss, f"{name}_accuracy": (logits.argmax(dim=1) == labels).float().mean()})
        return loss

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.step(batch, "training")

    def validation_step(self, batch: list[Tensor]) -> None:
        self.step(batch, "validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"])


def main() -> None:
    given = arguments(__doc__, "textures.png")
    L.seed_everything(given.seed, verbose=False)
    monitor = InteractionMonitor(
        FeatureMapPatches("second", *((2, 2) if given.quick else (3, 3))),
        probes=probes(given.quick),
        logging=Logging(figures=None, verbose=True),
    )
    stopping = PhaseEarlyStopping(phase=3, restore_best=given.stop, log_only=not given.stop)
    metrics = Metrics()
    trainer = make_trainer(1 if given.quick else 30, monitor, stopping, metrics)
    trainer.fit(TextureNetwork(), datamodule=TextureData(given.seed, given.noise))
    report(monitor, stopping, metrics, given.figure)


if __name__ == "__main__":
    main()
