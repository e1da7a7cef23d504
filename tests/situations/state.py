"""State that a step or a forward changes: counters, metrics, lists, hidden state, hooks, averages, merges."""

import threading
from collections import deque
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.situations.batches import Rows, Stepped, of_rows
from tests.situations.losses import Net, by_logits
from tests.situations.situation import Answer, Case, Situations, classified, entropies, mlp, normal, tables, zero

SITUATIONS = situation = Situations()


def plain(module: Any, **options: Any) -> Case:
    return Case(module, **tables(), oracle=by_logits, empty=zero(0), **options)


@situation("counters and statistics in plain attributes of forward")
def counters() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.largest, self.running, self.shapes = 0, -1.0, torch.zeros(4), {}

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.largest = max(self.largest, float(x.max()))
            self.running = 0.9 * self.running + 0.1 * x.detach().mean(0)
            self.shapes[tuple(x.shape)] = self.shapes.get(tuple(x.shape), 0) + 1
            return self.net(x)

    return plain(Module())


@situation("self.log and metrics inside forward")
def logging_forward() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norms = torchmetrics.MeanMetric()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.net(x)
            self.norms(hidden.detach().norm(dim=1))
            self.log("hidden", hidden.abs().mean())
            self.log("norms", self.norms)
            return hidden

    return plain(Module())


@situation("collections of metrics, computed and reset by hand")
def metrics_by_hand() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            kinds = {"accuracy": torchmetrics.classification.MulticlassAccuracy(3), "loss": torchmetrics.MeanMetric()}
            self.metrics, self.best = nn.ModuleDict(kinds), torchmetrics.MaxMetric()

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self(batch[0])
            loss = F.cross_entropy(logits, batch[1])
            self.metrics["accuracy"].update(logits, batch[1])
            self.metrics["loss"].update(loss)
            return loss

        def on_validation_epoch_end(self) -> None:
            accuracy = self.metrics["accuracy"].compute()
            self.best(accuracy)
            self.log("val_acc_best", self.best.compute())
            for metric in self.metrics.values():
                metric.reset()

    return plain(Module())


@situation("lists of past losses and outputs")
def past_outputs() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.training_step_outputs: list[Tensor] = []
            self.outs: list[dict[str, Tensor]] = []
            self.last: deque[Tensor] = deque(maxlen=3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self(batch[0])
            loss = F.cross_entropy(logits, batch[1])
            self.training_step_outputs.append(loss)  # Undetached, as many do.
            self.last.append(logits)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.outs.append({"loss": loss})
            return loss

        def on_validation_epoch_end(self) -> None:
            self.log("val_loss", torch.stack([out["loss"] for out in self.outs]).mean())
            self.outs.clear()

    return plain(Module())


@situation("a queue of past features in the step")
def queue_of_features() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("queue", torch.zeros(16, 3))
            self.pointer = 0

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            logits = self(x)
            self.queue[self.pointer : self.pointer + len(x)] = logits.detach()[: 16 - self.pointer]
            self.pointer = (self.pointer + len(x)) % 16
            return F.cross_entropy(logits, y)

    return plain(Module())


@situation("a hidden state that is carried over batches of training")
def carried_state() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head, self.hidden = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3), None

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            outputs, hidden = self.rnn(x, None if self.hidden is None else self.hidden.detach())
            self.hidden = hidden  # With its graph.
            return F.cross_entropy(self.head(outputs[:, -1]), y)

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.head(self.rnn(x)[0][:, -1]), y)

    def oracle(module: Any, batch: Any) -> Answer:
        hidden = torch.stack([module.rnn(one[None])[0][0, -1] for one in batch[0]])
        return classified(module.head(hidden), batch[1])

    return Case(Module(), **of_rows(lambda i: (normal(6, 2, seed=i), i % 3)), oracle=oracle, empty=zero(0))


@situation("generators of its own, of torch and NumPy")
def own_generators() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.rng = torch.Generator().manual_seed(3), np.random.default_rng(4)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            noise, scale = torch.randn(x.shape, generator=self.generator), float(self.rng.uniform(0.1, 0.2))
            return F.cross_entropy(self(x + scale * noise if self.training else x), y)

    return plain(Module())


@situation("weight_norm of old, spectral norm of parametrizations")
def normed_weights() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            first = nn.utils.weight_norm(nn.Linear(4, 8))
            self.net = nn.Sequential(first, nn.Tanh(), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)))

    def oracle(module: Any, batch: Any) -> Answer:
        first, last = module.net[0], module.net[2]
        weight = first.weight_g * first.weight_v / first.weight_v.norm(dim=1, keepdim=True)
        return classified((batch[0] @ weight.T + first.bias).tanh() @ last.weight.T + last.bias, batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("forward hooks: a method and a closure over the module")
def hooks_on_self() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.activations: dict[str, Tensor] = {}
            self.seen = 0
            self.net[0].register_forward_hook(self.keep)
            self.net[1].register_forward_hook(lambda _module, _args, output: self.count(len(output)))

        def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
            self.activations["first"] = output

        def count(self, rows: int) -> None:
            self.seen += rows

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            loss = F.cross_entropy(self(x), y)
            return loss + 0.01 * self.activations["first"].abs().mean()

    def total(module: Any, batch: Any) -> Tensor:
        first = batch[0] @ module.net[0].weight.T + module.net[0].bias
        return entropies(module.net(batch[0]), batch[1]).mean() + 0.01 * first.abs().mean()

    return plain(Module(), step_loss=total)


@situation("lazy layers")
def lazy_layers() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))

    # Without the sanity check of validation the layers have no size before the first step, after which they are measured.
    return plain(Module(), trainer={"num_sanity_val_steps": 0})


@situation("an average of the weights is validated")
def averaged_weights() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.average = torch.optim.swa_utils.AveragedModel(
                self.net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
            )

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.average.update_parameters(self.net)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.average(batch[0]), batch[1]))

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.average.module(batch[0]), batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("an average of the weights takes their place in validation")
def swapped_weights() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.shadow = {name: p.detach().clone() for name, p in self.net.named_parameters()}
            self.kept: dict[str, Tensor] = {}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            for name, p in self.net.named_parameters():
                self.shadow[name].lerp_(p.detach(), 0.5)

        def on_validation_epoch_start(self) -> None:
            self.kept = {name: p.detach().clone() for name, p in self.net.named_parameters()}
            self.net.load_state_dict(self.shadow)

        def on_validation_epoch_end(self) -> None:
            self.net.load_state_dict(self.kept)

    # Measured are the weights of training, as they are between two hooks.
    return plain(Module(), step_loss=None)


@situation("attributes that cannot be copied")
def not_copied() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lock, self.file, self.batches = threading.Lock(), None, iter([1, 2])
            self.numbers = (number for number in range(3))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            with self.lock:
                return F.cross_entropy(self(x), y)

        def on_fit_start(self) -> None:
            self.file = open(__file__, encoding="utf-8")  # noqa: SIM115

        def on_fit_end(self) -> None:
            self.file.close()
            self.file = None

    # They are shared with what is measured, which is said.
    return plain(Module(), warned="cannot be copied")


@situation("an adapter that merges into the weights on eval()")
def merged_adapter() -> Case:
    class Adapted(nn.Linear):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs)
            self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(0.1 * torch.randn(outputs, 2))
            self.weight.requires_grad, self.merged = False, False

        def train(self, mode: bool = True) -> "Adapted":
            super().train(mode)
            if mode == self.merged:
                self.weight.data += (-1 if mode else 1) * (self.up @ self.down).data
                self.merged = not mode
            return self

        def forward(self, x: Tensor) -> Tensor:
            outputs = F.linear(x, self.weight, self.bias)
            return outputs if self.merged else outputs + x @ self.down.T @ self.up.T

    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(Adapted(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def oracle(module: Any, batch: Any) -> Answer:
        first = module.net[0]
        weight = first.weight if first.merged else first.weight + first.up @ first.down
        return classified(module.net[2]((batch[0] @ weight.T + first.bias).tanh()), batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("batch norm with running statistics, dropout, frozen parts")
def usual_layers() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

        def on_train_epoch_start(self) -> None:
            self.net[1].eval()

    def oracle(module: Any, batch: Any) -> Answer:
        hidden, norm = batch[0] @ module.net[0].weight.T + module.net[0].bias, module.net[1]
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        return classified(hidden.clamp(min=0) @ module.net[4].weight.T + module.net[4].bias, batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("threshold of the loss is a plain attribute changed by the step")
def warm_up() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = 4.0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]) / self.temperature, batch[1])
            self.temperature = max(1.0, 0.8 * self.temperature)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]) / self.temperature, batch[1])

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(batch[0]) / module.temperature, batch[1])

    return Case(Module(), **tables(), oracle=oracle, empty=zero(0))


@situation("a memory of how often each row was seen")
def memory() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.times = mlp(), {}

        def step(self, batch: Any) -> Tensor:
            for name in batch["name"]:
                self.times[name] = self.times.get(name, 0) + 1
            return F.cross_entropy(self.net(batch["x"]), batch["y"])

    def row(index: int) -> Any:
        x = normal(4, seed=index)
        return {"name": f"row {index}", "x": x, "y": int(x[:3].argmax())}

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(batch["x"]), batch["y"])

    train, val = (DataLoader(Rows(count, row), batch_size=8) for count in (16, 8))
    return Case(Module(), train, oracle, val, empty=zero("x"))
