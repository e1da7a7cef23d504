"""What the tests of the callbacks share: quiet Trainers, a logger that remembers, scripted phases, comparing histories."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from lightning_interactions.evidence import InteractionsOf, Judge, ReferenceModels
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.records import Claim, History, Interactions, Measurement, Phase, Verdict
from tests.helpers.models import TabularClassifier

TINY_SET_UP = [
    # The data are a few rows in memory: workers would only take time.
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
    # The tests run on the CPU whatever else the machine has.
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    # Lightning 2.6 with torch 2.13; Lightning hides it itself, but not within pytest.warns.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def quiet_trainer(root: Path, **options: Any) -> Trainer:
    """Make a Trainer on the CPU that writes nothing but what the test asks for."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**settings, **options})


@dataclass(frozen=True)
class SinglePlayers:
    """Evidence that costs nothing: single players generalize, larger sets do not."""

    def prepare(
        self,
        interactions_of: InteractionsOf,
        threshold: float,
        for_other_targets: Sequence[InteractionsOf] = (),
        inputs: Tensor | None = None,
    ) -> Judge:
        def judge(_model: nn.Module, interactions: Interactions, _counterpart: Interactions | None = None) -> Verdict:
            effects = interactions.effects
            orders = coalition_masks(effects.shape[-1].bit_length() - 1).sum(dim=1)
            weights = (orders == 1).to(effects).expand_as(effects)
            return Verdict(weights, 0.5 * weights)

        return judge


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
        onset: Position of the measurement at which the phase began, if it is not the one at which it is called.
        claims: For a phase, the position of the measurement at which it would have begun, and the level of the claim.
        confidence: Of the call; ``1 - alpha`` if left out.
    """

    number: int
    onset: int | None = None
    claims: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    confidence: float | None = None


def script_phases(monkeypatch: pytest.MonkeyPatch, script: Sequence[int | Scripted]) -> None:
    """Let the detector call these phases, one for each measurement; the last one goes on."""
    steps = [Scripted(step) if isinstance(step, int) else step for step in script]

    def scripted(measurements: Sequence[Measurement], *, alpha: float) -> tuple[Phase, ...]:
        moments = [(measurement.epoch, measurement.global_step) for measurement in measurements]
        called: list[Phase] = []
        for position, moment in enumerate(moments):
            said = steps[min(position, len(steps) - 1)]
            claims = tuple(Claim(phase, *moments[at], level, "scripted") for phase, (at, level) in said.claims.items())
            if not called or called[-1].number != said.number:
                onset = moment if said.onset is None else moments[said.onset]
                confidence = 1 - alpha if said.confidence is None else said.confidence
                called.append(Phase(said.number, *onset, *moment, confidence, f"scripted as {said.number}", claims))
            else:
                called.append(replace(called[-1], claims=claims))
        return tuple(called)

    monkeypatch.setattr("lightning_interactions.callbacks.interaction_monitor.detect_phases", scripted)


def assert_same_history(actual: History, expected: History, tolerance: float) -> None:
    """Compare every number of two histories but the seconds; NaN equals NaN."""
    assert actual.epochs == expected.epochs
    for measurement, other in zip(actual.measurements, expected.measurements, strict=True):
        _assert_close({**asdict(measurement), "seconds": 0.0}, {**asdict(other), "seconds": 0.0}, tolerance, "")
    for phase, other_phase in zip(actual.phases, expected.phases, strict=True):
        assert (phase.number, phase.onset_epoch) == (other_phase.number, other_phase.onset_epoch)
        assert phase.reason == other_phase.reason
        _assert_close(phase.confidence, other_phase.confidence, tolerance, "confidence")


def _assert_close(actual: Any, expected: Any, tolerance: float, where: str) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            _assert_close(actual[key], expected[key], tolerance, f"{where}/{key}")
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(
            actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(actual), where
    else:
        assert actual == (pytest.approx(expected, rel=tolerance, abs=tolerance) if isinstance(expected, float) else expected), (
            where
        )


def log_odds_of(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """Compute ``log p/(1-p)`` of the target class from probabilities, in float64."""
    with torch.no_grad():
        probabilities = model(inputs).double().softmax(dim=1)
    return probabilities.gather(1, targets[:, None])[:, 0].logit()
