"""How large the saved state of a monitor is in long runs, and how much processor time saving, loading and detecting take.

python tests/benchmarks/state.py
python tests/benchmarks/state.py --quick                             # shorter histories

Measures a network once, with 32 + 32 probes and ten players, and makes a long history of that measurement with all strengths
redrawn. The exit status is the number of bounds that are missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from modules import DigitsClassifier, DigitsData
from papers.runs import be_a_worker

from lightning_interactions import Extraction, History, ImagePatches, InteractionMonitor, Logging
from lightning_interactions.analysis import detect_phases
from lightning_interactions.records import Measurement, OrderStrength, SplitMeasurement, TimePoint

NUM_IN_FULL = 64
"""So many last measurements are kept whole."""

MOST_BYTES = 16e6
"""Of a whole state, however long the history is."""

MOST_BYTES_MORE = 16e3
"""For a measurement more, once it is no longer kept whole."""

MOST_SECONDS, MOST_SECONDS_OF_DETECTION = 1.0, 3.0
"""Of processor time, for saving and for loading, and for a detection; a busy machine takes twice as long as an idle one."""


def new_monitor() -> InteractionMonitor:
    return InteractionMonitor(players=ImagePatches(2, 5), extraction=Extraction(tolerance=1e-2), logging=Logging(figures=None))


def watched_monitor(folder: str) -> InteractionMonitor:
    """Watch one epoch of a real run, so that the state holds all that it holds in one."""
    L.seed_everything(0, verbose=False)
    monitor = new_monitor()
    trainer = L.Trainer(
        max_epochs=1,
        callbacks=[monitor],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DigitsClassifier(width=8), datamodule=DigitsData())
    return monitor


def long_history(first: History, length: int) -> History:
    """Make a history of redrawn measurements, one an epoch, with the phases detected at them."""
    generator = torch.Generator().manual_seed(length)
    last = first.measurements[-1]
    measurements = [
        Measurement(TimePoint(epoch, 3 * epoch), 1.0, *(redrawn(split, generator) for split in last.splits.values()))
        for epoch in range(length)
    ]
    pairs = zip(measurements, detect_phases(measurements), strict=True)
    return reduce(lambda history, pair: history.append(*pair), pairs, replace(first, measurements=(), phases=()))


def redrawn(split: SplitMeasurement, generator: torch.Generator) -> SplitMeasurement:
    """Multiply every number of each input by a random factor."""

    def noisy(numbers: Tensor) -> Tensor:
        return numbers * (0.2 * torch.randn(numbers.shape, generator=generator, dtype=torch.float64)).exp()

    columns = {name: noisy(column) for name, column in vars(split).items() if isinstance(column, Tensor)}
    strength = OrderStrength(**{name: noisy(column) for name, column in vars(split.strength).items()})
    return SplitMeasurement(**columns, strength=strength)


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median processor time of some calls."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return median(times)


def same(state: Any, other: Any) -> bool:
    """Whether two states hold equal values; NaN equals NaN."""
    if isinstance(state, Tensor):
        return state.dtype == other.dtype and torch.equal(state.nan_to_num(torch.pi), other.nan_to_num(torch.pi))
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(same(state[key], other[key]) for key in state)
    if isinstance(state, (list, tuple)):
        return len(state) == len(other) and all(map(same, state, other))
    return state == other or (state != state and other != other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter histories")
    arguments = parser.parse_args()
    be_a_worker()
    rows, checks, sizes = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        monitor, file = watched_monitor(folder), Path(folder) / "state.pt"
        first = monitor.history
        for length in (NUM_IN_FULL, 200) if arguments.quick else (NUM_IN_FULL, 1000, 3000):
            monitor.history = long_history(first, length)
            saving = seconds(lambda: torch.save(monitor.state_dict(), file))
            sizes[length] = file.stat().st_size
            fresh = new_monitor()
            loading = seconds(lambda fresh=fresh: fresh.load_state_dict(torch.load(file, weights_only=True)))
            detection = seconds(lambda: detect_phases(monitor.history.measurements))
            kept = len(monitor.history)
            rows.append([length, kept, sizes[length] / 1e6, sizes[length] / kept / 1e3, saving, loading, detection])
            checks += [
                (f"{length} measurements: bytes of the state", sizes[length], MOST_BYTES),
                (f"{length} measurements: seconds to save", saving, MOST_SECONDS),
                (f"{length} measurements: seconds to load", loading, MOST_SECONDS),
                (f"{length} measurements: seconds of a detection", detection, MOST_SECONDS_OF_DETECTION),
                (f"{length} measurements: changed by a load", not same(fresh.state_dict(), monitor.state_dict()), 0),
            ]
    few, many = list(sizes)[:2]
    more = (sizes[many] - sizes[few]) / (many - few)
    checks.append(("bytes of a measurement more", more, MOST_BYTES_MORE))
    headers = ["measurements", "kept", "state, MB", "kB a measurement", "save, s", "load, s", "one detection, s"]
    print(tabulate(rows, headers, floatfmt=".4g"))
    print(f"\na measurement more than {few}: {more / 1e3:.1f} kB")
    missed = [f"{what}: {value:.3g}, asked at most {most:.3g}" for what, value, most in checks if not value <= most]
    print("\n".join(["", *missed] if missed else ["", f"all {len(checks)} bounds met"]))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
