"""The changes that end one phase and begin the next: where each would have begun, and how far it is shown."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lightning_interactions.analysis.phases.sign_flips import JointSignTest
from lightning_interactions.analysis.phases.signals import PhaseSignals

__all__ = ["Change", "first_changes", "next_changes"]

RECENT = 3
"""A change is one from the median of so many measurements around the onset to that of the last ones, so that no single one
suffices."""

MAINLY = 1.5
"""How many times the generalizable gain the other one must be, three fifths of both, to be what is mainly learned. On clean
labels both grow alike, and what other models share is never all that generalizes. Chosen on digits and breast cancer, where 1
cost up to 9 points of accuracy on clean labels, and 2 missed a run with noisy ones.
"""

MATERIAL_GROWTH = 0.05
"""Growth of salient strength since the onset, as a fraction, under which nothing is said to be learned."""

MATERIAL_RISE = 0.02
"""Rise of the expected cost since its minimum, as a fraction, under which it is not said to rise; the fall for a return; and
the improvement on a minimum that has stood for :data:`STANDING` measurements, under which it stays the minimum."""

STANDING = 5
"""Measurements without a lower cost, after which a minimum is left for a material improvement only."""

ACCIDENT = 0.25
"""A single measurement that is better than those beside it by more than this part of them is taken for an accident."""

CLEAR_RISE = 0.25
"""Rise of the expected test loss as it is, with over-confidence, at which it is no reason to go on that at the best temperature
it stands still."""

LEAST_KNOWN = 0.02
"""Less than this fraction of the expected cost is no room that it could rise by."""

PART_OF_SHARE, PART_OF_GAINS = 0.25, 0.75
"""Parts of ``α`` for the fall of the share, and for gains of one kind of strength or the other."""

LEVELS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Adjusted p-values are rounded up to one of these, or to ``α``; above the last to 1."""


Column = NDArray[np.float64]


@dataclass(frozen=True)
class Trend:
    """Signals of a run, with their changes between any two measurements and the tests of these.

    Attributes:
        signals: What the phases are told from, by name, at single measurements.
        medians: The same, of every :data:`RECENT` measurements in a row.
        most_cost: What an input costs of whose target nothing is known.
        loss_known: Whether the cost is a loss.
        last_early: Index of the first measurement at which phase 3 may begin; see :class:`PhaseSignals`.
        levels: Values of ``α``, from small to large.
        falls_of_share: Test of the share of each probe, which falls.
        gains: Test of whether what each probe has gained is mainly non-generalizable.
    """

    signals: Mapping[str, Column]
    medians: Mapping[str, Column]
    most_cost: float
    loss_known: bool
    last_early: int
    levels: tuple[float, ...]
    falls_of_share: JointSignTest
    gains: JointSignTest

    @classmethod
    def of(cls, signals: PhaseSignals, alpha: float) -> "Trend":
        """Prepare the tests at these levels and at ``alpha``."""
        medians = signals.medians(RECENT)
        levels = tuple(sorted({*LEVELS, alpha}))
        share, net = -medians.share, medians.non_generalizable - MAINLY * medians.generalizable
        return cls(
            _columns(signals),
            _columns(medians),
            signals.most_cost,
            signals.loss_known,
            signals.last_early,
            levels,
            JointSignTest(share, [PART_OF_SHARE * level for level in levels], two_sided=False),
            JointSignTest(net, [PART_OF_GAINS * level for level in levels], two_sided=True),
        )

    def ends(self, name: str, onset: int, look: int) -> tuple[Column, Column]:
        """Return a signal around an onset and at the last measurements up to a look."""
        column = self.medians[name]
        return column[around(onset)], column[look - RECENT + 1]


def _columns(signals: PhaseSignals) -> dict[str, Column]:
    """Return the signals as arrays with a row for each time, on which small steps are fast."""
    columns = {name: column for name, column in vars(signals).items() if isinstance(column, Tensor)}
    return {name: (column if column.ndim == 2 else column[:, None]).numpy() for name, column in columns.items()}


def around(onset: int) -> int:
    """Place among the medians of the one around an onset."""
    return max(0, onset - RECENT // 2)


def first_changes(trend: Trend) -> "dict[int, Change]":
    """List the changes to follow in phase 1, by the phase that they begin."""
    return {2: _FallOfShare(trend), 3: _NonGeneralizableGain(trend)}


def next_changes(changes: "dict[int, Change]", number: int, look: int) -> "dict[int, Change]":
    """List the changes to follow after one was detected.

    Args:
        changes: The changes that were followed, by the phase that they begin.
        number: The one that was detected. It stays, with its beginning as it is.
        look: Index of the measurement at which it was detected.
    """
    detected, third = changes[number], changes[3]
    detected.fixed = True
    if number == 3:
        return {2: _GeneralizableGain(detected.trend, look), 3: detected}
    if third.fixed:
        third = _NonGeneralizableGain(detected.trend, look)
    return {2: detected, 3: third}


class Change(ABC):
    """A change that may come: where it would have begun, and how far the measurements since then speak for it.

    Args:
        trend: The run.
        since: Index of the first measurement at which it may begin.

    Attributes:
        since: Index of the measurement at which it would have begun: the last one, or where it was at the last look.
        fixed: Whether it was detected, so that its beginning no longer moves.
        findings: The numbers that were found at the last look; none if too little was measured since the beginning.
        possible: Whether so many probes could have shown it at any of the last looks.
    """

    direction: int

    def __init__(self, trend: Trend, since: int = 0) -> None:
        self.trend = trend
        self.since = since
        self.fixed = False
        self.findings: Mapping[str, float] = {}
        self.possible = True
        self._crossed = np.zeros(len(trend.levels), dtype=bool)

    def look(self, look: int, alpha: float) -> float:
        """Return the adjusted p-value: the smallest ``α`` of the whole run at which the change would be detected now.

        The significance may come from any look since the beginning; all else must hold now.
        """
        if look >= RECENT:
            self.possible = bool(self.test.can_be_crossed[look - RECENT + 1, self.trend.levels.index(alpha)])
        if not self.fixed and self.begins_anew(look):
            self.since, self.findings = look, {}
            self._crossed = np.zeros_like(self._crossed)
            return math.inf
        if look - self.since < RECENT:
            return math.inf
        statistic = self.direction * self.test.statistic(around(self.since), look - RECENT + 1)
        self._crossed = self._crossed | self.test.crossed(statistic, look - RECENT + 1)
        holds, self.findings = self.compare(look)
        return self._p_value() if holds else math.inf

    def is_best(self, name: str, look: int, sign: int, margin: float = 0.0) -> bool:
        """Whether a signal is, at the newest measurement, at least as good as where the change would have begun.

        Single measurements are compared: what makes a network better or worse than those of the epochs beside it is the same
        on the probes and on new data, and medians of three or five had more regret on digits and breast cancer. Only one that
        is far better than those beside it is an accident, which need not be reached again.

        Args:
            name: The signal; its mean over the probes counts.
            look: Index of the newest measurement.
            sign: 1 if small is good, -1 if large is.
            margin: By which part of itself it must be better.
        """
        single = self.trend.signals[name]
        if not np.isfinite(single[self.since]).any():
            return True
        befores = [single[self.since] - sign * margin * np.abs(single[self.since])]
        if look >= RECENT and look > self.since + 1:
            beside = self.trend.medians[name][around(self.since)]
            befores.append(beside - sign * ACCIDENT * np.abs(beside))
        return any(sign * _mean(single[look] - before) <= 0 for before in befores)

    def interval(self, look: int) -> tuple[int, int]:
        """Measurements around the onset up to a look, as far as none is worse than it on the probes at a level of 5 %."""
        worse = self.worse - self.worse[around(self.since)]
        apart = [time for time in range(look) if _rises(worse[around(time)])]
        earliest = max((time + 1 for time in apart if time < self.since), default=0)
        return earliest, min((time - 1 for time in apart if time > self.since), default=look)

    def _p_value(self) -> float:
        """The smallest level at which, and at all larger ones, a boundary was crossed."""
        p_value = 1.0
        for level, crossed in zip(reversed(self.trend.levels), reversed(self._crossed.tolist()), strict=True):
            if not crossed:
                break
            p_value = level
        return p_value

    @property
    @abstractmethod
    def worse(self) -> Column:
        """What is smallest at the beginning, among the medians."""

    @property
    @abstractmethod
    def test(self) -> JointSignTest:
        """The test that it must pass, where ``direction`` times its statistic is large."""

    @abstractmethod
    def begins_anew(self, look: int) -> bool:
        """Say whether the change can only begin at this measurement or later."""

    @abstractmethod
    def compare(self, look: int) -> tuple[bool, dict[str, float]]:
        """Compare the last measurements with the beginning: whether all other conditions hold, and the numbers found."""


class _FallOfShare(Change):
    """The share of generalizable strength falls from its maximum: phase 2 begins."""

    direction = 1

    @property
    def test(self) -> JointSignTest:
        return self.trend.falls_of_share

    @property
    def worse(self) -> Column:
        return -self.trend.medians["share"]

    def begins_anew(self, look: int) -> bool:
        return self.is_best("pooled_share", look, -1)

    def compare(self, look: int) -> tuple[bool, dict[str, float]]:
        before, after = (_mean(end) for end in self.trend.ends("pooled_share", self.since, look))
        of_each = self.trend.ends("share", self.since, look)
        falls = of_each[0] - of_each[1]
        findings = {
            "share_before": before,
            "share_after": after,
            "more": float((falls > 0).sum()),
            "probes": float(np.isfinite(falls).sum()),
        }
        return after < before, findings


class _GainOfOneKind(Change):
    """The strength gained is mostly of one kind."""

    @property
    def test(self) -> JointSignTest:
        return self.trend.gains

    def compare(self, look: int) -> tuple[bool, dict[str, float]]:
        ends = [self.trend.ends(name, self.since, look) for name in ("generalizable", "non_generalizable")]
        gains = [after - before for before, after in ends]
        measured = np.isfinite(gains[0] + gains[1])
        generalizable, non_generalizable = (_mean(gain[measured]) for gain in gains)
        findings = {
            "generalizable": generalizable,
            "non_generalizable": non_generalizable,
            "more": float((gains[1] > MAINLY * gains[0]).sum()),
            "probes": float(measured.sum()),
        }
        strength = _mean(ends[0][0] + ends[1][0])
        base, end = self._means("cost", look)
        # Where little is known, a cost near its largest has little room to rise.
        room = max(min(abs(base), self.trend.most_cost - base), LEAST_KNOWN * abs(base)) if self.trend.loss_known else strength
        rise = (end - base) / room if room else math.nan
        plain_rise = math.nan
        if self.trend.loss_known:
            findings |= {"loss_before": base, "loss_after": end}
            plain_base, plain_end = self._means("plain_cost", look)
            plain_rise = (plain_end - plain_base) / abs(plain_base) if plain_base else math.nan
            findings |= {"plain_loss_before": plain_base, "plain_loss_after": plain_end}
        gap_before, gap_after = self.trend.ends("excess_gap", self.since, look)
        if not math.isnan(gap_rise := _mean(gap_after - gap_before)):
            findings["excess_gap"] = gap_rise
        return self.holds(generalizable, non_generalizable, strength, rise, plain_rise), findings

    def _means(self, name: str, look: int) -> tuple[float, float]:
        """Means of a signal around the beginning and at the last measurements, over inputs that both have."""
        before, after = self.trend.ends(name, self.since, look)
        both = np.isfinite(after - before)
        return _mean(before[both]), _mean(after[both])

    @abstractmethod
    def holds(self, generalizable: float, non_generalizable: float, strength: float, rise: float, plain_rise: float) -> bool:
        """Say whether all conditions but significance hold.

        Args:
            generalizable: Mean gain of generalizable strength.
            non_generalizable: Mean gain of non-generalizable strength.
            strength: Mean salient strength at the beginning.
            rise: Of the expected cost, as a fraction.
            plain_rise: Of the same with over-confidence; NaN if no loss is known.
        """


class _NonGeneralizableGain(_GainOfOneKind):
    """What is gained since the expected cost was smallest is mainly non-generalizable: phase 3 begins."""

    direction = 1

    @property
    def worse(self) -> Column:
        return self.trend.medians["cost"]

    def begins_anew(self, look: int) -> bool:
        """Whether the cost is at its minimum; one that has stood for some time is only left for a material improvement."""
        if look <= self.trend.last_early:
            return True
        return self.is_best("cost", look, 1, margin=0.0 if look - self.since <= STANDING else MATERIAL_RISE)

    def holds(self, generalizable: float, non_generalizable: float, strength: float, rise: float, plain_rise: float) -> bool:
        grows = generalizable + non_generalizable >= MATERIAL_GROWTH * strength
        costs_more = rise >= MATERIAL_RISE or (rise > -MATERIAL_RISE and plain_rise >= CLEAR_RISE)
        return grows and non_generalizable > MAINLY * generalizable and costs_more


class _GeneralizableGain(_GainOfOneKind):
    """What is gained since the expected cost was largest is mostly generalizable: phase 3 goes back to phase 2."""

    direction = -1

    @property
    def worse(self) -> Column:
        return -self.trend.medians["cost"]

    def begins_anew(self, look: int) -> bool:
        return self.is_best("cost", look, -1)

    def holds(self, generalizable: float, non_generalizable: float, strength: float, rise: float, plain_rise: float) -> bool:
        return generalizable > max(0.0, non_generalizable) and -rise >= MATERIAL_RISE


def _mean(values: Column) -> float:
    """Mean of what is finite; NaN if nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _rises(changes: Column) -> bool:
    """Whether changes are larger than zero on average, by a one-sided t-test at 5 %."""
    finite = changes[np.isfinite(changes)]
    if len(finite) < 2:
        return False
    return bool(finite.mean() > _quantile(len(finite) - 1) * finite.std(ddof=1) / len(finite) ** 0.5)


@lru_cache(maxsize=64)
def _quantile(freedom: int) -> float:
    return float(stats.t.ppf(0.95, freedom))
