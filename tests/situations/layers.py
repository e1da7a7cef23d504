"""State outside of usual weights and buffers, and what Trainers and their callbacks do with weights."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_interactions import Extraction
from tests.situations.losses import Net, by_logits
from tests.situations.situation import Answer, Case, Situations, mlp, normal, table, tables, zero

SITUATIONS = situation = Situations()

OTHER_ROWS = "outputs of a row depend on the other rows"
"""What is said of modules that watch the range of a batch, or the like."""


def plain(module: Any, **options: Any) -> Case:
    return Case(module, **{**tables(), "oracle": by_logits, "empty": zero(0), **options})


def unknown(_module: Any, _batch: Any) -> Answer:
    """For modules that are another one after the last measurement."""
    return None, None


def unasked(module: Any, **options: Any) -> Case:
    return plain(module, **{"oracle": unknown, "empty": None, "step_loss": None, **options})


class ActNorm(nn.Module):
    """Scale and shift by the statistics of the first batch that passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.initialised = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.initialised:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.scale.copy_(1 / (x.std(0) + 1e-3))
            self.initialised = True
        return self.scale * (x + self.shift)


class Activated(Net):
    """A network with such a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), ActNorm(8), nn.Tanh(), nn.Linear(8, 3))


@situation("scales that are set by the first batch, which is one of the sanity check")
def activation_norm() -> Case:
    return plain(Activated())


@situation("scales that are set by the first batch, which is one of training")
def activation_norm_in_training() -> Case:
    return plain(Activated(), trainer={"num_sanity_val_steps": 0})


@situation("buffers that are None until a forward fills them")
def empty_buffers() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", None)
            self.register_buffer("cache", None, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if self.scale is None:
                self.scale = torch.ones(x.shape[1])
            if self.cache is None or len(self.cache) < len(x):
                self.cache = torch.arange(len(x))
            return self.net(x * self.scale)

    return plain(Module(), trainer={"num_sanity_val_steps": 0})


@situation("a parameter that forward moves, in training and in evaluation")
def moved_parameter() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(normal(5, 4), requires_grad=False)
            self.register_buffer("uses", torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            nearest = torch.cdist(x, self.codes).argmin(1)
            with torch.no_grad():
                self.codes.data[nearest] = 0.9 * self.codes.data[nearest] + 0.1 * x
                self.uses += F.one_hot(nearest, 5).sum(0)
            return self.net(x)

    return plain(Module())


@situation("noise in evaluation from a generator of its own")
def own_noise() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(3)

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            noise = torch.randn((), generator=self.generator)
            loss = F.cross_entropy(self(x), y)
            self.log("val_noisy", loss.detach() + noise)
            return loss

    return plain(Module(), step_loss=None)


@situation("dropout that stays on in evaluation")
def dropout_always() -> Case:
    class Module(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.log("val_spread", torch.stack([F.dropout(self(x), training=True) for _ in range(3)]).std())
            self.log("val_loss", F.cross_entropy(self(x), y))

    return plain(Module())


@situation("a hidden state that is carried over all batches")
def carried_everywhere() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.hidden: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            self.hidden = out.mean(0) if self.hidden is None else 0.5 * self.hidden.detach() + 0.5 * out.mean(0)
            return out

    return plain(Module())


def lazy() -> Net:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))

    return Module()


@situation("lazy layers without a validation loader")
def lazy_alone() -> Case:
    return plain(lazy(), val=None, warned="no validation loader")


@situation("lazy layers after a sanity check")
def lazy_checked() -> Case:
    return plain(lazy())


@situation("a sparse buffer")
def sparse_buffer() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("graph", torch.eye(4).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(torch.sparse.mm(self.graph, x.T).T)

    return plain(Module())


@situation("buffers that forward resizes and replaces")
def resized_buffers() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1, 4))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = torch.cat([self.seen, x.detach()])[-20:]
            self.last.resize_(len(x)).copy_(x.detach()[:, 0])
            return self.net(x)

    return plain(Module())


class FakeQuantise(nn.Module):
    """Rounds to 8 bits by the range that was seen, as quantisation-aware training does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(torch.inf))
        self.register_buffer("high", torch.tensor(-torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        self.low = torch.minimum(self.low, x.detach().min())
        self.high = torch.maximum(self.high, x.detach().max())
        scale = float((self.high - self.low).clamp(min=1e-6)) / 255
        zero_point = int((-self.low / scale).round().clamp(0, 255))
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)


@situation("fake quantisation whose observers always watch")
def quantised() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(FakeQuantise(), nn.Linear(4, 8), nn.Tanh(), FakeQuantise(), nn.Linear(8, 3))

    return unasked(Module(), warned=OTHER_ROWS)


@situation("quantisation-aware training of torch")
def torch_quantised() -> Case:
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            observer = {"observer": MovingAverageMinMaxObserver, "quant_min": 0, "quant_max": 255}
            self.net = nn.Sequential(FakeQuantize(**observer), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    return unasked(Module(), warned=OTHER_ROWS)


class Symmetric(nn.Module):
    """A parametrisation by hand."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


@situation("parametrisations of today: weight norm, orthogonal, by hand")
def parametrised() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            square = nn.Linear(4, 4)
            parametrize.register_parametrization(square, "weight", Symmetric())
            first, last = parametrizations.weight_norm(nn.Linear(4, 8)), parametrizations.orthogonal(nn.Linear(8, 3))
            self.net = nn.Sequential(square, first, nn.Tanh(), last)

    return plain(Module())


@situation("spectral norm of old and pruned weights")
def pruned() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3))
            prune.random_unstructured(self.net[2], "weight", 0.3)

    return plain(Module())


@situation("hooks of all kinds")
def all_hooks() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.counts = dict.fromkeys(("before", "after", "backward", "gradient", "saved"), 0)
            self.net[0].register_forward_pre_hook(lambda _module, _args: self.count("before"))
            self.net[0].register_forward_hook(lambda _module, _args, _output: self.count("after"), always_call=True)
            self.net[2].register_full_backward_hook(lambda _module, _inputs, _outputs: self.count("backward"))
            self.net[2].weight.register_hook(lambda _gradient: self.count("gradient"))
            self.net[2].weight.register_post_accumulate_grad_hook(lambda _parameter: self.count("gradient"))
            self.net.register_state_dict_post_hook(lambda _module, _state, _prefix, _local: self.count("saved"))

        def count(self, name: str) -> None:
            self.counts[name] += 1

    return plain(Module())


@situation("a compiled part")
def compiled_part() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(mlp(), backend="eager")

    return plain(Module())


@situation("a compiled module")
def compiled_module() -> Case:
    return plain(torch.compile(Net(), backend="eager"), oracle=lambda module, batch: by_logits(module._orig_mod, batch))


@situation("tied weights, and a layer that nobody has registered")
def tied() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            first, last = nn.Linear(4, 4), nn.Linear(4, 4)
            last.weight = first.weight
            self.net, self.hidden = nn.Sequential(first, nn.Tanh(), last), [nn.BatchNorm1d(4).eval()]
            self.hidden[0].register_forward_hook(lambda module, _args, _output: module.num_batches_tracked.add_(1))

        def forward(self, x: Tensor) -> Tensor:
            self.hidden[0](x.detach())
            return self.net(x)

    return plain(Module())


@situation("activations that are computed twice")
def checkpointed() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.net, F.dropout(x, 0.1, self.training), use_reentrant=False)

    return plain(Module())


@situation("a teacher that follows the student, hidden in a list")
def teacher() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = [mlp().requires_grad_(False)]

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            for own, other in zip(self.teacher[0].parameters(), self.net.parameters(), strict=True):
                own.lerp_(other.detach(), 0.1)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_agreement", (self.teacher[0](batch[0]).argmax(1) == self(batch[0]).argmax(1)).float().mean())
            self.log("val_loss", self.loss(*batch))

    return plain(Module())


@situation("stochastic weight averaging")
def swa() -> Case:
    return unasked(Net(), callbacks=[callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)])


@situation("an exponential average by a callback")
def ema() -> Case:
    return unasked(Net(), callbacks=[callbacks.EMAWeightAveraging(decay=0.5)])


class Thaw(callbacks.BaseFinetuning):
    """Trains the first layer from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


@situation("a layer that thaws")
def thawed() -> Case:
    class Module(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(filter(lambda parameter: parameter.requires_grad, self.parameters()), lr=0.1)

    return plain(Module(), callbacks=[Thaw()])


@situation("pruning, accumulation that changes, and a search for the rate by callbacks")
def more_callbacks() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lr = 0.1

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=self.lr)

    found = callbacks.LearningRateFinder(num_training_steps=4, update_attr=True)
    others = [callbacks.GradientAccumulationScheduler({1: 2}), callbacks.ModelPruning("l1_unstructured", amount=0.2)]
    return unasked(Module(), callbacks=[found, *others])


@situation("a plateau, early stopping and the best checkpoint by the module's own loss")
def watched_loss() -> Case:
    class Module(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.5)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    return plain(Module(), callbacks=[callbacks.EarlyStopping("val_loss", patience=1, min_delta=5.0)])


@situation("bfloat16 under autocast")
def bfloat16_mixed() -> Case:
    return unasked(Net(), trainer={"precision": "bf16-mixed"})


@situation("bfloat16 under autocast, measured so")
def bfloat16_measured() -> Case:
    own = {"extraction": Extraction(tolerance=0.3, trainer_precision=True)}
    return unasked(Net(), trainer={"precision": "bf16-mixed"}, monitor=own)


@situation("weights of bfloat16")
def bfloat16_weights() -> Case:
    return unasked(Net(), trainer={"precision": "bf16-true"})


@situation("weights of float64")
def float64_weights() -> Case:
    return unasked(Net(), trainer={"precision": "64-true"})


@situation("anomalies are looked for, algorithms are deterministic, gradients in validation")
def careful() -> Case:
    options = {"detect_anomaly": True, "deterministic": True, "inference_mode": False, "gradient_clip_val": 0.1}
    return plain(Net(), trainer=options)


@situation("losses of long epochs are accumulated over batches that are left over")
def left_over() -> Case:
    train = DataLoader(table(21), batch_size=4, shuffle=True, drop_last=True)
    return plain(Net(), train=train, trainer={"accumulate_grad_batches": 2})


@situation("hyperparameters, an example input and a data module that is the module")
def hyperparameters() -> Case:
    class Module(Net):
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.example_input_array = torch.zeros(2, 4)

        def train_dataloader(self) -> Any:
            return DataLoader(table(), batch_size=8, shuffle=True)

        def val_dataloader(self) -> Any:
            return DataLoader(table(8, seed=1), batch_size=8)

    return Case(Module(), None, by_logits, empty=zero(0))


@situation("a state of its own in checkpoints and a training mode of its own")
def own_state() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.extra = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), 0

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.net[1].eval()
            return self

        def get_extra_state(self) -> Any:
            return torch.tensor(self.extra)

        def set_extra_state(self, state: Any) -> None:
            self.extra = int(state)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.extra += 1

    return plain(Module())


class Rich(pl.Callback):
    """Works on the module between batches, as callbacks of users do."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.norms.append(float(pl_module.net[0].weight.detach().norm()))
        pl_module.log("norm", self.norms[-1])
        with torch.no_grad():
            pl_module.net[0].weight.mul_(0.99)


@situation("a callback that logs and changes weights")
def user_callback() -> Case:
    return plain(Net(), callbacks=[Rich()])
