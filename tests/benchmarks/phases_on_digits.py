"""Check on digits what a correct build shows, on seeds that nothing was chosen on, and on a null run with random labels.

    python tests/benchmarks/phases_on_digits.py --seeds 10 11 12 --null-seeds 10

Prints one row a run. A run with label noise passes if the share rises and then falls by more than the 95 % paired bootstrap
interval of the fall, G peaks at order 1 or 2 and U at a middle order at the end, and the test loss at the onset of phase three
is at most 10 % above its best. A null run passes if the median over epochs of share minus chance level is within 0.05. The exit
status is the number of runs that miss one of these.
"""

import argparse
import math
import sys
from pathlib import Path

import lightning as L
import numpy as np
import torch
from scipy import stats
from tabulate import tabulate
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import (
    Extraction,
    ImagePatches,
    InteractionMonitor,
    Logging,
    PhaseEarlyStopping,
    fit_reference_models,
)
from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from modules import Curve, DigitsClassifier, DigitsData

MAX_REGRET = 1.10
MAX_NULL_DIFFERENCE = 0.05


def with_random_labels(part: TensorDataset, seed: int) -> TensorDataset:
    images, labels = part.tensors
    return TensorDataset(images, torch.randint(0, 10, labels.shape, generator=torch.Generator().manual_seed(seed)))


def run(seed: int, epochs: int, random_parts: tuple[str, ...]) -> tuple[History, PhaseEarlyStopping, Curve]:
    L.seed_everything(seed, verbose=False)
    data = DigitsData(seed=seed)
    parts = dict(data.parts)
    for position, name in enumerate(random_parts):
        parts[name] = with_random_labels(parts[name], seed + position)
    model = DigitsClassifier()
    references = fit_reference_models(model, DataLoader(parts["reference"], 32, shuffle=True))
    monitor = InteractionMonitor(
        players=ImagePatches(3, 3), evidence=references, extraction=Extraction(tolerance=1e-5), logging=Logging(figures=None)
    )
    stopping = PhaseEarlyStopping(phase=3, log_only=True, verbose=False)
    curve = Curve(*parts["test"].tensors)
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[monitor, stopping, curve],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training = DataLoader(parts["training"], data.batch_size, shuffle=True)
    trainer.fit(model, training, DataLoader(parts["validation"], data.batch_size))
    return monitor.history, stopping, curve


def fall_of_share(peak: Measurement, last: Measurement) -> tuple[float, float]:
    """The fall of the share from its peak to the end, and the lower end of its 95 % paired bootstrap interval."""
    columns = [
        part.numpy()
        for measurement in (peak, last)
        for part in (measurement.training.generalizable, measurement.training.non_generalizable)
    ]

    def fall(g_peak, u_peak, g_last, u_last, axis=-1):
        g_peak, u_peak, g_last, u_last = (np.sum(column, axis=axis) for column in (g_peak, u_peak, g_last, u_last))
        return g_peak / (g_peak + u_peak) - g_last / (g_last + u_last)

    interval = stats.bootstrap(columns, fall, paired=True, vectorized=True, rng=np.random.default_rng(0)).confidence_interval
    return float(fall(*columns)), float(interval.low)


def peak_order(strength: torch.Tensor) -> int:
    return int(strength.sum(dim=(1, 2)).mean(dim=0).argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 11, 12])
    parser.add_argument("--null-seeds", type=int, nargs="*", default=[10])
    parser.add_argument("--epochs", type=int, default=45)
    arguments = parser.parse_args()
    rows, missed = [], 0
    for seed in arguments.seeds:
        history, stopping, curve = run(seed, arguments.epochs, ())
        shares = [summarise(measurement).training.share.value for measurement in history.measurements]
        peak = int(np.argmax(shares))
        last = history.measurements[-1]
        fall, fall_low = fall_of_share(history.measurements[peak], last)
        num_players = last.training.strength.generalizable.shape[-1] - 1
        g_order, u_order = (
            peak_order(part) for part in (last.training.strength.generalizable, last.training.strength.non_generalizable)
        )
        best = min(curve.losses)
        # The test loss goes up and down by 5 % between epochs, so the onset is also compared over three of them.
        smooth = np.convolve(curve.losses, np.ones(3) / 3, mode="valid")
        regret = math.inf if stopping.onset_epoch is None else curve.losses[stopping.onset_epoch] / best
        three = (
            math.inf
            if stopping.onset_epoch is None
            else smooth[min(max(stopping.onset_epoch, 1), len(smooth)) - 1] / min(smooth)
        )
        passed = (
            shares[peak] > shares[0]
            and fall_low > 0
            and g_order in (1, 2)
            and 3 <= u_order <= num_players - 3
            and regret <= MAX_REGRET
        )
        missed += not passed
        rows.append(
            [
                seed, shares[0], shares[peak], shares[-1], f"{fall:.3f} (> {fall_low:.3f})", g_order, u_order,
                history.onset_epoch(2), stopping.onset_epoch, int(np.argmin(curve.losses)), regret, three,
                curve.losses[-1] / best, "yes" if passed else "no",
            ]
        )  # fmt: skip
    headers = [
        "seed", "share untrained", "peak", "end", "fall (95 % >)", "G peak order", "U peak order",
        "phase 2", "phase 3", "best epoch", "loss at onset / best", "over 3 epochs", "loss at end / best", "passed",
    ]  # fmt: skip
    print(tabulate(rows, headers, floatfmt=".3f"))

    rows = []
    for seed in arguments.null_seeds:
        for kind, random_parts in (
            ("training labels random", ("training",)),
            ("all labels random", ("training", "reference", "validation")),
        ):
            history, stopping, _ = run(seed, arguments.epochs, random_parts)
            trained = [summarise(measurement).training for measurement in history.measurements[1:]]
            shares, chances = ([getattr(one, name).value for one in trained] for name in ("share", "share_chance"))
            above = [share - chance for share, chance in zip(shares, chances, strict=True)]
            passed = abs(np.median(above)) <= MAX_NULL_DIFFERENCE
            missed += not passed
            rows.append(
                [
                    seed, kind, np.mean(shares), np.mean(chances), np.median(above), min(above), max(above),
                    stopping.onset_epoch, "yes" if passed else "no",
                ]
            )  # fmt: skip
    headers = ["seed", "null run", "share", "chance", "difference median", "min", "max", "phase 3", "passed"]
    print("\n" + tabulate(rows, headers, floatfmt=".3f"))
    sys.exit(missed)


if __name__ == "__main__":
    main()
