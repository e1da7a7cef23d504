"""Make the runs of a plan one after the other, in one process of one thread, each kept in a file of its own.

python tests/benchmarks/stopping/bank.py choosing --out logs/stopping     # 32 runs on which everything is chosen
python tests/benchmarks/stopping/bank.py reported --out logs/stopping     # 95 runs that are reported; about 60 minutes
python tests/benchmarks/stopping/bank.py reported --only trainings        # what rivals train besides; otherwise both are made

Finished runs are left alone, so that the command can be repeated to go on.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
from papers.runs import be_a_worker
from runs import Size, load_or_make
from tasks import choosing, reported
from trainings import load_or_make_trainings

PLANS = {"choosing": choosing, "reported": reported}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=list(PLANS))
    parser.add_argument("--out", type=Path, default=Path("logs/stopping"), help="folder (default: %(default)s)")
    parser.add_argument("--only", choices=["runs", "trainings"], help="make only these (default: both)")
    arguments = parser.parse_args()
    be_a_worker()
    settings = PLANS[arguments.plan]()
    for number, setting in enumerate(settings, start=1):
        begin, own = time.time(), time.process_time()
        if arguments.only != "trainings":
            load_or_make(setting, Size(), arguments.out)
        if arguments.only != "runs":
            load_or_make_trainings(setting, Size(), arguments.out)
        seconds = f"{time.process_time() - own:.0f} s of {time.time() - begin:.0f} s"
        print(f"{number:>3} of {len(settings)}: {setting.file_name}, {seconds}", flush=True)


if __name__ == "__main__":
    main()
