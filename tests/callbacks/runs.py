"""What the tests of the callbacks share: monitors of few probes, loggers, scripted phases, comparing histories."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_interactions import Extraction, InteractionMonitor, Logging, ProbeSampling
from lightning_interactions.evidence import Evidence, ReferenceModels
from lightning_interactions.functional import coalition_orders
from lightning_interactions.players import FeatureGroups
from lightning_interactions.records import (
    EvidenceWeights,
    History,
    Interactions,
    Measurement,
    Phase,
    PhaseTest,
    Probes,
    Rows,
    fingerprints,
)
from tests.helpers.models import TabularClassifier
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer

__all__ = ["TINY_SET_UP", "quiet_trainer"]

GROUPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "probes": (ProbeSampling, {"training": 6, "held_out": 4}),
    # Loose interactions take a fraction of the time, and what is compared is measured alike.
    "extraction": (Extraction, {"tolerance": 0.3}),
    "logging": (Logging, {"figures": None}),
}


def few(**options: Any) -> InteractionMonitor:
    """Monitor a few probes loosely and without figures, with evidence that costs nothing.

    Args:
        options: Arguments of the monitor, and fields of its groups of settings by their own names.
    """
    settings: dict[str, Any] = {"evidence": SinglePlayers()}
    for name, (group, defaults) in GROUPS.items():
        own = {field: options.pop(field) for field in group.__dataclass_fields__ if field in options}
        settings[name] = group(**{**defaults, **own})
    return InteractionMonitor(**{**settings, **options})


def probes_of(monitor: InteractionMonitor, split: str) -> Tensor:
    """The inputs of the probes, of which one tensor is no target."""
    return inputs_of(monitor.state_dict()["probes"][split])


def inputs_of(saved: list[dict[str, Any]]) -> Tensor:
    """The inputs of saved probes of one group, of which one tensor is no target."""
    (group,) = Probes.from_state(saved).groups
    (inputs,) = group.inputs.leaves.values()
    return inputs


def prints_of_pairs(inputs: Tensor, targets: Tensor) -> list[str]:
    """The fingerprints that the default task's probes have of batches ``(inputs, targets)``."""
    return fingerprints(Rows.of((inputs, targets)).with_aside({"1"}))


def fewest(**options: Any) -> InteractionMonitor:
    """Monitor two probes of each split with two players, where it does not matter what is measured."""
    groups = FeatureGroups(groups=[[0, 1], [2, 3]])
    return few(**{"training": 2, "held_out": 2, "players": groups, **options})


class SinglePlayers(Evidence):
    """Evidence that costs nothing: single players generalize, larger sets do not."""

    def weigh(self, interactions: Interactions, threshold: float, **_others: Any) -> EvidenceWeights:
        effects = interactions.effects
        orders = coalition_orders(effects.shape[-1].bit_length() - 1)
        weights = (orders == 1).to(effects).expand_as(effects)
        return EvidenceWeights(weights, 0.5 * weights)


class RecordingLogger(Logger):
    """Remembers what it is asked to log.

    Attributes:
        calls: ``(step, metrics)`` in the order of time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "recording"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, *_args: Any, **_options: Any) -> None:
        pass

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append((step, dict(metrics)))


class FailingLogger(RecordingLogger):
    """Breaks down at step 0, before training."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if step == 0:
            raise OSError("disk full")
        super().log_metrics(metrics, step)


class RefusingLogger(RecordingLogger):
    """Breaks down at whatever holds one tag, at any step.

    Args:
        tag: The tag.
    """

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.tag in metrics:
            raise OSError("disk full")
        super().log_metrics(metrics, step)


def other_models(count: int = 2, **options: Any) -> list[LightningModule]:
    """Make modules with other weights than the monitored one, and leave the global random state alone."""
    models: list[LightningModule] = []
    for seed in range(count):
        with torch.random.fork_rng():
            torch.manual_seed(1000 + seed)
            models.append(TabularClassifier(**options))
    return models


def other_references(**options: Any) -> ReferenceModels:
    """Make reference models without training them."""
    return ReferenceModels(other_models(**options))


@dataclass(frozen=True)
class Scripted:
    """What the detector says at one measurement.

    Attributes:
        number: The phase that the run is in.
        onset: Position of the measurement at which the phase began, if it is not the one at which it is detected.
        tests: For a phase, the position of the measurement at which it would have begun, and its p-value.
        confidence: Of the detection; ``1 - alpha`` if left out.
    """

    number: int
    onset: int | None = None
    tests: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    confidence: float | None = None


def script_phases(monkeypatch: pytest.MonkeyPatch, script: Sequence[int | Scripted]) -> None:
    """Let the detector find these phases, one at each measurement; the last one goes on."""
    steps = [Scripted(step) if isinstance(step, int) else step for step in script]

    def scripted(measurements: Sequence[Measurement], *, alpha: float) -> tuple[Phase, ...]:
        times = [measurement.time for measurement in measurements]
        found: list[Phase] = []
        for position, time in enumerate(times):
            said = steps[min(position, len(steps) - 1)]
            tests = tuple(PhaseTest(phase, times[at], p_value) for phase, (at, p_value) in said.tests.items())
            if not found or found[-1].number != said.number:
                onset = time if said.onset is None else times[said.onset]
                confidence = 1 - alpha if said.confidence is None else said.confidence
                found.append(Phase(said.number, onset, time, confidence, {}, tests))
            else:
                found.append(replace(found[-1], tests=tests))
        return tuple(found)

    monkeypatch.setattr("lightning_interactions.callbacks.interaction_monitor.detect_phases", scripted)


def assert_same_history(actual: History, expected: History, tolerance: float) -> None:
    """Compare every number of two histories but the seconds; NaN equals NaN."""
    assert actual.epochs == expected.epochs
    states = [{**history.to_dict(), "seconds": None} for history in (actual, expected)]
    _assert_close(*states, tolerance, "")


def largest_difference(actual: History, expected: History) -> float:
    """Return the largest difference of two histories' numbers but the seconds, of themselves where they are larger than 1."""
    states = ({**history.to_dict(), "seconds": None} for history in (actual, expected))
    numbers, others = (torch.tensor(list(_numbers(state)), dtype=torch.float64) for state in states)
    assert torch.equal(numbers.isnan(), others.isnan())
    return float(((numbers - others).abs() / others.abs().clamp(min=1)).nan_to_num(0).max())


def _numbers(state: Any) -> Iterator[float]:
    if isinstance(state, (dict, list)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _numbers(part)
    elif isinstance(state, Tensor):
        yield from state.double().flatten().tolist()
    elif isinstance(state, (int, float)):
        yield float(state)


def _assert_close(actual: Any, expected: Any, tolerance: float, where: str) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            _assert_close(actual[key], expected[key], tolerance, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for place, (one, other) in enumerate(zip(actual, expected, strict=True)):
            _assert_close(one, other, tolerance, f"{where}/{place}")
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(
            actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(actual), where
    else:
        expected = pytest.approx(expected, rel=tolerance, abs=tolerance) if isinstance(expected, float) else expected
        assert actual == expected, where


def log_odds_of(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """Compute ``log p/(1-p)`` of the target class from probabilities, in float64."""
    with torch.no_grad():
        probabilities = model(inputs).double().softmax(dim=1)
    return probabilities.gather(1, targets[:, None])[:, 0].logit()
