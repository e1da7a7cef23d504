"""What hangs on a module is as it was after a body, however deep it hangs; and so are opened weights."""

import logging
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.steps import OwnStep, on_stage
from lightning_interactions.game.steps.copies import copied
from lightning_interactions.game.steps.restoring import as_found, opened
from lightning_interactions.records import Rows


class Meter:
    """An average as users write it."""

    def __init__(self) -> None:
        self.total, self.count, self.parts = 0.0, 0, [torch.zeros(2)]

    def update(self, value: Tensor) -> None:
        self.total += float(value)
        self.count += 1
        self.parts[0] += value


class Sum:
    """A part of a meter, without a dict."""

    __slots__ = ("__hidden", "value")

    def __init__(self) -> None:
        self.value, self.__hidden = 0.0, 0

    @property
    def hidden(self) -> int:
        return self.__hidden

    def add(self, value: float) -> None:
        self.value += value
        self.__hidden += 1


@dataclass(slots=True)
class Slotted(Sum):
    """A meter whose attributes are in slots, of which one is not set yet."""

    history: list[float] = field(default_factory=list)
    parts: Tensor = field(default_factory=lambda: torch.zeros(2))
    last: float = field(init=False)

    def __post_init__(self) -> None:
        Sum.__init__(self)

    def update(self, value: float) -> None:
        self.add(value)
        self.history.append(value)
        self.parts += value
        self.last = value


class Holding(nn.Module):
    """Holds what users hold outside of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.BatchNorm1d(2)
        self.seen, self.outs, self.last = 1, [1], deque([1, 2], maxlen=2)
        self.centre, self.count, self.table = torch.zeros(2), torch.tensor(0), np.zeros(3)
        self.nested: dict[str, Any] = {"a": {"b": [1, {"c": torch.zeros(1)}]}, "set": {1}, "pair": ([], 2)}
        self.meter, self.space, self.nothing = Meter(), SimpleNamespace(x=1), torch.full((2,), torch.nan)
        self.slotted = [Slotted()]


ACTS: dict[str, Any] = {
    "attribute": lambda m: setattr(m, "seen", 2),
    "new attribute": lambda m: setattr(m, "new", 2),
    "no attribute": lambda m: delattr(m, "seen"),
    "list": lambda m: m.outs.append(2),
    "deque": lambda m: m.last.append(3),
    "tensor in place": lambda m: m.centre.mul_(0.9).add_(1),
    "tensor by +=": lambda m: m.count.__iadd__(1),
    "tensor resized": lambda m: m.count.resize_(5),
    "tensor data": lambda m: m.centre.data.fill_(3),
    "array": lambda m: m.table.__setitem__(1, 5),
    "nested list": lambda m: m.nested["a"]["b"].append(3),
    "nested dict": lambda m: m.nested["a"].update(d=1),
    "nested tensor": lambda m: m.nested["a"]["b"][1]["c"].add_(1),
    "set": lambda m: m.nested["set"].add(2),
    "list in a tuple": lambda m: m.nested["pair"][0].append(1),
    "meter": lambda m: m.meter.update(torch.ones(())),
    "meter with slots": lambda m: m.slotted[0].update(1.0),
    "slot": lambda m: setattr(m.slotted[0], "value", 5.0),
    "no slot": lambda m: m.slotted[0].__setattr__("last", 1.0) or delattr(m.slotted[0], "history"),
    "attribute of an object": lambda m: setattr(m.space, "x", 2),
    "buffer": lambda m: m.net(torch.randn(4, 2)),
    "new buffer": lambda m: m.register_buffer("late", torch.ones(1)),
    "tensor with a history": lambda m: setattr(m, "centre", m.net.weight * 2),
}


def described(value: Any) -> Any:
    """All that hangs on something, by value."""
    if isinstance(value, Tensor):
        return str(value.tolist())
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [described(item) for item in value]
    if isinstance(value, Slotted):
        names = ("value", "hidden", "history", "parts", "last")
        return {name: described(getattr(value, name)) for name in names if hasattr(value, name)}
    return described(vars(value)) if hasattr(value, "__dict__") else str(value)


@given(st.lists(st.sampled_from(sorted(ACTS)), max_size=6))
def test_whatever_is_done_in_whatever_order_all_is_as_it_was(names: list[str]) -> None:
    module = Holding()
    parts = [module.outs, module.centre, module.nested, module.nested["a"]["b"], module.meter]
    before = described(module)
    with as_found(module) as changes:
        for name in names:
            with suppress(AttributeError):  # One that is gone already.
                ACTS[name](module)
    assert described(module) == before
    assert all(
        one is other
        for one, other in zip(
            parts, [module.outs, module.centre, module.nested, module.nested["a"]["b"], module.meter], strict=True
        )
    )
    assert bool(changes) or not names


@pytest.mark.parametrize("name", [name for name in ACTS if name != "list in a tuple"])
def test_each_change_is_seen_as_one(name: str) -> None:
    module = Holding()
    module.nothing = None  # NaN is never what it was.
    with as_found(module) as changes:
        pass
    assert changes == []
    with as_found(module) as changes:
        ACTS[name](module)
    assert changes


def test_slots_of_a_root_are_given_back() -> None:
    meter = Slotted()
    with as_found(meter, data=True) as changes:
        meter.update(2.0)
    assert described(meter) == described(Slotted())
    assert {"value", "history", "parts", "last"} <= set(changes)


def test_a_copy_of_a_module_has_slots_of_its_own_without_a_history() -> None:
    module = Holding()
    module.slotted[0].parts = module.net.weight * 2
    memo: dict[int, Any] = {}
    (other,) = copied(module.slotted, memo)
    assert torch.equal(other.parts, module.slotted[0].parts)
    assert other.parts.is_leaf


def test_what_has_a_life_of_its_own_is_not_touched() -> None:
    module = Holding()
    module.logger, module.counter = logging.Logger("own"), Counter()
    with as_found(module):
        module.logger.disabled = True
        module.counter["a"] += 1
    assert module.logger.disabled
    assert module.counter == {}


def test_each_forward_of_a_step_begins_with_the_same_state() -> None:
    class Centred(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.centre, self.count = nn.Linear(3, 4), torch.zeros(4), torch.tensor(0)
            self.states: dict[str, Any] = {"average": {"losses": [torch.zeros(())]}}

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.net(batch[0])
            times = len(self.states["average"]["losses"]) + self.count
            loss = F.cross_entropy((logits - self.centre) * times, batch[1])
            return loss + 0 * self.changed(logits)

        def changed(self, logits: Tensor) -> Tensor:
            self.count += 1
            self.centre.mul_(0.5).add_(logits.mean(0))
            self.states["average"]["losses"].append(logits.mean())
            return self.centre.sum()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.net(batch[0])
            self.changed(torch.ones(4, 4))
            return F.cross_entropy((logits - self.centre) * self.count, batch[1])

    torch.manual_seed(0)
    model, x, y = Centred(), torch.randn(4, 3), torch.tensor([0, 1, 2, 3])
    for step, centre in (("validation_step", 0.0), ("training_step", 1.0)):
        task = OwnStep()
        with torch.no_grad(), on_stage(model.eval()):
            task.begin({"0, 1": {"step": step, "call": 0}})
            task.read(model, Rows.of((x, y)))
            for _ in range(2):
                torch.testing.assert_close(task.forward(model, (x, y)), model.net(x) - centre)
    assert (model.count.item(), model.centre.tolist(), len(model.states["average"]["losses"])) == (0, [0] * 4, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("fill", [0.0, 1e-5])
def test_opened_weights_are_of_usual_size_and_come_back(dtype: torch.dtype, fill: float) -> None:
    module = nn.Sequential(nn.Linear(100, 3), nn.Linear(3, 3), nn.LazyLinear(3)).to(dtype)
    nn.init.constant_(module[0].weight, fill)
    before = [module[0].weight.clone(), module[1].weight.clone()]
    with suppress(KeyError), opened(module) as number:
        assert number == 1
        assert 0.04 < module[0].weight.abs().min() < module[0].weight.abs().max() < 0.11
        assert torch.equal(module[1].weight, before[1])
        raise KeyError
    assert torch.equal(module[0].weight, before[0])
