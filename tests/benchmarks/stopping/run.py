"""Compare stopping at the onset of phase three with other early-stopping rules, at equal labels and counted compute.

python tests/benchmarks/stopping/run.py                         # make what is missing of 95 runs, and report; hours on one core
python tests/benchmarks/stopping/run.py --minutes 10            # as many as begin within 10 minutes; repeat to go on
python tests/benchmarks/stopping/run.py --minutes 0             # report what is there
python tests/benchmarks/stopping/run.py --plan choosing         # the 32 runs on which everything is chosen
python tests/benchmarks/stopping/run.py --plan elaborate        # more elaborate evidence, on few of the reported runs
python tests/benchmarks/stopping/run.py --quick                 # every part in two minutes

Each run trains one network to its end and records after every epoch what any rule looks at; rules are applied to the records
afterwards. They are causal, so that they stop where a callback would have. What rivals train besides is made beside each run.
Settings of the detector were chosen on the tasks ``digits`` and ``cancer``; the numbers are judged on the others. Finished
runs are kept in ``--out``, one file each.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
from figures import draw_compute, draw_regrets, draw_worst
from papers.runs import be_a_worker
from report import (
    Results,
    checks,
    groups_of,
    print_checks,
    print_clean,
    print_detections,
    print_following,
    print_null,
    print_pairs,
    print_rules,
)
from rules import ALONE, ELABORATE, HELD_OUT, RULES, Record
from runs import KINDS, REFERENCES, Size, load, load_or_make
from tasks import PLAIN, Setting, choosing, reported
from trainings import load_or_make_trainings, load_trainings
from votes import print_votes

QUICK_SIZE = Size(training_probes=16, held_out_probes=8, epochs=4)
ONLY = ("runs", "trainings")
ELABORATE_KINDS = tuple(kind for kind in KINDS if kind != REFERENCES)


def elaborate() -> list[Setting]:
    """List the reported runs on which the elaborate kinds of evidence are tried as well: the first of each noise."""
    plain = [one for one in reported() if one.condition == PLAIN and one.architecture != "CNN" and one.noise]
    return plain[:3] + [one for one in plain if one.noise == 0.4][:3]


def quick() -> list[Setting]:
    """List three small runs, one of them under a condition."""
    clean, null = Setting("cancer", "residual MLP", 0.0, 1, "augmentation"), Setting("cancer", "MLP", None, 2)
    return [Setting("cancer", "MLP", 0.2, 0), clean, null]


PLANS = {"reported": reported, "choosing": choosing, "elaborate": elaborate}


def make(setting: Setting, size: Size, folder: Path, deadline: float, only: Sequence[str], kinds: Sequence[str] | None) -> bool:
    """Make what is missing of a setting unless time is up; in a process of its own."""
    wanted = setting.noise is not None and kinds is None and "trainings" in only
    has_run = "runs" not in only or load(setting, size, folder / f"{setting.file_name}.pt") is not None
    if time.time() > deadline:
        return has_run and (not wanted or load_trainings(setting, size, folder) is not None)
    if not has_run:
        load_or_make(setting, size, folder, kinds)
    if wanted:
        load_or_make_trainings(setting, size, folder)
    return True


def read(settings: Sequence[Setting], size: Size, folder: Path) -> list[Record]:
    """Read all records that there are."""
    runs = [load(one, size, folder / f"{one.file_name}.pt") for one in settings]
    return [Record(run, load_trainings(run.setting, size, folder)) for run in runs if run is not None]


def report(records: Sequence[Record], folder: Path) -> list[tuple[str, str, bool]]:
    """Print all tables, draw all figures, and return the checks."""
    results = Results.of(records, {**RULES, **ELABORATE})
    for title, part in groups_of(results).items():
        print_rules(title, part)
    print_rules("All noisy runs", results.noisy)
    print_rules("Clean labels", results.clean)
    for own in (ALONE, HELD_OUT):
        print_pairs("Noisy runs", results.noisy, own)
    labelled = results.where([record.run.setting.noise is not None for record in records])
    print_detections("All runs", labelled)
    print_detections("Noisy runs", results.noisy)
    print_clean(results.clean)
    print_following(results.noisy.records)
    print_votes(records)
    print_null([record for record in records if record.run.setting.noise is None])
    draw_regrets(results.noisy, folder / "regrets.png")
    draw_compute(results.noisy, folder / "compute.png")
    draw_worst([record.run for record in results.noisy.records], folder / "worst.png")
    return checks(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", choices=list(PLANS), default="reported", help="which runs (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    parser.add_argument("--only", choices=ONLY, help="make only the runs, or only what rivals train besides (default: both)")
    parser.add_argument("--out", type=Path, help="folder of runs and figures (default: logs/stopping)")
    parser.add_argument("--quick", action="store_true", help="small runs of one task; nothing is judged")
    arguments = parser.parse_args()
    name = "quick" if arguments.quick else arguments.plan
    size, settings = (QUICK_SIZE, quick()) if arguments.quick else (Size(), PLANS[arguments.plan]())
    folder = arguments.out or Path("logs/stopping")
    if name in ("quick", "elaborate"):
        folder /= name  # Files of the same names, with something else in them.
    kinds = ELABORATE_KINDS if name == "elaborate" else None

    begin = time.time()
    deadline = begin + 60 * arguments.minutes
    only = ONLY if arguments.only is None else (arguments.only,)
    # New processes, not forked ones: threads do not survive a fork.
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), be_a_worker) as pool:
        futures = {pool.submit(make, one, size, folder, deadline, only, kinds): one for one in settings}
        for number, future in enumerate(as_completed(futures), start=1):
            done = "done" if future.result() else "left for the next time"
            minutes = (time.time() - begin) / 60
            print(f"{number:>3} of {len(settings)} after {minutes:.1f} min: {futures[future].file_name} {done}", flush=True)

    be_a_worker()
    records = read(settings, size, folder)
    if not records:
        sys.exit(f"no runs in {folder}")
    found = report(records, folder)
    print_checks(found)
    print(f"\ncompute: processor time until the stop over that of the plain training to its end\n{folder}: runs and figures")
    sys.exit(0 if arguments.quick or len(records) < len(settings) else sum(not met for *_, met in found))


if __name__ == "__main__":
    main()
