"""Check what four papers claim of interactions during training, on several tasks and architectures, and write a report.

python examples/reproduce_papers.py            # about 20 minutes on two cores
python examples/reproduce_papers.py --quick    # a minute: tiny runs that go through all the code and mean nothing

Runs are kept in the output folder, and made only where they are missing: an interrupted command goes on where it stopped, and
claims can be changed without training again. Another version of the package needs another folder.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from papers.claims import CLAIMS, Finding, check
from papers.report import draw_overview, draw_run, write_report
from papers.runs import Run, Setting, Size, be_a_worker, load_or_make
from papers.series import Number
from papers.tasks import QUICK_TASKS, TASKS

QUICK = Size(reference_epochs=4, probes=8)


def settings(seeds: list[int], *, quick: bool) -> list[Setting]:
    """List all runs: every task and architecture with every seed, and with the first seed with random labels."""
    tasks = QUICK_TASKS if quick else TASKS
    pairs = [(task, architecture) for task in tasks for architecture in tasks[task].architectures]
    noisy = [Setting(task, architecture, seed) for task, architecture in pairs for seed in seeds]
    null = [Setting(task, architecture, seeds[0], random_labels=True) for task, architecture in pairs]
    return noisy + null


def examine(setting: Setting, size: Size, out: Path, draw: bool) -> list[Number | None]:
    """Make or read one run, measure every claim on it, and draw it; in a process of its own."""
    run = load_or_make(setting, size, out / "runs")
    findings = [check(claim, run) for claim in CLAIMS]
    if draw:
        draw_run(run, out / "figures")
    return [None if finding is None else finding.estimate for finding in findings]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of a minute")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of data and training (default: 30 31 32)")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of runs, report and figures (default: logs/papers)")
    arguments = parser.parse_args()
    out = arguments.out or Path("logs/papers-quick" if arguments.quick else "logs/papers")
    size = QUICK if arguments.quick else Size()
    wanted = settings(arguments.seeds or ([30] if arguments.quick else [30, 31, 32]), quick=arguments.quick)

    begin, estimates = time.perf_counter(), {}
    # New processes, not forked ones: threads do not survive a fork.
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), be_a_worker) as pool:
        drawn = {setting.title: setting for setting in reversed(wanted)}
        futures = {pool.submit(examine, setting, size, out, drawn[setting.title] == setting): setting for setting in wanted}
        for number, future in enumerate(as_completed(futures), start=1):
            estimates[futures[future]] = future.result()
            minutes = (time.perf_counter() - begin) / 60
            setting = futures[future]
            print(f"{number:>3} of {len(wanted)} after {minutes:.1f} min: {setting.title}, seed {setting.seed}", flush=True)

    runs: dict[Setting, Run] = {setting: load_or_make(setting, size, out / "runs") for setting in wanted}
    findings = [
        Finding(runs[setting], claim, found, claim.outcome(found))
        for setting in wanted
        for claim, found in zip(CLAIMS, estimates[setting], strict=True)
        if found is not None
    ]
    draw_overview(list(runs.values()), findings, out / "papers.png")
    write_report(list(runs.values()), findings, out / "report.md")
    print(f"\n{out / 'report.md'}, {out / 'papers.png'}, {out / 'figures'}")


if __name__ == "__main__":
    main()
