"""Measure how accurate the extraction is, and compare every number with the bound that it must meet.

    python tests/benchmarks/accuracy.py [--quick]

Prints one table. The exit status is 1 if a bound is missed, otherwise 0. Takes a few minutes on one CPU core, with
``--quick`` about half a minute.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from tabulate import tabulate
from torch import Generator, Tensor, nn

# The script runs from anywhere, and the helpers are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from lightning_interactions.functional import extract_interactions, matching_error, reconstruct_values
from lightning_interactions.game.evaluation import Game
from lightning_interactions.players import ImagePatches
from lightning_interactions.records import Interactions, Probes
from lightning_interactions.tasks import Classification
from tests.helpers.games import planted_game, random_network_tables, random_tables, recovered, salient_jaccard
from tests.helpers.oracles import sparsest_l1_optimum

MATCHING_BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
L1_BOUND = 1.02
JACCARD_BOUND = 0.99
RECOVERY_BOUND = 0.99

GRIDS = {4: (2, 2), 6: (2, 3), 8: (2, 4), 9: (3, 3), 10: (2, 5)}
"""Rows and columns of patches that make so many players of an 8x8 image."""


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        number: What was measured.
        tables: On which tables of values.
        num_players: Number of players.
        num_inputs: Number of inputs.
        measured: The number.
        bound: The bound that it must meet.
        at_least: Whether the bound is a lower one.
        detail: Other numbers of the same measurement.
    """

    number: str
    tables: str
    num_players: int
    num_inputs: int
    measured: float
    bound: float
    at_least: bool
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the number meets its bound; NaN does not."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def cells(self) -> list[str]:
        """The row as printed."""
        bound = f"{'>=' if self.at_least else '<='} {self.bound:g}"
        measured = f"{self.measured:.5f}" if self.bound >= 0.1 else f"{self.measured:.1e}"
        met = "yes" if self.met else "no"
        return [self.number, self.tables, str(self.num_players), str(self.num_inputs), measured, bound, met, self.detail]


class DigitTables:
    """Values of a small convolutional network on digits, after few and after many epochs of training.

    Args:
        early: Completed epochs at the first snapshot.
        late: Completed epochs at the second.
    """

    def __init__(self, early: int, late: int) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        self.targets = torch.tensor(digits.target)
        self.models = dict(zip((f"digits, epoch {early}", f"digits, epoch {late}"), self._train(early, late), strict=True))

    def values(self, name: str, num_players: int, num_inputs: int) -> Tensor:
        """Evaluate one snapshot on all coalitions of image patches, in float32 as the monitor does."""
        probes = Probes.of((self.images[:num_inputs], self.targets[:num_inputs]))
        game = Game(probes, ImagePatches(*GRIDS[num_players]), {"": torch.zeros(())}, Classification())
        return game.values(self.models[name])

    def _train(self, early: int, late: int) -> list[nn.Module]:
        snapshots: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
            )  # fmt: skip
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for epoch in range(1, late + 1):
                for index in torch.randperm(len(self.images)).split(64):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(self.images[index]), self.targets[index]).backward()
                    optimizer.step()
                if epoch in (early, late):
                    snapshots.append(copy.deepcopy(model).eval())
        return snapshots


def generator_for(num_players: int) -> Generator:
    return Generator().manual_seed(num_players)


def matching_rows(players: list[int]) -> Iterator[Row]:
    for dtype, bound in MATCHING_BOUNDS.items():
        for num_players in players:
            generator = generator_for(num_players)
            values = torch.cat([make(num_players, 8, generator) for make in (random_tables, random_network_tables)]).to(dtype)
            error = (reconstruct_values(extract_interactions(values)) - values).abs().amax(dim=1)
            relative = error / (values.amax(dim=1) - values.amin(dim=1))
            name = f"matching error / value range, {str(dtype).removeprefix('torch.')}"
            yield Row(name, "random, random network", num_players, len(values), relative.max().item(), bound, at_least=False)


def l1_row(name: str, values: Tensor, noise_tolerance: float = 0.0) -> Row:
    interactions = extract_interactions(values, noise_tolerance=noise_tolerance)
    strength = interactions.effects.double().abs().sum(dim=(1, 2))
    optimum = torch.tensor([sparsest_l1_optimum(row, noise_tolerance) for row in values.double()], dtype=torch.float64)
    ratio = strength / optimum
    detail = f"median {ratio.median():.5f}"
    number = "strength / LP optimum, max" + (f", noise {noise_tolerance:g}" if noise_tolerance else "")
    return Row(number, name, num_players(values), len(values), ratio.max().item(), L1_BOUND, False, detail)


def tolerated_row(name: str, values: Tensor, noise_tolerance: float) -> Row:
    missed = matching_error(extract_interactions(values, noise_tolerance=noise_tolerance), values)
    # The rest is rounding, which is no part of the tolerance.
    value_range = values.amax(dim=1) - values.amin(dim=1)
    beyond = (missed - noise_tolerance * (values[:, -1] - values[:, 0]).abs()).clamp(min=0) / value_range
    number = f"error beyond noise {noise_tolerance:g} / value range"
    bound = MATCHING_BOUNDS[values.dtype]
    return Row(number, name, num_players(values), len(values), beyond.max().item(), bound, False)


def jaccard_row(name: str, values: Tensor) -> Row:
    generator = generator_for(num_players(values))
    noise = 10 * torch.randn(2, *values.shape, generator=generator).to(values) * values.std()  # [types, inputs, coalitions]
    other_values = values + 0.1 * values.std() * torch.randn(values.shape, generator=generator).to(values)
    starts = [
        None,
        extract_interactions(values.flip(0)),
        extract_interactions(other_values),
        Interactions(noise.transpose(0, 1), values[:, 0]),
    ]
    solutions = [extract_interactions(values, start=start) for start in starts]
    jaccard = torch.stack([salient_jaccard(first, second) for first, second in combinations(solutions, 2)])
    detail = f"min {jaccard.min():.5f}"
    return Row(
        "Jaccard of 4 starts, mean", name, num_players(values), len(values), jaccard.mean().item(), JACCARD_BOUND, True, detail
    )


def recovery_row(num_seeds: int) -> Row:
    games = [planted_game(10, 6, 6, 1e-3, Generator().manual_seed(seed)) for seed in range(num_seeds)]
    effects = extract_interactions(torch.cat([game.values for game in games])).effects
    hits = [recovered(game.interactions.effects[0], effects[i]) for i, game in enumerate(games)]
    worst = min(hit.double().mean().item() for hit in hits)
    rate = torch.cat(hits).double().mean().item()
    return Row(
        "planted effects recovered", "6 AND + 6 OR, noise 1e-3", 10, num_seeds, rate, RECOVERY_BOUND, True, f"min {worst:.5f}"
    )


def num_players(values: Tensor) -> int:
    return values.shape[1].bit_length() - 1


def all_rows(quick: bool) -> Iterator[Row]:
    """Measure everything.

    Args:
        quick: Fewer players, inputs and seeds.

    Yields:
        Rows in the order of the table.
    """
    digits = DigitTables(early=1, late=4 if quick else 20)
    sources: dict[str, Callable[[int, int], Tensor]] = {
        "random": lambda n, count: random_tables(n, count, generator_for(n)).float(),
        "random network": lambda n, count: random_network_tables(n, count, generator_for(n)).float(),
        **{name: partial(digits.values, name) for name in digits.models},
    }
    yield from matching_rows([4, 7, 10] if quick else list(range(4, 11)))
    # The linear program takes about a second for ten players, so there are few inputs where there are many players.
    for n, count in {4: 8, 6: 8, 8: 2}.items() if quick else {4: 32, 6: 32, 8: 16, 9: 6, 10: 4}.items():
        for name, values in sources.items():
            yield l1_row(name, values(n, count))
    for n, count in {6: 2, 8: 1}.items() if quick else {4: 8, 5: 8, 6: 8, 7: 4, 8: 4, 9: 4, 10: 2}.items():
        planted = torch.cat([planted_game(n, 3, 3, 1e-3, Generator().manual_seed(seed)).values for seed in range(count)])
        # No grid of patches makes 5 or 7 players.
        drawn = {name: make(n, count) for name, make in sources.items() if n in GRIDS or name not in digits.models}
        for name, values in {**drawn, "planted": planted.float()}.items():
            for noise_tolerance in (0.02, 0.05):
                yield l1_row(name, values, noise_tolerance)
            yield tolerated_row(name, values, 0.05)
    for n in (4, 6, 9) if quick else (4, 6, 8, 9, 10):
        for name, values in sources.items():
            yield jaccard_row(name, values(n, 6 if quick else 32))
    yield recovery_row(2 if quick else 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer players, inputs and seeds")
    rows = list(all_rows(parser.parse_args().quick))
    headers = ["number", "tables", "players", "inputs", "measured", "bound", "met", "detail"]
    print(tabulate([row.cells() for row in rows], headers=headers, disable_numparse=True))
    missed = sum(not row.met for row in rows)
    print(f"\n{len(rows) - missed} of {len(rows)} bounds met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
