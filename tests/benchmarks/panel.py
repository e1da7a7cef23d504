"""Several kinds of evidence about the same interactions, as one evidence for a meter."""

import time
from collections.abc import Generator, Sequence
from typing import Any

from torch import nn

from lightning_interactions.evidence import Evidence, ProbeGame
from lightning_interactions.records import EvidenceWeights, Interactions

__all__ = ["Panel"]


class Panel(Evidence):
    """Asks every evidence about the same interactions, and keeps what each says and what processor time it takes.

    Args:
        members: Every evidence by its name; the first one's weights are those of the panel.

    Attributes:
        preparation: Processor time that each has taken before the training, for all splits.
        seconds: Processor time that each took at the last measurement, for all splits, with the meter's work on its raters.
        weights: What each said at the last measurement, split by split.
    """

    def __init__(self, members: dict[str, Evidence]) -> None:
        self.members = members
        self.preparation = dict.fromkeys(members, 0.0)
        self.seconds = dict.fromkeys(members, 0.0)
        self.weights: list[dict[str, EvidenceWeights]] = []
        self._num_raters = dict.fromkeys(members, 0)

    @property
    def models_beside(self) -> int:
        return sum(member.models_beside for member in self.members.values())

    def prepare(self, game: ProbeGame) -> dict[str, Any]:
        prepared = {}
        for name, member in self.members.items():
            begin = time.process_time()
            prepared[name] = member.prepare(game)
            self.preparation[name] += time.process_time() - begin
        return prepared

    def raters(self, model: nn.Module) -> Generator[nn.Module, None, None]:
        self.weights = []
        for name, member in self.members.items():
            begin, number = time.process_time(), 0
            for rater in member.raters(model):
                yield rater  # Until it is asked for the next one, the meter measures this one.
                number += 1
            self.seconds[name], self._num_raters[name] = time.process_time() - begin, number

    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        said, left = {}, list(ratings)
        for name, member in self.members.items():
            own, left = left[: self._num_raters[name]], left[self._num_raters[name] :]
            begin = time.process_time()
            said[name] = member.weigh(interactions, threshold, prepared=prepared[name], ratings=own, counterpart=counterpart)
            self.seconds[name] += time.process_time() - begin
        self.weights.append(said)
        return next(iter(said.values()))
