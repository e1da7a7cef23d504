"""Runs whose strength by order and losses are given."""

import math
from collections.abc import Sequence

import torch
from papers.runs import Run, Setting
from torch import Tensor

from lightning_interactions.functional import total_strength
from lightning_interactions.records import Interactions, Measurement, OrderStrength, SplitMeasurement, TimePoint
from tests.helpers.histories import with_phases

NUM_INPUTS = 16
NUM_PLAYERS = 9


def decay() -> Tensor:
    """Strength that is largest at order 1, of orders 1 to 9; adds up to 1."""
    strength = torch.tensor(3.0).pow(-torch.arange(NUM_PLAYERS, dtype=torch.float64))
    return strength / strength.sum()


def spindle() -> Tensor:
    """Strength that is largest at orders 4 and 5, of orders 1 to 9; adds up to 1."""
    sets = torch.tensor([math.comb(NUM_PLAYERS, order) for order in range(1, NUM_PLAYERS + 1)], dtype=torch.float64)
    return sets / sets.sum()


def run_of(
    generalizable: Tensor,
    non_generalizable: Tensor,
    training_losses: Sequence[float],
    test_losses: Sequence[float],
    explained_losses: Sequence[float],
    *,
    positive: Tensor | float = 0.5,
    chance: float = 0.1,
    phases: Sequence[int] | None = None,
    final: Interactions | None = None,
    random_labels: bool = False,
) -> Run:
    """Make a run that is measured after every epoch; inputs differ by up to a fifth, the same in all numbers.

    Args:
        generalizable: ``[times, 9 orders]``, mean over inputs.
        non_generalizable: The same.
        training_losses: Of training data and probes.
        test_losses: Of test data and held-out probes.
        explained_losses: Of held-out probes without the non-generalizable interactions; that of training probes is theirs.
        positive: Part of the strength of each order that is positive.
        chance: Part of the strength that is generalizable by chance.
        phases: Phase at each measurement; 1 if left out.
        final: Final interactions of the theory; zero if left out.
        random_labels: Whether labels were random.
    """
    measurements = [
        Measurement(
            TimePoint(time, time),
            0.0,
            _split(generalizable[time], non_generalizable[time], positive, chance, training, training),
            _split(generalizable[time], non_generalizable[time], positive, chance, test, explained),
        )
        for time, (training, test, explained) in enumerate(zip(training_losses, test_losses, explained_losses, strict=True))
    ]
    zeros = torch.zeros(NUM_INPUTS, 2, 2**NUM_PLAYERS)
    return Run(
        Setting("made up", "none", 0, random_labels),
        with_phases(measurements, [1] * len(measurements) if phases is None else phases),
        Interactions(zeros, zeros[:, 0, 0]) if final is None else final,
        list(training_losses),
        list(test_losses),
        [0.5] * len(test_losses),
        0.0,
    )


def _split(
    g: Tensor, u: Tensor, positive: Tensor | float, chance: float, loss: float, explained_loss: float
) -> SplitMeasurement:
    size = torch.linspace(0.8, 1.2, NUM_INPUTS, dtype=torch.float64)

    def by_input(strength: Tensor) -> Tensor:
        signed = torch.stack([strength * positive, strength * (1 - positive)])
        padded = torch.nn.functional.pad(signed, (1, 0))
        return size[:, None, None, None] * torch.stack([padded, 0 * padded])

    strength = OrderStrength(by_input(g), by_input(u), by_input(0 * g))
    of_loss, without = (torch.full_like(size, value) for value in (loss, explained_loss))
    return SplitMeasurement(
        generalizable=total_strength(strength.generalizable),
        non_generalizable=total_strength(strength.non_generalizable),
        non_salient=0 * size,
        chance_generalizable=chance * size * (g + u).sum(),
        empty_score=0 * size,
        full_score=-of_loss.expm1().log(),
        explained_score=-without.expm1().log(),
        loss=of_loss,
        explained_loss=without,
        expected_test_loss=of_loss,
        rater_score=torch.full_like(size, torch.nan),
        strength=strength,
    )
