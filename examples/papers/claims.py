"""What the four papers claim, each as a number of a run, and the range in which that number must lie.

Criteria were fixed before any run of the seeds that are reported was looked at, and were not tuned. A claim holds in a run
if the whole 95 % interval over the draw of probes lies in the range, fails if all of it lies outside, and is unclear
otherwise; numbers without an interval are judged by themselves. Where a number would profit from being taken at its own
chance extremum, the moment is picked on held-out probes and the number taken on training probes; what is said of both
splits together, the growth of the gap, begins at the maximum of the share on training probes, which is no part of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_interactions import History, analysis, functional
from lightning_interactions.records import DecaySpindle, SecondPhase, SplitMeasurement
from papers.runs import Run
from papers.series import Number, Series, estimate, mean_order, peak_order, rank_correlation, share

__all__ = ["CLAIMS", "FAILS", "HOLDS", "UNCLEAR", "Claim", "Finding", "check", "overfitted", "theory"]

HOLDS, UNCLEAR, FAILS = "holds", "unclear", "fails"

THREE = "He et al. 2025, three phases"
SHAPES = "Cheng et al. 2025, decay and spindle"
TWO = "Zhang et al. 2024, two phases"
THEORY = "Ren et al. 2024, theory of two phases"
CONTROL = "Control"

MATERIAL_STRENGTH = 0.01
"""Orders with a smaller part of all salient strength are left out where shares of orders are compared."""

FEWEST_TIMES = 4
"""Measurements of the second phase below which nothing is said of it."""

SHUFFLES = 5


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        label: A few words for figures.
        paper: Who claims it.
        sentence: The claim in our words.
        measured: The number.
        measure: Computes it from a run; NaN where it does not exist.
        above: The claim holds where the number is larger than this …
        below: … and smaller than this.
        applies: In which runs it is checked.
    """

    label: str
    paper: str
    sentence: str
    measured: str
    measure: Callable[[Run], Number]
    above: float = -math.inf
    below: float = math.inf
    applies: Callable[[Run], bool] = lambda run: not run.setting.random_labels

    @property
    def criterion(self) -> str:
        if math.isinf(self.below):
            return f"> {self.above:g}"
        if math.isinf(self.above):
            return f"< {self.below:g}"
        return f"{self.above:g} to {self.below:g}"

    def met_by(self, value: float) -> bool:
        return self.above < value < self.below

    def outcome(self, found: Number) -> str:
        low, high = (found.value, found.value) if math.isnan(found.low) else (found.low, found.high)
        if self.met_by(low) and self.met_by(high) and self.met_by(found.value):
            return HOLDS
        if high <= self.above or low >= self.below:
            return FAILS
        return UNCLEAR


@dataclass(frozen=True)
class Finding:
    """What one run says of one claim."""

    run: Run
    claim: Claim
    estimate: Number
    outcome: str


def check(claim: Claim, run: Run) -> Finding | None:
    """Check a claim on a run; ``None`` where it says nothing of the run."""
    if not claim.applies(run):
        return None
    found = claim.measure(run)
    return None if math.isnan(found.value) else Finding(run, claim, found, claim.outcome(found))


def overfitted(run: Run) -> bool:
    """Say whether the test loss at the end is more than 5 % above its smallest, in a run whose labels can be learned."""
    return not run.setting.random_labels and run.test_losses[-1] > 1.05 * min(run.test_losses)


# Three phases


def untrained_peak(run: Run) -> Number:
    return estimate(peak_order, Series.of(run.history).by_order[0].T)


def untrained_strength(run: Run) -> Number:
    by_time = Series.of(run.history).by_order.sum(dim=2)
    return estimate(lambda means: means[0] / means[1:].max(dim=0).values, by_time)


def rise_of_share(run: Run) -> Number:
    return _change_of_share(run, 0, _share_peak(run))


def fall_of_share(run: Run) -> Number:
    return _change_of_share(run, -1, _share_peak(run))


def fall_of_share_above_chance(run: Run) -> Number:
    series, peak = Series.of(run.history), _share_peak(run)
    g, u = series.totals
    columns = torch.stack([part[time] for time in (peak, -1) for part in (g, u, series.chance)])

    def fall(means: Tensor) -> Tensor:
        shares = [
            functional.above_chance(share(g, u), chance / (g + u)) for g, u, chance in means.unflatten(0, (2, 3)).unbind()
        ]
        return shares[0] - shares[1]

    return estimate(fall, columns)


def peak_of_generalizable(run: Run) -> Number:
    return estimate(peak_order, Series.of(run.history).generalizable[-1].sum(dim=1).T)


def peak_of_non_generalizable(run: Run) -> Number:
    return estimate(peak_order, Series.of(run.history).non_generalizable[-1].sum(dim=1).T)


def growth_with_gap(run: Run) -> Number:
    _, u = Series.of(run.history).totals
    gap_growth = _gaps(run).diff()[:, None]
    return estimate(lambda means: rank_correlation(means.diff(dim=0), gap_growth), u)


def speed_with_gap(run: Run) -> Number:
    _, u = Series.of(run.history).totals
    steps = _steps(run)
    gap_speed = _gaps(run).diff()[:, None] / steps
    return estimate(lambda means: rank_correlation(means.diff(dim=0) / steps, gap_speed), u)


def growth_with_gap_above_others(run: Run) -> Number:
    g, u = Series.of(run.history).totals
    gap_growth, steps = _gaps(run).diff()[:, None], _steps(run)

    def correlations(means: Tensor) -> Tensor:
        g, u = means.unflatten(0, (2, -1)).diff(dim=1)
        # Equal steps tell nothing.
        return torch.stack([rank_correlation(part, gap_growth).nan_to_num(0.0) for part in (u, g + u, steps.expand_as(u))])

    def above_others(means: Tensor) -> Tensor:
        of_u, *of_others = correlations(means)
        return of_u - torch.stack(of_others).max(dim=0).values

    columns = torch.cat([g, u])
    of_u, of_all, of_time = correlations(columns.mean(dim=1, keepdim=True))[:, 0].tolist()
    note = f"U {of_u:.2f}, all salient {of_all:.2f}, epochs passed {of_time:.2f}"
    return replace(estimate(above_others, columns), note=note)


def explained_growth(run: Run) -> Number:
    found = analysis.explained_growth(run.history.measurements)
    note = f"the gap grew by {found.loss_gap.value:.2f} nats from epoch {found.begin.epoch} on"
    return Number(**vars(found.share), note=note)


def explained_above_shrinking(run: Run) -> Number:
    measurements = run.history.measurements
    begin = int(Series.of(run.history).shares.argmax())
    columns = []
    for before, after in (
        (measurements[begin].training, measurements[-1].training),
        (measurements[begin].held_out, measurements[-1].held_out),
    ):
        both = before.measured & after.measured
        growth = [losses(after)[both] - losses(before)[both] for losses in (lambda split: split.explained_loss, _shrunk_loss)]
        columns.append(torch.stack(growth))

    def difference(of_training: Tensor, of_held_out: Tensor) -> Tensor:
        explained, shrunk = of_held_out - of_training
        return shrunk - explained

    return estimate(difference, *columns)


def phases_in_order(run: Run) -> Number:
    detections = run.history.detections
    note = ", ".join(f"{phase.number} from epoch {phase.onset.epoch}" for phase in detections)
    return Number(float([phase.number for phase in detections] == [1, 2, 3]), note=note)


def loss_at_onset(run: Run) -> Number:
    onset = run.history.onset_epoch(3)
    if onset is None:
        return Number(math.inf, note="not detected")
    best = min(range(len(run.test_losses)), key=run.test_losses.__getitem__)
    end = run.test_losses[-1] / run.test_losses[best]
    return Number(run.test_losses[onset] / run.test_losses[best], note=f"epoch {onset}, best {best}; at the end {end:.2f}")


# Decay and spindle


def shape_fit(run: Run) -> Number:
    fits = [shape.r_squared for shape in _shapes(run)]
    strength = functional.strength_by_sign(run.history.measurements[-1].training.strength)
    generator = torch.Generator().manual_seed(0)
    by_chance = []
    for _ in range(SHUFFLES):
        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(strength.shape[1] - 1, generator=generator)])
        by_chance.append(functional.fit_decay_and_spindle(strength[:, order]).r_squared)
    return Number(median(fits), note=f"worst {min(fits):.2f}; with orders shuffled {median(by_chance):.2f}")


def imbalance_of_high_orders(run: Run) -> Number:
    return estimate(lambda means: _imbalance(means)[1], _positive_and_negative(run))


def imbalance_of_low_above_high(run: Run) -> Number:
    return estimate(lambda means: -_imbalance(means).diff(dim=0)[0], _positive_and_negative(run))


def decay_part_by_order(run: Run) -> Number:
    series = Series.of(run.history)
    shape = _shapes(run)[-1]
    total = shape.total.sum(dim=0)[1:]
    part = torch.where(total > 0, shape.decay.sum(dim=0)[1:] / total, 0.0)
    orders = _material_orders(series)
    columns = _by_order_at_end(series, orders)

    def agreement(means: Tensor) -> Tensor:
        real = share(*means.unflatten(0, (2, -1))).nan_to_num(0.0)
        return (real - part[orders, None]).abs().mean(dim=0)

    def agreement_of_constant(means: Tensor) -> Tensor:
        g, u = means.unflatten(0, (2, -1))
        return (share(g, u).nan_to_num(0.0) - share(g.sum(dim=0), u.sum(dim=0))).abs().mean(dim=0)

    found = estimate(lambda means: agreement_of_constant(means) - agreement(means), columns)
    means = columns.mean(dim=1, keepdim=True)
    return replace(found, note=f"decay {agreement(means).item():.2f}, constant {agreement_of_constant(means).item():.2f}")


def decay_share_over_epochs(run: Run) -> Number:
    g, u = (total[1:] for total in Series.of(run.history).totals)
    predicted = torch.tensor([shape.share for shape in _shapes(run)], dtype=torch.float64)[:, None]
    found = estimate(lambda means: rank_correlation(share(*means.unflatten(0, (2, -1))), predicted), torch.cat([g, u]))
    difference = (share(g.mean(dim=1), u.mean(dim=1)) - predicted[:, 0]).abs().mean()
    return replace(found, note=f"mean difference {difference:.2f}")


# Two phases


def fall_of_mean_order(run: Run) -> Number:
    return _change_of_mean_order(run, 0)


def rise_of_mean_order(run: Run) -> Number:
    return _change_of_mean_order(run, -1)


def gap_growth_in_second_phase(run: Run) -> Number:
    gaps, begin = _gaps(run), _lowest_mean_order(run)
    return Number(
        ((gaps[-1] - gaps[begin]) / (gaps[-1] - gaps[0])).item(), note=f"second phase from epoch {run.history.epochs[begin]}"
    )


def gap_with_mean_order(run: Run) -> Number:
    begin = _lowest_mean_order(run)
    times = len(run.history) - begin
    if times < FEWEST_TIMES:
        return Number(math.nan)
    by_order = Series.of(run.history).by_order[begin:]
    gaps = _gaps(run)[begin:, None]
    columns = by_order.transpose(1, 2).flatten(0, 1)
    return estimate(lambda means: rank_correlation(mean_order(means.unflatten(0, (times, -1)).transpose(0, 1)), gaps), columns)


def share_over_orders(run: Run) -> Number:
    series = Series.of(run.history)
    orders = _material_orders(series)
    numbers = orders.nonzero().double()
    return estimate(
        lambda means: rank_correlation(share(*means.unflatten(0, (2, -1))).nan_to_num(0.0), numbers),
        _by_order_at_end(series, orders),
    )


# Theory


@cache
def theory(run: Run) -> tuple[SecondPhase, History] | None:
    """Fit the theory to the second phase; ``None`` if that has too few measurements. Also return its part of the history."""
    second_phase, explained = analysis.explain_second_phase(run.history, run.final)
    return (second_phase, explained) if len(explained) >= FEWEST_TIMES else None


def theory_fit(run: Run) -> Number:
    fitted = theory(run)
    if fitted is None:
        return Number(math.nan)
    second_phase, explained = fitted
    r_squared, epochs = second_phase.r_squared, explained.epochs
    return Number(
        r_squared.median().item(), note=f"worst {r_squared.min():.2f} of {len(epochs)} from epoch {epochs[0]} to {epochs[-1]}"
    )


def theory_above_scaling(run: Run) -> Number:
    fitted = theory(run)
    if fitted is None:
        return Number(math.nan)
    second_phase, _ = fitted
    by_theory, by_scaling = second_phase.r_squared, _r_squared_of_scaling(run, second_phase.strength[:, 1:])
    return Number((by_theory - by_scaling).median().item(), note=f"scaling alone {by_scaling.median():.2f}")


def variance_over_epochs(run: Run) -> Number:
    fitted = theory(run)
    if fitted is None:
        return Number(math.nan)
    second_phase, explained = fitted
    variance = second_phase.variance
    correlation = rank_correlation(variance[:, None], torch.tensor(explained.epochs)[:, None])
    return Number(correlation.item(), note=f"from {variance[0]:.2g} to {variance[-1]:.2g}")


# Control


def share_above_chance_level(run: Run) -> Number:
    series = Series.of(run.history)
    g, u = (total[1:] for total in series.totals)

    def difference(means: Tensor) -> Tensor:
        g, u, chance = means.unflatten(0, (3, -1))
        return ((g - chance) / (g + u)).median(dim=0).values

    found = estimate(difference, torch.cat([g, u, series.chance[1:]]))
    return replace(found, note=f"share {share(g.mean(dim=1), u.mean(dim=1)).median():.2f}")


CLAIMS = (
    Claim(
        "untrained network: a spindle", THREE,
        "An untrained network has interactions of middle orders, as noise has.",
        "order of the largest salient strength before training", untrained_peak, 2.5, 7.5,
    ),
    Claim(
        "untrained network: weak", THREE,
        "They are weak.",
        "salient strength before training, as a part of its maximum", untrained_strength, below=0.1,
    ),
    Claim(
        "share rises at first", THREE,
        "At first mainly generalizable interactions are learned.",
        "share of generalizable strength at its peak minus before training", rise_of_share, 0,
    ),
    Claim(
        "share falls later", THREE,
        "In the end mainly non-generalizable interactions are learned.",
        "share at its peak minus at the end", fall_of_share, 0, applies=overfitted,
    ),
    Claim(
        "… above chance, too", THREE,
        "The fall is not one of the chance level.",
        "the same of (share - chance) / (1 - chance)", fall_of_share_above_chance, 0, applies=overfitted,
    ),
    Claim(
        "G decays over orders", THREE,
        "Generalizable interactions are mostly of low order.",
        "order of the largest generalizable strength at the end", peak_of_generalizable, below=2.5, applies=overfitted,
    ),
    Claim(
        "U is a spindle", THREE,
        "Non-generalizable interactions are mostly of middle orders.",
        "order of the largest non-generalizable strength at the end", peak_of_non_generalizable, 2.5, 7.5, overfitted,
    ),
    Claim(
        "U grows with the loss gap", THREE,
        "The strength of non-generalizable interactions grows when the gap of test and training loss does.",
        "rank correlation of both growths between measurements", growth_with_gap, 0, applies=overfitted,
    ),
    Claim(
        "… more than other numbers do", THREE,
        "It says more of the gap's growth than that of all salient strength, or the epochs that passed, do.",
        "that correlation minus the larger one of these two", growth_with_gap_above_others, 0, applies=overfitted,
    ),
    Claim(
        "… and per epoch, too", THREE,
        "It grows fast when the gap does, whatever time lies between measurements.",
        "rank correlation of both growths per epoch", speed_with_gap, 0, applies=overfitted,
    ),
    Claim(
        "without U no gap", THREE,
        "Without the non-generalizable interactions the growth of the gap disappears.",
        "explained part of the gap's growth from the share's peak to the end", explained_growth, 0.8, applies=overfitted,
    ),
    Claim(
        "… more than by shrinking", THREE,
        "Shrinking each score by its part of non-generalizable strength takes away less of the gap.",
        "gap that remains then minus gap that remains without U, growth in nats", explained_above_shrinking, 0,
        applies=overfitted,
    ),
    Claim(
        "phases 1, 2, 3 are detected", THREE,
        "There are three phases, one after the other.",
        "1 if they are detected in this order, none left out", phases_in_order, 0.5, applies=overfitted,
    ),
    Claim(
        "phase 3 near the best epoch", THREE,
        "The third phase begins where overfitting does.",
        "test loss at the onset of phase 3 over its smallest", loss_at_onset, below=1.1, applies=overfitted,
    ),
    Claim(
        "decay + spindle fits", SHAPES,
        "Strength over orders is a decay of each sign's own and a spindle that both share.",
        "R² over signs and orders, median over measurements", shape_fit, 0.9,
    ),
    Claim(
        "high orders cancel", SHAPES,
        "Interactions in the spindle are as often positive as negative.",
        "Σ|P - N| / Σ(P + N) of orders from 4 on at the end", imbalance_of_high_orders, below=0.15,
    ),
    Claim(
        "… low orders do not", SHAPES,
        "Interactions of low order cancel less.",
        "the same of orders 1 and 2 minus that of orders from 4 on", imbalance_of_low_above_high, 0,
    ),
    Claim(
        "decay's part ≈ share by order", SHAPES,
        "At each order the decay is the part that generalizes.",
        "mean absolute error of a constant share minus that of the decay's part, at the end", decay_part_by_order, 0,
    ),
    Claim(
        "decay's part ≈ share by epoch", SHAPES,
        "Over the epochs, too, the decay is the part that generalizes.",
        "rank correlation of the decay's part and the share over trained measurements", decay_share_over_epochs, 0,
    ),
    Claim(
        "mean order falls at first", TWO,
        "At first interactions of middle and high order go away.",
        "mean order before training minus at its minimum", fall_of_mean_order, 0,
    ),
    Claim(
        "… then rises", TWO,
        "Then interactions of ever higher order are learned.",
        "mean order at the end minus at its minimum", rise_of_mean_order, 0,
    ),
    Claim(
        "the gap grows in the rise", TWO,
        "The loss gap grows in the second phase, and hardly before.",
        "part of the gap's growth after the minimum of mean order", gap_growth_in_second_phase, 0.8, applies=overfitted,
    ),
    Claim(
        "… and with the mean order", TWO,
        "In the second phase it grows with the mean order.",
        "rank correlation of gap and mean order from the minimum on", gap_with_mean_order, 0, applies=overfitted,
    ),
    Claim(
        "high orders generalize less", TWO,
        "The higher the order, the less generalizes.",
        "rank correlation of share and order at the end", share_over_orders, below=0,
    ),
    Claim(
        "theory fits", THEORY,
        "Learning under parameter noise predicts strength by order in the second phase.",
        "R² over orders, median over the second phase's measurements", theory_fit, 0.8,
    ),
    Claim(
        "… better than scaling", THEORY,
        "It predicts more than that all orders grow alike.",
        "R² minus that of the final strength times one factor, median", theory_above_scaling, 0,
    ),
    Claim(
        "noise variance falls", THEORY,
        "The second phase is one of falling noise.",
        "rank correlation of the fitted variance with the epoch", variance_over_epochs, below=-0.8,
    ),
    Claim(
        "random labels: share at chance", CONTROL,
        "Where labels are random, nothing generalizes.",
        "share minus chance level, median over trained measurements", share_above_chance_level, -0.05, 0.05,
        lambda run: run.setting.random_labels,
    ),
)  # fmt: skip


def _gaps(run: Run) -> Tensor:
    """Test minus training loss on all data at each measurement, nats."""
    return torch.tensor(
        [run.test_losses[epoch] - run.training_losses[epoch] for epoch in run.history.epochs], dtype=torch.float64
    )


def _steps(run: Run) -> Tensor:
    """Epochs from each measurement to the next, ``[times - 1, 1]``."""
    return torch.tensor(run.history.epochs, dtype=torch.float64).diff()[:, None]


def _share_peak(run: Run) -> int:
    """The measurement with the largest share on held-out probes."""
    return int(Series.of(run.history, held_out=True).shares.argmax())


def _lowest_mean_order(run: Run) -> int:
    """The measurement with the lowest mean order on held-out probes."""
    return int(Series.of(run.history, held_out=True).mean_orders.argmin())


def _change_of_share(run: Run, begin: int, end: int) -> Number:
    g, u = Series.of(run.history).totals
    columns = torch.stack([part[time] for time in (begin, end) for part in (g, u)])
    found = estimate(lambda means: share(means[2], means[3]) - share(means[0], means[1]), columns)
    return replace(found, note=f"peak at epoch {run.history.epochs[end]}")


def _change_of_mean_order(run: Run, time: int) -> Number:
    by_order, lowest = Series.of(run.history).by_order, _lowest_mean_order(run)
    columns = torch.cat([by_order[time], by_order[lowest]], dim=1).T

    def change(means: Tensor) -> Tensor:
        there, lowest = means.unflatten(0, (2, -1))
        return mean_order(there) - mean_order(lowest)

    return replace(estimate(change, columns), note=f"minimum at epoch {run.history.epochs[lowest]}")


def _shapes(run: Run) -> list[DecaySpindle]:
    """Decay and spindle of every measurement but the first, which is of the untrained network."""
    shapes = [analysis.shape_of(measurement) for measurement in run.history.measurements[1:]]
    return [shape for shape in shapes if shape is not None]


def _shrunk_loss(split: SplitMeasurement) -> Tensor:
    """Cross-entropy of scores that are shrunk towards ``v(∅)`` by their part of non-generalizable strength."""
    g, u, rest = (
        functional.total_strength(part)
        for part in (split.strength.generalizable, split.strength.non_generalizable, split.strength.non_salient)
    )
    kept = 1 - (u / (g + u + rest)).nan_to_num(0.0)
    return softplus(-(split.empty_score + kept * (split.full_score - split.empty_score)))


def _positive_and_negative(run: Run) -> Tensor:
    """Salient strength at the end, ``[signs * orders, inputs]``."""
    series = Series.of(run.history)
    return (series.generalizable + series.non_generalizable)[-1].flatten(1).T


def _imbalance(means: Tensor) -> Tensor:
    """``Σ|P - N| / Σ(P + N)`` of orders 1 and 2, and from 4 on, ``[2, resamples]``."""
    positive, negative = means.unflatten(0, (2, -1))
    difference, total = (positive - negative).abs(), positive + negative
    return torch.stack([difference[orders].sum(dim=0) / total[orders].sum(dim=0) for orders in (slice(2), slice(3, None))])


def _material_orders(series: Series) -> Tensor:
    by_order = series.by_order[-1].mean(dim=0)
    return by_order > MATERIAL_STRENGTH * by_order.sum()


def _by_order_at_end(series: Series, orders: Tensor) -> Tensor:
    """Generalizable, then non-generalizable strength of some orders at the end, ``[2 * orders, inputs]``."""
    return torch.cat([part[-1].sum(dim=1)[:, orders].T for part in (series.generalizable, series.non_generalizable)])


def _r_squared_of_scaling(run: Run, strength: Tensor) -> Tensor:
    """How well the final strength by order, times the best factor, fits strengths ``[times, orders]``."""
    inputs = run.final.offset.isfinite()
    everything = torch.ones_like(run.final.effects)
    final = functional.strength_by_order(run.final, everything.bool(), everything).generalizable
    final = final[inputs].double().mean(dim=0).sum(dim=(0, 1))[1:]
    factor = (strength @ final) / final.square().sum()
    residual = strength - factor[:, None] * final
    variation = strength - strength.mean(dim=1, keepdim=True)
    return 1 - residual.square().sum(dim=1) / variation.square().sum(dim=1)
