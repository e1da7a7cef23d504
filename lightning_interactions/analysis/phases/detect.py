"""From a history of measurements to the phases of training, with a bound on false onsets.

The same probes are measured every time, so changes are tested pair by pair over inputs, with exact sign tests. Testing at
every measurement would fire by chance sooner or later; the ``k``-th look therefore gets the part ``1 / k(k+1)`` of the error
budget, which adds up to one over any number of looks, each kind of onset gets a part of ``α``, and the moments among which an
onset is chosen share what a look has. By the union bound at most a fraction ``α`` of runs has a false onset of any kind,
however the measurements depend on each other: an onset for whose claim ("on most inputs …") no pair of moments gave any reason,
among all inputs that probes could be drawn from. This covers the draw of the probes; it says nothing about other training
seeds, and takes the chance level of the evidence as given.

Nothing here knows how far apart measurements are: a change is one from a moment to later moments, whatever lies between.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_interactions.analysis.phases.changes import first_changes, next_changes
from lightning_interactions.analysis.phases.signals import PhaseColumns
from lightning_interactions.records import Claim, Measurement, Phase

__all__ = ["detect_phases"]

FIRST_REASON = "measurements begin here; simple interactions come first (a fine-tuned model may have learned them before)"


def detect_phases(measurements: Sequence[Measurement], *, alpha: float = 0.05) -> tuple[Phase, ...]:
    """Call the phase at every measurement, each call from what was known then.

    - **Phase 1** lasts until the share of generalizable strength has fallen from its maximum, significantly on most inputs.
      Every history begins in it; a fine-tuned model may already be past it.
    - **Phase 3** has begun where an input that the network was not trained on is expected to cost least. It is called when
      the strength gained since then is mostly non-generalizable, significantly on most inputs (strength that only chance calls
      generalizable counts as non-generalizable), salient strength has grown by 5 % or more, and the expected cost has risen by
      5 % or more. A run can leave phase 1 straight for phase 3. That the excess gap rises, too, is told but not asked: in
      networks whose interactions cancel strongly no loss without some of them means anything.
    - **Phase 2** lies between them. Phase 3 returns to it when, since the expected cost was largest, it has fallen by 5 % or
      more and what was gained is mostly generalizable, with the same strength of evidence.

    The expected cost is the mean of the unseen loss of training probes
    (:attr:`~lightning_interactions.records.SplitMeasurement.unseen_loss`), without labels that other models contradict, and
    of the loss of held-out probes, if there are any. Every change is one from the median of the three measurements around the
    onset to the median of the last three.

    Args:
        measurements: A run's measurements on the same probes, in the order of time, at any intervals.
        alpha: Bound on the probability of a false onset of any kind in the whole run.

    Returns:
        One phase for each measurement, with its onset, its call and the claim for every change that can come next; in phases
        2 and 3 also the claim for that phase itself, from all that was measured since its onset.

    Raises:
        ValueError: If ``alpha`` is outside (0, 1), or the measurements have different probes.

    Source:
        He et al. 2025 (arXiv 2505.06993) describe the three phases and Zhang et al. 2024 (arXiv 2405.10262) the first two;
        the tests are our own.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"detect_phases: expected alpha in (0, 1), got {alpha}")
    if not measurements:
        return ()
    changes = first_changes(PhaseColumns.of(measurements))
    phase = _called(1, measurements[0], measurements[0], math.nan, FIRST_REASON)
    phases: list[Phase] = []
    for look, measurement in enumerate(measurements):
        levels = {change: change.look(look) for change in changes.values()}
        begun = [number for number, change in changes.items() if number != phase.number and levels[change] <= alpha]
        if begun:
            number = max(begun)  # Phase 3 wins ties.
            change = changes[number]
            phase = _called(number, measurements[change.since], measurement, 1 - levels[change], change.reason)
            changes = next_changes(changes, number, look)
        claims = (
            Claim(number, *_moment(measurements[change.since]), levels.get(change, math.inf), change.reason)
            for number, change in changes.items()
        )
        phases.append(replace(phase, claims=tuple(claims)))
    return tuple(phases)


def _called(number: int, onset: Measurement, call: Measurement, confidence: float, reason: str) -> Phase:
    return Phase(number, *_moment(onset), *_moment(call), confidence, reason)


def _moment(measurement: Measurement) -> tuple[int, int]:
    return measurement.epoch, measurement.global_step
