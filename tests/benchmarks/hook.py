"""How long the monitor holds up a training at the end of an epoch, whether that is what it logs, and what the time goes into.

python tests/benchmarks/hook.py                                      # a few minutes
python tests/benchmarks/hook.py --quick                              # fewer epochs and players

Trains the network of the digits example with the example's settings, once with each evidence as it is, for the seconds, and
once under a profiler, for what they go into: cumulative processor times of functions that do not call each other. All on one
thread. The exit status is the number of claims that are missed: what is logged as ``interactions-diagnostics/seconds`` is the
time that the hook takes, and the functions named here account for it.
"""

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from modules import DigitsClassifier, DigitsData
from papers.runs import be_a_worker

from lightning_interactions import Extraction, ImagePatches, InteractionMeter, InteractionMonitor, Logging
from lightning_interactions.evidence import Evidence, ParameterNoise, ReferenceModels
from lightning_interactions.records import Probes
from lightning_interactions.schedules import EveryNEpochs

PLAYERS, QUICK_PLAYERS = ImagePatches(3, 3), ImagePatches(2, 3)
EXTRACTION = Extraction(tolerance=1e-3)
LEAST_LOGGED, LEAST_ACCOUNTED = 0.95, 0.9

PARTS = {
    "copy": [("measuring/shadow.py", "shadow_of")],
    "forwards": [("game/evaluation.py", "_values"), ("game/evaluation.py", "exact_losses")],
    "extraction": [("functional/extraction/extract.py", "extract_interactions")],
    "evidence": [
        ("evidence/base.py", "raters"), ("evidence/parameter_noise.py", "raters"),
        ("evidence/parameter_noise.py", "weigh"), ("evidence/reference_models.py", "weigh"),
    ],
    "facts": [("measuring/facts.py", "facts_of")],
    "statistics": [("reporting/scalars.py", "scalars")],
    "detection": [("analysis/phases/detect.py", "detect_phases")],
    "logging": [("callbacks/loggers.py", "_write_scalars")],
    "figures": [("callbacks/loggers.py", "_draw"), ("callbacks/loggers.py", "_write_inputs")],
}  # fmt: skip
"""File and name of the functions that do each part; none is called by another one's.

Statistics are computed once, where they are first needed: where a figure is drawn, they are part of it.
"""


class ClockedMonitor(InteractionMonitor):
    """A monitor that looks at the clock before and after each end of an epoch.

    Args:
        profiled: Whether to profile as well, which takes time of its own.
        settings: Of the monitor.

    Attributes:
        hooks: Seconds at the end of each epoch; processor time if profiled.
        logged: Seconds that were logged.
        parts: Processor time of each part by the profiler, if there is one.
    """

    def __init__(self, *, profiled: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.profiled = profiled
        self.hooks: list[float] = []
        self.logged: list[float] = []
        self.parts: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        clock = time.process_time if self.profiled else time.perf_counter
        profile = cProfile.Profile(clock)
        begin = clock()
        if self.profiled:
            profile.runcall(super().on_train_epoch_end, trainer, pl_module)
        else:
            super().on_train_epoch_end(trainer, pl_module)
        self.hooks.append(clock() - begin)
        if self.profiled:
            self.parts.append(seconds_of_parts(profile))
        self.logged.append(float(trainer.callback_metrics["interactions-diagnostics/seconds"]))


def seconds_of_parts(profile: cProfile.Profile) -> dict[str, float]:
    """Sum up the cumulative times of each part's functions."""
    found = dict.fromkeys(PARTS, 0.0)
    for (file, _, name), (*_, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for part, functions in PARTS.items():
            found[part] += cumulative * any(
                file.endswith(f"lightning_interactions/{own}") and name == of for own, of in functions
            )
    return found


def kinds_of_evidence() -> dict[str, Evidence]:
    """What generalizes is decided by these; what reference models say takes as long whatever they have learned."""
    torch.manual_seed(100)
    return {"ParameterNoise": ParameterNoise(), "three reference models": ReferenceModels(DigitsClassifier() for _ in range(3))}


def train(evidence: Evidence, *, quick: bool, epochs: int, profiled: bool) -> tuple[ClockedMonitor, L.LightningModule]:
    """Train the example's network with a monitor."""
    L.seed_everything(1, verbose=False)
    data, model = DigitsData(), DigitsClassifier()
    monitor = ClockedMonitor(
        profiled=profiled,
        players=QUICK_PLAYERS if quick else PLAYERS,
        evidence=evidence,
        extraction=EXTRACTION,
        logging=Logging(figures=EveryNEpochs(2)) if quick else Logging(),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs,
            callbacks=[monitor],
            logger=TensorBoardLogger(folder),
            log_every_n_steps=1,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=data)
    return monitor, model


def seconds_of_measurement(model: L.LightningModule, extraction: Extraction, *, quick: bool) -> float:
    """Time a meter alone, with the default evidence on as many probes as a monitor draws."""
    parts = DigitsData().parts
    probes = {
        split: Probes.of(tuple(column[:32] for column in parts[part].tensors))
        for split, part in (("training", "training"), ("held_out", "validation"))
    }
    meter = InteractionMeter(players=QUICK_PLAYERS if quick else PLAYERS, extraction=extraction).prepare(probes)
    return median([meter.measure(model).seconds for _ in range(1 if quick else 5)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=21, help="of each training (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="six players, and two epochs with figures at the second one")
    arguments = parser.parse_args()
    be_a_worker()
    quick, epochs = arguments.quick, 2 if arguments.quick else arguments.epochs

    hooks, parts, checks = [], {part: [part] for part in (*PARTS, "other")}, []
    for name, evidence in kinds_of_evidence().items():
        monitor, model = train(evidence, quick=quick, epochs=epochs, profiled=False)
        ratios = [logged / hook for logged, hook in zip(monitor.logged, monitor.hooks, strict=True)]
        hooks.append([name, median(monitor.hooks), max(monitor.hooks), median(monitor.logged), median(ratios)])
        checks.append((f"{name}: logged part of the hook, median", median(ratios), LEAST_LOGGED))
        profiled, _ = train(evidence, quick=quick, epochs=epochs, profiled=True)
        accounted = [sum(own.values()) / hook for own, hook in zip(profiled.parts, profiled.hooks, strict=True)]
        checks.append((f"{name}: accounted part of the hook, median", median(accounted), LEAST_ACCOUNTED))
        for part in PARTS:
            seconds = [own[part] for own in profiled.parts]
            parts[part] += [median(seconds), max(seconds)]
            checks.append((f"{name}: seconds of {part}, largest", max(seconds), sys.float_info.min))
        others = [hook - sum(own.values()) for own, hook in zip(profiled.parts, profiled.hooks, strict=True)]
        parts["other"] += [median(others), max(others)]
    print(tabulate(hooks, ["evidence", "hook, s: median", "largest", "logged, s: median", "logged / hook"], floatfmt=".4f"))
    headers = ["part, processor s", *(f"{row[0]}: {kind}" for row in hooks for kind in ("median", "largest"))]
    print("\n" + tabulate(parts.values(), headers, floatfmt=".4f"))
    alone = [
        [said, seconds_of_measurement(model, extraction, quick=quick)]
        for said, extraction in (("the solver's own tolerance", Extraction(tolerance=None)), ("defaults", Extraction()))
    ]
    print("\n" + tabulate(alone, ["one measurement, ParameterNoise", "seconds"], floatfmt=".4f"))
    missed = [f"{what}: {value:.3g}, asked {least:.3g}" for what, value, least in checks if not value >= least]
    print("\n".join(["", *missed] if missed else ["", f"all {len(checks)} claims met"]))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
