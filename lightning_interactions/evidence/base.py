"""What every kind of evidence can do."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lightning_interactions.records import Interactions, Verdict

__all__ = ["Evidence", "InteractionsOf", "Judge"]


class InteractionsOf(Protocol):
    """Extracts a model's interactions on the probes of one split."""

    def __call__(self, model: nn.Module, rows: Sequence[int] | None = None, /) -> Interactions:
        """Return the interactions of some of the probes, in that order; of all if ``rows`` is left out."""
        ...


Judge = Callable[[nn.Module, Interactions, Interactions | None], Verdict]
"""Judges what the monitored model has on the probes of one split.

Takes the model, its interactions on them, and its interactions on the probes of the other split (held-out for training,
training for held-out; ``None`` if there is no other).
"""


@runtime_checkable
class Evidence(Protocol):
    """Decides which interactions are taken for generalizable."""

    def prepare(
        self,
        interactions_of: InteractionsOf,
        threshold: float,
        for_other_targets: Sequence[InteractionsOf] = (),
        inputs: Tensor | None = None,
    ) -> Judge:
        """Do once what does not change during a run, and return the judge of one split.

        Args:
            interactions_of: Extracts any model's interactions on that split's probes.
            threshold: Salience threshold ``τ`` for every model.
            for_other_targets: The same on the same inputs, each with the target of another probe that has a different
                one; for the chance level. Empty if all probes have the same target.
            inputs: The probes themselves, ``[inputs, ...]``.

        Returns:
            A function of the monitored model and its interactions.
        """
        ...
