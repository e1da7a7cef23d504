"""What a step does to its Trainer, optimizers, loggers, callbacks and data module reaches none of them."""

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions.game.steps import OwnStep, on_stage
from lightning_interactions.game.steps.stand_ins import Folder, Silence, StandInOptimizer
from lightning_interactions.measuring.shadow import shadow_of
from lightning_interactions.records import Rows


class Averages(Callback):
    """A callback that a step asks for a number."""

    def __init__(self) -> None:
        self.weight, self.seen, self.total = 0.5, [1], torch.ones(2)

    def scaled(self, by: float) -> float:
        self.seen.append(2)
        self.total += 1
        return self.weight * by


class Tables(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.names, self.asked, self.mean = ["a", "b"], 0, torch.zeros(3)
        self.rows = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=4)

    def named(self, labels: Tensor) -> list[str]:
        self.asked += 1
        return [self.names[label] for label in labels.tolist()]


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 100)]


class Run:
    """A finished run, and all of it that a step could change."""

    def __init__(self, root: Path) -> None:
        self.module, self.data, self.averages = Module(), Tables(), Averages()
        self.trainer: Any = Trainer(
            accelerator="cpu",
            default_root_dir=root,
            max_epochs=1,
            logger=CSVLogger(root, name="logs"),
            callbacks=[self.averages, ModelCheckpoint(dirpath=root / "checkpoints")],
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        self.trainer.fit(self.module, self.data)
        self.root = root

    def described(self) -> dict[str, Any]:
        trainer = self.trainer
        (optimizer,) = trainer.optimizers
        return {
            "weights": {name: value.tolist() for name, value in self.module.state_dict().items()},
            "gradients": [parameter.grad is None for parameter in self.module.parameters()],
            "optimizer": str(optimizer.state_dict()),
            "scheduler": str(trainer.lr_scheduler_configs[0].scheduler.state_dict()),
            "interval": trainer.lr_scheduler_configs[0].interval,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "logged": dict(trainer.logged_metrics),
            "stop": trainer.should_stop,
            "epochs": trainer.fit_loop.max_epochs,
            "batches": trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            "callbacks": [type(one) for one in trainer.callbacks],
            "averages": [self.averages.weight, list(self.averages.seen), self.averages.total.tolist()],
            "best": trainer.checkpoint_callback.best_model_path,
            "data": [list(self.data.names), self.data.asked, self.data.mean.tolist()],
            "loggers": len(trainer.loggers),
            "files": sorted(str(path) for path in self.root.rglob("*")),
            "strategy": trainer.strategy.model is self.module,
            "stage": (trainer.training, trainer.state.stage, trainer.state.status),
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What Lightning says of small loaders.
        return Run(tmp_path_factory.mktemp("run"))


def settings_of_optimizer(self: Any) -> None:
    self.trainer.optimizers[0].param_groups[0]["lr"] = 7.0
    self.trainer.optimizers[0].zero_grad()
    self.trainer.optimizers[0].state.clear()
    self.optimizers().optimizer.param_groups[0]["lr"] = 7.0
    self.optimizers().param_groups[0]["betas"] = (0, 0)
    with self.optimizers().toggle_model():
        self.optimizers().step()


def parameters_of_optimizer(self: Any) -> None:
    for state in self.optimizers().state.values():
        state["exp_avg"].zero_()
    for parameter in self.trainer.optimizers[0].param_groups[0]["params"]:
        assert any(parameter is own for own in self.parameters())
        parameter.data.zero_()
    self.optimizers().state_dict()["param_groups"][0]["lr"] = 3


def scheduler(self: Any) -> None:
    self.log("lr", self.lr_schedulers().get_last_lr()[0])
    assert self.lr_schedulers().get_last_lr() == [0.1]
    self.lr_schedulers().get_last_lr()[0] = 5.0
    self.lr_schedulers().base_lrs[0] = 5.0
    self.lr_schedulers().optimizer.param_groups[0]["lr"] = 5.0
    self.lr_schedulers().step()
    self.trainer.lr_scheduler_configs[0].interval = "step"
    self.trainer.lr_scheduler_configs[0].scheduler.last_epoch = 99


def metrics(self: Any) -> None:
    assert "train_loss" in self.trainer.callback_metrics
    self.trainer.callback_metrics["mine"] = torch.ones(())
    self.trainer.callback_metrics["train_loss"].fill_(9)
    assert self.trainer.callback_metrics["mine"] == 1
    self.trainer.logged_metrics.clear()


def loops(self: Any) -> None:
    self.trainer.should_stop = True
    self.trainer.fit_loop.max_epochs = 99
    self.trainer.fit_loop.epoch_loop.batch_progress.current.ready = 99
    self.trainer.fit_loop.epoch_loop.batch_progress.reset()
    self.trainer.state.status = "other"
    self.trainer.fit(self)


def callbacks(self: Any) -> None:
    averages = next(one for one in self.trainer.callbacks if isinstance(one, Averages))
    assert averages.scaled(4.0) == 2.0
    averages.weight = 3.0
    averages.seen.append(5)
    averages.total.add_(1)
    self.trainer.callbacks.append(Callback())
    assert isinstance(self.trainer.checkpoint_callback, ModelCheckpoint)
    self.trainer.checkpoint_callback.best_model_path = "elsewhere"
    self.trainer.save_checkpoint("elsewhere.ckpt")


def data_module(self: Any) -> None:
    data = self.trainer.datamodule
    assert isinstance(data, Tables)
    assert data.named(torch.tensor([1, 0])) == ["b", "a"]
    data.asked += 1
    data.names.append("c")
    data.names[0] = "z"
    data.mean += 1
    assert data.trainer.validating
    assert len(data.rows) == 8
    self.trainer.train_dataloader.mine = 1
    assert len(self.trainer.train_dataloader) == 2


def strategy(self: Any) -> None:
    assert self.trainer.strategy.root_device == torch.device("cpu")
    assert self.trainer.strategy.reduce(torch.ones(2)).tolist() == [1, 1]
    self.trainer.strategy.barrier()
    self.trainer.strategy.model = None
    assert self.trainer.strategy.lightning_module is self
    with self.trainer.precision_plugin.forward_context():
        pass
    self.trainer.strategy.backward(torch.ones(()))
    assert self.trainer.lightning_module is self


def folders(self: Any) -> None:
    for folder in (self.logger.log_dir, self.trainer.log_dir, self.trainer.default_root_dir, self.loggers[0].save_dir):
        os.makedirs(os.path.join(folder, "images"), exist_ok=True)
        Path(folder, "one.txt").write_text("one")
        Path(f"{folder}/two.txt").write_text("two")
        Path(folder + "/three.txt").write_text("three")
    torch.save(self.state_dict(), Path(self.logger.log_dir) / "weights.pt")


def numbers(self: Any) -> None:
    version = self.logger.version
    assert [version + 1 > 3, version < 3, version == 3] == [False, False, False]
    assert (len(self.logger.experiment), int(version), f"{version:03d}", f"{version:.1f}") == (0, 0, "000", "0.0")
    assert 2 * version - 1 is version
    assert "key" not in self.logger.experiment.config
    self.logger.experiment.config["key"] = 1
    for logger in self.loggers:
        logger.log_metrics({"a": 1})


@pytest.mark.parametrize(
    "act",
    [
        *(settings_of_optimizer, parameters_of_optimizer, scheduler, metrics, loops, callbacks, data_module, strategy),
        *(folders, numbers),
    ],
)
def test_nothing_that_a_step_does_reaches_the_run(act: Any, run: Run) -> None:
    class Acting(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            act(self)
            return F.cross_entropy(self.net(batch[0]), batch[1])

    before = copy.deepcopy(run.described())
    module = shadow_of(run.module).module
    module.__class__ = Acting
    task = OwnStep()
    with torch.no_grad(), on_stage(module.eval(), run.trainer):
        module.validation_step((torch.randn(4, 3), torch.tensor([0, 1, 1, 0])), 0)
        probes = task.read(module, Rows.of((torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))))
    assert len(probes) == 4
    assert run.described() == before


def test_what_is_written_into_a_silent_folder_is_gone_afterwards() -> None:
    folder = Folder()
    silence = Silence(folder)
    path = Path(os.path.join(silence, "file"))
    path.write_text("content")
    assert path.exists()
    folder.remove()
    assert not path.exists()


def test_without_a_trainer_optimizers_say_something_and_do_nothing() -> None:
    module = Module()
    with on_stage(module):
        optimizer = module.optimizers()
        assert isinstance(optimizer, StandInOptimizer)
        assert optimizer.param_groups[0]["lr"] == 0
        assert optimizer.step(lambda: 3) == 3
        optimizer.zero_grad()
        assert module.lr_schedulers() is None
        module.trainer.callback_metrics["mine"] = 1
    with on_stage(module):
        assert module.trainer.callback_metrics == {}
