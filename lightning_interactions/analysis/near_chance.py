"""Whether evidence sees anything that generalizes: where the share stands to its chance level over a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_interactions.analysis.summary import summarise
from lightning_interactions.records import Estimate, Measurement, TimePoint

__all__ = ["NearChance", "share_near_chance"]


@dataclass(frozen=True)
class NearChance:
    """A share of generalizable strength that is not above its chance level.

    Attributes:
        share: The share at the last measurement, of the training probes.
        chance: Its chance level then.
        above_until: The last measurement at which the share was clearly above, if it ever was; ``None`` if it never was.
    """

    share: Estimate
    chance: Estimate
    above_until: TimePoint | None

    @property
    def never_above(self) -> bool:
        """Whether the evidence has seen nothing that generalizes in any measurement so far, so that phases mean nothing."""
        return self.above_until is None

    @property
    def note(self) -> str:
        """What this means, in words."""
        numbers = f"the share ({self.share.value:.2f}, chance level {self.chance.value:.2f})"
        if self.above_until is None:
            return (
                f"{numbers} was never clearly above its chance level so far: the evidence sees nothing that generalizes, so do "
                "not trust the phases; look whether the twins or reference models have learned anything, or choose other "
                "evidence or other players"
            )
        return (
            f"{numbers} has fallen to its chance level, above which it was until epoch {self.above_until.epoch}: little of "
            "what the network has now generalizes, as in phase 3; this is no reason to distrust the phases"
        )


def share_near_chance(measurements: Sequence[Measurement]) -> NearChance | None:
    """Find out whether the share is at its chance level, and whether it ever was above.

    It is above where the 95 % interval of ``(share - chance) / (1 - chance)`` over the draw of probes is. One such measurement
    in a long run may be an accident, so it has been above if two measurements in a row were. What is said at a measurement
    hangs on it and earlier ones alone.

    Args:
        measurements: A run's measurements in the order of time.

    Returns:
        What is known; ``None`` if the share is above its chance level at the last measurement, if it has no interval there (a
        single probe), if nothing is known of its chance level, or if nothing was measured.
    """
    if not measurements:
        return None
    last = summarise(measurements[-1]).training
    if not last.share_above_chance.low <= 0:
        return None
    above = [summarise(one).training.share_above_chance.low > 0 for one in measurements]
    until = (measurements[place].time for place in range(len(above) - 1, 0, -1) if above[place] and above[place - 1])
    return NearChance(last.share, last.share_chance, next(until, None))
