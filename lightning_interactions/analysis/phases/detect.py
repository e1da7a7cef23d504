"""From a history of measurements to the phases of training, with a bound on false onsets.

The same probes are measured every time, so changes are tested pair by pair over inputs: how many have changed in the direction
that an onset needs. Testing at every measurement, from an onset that was chosen among all earlier ones, would fire by chance
sooner or later; so all onsets and looks are tested jointly, however many there will be
(:mod:`~lightning_interactions.analysis.phases.sign_flips`), and each kind of test gets a part of ``α``. At most a fraction
``α`` of runs has a false onset of any kind. An onset is false if for no pair of moments most inputs changed in the direction
that it needs, among all inputs that probes could be drawn from. This covers the draw of the probes; it says nothing about other
training seeds, and takes the chance level of the evidence as given.

Nothing here knows how far apart measurements are: a change is one from a moment to later moments, whatever lies between.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_interactions.analysis.phases.changes import Trend, first_changes, next_changes
from lightning_interactions.analysis.phases.signals import PhaseSignals
from lightning_interactions.records import Measurement, Phase, PhaseTest, TimePoint

__all__ = ["detect_phases", "phases_of"]


def detect_phases(measurements: Sequence[Measurement], *, alpha: float = 0.05) -> tuple[Phase, ...]:
    """Detect the phase at every measurement, each from what was known then.

    - **Phase 1** lasts until the share of generalizable strength has fallen from its maximum, significantly on most inputs.
      Every history begins in it; a fine-tuned model may already be past it.
    - **Phase 3** has begun where an input that the network was not trained on is expected to cost least. It is detected when
      the strength gained since then is mainly non-generalizable: one and a half times as much as the generalizable one or
      more, on average and significantly on most inputs (strength that is generalizable by chance counts as non-generalizable),
      salient strength has grown by 5 % or more, and the expected cost has risen by 2 % or more of itself, or of what it is
      below that of knowing nothing; or it stands still, and as it is, with over-confidence, it has risen by a quarter. It has
      not begun while models that are trained as the run is, on less of its data, still learn what holds on other inputs
      (:attr:`~lightning_interactions.records.Measurement.is_early`). A run can leave phase 1 straight for phase 3. The excess
      gap is told, but not asked: in networks whose interactions cancel strongly no loss without some of them means anything.
    - **Phase 2** lies between them. Phase 3 returns to it when, since the expected cost was largest, it has fallen by as much
      and what was gained is mostly generalizable, with the same strength of evidence.

    The expected cost is the mean of the expected test loss of training probes
    (:attr:`~lightning_interactions.records.SplitMeasurement.expected_test_loss`), without disputed labels, and of the loss of
    held-out probes, if there are any; both at the best temperature, so that over-confidence alone is no phase 3. Where the
    score is no log-odds of a label it is as it is. Its minimum is the lowest single measurement; one that has stood for five
    is only left for one that is lower by 2 %. Every change is one from the median of the three measurements around the onset
    to the median of the last three.

    Args:
        measurements: A run's measurements on the same probes, in the order of time, at any intervals.
        alpha: Bound on the probability of a false onset of any kind in the whole run. Nothing is detected below 0.001.

    Returns:
        One phase for each measurement, with its onset, its detection and a test of every change that can come next; in phases
        2 and 3 also the test of that phase itself, from all that was measured since its onset.

    Raises:
        ValueError: If ``alpha`` is outside (0, 1), or the measurements have different probes.

    Source:
        He et al. 2025 (arXiv 2505.06993) describe the three phases and Zhang et al. 2024 (arXiv 2405.10262) the first two;
        for the tests see :mod:`~lightning_interactions.analysis.phases.sign_flips`; what they are applied to is our own.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"detect_phases: expected alpha in (0, 1), got {alpha}")
    if not measurements:
        return ()
    return phases_of(PhaseSignals.of(measurements), [measurement.time for measurement in measurements], alpha)


def phases_of(signals: PhaseSignals, times: Sequence[TimePoint], alpha: float) -> tuple[Phase, ...]:
    """Detect the phases of signals; see :func:`detect_phases`."""
    changes = first_changes(Trend.of(signals, alpha))
    over_confidence = (1 - signals.cost.nanmean(dim=1) / signals.plain_cost).tolist()
    phase = Phase(1, onset=times[0], detected=times[0], confidence=math.nan)
    phases: list[Phase] = []
    for look, time in enumerate(times):
        p_values = {change: change.look(look, alpha) for change in changes.values()}
        begun = [number for number, change in changes.items() if number != phase.number and p_values[change] <= alpha]
        if begun:
            number = max(begun)  # Phase 3 wins ties.
            change = changes[number]
            earliest, latest = (times[index] for index in change.interval(look))
            phase = Phase(
                number, times[change.since], time, 1 - p_values[change], change.findings, earliest=earliest, latest=latest
            )
            changes = next_changes(changes, number, look)
        tests = (
            PhaseTest(number, times[change.since], p_values.get(change, math.inf), change.findings, change.possible)
            for number, change in changes.items()
        )
        phases.append(replace(phase, over_confidence=over_confidence[look], tests=tuple(tests)))
    return tuple(phases)
