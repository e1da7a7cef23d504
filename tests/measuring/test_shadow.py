"""A copy of a module to measure: it computes the same, and what is done to it does not reach the module."""

import copy
import gc
import weakref
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_interactions.measuring.isolation import shadowed
from lightning_interactions.measuring.shadow import shadow_of

CPU = torch.device("cpu")


class Carrying(LightningModule):
    """Carries everything that modules of users have been seen to carry."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
        self.normed = parametrizations.weight_norm(nn.Linear(3, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.outs: list[Tensor] = []
        self.losses = [torch.zeros((), requires_grad=True) * 2]
        self.hidden = (torch.ones(2, 3, requires_grad=True) * 2, 5)
        self.generator = torch.Generator().manual_seed(7)
        self.data = TensorDataset(torch.zeros(2, 3))
        self.seen = 0
        self.shapes: list[Any] = []
        self.net[0].register_forward_hook(self.count)
        self.net[1].register_forward_hook(lambda _module, _inputs, output: self.shapes.append(output.shape))
        self.net[2].register_forward_pre_hook(partial(_note, self))
        self.register_buffer("nothing", None)

    def count(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen += 1

    def forward(self, x: Tensor) -> Tensor:
        self.outs.append(self.normed(self.net(x)))
        self.hidden = (self.hidden[0] + 1, self.hidden[1] + 1)
        self.accuracy.update(self.outs[-1], torch.zeros(len(x), dtype=torch.long))
        return self.outs[-1] + torch.rand(3, generator=self.generator)


def _note(module: Any, _layer: nn.Module, _inputs: Any) -> None:
    module.seen += 10


def described(module: Carrying) -> dict[str, Any]:
    """All that could change, copied."""
    return {
        **{name: value.clone() for name, value in module.state_dict().items()},
        "seen": module.seen,
        "outs": len(module.outs),
        "losses": len(module.losses),
        "hidden": [module.hidden[0].detach().clone(), module.hidden[1]],
        "generator": module.generator.get_state(),
        "shapes": list(module.shapes),
        "metric": module.accuracy.tp.clone() if isinstance(module.accuracy.tp, Tensor) else copy.copy(module.accuracy.tp),
        "training": [part.training for part in module.modules()],
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_what_is_done_to_a_shadow_does_not_reach_the_module() -> None:
    module = Carrying()
    before = described(module)
    shadow = shadow_of(module)
    assert shadow.shared == {}
    with torch.no_grad():
        shadow.module.train()(torch.randn(4, 3))
        for parameter in shadow.module.parameters():
            parameter.add_(1)
    assert same(described(module), before)
    assert shadow.module.seen == 11
    assert len(shadow.module.shapes) == 1


def test_a_shadow_computes_what_the_module_computes() -> None:
    module = Carrying().eval()
    shadow = shadow_of(module).module
    x = torch.randn(4, 3)
    for _ in range(2):
        torch.testing.assert_close(shadow(x), module(x), rtol=0, atol=0)
    assert shadow.hidden[1] == 7


def test_histories_are_cut_off_past_losses_left_out_and_data_shared() -> None:
    module = Carrying()
    shadow = shadow_of(module).module
    assert shadow.hidden[0].is_leaf
    assert shadow.losses == []
    assert shadow.data is module.data
    assert shadow.generator is not module.generator


def test_gradients_are_not_copied() -> None:
    module = nn.Linear(2, 2)
    module(torch.ones(1, 2)).sum().backward()
    shadow = shadow_of(module).module
    assert shadow.weight.grad is None
    assert module.weight.grad is not None
    assert shadow.weight.requires_grad


def test_tied_weights_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    shadow = shadow_of(module).module
    assert shadow[1].weight is shadow[0].weight


def test_what_cannot_be_copied_is_shared_and_said() -> None:
    class Locked:
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no copies")

    module = Carrying()
    module.lock = Locked()
    shadow = shadow_of(module)
    assert shadow.shared.keys() == {"lock"}
    assert shadow.module.lock is module.lock
    with pytest.warns(UserWarning, match="lock"), shadowed(module, CPU, seed=0):
        pass


def test_a_shadow_is_let_go_of() -> None:
    reference = weakref.ref(shadow_of(Carrying()).module)
    gc.collect()
    assert reference() is None


def test_adapters_that_merge_in_evaluation_merge_into_the_shadow_alone() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> "Merging":
            if self.training and not mode:
                self.weight.data += 1
            return super().train(mode)

    module = Merging(2, 2)
    before = module.weight.detach().clone()
    with shadowed(module, CPU, seed=0) as shadow:
        assert torch.equal(shadow.weight, before + 1)
    assert torch.equal(module.weight, before)
    assert module.training


@pytest.mark.parametrize("raises", [False, True])
def test_random_states_and_the_gradient_mode_come_back(raises: bool) -> None:
    module = nn.Linear(2, 2)
    before = torch.random.get_rng_state()
    with suppress(KeyError), shadowed(module, CPU, seed=3):
        torch.rand(1)
        assert not torch.is_grad_enabled()
        if raises:
            raise KeyError
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_functions_that_refer_to_themselves_or_each_other_refer_to_the_copy() -> None:
    class Recursive(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.net = 0, nn.Linear(2, 2)

            def depth(number: int) -> int:
                self.seen += 1
                return 0 if number == 0 else 1 + depth(number - 1)

            def is_even(number: int) -> bool:
                self.seen += 1
                return number == 0 or is_odd(number - 1)

            def is_odd(number: int) -> bool:
                return number > 0 and is_even(number - 1)

            self.depth, self.is_even = depth, partial(is_even)
            self.net.register_forward_hook(lambda *_args: depth(2) and None)

    module = Recursive()
    shadow = shadow_of(module).module
    assert (shadow.depth(3), shadow.is_even(4), shadow.is_even(3)) == (3, True, False)
    shadow.net(torch.ones(1, 2))
    assert (shadow.seen, module.seen) == (4 + 3 + 2 + 3, 0)


class Frame:
    """As much of a data frame as tells it from other objects."""

    def __init__(self, values: Any, **columns: int) -> None:
        self.values, self.columns = values, columns

    @property
    def iloc(self) -> Any:
        return self.values

    @property
    def size(self) -> int:
        return int(self.values.size)

    def to_numpy(self) -> Any:
        return self.values

    def __copy__(self) -> "Frame":
        return Frame(self.values, **self.columns)


def test_large_arrays_are_shared_and_cannot_be_written_into() -> None:
    module = Carrying()
    module.small, module.large = np.zeros(5), np.zeros(2**21 + 1)
    module.frame, module.small_frame = Frame(np.zeros(2**21 + 1), a=1), Frame(np.zeros(2), a=1)
    module.tables = {"all": [module.large]}
    shadow = shadow_of(module).module
    assert not np.shares_memory(shadow.small, module.small)
    assert np.shares_memory(shadow.large, module.large)
    assert shadow.tables["all"][0] is shadow.large
    with pytest.raises(ValueError, match="read-only"):
        shadow.large[0] = 1
    module.large[0] = 1  # The module's own can be.
    assert np.shares_memory(shadow.frame.values, module.frame.values)
    shadow.frame.columns["b"] = 2
    assert module.frame.columns == {"a": 1}
    assert not np.shares_memory(shadow.small_frame.values, module.small_frame.values)


def test_tables_that_do_not_change_are_shared() -> None:
    class Table:
        def __deepcopy__(self, memo: object) -> None:
            raise AssertionError("a copy costs as much as the data")

    Table.__module__ = "datasets.arrow_dataset"
    module = Carrying()
    module.rows = Table()
    assert shadow_of(module).module.rows is module.rows
