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

from lightning_interactions.analysis.label_issues import find_suspects
from lightning_interactions.callbacks.probes import HELD_OUT, TRAINING
from lightning_interactions.evidence import Evidence, InputAgreement, ReferenceModels, fingerprints
from lightning_interactions.game.evaluation import Forward, Game
from lightning_interactions.game.losses import Loss, losses_of_inputs
from lightning_interactions.game.players import Players, default_players
from lightning_interactions.game.scores import Score
from lightning_interactions.measuring.isolation import in_precision_of
from lightning_interactions.measuring.meter import Split, interactions_on_probes, measure_splits
from lightning_interactions.records import Interactions, Probes, SplitMeasurement, Suspects

__all__ = ["SplitSetup", "check_run"]

FEWEST_PROBES_TO_TELL = 4
"""Some inputs are known to no cross-fitted model, because their labels were screened out; hardly ever so many."""


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
        solver_tolerance: Relative duality gap of the interactions; the solver's default if ``None``.
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
    solver_tolerance: float | None
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
        if self.solver_tolerance is not None and not 0 < self.solver_tolerance < 1:
            raise MisconfigurationException(
                f"InteractionMonitor: expected solver_tolerance in (0, 1), got {self.solver_tolerance}; it may be left out"
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
        self, trainer: Trainer, model: LightningModule, probes_of: Mapping[str, Probes], baseline: Tensor
    ) -> dict[str, Split]:
        """Set up game and judge of each split; the evidence does here what it does once.

        Args:
            trainer: The Trainer of the run.
            model: The monitored module.
            probes_of: Probes of each split, on the device of the run.
            baseline: Baseline value.

        Raises:
            MisconfigurationException: If there are too many players.
            ValueError: If inputs, outputs or labels do not fit players, baseline, score or loss.
        """
        splits = {}
        for name, probes in probes_of.items():
            if name == TRAINING and isinstance(self.evidence, ReferenceModels):
                _check_cross_fitting(self.evidence, probes)
            game = self._game(trainer, model, probes, baseline, sum(map(len, probes_of.values())))
            interactions_of, *for_other_targets = (
                interactions_on_probes(
                    one,
                    trainer.global_rank,
                    trainer.world_size,
                    lambda tensor: trainer.strategy.reduce(tensor, reduce_op="sum"),
                    self.noise_tolerance,
                    self.solver_tolerance,
                )
                for one in (game, *game.with_other_targets())
            )
            judge = self.evidence.prepare(interactions_of, self.threshold, for_other_targets, probes.inputs)
            splits[name] = Split(interactions_of, judge, probes.targets, self.loss)
        return splits

    def measure(
        self, model: LightningModule, splits: Mapping[str, Split]
    ) -> tuple[dict[str, SplitMeasurement], dict[str, Interactions]]:
        """Measure a module in evaluation mode on splits that were set up; also return its interactions."""
        found = {name: split.interactions_of(model) for name, split in splits.items()}
        return measure_splits(model, splits, found, self.threshold), found

    def suspects(self, model: LightningModule, probes: Probes, held_out: Probes | None, baseline: Tensor) -> Suspects:
        """Measure inputs that were handed in, on this process alone and without a chance level.

        Args:
            model: The monitored module, in evaluation mode.
            probes: The inputs, on its device.
            held_out: Held-out probes for evidence that compares with them; on any device.
            baseline: Baseline value.
        """
        _check_lengths(probes)
        refused = self.evidence.refused if isinstance(self.evidence, ReferenceModels) else frozenset()
        rows = torch.tensor([fingerprint not in refused for fingerprint in fingerprints(probes.inputs)])
        device = probes.inputs.device
        judged = Probes(probes.inputs[rows.to(device)], probes.targets[rows.to(device)])
        splits = {}
        if isinstance(self.evidence, InputAgreement) and held_out is not None:
            splits[HELD_OUT] = Probes(held_out.inputs.to(device), held_out.targets.to(device))
        splits[TRAINING] = judged
        trainer = model._trainer if isinstance(model._trainer, Trainer) else None
        local = {}
        for name, part in splits.items():
            game = self._game(trainer, model, part, baseline, len(part))
            extract = interactions_on_probes(game, noise_tolerance=self.noise_tolerance, tolerance=self.solver_tolerance)
            judge = self.evidence.prepare(extract, self.threshold, (), part.inputs)
            local[name] = Split(extract, judge, part.targets, self.loss)
        found = find_suspects(self.measure(model, local)[0][TRAINING])
        numbers = torch.full((len(vars(found)), len(rows)), torch.nan, dtype=torch.float64)
        numbers[:, rows] = torch.stack(list(vars(found).values()))
        return Suspects(*numbers)

    def _game(self, trainer: Trainer | None, model: LightningModule, probes: Probes, baseline: Tensor, num_probes: int) -> Game:
        _check_lengths(probes)
        game = Game(
            probes,
            players=default_players(probes.inputs) if self.players is None else self.players,
            baseline=baseline.to(probes.inputs.device),
            score=self.score,
            forward=in_precision_of(trainer, self.forward) if self.trainer_precision and trainer else self.forward,
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
        return game


def _check_lengths(probes: Probes) -> None:
    shapes = tuple(probes.inputs.shape), tuple(probes.targets.shape)
    if 0 in shapes[0][:1] or shapes[0][:1] != shapes[1][:1]:
        raise ValueError(
            "InteractionMonitor: expected one target for each input, and at least one input, got inputs of shape "
            f"{shapes[0]} and targets of shape {shapes[1]}"
        )


def _check_cross_fitting(references: ReferenceModels, probes: Probes) -> None:
    """Refuse cross-fitted models that recognise no training probe: they may have been trained on all of them."""
    seen = frozenset[str]().union(*references.seen)
    cross_fitted = references.num_voters < len(references.models) and bool(seen)
    if cross_fitted and len(probes) >= FEWEST_PROBES_TO_TELL and seen.isdisjoint(fingerprints(probes.inputs)):
        raise MisconfigurationException(
            f"InteractionMonitor: expected that cross-fitted models know inputs of the run's training data, but none of the "
            f"{len(probes)} training probes is among what they were trained on, so that it is unknown who may judge which; fit "
            "them on this run's training data, in its precision and without random augmentation"
        )


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
