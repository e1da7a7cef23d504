"""False onsets and power of the online detector, on simulated runs.

python tests/benchmarks/detection.py            # 2,000 runs a condition, half an hour on one core
python tests/benchmarks/detection.py --quick    # 40 runs a condition, half a minute

False onsets: runs in which, for no pair of moments, most inputs gain mainly what does not generalize (see
``tests/helpers/phase_runs.py``). Counted are runs in which anything was detected, and runs in which any pair of moments was
significant: all that any choice of the onset could come to. Exact binomial intervals (Clopper & Pearson 1934). The exit status
is the number of conditions in which the lower 99 % bound of one of the rates is above ``α``.

Power: runs with a known onset of phase 3; how many are detected within 15 measurements, and after how many.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from tabulate import tabulate
from torch import Generator

sys.path.insert(0, str(Path(__file__).parents[2]))
from lightning_interactions.analysis.phases import sign_flips
from lightning_interactions.analysis.phases.changes import Trend
from lightning_interactions.analysis.phases.detect import phases_of
from lightning_interactions.analysis.phases.sign_flips import JointSignTest
from lightning_interactions.records import TimePoint
from tests.helpers.phase_runs import NULLS, drifting_signals, null_signals

ALPHA = 0.05
LOOKS, PROBES = 30, 32
ONSET, LONGEST = 12, 15
EFFECTS = (0.25, 0.5, 1.0, 2.0)
NUMBERS_OF_PROBES = (8, 16, 32, 64)


def moments(count: int) -> list[TimePoint]:
    return [TimePoint(time, time) for time in range(count)]


def any_crossed(test: JointSignTest, level: int) -> bool:
    """Whether a rise between any two moments is significant."""
    after, before = np.triu_indices(len(test.path), k=1)[::-1]
    signs = np.sign(test.path[after] - test.path[before]).sum(axis=1).astype(np.float32)
    return bool((signs / np.sqrt(np.float32(test.path.shape[1])) > test.boundaries[after, level]).any())


def interval(count: int, runs: int) -> tuple[float, float]:
    """Lower and upper 99 % bound of a rate, each one-sided."""
    found = stats.binomtest(count, runs).proportion_ci(0.98, "exact")
    return float(found.low), float(found.high)


def false_onsets(kind: str, runs: int, probes: int) -> tuple[list[object], bool]:
    """One row, and whether the bound is broken."""
    generator = Generator().manual_seed(0)
    detected = crossed = 0
    for _ in range(runs):
        signals = null_signals(kind, LOOKS, probes, generator)
        detected += phases_of(signals, moments(LOOKS), ALPHA)[-1].number != 1
        trend = Trend.of(signals, ALPHA)
        level = trend.levels.index(ALPHA)
        crossed += any(any_crossed(test, level) for test in (trend.falls_of_share, trend.gains))
    bounds = [interval(count, runs) for count in (detected, crossed)]
    cells = [
        f"{count / runs:.2%} ({low:.2%} to {high:.2%})" for count, (low, high) in zip((detected, crossed), bounds, strict=True)
    ]
    return [kind, probes, runs, *cells], max(low for low, _ in bounds) > ALPHA


def power(effect: float, probes: int, runs: int) -> list[object]:
    generator = Generator().manual_seed(0)
    times = ONSET + LONGEST + 1
    delays, early = [], 0
    for _ in range(runs):
        found = phases_of(drifting_signals(ONSET, times, probes, effect, generator), moments(times), ALPHA)
        third = next((phase for phase in found if phase.number == 3), None)
        if third is not None and third.detected.epoch >= ONSET:
            delays.append(third.detected.epoch - ONSET)
        early += third is not None and third.detected.epoch < ONSET
    within = [sum(delay <= most for delay in delays) / runs for most in (8, LONGEST)]
    ordered = sorted(delays) + [np.inf] * (runs - len(delays))
    return [effect, probes, runs, *(f"{part:.0%}" for part in within), ordered[runs // 2], ordered[int(0.9 * runs)], early]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 runs a condition")
    parser.add_argument("--nulls", nargs="*", default=list(NULLS), choices=NULLS, help="which conditions without a change")
    parser.add_argument("--probes", type=int, default=PROBES, help="number of probes in them")
    parser.add_argument("--runs", type=int, default=2000, help="runs of each condition")
    parser.add_argument("--flipped-runs", type=int, default=1000, help="fewer are faster and a little less powerful")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sign_flips.FLIPPED_RUNS = given.flipped_runs
    runs = 40 if given.quick else given.runs
    rows, broken = [], 0
    for kind in given.nulls:
        row, is_broken = false_onsets(kind, runs, given.probes)
        rows.append(row)
        broken += is_broken
    headers = ["no change", "probes", "runs", "anything detected (99 % bounds)", "any pair significant (99 % bounds)"]
    print(tabulate(rows, headers, "github"), flush=True)
    few = 20 if given.quick else max(1, runs // 10)
    curves = [power(effect, probes, few) for probes in NUMBERS_OF_PROBES for effect in EFFECTS]
    headers = ["effect", "probes", "runs", "within 8", f"within {LONGEST}", "median delay", "90 % delay", "before the onset"]
    print(f"\n{tabulate(curves, headers, 'github')}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
