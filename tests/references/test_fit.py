import copy
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor, ReferenceModels, fit_reference_models
from lightning_interactions.evidence import fingerprints
from tests.callbacks.runs import TINY_SET_UP, quiet_trainer
from tests.helpers.models import (
    Classifier,
    DictDataset,
    PlainTabularClassifier,
    TabularClassifier,
    UnvalidatedClassifier,
    tabular_data,
    tabular_loader,
)

pytestmark = TINY_SET_UP

INPUTS = tabular_data(6, seed=8).tensors[0]


def fit_references(model: LightningModule, loader: Any = None, **options: Any) -> ReferenceModels:
    settings: dict[str, Any] = {"num_models": 2, "max_epochs": 1, "early_stopping": False, "accelerator": "cpu"}
    return fit_reference_models(model, tabular_loader(16, seed=2) if loader is None else loader, **{**settings, **options})


def outputs(references: ReferenceModels) -> list[Tensor]:
    with torch.no_grad():
        return [model(INPUTS) for model in references.models]


def parameters_of(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


class WithoutHparams(Classifier):
    """Saves no hyperparameters; every parameter has an initialiser."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)


class WithoutWidth(Classifier):
    """Saves its hyperparameters but one, without which it cannot be rebuilt."""

    def __init__(self, width: int, num_classes: int = 3) -> None:
        super().__init__(nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, num_classes)))
        self.save_hyperparameters(ignore=["width"])


class WithoutDefaultedWidth(Classifier):
    """Saves its hyperparameters but one, and rebuilt without that one it has another architecture."""

    def __init__(self, width: int = 2, num_classes: int = 3) -> None:
        super().__init__(nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, num_classes)))
        self.save_hyperparameters(ignore=["width"])


class BareParameter(Classifier):
    """Has a parameter that no ``reset_parameters`` reaches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        scaled: Tensor = self.network(inputs) * self.temperature
        return scaled


MODULES: dict[str, Callable[[], LightningModule]] = {
    "rebuilt from its hyperparameters": lambda: PlainTabularClassifier(learning_rate=0.05),
    "re-initialised": lambda: WithoutHparams(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))),
    "incomplete hyperparameters": lambda: WithoutWidth(8),
    "hyperparameters of another architecture": lambda: WithoutDefaultedWidth(8),
}


@pytest.mark.parametrize("made", MODULES)
def test_fresh_copies_differ_from_each_other_and_from_the_model(made: str) -> None:
    model = MODULES[made]()
    references = fit_references(model, num_models=3)
    vectors = [parameters_of(module) for module in (model, *references.models)]
    assert len({len(vector) for vector in vectors}) == 1
    for position, vector in enumerate(vectors):
        assert all(not torch.equal(vector, other) for other in vectors[:position])
    assert all(type(module) is type(model) and not module.training for module in references.models)


@pytest.mark.parametrize("made", MODULES)
def test_the_model_stays_as_it_is_bit_by_bit(made: str) -> None:
    model = MODULES[made]()
    kept = copy.deepcopy(model.state_dict())
    fit_references(model)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("made", MODULES)
def test_copies_of_a_model_in_evaluation_mode_train_in_training_mode(made: str) -> None:
    model = MODULES[made]().eval()
    modes: list[bool] = []

    class Notes(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_args: Any) -> None:
            modes.extend(module.training for module in pl_module.modules())

    with warnings.catch_warnings():
        # Lightning warns of it; what counts here is that it does not happen.
        warnings.simplefilter("ignore")
        fit_references(model, callbacks=[Notes()])
    assert modes
    assert all(modes)
    assert not any(module.training for module in model.modules())


def test_global_random_states_come_back() -> None:
    def states() -> list[Any]:
        numpy = np.random.get_state(legacy=False)["state"]
        return [random.getstate(), numpy["key"].tolist(), numpy["pos"], torch.get_rng_state().tolist()]

    model = UnvalidatedClassifier()
    before = states()
    fit_references(model, tabular_loader(16, seed=2, shuffle=True))
    assert states() == before


def test_global_random_states_come_back_after_an_error() -> None:
    def broken() -> LightningModule:
        torch.rand(5)
        raise KeyError("in the factory")

    model = PlainTabularClassifier()
    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="in the factory"):
        fit_references(model, factory=broken)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_gives_the_same_references_in_every_process() -> None:
    loader = tabular_loader(16, seed=2, shuffle=True)
    first = fit_references(MODULES["re-initialised"](), loader)
    torch.rand(7)
    again, other = (fit_references(MODULES["re-initialised"](), loader, seed=seed) for seed in (0, 10))
    for reference, same, different in zip(outputs(first), outputs(again), outputs(other), strict=True):
        assert torch.equal(reference, same)
        assert not torch.equal(reference, different)


def test_hyperparameters_carry_over_to_the_copies() -> None:
    references = fit_references(PlainTabularClassifier(num_classes=3, learning_rate=0.02))
    assert [reference.learning_rate for reference in references.models] == [0.02, 0.02]


def test_buffers_of_a_copy_begin_anew() -> None:
    model = MODULES["re-initialised"]()
    norm = model.get_submodule("network.1")
    assert isinstance(norm, nn.BatchNorm1d)
    norm.running_mean.fill_(1e6)  # type: ignore[union-attr]
    for reference in fit_references(model).models:
        assert reference.get_submodule("network.1").running_mean.abs().max() < 100


def test_a_parameter_without_an_initialiser_is_refused_by_name() -> None:
    with pytest.raises(MisconfigurationException, match=r"initialises these parameters anew: \['temperature'\].*factory="):
        fit_references(BareParameter(nn.Linear(4, 3)))


def test_a_factory_makes_the_copies() -> None:
    made: list[LightningModule] = []

    def factory() -> LightningModule:
        made.append(BareParameter(nn.Linear(4, 3)))
        return made[-1]

    references = fit_references(BareParameter(nn.Linear(4, 3)), factory=factory, num_models=3)
    assert len(made) == len(references.models) == 3
    assert not torch.equal(parameters_of(references.models[0]), parameters_of(references.models[1]))


def test_a_factory_that_gives_the_model_itself_is_refused() -> None:
    model = PlainTabularClassifier()
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(MisconfigurationException, match="factory"):
        fit_references(model, factory=lambda: model)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_nothing_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit_references(PlainTabularClassifier())
    assert list(tmp_path.iterdir()) == []


def test_a_module_with_a_validation_step_gives_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        fit_references(TabularClassifier())
    assert not [str(warning.message) for warning in caught if "validation" in str(warning.message)]


def test_fingerprints_of_all_inputs_are_kept() -> None:
    loader = tabular_loader(16, seed=2, shuffle=True)
    references = fit_references(PlainTabularClassifier(), loader)
    assert references.seen == (frozenset(fingerprints(loader.dataset.tensors[0])),) * 2  # type: ignore[attr-defined]


def test_fingerprints_of_dict_batches_are_found_with_an_unpack() -> None:
    data = tabular_data(16, seed=2)
    loader = DataLoader(DictDataset(data), batch_size=8)
    references = fit_references(PlainTabularClassifier(), loader, unpack=lambda batch: (batch["x"], batch["y"]))
    assert references.seen == (frozenset(fingerprints(data.tensors[0])),) * 2


def test_fingerprints_tell_contents_dtypes_and_shapes_apart() -> None:
    inputs = torch.zeros(2, 4)
    first, second = fingerprints(inputs)
    assert first == second == fingerprints(inputs.clone().requires_grad_())[0]
    assert first == fingerprints(torch.zeros(4, 2).T)[0]
    different = [inputs + 1, inputs.view(2, 2, 2), inputs.int()]
    assert len({first, *(fingerprints(other)[0] for other in different)}) == 4


def monitor_with(references: ReferenceModels, **options: Any) -> InteractionMonitor:
    settings: dict[str, Any] = {"num_training_probes": 4, "num_held_out_probes": 4, "figures": False}
    return InteractionMonitor(evidence=references, **{**settings, **options})


def run(root: Path, monitor: InteractionMonitor, train: Any, val: Any) -> None:
    quiet_trainer(root, callbacks=[monitor], max_epochs=1).fit(TabularClassifier(), train, val)


def test_references_that_saw_all_of_the_training_inputs_are_refused(tmp_path: Path) -> None:
    references = fit_references(PlainTabularClassifier(), tabular_loader(16))
    with pytest.raises(ValueError, match="trained on all of the training inputs"):
        run(tmp_path, monitor_with(references), tabular_loader(16), tabular_loader(12, seed=1))


def test_references_that_saw_all_of_the_held_out_inputs_are_refused(tmp_path: Path) -> None:
    references = fit_references(PlainTabularClassifier(), tabular_loader(16, seed=1))
    with pytest.raises(ValueError, match="trained on all of the held-out inputs"):
        run(tmp_path, monitor_with(references), tabular_loader(16), tabular_loader(16, seed=1))


def test_inputs_that_the_references_saw_do_not_become_probes(tmp_path: Path) -> None:
    inputs, targets = tabular_data(24).tensors
    references = fit_references(PlainTabularClassifier(), DataLoader(TensorDataset(inputs[:10], targets[:10]), batch_size=5))
    monitor = monitor_with(references, num_training_probes=14)
    with pytest.warns(UserWarning, match="trained on 10 of 24 training inputs looked at; none of these becomes a probe"):
        run(tmp_path, monitor, tabular_loader(24), tabular_loader(12, seed=1))
    probes = monitor.state_dict()["probes"]["training"]["inputs"]
    assert set(fingerprints(probes)) == set(fingerprints(inputs[10:]))


@pytest.mark.parametrize("split", ["training", "held_out"])
def test_probes_handed_in_that_the_references_saw_are_refused(tmp_path: Path, split: str) -> None:
    inputs, targets = tabular_data(6, seed=4).tensors
    references = fit_references(PlainTabularClassifier(), DataLoader(TensorDataset(inputs[4:], targets[4:]), batch_size=2))
    monitor = monitor_with(references, **{f"{split}_probes": (inputs, targets)})
    with pytest.raises(
        MisconfigurationException, match=r"trained on 2 of the 6 .* probes handed in or saved \(first rows: \[4, 5\]\)"
    ):
        run(tmp_path, monitor, tabular_loader(24), tabular_loader(12, seed=1))


def test_trained_references_serve_as_evidence_of_a_run(tmp_path: Path) -> None:
    references = fit_references(UnvalidatedClassifier(), num_models=2)
    before = outputs(references)
    monitor = monitor_with(references)
    run(tmp_path, monitor, tabular_loader(24), tabular_loader(12, seed=1))
    assert monitor.history.epochs == [0, 1]
    assert all(0 <= measurement.training_summary.share <= 1 for measurement in monitor.history.measurements)
    assert all(torch.equal(output, expected) for output, expected in zip(outputs(references), before, strict=True))


class Linear(nn.Module):
    """Another architecture, that Lightning knows nothing of."""

    def __init__(self, num_features: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(num_features, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return logits


def test_references_of_other_architectures_serve_as_evidence(tmp_path: Path) -> None:
    wide = fit_references(PlainTabularClassifier(), factory=lambda: WithoutWidth(20), num_models=1)
    monitor = monitor_with(ReferenceModels([*wide.models, Linear()]))
    run(tmp_path, monitor, tabular_loader(24), tabular_loader(12, seed=1))
    assert monitor.history.epochs == [0, 1]


def test_a_reference_that_takes_other_inputs_is_named(tmp_path: Path) -> None:
    monitor = monitor_with(ReferenceModels([Linear(), Linear(num_features=5)]))
    with pytest.raises(ValueError, match=r"model 1 \(Linear\) fails on the probes of shape \(4, 4\).*wrap it in a module"):
        run(tmp_path, monitor, tabular_loader(24), tabular_loader(12, seed=1))


def test_saved_references_load_with_identical_outputs(tmp_path: Path) -> None:
    model = UnvalidatedClassifier()
    references = fit_references(model, vote="majority")
    references.save(tmp_path / "references.pt")
    kept = copy.deepcopy(model.state_dict())
    loaded = ReferenceModels.load(tmp_path / "references.pt", model)
    assert (loaded.vote, loaded.seen) == (references.vote, references.seen)
    for output, expected in zip(outputs(loaded), outputs(references), strict=True):
        assert torch.equal(output, expected)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert torch.load(tmp_path / "references.pt", weights_only=True)["version"] == 2


def test_saved_references_for_another_architecture_are_refused(tmp_path: Path) -> None:
    fit_references(PlainTabularClassifier()).save(tmp_path / "references.pt")
    with pytest.raises(ValueError, match="do not fit PlainTabularClassifier"):
        ReferenceModels.load(tmp_path / "references.pt", PlainTabularClassifier(num_features=9))


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], {"version": 99}], ids=str)
def test_another_torch_file_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"expected a file written by ReferenceModels.save at .*other.pt"):
        ReferenceModels.load(tmp_path / "other.pt", PlainTabularClassifier())


def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights here")
    with pytest.raises(ValueError, match=r"expected a file written by ReferenceModels.save at .*notes.txt"):
        ReferenceModels.load(tmp_path / "notes.txt", PlainTabularClassifier())


def test_it_works_on_a_module_in_a_run_and_leaves_its_trainer(tmp_path: Path) -> None:
    class FitsReferences(Callback):
        references: ReferenceModels | None = None

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.references = fit_references(pl_module)
            assert pl_module.trainer is trainer

    for model in (UnvalidatedClassifier(), MODULES["re-initialised"]()):
        fits = FitsReferences()
        quiet_trainer(tmp_path, callbacks=[fits], max_epochs=1).fit(model, tabular_loader(16))
        assert fits.references is not None
        assert len(fits.references.models) == 2


def test_it_works_before_setup_has_made_the_layers() -> None:
    class MadeInSetup(Classifier):
        def __init__(self, width: int) -> None:
            super().__init__(nn.Identity())
            self.width = width
            self.save_hyperparameters()

        def setup(self, stage: str) -> None:
            if isinstance(self.network, nn.Identity):
                self.network = nn.Sequential(nn.Linear(4, self.width), nn.Tanh(), nn.Linear(self.width, 3))

    model = MadeInSetup(5)
    references = fit_references(model)
    assert isinstance(model.network, nn.Identity)
    assert [output.shape for output in outputs(references)] == [(6, 3), (6, 3)]
    assert not torch.equal(*outputs(references))


def test_the_models_of_a_trained_trainer_are_not_touched(tmp_path: Path) -> None:
    model = UnvalidatedClassifier()
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, tabular_loader(16))
    kept = copy.deepcopy(model.state_dict())
    fit_references(model)
    assert model.trainer is trainer
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_trainer_arguments_reach_the_trainer() -> None:
    steps: list[int] = []

    class Counts(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            steps.append(trainer.global_step)

    fit_references(PlainTabularClassifier(), max_epochs=3, limit_train_batches=1, callbacks=[Counts()])
    assert steps == [3, 3]


def test_a_single_callback_may_be_handed_over_as_lightning_allows() -> None:
    class Counts(Callback):
        epochs = 0

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            Counts.epochs += 1

    fit_references(PlainTabularClassifier(), callbacks=Counts())
    assert Counts.epochs == 2


def test_every_reference_gets_the_callbacks_in_their_first_state() -> None:
    class LogsTheSame(PlainTabularClassifier):
        def training_step(self, batch: Any, batch_index: int) -> Tensor:
            self.log("nothing", 1.0, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_index)

    epochs: list[int] = []

    class Counts(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            epochs.append(trainer.current_epoch)

    stopping = EarlyStopping("nothing", patience=2, check_on_train_epoch_end=True)
    fit_references(LogsTheSame(), max_epochs=5, callbacks=[stopping, Counts()])
    assert epochs == [3, 3]


def test_a_factory_that_gives_the_same_module_again_is_refused() -> None:
    made = PlainTabularClassifier()
    with pytest.raises(MisconfigurationException, match="factory"):
        fit_references(PlainTabularClassifier(), factory=lambda: made)


@pytest.mark.parametrize(("num_models", "max_epochs"), [(0, 1), (1, 0)])
def test_no_models_or_epochs_are_refused(num_models: int, max_epochs: int) -> None:
    with pytest.raises(MisconfigurationException, match=f"of at least 1, got {num_models}, {max_epochs} and 5"):
        fit_references(PlainTabularClassifier(), num_models=num_models, max_epochs=max_epochs)


def test_an_unknown_vote_is_refused_before_any_training() -> None:
    class Untrainable(PlainTabularClassifier):
        def training_step(self, batch: Any, _batch_index: int) -> Tensor:
            raise AssertionError("trained")

    with pytest.raises(MisconfigurationException, match=r"expected a vote among .* got 'most'"):
        fit_references(Untrainable(), vote="most")
