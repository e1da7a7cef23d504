"""From probes to what measures them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_interactions.callbacks.isolation import in_precision_of
from lightning_interactions.evidence import Evidence
from lightning_interactions.game.evaluation import Forward, Game
from lightning_interactions.game.losses import Loss, losses_of_inputs
from lightning_interactions.game.players import Players, default_players
from lightning_interactions.game.scores import Score
from lightning_interactions.records import Interactions, Probes, SplitMeasurement
from lightning_interactions.tracking.measurement import Split, interactions_on_probes, measure_splits

__all__ = ["SplitSetup", "check_run"]


@dataclass(frozen=True)
class SplitSetup:
    """How inputs are measured, whatever split they are of.

    Attributes:
        players: The input variables; chosen by the inputs if ``None``.
        evidence: What decides "generalizable".
        score: The scalar that is explained.
        loss: What training minimises; ``None`` if it is not known.
        forward: Gets outputs from the module and inputs.
        threshold: Salience threshold ``τ``.
        noise_tolerance: ``κ``.
        max_players: More players than this are refused.
        batch_size: Masked inputs in one forward pass.
        trainer_precision: Whether forwards run in the Trainer's precision.
    """

    players: Players | None
    evidence: Evidence
    score: Score
    loss: Loss | None
    forward: Forward
    threshold: float
    noise_tolerance: float
    max_players: int
    batch_size: int
    trainer_precision: bool

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        if not (0 <= self.threshold < 1 and 0 <= self.noise_tolerance < math.inf and self.batch_size >= 1):
            raise MisconfigurationException(
                "InteractionMonitor: expected threshold in [0, 1), noise_tolerance of at least 0 and batch_size of at least 1, "
                f"got {self.threshold}, {self.noise_tolerance} and {self.batch_size}"
            )

    def tell(self, evidence_note: str) -> None:
        """Say what was decided for the user, and warn of what cannot be known."""
        if evidence_note:
            rank_zero_info(f"InteractionMonitor: {evidence_note}")
        if self.loss is None:
            rank_zero_warn(
                "InteractionMonitor: no loss is known for this score, so losses and gaps are NaN, and phases called without; "
                "pass a function of scores and targets, such as loss=lambda score, targets: (score - targets) ** 2"
            )

    def splits(
        self,
        trainer: Trainer,
        model: LightningModule,
        probes_of: Mapping[str, Probes],
        baseline: Tensor,
        *,
        with_other_targets: bool = True,
    ) -> dict[str, Split]:
        """Set up game and judge of each split; the evidence does here what it does once.

        Args:
            trainer: The Trainer of the run.
            model: The monitored module.
            probes_of: Probes of each split, on the device of the run.
            baseline: Baseline value.
            with_other_targets: Whether the chance level also asks the evidence about other targets: four times the cost with
                reference models.

        Raises:
            MisconfigurationException: If there are too many players.
            ValueError: If inputs, outputs or labels do not fit players, baseline, score or loss.
        """
        return {
            name: self._split(trainer, model, probes, baseline, sum(map(len, probes_of.values())), with_other_targets)
            for name, probes in probes_of.items()
        }

    def measure(
        self, model: LightningModule, splits: Mapping[str, Split]
    ) -> tuple[dict[str, SplitMeasurement], dict[str, Interactions]]:
        """Measure a module in evaluation mode on splits that were set up; also return its interactions."""
        found = {name: split.interactions_of(model) for name, split in splits.items()}
        return measure_splits(model, splits, found, self.threshold), found

    def _split(
        self,
        trainer: Trainer,
        model: LightningModule,
        probes: Probes,
        baseline: Tensor,
        num_probes: int,
        with_other_targets: bool,
    ) -> Split:
        shapes = tuple(probes.inputs.shape), tuple(probes.targets.shape)
        if 0 in shapes[0][:1] or shapes[0][:1] != shapes[1][:1]:
            raise ValueError(
                "InteractionMonitor: expected one target for each input, and at least one input, got inputs of shape "
                f"{shapes[0]} and targets of shape {shapes[1]}"
            )
        game = Game(
            probes,
            players=default_players(probes.inputs) if self.players is None else self.players,
            baseline=baseline.to(probes.inputs.device),
            score=self.score,
            forward=in_precision_of(trainer, self.forward) if self.trainer_precision else self.forward,
            batch_size=self.batch_size,
            full_precision=not self.trainer_precision,
        )
        if game.num_players > self.max_players:
            raise MisconfigurationException(
                f"InteractionMonitor: {game.num_players} players would take {2**game.num_players * num_probes:,} forwards at "
                f"each measurement, and max_players={self.max_players}; choose fewer players (a coarser grid, larger groups), "
                f"or pass max_players={game.num_players} if you mean it"
            )
        game.check(model)
        losses_of_inputs(self.loss, torch.zeros(len(probes), dtype=torch.float64), probes.targets)
        interactions_of, *for_other_targets = (
            interactions_on_probes(
                one,
                trainer.global_rank,
                trainer.world_size,
                lambda tensor: trainer.strategy.reduce(tensor, reduce_op="sum"),
                self.noise_tolerance,
            )
            for one in (game, *(game.with_other_targets() if with_other_targets else ()))
        )
        judge = self.evidence.prepare(interactions_of, self.threshold, for_other_targets, probes.inputs)
        return Split(interactions_of, judge, probes.targets, self.loss)


def check_run(trainer: Trainer, names: Sequence[str | None]) -> None:
    """Check what can be checked before there is data.

    Args:
        trainer: The Trainer of the run.
        names: Names of all its monitors.

    Raises:
        MisconfigurationException: If two monitors have the same name, or the model is sharded.
    """
    if len(names) != len(set(names)):
        raise MisconfigurationException(
            f"InteractionMonitor: several monitors need different names, got {list(names)}; pass name= to each"
        )
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise MisconfigurationException(
            f"InteractionMonitor: {type(trainer.strategy).__name__} shards the model, which is not supported; "
            "measure on one device or with DDP"
        )
