"""What is saved of probes with a run: small ones whole, of large ones where they are in the dataset."""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_interactions.records import Probes
from lightning_interactions.records.trees import walk

__all__ = ["SAVED_WHOLE", "OtherProbesError", "ReadAgain", "bytes_of"]

SAVED_WHOLE = 2**20
"""Bytes up to which the probes of a split are saved whole, so that they stay the same whatever happens to the data."""


class OtherProbesError(MisconfigurationException):
    """Samples that are not what they were when they are read again."""


@dataclass(frozen=True)
class ReadAgain:
    """Where probes are in their dataset.

    Attributes:
        batches: Dataset indices of the batches in which they are loaded.
        fingerprints: Which of the rows of these batches are the probes, in their order.
    """

    batches: Sequence[Sequence[int]]
    fingerprints: Sequence[str]

    def chosen(self, candidates: Probes, split: str) -> Probes:
        """Choose the probes among all that was loaded.

        Raises:
            OtherProbesError: If one of them is not there.
        """
        places: dict[str, list[int]] = collections.defaultdict(list)
        for place, one in enumerate(candidates.fingerprints):
            places[one].append(place)  # Equal inputs need not have equal targets.
        rows = [places[one].pop(0) for one in self.fingerprints if places[one]]
        if len(rows) < len(self.fingerprints):
            raise OtherProbesError(
                f"expected the same {split} probes as in the run that is gone on with, got others: "
                f"{len(self.fingerprints) - len(rows)} of {len(self.fingerprints)} samples are not what they were, now that "
                "they are read again"
            )
        return candidates.select(rows)

    def to_state(self) -> dict[str, Any]:
        """Return it in primitives."""
        return {"batches": [list(batch) for batch in self.batches], "fingerprints": list(self.fingerprints)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ReadAgain":
        """Rebuild it from :meth:`to_state`."""
        return cls(state["batches"], state["fingerprints"])


def bytes_of(probes: Probes) -> int:
    """How large probes are in a checkpoint, bytes."""
    leaves = (leaf for group in probes.groups for rows in (group.inputs, group.targets) for _, leaf in walk(rows.tree))
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
