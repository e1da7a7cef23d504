"""A stage on which steps run outside of a Trainer's loops: what they see, and that nothing is done."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_interactions.game.steps import on_stage


class Acting(LightningModule):
    """A module that does in its step what steps have been seen to do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.inner = Inner()

    def act(self) -> dict[str, Any]:
        first, second = self.optimizers()
        first.zero_grad()
        self.toggle_optimizer(first)
        self.manual_backward(self.net.weight.sum())
        self.clip_gradients(first, gradient_clip_val=0.5)
        first.step()
        self.untoggle_optimizer(first)
        self.lr_schedulers().step()
        seen: list[str] = []
        second.step(lambda: seen.append("closure"))
        self.log("loss", self.net.weight.sum())
        self.log_dict({"other": 1.0}, on_epoch=True, sync_dist=True)
        self.inner.log("inner", 2.0)
        self.logger.experiment.add_image("image", torch.zeros(1), self.global_step)
        self.trainer.save_checkpoint("file")
        self.trainer.should_stop = True
        self.print("nothing")
        return {
            "seen": seen,
            "lr": second.param_groups[0]["lr"],
            "epoch": self.current_epoch,
            "step": self.trainer.global_step,
            "training": self.trainer.training,
            "validating": self.trainer.validating,
            "gathered": self.all_gather(torch.ones(2)),
            "most": self.trainer.max_epochs,
            "data": self.trainer.datamodule.trainer.validating,
        }


class Inner(LightningModule):
    pass


class RealTrainer:
    """As much of a Trainer as the step reads, and calls that must not reach it."""

    def __init__(self, module: Acting) -> None:
        self.current_epoch, self.global_step, self.max_epochs, self.should_stop = 3, 70, 9, False
        self.optimizers = [torch.optim.SGD(module.parameters(), lr=rate) for rate in (0.1, 0.2)]
        self.lr_scheduler_configs = [SimpleNamespace(scheduler=torch.optim.lr_scheduler.StepLR(self.optimizers[0], 1))]
        self.datamodule = SimpleNamespace(trainer=self)
        self.state = SimpleNamespace(stage=None)
        self.training, self.validating = True, False

    def save_checkpoint(self, path: str) -> None:
        raise AssertionError("a stand-in saves nothing")


def test_a_step_sees_its_run_in_validation_and_does_nothing_to_it() -> None:
    module = Acting()
    trainer = RealTrainer(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    logged: dict[str, Any] = {}
    with on_stage(module, trainer, log=logged.__setitem__):
        found = module.act()
    assert found.pop("gathered").tolist() == [1, 1]
    assert found == {
        "seen": ["closure"],
        "lr": 0.2,
        "epoch": 3,
        "step": 70,
        "training": False,
        "validating": True,
        "most": 9,
        "data": True,
    }
    assert logged.keys() == {"loss", "other", "inner"}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert (trainer.should_stop, trainer.training, trainer.datamodule.trainer) == (False, True, trainer)


@pytest.mark.parametrize("attached", [False, True])
def test_the_module_is_as_it_was_afterwards(attached: bool) -> None:
    module = Acting()
    if attached:
        module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    before = dict(vars(module))
    with pytest.raises(KeyError), on_stage(module):
        raise KeyError
    assert vars(module).keys() == before.keys()
    assert all(vars(module)[name] is value for name, value in before.items())


def test_without_a_trainer_what_is_missing_is_said() -> None:
    module = Acting()
    with on_stage(module):
        assert (module.current_epoch, module.trainer.is_global_zero, module.trainer.world_size) == (0, True, 1)
        with pytest.raises(AttributeError, match="estimated_stepping_batches"):
            _ = module.trainer.estimated_stepping_batches
