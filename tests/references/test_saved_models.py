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
from lightning.pytorch import LightningModule

from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.game.tasks import Classification
from lightning_interactions.references.watching import SeenInputs
from tests.helpers.models import PlainTabularClassifier, UnvalidatedClassifier, tabular_loader
from tests.helpers.trainers import TINY_SET_UP
from tests.references.fits import MadeInSetup, assert_same, fit, shuffled

pytestmark = TINY_SET_UP


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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "references.pt"


def fit_three(path: Path | None, model: LightningModule | None = None, **options: Any) -> ReferenceModels:
    return fit(UnvalidatedClassifier() if model is None else model, **{"num_models": 3, "resume_from": path, **options})


def num_saved(path: Path) -> int:
    return len(torch.load(path, weights_only=True)["models"])


@pytest.mark.parametrize("options", [{}, {"folds": 2, "num_models": 1, "patience": None}], ids=str)
@pytest.mark.slow
def test_models_come_back_bit_by_bit(path: Path, trainings: Trainings, options: dict[str, Any]) -> None:
    model = UnvalidatedClassifier()
    state = torch.get_rng_state()
    references = [fit_three(own, model, **options) for own in (None, path, path)]
    assert trainings.begun == 2 * num_saved(path) == 2 * len(references[0].models)
    assert torch.equal(torch.get_rng_state(), state)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    for own in references[1:]:
        assert_same(own, references[0])
    kept = [own["losses"] for own in torch.load(path, weights_only=True)["models"].values()]
    assert all(bool(losses) is (options.get("patience", 0) is not None) for losses in kept)


def test_layers_made_in_setup_come_back(path: Path, trainings: Trainings) -> None:
    first, again = (fit_three(path, MadeInSetup(5)) for _ in range(2))
    assert trainings.begun == 3
    assert_same(first, again)


# A fit that is ended


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.slow
def test_a_fit_that_ends_in_an_error_goes_on_where_it_stopped(
    path: Path, trainings: Trainings, error: type[BaseException]
) -> None:
    def ending() -> None:
        raise error

    trainings.end_at, trainings.ending = 2, ending
    handler = signal.getsignal(signal.SIGINT)
    # Lightning turns an interrupt by keyboard into an exit.
    with pytest.raises((error, SystemExit)):
        fit_three(path)
    signal.signal(signal.SIGINT, handler)
    assert num_saved(path) == 1
    references = fit_three(path)
    # The second is begun again.
    assert trainings.begun == 4
    assert_same(references, fit_three(None))


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_stopped(path: Path, trainings: Trainings) -> None:
    script = (
        "import os, signal, pytest\n"
        "from pathlib import Path\n"
        "from tests.references.test_saved_models import Trainings, fit_three\n"
        "trainings = Trainings(pytest.MonkeyPatch())\n"
        "trainings.end_at, trainings.ending = 3, lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"fit_three(Path({str(path)!r}))\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert num_saved(path) == 2
    references = fit_three(path)
    assert trainings.begun == 1
    assert_same(references, fit_three(None))


@pytest.mark.parametrize("before", [0, 1])
def test_a_file_that_is_being_written_leaves_the_one_before(
    path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    save = torch.save
    saved: list[Any] = []

    def half(state: Any, file: Any) -> None:
        if len(saved) == before:
            file.write(b"half a fi")
            raise KeyboardInterrupt
        saved.append(state)
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            fit_three(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name] * before
    fit_three(path)
    assert trainings.begun == 4


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ((torch, "save"), RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file")),
        ((os, "fsync"), OSError(errno.ENOSPC, "No space left on device")),
        ((Path, "mkdir"), FileExistsError("a file")),
    ],
    ids=["torch's writer", "disk", "folder"],
)
def test_a_disk_that_cannot_be_written_costs_a_warning_and_no_model(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], error: Exception
) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*where, full)
        with pytest.warns(UserWarning, match=path.name):
            references = fit_three(path, num_models=1)
    assert not path.exists()
    assert_same(references, fit_three(None, num_models=1))


# Files that cannot be used


class Dangerous:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("code from the file was run",))


BROKEN: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no weights here"),
    "code": lambda path: torch.save({"models": Dangerous()}, path),
    "foreign": lambda path: torch.save({"weights": torch.ones(2)}, path),
    "list": lambda path: torch.save([1, 2], path),
    "version": lambda path: torch.save({**torch.load(path, weights_only=True), "version": 99}, path),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_left_alone(path: Path, trainings: Trainings, how: str) -> None:
    fit_three(path, num_models=1)
    BROKEN[how](path)
    content = path.read_bytes()
    with pytest.raises(MisconfigurationException, match=f"resume_from=.*{path.name}"):
        fit_three(path, num_models=1)
    assert trainings.begun == 1
    assert path.read_bytes() == content


def test_weights_of_another_architecture_are_refused(path: Path) -> None:
    fit(PlainTabularClassifier(), num_models=1, resume_from=path)
    with pytest.raises(MisconfigurationException, match=f"{path.name}.*PlainTabularClassifier"):
        fit(PlainTabularClassifier(num_classes=4), num_models=1, resume_from=path)


class Deeper(UnvalidatedClassifier):
    pass


DIFFERENT: dict[str, dict[str, Any]] = {
    "num_samples": {"data": shuffled(tabular_loader(50).dataset)},
    "model": {"model": Deeper()},
    "factory": {"factory": Deeper},
    "task": {"task": Classification(label_smoothing=0.1, num_classes=3)},
    "num_models": {"num_models": 3},
    "folds": {"folds": 2},
    "seed": {"seed": 10},
    "max_epochs": {"max_epochs": 2},
    "patience": {"patience": 1},
    "trainer": {"gradient_clip_val": 0.5},
}


@pytest.mark.slow
def test_another_setting_is_refused_by_its_name(path: Path, trainings: Trainings) -> None:
    plain: dict[str, Any] = {"model": UnvalidatedClassifier(), "num_models": 1, "patience": None, "resume_from": path}
    fit(**plain)
    for name, options in DIFFERENT.items():
        with pytest.raises(MisconfigurationException, match=f"made with {name}="):
            fit(**{**plain, **options})
    begun = trainings.begun
    # What does not change the models may differ.
    fit(**plain, vote="all", enable_progress_bar=False, data=tabular_loader(60, seed=2, shuffle=True))
    assert trainings.begun == begun
