"""The meter: everything that turns a model into a measurement, without Lightning."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.evidence import Evidence, ParameterNoise, ProbeGame
from lightning_interactions.functional.extraction import extract_interactions
from lightning_interactions.game.baselines import Baseline, Zeros
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import Players, default_players
from lightning_interactions.game.tasks import Classification, Task
from lightning_interactions.measuring.facts import facts_of
from lightning_interactions.measuring.isolation import leave_no_trace
from lightning_interactions.records import Interactions, Measurement, Probes, SplitMeasurement, TimePoint

__all__ = ["HELD_OUT", "TRAINING", "Extraction", "InteractionMeter", "Ranks"]

TRAINING, HELD_OUT = "training", "held_out"
"""Names of the splits."""

ForwardContext = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Extraction:
    """How values are evaluated and rewritten as interactions.

    Attributes:
        threshold: Salience threshold ``τ`` in [0, 1), a fraction of an input's largest interaction.
        noise_tolerance: ``κ``: how far an output may be missed for fewer interactions, a fraction of ``|v(N) - v(∅)|``; 0
            matches all exactly. It is part of every result: strengths are lower with it.
        tolerance: Relative duality gap of the sparsest decomposition; the solver's own default if ``None``; see
            :func:`~lightning_interactions.functional.extract_interactions`. 1e-3 is about ten times as fast, and strengths
            differ by about 2 %. Outputs are matched anyway.
        max_players: Refuse more players than this: a measurement costs ``2^n`` forwards for each probe.
        batch_size: Masked inputs in one forward pass; lower it if they do not fit beside the training.
        trainer_precision: Run the forwards under the Trainer's autocast and TF32 setting, not in the dtype of the weights.

    Raises:
        ValueError: If a number makes no sense.
    """

    threshold: float = 0.05
    noise_tolerance: float = 0.0
    tolerance: float | None = None
    max_players: int = 16
    batch_size: int = 1024
    trainer_precision: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        limits = {
            "threshold": (0 <= self.threshold < 1, "in [0, 1)"),
            "noise_tolerance": (0 <= self.noise_tolerance < math.inf, "finite and at least 0"),
            "tolerance": (self.tolerance is None or 0 < self.tolerance < 1, "in (0, 1), or left out"),
            "max_players": (self.max_players >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
        }
        for name, (fits, expected) in limits.items():
            if not fits:
                raise ValueError(f"Extraction: expected {name} {expected}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Ranks:
    """The processes that share a measurement out.

    Attributes:
        rank: This process.
        size: Number of processes.
        total: Adds a tensor up over all of them.
    """

    rank: int = 0
    size: int = 1
    total: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor, repr=False)


class InteractionMeter:
    """Measures which interactions a model has on fixed probes, and which of them generalize.

    The callback, commands, benchmarks and notebooks use this one object::

        meter = InteractionMeter(players=ImagePatches(3, 3))
        meter.prepare({"training": Probes.of((images, labels))})
        measurement = meter.measure(model)

    Measuring leaves no trace: the model's weights, buffers and modes and the global random states come back as they were.

    Args:
        task: Runs the model and says what is explained; classification if left out.
        players: The input variables; chosen by the inputs if left out.
        baseline: What masked players are replaced with; zeros if left out.
        evidence: What decides how far an interaction generalizes; :class:`~lightning_interactions.evidence.ParameterNoise` if
            left out.
        extraction: How values are evaluated and rewritten.
        ranks: The processes that share the probes out; this one alone if left out.
        forward_context: In which forwards run, such as an autocast, for ``trainer_precision``.
        chance_level: Whether evidence is also asked about other targets of the same inputs.
        seed: Seed of the global random states while the model runs.

    Attributes:
        baseline_values: Baseline value of each masked tensor; ``None`` before the first :meth:`prepare`.
        interactions: What the last measurement found of each split; empty before.

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
    ) -> None:
        self.task = Classification() if task is None else task
        self.players = players
        self.baseline = Zeros() if baseline is None else baseline
        self.evidence = ParameterNoise() if evidence is None else evidence
        self.extraction = Extraction() if extraction is None else extraction
        self.ranks = Ranks() if ranks is None else ranks
        self.forward_context = forward_context
        self.chance_level = chance_level
        self.seed = seed
        self.baseline_values: dict[str, Tensor] | None = None
        self.interactions: dict[str, Interactions] = {}
        self._splits: dict[str, _Split] = {}
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
            **of_extraction,
            "loss_unit": self.task.loss_unit,
        }

    def prepare(
        self, probes: Mapping[str, Probes], *, model: nn.Module | None = None, sample: Probes | None = None
    ) -> "InteractionMeter":
        """Set up splits; the evidence does here what it does once. More splits may be added later.

        Args:
            probes: Probes by the name of their split, ``"training"`` and ``"held_out"``, on the device to measure on.
            model: A model that will be measured; if given, it is found out now whether it fits.
            sample: A larger sample of training inputs to choose the baseline value by; the training probes if left out.

        Returns:
            The meter.

        Raises:
            ValueError: If there are too many players, or inputs, outputs or labels do not fit players, baseline or task.
        """
        if self.players is None and probes:
            self.players = default_players(next(iter(probes.values())).groups[0].inputs)
        games = {name: self._game(part, probes, sample) for name, part in probes.items()}
        for name, game in games.items():
            split = _Split(name, game, self.extraction, self.ranks, self.chance_level)
            if model is not None:
                with leave_no_trace(model, game.probes.device, self.seed):
                    game.check(model)
            with leave_no_trace(nn.Identity() if model is None else model, game.probes.device, self.seed):
                self._prepared[name] = self.evidence.prepare(split)
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
        return Measurement(moment, time.perf_counter() - begin, splits[TRAINING], splits.get(HELD_OUT))

    def measure_splits(self, model: nn.Module) -> dict[str, SplitMeasurement]:
        """Measure a model on every split that is prepared, whatever its name."""
        device = next(iter(self._splits.values())).probes.device
        with leave_no_trace(model, device, self.seed):
            self.interactions, *ratings = self._measured_with_raters(model)
            return {name: self._judged(name, [one[name] for one in ratings]) for name in self._splits}

    def _measured_with_raters(self, model: nn.Module) -> list[dict[str, Interactions]]:
        """Extract interactions of the model and of its raters on every split, with a single sum over ranks."""
        own: list[dict[str, Interactions]] = []
        with closing(self.evidence.raters(model)) as raters:
            for measured in chain([model], raters):
                own.append({name: split.own_interactions(measured) for name, split in self._splits.items()})
        if self.ranks.size == 1:
            return own
        spread = [self._splits[name].spread(part) for found in own for name, part in found.items()]
        summed = self.ranks.total(torch.cat([columns.flatten() for columns in spread])).split([one.numel() for one in spread])
        whole = iter(total.reshape(columns.shape) for total, columns in zip(summed, spread, strict=True))
        return [{name: _from_columns(next(whole)) for name in found} for found in own]

    def _judged(self, name: str, ratings: Sequence[Interactions]) -> SplitMeasurement:
        interactions = self.interactions[name]
        weights = self.evidence.weigh(
            interactions,
            self.extraction.threshold,
            prepared=self._prepared[name],
            ratings=ratings,
            counterpart=next((other for key, other in self.interactions.items() if key != name), None),
        )
        return facts_of(interactions, weights, self.extraction.threshold, self.task, self._splits[name].probes)

    def _game(self, part: Probes, probes: Mapping[str, Probes], sample: Probes | None) -> Game:
        assert self.players is not None
        if self.baseline_values is None:
            self.baseline_values = self._choose_baseline(probes.get(TRAINING, part) if sample is None else sample)
        for group in part.groups:
            _check_baseline(self.baseline_values, group.inputs.leaves)
        game = Game(
            part,
            players=self.players,
            baseline={name: value.to(part.device) for name, value in self.baseline_values.items()},
            task=self.task,
            batch_size=self.extraction.batch_size,
            forward_context=self.forward_context if self.extraction.trainer_precision else None,
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
        names = self.players.leaves(sample.groups[0].inputs)
        return {name: self.baseline.value([group.inputs.leaves[name] for group in sample.groups]) for name in names}


class _Split(ProbeGame):
    """The game on the probes of one split, shared out over ranks.

    Each rank evaluates and extracts its own inputs, and gets everybody's. An input with NaN or infinite outputs gets NaN
    effects.
    """

    def __init__(self, name: str, game: Game, extraction: Extraction, ranks: Ranks, chance_level: bool) -> None:
        self.name = name
        self.game = game
        self.extraction = extraction
        self.ranks = ranks
        self.chance_level = chance_level
        self.probes = game.probes
        self.threshold = extraction.threshold

    def interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        """Return any model's interactions; see :class:`ProbeGame`."""
        own = self.own_interactions(model, rows)
        return own if self.ranks.size == 1 else _from_columns(self.ranks.total(self.spread(own, rows)))

    def with_other_targets(self) -> "list[_Split]":
        """Return the same with other targets; see :class:`ProbeGame`."""
        games = self.game.with_other_targets() if self.chance_level else []
        return [_Split(self.name, game, self.extraction, self.ranks, self.chance_level) for game in games]

    def own_interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        """Extract a model's interactions on this rank's inputs, of all or of some rows."""
        num_coalitions = 2**self.game.num_players
        own = self._own(rows)
        dtype = torch.promote_types(next(iter(self._masked_dtypes)), torch.float32)
        if not own:
            nothing = torch.zeros(0, 2, num_coalitions, dtype=dtype, device=self.probes.device)
            return Interactions(nothing, nothing[:, 0, 0])
        parameter = next(model.parameters(), None)
        home = self.probes.device if parameter is None else parameter.device
        try:
            model.to(self.probes.device)
            # The same dtype on every rank, whatever the model's.
            values = self.game.select(own).values(model).to(dtype)
        finally:
            model.to(home)
        finite = values.isfinite().all(dim=1)
        found = extract_interactions(
            values[finite], noise_tolerance=self.extraction.noise_tolerance, tolerance=self.extraction.tolerance
        )
        effects = values.new_full((len(values), 2, num_coalitions), torch.nan)
        offset = values.new_full((len(values),), torch.nan)
        effects[finite], offset[finite] = found.effects, found.offset
        return Interactions(effects, offset)

    def spread(self, own: Interactions, rows: Sequence[int] | None = None) -> Tensor:
        """Put this rank's inputs into their places among all of them, zeros elsewhere: ``[inputs, 2 * 2^n + 1]``."""
        asked = len(self.probes) if rows is None else len(rows)
        columns = torch.cat([own.effects.flatten(1), own.offset[:, None]], dim=1)
        everybodys = columns.new_zeros(asked, columns.shape[1])
        everybodys[torch.arange(asked, device=columns.device)[self.ranks.rank :: self.ranks.size]] = columns
        return everybodys

    def _own(self, rows: Sequence[int] | None) -> Sequence[int]:
        asked = range(len(self.probes)) if rows is None else rows
        return asked[self.ranks.rank :: self.ranks.size]

    @property
    def _masked_dtypes(self) -> list[torch.dtype]:
        inputs = self.probes.groups[0].inputs
        return [inputs.leaves[name].dtype for name in self.game.players.leaves(inputs)]


def _from_columns(columns: Tensor) -> Interactions:
    effects, offset = columns[:, :-1], columns[:, -1]
    return Interactions(effects.reshape(len(columns), 2, -1), offset)


def _check_baseline(values: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        if name not in leaves:
            raise ValueError(f"baseline: expected inputs with {name!r}, which players mask, got {list(leaves)}")
        shape = leaves[name].shape[1:]
        try:
            fits = torch.broadcast_shapes(value.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"baseline: expected a value that broadcasts to one input of shape {tuple(shape)}, got shape "
                f"{tuple(value.shape)}; leave out the batch axis, and use Zeros() for inputs of different shapes"
            )
