"""A table: categories and numbers
===============================

6366 answers to a survey on marriage, which ship in statsmodels.

Fair's survey of 1974 (Redbook) asks married women for age, years of marriage, children, education, religiousness, how they
rate their marriage, and both occupations. A network with embeddings learns which of them had an affair; 20 % of the labels
that it learns from are wrong. Players are the eight columns, of two tensors of a dict batch.

::

    python examples/03_table.py         # to the end; says what stopping would have given
    python examples/03_table.py --stop  # stops at phase three, with the weights of its onset
"""

# %%
# .. figure:: /example_table.png
#    :alt: Phases of the table's run
#
#    The whole run. :doc:`/examples` says what it shows.

# sphinx_gallery_thumbnail_path = "example_table.png"

import lightning as L
import torch
from gallery import Metrics, arguments, flip_labels, make_trainer, probes, report
from statsmodels.datasets import fair
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset, random_split

from lightning_interactions import (
    FeatureGroups,
    InteractionMonitor,
    Logging,
    PhaseEarlyStopping,
)

CATEGORIES = {"occupation": 6, "occupation_husb": 6, "religious": 4}
NUMBERS = ("rate_marriage", "age", "yrs_married", "children", "educ")


class Survey(Dataset[dict[str, Tensor]]):
    """Fair's survey.

    Args:
        seed: Seed of the wrong labels.
        noise: Probability that a label is wrong.
    """

    def __init__(self, seed: int, noise: float) -> None:
        answers = fair.load_pandas().data
        self.categories = torch.tensor(answers[list(CATEGORIES)].to_numpy()).long() - 1
        numbers = torch.tensor(answers[list(NUMBERS)].to_numpy()).float()
        self.numbers = (numbers - numbers.mean(dim=0)) / numbers.std(dim=0)
        self.affair = flip_labels(torch.tensor(answers["affairs"].to_numpy() > 0).long(), 2, seed, noise)

    def __len__(self) -> int:
        return len(self.affair)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"categories": self.categories[index], "numbers": self.numbers[index], "affair": self.affair[index]}


class SurveyData(L.LightningDataModule):
    """2000 women to learn from, with wrong labels, and the others for validation."""

    def __init__(self, seed: int = 1, noise: float = 0.2, batch_size: int = 64, size: int = 2000) -> None:
        super().__init__()
        self.seed = seed
        self.noise = noise
        self.batch_size = batch_size
        self.size = size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        training = random_split(Survey(self.seed, self.noise), [self.size, 6366 - self.size], generator)[0]
        generator.manual_seed(self.seed)
        rest = random_split(Survey(self.seed, 0.0), [self.size, 6366 - self.size], generator)[1]
        self.training, self.validation = training, rest

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.training, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.validation, 1000)


class SurveyNetwork(L.LightningModule):
    """Embeddings of the categories beside the numbers, and an MLP with one logit."""

    def __init__(self, width: int = 128, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embeddings = nn.ModuleList(nn.Embedding(count, 4) for count in CATEGORIES.values())
        self.layers = nn.Sequential(
            nn.Linear(4 * len(CATEGORIES) + len(NUMBERS), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        embedded = [embedding(categories[:, column]) for column, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([*embedded, numbers], dim=1))[:, 0]

    def step(self, batch: dict[str, Tensor], name: str) -> Tensor:
        logits = self(batch["categories"], batch["numbers"])
        loss = binary_cross_entropy_with_logits(logits, batch["affair"].float())
        self.log(f"{name}_loss", loss)
        self.log(f"{name}_accuracy", ((logits > 0) == batch["affair"]).float().mean())
        return loss

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.step(batch, "training")

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.step(batch, "validation")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])


def main() -> None:
    given = arguments(__doc__, "table.png")
    L.seed_everything(given.seed, verbose=False)
    monitor = InteractionMonitor(
        FeatureGroups(leaf=("categories", "numbers"), features=[*CATEGORIES, *NUMBERS]),
        probes=probes(given.quick),
        logging=Logging(figures=None, verbose=True),
    )
    stopping = PhaseEarlyStopping(phase=3, restore_best=given.stop, log_only=not given.stop)
    metrics = Metrics()
    trainer = make_trainer(1 if given.quick else 40, monitor, stopping, metrics)
    trainer.fit(SurveyNetwork(), datamodule=SurveyData(given.seed, given.noise))
    report(monitor, stopping, metrics, given.figure)


if __name__ == "__main__":
    main()
