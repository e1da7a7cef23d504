"""What every kind of evidence can do."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from torch import nn

from lightning_interactions.records import EvidenceWeights, Interactions, Probes
from lightning_interactions.records.describe import describe

__all__ = ["Evidence", "ProbeGame"]


class ProbeGame(ABC):
    """What evidence may ask about the probes of one split.

    Attributes:
        probes: The probes.
        threshold: Salience threshold ``τ`` for every model.
    """

    probes: Probes
    threshold: float

    @abstractmethod
    def interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        """Return any model's interactions on some of the probes, in that order; on all if ``rows`` is left out."""

    @abstractmethod
    def with_other_targets(self) -> "Sequence[ProbeGame]":
        """Return the same on the same inputs, each with the target of another probe that has a different one.

        For the chance level. Empty if all probes have the same target, or the score does not depend on targets.
        """

    def interactions_with_targets(self, model: nn.Module, rows: Sequence[int] | None = None) -> list[Interactions]:
        """Return :meth:`interactions` for the probes' own targets, and then :meth:`with_other_targets`."""
        return [game.interactions(model, rows) for game in (self, *self.with_other_targets())]


class Evidence(ABC):
    """Decides how far interactions are taken for generalizable."""

    def __repr__(self) -> str:
        return describe(self)

    def prepare(self, game: ProbeGame) -> Any:
        """Do once for a split what does not change during a run; what is returned comes back in :meth:`weigh`."""
        return None

    def to_state(self, prepared: Any) -> dict[str, Any]:
        """Return what :meth:`prepare` gave in primitives and tensors, to go on without it; empty unless overridden."""
        return {}

    def from_state(self, state: Mapping[str, Any]) -> Any:
        """Make of :meth:`to_state` what :meth:`prepare` gave; overridden with it."""
        raise NotImplementedError

    def learned_epochs(self, prepared: Any) -> int:
        """Return for how many epochs raters that are trained as the run is, on less of its data, learned what holds on more.

        Less data is memorised earlier, so that the run is not past its best before. 0 if nothing is known.

        Args:
            prepared: What :meth:`prepare` returned for the training probes.
        """
        return 0

    @property
    def models_beside(self) -> int:
        """How many :meth:`raters` are measured beside the monitored model at every measurement; 0 unless overridden."""
        return 0

    def raters(self, model: nn.Module) -> Generator[nn.Module, None, None]:
        """Yield models that are measured beside the monitored one at every measurement; none unless overridden.

        Args:
            model: The monitored model; a rater may be this very module with other weights, as long as it is as it was when
                the next one is asked for.
        """
        yield from ()

    @abstractmethod
    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        """Say how far each interaction of the monitored model on the probes of one split generalizes.

        Args:
            interactions: The model's interactions.
            threshold: Salience threshold ``τ``.
            prepared: What :meth:`prepare` returned for this split.
            ratings: Interactions of the :meth:`raters` on the same probes.
            counterpart: The model's interactions on the other split (held-out for training, training for held-out), if there
                is one.
        """
