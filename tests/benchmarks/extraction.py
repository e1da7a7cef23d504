"""Measure the speed, memory and accuracy of the extraction against other ways to the same end, both sides in one run.

    python tests/benchmarks/extraction.py [--quick]

Prints one table. The exit status is 1 if a bound is missed, otherwise 0. Takes about half an hour on two CPU cores, most of it
for the other sides; ``--quick`` is a minute with fewer players and inputs. Run it on a machine that has nothing else to do.
"""

import argparse
import copy
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from accuracy import GRIDS, Row, generator_for, jaccard_row, l1_row
from shapiq import ExactComputer
from sklearn.datasets import load_breast_cancer, load_digits
from tabulate import tabulate
from torch import Tensor, nn

# The script runs from anywhere, and the helpers are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from lightning_interactions.functional import extract_interactions, extract_with_certificate, mobius_transform
from lightning_interactions.game.evaluation import Game
from lightning_interactions.players import FeatureGroups, ImagePatches
from lightning_interactions.records import Interactions, Probes
from lightning_interactions.tasks import Classification
from tests.helpers.games import random_network_tables, random_tables, salient_jaccard
from tests.helpers.oracles import sparsest_l1_optimum

GOOD_ENOUGH = 2e-3
"""Tolerance that keeps strengths within 0.5 % of the linear program."""

SGD_STEPS = 10_000
LEARNING_RATES = (1e-3, 1e-4, 1e-5)
"""Of SGD, in units of the table's range of values."""


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median time of some calls after one for warming up."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return median(times)


class Networks:
    """Two networks under label noise, a CNN on digits and an MLP on breast cancer, at some epochs of their training.

    Args:
        epochs: Epochs to train.
        learning_rate: Of Adam.
        keep: Epochs to keep; the epoch of the best test loss is kept as well.
    """

    def __init__(self, epochs: int, learning_rate: float, keep: tuple[int, ...]) -> None:
        digits, cancer = load_digits(), load_breast_cancer()
        features = torch.tensor((cancer.data - cancer.data.mean(axis=0)) / cancer.data.std(axis=0), dtype=torch.float32)
        self.data = {
            "digits": (torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)),
            "breast cancer": (features, torch.tensor(cancer.target)),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            cnn = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
            )  # fmt: skip
            mlp = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
            self.snapshots = {
                "digits": self._train(cnn, *self.data["digits"], epochs, learning_rate, keep),
                "breast cancer": self._train(mlp, *self.data["breast cancer"], epochs, learning_rate, keep),
            }

    def values(self, data: str, epoch: int, players: int, num_inputs: int) -> Tensor:
        """Evaluate one snapshot on training inputs, in float32 as the monitor does."""
        inputs, targets = (part[:num_inputs] for part in self.data[data])
        groups = (
            ImagePatches(*GRIDS[players])
            if data == "digits"
            else FeatureGroups([group.tolist() for group in torch.arange(30).tensor_split(players)])
        )
        game = Game(Probes.of((inputs, targets)), groups, {"": torch.zeros(())}, Classification())
        return game.values(self.snapshots[data][epoch])

    def _train(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int, learning_rate: float, keep: tuple[int, ...]
    ) -> dict[int, nn.Module]:
        half = len(inputs) // 2
        noisy = torch.where(torch.rand(half) < 0.2, torch.randint(int(targets.max()) + 1, (half,)), targets[:half])
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        best, best_loss, snapshots = 0, math.inf, {}
        for epoch in range(1, epochs + 1):
            for index in torch.randperm(half).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[index]), noisy[index]).backward()
                optimizer.step()
            loss = nn.functional.cross_entropy(model(inputs[half:]), targets[half:]).item()
            if loss < best_loss:
                if best not in keep:
                    snapshots.pop(best, None)
                best, best_loss = epoch, loss
            if epoch in keep or epoch == best:
                snapshots[epoch] = copy.deepcopy(model).eval()
        return snapshots


def by_gradient_descent(values: Tensor, learning_rate: float, steps: int) -> float:
    """Minimise ‖I‖₁ of one input as published: SGD with momentum 0.9 on dense matrices; returns the smallest ‖I‖₁ seen.

    Source:
        Li & Zhang 2023 (arXiv 2304.13312), appendix on the extraction.
    """
    values = values - values[0]
    mobius = mobius_transform(torch.eye(len(values))).T
    gamma = torch.zeros_like(values, requires_grad=True)
    optimizer = torch.optim.SGD([gamma], lr=learning_rate * float(values.max() - values.min()), momentum=0.9)
    smallest = math.inf
    for _ in range(steps):
        optimizer.zero_grad()
        and_part, or_part = mobius @ (0.5 * values + gamma), mobius @ (0.5 * values - gamma).flip(0)
        strength = and_part[1:].abs().sum() + or_part[1:].abs().sum()
        strength.backward()
        optimizer.step()
        smallest = min(smallest, strength.item())
    return smallest


def gradient_descent_rows(networks: Networks, quick: bool) -> Iterator[Row]:
    n, num_inputs, steps = (6, 2, 2000) if quick else (10, 6, SGD_STEPS)
    values = torch.cat([networks.values(data, max(networks.snapshots[data]), n, 32) for data in ("digits", "breast cancer")])
    rows = torch.linspace(0, len(values) - 1, num_inputs).long()
    times, smallest = [], []
    for row in rows:
        begin = time.perf_counter()
        smallest.append(min(by_gradient_descent(values[row], rate, steps) for rate in LEARNING_RATES))
        times.append(time.perf_counter() - begin)
    for tolerance in (GOOD_ENOUGH, 1e-5):
        own = seconds(lambda tolerance=tolerance: extract_interactions(values, tolerance=tolerance), 3) / len(values)
        strength = extract_interactions(values, tolerance=tolerance).effects[rows].abs().sum(dim=(1, 2))
        ratios = torch.tensor(smallest) / strength
        tables = f"two networks, tolerance {tolerance:g}"
        one = median(times) / len(LEARNING_RATES)
        detail = f"{1e3 * own:.2f} ms against three learning rates of {one:.1f} s, one of which is {one / own:.0f} times"
        bound = 3000 if tolerance == GOOD_ENOUGH and not quick else 1
        yield Row("SGD time / ours, an input", tables, n, len(values), median(times) / own, bound, True, detail)
        yield Row("SGD strength / ours, smallest", tables, n, num_inputs, ratios.min().item(), 1.0, True)
        yield Row("SGD strength / ours, median", tables, n, num_inputs, ratios.median().item(), 1.0 if quick else 1.3, True)


def linear_program_rows(networks: Networks, quick: bool) -> Iterator[Row]:
    for n, num_inputs in {4: 4, 6: 2}.items() if quick else {4: 16, 6: 16, 8: 8, 9: 4, 10: 3}.items():
        sources = {"random": random_tables(n, num_inputs, generator_for(n)).float()}
        for data, snapshots in networks.snapshots.items():
            sources |= {f"{data}, epoch {epoch}": networks.values(data, epoch, n, num_inputs) for epoch in snapshots}
        for name, values in sources.items():
            optimum = torch.tensor([sparsest_l1_optimum(row) for row in values.double()])
            for tolerance in (GOOD_ENOUGH, None):
                strength = extract_interactions(values, tolerance=tolerance).effects.double().abs().sum(dim=(1, 2))
                ratio = strength / optimum
                tables = name if tolerance is None else f"{name}, tolerance {tolerance:g}"
                detail = f"median {ratio.median():.5f}"
                yield Row("strength / LP optimum, max", tables, n, num_inputs, ratio.max().item(), 1.005, False, detail)
            # The linear program with noise takes several times as long.
            for noise_tolerance in (0.02, 0.05):
                yield l1_row(name, values[:1] if n > 8 else values[:4], noise_tolerance)


def warm_start_rows(quick: bool) -> Iterator[Row]:
    n = 6 if quick else 9
    for learning_rate in (3e-3, 3e-5):
        networks = Networks(21, learning_rate, (2, 3, 20, 21))
        for first in (2, 20):
            before, after = (networks.values("digits", epoch, n, 32) for epoch in (first, first + 1))
            start = extract_interactions(before)
            for tolerance in (1e-2, 1e-3, 1e-5):
                cold, proof_cold = extract_with_certificate(after, tolerance=tolerance)
                warm, proof_warm = extract_with_certificate(after, start=start, tolerance=tolerance)
                ratio = proof_warm.iterations.double().mean() / proof_cold.iterations.double().mean()
                moved = (cold.effects - start.effects).abs().sum() / cold.effects.abs().sum()
                values_moved = (after - before).norm() / after.norm()
                detail = (
                    f"values moved by {values_moved:.1%}, effects by {moved:.0%}, "
                    f"Jaccard {salient_jaccard(cold, warm).mean():.4f}"
                )
                tables = f"learning rate {learning_rate:g}, epochs {first} to {first + 1}, gap {tolerance:g}"
                # The sparsest decomposition moves much more than the values do: all that can be asked is that it does no harm.
                yield Row("warm / cold iterations", tables, n, 32, ratio.item(), 1.5, False, detail)


def sharding_row(networks: Networks, quick: bool) -> Row:
    n = 6 if quick else 10
    values = networks.values("digits", max(networks.snapshots["digits"]), n, 32)
    together = extract_interactions(values)
    shards = [extract_interactions(values[rank::3]) for rank in range(3)]
    effects = torch.empty_like(together.effects)
    for rank, shard in enumerate(shards):
        effects[rank::3] = shard.effects
    jaccard = salient_jaccard(together, Interactions(effects, together.offset)).mean().item()
    return Row("Jaccard of one and three shards", "digits", n, 32, jaccard, 0.99, True)


def peak_memory() -> int:
    """Largest resident set so far in bytes, as Linux counts it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


def solve_alone(file: Path) -> None:
    """Solve a file of values in this process and print seconds and bytes; memory is the peak above what was there before."""
    values = torch.load(file)
    extract_interactions(values[:, :16], max_iterations=10_000)
    Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before, begin = peak_memory(), time.perf_counter()
    extract_interactions(values)
    print(time.perf_counter() - begin, peak_memory() - before)


def growth_rows(quick: bool) -> Iterator[Row]:
    players, num_inputs = (range(6, 9), 4) if quick else (range(8, 17), 4)
    measured = {}
    for n in players:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "values.pt"
            # Made here, since a process keeps memory that it once had.
            torch.save(random_network_tables(n, num_inputs, generator_for(n)).float(), file)
            output = subprocess.run(
                [sys.executable, __file__, "--alone", file], check=True, capture_output=True, text=True
            ).stdout
        measured[n] = tuple(map(float, output.split()))
        detail = f"{measured[n][1] / 2**20:.0f} MiB"
        yield Row("seconds", "random network", n, num_inputs, measured[n][0], 30, False, detail)
    if quick:
        return
    seconds_growth = (measured[16][0] / measured[8][0]) ** (1 / 8)
    memory_growth = (measured[16][1] / measured[8][1]) ** (1 / 8)
    yield Row("growth of time, a player", "8 to 16 players", 16, num_inputs, seconds_growth, 2.5, False)
    yield Row("growth of memory, a player", "8 to 16 players", 16, num_inputs, memory_growth, 2.1, False)
    yield Row("memory, GiB", "random network", 16, num_inputs, measured[16][1] / 2**30, 2, False)


def mobius_row(quick: bool) -> Row:
    n = 8 if quick else 12
    values = random_tables(n, 1, generator_for(n))
    weights = 2 ** np.arange(n)

    def game(coalitions: np.ndarray) -> np.ndarray:
        return values[0].numpy()[coalitions @ weights]

    begin = time.perf_counter()
    exact = ExactComputer(game, n_players=n)("Moebius", order=n)
    theirs = time.perf_counter() - begin
    own = seconds(lambda: mobius_transform(values), 20)
    transformed = mobius_transform(values)[0]
    error = max(
        abs(float(effect) - float(transformed[sum(2**player for player in members)]))
        for members, effect in exact.interactions.items()
        if members
    )
    detail = f"{1e3 * own:.3f} ms against {theirs:.2f} s, largest difference {error:.0e}"
    assert error < 1e-9
    return Row("ExactComputer time / ours, Möbius", "random", n, 1, theirs / own, 1 if quick else 1000, True, detail)


def cuda_row(networks: Networks) -> Row:
    values = networks.values("digits", max(networks.snapshots["digits"]), 10, 64).cuda()
    own = seconds(lambda: extract_interactions(values, tolerance=GOOD_ENOUGH), 10)
    return Row("seconds on CUDA", f"digits, tolerance {GOOD_ENOUGH:g}", 10, 64, own, 0.030, False)


def all_rows(quick: bool) -> Iterator[Row]:
    networks = Networks(4 if quick else 40, 3e-3, (1, 4 if quick else 40))
    yield from gradient_descent_rows(networks, quick)
    yield from linear_program_rows(networks, quick)
    for n in (6,) if quick else (8, 10):
        yield jaccard_row("digits, last epoch", networks.values("digits", max(networks.snapshots["digits"]), n, 32))
    yield sharding_row(networks, quick)
    yield from warm_start_rows(quick)
    yield from growth_rows(quick)
    yield mobius_row(quick)
    if torch.cuda.is_available():
        yield cuda_row(networks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer players and inputs")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        solve_alone(arguments.alone)
        return 0
    rows = []
    for row in all_rows(arguments.quick):
        rows.append(row)
        print(*row.cells(), sep=" | ", file=sys.stderr, flush=True)
    headers = ["number", "tables", "players", "inputs", "measured", "bound", "met", "detail"]
    print(tabulate([row.cells() for row in rows], headers=headers, disable_numparse=True))
    return int(any(not row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
