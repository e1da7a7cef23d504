"""Whether a monitor harms a run: random cases, kills, several processes, and long runs.

python tests/benchmarks/trust.py                                     # 500 cases, 50 kills a schedule, 500 measurements
python tests/benchmarks/trust.py --quick                             # a tenth of all
python tests/benchmarks/trust.py --only fuzz --cases 2000 --first 500 --jobs 8

Each case follows from its seed; those that come out badly are printed with all that was drawn. The exit status is the number of
what came out badly.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[2]))
from lightning_interactions import schedules
from lightning_interactions.analysis import detect_phases
from tests.callbacks.runs import few, largest_difference
from tests.callbacks.test_ddp import TOLERANCE, history_of, on_processes, run_alone
from tests.helpers.fuzz import Outcome, run_case
from tests.helpers.kills import SCHEDULES, kill_rounds
from tests.helpers.models import TabularClassifier, tabular_loader

PARTS = ("fuzz", "kills", "processes", "long")

Check = tuple[str, float, float]
"""What was looked at, what was found, and what is asked at most."""

EVERY = 10
"""The memory is looked at after so many measurements."""

MOST_BYTES, MOST_SECONDS, MOST_GROWTH = 16e6, 3.0, 50e6
"""Of the state at the end of a long run; of a detection; of the process's memory over the second half of the run."""


def be_quiet() -> None:
    torch.set_num_threads(1)
    # A process that was spawned would spawn its loaders' workers, which takes each of them ten seconds.
    multiprocessing.set_start_method("fork", force=True)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def fuzz(first: int, number: int, jobs: int) -> list[Check]:
    """Run cases, several at a time, and print those that come out badly."""
    context, begin = multiprocessing.get_context("spawn"), time.monotonic()
    found: list[Outcome] = []
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=be_quiet) as pool:
        for outcome in pool.map(run_case, range(first, first + number), chunksize=4):
            found.append(outcome)
            if not outcome.is_fine:
                print(outcome, flush=True)
    counts = dict(Counter(outcome.kind for outcome in found))
    print(f"{len(found)} cases from seed {first} in {time.monotonic() - begin:.0f} s: {counts}", flush=True)
    return [(f"random cases of {len(found)} that came out badly", sum(not one.is_fine for one in found), 0)]


def kills(rounds: int, seed: int) -> list[Check]:
    """Kill runs at random moments, and count the rounds whose histories differ from those of unbroken ones."""
    found = []
    for schedule in SCHEDULES:
        outcomes = kill_rounds(rounds, seed, schedule)
        bad = [one for one in outcomes if not one.is_fine]
        print(*bad, sep="\n", end="\n" if bad else "")
        # Where Lightning itself goes on otherwise after a kill, no monitor could go on equally.
        unequal = sum(bool(one.control_difference) for one in outcomes)
        kills = sum(one.kills for one in outcomes)
        print(f"{schedule}: {len(outcomes)} rounds, {kills} kills, {unequal} where Lightning goes on otherwise", flush=True)
        found.append((f"{schedule}: rounds of {len(outcomes)} with another history", len(bad), 0))
    return found


def several_processes() -> list[Check]:
    """Measure on two and on four processes, and compare every number with those of one."""
    name, found = "both evidences", []
    for size in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            alone, outcomes = run_alone(name, Path(folder)), on_processes(Path(folder), [name], size)(name)
            worst = max(
                largest_difference(history_of(outcome, monitor), history_of(alone, monitor))
                for outcome in outcomes
                for monitor in ("noise", "references")
            )
        found.append((f"{size} processes: largest difference of the history", worst, TOLERANCE))
    return found


class Memory(L.Callback):
    """Watches the memory of the process at measurements."""

    def __init__(self) -> None:
        self.measurements = 0
        self.bytes: list[int] = []

    def on_interactions_measured(self, trainer: Any, pl_module: Any, monitor: Any) -> None:
        self.measurements += 1
        if self.measurements % EVERY == 0:
            self.bytes.append(memory())


def memory() -> int:
    """Bytes of memory that this process needs now, without what is free and its allocator keeps for later."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # Other systems have other allocators.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()


def long_run(measurements: int) -> list[Check]:
    """Measure after every step, and look at memory, the saved state and the time of a detection."""
    L.seed_everything(0, verbose=False)
    monitor = few(schedule=schedules.EveryNSteps(1), training=8, held_out=4)
    watching, state = Memory(), io.BytesIO()
    trainer = L.Trainer(
        max_steps=measurements,
        max_epochs=-1,
        callbacks=[monitor, watching],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(TabularClassifier(), tabular_loader(64, shuffle=True), tabular_loader(16, seed=1))
    torch.save(monitor.state_dict(), state)
    begin = time.process_time()
    detect_phases(monitor.history.measurements)
    seconds = time.process_time() - begin
    growth = watching.bytes[-1] - watching.bytes[len(watching.bytes) // 2]
    return [
        (f"{watching.measurements} measurements: bytes of the state", len(state.getbuffer()), MOST_BYTES),
        (f"{watching.measurements} measurements: seconds of a detection", seconds, MOST_SECONDS),
        (f"{watching.measurements} measurements: bytes of memory more over their second half", growth, MOST_GROWTH),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of all")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, or several; all if left out")
    parser.add_argument("--cases", type=int, default=500, help="random cases")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--kills", type=int, default=50, help="rounds of kills for each schedule")
    parser.add_argument("--measurements", type=int, default=500, help="measurements of the long run")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    arguments = parser.parse_args()
    be_quiet()
    share = 10 if arguments.quick else 1
    parts: dict[str, Callable[[], list[Check]]] = {
        "fuzz": lambda: fuzz(arguments.first, arguments.cases // share, arguments.jobs),
        "kills": lambda: kills(max(3, arguments.kills // share), arguments.first),
        "processes": several_processes,
        "long": lambda: long_run(arguments.measurements // share),
    }
    checks = [check for name in arguments.only or parts for check in parts[name]()]
    print(tabulate(checks, ["what", "found", "asked at most"], floatfmt=".4g"))
    missed = [what for what, value, most in checks if not value <= most]
    print("\n".join(["", *missed] if missed else ["", f"all {len(checks)} bounds met"]))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
