"""Compare interactions fitted to sampled coalitions with shapiq's SPEX and ProxySPEX on the same budget of forwards.

    python tests/benchmarks/many_players.py [--quick]

Needs ``pip install -e ".[benchmarks]"``. Prints one table of medians over seeds. Errors are root mean square
errors on unseen coalitions over the spread of their values, on fair coins (what SPEX and ProxySPEX draw) and on coalitions
of uniform size. Where n is 12, the last column compares the fitted effects with the exact extraction. Takes about half an
hour on one CPU core, with ``--quick`` about two minutes.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from shapiq.approximator.sparse import SPEX, ProxySPEX
from sklearn.datasets import load_breast_cancer, load_digits
from tabulate import tabulate
from torch import Generator, Tensor, nn

# The script runs from anywhere, and the helpers are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from lightning_interactions.functional import (
    coalition_masks,
    draw_coalitions,
    extract_interactions,
    fit_interactions,
    predict_values,
    salient_mask,
)
from lightning_interactions.game.evaluation import Game
from lightning_interactions.players import FeatureGroups, ImagePatches
from lightning_interactions.records import Probes
from lightning_interactions.tasks import Classification
from tests.helpers.games import ManyPlayerGame, many_player_game

Values = Callable[[Tensor], Tensor]
Effects = dict[tuple[bool, ...], float]

UNSEEN = 4000


@dataclass(frozen=True)
class Problem:
    """A game of one input.

    Attributes:
        name: Row label.
        num_players: Number of players.
        values: Masks to values, float64.
        planted: The known effects, if there are any.
    """

    name: str
    num_players: int
    values: Values
    planted: ManyPlayerGame | None = None


@dataclass(frozen=True)
class Fitted:
    """What one method found.

    Attributes:
        predict: Masks to approximate values.
        and_effects: ANDs as Möbius effects, by set.
        or_effects: ORs by set; ``None`` for methods without ORs.
        num_terms: How many interactions were reported.
        num_forwards: Forwards spent.
    """

    predict: Values
    and_effects: Effects
    or_effects: Effects | None
    num_terms: int
    num_forwards: int


def fit_ours(problem: Problem, budget: int, seed: int) -> Fitted:
    masks = draw_coalitions(problem.num_players, budget, Generator().manual_seed(seed))
    fitted = fit_interactions(masks, problem.values(masks)[None].float())
    rows = list(zip(map(tuple, fitted.players.tolist()), fitted.is_or.tolist(), fitted.effects[0].tolist(), strict=True))
    and_effects, or_effects = ({key: effect for key, is_or, effect in rows if is_or == wanted} for wanted in (False, True))
    return Fitted(lambda unseen: predict_values(fitted, unseen)[0].double(), and_effects, or_effects, len(rows), budget)


def fit_shapiq(approximator: Any, problem: Problem, budget: int, seed: int) -> Fitted:
    """Faith-Banzhaf interactions of all orders are the Möbius effects, so their sum over subsets is the fitted game."""
    n = problem.num_players
    method = approximator(n=n, index="FBII", random_state=seed)

    def game(coalitions: np.ndarray) -> np.ndarray:
        return problem.values(torch.as_tensor(np.asarray(coalitions, dtype=bool))).numpy()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = method.approximate(budget, game)
    effects = {tuple(map(int, key)): float(result.values[row]) for key, row in result.interaction_lookup.items()}
    effects = {key: effect for key, effect in effects.items() if abs(effect) > 1e-12}
    sets = torch.zeros(len(effects), n, dtype=torch.float64)
    for row, players in enumerate(effects):
        sets[row, list(players)] = 1
    weights = torch.tensor(list(effects.values()), dtype=torch.float64)

    def predict(unseen: Tensor) -> Tensor:
        blocks = unseen.double().split(500)
        return torch.cat([(block @ sets.T == sets.sum(dim=1)).double() @ weights for block in blocks])

    and_effects = dict(zip(map(tuple, sets.bool().tolist()), effects.values(), strict=True))
    return Fitted(predict, and_effects, None, len(effects), int(result.estimation_budget))


METHODS: dict[str, Callable[[Problem, int, int], Fitted]] = {
    "ours": fit_ours,
    "SPEX": partial(fit_shapiq, SPEX),
    "ProxySPEX": partial(fit_shapiq, ProxySPEX),
}


def unseen_coalitions(num_players: int, seed: int) -> tuple[Tensor, Tensor]:
    """Fair coins, and coalitions of uniform size."""
    generator = Generator().manual_seed(10_000 + seed)
    coins = torch.rand(UNSEEN, num_players, generator=generator) < 0.5
    sizes = torch.randint(num_players + 1, (UNSEEN, 1), generator=generator)
    ranks = torch.rand(UNSEEN, num_players, generator=generator).argsort(dim=1).argsort(dim=1)
    return coins, ranks < sizes


def relative_error(problem: Problem, fitted: Fitted, masks: Tensor) -> float:
    values = problem.values(masks)
    return float((values - fitted.predict(masks)).square().mean().sqrt() / values.std())


def recall(planted: ManyPlayerGame, fitted: Fitted) -> float:
    """Fraction of planted effects that came back with their sign and within 10 %.

    Methods without ORs are asked for the Möbius effect that an OR has on its whole set: the effect itself for an odd number
    of players, minus it for an even one. Planted effects on supersets can hide it, which counts against these methods.
    """
    hits = 0
    for players, is_or, effect in zip(
        map(tuple, planted.players.tolist()), planted.is_or.tolist(), planted.effects.tolist(), strict=True
    ):
        if is_or and fitted.or_effects is None:
            found, expected = fitted.and_effects.get(players, 0.0), effect * (-1) ** (sum(players) + 1)
        else:
            table = fitted.or_effects if is_or and fitted.or_effects is not None else fitted.and_effects
            found, expected = table.get(players, 0.0), effect
        hits += abs(found - expected) <= 0.1 * abs(expected)
    return hits / len(planted.effects)


def exact_agreement(problem: Problem, fitted: Fitted) -> float:
    """Strength-weighted share of the exact salient effects that came back with type and sign; methods with ORs only."""
    if fitted.or_effects is None:
        return float("nan")
    masks = coalition_masks(problem.num_players)
    exact = extract_interactions(problem.values(masks)[None])
    salient = salient_mask(exact)[0]
    total = agreed = 0.0
    for table, effects, kept in zip((fitted.and_effects, fitted.or_effects), exact.effects[0], salient, strict=True):
        for index in kept.nonzero().flatten().tolist():
            effect = float(effects[index])
            total += abs(effect)
            agreed += abs(effect) * (table.get(tuple(masks[index].tolist()), 0.0) * effect > 0)
    return agreed / total


def planted_problem(num_players: int, max_order: int, seed: int) -> Problem:
    game = many_player_game(num_players, 6, 6, max_order, Generator().manual_seed(1000 + seed))
    return Problem(f"planted, orders 1 to {max_order}", num_players, game.values, game)


def network_problem(kind: str, seed: int) -> Problem:
    """The log-odds of a small network, trained on the whole data set, on one input."""
    data = load_digits() if kind.startswith("digits") else load_breast_cancer()
    inputs, targets = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    if kind.startswith("digits"):
        inputs = inputs.reshape(-1, 1, 8, 8) / 16
    else:
        inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0)
    players = {
        "breast cancer, n = 12": FeatureGroups([list(map(int, group)) for group in np.array_split(np.arange(30), 12)]),
        "breast cancer": FeatureGroups([[column] for column in range(30)]),
        "digits, 3x4 patches": ImagePatches(3, 4),
        "digits, 4x4 patches": ImagePatches(4, 4),
        "digits, pixels": ImagePatches(8, 8),
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        classes = int(targets.max()) + 1
        width = inputs[0].numel()
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(40):
            for index in torch.randperm(len(inputs)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[index]), targets[index]).backward()
                optimizer.step()
        row = torch.randint(len(inputs), (1,))
    game = Game(Probes.of((inputs[row], targets[row])), players, {"": torch.zeros(())}, Classification())
    model.eval()
    return Problem(kind, game.num_players, lambda masks: game.values(model, masks)[0].double())


def rows(quick: bool, num_seeds: int, games: str) -> Iterator[list[object]]:
    """Run every method on every problem.

    Args:
        quick: One seed, one budget, the smaller problems.
        num_seeds: Number of seeds.
        games: Part of the names of the problems to run.

    Yields:
        Rows of the table.
    """
    seeds = range(1 if quick else num_seeds)
    problems: list[tuple[Callable[[int], Problem], list[int]]] = [
        (partial(planted_problem, 20, 4), [1000]),
        (partial(network_problem, "breast cancer, n = 12"), [1000]),
    ]
    if not quick:
        problems += [
            (partial(planted_problem, 20, 8), [1000]),
            (partial(planted_problem, 40, 5), [1000, 3000]),
            (partial(network_problem, "digits, 3x4 patches"), [1000]),
            (partial(network_problem, "digits, 4x4 patches"), [1000, 3000]),
            (partial(network_problem, "breast cancer"), [1000, 3000]),
            (partial(network_problem, "digits, pixels"), [1000, 3000]),
        ]
    for make, budgets in problems:
        made = [make(seed) for seed in seeds]
        if games not in made[0].name:
            continue
        for budget in budgets:
            for method, fit in METHODS.items():
                yield summary(made, budget, method, fit)


def summary(problems: list[Problem], budget: int, method: str, fit: Callable[[Problem, int, int], Fitted]) -> list[object]:
    numbers: list[list[float]] = []
    for seed, problem in enumerate(problems):
        begin = time.perf_counter()
        try:
            fitted = fit(problem, budget, seed)
        except ValueError as error:
            print(f"{method} on {problem.name}, {budget}: {error}", file=sys.stderr)
            continue
        seconds = time.perf_counter() - begin
        coins, sizes = unseen_coalitions(problem.num_players, seed)
        numbers.append([
            fitted.num_forwards,
            relative_error(problem, fitted, coins),
            relative_error(problem, fitted, sizes),
            recall(problem.planted, fitted) if problem.planted else float("nan"),
            exact_agreement(problem, fitted) if problem.num_players == 12 else float("nan"),
            fitted.num_terms,
            seconds,
        ])  # fmt: skip
    medians = [median(column) for column in zip(*numbers, strict=True)] if numbers else [float("nan")] * 7
    row = [problems[0].name, problems[0].num_players, method, budget, *medians]
    return [None if cell != cell else cell for cell in row]


HEADERS = (
    "game",
    "n",
    "method",
    "budget",
    "forwards",
    "error, coins",
    "error, sizes",
    "planted found",
    "exact found",
    "terms",
    "seconds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, one budget, the smaller games")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--games", default="", help="run only games whose name contains this")
    arguments = parser.parse_args()
    table = list(rows(arguments.quick, arguments.seeds, arguments.games))
    print(tabulate(table, headers=HEADERS, floatfmt=".3g", missingval="-"))


if __name__ == "__main__":
    main()
