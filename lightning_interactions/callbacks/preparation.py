"""Getting the meter of a run ready: its evidence, its probes, and each split when its probes are there."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_interactions.callbacks.attempts import Attempt
from lightning_interactions.callbacks.checks import check_shapes
from lightning_interactions.callbacks.notices import shown
from lightning_interactions.callbacks.precision import dtypes_named, forward_context
from lightning_interactions.callbacks.probes import ProbeKeeper, digest
from lightning_interactions.callbacks.run_evidence import RunEvidence
from lightning_interactions.evidence import Evidence, OrderShape
from lightning_interactions.game.baselines import Baseline
from lightning_interactions.game.players import Players, Some
from lightning_interactions.game.steps import FirstBatchError, OwnStep
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.isolation import shadowed
from lightning_interactions.measuring.meter import TRAINING, Extraction, InteractionMeter, Ranks
from lightning_interactions.measuring.probes import ProbeSampling
from lightning_interactions.references.trainer import quiet

__all__ = ["MeterSettings", "Preparation"]

BASELINE_SAMPLE = 256
"""So many training inputs are looked at to choose baseline values that depend on them (if there are)."""

TRIED = 2
"""So many training inputs tell whether the settings fit: with a single one, rows could not be told from anything else."""


@dataclass(frozen=True)
class MeterSettings:
    """What meters of a monitor are made with.

    Attributes:
        task: What is explained.
        players: The input variables; ``None`` if the inputs choose.
        baseline: What masked players are replaced with; ``None`` if the players choose.
        extraction: How values are evaluated and rewritten.
        seed: Seed of the global random states while the model runs.
    """

    task: Task
    players: Players | None
    baseline: Baseline | None
    extraction: Extraction
    seed: int

    def meter(self, evidence: Evidence, trainer: Trainer | None = None, *, alone: bool = False) -> InteractionMeter:
        """Make a meter.

        Args:
            evidence: What decides.
            trainer: The Trainer of the run, whose processes measure together; ``None`` if there is none.
            alone: Whether this process measures on its own all the same, and asks for no chance level.
        """
        ranks = Ranks()
        if trainer is not None and trainer.world_size > 1 and not alone:
            ranks = Ranks(trainer.global_rank, trainer.world_size, partial(trainer.strategy.reduce, reduce_op="sum"))
        return InteractionMeter(
            self.task,
            self.players,
            self.baseline,
            evidence,
            self.extraction,
            ranks=ranks,
            forward_context=None if trainer is None else forward_context(trainer, self.extraction),
            chance_level=not alone,
            seed=self.seed,
            trainer=trainer,
        )


class Preparation:
    """Gets the meter of a run ready, and keeps what it takes for a run that goes on with it.

    Args:
        settings: What meters are made with.
        evidence: What the user has chosen to decide; ``None`` for the default.
        sampling: Which inputs are measured.

    Attributes:
        settings: As given, or those of the last run that has begun.
        evidence: The evidence of the run.
        keeper: The probes of the run.
        meter: What measures.
        player_names: For training probes that follow each other how many they are, and what their players are called.
    """

    def __init__(self, settings: MeterSettings, evidence: Evidence | None, sampling: ProbeSampling) -> None:
        self.settings = settings
        self.evidence = RunEvidence(evidence)
        self.keeper = ProbeKeeper(sampling, settings.task)
        self.meter = settings.meter(self.evidence.current)
        self.player_names: list[dict[str, Any]] = []
        self._saved_task: dict[str, Any] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every split that has probes, or will have some, is prepared."""
        return not self.keeper.waiting and self.keeper.probes.keys() <= set(self.meter.splits)

    @property
    def known_settings(self) -> dict[str, Any]:
        """How measurements will be made, as far as it is known before there are inputs."""
        given = {"players": self.settings.players, "baseline": self.settings.baseline}
        later = {name for name, value in given.items() if value is None}
        if not self.settings.task.is_ready:
            later.add("loss_unit")
        return {name: value for name, value in self.meter.settings.items() if name not in later}

    @property
    def run_settings(self) -> dict[str, Any]:
        """How measurements are made, and of which training probes."""
        return {**self.meter.settings, "probes": digest(self.keeper.probes[TRAINING])}

    def begin(self, settings: MeterSettings, trainer: Trainer) -> None:
        """Begin a fit with a new meter; baseline values that were chosen before stay.

        Args:
            settings: What the meter is made with.
            trainer: The Trainer of the run.
        """
        settings.task.begin(self._saved_task)
        baseline_values = self.meter.baseline_values
        self.settings, self.meter = settings, settings.meter(self.evidence.current, trainer)
        self.meter.baseline_values = baseline_values
        self.keeper.forward_context = forward_context(trainer, settings.extraction)

    def check_settings(self, trainer: Trainer, model: LightningModule) -> None:
        """Find out before evidence is fitted, which takes long, whether players, baseline and task fit the data.

        A trial with two training inputs, of which nothing is kept. What it takes for wrong is tried again with the inputs that
        will be measured, so that nothing is refused that would work. Modules that can be understood only after a first batch,
        and data that can only be watched, are checked when there is a batch; runs of several processes when they are prepared,
        as these draw together and one that fails would keep the others waiting.

        Args:
            trainer: The Trainer of the run.
            model: The module that it trains.

        Raises:
            MisconfigurationException: If loaders or probes are not what is needed.
            ValueError: If inputs, outputs or labels do not fit players, baseline or task.
        """
        if self.evidence.is_fitted or trainer.world_size > 1:
            return
        own = self.keeper.sampling
        try:
            with quiet():
                warnings.simplefilter("ignore")  # What is to be said is said when the run is prepared.
                self._try(trainer, model, replace(own, training=own.given(TRAINING) or TRIED, held_out=0))
        except FirstBatchError:
            return
        except Exception:
            with suppress(FirstBatchError):
                self._try(trainer, model, replace(own, held_out=0))

    def _try(self, trainer: Trainer, model: LightningModule, sampling: ProbeSampling) -> None:
        """Prepare a meter with training inputs, and forget it."""
        check_shapes(model)
        task, players = self.settings.task, self.settings.players
        settings = replace(
            self.settings,
            # They remember what they have seen.
            task=copy.deepcopy(task) if isinstance(task, OwnStep) else task,
            players=copy.deepcopy(players) if isinstance(players, Some) else players,
        )
        keeper = ProbeKeeper(sampling, settings.task)
        keeper.forward_context = self.keeper.forward_context
        with self.shadow(trainer, model) as shadow:
            keeper.find(trainer, shadow, self._sample_size)
        if TRAINING in keeper.probes:
            with dtypes_named(trainer, self.settings.extraction):
                trial = settings.meter(OrderShape(), trainer, alone=True)
                trial.prepare({TRAINING: keeper.probes[TRAINING]}, model=model, sample=keeper.sample)

    def fit_evidence(self, trainer: Trainer, model: LightningModule) -> None:
        """Let the evidence fit itself; see :meth:`RunEvidence.fit`."""
        self.evidence.fit(trainer, model, self.settings.task)
        self.meter.evidence = self.evidence.current

    def find(self, trainer: Trainer, model: LightningModule) -> tuple[str, ...]:
        """Draw the probes, and prepare the splits that have some; those of data that can only be watched come later.

        Args:
            trainer: The Trainer of the run.
            model: The module that it trains.

        Returns:
            The names of the splits that are prepared now and were not before.

        Raises:
            FirstBatchError: If the module can be understood only after a first batch.
            OtherProbesError: If the probes of the run that is gone on with are others now.
            MisconfigurationException: If loaders, probes or reference models are not what is needed.
            ValueError: If inputs, outputs or labels do not fit players, baseline or task.
        """
        self.keeper.refused = self.evidence.refused
        return self._prepare(trainer, model, partial(self.keeper.find, sample_size=self._sample_size))

    def take(self, trainer: Trainer, model: LightningModule, *, ends_epoch: bool) -> tuple[str, ...]:
        """Prepare splits whose probes have passed; see :meth:`find`.

        Args:
            trainer: The Trainer of the run.
            model: The module that it trains.
            ends_epoch: Whether as many inputs as have passed are enough, because more will not.
        """
        return self._prepare(trainer, model, self.keeper.take_passed if ends_epoch else self.keeper.take_complete)

    def check_first(self, trainer: Trainer, model: LightningModule) -> None:
        """Say at once what is wrong with the first batch that has passed, if it is the first.

        Args:
            trainer: The Trainer of the run.
            model: The module that it trains.

        Raises:
            ValueError: If inputs, outputs or labels do not fit players, baseline or task.
        """
        if not self.keeper.unchecked:
            return
        with self.shadow(trainer, model) as shadow:
            first = self.keeper.check_first(shadow)
        # Other evidence has work to do before.
        trial = self.settings.meter(OrderShape(), trainer, alone=True)
        with dtypes_named(trainer, self.settings.extraction):
            trial.prepare(first, model=model)

    @contextmanager
    def shadow(self, trainer: Trainer | None, model: LightningModule) -> Iterator[LightningModule]:
        """Run the body with a copy of the module that leaves no trace."""
        with (
            shadowed(model, model.device, self.settings.seed, trainer) as shadow,
            dtypes_named(trainer, self.settings.extraction),
        ):
            yield shadow

    def meter_alone(self, trainer: Trainer | None) -> InteractionMeter:
        """Make a meter with the players and baseline values of the run, for other inputs and for this process alone."""
        meter = self.settings.meter(self.evidence.current, trainer, alone=True)
        meter.players, meter.baseline_values = self.meter.players, self.meter.baseline_values
        return meter

    def forget(self) -> None:
        """Begin a new run."""
        self.evidence.forget()
        self.keeper.load_state_dict({})
        self.meter = self.settings.meter(self.evidence.current)
        self.player_names, self._saved_task = [], {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that is gone on with needs to measure in the same way, in primitives and tensors."""
        players, baseline = self.meter.players, self.meter.baseline_values
        return {
            "task": self.settings.task.state_dict() or self._saved_task,
            "player_names": self.player_names,
            "players": players.state() if isinstance(players, Some) else {},
            "baseline": None if baseline is None else {name: value.cpu() for name, value in baseline.items()},
            "forwards": self.meter.forwards,
            **self.evidence.state_dict(self.meter.ratings),
            **self.keeper.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self._saved_task = state_dict["task"]
        self.player_names = state_dict["player_names"]
        if isinstance(self.settings.players, Some):
            self.settings.players.load(state_dict["players"])
        self.evidence.load_state_dict(state_dict)
        self.keeper.load_state_dict(dict(state_dict))
        self.meter.evidence, self.meter.baseline_values = self.evidence.current, state_dict["baseline"]

    @property
    def _sample_size(self) -> int:
        """How many training inputs baseline values are chosen by, at least; 0 if the probes are enough."""
        baseline = self.settings.baseline
        return BASELINE_SAMPLE if baseline is not None and baseline.needs_sample else 0

    def _prepare(
        self, trainer: Trainer, model: LightningModule, get_probes: Callable[[Trainer, LightningModule], None]
    ) -> tuple[str, ...]:
        with self.shadow(trainer, model) as shadow:
            get_probes(trainer, shadow)
        probes = self.keeper.probes
        new = {name: own for name, own in probes.items() if name not in self.meter.splits}
        if TRAINING not in probes or not new:  # Training inputs have yet to pass, and the baseline values with them.
            return ()
        ratings = {name: self.evidence.ratings[name] for name in new if name in self.evidence.ratings}
        if not self.evidence.is_fitted and len(ratings) < len(new):
            self.fit_evidence(trainer, model)
        if TRAINING in new and TRAINING not in ratings:
            self.evidence.recognise(new[TRAINING].fingerprints, self.keeper.indices)
            self.meter.evidence = self.evidence.current
        with dtypes_named(trainer, self.settings.extraction), shown(self.meter, trainer):
            self.meter.prepare(new, model=model, sample=self.keeper.sample, ratings=ratings)
        self.keeper.sample = None  # The baseline values are chosen.
        if TRAINING in new:
            self._name_players()
        return tuple(new)

    def _name_players(self) -> None:
        players = self.meter.players
        assert players is not None
        groups = [group.inputs for group in self.keeper.probes[TRAINING].groups]
        with Attempt("InteractionMonitor: naming the players"):  # Only reports need names.
            self.player_names = [
                {"probes": number, "names": [label or name for label, name in zip(labels, names, strict=True)]}
                for inputs in groups
                for names in [players.names(inputs)]
                for number, labels in (
                    [(1, own) for own in players.labels(inputs)] if players.rows_differ else [(len(inputs), names)]
                )
            ]
