"""The probes of a run: from a saved state, from the user, or from the Trainer's loaders."""

from collections.abc import Collection
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_interactions.callbacks.probe_drawing import (
    PassingProbes,
    draw_probes,
    same_on_all_ranks,
    training_loader,
    validation_loader,
)
from lightning_interactions.evidence import fingerprints
from lightning_interactions.game.baselines import Baseline
from lightning_interactions.measuring.probes import Drawn, Unpack
from lightning_interactions.records import Probes

__all__ = ["HELD_OUT", "TRAINING", "ProbeKeeper"]

TRAINING, HELD_OUT = "training", "held-out"
FAST_DEV_RUN_PROBES = 2


class ProbeKeeper:
    """Finds the probes of each split once, keeps them, and saves them with the run.

    Args:
        num_probes: How many to draw for each split.
        given: Probes ``(inputs, targets)`` that the user hands in for a split, or ``None``.
        unpack: Finds inputs and targets in a batch.
        baseline: Chooses the baseline value from training inputs.
        refused: Fingerprints of inputs that must not be probes.
        seed: Seed of the draw.

    Attributes:
        probes: The probes of each split, once they are there.
        baseline_value: What masked players are replaced with; broadcasts to one input. ``None`` until there are probes.
    """

    def __init__(
        self,
        *,
        num_probes: dict[str, int],
        given: dict[str, tuple[Tensor, Tensor] | None],
        unpack: Unpack,
        baseline: Baseline,
        refused: Collection[str],
        seed: int,
    ) -> None:
        self.num_probes = num_probes
        self.given = given
        self.unpack = unpack
        self.baseline = baseline
        self.refused = refused
        self.seed = seed
        self.probes: dict[str, Probes] = {}
        self.baseline_value: Tensor | None = None
        self._passing: dict[str, PassingProbes] = {}

    @property
    def waiting(self) -> bool:
        """Whether some split's data can only be watched as it passes, and has not passed yet."""
        return bool(self._passing)

    def find(self, trainer: Trainer) -> None:
        """Get the probes of every split that has none yet; iterable data is left to :meth:`watch`.

        Raises:
            MisconfigurationException: If reference models were trained on a probe that was handed in, or there are
                several training loaders.
            ValueError: If a loader gives no usable input, or batches are not pairs of inputs and targets.
        """
        for split, find_loader in {TRAINING: training_loader, HELD_OUT: validation_loader}.items():
            given = self.given[split]
            if split in self.probes:
                self._take_up(split, self.probes[split], trainer.strategy.root_device)
            elif given is not None:
                limit = FAST_DEV_RUN_PROBES if trainer.fast_dev_run else None
                self._take_up(split, Probes(given[0][:limit], given[1][:limit]), trainer.strategy.root_device)
            elif self.num_probes[split]:
                self._draw(trainer, split, find_loader(trainer))

    def watch(self, split: str, batch: Any) -> None:
        """Keep the first inputs of data that can only be watched as it passes."""
        if split in self._passing:
            self._passing[split].watch(batch)

    def take_complete(self, trainer: Trainer) -> None:
        """Make probes of what has passed, of splits of which as many inputs have passed as were asked for."""
        self._take(trainer, {split: passing.complete for split, passing in self._passing.items()})

    def take_passed(self, trainer: Trainer) -> None:
        """Make probes of what has passed, however many inputs these are."""
        self._take(trainer, {split: passing.seen_any for split, passing in self._passing.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return probes and baseline value as tensors on the CPU."""
        return {
            "probes": {
                split: {"inputs": probes.inputs.cpu(), "targets": probes.targets.cpu()} for split, probes in self.probes.items()
            },
            "baseline": None if self.baseline_value is None else self.baseline_value.cpu(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; missing keys mean that there is nothing yet."""
        self.probes = {split: Probes(**tensors) for split, tensors in state_dict.get("probes", {}).items()}
        self.baseline_value = state_dict.get("baseline")

    def _draw(self, trainer: Trainer, split: str, loader: Any | None) -> None:
        if loader is None:
            rank_zero_warn(
                "InteractionMonitor: there is no validation loader, so nothing is measured on held-out inputs and there is "
                "no loss gap; pass held_out_probes=(inputs, targets) or a validation loader to have them"
            )
            return
        num_probes = FAST_DEV_RUN_PROBES if trainer.fast_dev_run else self.num_probes[split]
        drawn = draw_probes(
            trainer,
            loader,
            trainer.num_training_batches if split == TRAINING else trainer.num_val_batches[0],
            num_probes=num_probes,
            unpack=self.unpack,
            refused=self.refused,
            what=split,
            seed=self.seed,
        )
        if drawn is None:
            self._passing[split] = PassingProbes(num_probes, self.unpack, self.refused, split)
        else:
            self._accept(split, drawn)

    def _take(self, trainer: Trainer, ready: dict[str, bool]) -> None:
        for split, ready_here in ready.items():
            if trainer.strategy.reduce_boolean_decision(ready_here, all=True):
                self._accept(split, same_on_all_ranks(trainer, self._passing.pop(split).draw()))

    def _take_up(self, split: str, probes: Probes, device: torch.device) -> None:
        """Use probes that were saved or handed in; they are as the model takes them, so no transfer hook sees them."""
        seen = [row for row, fingerprint in enumerate(fingerprints(probes.inputs)) if fingerprint in self.refused]
        if seen:
            raise MisconfigurationException(
                f"InteractionMonitor: the reference models were trained on {len(seen)} of the {len(probes)} {split} probes "
                f"handed in or saved (first rows: {seen[:5]}), so their verdict would be no evidence; use other probes, or "
                "reference models trained on other data"
            )
        if len(probes.targets) != len(probes):
            raise MisconfigurationException(
                f"InteractionMonitor: expected one target for each of the {len(probes)} {split} probes handed in, got "
                f"{len(probes.targets)}"
            )
        self.probes[split] = Probes(probes.inputs.to(device), probes.targets.to(device))
        if split == TRAINING and self.baseline_value is None:
            self.baseline_value = self.baseline.value(self.probes[split].inputs)

    def _accept(self, split: str, drawn: Drawn) -> None:
        self.probes[split] = drawn.probes
        if split == TRAINING:
            self.baseline_value = self.baseline.value(drawn.sample)
