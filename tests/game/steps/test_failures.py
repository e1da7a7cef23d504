"""What is said where a step fails."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.independence import CompanyError
from lightning_interactions.game.steps import OwnStep, on_stage
from lightning_interactions.records import Rows


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 4)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return self.after(loss)

    def after(self, loss: Tensor) -> Tensor:
        return loss


def read(model: LightningModule) -> OwnStep:
    task = OwnStep()
    with torch.no_grad(), on_stage(model.eval()):
        task.read(model, Rows.of((torch.randn(4, 3), torch.tensor([0, 1, 2, 3]))))
    return task


def test_a_failure_after_the_loss_is_said() -> None:
    class Failing(Module):
        def after(self, loss: Tensor) -> Tensor:
            raise KeyError("no such metric")

    assert "no such metric" in read(Failing()).explains


def test_a_failure_after_losses_that_are_not_understood_is_said() -> None:
    class Failing(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            features = self.net(batch[0])
            F.cross_entropy(features @ features.T, torch.arange(len(features)))
            raise KeyError("no such metric")

    with pytest.raises(ValueError, match="no such metric"):
        read(Failing())


def test_normalisation_by_the_batch_is_named() -> None:
    model = Module()
    model.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 4))
    with pytest.raises(CompanyError, match="running statistics"):
        read(model)


def test_a_step_that_loses_the_axis_of_a_single_row_is_told_so() -> None:
    class Squeezing(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.net(batch[0])[:, :1].squeeze(), (batch[1] > 1).float())

    with pytest.raises(CompanyError, match="squeeze"):
        read(Squeezing())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 3), nn.Flatten())])
def test_where_dtypes_do_not_fit_the_precision_of_the_trainer_is_named(dtype: torch.dtype, layer: nn.Module) -> None:
    model = Module()
    model.net = layer
    with pytest.raises(ValueError, match=r"Extraction\(trainer_precision=True\)"):
        read(model.to(dtype))
