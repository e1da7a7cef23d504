"""The changes that end one phase and begin the next: where each would have begun, and how far it is shown."""

import math
from abc import ABC, abstractmethod

from jaxtyping import Float
from scipy import special
from torch import Tensor

from lightning_interactions.analysis.phases.signals import PhaseColumns

__all__ = ["Change", "first_changes", "next_changes"]

RECENT = 3
"""A change is one from the median of so many measurements around the onset to that of the last ones, so that no single one can
call it."""

MATERIAL_GROWTH = 0.05
"""Growth of salient strength since the onset, as a fraction, under which nothing is said to be learned."""

MATERIAL_RISE = 0.05
"""Rise of the expected cost since its minimum, as a fraction, under which it is not said to rise; the fall for a return."""

RETURN = -1
"""The return from phase 3 to phase 2, as a kind of onset."""

BUDGET_SHARES = {2: 0.25, 3: 0.5, RETURN: 0.25}
"""Part of ``α`` for each kind of onset."""

NOTHING_SINCE = "too little was measured since it could have begun"


def first_changes(columns: PhaseColumns) -> "dict[int, Change]":
    """List the changes to follow in phase 1, by the phase that they begin."""
    medians = columns.medians(RECENT)
    return {2: _FallOfShare(columns, medians), 3: _Memorising(columns, medians)}


def next_changes(changes: "dict[int, Change]", number: int, look: int) -> "dict[int, Change]":
    """List the changes to follow after one was called.

    Args:
        changes: The changes that were followed, by the phase that they begin.
        number: The one that was called. It stays, with its beginning as it is.
        look: Index of the measurement at which it was called.
    """
    called, memorising = changes[number], changes[3]
    called.fixed = True
    if number == 3:
        return {2: _Recovery(called.columns, called.medians, look), 3: called}
    if memorising.fixed:
        memorising = _Memorising(called.columns, called.medians, look)
    return {2: called, 3: memorising}


class Change(ABC):
    """A change that may come: where it would have begun, and how far the measurements since then speak for it.

    Attributes:
        since: Index of the measurement at which it would have begun: the last one, or where it was at the last look.
        fixed: Whether it was called, so that its beginning no longer moves.
        reason: What was found at the last look, in words with numbers.
    """

    kind: int

    def __init__(self, columns: PhaseColumns, medians: PhaseColumns, since: int = 0) -> None:
        self.columns = columns
        self.medians = medians
        self.since = since
        self.fixed = False
        self.reason = NOTHING_SINCE
        self._level = math.inf

    def look(self, look: int) -> float:
        """Return the smallest ``α`` of the whole run at which the change would be called at this measurement.

        The significance may come from any look since the beginning, each at its own part of the budget; all else must
        hold now.
        """
        if not self.fixed and self.begins_anew(look):
            self.since, self._level, self.reason = look, math.inf, NOTHING_SINCE
            return math.inf
        if look - self.since < RECENT:
            return math.inf
        differences, holds, self.reason = self.compare(look)
        self._level = min(self._level, _sign_test(differences) / _budget(self.kind, look))
        return self._level if holds else math.inf

    @abstractmethod
    def begins_anew(self, look: int) -> bool:
        """Say whether the change can only begin at this measurement or later."""

    @abstractmethod
    def compare(self, look: int) -> tuple[Float[Tensor, " probes"], bool, str]:
        """Compare the last measurements with the beginning.

        Returns:
            What must be positive on most probes, whether all other conditions hold, and what was found in words.
        """

    def before(self, name: str) -> Tensor:
        """Median of a column over the measurement at the beginning and those beside it, ``[times, ...]`` to ``[...]``."""
        column: Tensor = getattr(self.medians, name)
        return column[max(0, self.since - RECENT // 2)]

    def risen(self, name: str, look: int) -> Tensor:
        """Change of a column from around the beginning to the last measurements, ``[times, ...]`` to ``[...]``."""
        column: Tensor = getattr(self.medians, name)
        return column[look - RECENT + 1] - self.before(name)


class _FallOfShare(Change):
    """The share of generalizable strength falls from its maximum: phase 2 begins."""

    kind = 2

    def begins_anew(self, look: int) -> bool:
        newest, largest = self.columns.pooled_share[look].item(), self.columns.pooled_share[self.since].item()
        return newest >= largest or (math.isnan(largest) and not math.isnan(newest))

    def compare(self, look: int) -> tuple[Tensor, bool, str]:
        before = self.before("pooled_share").item()
        recent = before + self.risen("pooled_share", look).item()
        falls = _finite(-self.risen("share", look))
        reason = (
            f"the share of generalizable strength fell from its maximum of {before:.2f} to {recent:.2f}, and on "
            f"{int((falls > 0).sum())} of {len(falls)} probes"
        )
        return falls, recent < before, reason


class _GainOfOneKind(Change):
    """The strength gained is mostly of one kind."""

    def gains(self, look: int) -> tuple[Tensor, Tensor, str]:
        """Gains in learned and in memorised strength of each probe, and both in words."""
        learned, memorised = self.risen("learned", look), self.risen("memorised", look)
        measured = learned.isfinite() & memorised.isfinite()
        learned, memorised = learned[measured], memorised[measured]
        more = int((memorised > learned).sum())
        words = (
            f"salient strength above chance changed by {learned.mean():+.2f} generalizable and {memorised.mean():+.2f} "
            f"non-generalizable, the latter by more on {more} of {len(learned)} probes"
        )
        return learned, memorised, words

    def cost(self, look: int) -> tuple[float, float, str]:
        """Expected cost at the beginning and its rise since then, and both in words."""
        rises = self.risen("cost", look)
        both = rises.isfinite()
        before, rise = self.before("cost")[both].mean().item(), rises[both].mean().item()
        if not self.columns.loss_known:
            return before, rise, "no loss is known"
        words = f"the loss expected on inputs that were not trained on went from {before:.3f} to {before + rise:.3f}"
        return before, rise, words

    def newest_cost(self, look: int) -> float:
        """Change of the expected cost from the beginning to the newest measurement; NaN if the newest has none."""
        cost = self.columns.cost
        if not cost[self.since].isfinite().any():
            return 0.0
        return (cost[look] - cost[self.since]).nanmean().item()


class _Memorising(_GainOfOneKind):
    """What is gained since the expected cost was smallest is mostly non-generalizable: phase 3 begins."""

    kind = 3

    def begins_anew(self, look: int) -> bool:
        return self.newest_cost(look) <= 0

    def compare(self, look: int) -> tuple[Tensor, bool, str]:
        learned, memorised, of_gains = self.gains(look)
        before, rise, of_cost = self.cost(look)
        strength = (self.before("learned") + self.before("memorised")).nanmean().item()
        gap_rise = self.risen("excess_gap", look).item()
        gain = (learned + memorised).mean().item()
        reason = f"{of_gains}; {of_cost}"
        if not math.isnan(gap_rise):
            reason += f", the excess gap changed by {gap_rise:+.3f}"
        holds = (
            memorised.mean().item() > learned.mean().item()
            and gain >= MATERIAL_GROWTH * strength
            and rise >= MATERIAL_RISE * (abs(before) if self.columns.loss_known else strength)
        )
        return memorised - learned, holds, reason


class _Recovery(_GainOfOneKind):
    """What is gained since the expected cost was largest is mostly generalizable: phase 3 goes back to phase 2."""

    kind = RETURN

    def begins_anew(self, look: int) -> bool:
        return self.newest_cost(look) >= 0

    def compare(self, look: int) -> tuple[Tensor, bool, str]:
        learned, memorised, of_gains = self.gains(look)
        before, rise, of_cost = self.cost(look)
        strength = (self.before("learned") + self.before("memorised")).nanmean().item()
        holds = learned.mean().item() > max(0.0, memorised.mean().item()) and -rise >= MATERIAL_RISE * (
            abs(before) if self.columns.loss_known else strength
        )
        return learned - memorised, holds, f"{of_gains}; {of_cost}"


def _budget(kind: int, look: int) -> float:
    """Part of ``α`` for one kind of onset, at one look, from one beginning.

    The beginning was chosen among all earlier looks, so all of them share this look's part.
    """
    return BUDGET_SHARES[kind] / (look * (look + 1)) / look


def _finite(values: Tensor) -> Tensor:
    return values[values.isfinite()]


def _sign_test(differences: Float[Tensor, " probes"]) -> float:
    """One-sided p-value of an exact sign test that more than half of all inputs have a positive difference.

    Ties count against it, and it assumes nothing about the distribution: means of strengths hang on a few inputs, and the
    levels that many looks leave are far out in the tail, where a t-test is not to be trusted.
    """
    if len(differences) == 0:
        return 1.0
    positive = int((differences > 0).sum())
    return float(special.bdtrc(positive - 1, len(differences), 0.5))
