"""Tables of the benchmark: what every rule gives, pairs of rules on the same runs, detections, and the numbers to reach."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rules import (
    ALONE,
    HELD_OUT,
    LAST_ACCURACY_POINT,
    ORACLE,
    Outcome,
    Record,
    Rule,
    delay,
    ends_high,
    history_of,
    late,
    outcome,
    premature,
    rises,
)
from runs import TWINS_HELD_OUT
from scipy import stats
from tabulate import tabulate

from lightning_interactions.analysis import summarise

__all__ = [
    "Results", "checks", "groups_of", "median_with_interval", "print_checks", "print_clean", "print_detections",
    "print_following", "print_null", "print_pairs", "print_rules", "rate_with_interval",
]  # fmt: skip

CONFIDENCE = 0.95
RESAMPLES = 2000
CHEAP = 2.0
"""Rivals that take at most so many trainings."""

HEADERS = (
    "rule", "labels", "runs", "loss regret: median", "90 %", "worst", "accuracy regret: median", "worst", "epochs",
    "epoch error", "stopped of ≥ 25 %", "false stops", "compute", "of it training",
)  # fmt: skip

MOST_LATE = 2
"""Measurements between online and offline onset, at most."""

Interval = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Results:
    """What every rule makes of every record.

    Attributes:
        records: Runs with their rivals' trainings.
        rules: By the name in the tables.
        outcomes: Of each rule one for each record, ``None`` where it was not recorded.
    """

    records: Sequence[Record]
    rules: Mapping[str, Rule]
    outcomes: Mapping[str, Sequence[Outcome | None]]

    @classmethod
    def of(cls, records: Sequence[Record], rules: Mapping[str, Rule]) -> "Results":
        """Apply rules, and leave those out that no record is known enough for."""
        outcomes = {name: [outcome(rule, record) for record in records] for name, rule in rules.items()}
        outcomes = {name: own for name, own in outcomes.items() if any(one is not None for one in own)}
        return cls(records, {name: rules[name] for name in outcomes}, outcomes)

    def where(self, wanted: Sequence[bool]) -> "Results":
        """Keep some of the records, by mask."""
        kept = [place for place, one in enumerate(wanted) if one]
        outcomes = {name: [own[place] for place in kept] for name, own in self.outcomes.items()}
        return Results([self.records[place] for place in kept], self.rules, outcomes)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def noisy(self) -> "Results":
        return self.where([record.run.setting.is_noisy for record in self.records])

    @property
    def clean(self) -> "Results":
        return self.where([record.run.setting.is_clean for record in self.records])

    def of_rule(self, name: str) -> list[tuple[Record, Outcome]]:
        """List the records where a rule could be applied, with what it made of them."""
        outcomes = self.outcomes.get(name, [None] * len(self))
        return [(record, own) for record, own in zip(self.records, outcomes, strict=True) if own is not None]

    def pairs(self, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss regrets of two rules on the runs where both could be applied."""
        both = [
            (one.loss, two.loss)
            for one, two in zip(*(self.outcomes.get(rule, [None] * len(self)) for rule in (name, other)), strict=True)
            if one is not None and two is not None
        ]
        return tuple(np.array(both, dtype=float).reshape(-1, 2).T)


def median_with_interval(numbers: Sequence[float]) -> Interval:
    """Return a median and its bootstrap interval over runs; NaN if there are none."""
    sample = np.asarray(numbers, dtype=float)
    if not len(sample):
        return math.nan, math.nan, math.nan
    middle = float(np.median(sample))
    if len(sample) < 2:
        return middle, math.nan, math.nan
    found = stats.bootstrap(
        (sample,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = found.confidence_interval
    return middle, float(interval.low), float(interval.high)


def rate_with_interval(count: int, total: int) -> Interval:
    """Return a rate and its Clopper-Pearson interval; NaN if there are no trials."""
    if not total:
        return math.nan, math.nan, math.nan
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return count / total, float(interval.low), float(interval.high)


def print_rules(title: str, results: Results) -> None:
    """One row a rule: medians and worst cases over the runs where it could be applied."""
    rows = []
    for name in results.outcomes:
        found = results.of_rule(name)
        if not found:
            continue
        outcomes = [one for _, one in found]
        stopped = [one.stop.stopped is not None for one in outcomes]
        high, steady = [ends_high(record.run) for record, _ in found], [not rises(record.run) for record, _ in found]
        losses, accuracies = [one.loss for one in outcomes], [one.accuracy for one in outcomes]
        rows.append(
            [
                name, "held-out" if results.rules[name].held_out else "none more", len(found), np.median(losses),
                _ninety(losses), max(losses), np.median(accuracies), max(accuracies),
                np.median([one.epochs for one in outcomes]),
                f"{np.median([one.epoch_error for one in outcomes]):+.0f}", _of(stopped, high), _of(stopped, steady),
                np.median([one.compute for one in outcomes]), np.median([one.trainings for one in outcomes]),
            ]
        )  # fmt: skip
    if rows:
        print(f"\n{title} ({len(results)} runs)\n" + tabulate(rows, HEADERS, floatfmt=".3f"))


def print_pairs(title: str, results: Results, own: str) -> None:
    """Our regret against that of every other rule, on the runs that both were applied to."""
    rows = []
    for name in results.outcomes:
        if name in (own, ORACLE):
            continue
        ours, theirs = results.pairs(own, name)
        if not len(ours):
            continue
        difference, low, high = median_with_interval(ours - theirs)
        compute = np.median([one.compute for _, one in results.of_rule(name)])
        counts = "/".join(str(int(which.sum())) for which in (ours < theirs, ours == theirs, ours > theirs))
        interval = f"{low:+.3f} to {high:+.3f}"
        rows.append([name, len(ours), np.median(ours), np.median(theirs), difference, interval, counts, compute])
    headers = ["other rule", "runs", "our median", "its median", "paired difference", "95 %", "better/equal/worse", "compute"]
    if rows:
        print(f"\n{title}: {own}, loss regret, on the same runs\n" + tabulate(rows, headers, floatfmt=".3f"))


def print_detections(title: str, results: Results) -> None:
    """For each kind of evidence: what is detected, when, and what is detected without need."""
    rows = []
    for name in (name for name, rule in results.rules.items() if rule.kind is not None and "best" not in name):
        found = results.of_rule(name)
        if not found:
            continue
        high = [one.stop.stopped is not None for record, one in found if ends_high(record.run)]
        steady = [one.stop.stopped is not None for record, one in found if not rises(record.run)]
        early = sum(premature(record.run, one.stop) for record, one in found)
        delays, _ = _delays(name, results)
        after_best = [one.stop.stopped - (one.stop.kept - one.epoch_error) for _, one in found if one.stop.stopped is not None]
        _, low, upper = rate_with_interval(sum(steady), len(steady))
        rows.append(
            [
                name, len(found), f"{sum(high)} of {len(high)}", _or_nan(np.median, delays), _or_nan(_ninety, delays),
                _or_nan(np.median, after_best), _or_nan(_ninety, after_best), early,
                f"{sum(steady)} of {len(steady)} ({low:.2f} to {upper:.2f})",
            ]
        )  # fmt: skip
    headers = [
        "rule", "runs", "detected of ≥ 25 %", "after onset: median", "90 %", "after best epoch: median", "90 %",
        "before any rise", "detected, never 5 % up (95 %)",
    ]  # fmt: skip
    if rows:
        print(f"\n{title}: detections of phase 3, in measurements\n" + tabulate(rows, headers, floatfmt=".1f"))


def print_clean(results: Results) -> None:
    """What a stop costs where the labels are right."""
    rows = []
    for name in results.outcomes:
        found = results.of_rule(name)
        lost = [_lost(record, one) for record, one in found if one.stop.stopped is not None]
        if lost:
            over = sum(one > LAST_ACCURACY_POINT for one in lost)
            rows.append([name, f"{len(lost)} of {len(found)}", np.median(lost), max(lost), over])
    headers = ["rule", "stops", "accuracy lost against the end: median", "worst", "more than 1 point"]
    if rows:
        print(f"\nClean labels ({len(results)} runs): accuracy lost by a stop\n" + tabulate(rows, headers, floatfmt=".3f"))


def print_null(records: Sequence[Record]) -> None:
    """Share and chance level where nothing can be learned."""
    rows = []
    for run in (record.run for record in records):
        for kind, history in run.histories.items():
            summaries = [summarise(measurement).training for measurement in history.measurements[1:]]
            shares, chances = ([getattr(one, name).value for one in summaries] for name in ("share", "share_chance"))
            above = np.median(np.subtract(shares, chances))
            setting = run.setting
            rows.append(
                [setting.task, setting.architecture, kind, np.mean(shares), np.mean(chances), above, history.onset_epoch(3)]
            )
    if rows:
        headers = ["task", "network", "evidence", "share", "chance", "difference (median)", "phase 3"]
        print("\nNull runs, all labels random\n" + tabulate(rows, headers, floatfmt=".3f", missingval="-"))


def print_following(records: Sequence[Record]) -> None:
    """How well the expected test loss follows the test loss over epochs."""
    kinds = dict.fromkeys(kind for record in records for kind in record.run.histories if kind != TWINS_HELD_OUT)
    rows = []
    for kind in kinds:
        found = []
        for run in (record.run for record in records if kind in record.run.histories):
            summaries = [summarise(one).training for one in run.histories[kind].measurements[1:]]
            curves = ([getattr(one, name).value for one in summaries] for name in ("expected_test_loss", "loss"))
            found.append([stats.spearmanr(curve, run.curves["test_loss"]).statistic for curve in curves])
        rows.append([kind, len(found), *np.median(found, axis=0), *np.min(found, axis=0)])
    headers = ["evidence", "runs", "expected test loss: median", "training loss: median", "expected: worst", "training: worst"]
    if rows:
        print("\nRank correlation with the test loss, training probes, label noise\n" + tabulate(rows, headers, floatfmt=".2f"))


def checks(results: Results) -> list[tuple[str, str, bool]]:
    """What is asked, what was found, and whether it is met."""
    noisy, clean = results.noisy, results.clean
    found = []
    for name in (ALONE, HELD_OUT):
        high = [one.stop.stopped is not None for record, one in noisy.of_rule(name) if ends_high(record.run)]
        rate, low, upper = rate_with_interval(sum(high), len(high))
        said = f"{sum(high)} of {len(high)} ({low:.2f} to {upper:.2f})"
        found.append((f"{name}: detected in 95 % of the noisy runs whose test loss ends 25 % up", said, rate >= 0.95))
        _, delays = _delays(name, noisy)
        middle, ninety = _or_nan(np.median, delays), _or_nan(_ninety, delays)
        found.append((f"{name}: detected 8 measurements after the onset, median", f"{middle:.0f}", middle <= 8))
        found.append(("… 15 in 90 %", f"{ninety:.0f}", ninety <= 15))
        apart = late([record.run.histories[results.rules[name].kind or ""] for record, _ in noisy.of_rule(name)])
        near = sum(abs(one) <= MOST_LATE for one in apart)
        asked = f"{name}: online onset within 2 measurements of the offline change point in 80 %"
        found.append((asked, f"{near} of {len(apart)}", near >= 0.8 * len(apart)))
        losses = [one.loss for _, one in noisy.of_rule(name)]
        middle, ninety = _or_nan(np.median, losses), _or_nan(_ninety, losses)
        found.append((f"{name}: regret of noisy runs, median at most 3 %", f"{middle:.3f}", middle <= 0.03))
        found.append(("… 90 % at most 8 %", f"{ninety:.3f}", ninety <= 0.08))
        lost = [_lost(record, one) for record, one in clean.of_rule(name) if one.stop.stopped is not None]
        worst = max(lost, default=0.0)
        said = f"{len(lost)} stops, worst {worst:.3f}"
        found.append((f"{name}: clean runs lose at most 1 point of accuracy", said, worst <= LAST_ACCURACY_POINT))
    fits = [record.run.seconds["twin losses before"] / record.run.seconds["training"] for record in noisy.records]
    middle = _or_nan(np.median, fits)
    found.append(("twins: their training takes at most half a training, median", f"{middle:.2f}", middle <= 0.5))
    for name in _rivals(noisy):
        ours, theirs = noisy.pairs(ALONE, name)
        difference, low, upper = median_with_interval(ours - theirs)
        said = f"{difference:+.3f} ({low:+.3f} to {upper:+.3f}), {len(ours)} runs"
        found.append((f"{ALONE}: regret below that of {name}, median of pairs", said, difference < 0))
    ours, theirs = noisy.pairs(HELD_OUT, "validation loss, patience 5")
    both = (_or_nan(np.median, one) for one in (ours, theirs))
    above, worst = np.subtract(*both), float(np.max(ours, initial=0))
    asked = f"{HELD_OUT}: median at most 0.5 % above patience 5 on all held-out data"
    found.append((asked, f"{above:+.3f}", bool(above <= 0.005)))
    found.append(("… worst at most 10 %", f"{worst:.3f}", worst <= 0.1))
    ours, theirs = noisy.pairs(HELD_OUT, "loss of the held-out probes, patience 5")
    above = np.subtract(*(_or_nan(np.median, one) for one in (ours, theirs)))
    found.append(("… median at most 0.5 % above patience 5 on the same probes", f"{above:+.3f}", bool(above <= 0.005)))
    return found


def print_checks(found: Sequence[tuple[str, str, bool]]) -> None:
    print("\n" + tabulate([[what, value, "yes" if met else "no"] for what, value, met in found], ["asked", "found", "met"]))


def _rivals(results: Results) -> list[str]:
    """List the rules without a held-out label that take at most two trainings, and cross-validation in 5 folds."""
    names = []
    for name, rule in results.rules.items():
        computes = [one.compute for _, one in results.of_rule(name)]
        cheap = bool(computes) and (np.median(computes) <= CHEAP or "5 folds" in name)
        if cheap and not rule.held_out and rule.kind is None and name != "never" and "expected test loss" not in name:
            names.append(name)
    return names


def _delays(name: str, results: Results) -> tuple[list[int], list[int]]:
    """List by how many measurements detections lie after their onset: all, and of runs whose test loss ends 25 % up."""
    kind = results.rules[name].kind if name in results.rules else None
    every, high = [], []
    for record, _ in results.of_rule(name):
        history = None if kind is None else history_of(record.run, kind)
        own = None if history is None else delay(history)
        if own is not None:
            every.append(own)
            if ends_high(record.run):
                high.append(own)
    return every, high


def _lost(record: Record, one: Outcome) -> float:
    """Accuracy at the end of the run minus that of the returned weights."""
    accuracies = record.run.curves["test_accuracy"]
    return accuracies[-1] - (max(accuracies) - one.accuracy)


def _of(stopped: Sequence[bool], wanted: Sequence[bool]) -> str:
    return f"{sum(one and other for one, other in zip(stopped, wanted, strict=True))} of {sum(wanted)}"


def _ninety(numbers: Sequence[float]) -> float:
    return float(np.quantile(numbers, 0.9))


def _or_nan(function: Any, numbers: Sequence[float]) -> float:
    return float(function(numbers)) if len(numbers) else math.nan


def groups_of(results: Results) -> dict[str, Results]:
    """Part the noisy runs by noise and by condition."""
    settings = [record.run.setting for record in results.records]
    wanted = {f"{100 * noise:.0f} % noise": [one.noise == noise for one in settings] for noise in (0.1, 0.2, 0.4)}
    wanted["natural noise"] = [one.is_noisy and not one.noise for one in settings]
    for name in dict.fromkeys(one.condition for one in settings):
        wanted[f"noisy, condition: {name}"] = [one.condition == name and one.is_noisy for one in settings]
    return {title: results.where(own) for title, own in wanted.items() if any(own)}
