"""The meter: everything that turns a model into a measurement, without Lightning."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.evidence import Evidence, ParameterNoise
from lightning_interactions.game.attribution import choose_players
from lightning_interactions.game.baselines import Baseline, check_baseline
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.independence import CompanyError, needs_rows_alone
from lightning_interactions.game.players import Players, default_players
from lightning_interactions.game.tasks import Classification, Task
from lightning_interactions.measuring.extraction import Extraction
from lightning_interactions.measuring.facts import facts_of
from lightning_interactions.measuring.isolation import preserve_random_state, shadowed
from lightning_interactions.measuring.split import Ranks, Split, from_columns
from lightning_interactions.records import EvidenceWeights, Interactions, Measurement, Probes, SplitMeasurement, TimePoint

__all__ = ["HELD_OUT", "TRAINING", "Extraction", "InteractionMeter", "Ranks"]

TRAINING, HELD_OUT = "training", "held_out"
"""Names of the splits."""

ForwardContext = Callable[[], AbstractContextManager[object]]


class InteractionMeter:
    """Measures which interactions a model has on fixed probes, and which of them generalize.

    The callback, commands, benchmarks and notebooks use this one object::

        meter = InteractionMeter(players=ImagePatches(3, 3))
        meter.prepare({"training": Probes.of((images, labels))})
        measurement = meter.measure(model)

    Measuring leaves no trace: a copy of the model is measured, and the global random states come back as they were.

    Args:
        task: Runs the model and says what is explained; classification if left out.
        players: The input variables; chosen by the inputs if left out.
        baseline: What masked players are replaced with; chosen by the players if left out, zeros for most.
        evidence: What decides how far an interaction generalizes; :class:`~lightning_interactions.evidence.ParameterNoise` if
            left out.
        extraction: How values are evaluated and rewritten.
        ranks: The processes that share the probes out; this one alone if left out.
        forward_context: In which forwards run, such as an autocast, for ``trainer_precision``, which does nothing without.
        chance_level: Whether evidence is also asked about other targets of the same inputs.
        seed: Seed of the global random states while the model runs.
        trainer: The Trainer of the run, of which the steps of modules see a stand-in; ``None`` if there is none.

    Attributes:
        baseline_values: Baseline value of each masked tensor; ``None`` before the first :meth:`prepare`.
        interactions: What the last measurement found of each split; empty before.
        weights: How far each of these interactions generalizes, ``[inputs, types, coalitions]`` in [0, 1].
        left_out: Why all probes of a split were left out of the last measurement, by its name; empty if none were.
        tick: Is told how many inputs have been extracted, each time that some have; ``None`` if nobody wants to know.

    Source:
        He et al. 2025 (arXiv 2505.06993).
    """

    def __init__(
        self,
        task: Task | None = None,
        players: Players | None = None,
        baseline: Baseline | None = None,
        evidence: Evidence | None = None,
        extraction: Extraction | None = None,
        *,
        ranks: Ranks | None = None,
        forward_context: ForwardContext | None = None,
        chance_level: bool = True,
        seed: int = 0,
        trainer: Any = None,
    ) -> None:
        self.trainer = trainer
        self.task = Classification() if task is None else task
        self.players = players
        self.baseline = baseline
        self.evidence = ParameterNoise() if evidence is None else evidence
        self.extraction = Extraction() if extraction is None else extraction
        self.ranks = Ranks() if ranks is None else ranks
        self.forward_context = forward_context
        self.chance_level = chance_level
        self.seed = seed
        self.baseline_values: dict[str, Tensor] | None = None
        self.interactions: dict[str, Interactions] = {}
        self.weights: dict[str, Tensor] = {}
        self.left_out: dict[str, str] = {}
        self.tick: Callable[[int], object] | None = None
        self._splits: dict[str, Split] = {}
        self._prepared: dict[str, Any] = {}

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(split.probes)}" for name, split in self._splits.items()) or "not prepared"
        return (
            f"InteractionMeter(task={self.task!r}, players={self.players!r}, baseline={self.baseline!r}, "
            f"evidence={self.evidence!r}, {self.extraction!r}; {splits})"
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are prepared."""
        return tuple(self._splits)

    @property
    def probes(self) -> dict[str, Probes]:
        """The probes of each split that is prepared."""
        return {name: split.probes for name, split in self._splits.items()}

    @property
    def forwards(self) -> int:
        """Forwards of one measurement at most, of all processes; equal masked versions of an input are evaluated once."""
        of_one_model = sum(len(split.probes) << split.game.num_players for split in self._splits.values())
        return of_one_model * (1 + self.evidence.models_beside)

    @property
    def settings(self) -> dict[str, Any]:
        """How measurements are made, by name, in primitives: two measurements can be compared where these are equal."""
        of_extraction = {
            name: value for name, value in asdict(self.extraction).items() if name not in ("max_players", "batch_size")
        }
        return {
            "task": repr(self.task),
            "players": repr(self.players),
            "baseline": repr(self.baseline),
            "evidence": repr(self.evidence),
            "chance_level": self.chance_level,
            **of_extraction,
            "loss_unit": self.task.loss_unit,
        }

    @property
    def ratings(self) -> dict[str, dict[str, Any]]:
        """What the evidence has prepared of each split, in primitives and tensors, where that is worth being saved."""
        states = {name: self.evidence.to_state(prepared) for name, prepared in self._prepared.items()}
        return {name: state for name, state in states.items() if state}

    def prepare(
        self,
        probes: Mapping[str, Probes],
        *,
        model: nn.Module | None = None,
        sample: Probes | None = None,
        ratings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "InteractionMeter":
        """Set up splits; the evidence does here what it does once. More splits may be added later.

        Args:
            probes: Probes by the name of their split, ``"training"`` and ``"held_out"``, on the device to measure on.
            model: A model that will be measured; if given, it is found out now whether it fits.
            sample: A larger sample of training inputs to choose the baseline value by; the training probes if left out.
            ratings: What :attr:`ratings` gave for the same splits of a run that is gone on with.

        Returns:
            The meter.

        Raises:
            ValueError: If there are too many players, or inputs, outputs or labels do not fit players, baseline or task.
        """
        if self.players is None and probes:
            self.players = default_players(next(iter(probes.values())).groups[0].inputs)
        with self._undisturbed(model, probes) as shadow:
            for name, part in probes.items():
                game = self._game(part, probes, sample)
                if shadow is not None:
                    choose_players(game, shadow)
                    game = self._checked(game, shadow, name)
                split = Split(game, self.extraction, self.ranks, self.chance_level, self.trainer, self._tick)
                saved = (ratings or {}).get(name)
                self._prepared[name] = self.evidence.prepare(split) if saved is None else self.evidence.from_state(saved)
                self._splits[name] = split
        return self

    def measure(self, model: nn.Module, time_point: TimePoint | None = None) -> Measurement:
        """Measure a model on the prepared probes.

        Args:
            model: Any module that the task can run, on any device.
            time_point: The moment of a run that this is; the beginning if left out.

        Raises:
            ValueError: If no training probes are prepared.
        """
        if TRAINING not in self._splits:
            raise ValueError(
                "InteractionMeter: expected training probes to measure on, got none; call prepare({'training': probes}) first"
            )
        begin = time.perf_counter()
        splits = self.measure_splits(model)
        moment = TimePoint(0, 0) if time_point is None else time_point
        learned_epochs = self.evidence.learned_epochs(self._prepared[TRAINING])
        is_early = learned_epochs > 0 and moment.epoch <= learned_epochs
        return Measurement(moment, time.perf_counter() - begin, splits[TRAINING], splits.get(HELD_OUT), is_early)

    def measure_splits(self, model: nn.Module) -> dict[str, SplitMeasurement]:
        """Measure a model on every split that is prepared, whatever its name."""
        failure: Exception | None = None
        shadow: nn.Module | None = None
        with ExitStack() as stack:
            try:
                shadow = stack.enter_context(self._undisturbed(model, self.probes))
                assert shadow is not None
                own = self._own_interactions(shadow)
            except Exception as error:
                if self.ranks.size == 1:
                    raise
                # The others wait for what this process found.
                failure = error
                own = [{name: split.nothing() for name, split in self._splits.items()}] * (1 + self.evidence.models_beside)
            interactions, *ratings = self._of_all_ranks(own)
            if failure is not None:
                raise failure
            # Other ranks may have measured what this one could not.
            measured = {name for name, found in interactions.items() if bool(found.offset.isfinite().any())}
            self.left_out = {name: reason for name, reason in self.left_out.items() if name not in measured}
            assert shadow is not None
            exact = {name: split.game.exact_losses(shadow) for name, split in self._splits.items()}
            weights = {name: self._weigh(name, interactions, [rating[name] for rating in ratings]) for name in self._splits}
            threshold, probes = self.extraction.threshold, self.probes
            facts = {
                name: facts_of(found, weights[name], threshold, self.task, probes[name], exact[name])
                for name, found in interactions.items()
            }
        # Together, and only where all went well.
        self.interactions, self.weights = interactions, {name: one.weights for name, one in weights.items()}
        return facts

    @contextmanager
    def _undisturbed(self, model: nn.Module | None, probes: Mapping[str, Probes]) -> Iterator[nn.Module | None]:
        """Run the body with a copy of a model, if there is one, and leave no trace."""
        device = next((part.device for part in probes.values()), torch.device("cpu"))
        if model is None:
            with preserve_random_state(device, self.seed):
                yield None
        else:
            with shadowed(model, device, self.seed, self.trainer) as shadow:
                yield shadow

    def _tick(self, inputs: int) -> None:
        if self.tick is not None:
            self.tick(inputs)

    def _checked(self, game: Game, model: nn.Module, name: str) -> Game:
        """Find out whether model, task and probes fit, and whether rows may be scored together."""
        game.check(model)
        try:
            reason = needs_rows_alone(game, model)
        except CompanyError as error:
            raise ValueError(f"{name} probes: {error}") from error
        if not reason:
            return game
        warnings.warn(f"{name} probes are measured row by row, which takes long: {reason}", stacklevel=2)
        return replace(game, batch_size=1)

    def _own_interactions(self, model: nn.Module) -> list[dict[str, Interactions]]:
        """Extract interactions of the model and of its raters on the inputs of every split that are this rank's."""
        own: list[dict[str, Interactions]] = []
        with closing(self.evidence.raters(model)) as raters:
            for measured in chain([model], raters):
                own.append({name: split.own_interactions(measured) for name, split in self._splits.items()})
                if len(own) == 1:
                    self.left_out = {name: split.left_out for name, split in self._splits.items() if split.left_out}
        if len(own) != 1 + self.evidence.models_beside:
            raise ValueError(
                f"{type(self.evidence).__name__}: expected as many raters as models_beside={self.evidence.models_beside}, "
                f"got {len(own) - 1}; return their number from models_beside"
            )
        return own

    def _of_all_ranks(self, own: list[dict[str, Interactions]]) -> list[dict[str, Interactions]]:
        """Put together what all ranks have found, with a single sum over them."""
        if self.ranks.size == 1:
            return own
        columns = [self._splits[name].to_columns(found) for of_model in own for name, found in of_model.items()]
        totals = self.ranks.total(torch.cat([part.flatten() for part in columns])).split([part.numel() for part in columns])
        whole = (from_columns(total.reshape(part.shape)) for total, part in zip(totals, columns, strict=True))
        return [{name: next(whole) for name in of_model} for of_model in own]

    def _weigh(self, name: str, interactions: Mapping[str, Interactions], ratings: Sequence[Interactions]) -> EvidenceWeights:
        """Ask the evidence how far the interactions on a split generalize."""
        return self.evidence.weigh(
            interactions[name],
            self.extraction.threshold,
            prepared=self._prepared[name],
            ratings=ratings,
            counterpart=next((other for key, other in interactions.items() if key != name), None),
        )

    def _game(self, part: Probes, probes: Mapping[str, Probes], sample: Probes | None) -> Game:
        assert self.players is not None
        if self.baseline is None:
            self.baseline = self.players.default_baseline(part.groups[0].inputs)
        if self.baseline_values is None:
            self.baseline_values = self._choose_baseline(probes.get(TRAINING, part) if sample is None else sample)
        for group in part.groups:
            leaves = group.inputs.leaves
            for name in self.players.leaves(group.inputs):
                check_baseline(
                    self.baseline.of_rows(self._baseline_of(name, part).to(leaves[name].device), leaves[name]), leaves[name]
                )
        game = Game(
            part,
            players=self.players,
            baseline={name: value.to(part.device) for name, value in self.baseline_values.items()},
            task=self.task,
            batch_size=self.extraction.batch_size,
            forward_context=self.forward_context if self.extraction.trainer_precision else None,
            kind_of_baseline=self.baseline,
        )
        if game.num_players > self.extraction.max_players:
            num_forwards = 2**game.num_players * sum(map(len, probes.values()))
            raise ValueError(
                f"players: {game.num_players} players would take {num_forwards:,} forwards at each measurement, and "
                f"max_players={self.extraction.max_players}; choose fewer players (a coarser grid, larger groups), or pass "
                f"extraction=Extraction(max_players={game.num_players}) if you mean it"
            )
        return game

    def _choose_baseline(self, sample: Probes) -> dict[str, Tensor]:
        assert self.players is not None
        assert self.baseline is not None
        names = self.players.leaves(sample.groups[0].inputs)
        return {name: self.baseline.value([group.inputs.leaves[name] for group in sample.groups]) for name in names}

    def _baseline_of(self, name: str, part: Probes) -> Tensor:
        """Return the baseline value of a leaf; of one with another name in other batches if there is but one."""
        assert self.baseline_values is not None
        if name not in self.baseline_values and len(self.baseline_values) == 1:
            self.baseline_values[name] = next(iter(self.baseline_values.values()))
        if name not in self.baseline_values:
            raise ValueError(
                f"baseline: expected inputs of which players mask {list(self.baseline_values)}, as those that the "
                f"baseline value was chosen by, got {name!r}; say which with the players' leaf="
            )
        return self.baseline_values[name]
