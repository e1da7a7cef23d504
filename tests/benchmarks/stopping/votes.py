"""Why one vote is as good as many: what some of a run's raters, and some of their votes, make of it.

More raters find more of what generalizes, and more by chance; more votes find less of both. What counts is what is left above
chance, and whether phase 3 is found where the test loss turns.
"""

from collections.abc import Sequence

import numpy as np
from own_past import judged, salient_effects
from rules import Record, at_onset, ends_high
from runs import Run
from scipy import stats
from tabulate import tabulate

from lightning_interactions import History
from lightning_interactions.analysis import detect_phases, summarise
from lightning_interactions.functional.generalization import RaterVotes, weights_from_votes
from lightning_interactions.records import Interactions, Measurement

__all__ = ["MANY", "VOTES", "of_votes", "print_votes"]

MANY = "six models a half, two votes"
VOTES = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (6, 1), (6, 2), (6, 4), (6, 6))
"""Numbers of raters, and of votes that an interaction needs."""


def of_votes(run: Run, raters: int, votes: int, kind: str = MANY) -> History:
    """Judge a run by the first of its raters: the history with the phases that are detected then.

    Args:
        run: The run.
        raters: How many of the raters of each input are asked.
        votes: How many of them must share an interaction.
        kind: The evidence whose raters they are.
    """
    said = run.ratings[kind]["training"]

    def some(signs: object) -> RaterVotes:
        return RaterVotes(signs[:raters], said["finite"])

    own, by_chance = some(said["signs"]), [some(signs) for signs in said["by_chance"]]
    found = []
    for effects, measurement in zip(salient_effects(run), run.histories[kind].measurements, strict=True):
        interactions = Interactions(effects, effects.new_zeros(len(effects)))
        weights = weights_from_votes(interactions, own, min_votes=votes, by_chance=by_chance)
        training = judged(measurement.training, effects.double(), weights.weights, weights.chance_weights, said["score"])
        found.append(Measurement(measurement.time, 0.0, training, None, measurement.is_early))
    return History(tuple(found), detect_phases(found))


def print_votes(records: Sequence[Record]) -> None:
    """One row for each number of raters and votes, over the runs that have so many raters."""
    runs = [record.run for record in records if MANY in record.run.ratings]
    rows = []
    for raters, votes in VOTES if runs else ():
        shares, chances, follows, regrets, detected = [], [], [], [], []
        for run in runs:
            history, losses = of_votes(run, raters, votes), run.curves["test_loss"]
            summaries = [summarise(measurement).training for measurement in history.measurements[1:]]
            shares.append(np.mean([one.share.value for one in summaries]))
            chances.append(np.mean([one.share_chance.value for one in summaries]))
            follows.append(stats.spearmanr([one.expected_test_loss.value for one in summaries], losses).statistic)
            stop = at_onset(history)
            regrets.append(losses[stop.kept - 1] / min(losses) - 1)
            if ends_high(run):
                detected.append(stop.stopped is not None)
        middle = [float(np.median(column)) for column in (shares, chances, np.subtract(shares, chances), follows, regrets)]
        rows.append([raters, votes, len(runs), *middle, max(regrets), f"{sum(detected)} of {len(detected)}"])
    headers = [
        "raters", "votes", "runs", "share", "chance", "above chance", "expected test loss follows", "regret: median", "worst",
        "detected of ≥ 25 %",
    ]  # fmt: skip
    if rows:
        print("\nRaters and votes, medians over runs\n" + tabulate(rows, headers, floatfmt=".3f"))
