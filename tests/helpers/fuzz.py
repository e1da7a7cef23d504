"""Random modules, data, loaders, Trainers and settings, trained for a moment with and without a monitor.

A case follows from its seed alone. What may come of it: a clear error before the first step, the error that the run has without
the monitor too, or a finished run that equals one without it in everything that :mod:`tests.situations.traces` compares.
"""

import random
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_interactions import Extraction, InteractionMonitor, Logging, PhaseEarlyStopping, ProbeSampling, schedules, tasks
from lightning_interactions import baselines as masks
from lightning_interactions import players as games
from lightning_interactions.evidence import InputAgreement, OrderShape, ParameterNoise
from tests.situations.traces import Recorder, differences, everything

__all__ = ["Outcome", "run_case"]

OURS = (ValueError, TypeError, MisconfigurationException)
"""Kinds of errors that say what to change."""

FEATURES, CLASSES, WORDS, LENGTH = 3, 3, 11, 4


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        seed: The case.
        kind: ``"equal"``, ``"refused"`` or ``"same error"``, which are as they should be; else ``"different"``, ``"error"`` or
            ``"late error"``.
        said: The error, or what differs.
        choices: What was drawn, by name.
    """

    seed: int
    kind: str
    said: str
    choices: dict[str, str]

    @property
    def is_fine(self) -> bool:
        """Whether nothing was harmed."""
        return self.kind in ("equal", "refused", "same error")

    def __str__(self) -> str:
        drawn = ", ".join(f"{name}={value}" for name, value in self.choices.items())
        return f"seed {self.seed}: {self.kind}: {self.said}\n    {drawn}"


class Draws:
    """Draws from lists, and takes down what was drawn.

    Args:
        seed: Decides all of it.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.taken: dict[str, str] = {}

    def one_of(self, name: str, options: dict[str, Any] | list[Any], often: float = 0.0) -> Any:
        """Draw an option; the first one with this probability besides."""
        named = options if isinstance(options, dict) else {repr(one): one for one in options}
        first = next(iter(named))
        said = first if self.random.random() < often else self.random.choice(list(named))
        if said != first:
            self.taken[name] = said
        return named[said]

    def happens(self, name: str, probability: float) -> bool:
        """Draw yes or no."""
        yes = self.random.random() < probability
        if yes:
            self.taken[name] = "yes"
        return yes


# Data.


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, *shape: int, seed: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed + 1000))


class AsDict(Dataset[Any]):
    """Rows as dicts with a name."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        return {"name": f"row {index}", "x": x, "y": y}


class Noisy(Dataset[Any]):
    """Rows with noise of the global generators, and a counter."""

    def __init__(self, data: Any) -> None:
        self.data, self.reads = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        x, y = self.data[index]
        if x.is_floating_point():
            x = x + 0.01 * torch.randn_like(x) + 0.01 * np.random.standard_normal() + 0.01 * random.random()
        return x.float() if x.is_floating_point() else x, y


class Stream(IterableDataset[Any]):
    """Rows that pass, in another order each time."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        yield from (self.data[index] for index in torch.randperm(len(self.data)).tolist())


@dataclass(frozen=True)
class Kind:
    """A kind of data: inputs and targets of so many rows, the network, and its loss."""

    inputs: Callable[[int, int], Tensor]
    targets: Callable[[int, int], Tensor]
    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]


class LastState(nn.Module):
    """A recurrent network of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(WORDS, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(x))[1][0])


class Tagger(nn.Module):
    """Logits for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x))


class Squeezed(nn.Module):
    """One number a row."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]


def mlp(out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, out))


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))


def rows(*shape: int) -> Callable[[int, int], Tensor]:
    return lambda number, seed: normal(number, *shape, seed=seed)


def labels(high: int, *shape: int) -> Callable[[int, int], Tensor]:
    return lambda number, seed: whole(high, number, *shape, seed=seed)


def float_labels(*shape: int) -> Callable[[int, int], Tensor]:
    return lambda number, seed: whole(2, number, *shape, seed=seed).float()


def flat_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


KINDS = {
    "table": Kind(rows(FEATURES), labels(CLASSES), lambda: mlp(CLASSES), F.cross_entropy),
    "binary": Kind(rows(FEATURES), float_labels(), lambda: Squeezed(mlp(1)), F.binary_cross_entropy_with_logits),
    "regression": Kind(rows(FEATURES), rows(), lambda: Squeezed(mlp(1)), F.mse_loss),
    "regression [rows, 1]": Kind(rows(FEATURES), rows(1), lambda: mlp(1), F.smooth_l1_loss),
    "several numbers": Kind(rows(FEATURES), rows(2), lambda: mlp(2), F.mse_loss),
    "several labels": Kind(rows(FEATURES), float_labels(2), lambda: mlp(2), F.binary_cross_entropy_with_logits),
    "images": Kind(rows(1, 4, 4), labels(CLASSES), cnn, F.cross_entropy),
    "words": Kind(lambda n, seed: whole(WORDS, n, LENGTH, seed=seed), labels(CLASSES), LastState, F.cross_entropy),
    "tags": Kind(lambda n, seed: whole(WORDS, n, LENGTH, seed=seed), labels(CLASSES, LENGTH), Tagger, flat_entropy),
    "sum over rows": Kind(
        rows(FEATURES), labels(CLASSES), lambda: mlp(CLASSES), lambda z, y: F.cross_entropy(z, y, reduction="sum")
    ),
    "by hand": Kind(
        rows(FEATURES), labels(CLASSES), lambda: mlp(CLASSES), lambda z, y: -z.log_softmax(1).gather(1, y[:, None]).mean()
    ),
}


class Module(pl.LightningModule):
    """A module whose habits are drawn.

    Args:
        kind: Data, network and loss.
        habits: What is special about it.
        learning_rate: May be so large that weights become infinite.
    """

    def __init__(self, kind: Kind, habits: set[str], learning_rate: float) -> None:
        super().__init__()
        self.net, self.criterion, self.habits, self.learning_rate = kind.network(), kind.loss, habits, learning_rate
        self.calls, self.kept, self.running = 0, list[Tensor](), torch.zeros(())
        self.generator = torch.Generator().manual_seed(1)
        self.register_buffer("empty", None)
        self.dropout = nn.Dropout(0.3) if "dropout" in habits else nn.Identity()
        if "norm" in habits:
            self.norm: nn.Module = nn.BatchNorm1d(FEATURES)
        if "frozen" in habits:
            next(self.net.parameters()).requires_grad = False
        if "zero weights" in habits:
            for parameter in self.net.parameters():
                nn.init.zeros_(parameter)
        self.automatic_optimization = "manual" not in habits

    def forward(self, x: Tensor) -> Tensor:
        if "counter" in self.habits:
            self.calls += 1
        if "norm" in self.habits and x.ndim == 2 and x.is_floating_point():
            x = self.norm(x)
        outputs = self.net(self.dropout(x) if x.is_floating_point() else x)
        if "running" in self.habits:
            self.running = 0.9 * self.running + outputs.detach().mean()
        if "buffer" in self.habits and self.empty is None:
            self.empty = torch.ones(1)
        return outputs

    def loss(self, batch: Any) -> Tensor:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        outputs = self(x)
        if "generator" in self.habits:
            torch.randn((), generator=self.generator)
        loss = self.criterion(outputs, y)
        if "kept" in self.habits:
            self.kept.append(loss)
        return loss + 1e-3 * self.net(x).pow(2).mean() if "penalty" in self.habits else loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        if "logs" in self.habits:
            self.log("train_loss", loss, on_step=True, on_epoch=True)
        if self.automatic_optimization:
            return {"loss": loss} if "dict" in self.habits else loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        if "schedule" in self.habits:
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]
        return optimizer

    def on_train_epoch_end(self) -> None:
        self.kept.clear()


class Validated(Module):
    """The same with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        loss = self.loss(batch)
        self.log(f"val_loss_{dataloader_idx}", loss, add_dataloader_idx=False)
        return loss if "returns" in self.habits else None


HABITS = ("dropout", "norm", "frozen", "zero weights", "manual", "counter", "running", "buffer", "generator", "kept", "penalty")
MORE_HABITS = ("logs", "dict", "schedule", "returns")


def draw_module(draws: Draws) -> tuple[Kind, Module]:
    kind = KINDS[draws.one_of("kind", list(KINDS), often=0.2)]
    habits = {habit for habit in (*HABITS, *MORE_HABITS) if draws.happens(habit, 0.15)}
    if "manual" in habits:
        habits -= {"schedule"}
    rate = draws.one_of("learning_rate", [0.05, 1e-3, 0.0, 1e30], often=0.6)
    made = draws.one_of("module", {"validated": Validated, "training alone": Module}, often=0.6)
    return kind, made(kind, habits, rate)


def draw_loader(draws: Draws, name: str, kind: Kind, number: int, seed: int) -> Any:
    inputs, targets = kind.inputs(number, seed), kind.targets(number, seed)
    if draws.happens(f"{name} constant", 0.05):
        inputs, targets = torch.zeros_like(inputs), torch.zeros_like(targets)
    if draws.happens(f"{name} NaN", 0.03) and inputs.is_floating_point():
        inputs[0] = torch.nan
    data: Any = TensorDataset(inputs, targets)
    wrap: dict[str, Callable[[Any], Any]] = {
        "plain": lambda data: data,
        "dicts": AsDict,
        "noisy": Noisy,
        "subset": lambda data: Subset(data, range(len(data))),
        "two parts": lambda data: ConcatDataset([Subset(data, [0]), Subset(data, range(1, len(data)))]),
        "stream": Stream,
        "list": lambda data: [data[index] for index in range(len(data))],
    }
    data = draws.one_of(f"{name} data", wrap, often=0.4)(data)
    size = draws.one_of(f"{name} batch_size", [4, 1, 2, 3, 5, 16], often=0.3)
    options: dict[str, Any] = {"batch_size": size, "drop_last": draws.happens(f"{name} drop_last", 0.1)}
    if draws.happens(f"{name} workers", 0.03):
        options |= {"num_workers": 1, "persistent_workers": draws.happens(f"{name} persistent", 0.5)}
    if isinstance(data, Stream):
        return DataLoader(data, **options)
    match draws.one_of(f"{name} order", ["shuffled", "in order", "weighted", "own batches", "own generator"], often=0.4):
        case "shuffled":
            options["shuffle"] = True
        case "weighted":
            options["sampler"] = WeightedRandomSampler([1.0, *[0.5] * (len(data) - 1)], len(data))
        case "own batches":
            options = {"batch_sampler": BatchSampler(RandomSampler(data), size, drop_last=False)}
        case "own generator":
            options |= {"shuffle": True, "generator": torch.Generator().manual_seed(seed)}
    return DataLoader(data, **options)


def draw_validation(draws: Draws, kind: Kind, training: Any) -> Any:
    def loader(seed: int) -> Any:
        return draw_loader(draws, f"val {seed}", kind, draws.one_of(f"val {seed} rows", [8, 1, 2, 3, 6], often=0.5), seed)

    match draws.one_of("val", ["one", "none", "two", "a dict", "the training data"], often=0.5):
        case "none":
            return None
        case "two":
            return [loader(1), loader(2)]
        case "a dict":
            return {"a": loader(1), "b": loader(2)}
        case "the training data":
            return training
        case _:
            return loader(1)


def draw_trainer(draws: Draws) -> dict[str, Any]:
    """Arguments of a Trainer, but for callbacks and folders."""
    options: dict[str, Any] = {"max_epochs": draws.one_of("max_epochs", [2, 1], often=0.3)}
    rare: dict[str, list[Any]] = {
        "max_steps": [3, 1],
        "accumulate_grad_batches": [2, 3],
        "gradient_clip_val": [0.5],
        "precision": ["bf16-mixed", "64-true", "bf16-true", "32-true"],
        "limit_train_batches": [1, 2, 0.5],
        "limit_val_batches": [1, 0, 0.5],
        "num_sanity_val_steps": [0, -1],
        "check_val_every_n_epoch": [2],
        "val_check_interval": [1, 0.5],
        "overfit_batches": [1],
        "fast_dev_run": [True, 2],
        "reload_dataloaders_every_n_epochs": [1],
        "deterministic": [True],
        "detect_anomaly": [True],
        "barebones": [True],
        "inference_mode": [False],
        "min_epochs": [1],
        "log_every_n_steps": [3],
    }
    for name, values in rare.items():
        if draws.random.random() < 0.08:
            options[name] = draws.random.choice(values)
            draws.taken[name] = repr(options[name])
    return options


def draw_callbacks(draws: Draws) -> list[Any]:
    made: dict[str, Callable[[], list[Any]]] = {
        "none": list,
        "early stopping": lambda: [callbacks.EarlyStopping("val_loss_0", patience=1, strict=False)],
        "accumulation": lambda: [callbacks.GradientAccumulationScheduler({0: 2})],
        "averaging": lambda: [callbacks.EMAWeightAveraging(decay=0.5)],
    }
    found: list[Any] = draws.one_of("callbacks", made, often=0.8)()
    return found


def draw_monitor(draws: Draws, kind: Kind) -> tuple[Callable[[], list[Any]], bool]:
    """What makes the monitor's callbacks, which may raise an error."""
    of_players: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "pairs": lambda: games.FeatureGroups(groups=[[0, 1], [2]]),
        "too many features": lambda: games.FeatureGroups(groups=[[0], [7]]),
        "patches": lambda: games.ImagePatches(2, 2),
        "tokens": lambda: games.Tokens(),
        "segments": lambda: games.TimeSegments(2),
    }
    of_masks: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "zeros": masks.Zeros,
        "mean": masks.TrainingMean,
        "constant": lambda: masks.Constant(0.5),
        "sample": lambda: masks.TrainingSample(4),
        "token": lambda: masks.Token(0),
        "blur": masks.Blur,
    }
    of_evidence: dict[str, Callable[[], Any]] = {
        "noise": lambda: ParameterNoise(num_draws=1),
        "default": lambda: None,
        "orders": OrderShape,
        "held-out inputs": InputAgreement,
        "small noise": lambda: ParameterNoise(scale=1e-3, num_draws=2),
    }
    of_tasks: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "classes": tasks.Classification,
        "one logit": tasks.BinaryClassification,
        "a number": tasks.Regression,
        "labels": tasks.MultiLabel,
    }
    of_schedules: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "each epoch": schedules.EveryNEpochs,
        "each second epoch": lambda: schedules.EveryNEpochs(2),
        "each step": lambda: schedules.EveryNSteps(1),
        "each third step": lambda: schedules.EveryNSteps(3),
        "planned": lambda: schedules.Planned(2, max_overhead=0.5),
        "denser": lambda: schedules.DenserEarly(unit="steps"),
    }
    player = draws.one_of("players", of_players, often=0.8)
    mask = draws.one_of("baseline", of_masks, often=0.75)
    evidence = draws.one_of("evidence", of_evidence, often=0.5)
    task = draws.one_of("task", of_tasks, often=0.9)
    schedule = draws.one_of("schedule", of_schedules, often=0.3)
    training = draws.one_of("probes", [3, 1, 2, 40], often=0.5)
    held_out = draws.one_of("held-out probes", [2, 0, 1, 40], often=0.5)
    given = draws.happens("given probes", 0.08)
    extraction = {
        "tolerance": draws.one_of("tolerance", [0.3, 0.05, None], often=0.8),
        "threshold": draws.one_of("threshold", [0.05, 0.0, 0.5], often=0.8),
        "noise_tolerance": draws.one_of("noise_tolerance", [0.0, 0.1], often=0.8),
        "batch_size": draws.one_of("forwards", [None, 1, 3], often=0.8),
        "trainer_precision": draws.happens("trainer_precision", 0.1),
        "max_players": draws.one_of("max_players", [16, 2], often=0.9),
    }
    stopping = draws.happens("stopping, log only", 0.2)
    named = draws.happens("two monitors", 0.05)
    verbose = draws.happens("verbose", 0.1)

    def made() -> list[Any]:
        own = (kind.inputs(2, 5), kind.targets(2, 5)) if given else training

        def monitor(name: str | None) -> InteractionMonitor:
            return InteractionMonitor(
                player(),
                task(),
                evidence(),
                mask(),
                ProbeSampling(own, held_out),
                Extraction(**extraction),
                schedule(),
                logging=Logging(figures=None, verbose=verbose),
                on_error="raise",
                name=name,
            )

        monitors = [monitor("a"), monitor("b")] if named else [monitor(None)]
        return [*monitors, *([PhaseEarlyStopping(log_only=True, monitor="a" if named else None)] if stopping else [])]

    return made, evidence is of_evidence["default"]


class FirstStep(callbacks.Callback):
    """Knows whether training has begun."""

    begun = False

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.begun = True


def train(seed: int, root: Path, monitored: bool) -> tuple[dict[str, Any] | None, Exception | None, bool, dict[str, str]]:
    """Train a case once.

    Returns:
        What was left, if it came to an end; else the error, and whether a step was taken before; and what was drawn.
    """
    draws, begun = Draws(seed), FirstStep()
    # What is made for the module and its data follows from the seed, too.
    seed_everything(seed, verbose=False)
    try:
        kind, module = draw_module(draws)
        training = draw_loader(draws, "train", kind, draws.one_of("rows", [12, 2, 3, 5, 16], often=0.5), 0)
        validation = draw_validation(draws, kind, training)
        options, others, (made, _) = draw_trainer(draws), draw_callbacks(draws), draw_monitor(draws, kind)
        logger = CSVLogger(root) if draws.happens("logger", 0.1) else False
        recorder = Recorder()
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            default_root_dir=root,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{
                "enable_checkpointing": False,
                "logger": None if options.get("barebones") else logger,
                **options,
                "callbacks": [*others, begun, recorder, *(made() if monitored else [])],
            },
        )
        trainer.fit(module, training, validation)
        return everything(trainer, module, [training, validation], recorder), None, begun.begun, draws.taken
    except Exception as error:
        return None, error, begun.begun, draws.taken
    finally:
        torch.use_deterministic_algorithms(False)


def run_case(seed: int) -> Outcome:
    """Train a case with and without a monitor, and compare."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as root:
        warnings.simplefilter("ignore")
        alone, own_error, _, _ = train(seed, Path(root), monitored=False)
        with_monitor, error, begun, drawn = train(seed, Path(root), monitored=True)
    if error is not None:
        if own_error is not None and type(error) is type(own_error):
            return Outcome(seed, "same error", repr(error)[:200], drawn)
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        if begun:
            return Outcome(seed, "late error", f"{error!r}\n{where}", drawn)
        return Outcome(seed, "refused" if isinstance(error, OURS) else "error", f"{error!r}\n{where}"[:1500], drawn)
    if own_error is not None:
        return Outcome(seed, "different", f"without the monitor there is {own_error!r}", drawn)
    found = differences(with_monitor, alone)
    return Outcome(seed, "different" if found else "equal", "; ".join(found[:4])[:600], drawn)
