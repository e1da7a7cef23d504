"""How far every evidence agrees with reference models that were trained on held-out data, and what it costs.

python tests/benchmarks/evidence.py                                  # the tasks that nothing was chosen on
python tests/benchmarks/evidence.py --tasks digits --seeds 30 31     # only some
python tests/benchmarks/evidence.py --quick                          # every part in a minute, bounds not judged

Each run trains one network on 20 % flipped labels and asks every evidence about the same interactions of the same 32 training
probes, at 15 moments of the training. The yardstick is three reference models (any of them); the ceiling is three others.
Agreement is the part of the salient strength to which two kinds of evidence give the same weight (weights between 0 and 1
count in part), averaged over the run without the untrained network.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from panel import Panel
from scipy import stats
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions import Extraction, InteractionMeter, fit_reference_models
from lightning_interactions.evidence import InputAgreement, OrderShape, ParameterNoise, ReferenceModels
from lightning_interactions.functional import salient_mask
from lightning_interactions.records import Interactions, Probes
from lightning_interactions.references import ReferenceTraining

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from papers.tasks import TASKS, make_parts

EXTRACTION = Extraction(threshold=0.05, tolerance=1e-5)
NUM_PROBES = 32
MOMENTS = (0, 1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 30, 35, 40, 45, 52, 60)
LEAST_AGREEMENT, LEAST_RANK_CORRELATION, MOST_COST = 0.75, 0.9, 3.0
YARDSTICK, CEILING = "three references", "three other references"


@dataclass(frozen=True)
class Asked:
    """What one evidence said at one moment.

    Attributes:
        agreement: With the yardstick, by strength.
        hard_agreement: The same with weights rounded to 0 or 1.
        chance_agreement: The same for the evidence's chance weights.
        share: Of salient strength that it calls generalizable.
        seconds: Of its weights, beyond the interactions of the monitored model.
    """

    agreement: float
    hard_agreement: float
    chance_agreement: float
    share: float
    seconds: float


class Watch(L.Callback):
    """Measures at some moments of the training with a panel, and compares what it said of the training probes.

    Args:
        meter: Whose evidence is a panel; the training probes are its first split.
    """

    def __init__(self, meter: InteractionMeter, panel: Panel) -> None:
        self.meter, self.panel = meter, panel
        self.moments: list[int] = []
        self.plain_seconds: list[float] = []
        self.asked: dict[str, list[Asked]] = {name: [] for name in panel.members}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ask(pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 in MOMENTS:
            self._ask(pl_module, trainer.current_epoch + 1)

    def _ask(self, model: L.LightningModule, epoch: int) -> None:
        begin = time.process_time()
        self.meter.measure(model)
        seconds = time.process_time() - begin
        self.plain_seconds.append(seconds - sum(self.panel.seconds.values()))
        self.moments.append(epoch)
        strength = _salient_strength(self.meter.interactions["training"])
        said = self.panel.weights[0]
        yardstick = said[YARDSTICK].weights
        for name, found in said.items():
            agreement, hard, chance = (
                _weighted(strength, 1 - (weights - yardstick).abs())
                for weights in (found.weights, found.weights.round(), found.chance_weights)
            )
            share = _weighted(strength, found.weights)
            self.asked[name].append(Asked(agreement, hard, chance, share, self.panel.seconds[name]))


def _salient_strength(interactions: Interactions) -> Tensor:
    return interactions.effects.abs() * salient_mask(interactions, EXTRACTION.threshold)


def _weighted(strength: Tensor, values: Tensor) -> float:
    return float((strength * values).sum() / strength.sum())


def timed(fit: Callable[[], ReferenceModels]) -> tuple[ReferenceModels, float]:
    begin = time.process_time()
    return fit(), time.process_time() - begin


def run(task_name: str, architecture_name: str, seed: int, quick: bool) -> list[list[object]]:
    """Train one network, and return a row for each evidence."""
    task = TASKS[task_name]
    architecture = task.architectures[architecture_name]
    parts = make_parts(task, seed)
    L.seed_everything(seed, verbose=False)
    model = architecture.classifier()

    def training_of(seed: int) -> ReferenceTraining:
        settings = {"max_epochs": 2} if quick else {}
        return ReferenceTraining(seed=seed, factory=architecture.classifier, trainer={"accelerator": "cpu"}, **settings)

    held_out = DataLoader(parts["reference"], 32, shuffle=True)
    training = DataLoader(parts["training"], architecture.batch_size, shuffle=True)
    fitted = {
        YARDSTICK: timed(lambda: fit_reference_models(model, held_out, training=training_of(1000))),
        CEILING: timed(lambda: fit_reference_models(model, held_out, training=training_of(2000))),
        "Twins": timed(lambda: fit_reference_models(model, training, folds=2, training=training_of(3000))),
    }
    panel = Panel(
        {
            **{name: references for name, (references, _) in fitted.items()},
            "ParameterNoise": ParameterNoise(),
            "OrderShape": OrderShape(),
            "InputAgreement": InputAgreement(),
        }
    )
    generator = torch.Generator().manual_seed(seed)
    probes = {}
    for split, part in (("training", "training"), ("held_out", "validation")):
        inputs, labels = parts[part].tensors
        rows = torch.randperm(len(labels), generator=generator)[: 4 if quick else NUM_PROBES]
        probes[split] = Probes.of((inputs[rows], labels[rows]))
    watch = Watch(InteractionMeter(players=task.players, evidence=panel, extraction=EXTRACTION).prepare(probes), panel)
    trainer = L.Trainer(
        max_epochs=3 if quick else architecture.epochs,
        callbacks=[watch],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begin = time.process_time()
    trainer.fit(model, training, DataLoader(parts["validation"], 200))
    plain = float(np.median(watch.plain_seconds))
    training_seconds = time.process_time() - begin - sum(watch.plain_seconds) - sum(
        sum(asked.seconds for asked in answers) for answers in watch.asked.values()
    )  # fmt: skip
    shares = np.array([asked.share for asked in watch.asked[YARDSTICK]])[1:]
    constant = float(np.maximum(shares, 1 - shares).mean())
    rows = [[task_name, architecture_name, seed, "constant", constant, constant, None, None, None, 1.0, None, None]]
    for name, answers in watch.asked.items():
        if name == YARDSTICK:
            continue
        own = np.array([asked.share for asked in answers])[1:]
        cost = 1 + float(np.median([asked.seconds for asked in answers])) / plain
        fitting = fitted[name][1] / training_seconds if name in fitted else None
        rows.append(
            [
                task_name, architecture_name, seed, name,
                float(np.mean([asked.agreement for asked in answers[1:]])),
                float(np.mean([asked.hard_agreement for asked in answers[1:]])),
                float(np.mean([asked.chance_agreement for asked in answers[1:]])),
                float(stats.spearmanr(own, shares).statistic),
                float(stats.spearmanr(np.diff(own), np.diff(shares)).statistic),
                cost, panel.preparation[name] / plain, fitting,
            ]
        )  # fmt: skip
    index = float(stats.spearmanr(watch.moments[1:], shares).statistic)
    rows.append([task_name, architecture_name, seed, "epoch index", None, None, None, abs(index), None, None, None, None])
    return rows


HEADERS = (
    "task", "network", "seed", "evidence", "agreement", "rounded", "chance", "rank corr.", "of differences",
    "cost", "preparation", "fitting",
)  # fmt: skip


def summary(rows: list[list[object]]) -> list[list[object]]:
    """Average the rows of each evidence over runs."""
    names = list(dict.fromkeys(row[3] for row in rows))
    table = []
    for name in names:
        own = [row[4:] for row in rows if row[3] == name]
        means = [float(np.mean(column)) if None not in column else None for column in zip(*own, strict=True)]
        table.append(["all", "all", len(own), name, *means])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=["shapes", "table", "series"], choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[30])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for task in arguments.tasks[:1] if arguments.quick else arguments.tasks:
        for architecture in list(TASKS[task].architectures)[: 1 if arguments.quick else None]:
            for seed in arguments.seeds:
                rows += run(task, architecture, seed, arguments.quick)
                print(tabulate(rows[-8:], HEADERS, floatfmt=".3f", missingval="-"), flush=True)
    table = summary(rows)
    print("\n" + tabulate(table, HEADERS, floatfmt=".3f", missingval="-"))
    print(
        "\ncost: of a measurement with this evidence, preparation: once before the training, both as multiples of a plain "
        "measurement; fitting: as a multiple of the plain training"
    )
    means = {row[3]: row[4:] for row in table}
    checks = {
        "best agreement without held-out labels": (means["Twins"][0], LEAST_AGREEMENT),
        "rank correlation of its share": (means["Twins"][3], LEAST_RANK_CORRELATION),
        "cost of parameter noise, as a margin below 3 times": (MOST_COST - means["ParameterNoise"][5], -0.5),
    }
    missed = [f"{what}: {value:.3f}, asked {least}" for what, (value, least) in checks.items() if not value >= least]
    print("\n".join(["", *missed] if missed else ["", "all bounds met"]))
    sys.exit(0 if arguments.quick else len(missed))


if __name__ == "__main__":
    main()
