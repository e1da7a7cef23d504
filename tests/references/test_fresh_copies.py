import copy
import threading
from collections.abc import Callable
from functools import partial
from types import MethodType

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_interactions.references.fresh_copies import fresh_copy
from tests.helpers.models import Classifier, PlainTabularClassifier


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


MODULES: dict[str, Callable[[], LightningModule]] = {
    "rebuilt from its hyperparameters": lambda: PlainTabularClassifier(learning_rate=0.05),
    "re-initialised": lambda: WithoutHparams(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))),
    "incomplete hyperparameters": lambda: WithoutWidth(8),
    "hyperparameters of another architecture": lambda: WithoutDefaultedWidth(8),
}


def parameters_of(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("made", MODULES)
def test_fresh_copies_differ_are_in_training_mode_and_leave_the_model_alone(made: str) -> None:
    model = MODULES[made]().eval()
    kept = copy.deepcopy(model.state_dict())
    copies = [fresh_copy(model, None) for _ in range(2)]
    vectors = [parameters_of(module) for module in (model, *copies)]
    assert len({len(vector) for vector in vectors}) == 1
    for position, vector in enumerate(vectors):
        assert all(not torch.equal(vector, other) for other in vectors[:position])
    assert all(type(fresh) is type(model) for fresh in copies)
    assert all(module.training for fresh in copies for module in fresh.modules())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_hyperparameters_carry_over() -> None:
    fresh = fresh_copy(PlainTabularClassifier(learning_rate=0.02), None)
    assert isinstance(fresh, PlainTabularClassifier)
    assert fresh.learning_rate == 0.02


def test_buffers_begin_anew() -> None:
    model = MODULES["re-initialised"]()
    norm = model.get_submodule("network.1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(1e6)
    again = fresh_copy(model, None).get_submodule("network.1")
    assert isinstance(again, nn.BatchNorm1d)
    assert again.running_mean is not None
    assert again.running_mean.abs().max() == 0


def test_a_parameter_without_an_initialiser_is_refused_by_name() -> None:
    with pytest.raises(MisconfigurationException, match=r"\['temperature'\].*factory="):
        fresh_copy(BareParameter(nn.Linear(4, 3)), None)


def test_a_module_that_cannot_be_copied_is_refused_with_a_way_out() -> None:
    model = MODULES["re-initialised"]()
    model.outputs = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(MisconfigurationException, match=r"WithoutHparams.*factory="):
        fresh_copy(model, None)


def test_tensors_with_a_history_are_no_obstacle() -> None:
    model = MODULES["re-initialised"]()
    model.outputs = [torch.ones(2, requires_grad=True) * 2]  # type: ignore[assignment]
    assert fresh_copy(model, None).state_dict().keys() == model.state_dict().keys()
    assert len(model.outputs) == 1  # type: ignore[arg-type]


def test_a_factory_comes_first() -> None:
    made = BareParameter(nn.Linear(4, 3))
    assert fresh_copy(PlainTabularClassifier(), lambda: made) is made


@pytest.mark.parametrize("make", [PlainTabularClassifier, lambda: WithoutWidth(8)])
def test_a_method_that_hangs_on_the_instance_comes_along(make: Callable[[], LightningModule]) -> None:
    def configure_optimizers(_: LightningModule, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return optimizer

    model = make()
    # As Lightning's command line does.
    of_model = torch.optim.Adagrad(model.parameters())
    model.configure_optimizers = MethodType(partial(configure_optimizers, optimizer=of_model), model)
    fresh = fresh_copy(model, None)
    optimizer = fresh.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adagrad)
    assert {id(one) for one in optimizer.param_groups[0]["params"]} == {id(one) for one in fresh.parameters()}
    assert model.configure_optimizers() is of_model


def test_names_that_lightnings_command_line_adds_to_the_hyperparameters_do_not_count() -> None:
    class Fixed(PlainTabularClassifier):
        """Cannot be initialised anew, so it has to be rebuilt."""

        def __init__(self, num_features: int = 4) -> None:
            super().__init__(num_features)
            self.temperature = nn.Parameter(torch.ones(()))
            self.save_hyperparameters()

    model = Fixed(5)
    for name in set(model.hparams) - {"num_features"}:
        del model.hparams[name]
    model.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
    assert fresh_copy(model, None).hparams["num_features"] == 5
