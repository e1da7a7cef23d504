"""Simulated runs with known phases, input by input, and runs in which nothing of one kind is gained more than of the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_interactions.analysis.phases.changes import MAINLY
from lightning_interactions.analysis.phases.signals import PhaseSignals
from lightning_interactions.records import Measurement
from tests.helpers.histories import history_from_strengths


class Segment(NamedTuple):
    """How many measurements, and what they add to G, U and the expected cost, each to the one before."""

    length: int
    generalizable: float
    non_generalizable: float
    cost: float


LEARNING = Segment(6, 1.0, 0.0, -0.05)
MOSTLY_GENERALIZABLE = Segment(10, 0.5, 0.4, -0.02)
MOSTLY_NON_GENERALIZABLE = Segment(10, 0.0, 1.0, 0.05)
RECOVERING = Segment(14, 3.0, 0.0, -0.05)

THREE_PHASES = (LEARNING, MOSTLY_GENERALIZABLE, MOSTLY_NON_GENERALIZABLE)
LARGEST_SHARE, LEAST_COST, END = 5, 15, 26
"""Where the share is largest and the expected cost is smallest, and how long the run is."""


@dataclass
class Run:
    """What is known of each training probe at each measurement."""

    generalizable: Float[Tensor, "times inputs"]
    non_generalizable: Float[Tensor, "times inputs"]
    expected_test_loss: Float[Tensor, "times inputs"]

    def measured(self, **options: Any) -> tuple[Measurement, ...]:
        return history_from_strengths(
            self.generalizable, self.non_generalizable, **{"expected_test_loss": self.expected_test_loss, **options}
        )

    def held_out(self, excess: Sequence[float], num_inputs: int = 32, **options: Any) -> tuple[Measurement, ...]:
        """Add held-out probes with the strengths of the first training probes and an excess loss that is given."""
        levels = torch.tensor(excess, dtype=torch.float64)[:, None].expand(-1, num_inputs)
        strengths = (self.generalizable[:, :num_inputs], self.non_generalizable[:, :num_inputs])
        return self.measured(held_out_excess=levels, held_out_strengths=strengths, **options)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Run":
        return Run(change(self.generalizable), change(self.non_generalizable), change(self.expected_test_loss))


def grown(
    segments: Sequence[Segment],
    num_inputs: int = 32,
    noise: float = 0.02,
    seed: int = 0,
    start: tuple[float, float, float] = (2.0, 0.5, 1.0),
) -> Run:
    """Let G, U and the cost go in segments; inputs differ in size, and each number is off by a few per cent."""
    generator = Generator().manual_seed(seed)
    rates = torch.tensor([segment[1:] for segment in segments for _ in range(segment.length)], dtype=torch.float64)
    levels = torch.tensor(start) + rates.cumsum(dim=0) - rates[0]
    size = (0.3 * torch.randn(num_inputs, generator=generator, dtype=torch.float64)).exp()
    errors = noise * torch.randn(3, len(rates), num_inputs, generator=generator, dtype=torch.float64)
    return Run(*(levels.T[:, :, None] * size * (1 + errors)))


def stepped(
    after: Sequence[float] | Float[Tensor, "3 inputs"], num_inputs: int = 32, at: int = 2, times: int = 8, tail: int = 0
) -> Run:
    """Let G, U and the cost be 2, 1 and 1 up to a measurement and something else from the next on, the same for all inputs."""
    later = torch.as_tensor(after, dtype=torch.float64)
    later = later[:, None].expand(3, num_inputs) if later.ndim == 1 else later
    before = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)[:, None].expand(3, later.shape[1])
    return Run(*torch.stack([before] * (at + 1) + [later] * (times + tail - at - 1), dim=1))


# Signals alone, for thousands of runs

NULLS = (
    "independent",
    "random walks",
    "autocorrelated",
    "heavy tails",
    "unequal inputs",
    "rising shares",
    "skewed differences",
    "skewed steps",
    "onset at a minimum",
)
"""Kinds of runs in which, for no pair of moments, most inputs gain mainly what does not generalize.

- independent: what is gained is noise that is new at each measurement.
- random walks: Gaussian steps.
- autocorrelated: noise that decays by a tenth from each measurement to the next.
- heavy tails: steps of Student's t with two degrees of freedom.
- unequal inputs: some inputs hold a thousand times the strength of others.
- rising shares: mainly generalizable strength is gained in the first half.
- skewed differences: each input has its own rate, of median 0 and mean 0.65, by which it follows a walk of all.
- skewed steps: of median and mean 0, gains all alike and losses exponential.
- onset at a minimum: random walks, and inputs cost most when they have gained most.
"""


def null_signals(kind: str, times: int, probes: int, generator: Generator) -> PhaseSignals:
    """Draw a run of one of the :data:`NULLS`. Its expected cost wanders, and salient strength grows all the time."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    steps = normal(times, probes)
    net = steps.cumsum(dim=0)
    if kind == "independent":
        net = steps
    elif kind == "autocorrelated":
        decay = 0.9 ** torch.arange(times, dtype=torch.float64)
        net = (steps / decay[:, None]).cumsum(dim=0) * decay[:, None]
    elif kind == "heavy tails":
        net = (steps / normal(2, times, probes).square().mean(dim=0).sqrt()).cumsum(dim=0)
    elif kind == "unequal inputs":
        net = net * (2 * normal(probes)).exp()
    elif kind == "rising shares":
        # With what is learned for good in mind: else the share would fall again.
        net = net - 0.02 * torch.arange(times).clamp(max=times // 2)[:, None] * _learned(times)
    elif kind == "skewed differences":
        net = (normal(probes).exp() - 1) * normal(times, 1).cumsum(dim=0)
    elif kind == "skewed steps":
        losses = torch.rand(times, probes, generator=generator, dtype=torch.float64).log()
        net = torch.where(steps > 0, 1.0, losses).cumsum(dim=0)
    together = 0.1 * normal(times, 1).cumsum(dim=0)
    cost = (together + 0.05 * normal(times, probes)).exp()
    if kind == "onset at a minimum":
        cost = cost + 0.2 * net
    return signals_of(net, cost)


def drifting_signals(onset: int, times: int, probes: int, effect: float, generator: Generator) -> PhaseSignals:
    """Draw a run with a known onset of phase 3.

    Up to it inputs gain as much of one kind as of the other and cost less and less; from then on what does not generalize is
    gained at a rate, and the cost rises. Noise is half a walk and half new at each measurement.

    Args:
        onset: Index of the measurement at which the cost is least.
        times: Number of measurements.
        probes: Number of probes.
        effect: What is gained from a measurement to the next, in standard deviations of this gain over inputs.
        generator: Source of randomness.
    """
    new, steps, costs = torch.randn(3, times, probes, generator=generator, dtype=torch.float64)
    after = (torch.arange(times) - onset).double()[:, None]
    net = math.sqrt(0.5) * (steps.cumsum(dim=0) + math.sqrt(0.5) * new) + effect * after.clamp(min=0)
    return signals_of(net, 1 + 0.03 * after.abs() + 0.05 * costs)


def signals_of(net: Float[Tensor, "times probes"], cost: Float[Tensor, "times probes"]) -> PhaseSignals:
    """Put together signals of which one kind of strength grows alike on all probes, and the other one is known by their net."""
    generalizable = _learned(len(net)).expand_as(net)
    non_generalizable = MAINLY * generalizable + net
    salient = generalizable + non_generalizable
    return PhaseSignals(
        share=generalizable / salient,
        generalizable=generalizable,
        non_generalizable=non_generalizable,
        cost=cost,
        plain_cost=cost.mean(dim=1),
        most_cost=math.inf,
        excess_gap=torch.full((len(net),), torch.nan, dtype=torch.float64),
        pooled_share=generalizable.mean(dim=1) / salient.mean(dim=1),
        loss_known=True,
    )


def _learned(times: int) -> Float[Tensor, "times 1"]:
    """Generalizable strength of every probe: it grows by a tenth a measurement, and then less."""
    return 100 + 10 * torch.arange(times, dtype=torch.float64)[:, None]
