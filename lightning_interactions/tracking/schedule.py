"""When to measure."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["EveryNEpochs", "Schedule"]


@runtime_checkable
class Schedule(Protocol):
    """Chooses the epochs after which a measurement is made."""

    def due(self, epoch: int) -> bool:
        """Say whether to measure after this many completed epochs; 0 is the untrained model."""
        ...


@dataclass(frozen=True)
class EveryNEpochs:
    """Measure the untrained model and then after every ``n`` epochs.

    Attributes:
        n: Epochs between measurements.

    Raises:
        ValueError: If ``n`` is smaller than 1.
    """

    n: int = 1

    def __post_init__(self) -> None:
        """Refuse an interval that never comes."""
        if self.n < 1:
            raise ValueError(f"schedule: expected to measure every n >= 1 epochs, got n={self.n}")

    def due(self, epoch: int) -> bool:
        """Say whether ``epoch`` is a multiple of ``n``; see :class:`Schedule`."""
        return epoch % self.n == 0
