"""Which leaves of a batch are inputs and which are targets, also where a branch is closed at initialisation."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.steps import OwnStep, on_stage
from lightning_interactions.records import Rows


class TwoBranches(LightningModule):
    """A base branch, and another that is added to it; how is said by subclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.branch = nn.Linear(5, 8), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 4)

    def added(self, extra: Tensor) -> Tensor:
        raise NotImplementedError

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        hidden = self.base(batch["x"]) + self.added(batch["extra"])
        return F.cross_entropy(self.head(hidden.tanh()), batch["y"])


class ReZero(TwoBranches):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def added(self, extra: Tensor) -> Tensor:
        return self.gate * self.branch(extra)


class TanhGate(ReZero):
    def added(self, extra: Tensor) -> Tensor:
        return self.gate.tanh() * self.branch(extra)


class ZeroLastLayer(TwoBranches):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.branch[2].weight)
        nn.init.zeros_(self.branch[2].bias)

    def added(self, extra: Tensor) -> Tensor:
        return self.branch(extra)


class LowRank(TwoBranches):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(3, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.up.weight)

    def added(self, extra: Tensor) -> Tensor:
        return self.up(self.down(extra))


class TinyScale(TwoBranches):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 1e-6))

    def added(self, extra: Tensor) -> Tensor:
        return self.scale * self.branch(extra)


class ZeroHead(TwoBranches):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)

    def added(self, extra: Tensor) -> Tensor:
        return self.branch(extra)


class ZeroPart(TwoBranches):
    """One layer makes a shift and a gate, of which only the gate begins with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(3, 16)
        with torch.no_grad():
            self.both.weight[8:], self.both.bias[8:] = 0, 0
        self.constant = nn.Parameter(torch.ones(8))

    def added(self, extra: Tensor) -> Tensor:
        return self.constant * self.both(extra)[:, 8:]


def batch_of(num_rows: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(num_rows, 5, generator=generator),
        "extra": torch.randn(num_rows, 3, generator=generator),
        "y": torch.tensor([0, 1, 2, 3, 0, 1]),
        "number": torch.arange(num_rows),
    }


def read(model: LightningModule, batch: Any) -> tuple[OwnStep, frozenset[str]]:
    """The task, and the leaves that are inputs."""
    task = OwnStep()
    with torch.no_grad(), on_stage(model.eval()):
        (group,) = task.read(model, Rows.of(batch)).groups
    return task, frozenset(group.inputs.leaves)


@pytest.mark.parametrize("kind", [ReZero, TanhGate, ZeroLastLayer, LowRank, TinyScale, ZeroHead, ZeroPart])
def test_what_a_branch_gets_that_is_closed_at_first_is_an_input(kind: type[TwoBranches]) -> None:
    torch.manual_seed(0)
    model = kind()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    versions = [parameter._version for parameter in model.parameters()]
    task, inputs = read(model, batch_of())
    assert inputs == {"x", "extra"}
    assert not task.outputs_depend_on_targets
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter._version for parameter in model.parameters()] == versions


def test_targets_that_reach_the_outputs_through_a_closed_gate_do_so() -> None:
    class Leaking(ReZero):
        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            told = self.gate * F.one_hot(batch["y"], 4)
            return F.cross_entropy(self.head(self.base(batch["x"])) + told, batch["y"])

    task, inputs = read(Leaking(), batch_of())
    assert task.outputs_depend_on_targets
    assert inputs == {"x"}


def test_weights_are_as_they_were_where_opened_gates_make_the_step_fail() -> None:
    class Strict(ReZero):
        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            if self.gate != 0:
                raise RuntimeError("opened")
            return super().validation_step(batch, batch_idx)

    model = Strict()
    _, inputs = read(model, batch_of())
    assert inputs == {"x"}
    assert model.gate.item() == 0


def test_what_reaches_nothing_is_said() -> None:
    class Forgetting(TwoBranches):
        def added(self, extra: Tensor) -> Tensor:
            return torch.zeros(())

    task, inputs = read(Forgetting(), batch_of())
    assert inputs == {"x"}
    assert "extra" in task.explains


def test_of_many_leaves_all_are_told_apart() -> None:
    class Table(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(40, 3)

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            columns = torch.stack([batch[f"column {number}"] for number in range(40)], dim=1)
            return F.cross_entropy(self.net(columns), batch["label"])

    torch.manual_seed(0)
    columns = {f"column {number}": torch.randn(6) for number in range(40)}
    _, inputs = read(Table(), {**columns, "label": torch.tensor([0, 1, 2, 0, 1, 2]), "id": torch.arange(6)})
    assert inputs == columns.keys()


def test_an_input_of_little_effect_is_one() -> None:
    class Faint(TwoBranches):
        def added(self, extra: Tensor) -> Tensor:
            return 1e-5 * self.branch(extra)

    torch.manual_seed(0)
    _, inputs = read(Faint(), batch_of())
    assert inputs == {"x", "extra"}
