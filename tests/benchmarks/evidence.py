"""How far every evidence agrees with reference models that were trained on held-out data, and what it costs.

python tests/benchmarks/evidence.py                                  # the tasks that nothing was chosen on
python tests/benchmarks/evidence.py --tasks digits --seeds 30 31     # only some
python tests/benchmarks/evidence.py --quick                          # every part in a minute, bounds not judged

Each run trains one network on 20 % flipped labels and asks every evidence about the same interactions of the same 32 training
probes, at 15 moments of the training. The yardstick is three reference models (any of them); the ceiling is three others.
Agreement is the part of the salient strength on which two verdicts are equal (weights between 0 and 1 count in part),
averaged over the run without the untrained network.
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
from scipy import stats
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions import ParameterNoise, ReferenceModels, fit_reference_models
from lightning_interactions.evidence import Evidence, InputAgreement, OrderShape
from lightning_interactions.functional import salient_mask
from lightning_interactions.game.evaluation import Game
from lightning_interactions.measuring.isolation import leave_no_trace
from lightning_interactions.measuring.meter import interactions_on_probes
from lightning_interactions.records import Interactions, Probes

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from papers.tasks import TASKS, make_parts

THRESHOLD = 0.05
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
        seconds: Of its verdict, beyond the interactions of the monitored model.
    """

    agreement: float
    hard_agreement: float
    chance_agreement: float
    share: float
    seconds: float


class Panel(L.Callback):
    """Asks every evidence about the same interactions."""

    def __init__(self, game: dict[str, Game], evidence: dict[str, Evidence]) -> None:
        self.interactions_of = {split: interactions_on_probes(part) for split, part in game.items()}
        others = [interactions_on_probes(part) for part in game["training"].with_other_targets()]
        inputs = game["training"].probes.inputs
        self.judges, self.preparation = {}, {}
        for name, each in evidence.items():
            begin = time.perf_counter()
            self.judges[name] = each.prepare(self.interactions_of["training"], THRESHOLD, others, inputs)
            self.preparation[name] = time.perf_counter() - begin
        self.moments: list[int] = []
        self.plain_seconds: list[float] = []
        self.asked: dict[str, list[Asked]] = {name: [] for name in evidence}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ask(pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 in MOMENTS:
            self._ask(pl_module, trainer.current_epoch + 1)

    def _ask(self, model: L.LightningModule, epoch: int) -> None:
        with leave_no_trace(model, model.device, seed=0):
            begin = time.perf_counter()
            interactions, counterpart = (extract(model) for extract in self.interactions_of.values())
            self.plain_seconds.append((time.perf_counter() - begin) / 2)
            self.moments.append(epoch)
            strength = _salient_strength(interactions)
            yardstick = self.judges[YARDSTICK](model, interactions, counterpart).weights
            for name, judge in self.judges.items():
                begin = time.perf_counter()
                verdict = judge(model, interactions, counterpart)
                seconds = time.perf_counter() - begin
                agreement, hard, chance = (
                    _weighted(strength, 1 - (weights - yardstick).abs())
                    for weights in (verdict.weights, verdict.weights.round(), verdict.chance_weights)
                )
                share = _weighted(strength, verdict.weights)
                self.asked[name].append(Asked(agreement, hard, chance, share, seconds))


def _salient_strength(interactions: Interactions) -> Tensor:
    return interactions.effects.abs() * salient_mask(interactions, THRESHOLD)


def _weighted(strength: Tensor, values: Tensor) -> float:
    return float((strength * values).sum() / strength.sum())


def timed(fit: Callable[[], ReferenceModels]) -> tuple[ReferenceModels, float]:
    begin = time.perf_counter()
    return fit(), time.perf_counter() - begin


def run(task_name: str, architecture_name: str, seed: int, quick: bool) -> list[list[object]]:
    """Train one network, and return a row for each evidence."""
    task = TASKS[task_name]
    architecture = task.architectures[architecture_name]
    parts = make_parts(task, seed)
    L.seed_everything(seed, verbose=False)
    model = architecture.classifier()
    settings = {"factory": architecture.classifier, "accelerator": "cpu", **({"max_epochs": 2} if quick else {})}
    held_out = DataLoader(parts["reference"], 32, shuffle=True)
    training = DataLoader(parts["training"], architecture.batch_size, shuffle=True)
    fitted = {
        YARDSTICK: timed(lambda: fit_reference_models(model, held_out, seed=1000, **settings)),
        CEILING: timed(lambda: fit_reference_models(model, held_out, seed=2000, **settings)),
        "cross-fitted": timed(
            lambda: fit_reference_models(
                model, DataLoader(parts["training"], 32, shuffle=True), folds=2, num_models=6, vote=2, seed=3000, **settings
            )
        ),
    }
    evidence: dict[str, Evidence] = {
        **{name: references for name, (references, _) in fitted.items()},
        "ParameterNoise": ParameterNoise(),
        "OrderShape": OrderShape(),
        "InputAgreement": InputAgreement(),
    }
    generator = torch.Generator().manual_seed(seed)
    game = {}
    for split in ("training", "validation"):
        inputs, labels = parts[split].tensors
        rows = torch.randperm(len(labels), generator=generator)[: 4 if quick else NUM_PROBES]
        game[split] = Game(Probes(inputs[rows], labels[rows]), task.players, torch.zeros(()))
    panel = Panel(game, evidence)
    trainer = L.Trainer(
        max_epochs=3 if quick else architecture.epochs,
        callbacks=[panel],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begin = time.perf_counter()
    trainer.fit(model, training, DataLoader(parts["validation"], 200))
    plain = float(np.median(panel.plain_seconds))
    training_seconds = time.perf_counter() - begin - sum(
        sum(asked.seconds for asked in answers) for answers in panel.asked.values()
    ) - 2 * sum(panel.plain_seconds)  # fmt: skip
    shares = np.array([asked.share for asked in panel.asked[YARDSTICK]])[1:]
    constant = float(np.maximum(shares, 1 - shares).mean())
    rows = [[task_name, architecture_name, seed, "constant", constant, constant, None, None, None, 1.0, None, None]]
    for name, answers in panel.asked.items():
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
    index = float(stats.spearmanr(panel.moments[1:], shares).statistic)
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
        "best agreement without held-out labels": (means["cross-fitted"][0], LEAST_AGREEMENT),
        "rank correlation of its share": (means["cross-fitted"][3], LEAST_RANK_CORRELATION),
        "cost of the default, as a margin below 3 times": (MOST_COST - means["ParameterNoise"][5], -0.5),
    }
    missed = [f"{what}: {value:.3f}, asked {least}" for what, (value, least) in checks.items() if not value >= least]
    print("\n".join(["", *missed] if missed else ["", "all bounds met"]))
    sys.exit(0 if arguments.quick else len(missed))


if __name__ == "__main__":
    main()
