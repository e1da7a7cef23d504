"""How well shares of strength that does not generalize find flipped labels, next to plain losses.

python tests/benchmarks/label_issues.py                                # four tasks, one network each
python tests/benchmarks/label_issues.py --tasks digits --seeds 30 31   # only some
python tests/benchmarks/label_issues.py --quick                        # every part in a minute

Each run trains one network on labels of which 20 % are flipped, and stops at the onset of phase three, which a monitor with
reference models of held-out data detects. Then random training inputs are ranked, and the area under the ROC curve says how
often a flipped label ranks above a right one: 1 is perfect, 0.5 is chance. Its standard error is that of Hanley and McNeil.
Inputs are ranked by the share of their strength that does not generalize, and by the loss that is left without that strength.
The competitors: the network's own loss on each input at that moment, and the mean loss of the reference models that have not
seen it, for the label as given, which needs no interactions at all.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from sklearn.metrics import roc_auc_score
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_interactions import (
    Extraction,
    InteractionMonitor,
    Logging,
    PhaseEarlyStopping,
    ProbeSampling,
    fit_reference_models,
)
from lightning_interactions.evidence import Evidence, ParameterNoise, ReferenceModels
from lightning_interactions.records import Rows, fingerprints
from lightning_interactions.references import ReferenceTraining
from lightning_interactions.schedules import EveryNEpochs

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from papers.runs import be_a_worker
from papers.tasks import QUICK_TASKS, TASKS, make_parts

NETWORKS = {"digits": "CNN", "shapes": "CNN", "table": "MLP", "series": "MLP"}
HELD_OUT, OF_HALVES, NOISE = "held-out references", "twins", "ParameterNoise"
QUICK_TASK, QUICK_NETWORK = "few digits", "MLP"


@dataclass(frozen=True)
class Found:
    """How well one ranking finds the flipped labels of one run.

    Attributes:
        task: Name of the task.
        seed: Of data and training.
        moment: Completed epochs when it was made, and whether that is an onset.
        flipped: Flipped labels among all inputs that were ranked.
        ranking: What it ranks by.
        area: Under the ROC curve.
        error: Its standard error over the draw of inputs.
    """

    task: str
    seed: int
    moment: str
    flipped: str
    ranking: str
    area: float
    error: float


def run(task_name: str, seed: int, num_inputs: int, quick: bool) -> list[Found]:
    """Train one network up to phase three, and rank some of its training inputs in every way."""
    task = QUICK_TASKS[QUICK_TASK] if quick else TASKS[task_name]
    architecture = task.architectures[QUICK_NETWORK if quick else NETWORKS[task_name]]
    parts = make_parts(task, seed)
    inputs, labels = parts["training"].tensors
    flipped = labels != make_parts(task, seed, noise=0)["training"].tensors[1]
    L.seed_everything(seed, verbose=False)
    model = architecture.classifier()

    def training_of(seed: int) -> ReferenceTraining:
        settings = {"max_epochs": 2} if quick else {}
        return ReferenceTraining(seed=seed, factory=architecture.classifier, trainer={"accelerator": "cpu"}, **settings)

    training = DataLoader(parts["training"], architecture.batch_size, shuffle=True)
    references = {
        HELD_OUT: fit_reference_models(model, DataLoader(parts["reference"], 32, shuffle=True), training=training_of(1000)),
        OF_HALVES: fit_reference_models(
            model, DataLoader(parts["training"], 32, shuffle=True), folds=2, training=training_of(3000)
        ),
    }
    evidence: dict[str, Evidence] = {**references, NOISE: ParameterNoise()}
    # One monitor measures every epoch and stops the run; the others wait for the question.
    sizes = {name: (32, EveryNEpochs()) if name == HELD_OUT else (2, EveryNEpochs(10**6)) for name in evidence}
    monitors = {
        name: InteractionMonitor(
            players=task.players,
            evidence=evidence[name],
            probes=ProbeSampling(training=num_probes, held_out=num_probes),
            # With the four players of the quick task the solver's own tolerance is smaller.
            extraction=Extraction(tolerance=None if quick else 1e-5),
            schedule=schedule,
            logging=Logging(figures=None),
            name=name,
        )
        for name, (num_probes, schedule) in sizes.items()
    }
    stopping = PhaseEarlyStopping(phase=3, monitor=HELD_OUT, verbose=False)
    trainer = L.Trainer(
        max_epochs=architecture.epochs,
        callbacks=[*monitors.values(), stopping],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, training, DataLoader(parts["validation"], 200))
    moment = f"{trainer.current_epoch}" + ("" if stopping.onset_epoch == trainer.current_epoch else " (end)")

    rows = draw(inputs, references[OF_HALVES], num_inputs, seed)
    asked = inputs[rows], labels[rows]
    suspicions = {"own loss": losses(model.eval(), *asked)}
    for name, each in references.items():
        suspicions[f"loss of {name}"] = loss_of_raters(each, *asked)
    for name, monitor in monitors.items():
        issues = monitor.label_issues(model, *asked)
        suspicions[f"explained loss, {name}"] = -issues.ranking.argsort()
        suspicions[f"share, {name}"] = issues.share.nan_to_num(-1.0)
    wrong = flipped[rows]
    counts = f"{int(wrong.sum())} of {len(wrong)}"
    areas = {name: float(roc_auc_score(wrong, suspicion)) for name, suspicion in suspicions.items()}
    return [
        Found(task_name, seed, moment, counts, name, area, standard_error(area, int(wrong.sum()), int((~wrong).sum())))
        for name, area in areas.items()
    ]


def draw(inputs: Tensor, references: ReferenceModels, num_inputs: int, seed: int) -> Tensor:
    """Draw rows of inputs that enough of the reference models have not seen."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    prints = fingerprints(Rows.of(inputs))
    return torch.tensor([row for row in order.tolist() if prints[row] not in references.refused][:num_inputs])


def losses(model: torch.nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return cross_entropy(model(inputs), labels, reduction="none")


def loss_of_raters(references: ReferenceModels, inputs: Tensor, labels: Tensor) -> Tensor:
    """Average over the models that have not seen an input."""
    prints = fingerprints(Rows.of(inputs))
    by_model = [
        losses(model, inputs, labels).masked_fill(torch.tensor([one in seen for one in prints]), torch.nan)
        for model, seen in zip(references.models, references.seen, strict=True)
    ]
    return torch.stack(by_model).nanmean(dim=0)


def standard_error(area: float, num_flipped: int, num_right: int) -> float:
    """Hanley & McNeil 1982, The meaning and use of the area under a ROC curve, Radiology 143(1)."""
    two_flipped, two_right = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (num_flipped - 1) * (two_flipped - area**2) + (num_right - 1) * (two_right - area**2)
    return float(((area * (1 - area) + spread) / (num_flipped * num_right)) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[30])
    parser.add_argument("--inputs", type=int, default=150, help="how many are ranked (default: %(default)s)")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    be_a_worker()
    found: list[Found] = []
    for task in [QUICK_TASK] if arguments.quick else arguments.tasks:
        for seed in arguments.seeds:
            found += run(task, seed, 40 if arguments.quick else arguments.inputs, arguments.quick)
            last = [one for one in found if (one.task, one.seed) == (task, seed)]
            print(tabulate([vars(one) for one in last], headers="keys", floatfmt=".3f"), end="\n\n", flush=True)
    names = list(dict.fromkeys(one.ranking for one in found))
    means = [[name, sum(areas) / len(areas), min(areas), max(areas)] for name in names if (areas := areas_of(found, name))]
    print(tabulate(means, ("ranking by", "mean area", "smallest", "largest"), floatfmt=".3f"))


def areas_of(found: list[Found], ranking: str) -> list[float]:
    return [one.area for one in found if one.ranking == ranking]


if __name__ == "__main__":
    main()
