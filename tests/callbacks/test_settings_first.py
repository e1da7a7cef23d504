"""Settings are tried on the data before evidence is fitted, which takes long."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions import Extraction, InteractionMonitor, ProbeSampling, Twins, baselines, players, tasks
from lightning_interactions.callbacks.preparation import Preparation
from lightning_interactions.references import ReferenceTraining
from tests.callbacks.runs import assert_same_history
from tests.helpers.models import GloballyAugmentedDataset, StreamedDataset, TabularClassifier, tabular_data, tabular_loader
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer

pytestmark = TINY_SET_UP

DATA = tabular_data(60, seed=2)


class CountsSteps(Callback):
    """Counts the steps of training of twins."""

    def __init__(self) -> None:
        self.steps = 0

    def __deepcopy__(self, _memo: Any) -> "CountsSteps":
        return self

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.steps += 1


def monitor_of(**options: Any) -> tuple[InteractionMonitor, CountsSteps]:
    counts = CountsSteps()
    evidence = Twins(ReferenceTraining(patience=None, trainer={"callbacks": counts}))
    return InteractionMonitor(evidence=evidence, **{"probes": ProbeSampling(8, 4), **options}), counts


def fit(root: Path, monitor: InteractionMonitor, model: Any = TabularClassifier, data: Any = DATA, **options: Any) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    trainer = quiet_trainer(root, callbacks=[monitor], max_epochs=1, **options)
    trainer.fit(model(), DataLoader(data, batch_size=8, shuffle=True), tabular_loader(16, seed=1))


class TwoOutputs(tasks.Regression):
    """Expects one output, and gets three."""


class OddBaseline(baselines.Zeros):
    def value(self, leaves: Any) -> Tensor:
        return torch.zeros(7)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"players": players.ImagePatches(3, 3)}, "ImagePatches"),
        ({"players": players.FeatureGroups({"a": [0, 1], "b": [2, 3, 4, 5, 6]})}, "players"),
        ({"extraction": Extraction(max_players=2)}, "max_players"),
        ({"task": TwoOutputs()}, "Regression|TwoOutputs|output"),
        ({"baseline": OddBaseline()}, "baseline"),
    ],
    ids=["players", "features", "number of players", "task", "baseline"],
)
def test_what_does_not_fit_is_refused_before_a_twin_takes_a_step(tmp_path: Path, options: Any, named: str) -> None:
    monitor, counts = monitor_of(**options)
    with pytest.raises((ValueError, IndexError), match=named):
        fit(tmp_path, monitor)
    assert counts.steps == 0
    assert not monitor.history


@pytest.mark.slow
def test_the_trial_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some() -> InteractionMonitor:
        return monitor_of(players=players.Some(players.FeatureGroups(), number=2))[0]

    ended, monitors = [], []
    for tries in (True, False):
        if not tries:
            monkeypatch.setattr(Preparation, "check_settings", lambda *_given: None)
        made: list[nn.Module] = []
        monitors.append(some())
        fit(
            tmp_path,
            monitors[-1],
            model=lambda made=made: made.append(TabularClassifier()) or made[0],
            data=GloballyAugmentedDataset(DATA),
        )
        ended.append([nn.utils.parameters_to_vector(made[0].parameters()), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*ended, strict=True))
    one, other = monitors
    assert_same_history(one.history, other.history, 0.0)
    assert one._preparation.keeper.indices == other._preparation.keeper.indices
    assert one.state_dict()["task"] == other.state_dict()["task"]
    own, without = (monitor.state_dict()["players"] for monitor in monitors)
    assert own.keys() == without.keys()


@pytest.mark.slow
def test_what_fails_with_few_inputs_alone_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = Preparation._try

    def picky(self: Preparation, trainer: Trainer, model: LightningModule, sampling: ProbeSampling) -> None:
        asked.append(sampling.training)
        if sampling.training == 2:
            raise KeyError("too few")
        real(self, trainer, model, sampling)

    monkeypatch.setattr(Preparation, "_try", picky)
    monitor, counts = monitor_of()
    fit(tmp_path, monitor)
    assert asked == [2, 8]
    assert counts.steps > 0
    assert len(monitor.history) == 2


@pytest.mark.parametrize("given", [False, True], ids=["drawn", "handed in"])
@pytest.mark.slow
def test_it_is_tried_once_and_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    tried: list[Any] = []
    real = Preparation._try

    def noting(self: Preparation, trainer: Trainer, model: LightningModule, sampling: ProbeSampling) -> None:
        warnings.warn("what the trial says", stacklevel=2)
        tried.append(sampling.number("training"))
        real(self, trainer, model, sampling)

    monkeypatch.setattr(Preparation, "_try", noting)
    sampling = ProbeSampling((DATA.tensors[0][:6], DATA.tensors[1][:6]) if given else 8, 4)
    monitor, _ = monitor_of(probes=sampling)
    fit(tmp_path, monitor)
    assert tried == [0 if given else 2]


class LazyClassifier(TabularClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.slow
def test_what_can_be_understood_only_later_goes_on(tmp_path: Path) -> None:
    lazy, counts = monitor_of()
    fit(tmp_path, lazy, model=LazyClassifier)
    assert counts.steps > 0
    assert lazy.history
    stream = InteractionMonitor(probes=ProbeSampling(training=6, held_out=4))
    trainer = quiet_trainer(tmp_path, callbacks=[stream], max_epochs=1)
    train = DataLoader(StreamedDataset(DATA, 24), batch_size=8)
    with pytest.warns(UserWarning, match="of an IterableDataset"):
        trainer.fit(TabularClassifier(), train, tabular_loader(16, seed=1))
    assert stream.history
