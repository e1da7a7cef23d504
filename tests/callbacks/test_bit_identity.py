import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping, tasks
from lightning_interactions.evidence import ParameterNoise
from lightning_interactions.measuring.isolation import preserve_random_state, shadowed
from lightning_interactions.schedules import EveryNSteps
from tests.callbacks.runs import TINY_SET_UP, Scripted, SinglePlayers, few, other_references, quiet_trainer, script_phases
from tests.helpers.models import (
    GloballyAugmentedDataset,
    ImageClassifier,
    SelfAugmentedDataset,
    StreamedDataset,
    TabularClassifier,
    image_data,
    tabular_data,
    tabular_loader,
)

pytestmark = [
    *TINY_SET_UP,
    # Python 3.12 and later says this where a loader forks its worker; so does every training run with workers there.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

CPU = torch.device("cpu")

LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "shuffled": lambda: tabular_loader(20, shuffle=True),
    "a worker": lambda: tabular_loader(20, shuffle=True, num_workers=1),
    "own generator": lambda: tabular_loader(20, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "augmented": lambda: DataLoader(GloballyAugmentedDataset(tabular_data(20)), batch_size=8, shuffle=True),
    "augmented from a generator of its own": lambda: DataLoader(
        SelfAugmentedDataset(tabular_data(20)), batch_size=8, shuffle=True
    ),
    "streamed": lambda: DataLoader(StreamedDataset(GloballyAugmentedDataset(tabular_data(20)), 20), batch_size=8),
}


def random_states() -> list[Any]:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    return [python, numpy["state"]["key"].tolist(), numpy["state"]["pos"], torch.get_rng_state().tolist()]


def train(root: Path, loader: str, seed: int, callbacks: list[Callback], **options: Any) -> tuple[dict[str, Tensor], list[Any]]:
    """Train for two epochs from a seed; return the state of the module, and the global random states at the end."""
    seed_everything(seed, verbose=False)
    model = TabularClassifier()
    val = DataLoader(GloballyAugmentedDataset(tabular_data(12, seed=1)), batch_size=8)
    quiet_trainer(root, callbacks=callbacks, **options).fit(model, LOADERS[loader](), val)
    return {name: value.clone() for name, value in model.state_dict().items()}, random_states()


@cache
def trained_alone(root: Path, loader: str, seed: int) -> tuple[dict[str, Tensor], list[Any]]:
    return train(root, loader, seed, [])


def monitored(evidence: Any, schedule: Any = None) -> list[Callback]:
    monitor = few(evidence=evidence, schedule=schedule, training=4, held_out=3)
    return [monitor, PhaseEarlyStopping(log_only=True)]


@pytest.mark.parametrize("loader", ["shuffled", "augmented"])
def test_training_is_bit_identical_while_onsets_are_kept(root: Path, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script_phases(monkeypatch, [Scripted(1, tests={3: (0, 0.5)}), Scripted(1, tests={3: (1, 0.5)}), Scripted(3, onset=1)])
    keeping = PhaseEarlyStopping(log_only=True, restore_best=True)
    monitor = few(training=4, held_out=3)
    assert_same(train(root, loader, 0, [monitor, keeping]), trained_alone(root, loader, 0))
    assert Path(keeping.best_model_path).exists()


def assert_same(actual: tuple[dict[str, Tensor], list[Any]], expected: tuple[dict[str, Tensor], list[Any]]) -> None:
    assert actual[0].keys() == expected[0].keys()
    for name in expected[0]:
        assert torch.equal(actual[0][name], expected[0][name]), name
    assert actual[1] == expected[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("loader", LOADERS)
def test_training_is_bit_identical_with_and_without_the_callbacks(root: Path, loader: str, seed: int) -> None:
    assert_same(train(root, loader, seed, monitored(ParameterNoise())), trained_alone(root, loader, seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("loader", ["shuffled", "augmented"])
def test_training_is_bit_identical_with_reference_models(root: Path, loader: str, seed: int) -> None:
    assert_same(train(root, loader, seed, monitored(other_references())), trained_alone(root, loader, seed))


@pytest.mark.parametrize(
    "options", [{"num_sanity_val_steps": 0}, {"check_val_every_n_epoch": 2}, {"limit_train_batches": 2}], ids=str
)
@pytest.mark.slow
def test_training_is_bit_identical_whenever_validation_is_set_up(root: Path, options: dict[str, Any]) -> None:
    assert_same(train(root, "augmented", 0, monitored(SinglePlayers()), **options), train(root, "augmented", 0, [], **options))


@pytest.mark.parametrize(
    "loader", ["a worker", "streamed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("own generator", "augmented"))]
)
@pytest.mark.slow
def test_training_is_bit_identical_with_measurements_within_epochs(root: Path, loader: str) -> None:
    monitor, stopping = monitored(SinglePlayers(), EveryNSteps(1))
    assert_same(train(root, loader, 0, [monitor, stopping]), trained_alone(root, loader, 0))
    assert isinstance(monitor, InteractionMonitor)
    assert monitor.history.steps == list(range(1 if loader == "streamed" else 0, 7))


class Recorder(Callback):
    """Keeps everything that a batch leaves behind: gradients, the optimizer's state, training flags and random states."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.others: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_args: Any) -> None:
        tensors = [parameter.grad for parameter in pl_module.parameters()]
        for state in trainer.optimizers[0].state.values():
            tensors += state.values()
        self.tensors += [tensor.clone() for tensor in tensors if isinstance(tensor, Tensor)]
        flags = [module.training for module in pl_module.modules()]
        self.others.append((flags, [tensor is None for tensor in tensors], torch.is_grad_enabled(), random_states()))


@pytest.mark.slow
def test_measurements_among_accumulated_batches_leave_gradients_and_optimizer_as_they_are(root: Path) -> None:
    recorders = Recorder(), Recorder()
    options: dict[str, Any] = {"accumulate_grad_batches": 2}
    with_monitor = train(root, "shuffled", 0, [*monitored(ParameterNoise(), EveryNSteps(1)), recorders[0]], **options)
    assert_same(with_monitor, train(root, "shuffled", 0, [recorders[1]], **options))
    monitored_run, alone = recorders
    assert monitored_run.others == alone.others
    assert len(monitored_run.tensors) == len(alone.tensors) > 0
    assert all(map(torch.equal, monitored_run.tensors, alone.tensors))


def test_training_is_bit_identical_with_persistent_workers_and_images(root: Path) -> None:
    def run(callbacks: list[Callback]) -> tuple[dict[str, Tensor], list[Any]]:
        seed_everything(3, verbose=False)
        model = ImageClassifier()
        loader = DataLoader(image_data(16), batch_size=8, shuffle=True, num_workers=1, persistent_workers=True)
        monitored_on = DataLoader(image_data(8, seed=1), batch_size=8)
        quiet_trainer(root, callbacks=callbacks).fit(model, loader, monitored_on)
        return model.state_dict(), random_states()

    monitor = few(training=2, held_out=2)
    assert_same(run([monitor]), run([]))
    assert monitor.history.epochs == [0, 1, 2]


def test_two_seeds_train_differently(root: Path) -> None:
    first, second = (trained_alone(root, "shuffled", seed)[0] for seed in (0, 1))
    assert not torch.equal(first["network.0.weight"], second["network.0.weight"])


class Restless(nn.Module):
    """Changes a buffer in place, puts another tensor into a second one, and has a part that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(2))
        self.train()

    def train(self, mode: bool = True) -> "Restless":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.last = inputs.mean(dim=0)
        outputs: Tensor = self.norm(self.frozen(inputs))
        return outputs


@pytest.mark.parametrize("raises", [False, True])
def test_measuring_a_shadow_leaves_everything_as_it_was_whatever_its_body_changes(raises: bool) -> None:
    model = Restless()
    flags = {name: module.training for name, module in model.named_modules()}
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    values = {name: tensor.clone() for name, tensor in tensors.items()}
    before = random_states()
    with suppress(KeyError), shadowed(model, CPU, seed=3) as shadow:
        assert not any(module.training for module in shadow.modules())
        assert not torch.is_grad_enabled()
        assert random_states() != before
        shadow.norm.train()
        shadow(torch.randn(5, 2))
        for parameter in shadow.parameters():
            parameter.add_(1)
        random.random()
        np.random.standard_normal()
        if raises:
            raise KeyError("in the body")
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert torch.is_grad_enabled()
    assert random_states() == before
    for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
        assert torch.equal(tensor, values[name]), name
        assert tensor is tensors[name], name
    # The body did change the copy.
    assert shadow.calls == 1
    assert not torch.equal(shadow.norm.running_mean, model.norm.running_mean)


def test_measuring_a_shadow_lets_the_error_of_its_body_through() -> None:
    with pytest.raises(KeyError, match="in the body"), shadowed(nn.Linear(2, 2), CPU, seed=0):
        raise KeyError("in the body")


def test_measuring_a_shadow_keeps_a_disabled_gradient_disabled() -> None:
    with torch.no_grad():
        with shadowed(nn.Linear(2, 2), CPU, seed=0):
            pass
        assert not torch.is_grad_enabled()


def test_the_body_draws_the_same_numbers_in_every_run() -> None:
    def draw() -> tuple[float, float, float]:
        with preserve_random_state(CPU, seed=7):
            return random.random(), float(np.random.standard_normal()), torch.rand(()).item()

    first = draw()
    torch.rand(3)
    assert draw() == first


def test_a_run_that_fails_in_a_measurement_leaves_the_module_in_training_mode(tmp_path: Path) -> None:
    class Fails(tasks.Classification):
        def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
            raise KeyError("in the forward")

    model = TabularClassifier()
    monitor = few(task=Fails())
    with pytest.raises(KeyError, match="in the forward"):
        quiet_trainer(tmp_path, callbacks=[monitor]).fit(model, tabular_loader(), tabular_loader(12, seed=1))
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()
