"""Steps and loops: what a step returns, manual optimisation, several optimizers, several fits, other Trainers."""

from typing import Any

import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from tests.situations.losses import Net, by_logits
from tests.situations.situation import Answer, Base, Case, Situations, classified, entropies, mlp, table, tables, zero

SITUATIONS = situation = Situations()


def plain(module: Any, **options: Any) -> Case:
    return Case(module, **tables(), oracle=by_logits, empty=zero(0), **options)


@situation("a step that returns a dict, and its outputs kept")
def returns_dict() -> Case:
    class Module(Net):
        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            logits = self(batch[0])
            return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits.detach(), "n": len(batch[1])}

        validation_step = training_step  # type: ignore[assignment]

    return plain(Module())


@situation("validation with metrics alone")
def metrics_alone() -> Case:
    class Module(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    return plain(Module(), step_loss=None)


@situation("no validation step, and a training step alone")
def training_step_alone() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

    return Case(
        Module(), DataLoader(table(), batch_size=8, shuffle=True), by_logits, empty=zero(0), warned="no validation loader"
    )


@situation("the logged loss has another name, and is on top of a dict")
def other_name() -> Case:
    class Module(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.loss(*batch)
            self.log_dict({"valid/ce": loss, "valid/perplexity": loss.exp()}, on_epoch=True)

    return plain(Module(), step_loss=None)


@situation("some training steps are skipped")
def skipped_steps() -> Case:
    class Module(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
            return None if batch_idx == 0 else self.loss(*batch)

    return plain(Module())


@situation("manual optimisation with one optimizer and a schedule")
def manual() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            optimizer = self.optimizers()
            loss = self.loss(*batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            self.lr_schedulers().step()
            self.log("train_loss", loss)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]

    return plain(Module())


@situation("manual optimisation without a validation step")
def manual_training_alone() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = mlp()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            optimizer.step()

    return Case(Module(), DataLoader(table(), batch_size=8), by_logits, empty=zero(0), warned="no validation loader")


@situation("sharpness-aware steps: two passes with a closure")
def two_passes() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            optimizer = self.optimizers()
            loss = self.loss(*batch)
            self.manual_backward(loss)
            steps = [0.05 * p.grad for p in self.parameters()]
            with torch.no_grad():
                torch._foreach_add_(list(self.parameters()), steps)
            optimizer.zero_grad()
            self.manual_backward(self.loss(*batch))
            with torch.no_grad():
                torch._foreach_sub_(list(self.parameters()), steps)
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

    return plain(Module())


@situation("a generator, and a discriminator that also classifies")
def adversarial() -> Case:
    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator = mlp(features=2 + 3, out=4)
            self.discriminator = mlp(out=1 + 3)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            of_generator, of_discriminator = self.optimizers()
            made = self.generator(torch.cat([torch.randn(len(x), 2), F.one_hot(y, 3).float()], 1))

            self.toggle_optimizer(of_discriminator)
            real, false = self.discriminator(x), self.discriminator(made.detach())
            truth = F.binary_cross_entropy_with_logits(real[:, 0], torch.ones(len(x)))
            lie = F.binary_cross_entropy_with_logits(false[:, 0], torch.zeros(len(x)))
            loss = (truth + lie) / 2 + F.cross_entropy(real[:, 1:], y)
            self.log("d_loss", loss)
            self.manual_backward(loss)
            of_discriminator.step()
            of_discriminator.zero_grad()
            self.untoggle_optimizer(of_discriminator)

            self.toggle_optimizer(of_generator)
            fooled = F.binary_cross_entropy_with_logits(self.discriminator(made)[:, 0], torch.ones(len(x)))
            self.log("g_loss", fooled)
            self.manual_backward(fooled)
            of_generator.step()
            of_generator.zero_grad()
            self.untoggle_optimizer(of_generator)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.discriminator(batch[0])[:, 1:], batch[1]))

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (self.generator, self.discriminator)]

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.discriminator(batch[0])[:, 1:], batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("a weight of a term that grows with the epoch")
def annealed() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(3, 4)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            logits = self(x)
            weight = 0.1 * self.current_epoch / self.trainer.max_epochs
            return F.cross_entropy(logits, y) + weight * F.mse_loss(self.decoder(logits), x)

    def total(module: Any, batch: Any) -> Tensor:
        # The last validation was in the second of two epochs, number 1.
        logits = module.net(batch[0])
        return entropies(logits, batch[1]).mean() + 0.05 * (module.decoder(logits) - batch[0]).pow(2).mean()

    return plain(Module(), step_loss=total)


@situation("label smoothing that falls with the epoch")
def falling_smoothing() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            smoothing = 0.4 * (1 - self.current_epoch / self.trainer.max_epochs)
            return F.cross_entropy(self(x), y, label_smoothing=smoothing)

    def oracle(module: Any, batch: Any) -> Answer:
        logits = module.net(batch[0]).double()
        scores, losses = classified(logits, batch[1])
        return scores, 0.8 * losses + 0.2 * (logits.logsumexp(1, keepdim=True) - logits).mean(1)  # type: ignore[operator]

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


def another_trainer(case: Case, trainer: Any, new_trainer: Any) -> Any:
    trainer = new_trainer()
    case.fit(trainer)
    return trainer


@situation("the same module is fitted once more, with another Trainer and the same monitor")
def two_fits() -> Case:
    # It is another run: the history begins anew, which is said.
    return plain(Net(), then=another_trainer, warned="another run")


@situation("the same Trainer goes on for more epochs")
def more_epochs() -> Case:
    def go_on(case: Case, trainer: Any, _new_trainer: Any) -> Any:
        trainer.fit_loop.max_epochs += 1
        case.fit(trainer)
        return trainer

    return plain(Net(), then=go_on, epochs=(0, 1, 2, 3))


@situation("folds of one dataset, a module and a Trainer each, one monitor")
def folds() -> Case:
    data = table(24)

    def split(first: int) -> list[DataLoader[Any]]:
        held_out = list(range(first, first + 8))
        return [
            DataLoader(Subset(data, rows), batch_size=8)
            for rows in ([row for row in range(24) if row not in held_out], held_out)
        ]

    def next_fold(case: Case, trainer: Any, new_trainer: Any) -> Any:
        case.module, (case.train, case.val) = Net(), split(8)
        return another_trainer(case, trainer, new_trainer)

    train, val = split(0)
    return Case(Net(), train, by_logits, val, empty=zero(0), then=next_fold, warned="another run")


@situation("one fold of a dataset")
def fold() -> Case:
    data = table(24)
    train, val = (DataLoader(Subset(data, rows), batch_size=8) for rows in (list(range(16)), list(range(16, 24))))
    return Case(Net(), train, by_logits, val, empty=zero(0))


class Old(pytorch_lightning.LightningModule):
    """A module of the package's other name."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = mlp()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@situation("import pytorch_lightning as pl")
def other_package() -> Case:
    return plain(Old(), framework=pytorch_lightning)


@situation("accumulated gradients, clipping and a schedule of steps")
def accumulated() -> Case:
    class Module(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.05, total_steps=self.trainer.estimated_stepping_batches
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return plain(Module(), trainer={"accumulate_grad_batches": 2, "gradient_clip_val": 0.5})


@situation("a closure that is called several times a step")
def closure() -> Case:
    class Module(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    return plain(Module())
