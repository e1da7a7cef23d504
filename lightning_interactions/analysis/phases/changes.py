"""The changes that end one phase and begin the next: where each would have begun, and how far it is shown."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from lightning_interactions.analysis.phases.signals import PhaseSignals

__all__ = ["Change", "first_changes", "next_changes"]

RECENT = 3
"""A change is one from the median of so many measurements around the onset to that of the last ones, so that no single one
suffices."""

MATERIAL_GROWTH = 0.05
"""Growth of salient strength since the onset, as a fraction, under which nothing is said to be learned."""

MATERIAL_RISE = 0.05
"""Rise of the expected cost since its minimum, as a fraction, under which it is not said to rise; the fall for a return."""

RETURN = -1
"""The return from phase 3 to phase 2, as a kind of onset."""

BUDGET_SHARES = {2: 0.25, 3: 0.5, RETURN: 0.25}
"""Part of ``α`` for each kind of onset."""


def first_changes(signals: PhaseSignals) -> "dict[int, Change]":
    """List the changes to follow in phase 1, by the phase that they begin."""
    medians = signals.medians(RECENT)
    return {2: _FallOfShare(signals, medians), 3: _NonGeneralizableGain(signals, medians)}


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
        return {2: _GeneralizableGain(detected.signals, detected.medians, look), 3: detected}
    if third.fixed:
        third = _NonGeneralizableGain(detected.signals, detected.medians, look)
    return {2: detected, 3: third}


class Change(ABC):
    """A change that may come: where it would have begun, and how far the measurements since then speak for it.

    Attributes:
        since: Index of the measurement at which it would have begun: the last one, or where it was at the last look.
        fixed: Whether it was detected, so that its beginning no longer moves.
        findings: The numbers that were found at the last look; none if too little was measured since the beginning.
    """

    kind: int

    def __init__(self, signals: PhaseSignals, medians: PhaseSignals, since: int = 0) -> None:
        self.signals = signals
        self.medians = medians
        self.since = since
        self.fixed = False
        self.findings: Mapping[str, float] = {}
        self._p_value = math.inf

    def look(self, look: int) -> float:
        """Return the adjusted p-value: the smallest ``α`` of the whole run at which the change would be detected now.

        The significance may come from any look since the beginning, each at its own part of the budget; all else must
        hold now.
        """
        if not self.fixed and self.begins_anew(look):
            self.since, self._p_value, self.findings = look, math.inf, {}
            return math.inf
        if look - self.since < RECENT:
            return math.inf
        differences, holds, self.findings = self.compare(look)
        self._p_value = min(self._p_value, _sign_test(differences) / _budget(self.kind, look))
        return self._p_value if holds else math.inf

    @abstractmethod
    def begins_anew(self, look: int) -> bool:
        """Say whether the change can only begin at this measurement or later."""

    @abstractmethod
    def compare(self, look: int) -> tuple[Float[Tensor, " measured"], bool, dict[str, float]]:
        """Compare the last measurements with the beginning.

        Returns:
            What must be positive on most probes, whether all other conditions hold, and the numbers that were found.
        """

    def before(self, name: str) -> Tensor:
        """Median of a signal over the measurement at the beginning and those beside it, ``[times, ...]`` to ``[...]``."""
        column: Tensor = getattr(self.medians, name)
        return column[max(0, self.since - RECENT // 2)]

    def risen(self, name: str, look: int) -> Tensor:
        """Change of a signal from around the beginning to the last measurements, ``[times, ...]`` to ``[...]``."""
        column: Tensor = getattr(self.medians, name)
        return column[look - RECENT + 1] - self.before(name)


class _FallOfShare(Change):
    """The share of generalizable strength falls from its maximum: phase 2 begins."""

    kind = 2

    def begins_anew(self, look: int) -> bool:
        newest, largest = self.signals.pooled_share[look].item(), self.signals.pooled_share[self.since].item()
        return newest >= largest or (math.isnan(largest) and not math.isnan(newest))

    def compare(self, look: int) -> tuple[Float[Tensor, " measured"], bool, dict[str, float]]:
        before = self.before("pooled_share").item()
        after = before + self.risen("pooled_share", look).item()
        falls = _finite(-self.risen("share", look))
        findings = {
            "share_before": before,
            "share_after": after,
            "more": float((falls > 0).sum()),
            "probes": float(len(falls)),
        }
        return falls, after < before, findings


class _GainOfOneKind(Change):
    """The strength gained is mostly of one kind."""

    def gains(self, look: int) -> tuple[Float[Tensor, " measured"], Float[Tensor, " measured"], dict[str, float]]:
        """Gains in generalizable and non-generalizable strength of each probe, and the numbers that sum them up."""
        generalizable, non_generalizable = self.risen("generalizable", look), self.risen("non_generalizable", look)
        measured = generalizable.isfinite() & non_generalizable.isfinite()
        generalizable, non_generalizable = generalizable[measured], non_generalizable[measured]
        findings = {
            "generalizable": generalizable.mean().item(),
            "non_generalizable": non_generalizable.mean().item(),
            "more": float((non_generalizable > generalizable).sum()),
            "probes": float(len(generalizable)),
        }
        return generalizable, non_generalizable, findings

    def cost(self, look: int) -> tuple[float, float, dict[str, float]]:
        """Expected cost at the beginning and its rise since then; the findings are empty if no loss is known."""
        rises = self.risen("cost", look)
        both = rises.isfinite()
        before, rise = self.before("cost")[both].mean().item(), rises[both].mean().item()
        findings = {"loss_before": before, "loss_after": before + rise} if self.signals.loss_known else {}
        return before, rise, findings

    def newest_cost(self, look: int) -> float:
        """Change of the expected cost from the beginning to the newest measurement; NaN if the newest has none."""
        cost = self.signals.cost
        if not cost[self.since].isfinite().any():
            return 0.0
        return (cost[look] - cost[self.since]).nanmean().item()


class _NonGeneralizableGain(_GainOfOneKind):
    """What is gained since the expected cost was smallest is mostly non-generalizable: phase 3 begins."""

    kind = 3

    def begins_anew(self, look: int) -> bool:
        return self.newest_cost(look) <= 0

    def compare(self, look: int) -> tuple[Float[Tensor, " measured"], bool, dict[str, float]]:
        generalizable, non_generalizable, of_gains = self.gains(look)
        before, rise, of_cost = self.cost(look)
        strength = (self.before("generalizable") + self.before("non_generalizable")).nanmean().item()
        gap_rise = self.risen("excess_gap", look).item()
        gain = (generalizable + non_generalizable).mean().item()
        holds = (
            of_gains["non_generalizable"] > of_gains["generalizable"]
            and gain >= MATERIAL_GROWTH * strength
            and rise >= MATERIAL_RISE * (abs(before) if self.signals.loss_known else strength)
        )
        of_gap = {} if math.isnan(gap_rise) else {"excess_gap": gap_rise}
        return non_generalizable - generalizable, holds, {**of_gains, **of_cost, **of_gap}


class _GeneralizableGain(_GainOfOneKind):
    """What is gained since the expected cost was largest is mostly generalizable: phase 3 goes back to phase 2."""

    kind = RETURN

    def begins_anew(self, look: int) -> bool:
        return self.newest_cost(look) >= 0

    def compare(self, look: int) -> tuple[Float[Tensor, " measured"], bool, dict[str, float]]:
        generalizable, non_generalizable, of_gains = self.gains(look)
        before, rise, of_cost = self.cost(look)
        strength = (self.before("generalizable") + self.before("non_generalizable")).nanmean().item()
        holds = of_gains["generalizable"] > max(0.0, of_gains["non_generalizable"]) and -rise >= MATERIAL_RISE * (
            abs(before) if self.signals.loss_known else strength
        )
        return generalizable - non_generalizable, holds, {**of_gains, **of_cost}


def _budget(kind: int, look: int) -> float:
    """Part of ``α`` for one kind of onset, at one look, from one beginning.

    The beginning was chosen among all earlier looks, so all of them share this look's part.
    """
    return BUDGET_SHARES[kind] / (look * (look + 1)) / look


def _finite(values: Tensor) -> Tensor:
    return values[values.isfinite()]


def _sign_test(differences: Float[Tensor, " measured"]) -> float:
    """One-sided p-value of an exact sign test that more than half of all inputs have a positive difference.

    Ties count against it, and it assumes nothing about the distribution: means of strengths hang on a few inputs, and the
    p-values that many looks leave are far out in the tail, where a t-test is not to be trusted.
    """
    if len(differences) == 0:
        return 1.0
    positive = int((differences > 0).sum())
    return float(binomtest(positive, len(differences), alternative="greater").pvalue)
