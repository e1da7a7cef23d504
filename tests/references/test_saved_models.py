import copy
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import ReferenceModels, fit_reference_models
from lightning_interactions.game.losses import CrossEntropy
from lightning_interactions.references.keys import describe, describe_module
from lightning_interactions.references.saved_models import ReferenceCache
from lightning_interactions.references.watching import SeenInputs
from tests.callbacks.runs import TINY_SET_UP
from tests.helpers.models import (
    Classifier,
    PlainTabularClassifier,
    SelfAugmentedDataset,
    StreamedDataset,
    TabularClassifier,
    UnvalidatedClassifier,
    tabular_data,
    tabular_loader,
)

pytestmark = TINY_SET_UP

DATA = tabular_data(60, seed=2)


class Trainings:
    """Counts models whose training has begun, and ends the process or the call at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.end_at = 0
        self.ending: Callable[[], None] = lambda: None
        patch.setattr(SeenInputs, "on_train_start", lambda *_args: self.begin())

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self.end_at:
            self.ending()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


def fit(cache_dir: Path | None, model: LightningModule | None = None, data: Any = None, **options: Any) -> ReferenceModels:
    settings: dict[str, Any] = {"num_models": 3, "accelerator": "cpu", "max_epochs": 2}
    loader = DataLoader(DATA, batch_size=8, shuffle=True) if data is None else data
    model = UnvalidatedClassifier() if model is None else model
    return fit_reference_models(model, loader, cache_dir=cache_dir, **{**settings, **options})


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def assert_same(one: ReferenceModels, other: ReferenceModels) -> None:
    assert one.seen == other.seen
    for model, expected in zip(one.models, other.models, strict=True):
        weights = expected.state_dict()
        assert model.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# What is kept


@pytest.mark.parametrize(
    "options",
    [{}, {"early_stopping": False}, {"folds": 2, "num_models": 1, "screen_labels": False, "early_stopping": False}],
    ids=str,
)
def test_models_come_back_bit_by_bit(tmp_path: Path, trainings: Trainings, options: dict[str, Any]) -> None:
    without = fit(None, **options)
    written = fit(tmp_path / "new" / "folder", **options)
    begun = trainings.begun
    read = fit(tmp_path / "new" / "folder", **options)
    assert trainings.begun == begun == 2 * len(without.models)
    assert len(files(tmp_path / "new" / "folder")) == len(without.models)
    for references in (written, read):
        assert_same(references, without)


def test_data_with_a_generator_of_its_own_gives_the_same_with_a_cache(tmp_path: Path, trainings: Trainings) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(SelfAugmentedDataset(DATA), batch_size=8, shuffle=True)

    without = fit(None, data=loader())
    fit(tmp_path, data=loader())
    files(tmp_path)[1].unlink()
    assert_same(fit(tmp_path, data=loader()), without)
    assert trainings.begun == 7


def test_more_models_are_trained_beside_those_that_are_there(tmp_path: Path, trainings: Trainings) -> None:
    fit(tmp_path, num_models=1)
    references = fit(tmp_path, num_models=3, vote="majority")
    assert trainings.begun == 3
    assert_same(references, fit(None))


def test_random_states_come_back_from_a_cached_fit(tmp_path: Path) -> None:
    model = UnvalidatedClassifier()
    fit(tmp_path, model, num_models=1)
    state = torch.get_rng_state()
    fit(tmp_path, model, num_models=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_made_in_setup_come_back(tmp_path: Path, trainings: Trainings) -> None:
    class MadeInSetup(Classifier):
        def __init__(self, width: int) -> None:
            super().__init__(nn.Identity())
            self.width = width
            self.save_hyperparameters()

        def setup(self, stage: str) -> None:
            if isinstance(self.network, nn.Identity):
                self.network = nn.Sequential(nn.Linear(4, self.width), nn.Tanh(), nn.Linear(self.width, 3))

    first, again = (fit(tmp_path, MadeInSetup(5)) for _ in range(2))
    assert trainings.begun == 3
    assert_same(first, again)


# A run that is ended


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_run_that_ends_in_an_error_keeps_what_it_has_finished(
    tmp_path: Path, trainings: Trainings, error: type[BaseException]
) -> None:
    def ending() -> None:
        raise error

    trainings.end_at, trainings.ending = 2, ending
    handler = signal.getsignal(signal.SIGINT)
    # Lightning turns an interrupt by keyboard into an exit.
    with pytest.raises((error, SystemExit)):
        fit(tmp_path)
    signal.signal(signal.SIGINT, handler)
    assert len(files(tmp_path)) == 1
    references = fit(tmp_path)
    # The second is begun again.
    assert trainings.begun == 4
    assert_same(references, fit(None))


def test_a_killed_process_keeps_what_it_has_finished(tmp_path: Path, trainings: Trainings) -> None:
    script = (
        "import os, signal, pytest\n"
        "from pathlib import Path\n"
        "from tests.callbacks.test_reference_cache import Trainings, fit\n"
        "trainings = Trainings(pytest.MonkeyPatch())\n"
        "trainings.end_at, trainings.ending = 3, lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"fit(Path({str(tmp_path)!r}))\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(files(tmp_path)) == 2
    references = fit(tmp_path)
    assert trainings.begun == 1
    assert_same(references, fit(None))


def test_a_file_that_is_being_written_is_not_taken_for_a_model(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_state: Any, file: Any) -> None:
        file.write(b"half a fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert files(tmp_path) == []
    fit(tmp_path)
    assert trainings.begun == 4


# Files that cannot be used


def flip_a_weight(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    next(iter(state["state_dict"].values())).view(-1)[0] += 1
    torch.save(state, path)


def forget_an_input(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["seen"].pop()
    torch.save(state, path)


class Dangerous:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("code from a cache file was run",))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:500]), ".+"),
    "empty": (lambda path: path.write_bytes(b""), ".+"),
    "text": (lambda path: path.write_text("no weights here"), ".+"),
    "code": (lambda path: torch.save({"key": Dangerous()}, path), ".*[Ww]eights.only.*"),
    "foreign": (lambda path: torch.save({"weights": torch.ones(2)}, path), "it holds no reference model of this data, model"),
    "list": (lambda path: torch.save([1, 2], path), "it holds no reference model of this data, model and settings"),
    "changed weights": (flip_a_weight, "its content is damaged"),
    "changed inputs": (forget_an_input, "its content is damaged"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_rebuilt(tmp_path: Path, trainings: Trainings, how: str) -> None:
    damage, reason = BROKEN[how]
    expected = fit(tmp_path)
    broken = files(tmp_path)[1]
    damage(broken)
    with pytest.warns(UserWarning, match=f"cache file .*{broken.name} is refused and its model trained again: {reason}"):
        references = fit(tmp_path)
    assert trainings.begun == 4
    assert_same(references, expected)
    assert_same(fit(tmp_path), expected)
    assert trainings.begun == 4


def test_the_file_of_another_model_is_refused(tmp_path: Path, trainings: Trainings) -> None:
    fit(tmp_path)
    first, second, _ = files(tmp_path)
    first.write_bytes(second.read_bytes())
    with pytest.warns(UserWarning, match=f"{first.name} is refused .* no reference model of this data"):
        fit(tmp_path)
    assert trainings.begun == 4


def test_files_load_with_weights_only(tmp_path: Path) -> None:
    fit(tmp_path, num_models=1)
    state = torch.load(files(tmp_path)[0], weights_only=True)
    assert set(state) == {"key", "state_dict", "seen", "digest"}


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        references = fit(tmp_path / "file", num_models=1)
    assert_same(references, fit(None, num_models=1))


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ((torch, "save"), RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file")),
        ((torch, "save"), OSError(errno.ENOSPC, "No space left on device")),
        ((os, "fsync"), OSError(errno.ENOSPC, "No space left on device")),
    ],
    ids=["torch's writer", "disk", "fsync"],
)
def test_a_disk_that_fills_costs_a_warning_and_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], error: Exception
) -> None:
    def full(*_args: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*where, full)
        with pytest.warns(UserWarning, match="cache file .* cannot be written: .*(failed writing file|No space left)"):
            references = fit(tmp_path, num_models=1)
    assert files(tmp_path) == []
    assert_same(references, fit(None, num_models=1))


# The key


def with_other_target() -> TensorDataset:
    inputs, targets = (tensor.clone() for tensor in DATA.tensors)
    targets[7] = (targets[7] + 1) % 3
    return TensorDataset(inputs, targets)


def with_other_input() -> TensorDataset:
    inputs, targets = (tensor.clone() for tensor in DATA.tensors)
    inputs[7, 1] += 1
    return TensorDataset(inputs, targets)


def wide() -> LightningModule:
    return PlainTabularClassifier(num_features=4, num_classes=4)


DIFFERENT: dict[str, dict[str, Any]] = {
    "input": {"data": DataLoader(with_other_input(), batch_size=8, shuffle=True)},
    "target": {"data": DataLoader(with_other_target(), batch_size=8, shuffle=True)},
    "batch size": {"data": DataLoader(DATA, batch_size=6, shuffle=True)},
    "order": {"data": DataLoader(DATA, batch_size=8)},
    "learning rate": {"model": UnvalidatedClassifier(learning_rate=0.01)},
    "class": {"model": TabularClassifier()},
    "factory": {"factory": wide},
    "seed": {"seed": 10},
    "epochs": {"max_epochs": 1},
    "patience": {"patience": 1},
    "early stopping": {"early_stopping": False},
    "folds": {"folds": 2, "screen_labels": False},
    "trainer": {"gradient_clip_val": 0.5},
    "score": {"score": lambda outputs, _targets: outputs[:, 0], "loss": lambda score, targets: (score - targets).square()},
    "loss": {"loss": CrossEntropy(label_smoothing=0.1, num_classes=3)},
    "callback": {"callbacks": EarlyStopping("loss", strict=False, check_on_train_epoch_end=True)},
    "validation": {"model": TabularClassifier(), "val_dataloaders": tabular_loader(16)},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_whatever_changes_the_result_trains_anew(
    tmp_path: Path, trainings: Trainings, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_args, **_options: trainings.begin())
    monkeypatch.setattr("lightning_interactions.references.trainer.warnings.warn", lambda *_args, **_options: None)
    before = {"model": TabularClassifier()} if what == "validation" else {}
    fit(tmp_path, num_models=1, **before)
    assert trainings.begun == 1
    options = DIFFERENT[what]
    fit(tmp_path, num_models=1, **options)
    more = 2 if what == "folds" else 1
    assert trainings.begun == 1 + more
    # The same once more, with objects that are equal and not the same, is there.
    fit(tmp_path, num_models=1, **{name: copy.deepcopy(value) for name, value in options.items()})
    assert trainings.begun == 1 + more


@pytest.mark.parametrize(
    "options",
    [
        {"vote": "all"},
        {"enable_progress_bar": True},
        {"data": DataLoader(DATA, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(7))},
        {"score": lambda outputs, _targets: outputs[:, 0], "early_stopping": False},
    ],
    ids=["vote", "progress bar", "loading order", "score that is not used"],
)
def test_what_does_not_change_the_result_is_no_part_of_the_key(
    tmp_path: Path, trainings: Trainings, options: dict[str, Any]
) -> None:
    fit(tmp_path, num_models=1, **({"early_stopping": False} if "early_stopping" in options else {}))
    fit(tmp_path, num_models=1, **options)
    assert trainings.begun == 1


def test_data_without_indices_is_refused(tmp_path: Path) -> None:
    streamed = DataLoader(StreamedDataset(DATA, 60), batch_size=8)
    with pytest.raises(MisconfigurationException, match=r"folds and cache_dir need data with indices.* got DataLoader"):
        fit(tmp_path, data=streamed)
    with pytest.raises(MisconfigurationException, match="cache_dir needs loaders whose data has indices, also in val"):
        fit(tmp_path, TabularClassifier(), val_dataloaders=[tabular_loader(8), streamed])


def test_settings_are_described_by_content() -> None:
    def scaled(by: float) -> Callable[[float], float]:
        return lambda value: by * value

    class Settings:
        def __init__(self, value: Any) -> None:
            self.value = value

    same: list[tuple[Any, Any]] = [
        (scaled(2.0), scaled(2.0)),
        (Settings([1, {"a": torch.ones(2)}]), Settings([1, {"a": torch.ones(2)}])),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (PlainTabularClassifier.forward, PlainTabularClassifier.forward),
    ]
    different: list[tuple[Any, Any]] = [
        (scaled(2.0), scaled(3.0)),
        (Settings([1, {"a": torch.ones(2)}]), Settings([1, {"a": torch.zeros(2)}])),
        (torch.ones(2), torch.ones(2, 1)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (1, "1"),
        (Callback(), EarlyStopping("loss")),
    ]
    assert all(describe(one) == describe(other) for one, other in same)
    assert not any(describe(one) == describe(other) for one, other in different)
    assert "0x" not in describe([object(), Settings(object())])


def test_modules_are_described_by_weights_and_plain_attributes() -> None:
    model = PlainTabularClassifier()
    assert describe_module(model) == describe_module(copy.deepcopy(model)) != describe_module(PlainTabularClassifier())
    other = copy.deepcopy(model)
    other.learning_rate = 0.2
    assert describe_module(other) != describe_module(model)


def test_a_key_is_a_digest_of_everything() -> None:
    cache = ReferenceCache("folder", "settings")
    assert len(cache.key("a", "b")) == 64
    assert cache.key("a", "b") != cache.key("ab", "") != ReferenceCache("folder", "others").key("ab", "")
