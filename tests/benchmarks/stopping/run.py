"""Compare stopping at the onset of phase three with other early-stopping rules, at equal held-out data.

python tests/benchmarks/stopping/run.py                         # all runs; about 90 minutes on two cores
python tests/benchmarks/stopping/run.py --minutes 10            # as many as begin within 10 minutes; repeat to go on
python tests/benchmarks/stopping/run.py --quick                 # every part in two minutes, bounds not judged

Each run trains one network to its end and records after every epoch what any rule looks at; rules are applied to the records
afterwards. They are causal, so that they stop where a callback would have. The validation data of the other rules includes
what the reference models are trained on. Settings of the detector were chosen on the tasks ``digits`` and ``cancer``; the
numbers are judged on the others. Finished runs are kept in ``--out``, one file each.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
from figures import draw_regrets, draw_worst
from papers.runs import be_a_worker
from rules import RULES, late, outcome, overfits, premature, rises
from runs import CROSS_FITTED, REFERENCES, Run, Setting, Size, load, load_or_make
from tasks import CHOOSING, REPORTED, TASKS

from lightning_interactions.analysis import summarise

NOISES = (0.2, 0.4, 0.0)
SEEDS = (100, 101, 102, 103, 104)
ALPHA = 0.05
MOST_LATE = 2

HEADERS = (
    "rule", "labels", "loss regret: median", "worst", "accuracy regret: median", "worst", "epochs", "epoch error",
    "false stops", "missed", "compute",
)  # fmt: skip


def settings(tasks: Sequence[str], seeds: Sequence[int]) -> list[Setting]:
    """List all runs, seed by seed, so that an unfinished benchmark has whole seeds; null runs with the first one."""
    pairs = [(task, architecture) for task in tasks for architecture in TASKS[task].architectures]
    labelled = [Setting(*pair, noise, seed) for seed in seeds for pair in pairs for noise in NOISES]
    return labelled + [Setting(*pair, None, seeds[0]) for pair in pairs]


def make(setting: Setting, size: Size, folder: Path, deadline: float) -> bool:
    """Make or read a run unless time is up; in a process of its own."""
    if time.time() > deadline and load(setting, size, folder / f"{setting.file_name}.pt") is None:
        return False
    load_or_make(setting, size, folder)
    return True


def rows_of(runs: Sequence[Run]) -> list[list[object]]:
    """One row a rule: medians and worst cases over runs."""
    rows = []
    for name, rule in RULES.items():
        outcomes = [outcome(rule, run) for run in runs]
        fired = [one.stop.stopped is not None for one in outcomes]
        rising = [rises(run) for run in runs]
        losses, accuracies = [one.loss for one in outcomes], [one.accuracy for one in outcomes]
        rows.append(
            [
                name, "held-out" if rule.held_out else "none more", np.median(losses), max(losses), np.median(accuracies),
                max(accuracies), np.median([one.epochs for one in outcomes]),
                f"{np.median([one.epoch_error for one in outcomes]):+.0f}",
                f"{sum(f and not r for f, r in zip(fired, rising, strict=True))} of {len(runs) - sum(rising)}",
                f"{sum(r and not f for f, r in zip(fired, rising, strict=True))} of {sum(rising)}",
                np.median([one.compute for one in outcomes]),
            ]
        )  # fmt: skip
    return rows


def print_group(title: str, runs: Sequence[Run]) -> None:
    if runs:
        print(f"\n{title} ({len(runs)} runs)\n" + tabulate(rows_of(runs), HEADERS, floatfmt=".3f"))


def print_null(runs: Sequence[Run]) -> None:
    """Share and chance level where nothing can be learned."""
    rows = []
    for run in runs:
        for kind, history in run.histories.items():
            summaries = [summarise(measurement).training for measurement in history.measurements[1:]]
            shares, chances = ([getattr(one, name).value for one in summaries] for name in ("share", "share_chance"))
            above = np.subtract(shares, chances)
            rows.append(
                [
                    run.setting.task, run.setting.architecture, kind, np.mean(shares), np.mean(chances), np.median(above),
                    history.onset_epoch(3),
                ]
            )  # fmt: skip
    if rows:
        headers = ["task", "network", "evidence", "share", "chance", "difference (median)", "phase 3"]
        print("\nNull runs, all labels random\n" + tabulate(rows, headers, floatfmt=".3f", missingval="-"))


def print_following(runs: Sequence[Run]) -> None:
    """How well the expected test loss follows the test loss over epochs."""
    rows = []
    for kind in (REFERENCES, CROSS_FITTED):
        found = []
        for run in runs:
            summaries = [summarise(one).training for one in run.histories[kind].measurements[1:]]
            curves = ([getattr(one, name).value for one in summaries] for name in ("expected_test_loss", "loss"))
            found.append([stats.spearmanr(curve, run.curves["test_loss"]).statistic for curve in curves])
        rows.append([kind, len(found), *np.median(found, axis=0), *np.min(found, axis=0)])
    headers = ["evidence", "runs", "expected test loss: median", "training loss: median", "expected: worst", "training: worst"]
    print("\nRank correlation with the test loss, training probes, label noise\n" + tabulate(rows, headers, floatfmt=".2f"))


def checks(runs: Sequence[Run]) -> list[tuple[str, str, bool]]:
    """What is asked, what was found, and whether it is met."""
    noisy = [run for run in runs if run.setting.noise]
    clean = [run for run in runs if run.setting.noise == 0]
    names = list(RULES)
    ours, with_checkpoint, label_free = names[:3]

    def losses(name: str) -> list[float]:
        return [outcome(RULES[name], run).loss for run in noisy]

    def median_epochs(name: str) -> float:
        return float(np.median([outcome(RULES[name], run).epochs for run in noisy]))

    median = {name: float(np.median(losses(name))) for name in names}
    found = [
        ("regret at the onset, reference models: median at most 2 %", f"{median[ours]:.3f}", median[ours] <= 0.02),
        ("… worst at most 10 %", f"{max(losses(ours)):.3f}", max(losses(ours)) <= 0.1),
        ("regret without held-out labels: median at most 4 %", f"{median[label_free]:.3f}", median[label_free] <= 0.04),
    ]
    for rival in (name for name in names if "Label Wave" in name or "disparity" in name):
        found.append((f"… and below {rival}", f"{median[rival]:.3f}", median[label_free] < median[rival]))
    for rival in (name for name in names if name.startswith("validation loss")):
        for own in (ours, with_checkpoint):
            better = median[own] < median[rival] or (median[own] == median[rival] and median_epochs(own) < median_epochs(rival))
            found.append(
                (
                    f"{own} against {rival}: lower median regret, or equal with fewer epochs",
                    " and ".join(f"{median[one]:.3f} after {median_epochs(one):.0f}" for one in (own, rival)),
                    better,
                )
            )
    apart = [run for run in clean if rises(run) and not overfits(run)]
    for name in (ours, label_free):
        stopped = [one for one in (outcome(RULES[name], run) for run in apart) if one.stop.stopped is not None]
        worst = max((one.accuracy for one in stopped), default=0.0)
        found.append(
            (
                f"{name}, {len(apart)} clean runs where the loss rises and accuracy does not: accuracy within 1 point",
                f"{len(stopped)} stops, worst {worst:.3f}",
                worst <= 0.01,
            )
        )
    steady = [run for run in runs if run.setting.noise is not None and not rises(run)]
    for name in (ours, label_free):
        false = sum(outcome(RULES[name], run).stop.stopped is not None for run in steady)
        found.append((f"{name}: false onsets, at most α", f"{false} of {len(steady)}", false <= ALPHA * len(steady)))
    labelled = [run for run in runs if run.setting.noise is not None]
    for name in (ours, label_free):
        early = sum(premature(run, RULES[name].decide(run)) for run in labelled)
        found.append(
            (
                f"{name}: detected before the best epoch and any 5 % rise of the test loss, at most α",
                f"{early} of {len(labelled)}",
                early <= ALPHA * len(labelled),
            )
        )
    for kind in (REFERENCES, CROSS_FITTED):
        apart_by = late([run.histories[kind] for run in noisy])
        near = sum(abs(one) <= MOST_LATE for one in apart_by)
        found.append(
            (f"{kind}: online onset within 2 measurements of the change point in 80 %", f"{near} of {len(apart_by)}",
             near >= 0.8 * len(apart_by))
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(REPORTED))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    parser.add_argument("--out", type=Path, help="folder of runs and figures (default: logs/stopping)")
    parser.add_argument("--quick", action="store_true", help="small runs of one task and seed")
    arguments = parser.parse_args()
    size = Size(training_probes=8, held_out_probes=8, epochs=6, reference_epochs=2) if arguments.quick else Size()
    folder = arguments.out or Path("logs/stopping-quick" if arguments.quick else "logs/stopping")
    wanted = settings(arguments.tasks, arguments.seeds)
    if arguments.quick:
        wanted = settings(["cancer"], arguments.seeds[:1])[::3]

    begin = time.time()
    deadline = begin + 60 * arguments.minutes
    # New processes, not forked ones: threads do not survive a fork.
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), be_a_worker) as pool:
        futures = {pool.submit(make, setting, size, folder, deadline): setting for setting in wanted}
        for number, future in enumerate(as_completed(futures), start=1):
            done = "done" if future.result() else "left for the next time"
            minutes = (time.time() - begin) / 60
            print(f"{number:>3} of {len(wanted)} after {minutes:.1f} min: {futures[future].file_name} {done}", flush=True)

    runs = [run for run in (load(one, size, folder / f"{one.file_name}.pt") for one in wanted) if run is not None]
    for task in (*REPORTED, *CHOOSING):
        own = [run for run in runs if run.setting.task == task]
        print_group(f"{task}, label noise", [run for run in own if run.setting.noise])
    reported = [run for run in runs if run.setting.task in REPORTED] or runs
    print_group("All tasks that nothing was chosen on, label noise", [run for run in reported if run.setting.noise])
    print_group("… clean labels", [run for run in reported if run.setting.noise == 0])
    print_following([run for run in reported if run.setting.noise])
    print_null([run for run in reported if run.setting.noise is None])
    draw_regrets(reported, folder / "regrets.png")
    draw_worst(reported, folder / "worst.png")
    found = checks(reported)
    rows = [[what, value, "yes" if met else "no"] for what, value, met in found]
    print("\n" + tabulate(rows, ["asked", "found", "met"]))
    print(f"\ncompute: processor time until the stop over that of the plain training to its end\n{folder}: runs and figures")
    sys.exit(0 if arguments.quick or len(runs) < len(wanted) else sum(not met for *_, met in found))


if __name__ == "__main__":
    main()
