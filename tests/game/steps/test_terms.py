"""What the step makes of its loss: which elements count, what divides them, and whether that is what it minimises."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_interactions.game.steps import OwnStep, on_stage
from lightning_interactions.records import Probes, Rows

CLASSES, LABELS, LENGTH = 4, 3, 5
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0])


class Classifier(LightningModule):
    """Classes of rows."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.net = nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class Tagger(LightningModule):
    """Classes of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(ids))
        return logits


def rows(num_rows: int = 8, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(num_rows, 5, generator=generator),
        "y": torch.randint(0, CLASSES, (num_rows,), generator=generator),
        "labels": torch.randint(0, 2, (num_rows, LABELS), generator=generator).float(),
        "weight": 0.5 + torch.rand(num_rows, generator=generator),
    }


def sentences(num_rows: int = 8, seed: int = 0, ignored: int = -100) -> dict[str, Tensor]:
    """Of lengths from 1 to 5; no token of the second row has a tag."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (num_rows, LENGTH), generator=generator)
    lengths = torch.arange(num_rows) % LENGTH + 1
    mask = torch.arange(LENGTH) < lengths[:, None]
    tags = torch.where(mask, torch.randint(0, CLASSES, (num_rows, LENGTH), generator=generator), ignored)
    tags[1] = ignored
    return {"ids": ids * mask, "tags": tags}


def read(model: LightningModule, batch: Any, task: OwnStep | None = None) -> tuple[OwnStep, Probes]:
    task = OwnStep() if task is None else task
    with torch.no_grad(), on_stage(model.eval()):
        return task, task.read(model, Rows.of(batch))


def measured(task: OwnStep, model: LightningModule, probes: Probes) -> tuple[Tensor, Tensor]:
    """Exact losses of the rows, and those that follow from their scores."""
    exact, of_score = [], []
    for group in probes.groups:
        with torch.no_grad(), on_stage(model):
            outputs = task.forward(model, group.inputs.tree)
            exact.append(task.exact_losses(outputs, group.targets.tree))
            of_score.append(task.loss(task.score(outputs, group.targets.tree).double(), group.targets.tree))
    return task.reduce_exact(torch.cat(exact)), torch.cat(of_score)


# What counts, and what divides


class Averages(Tagger):
    """Takes the mean over all tokens, ignored or not."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = F.cross_entropy(self(batch["ids"]).flatten(0, 1), batch["tags"].flatten(), reduction="none")
        return losses.mean()


class AveragesSentences(Tagger):
    """Takes the mean over the tokens of each sentence, and then over sentences."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = F.cross_entropy(self(batch["ids"]).transpose(1, 2), batch["tags"], reduction="none")
        counts = (batch["tags"] != -100).sum(1)
        return (losses.sum(1) / counts.clamp(min=1)).mean()


class AveragesTagged(Tagger):
    """Takes the mean over the tokens that have a tag."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = F.cross_entropy(self(batch["ids"]).transpose(1, 2), batch["tags"], reduction="none")
        return losses.sum() / (batch["tags"] != -100).sum()


class AddsUp(Tagger):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["ids"]).transpose(1, 2), batch["tags"], reduction="none").sum()


def entropies(model: Tagger, batch: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropies ``[rows, tokens]``, 0 where there is no tag, and whether there is one."""
    logits, tags = model(batch["ids"]).detach(), batch["tags"]
    there = tags != -100
    of_tag = logits.gather(-1, torch.where(there, tags, 0)[..., None])[..., 0]
    return (logits.exp().sum(-1).log() - of_tag) * there, there


BY_HAND: dict[type[Tagger], Callable[[Tensor, Tensor], Tensor]] = {
    Averages: lambda losses, _: losses.sum(1) / LENGTH,
    AveragesSentences: lambda losses, there: losses.sum(1) / there.sum(1).clamp(min=1),
    AveragesTagged: lambda losses, there: losses.sum(1) / there[there.any(1)].sum(1).float().mean(),
    AddsUp: lambda losses, _: losses.sum(1),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_targets_decide_which_rows_are_kept_and_the_step_what_divides(kind: type[Tagger]) -> None:
    torch.manual_seed(1)
    model, batch = kind(), sentences()
    task, probes = read(model, batch)
    assert len(probes) == 7
    exact, _ = measured(task, model, probes)
    losses, there = entropies(model, batch)
    torch.testing.assert_close(exact, BY_HAND[kind](losses, there)[there.any(1)])
    assert "which is the step's own loss" in task.explains


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_loss_of_a_score_is_exact_where_tokens_are_alike(kind: type[Tagger]) -> None:
    torch.manual_seed(1)
    model, batch = kind(), sentences()
    batch["ids"] = batch["ids"][:, :1].expand(-1, LENGTH).clone()
    batch["tags"] = torch.where(batch["tags"] == -100, -100, 2)
    exact, of_score = measured(*(found := read(model, batch))[:1], model, found[1])
    torch.testing.assert_close(of_score.float(), exact.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_row_counts_the_same_in_a_batch_of_any_size_where_the_step_adds_up(factor: float) -> None:
    class Sums(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return factor * F.cross_entropy(self(batch["x"]), batch["y"], reduction="none").sum()

    torch.manual_seed(1)
    model, batch = Sums(), rows(8)
    task, whole = read(model, batch)
    parts = [read(model, {name: leaf[some] for name, leaf in batch.items()}, task)[1] for some in (slice(6), slice(6, 8))]
    expected = factor * F.cross_entropy(model(batch["x"]), batch["y"], reduction="none").detach()
    torch.testing.assert_close(measured(task, model, whole)[0], expected)
    together = Probes.joined(*(group for part in parts for group in part.groups))
    for found in measured(task, model, together):
        torch.testing.assert_close(found.float(), expected)


def test_a_mean_in_which_some_positions_count_nothing_is_a_mean_of_all() -> None:
    class Partly(Tagger):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            losses = F.cross_entropy(self(batch["ids"]).transpose(1, 2), batch["tags"].clamp(min=0), reduction="none")
            return (losses * (batch["ids"] != 0)).mean()

    torch.manual_seed(1)
    model, batch = Partly(), sentences()
    task, probes = read(model, batch)
    exact, _ = measured(task, model, probes)
    with torch.no_grad():
        torch.testing.assert_close(exact.mean(), model.validation_step(batch, 0))


# The loss as a function of the score


def of_classes(logits: Tensor, batch: Any) -> Tensor:
    return logits.exp().sum(1).log() - logits[torch.arange(len(logits)), batch["y"]]


def of_labels(logits: Tensor, batch: Any, positive: Tensor | float = 1.0) -> Tensor:
    labels, odds = batch["labels"], logits[:, :LABELS].exp()
    return positive * labels * (1 + 1 / odds).log() + (1 - labels) * (1 + odds).log()


def bce(logits: Tensor, batch: Any, **options: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, :LABELS], batch["labels"], **options)


def bce_of_one(logits: Tensor, batch: Any, **options: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], batch["labels"][:, 0], **options)


PARTS = torch.tensor([0.5, 1.0, 2.5])

SLOPES: dict[str, tuple[Callable[[Tensor, Any], Tensor], Callable[[Tensor, Any], Tensor], str]] = {
    "class weights, mean of all": (
        lambda z, b: F.cross_entropy(z, b["y"], weight=WEIGHTS, reduction="none").mean(),
        lambda z, b: WEIGHTS[b["y"]] * of_classes(z, b),
        "Classification",
    ),
    "class weights, sum": (
        lambda z, b: F.cross_entropy(z, b["y"], weight=WEIGHTS, reduction="sum"),
        lambda z, b: WEIGHTS[b["y"]] * of_classes(z, b),
        "Classification",
    ),
    "class weights, mean": (
        lambda z, b: F.cross_entropy(z, b["y"], weight=WEIGHTS),
        lambda z, b: WEIGHTS[b["y"]] * of_classes(z, b) / WEIGHTS[b["y"]].mean(),
        "Classification",
    ),
    "rows with weights": (
        lambda z, b: (F.cross_entropy(z, b["y"], reduction="none") * b["weight"]).sum() / b["weight"].sum(),
        lambda z, b: of_classes(z, b) * b["weight"] / b["weight"].mean(),
        "Classification",
    ),
    "a weight of one logit": (
        lambda z, b: bce_of_one(z, b, weight=torch.tensor(2.0)),
        lambda z, b: 2 * of_labels(z, b)[:, 0],
        "BinaryClassification",
    ),
    "a weight and a pos_weight of one logit": (
        lambda z, b: bce_of_one(z, b, weight=torch.tensor([2.0]), pos_weight=torch.tensor(3.0), reduction="none").mean(),
        lambda z, b: 2 * of_labels(z, b, 3.0)[:, 0],
        "BinaryClassification",
    ),
    "a weight of several labels": (
        lambda z, b: bce(z, b, weight=torch.tensor(2.0)),
        lambda z, b: 2 * of_labels(z, b).mean(1),
        "MultiLabel",
    ),
    "weights of rows of several labels": (
        lambda z, b: (bce(z, b, reduction="none").sum(1) * b["weight"]).mean(),
        lambda z, b: of_labels(z, b).sum(1) * b["weight"],
        "MultiLabel",
    ),
    "pos_weight of several labels": (
        lambda z, b: bce(z, b, pos_weight=PARTS),
        lambda z, b: of_labels(z, b, PARTS).mean(1),
        "NoneType",
    ),
    "weights of several labels": (
        lambda z, b: bce(z, b, weight=PARTS, reduction="sum"),
        lambda z, b: (PARTS * of_labels(z, b)).sum(1),
        "NoneType",
    ),
    "probabilities and smoothing": (
        lambda z, b: F.cross_entropy(z, torch.eye(CLASSES)[b["y"]], label_smoothing=0.2),
        lambda z, b: 0.8 * of_classes(z, b) + 0.2 * (z.exp().sum(1).log() - z.mean(1)),
        "NoneType",
    ),
    "squared error, sum": (
        lambda z, b: F.mse_loss(z[:, 0], b["weight"], reduction="sum"),
        lambda z, b: (z[:, 0] - b["weight"]) ** 2,
        "Prediction",
    ),
}


@pytest.mark.parametrize("kind", SLOPES)
def test_the_loss_is_the_same_function_of_the_score_as_of_the_outputs(kind: str) -> None:
    loss, by_hand, explained = SLOPES[kind]

    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return loss(self(batch["x"]), batch)

    torch.manual_seed(1)
    model, batch = Module(), rows()
    task, probes = read(model, batch)
    assert type(task.readings[0].term.task).__name__ == explained
    expected = by_hand(model(batch["x"]).detach(), batch)
    for found in measured(task, model, probes):
        torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-6)


def test_tokens_with_class_weights_and_smoothing_have_a_loss_of_their_score() -> None:
    class Module(Tagger):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch["ids"]).transpose(1, 2), batch["tags"], weight=WEIGHTS, label_smoothing=0.1)

    torch.manual_seed(1)
    model, batch = Module(), sentences()
    classes = (torch.arange(8) % CLASSES)[:, None].expand(-1, LENGTH)
    batch = {"ids": classes.clone(), "tags": torch.where(batch["tags"] == -100, -100, classes)}
    with torch.no_grad():  # The other classes are equally likely, as smoothing assumes of them.
        model.head.weight.copy_(torch.eye(CLASSES, 6))
        model.head.bias.zero_()
        model.embedding.weight.copy_(torch.linspace(0.5, 2, 20)[:, None] * torch.eye(20, 6))
    task, probes = read(model, batch)
    exact, of_score = measured(task, model, probes)
    torch.testing.assert_close(of_score.float(), exact.float(), rtol=1e-4, atol=1e-5)


# What the step minimises


def numbers_of(said: Any) -> list[float]:
    """Numbers with a decimal point in the one warning of ours."""
    (message,) = (str(warning.message) for warning in said if "OwnStep" in str(warning.message))
    return [float(number) for number in re.findall(r"-?\d+\.\d+", message)]


class Both(Classifier):
    """A hand-written loss, and a cross-entropy that is logged beside it."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch["x"])
        self.log("val_ce", F.cross_entropy(logits, batch["y"]))
        loss = -logits.softmax(1)[torch.arange(len(logits)), batch["y"]].mean()
        self.log("val_loss", loss)
        return loss


class OnlyLogs(Both):
    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        super().validation_step(batch, batch_idx)


class Focal(Classifier):
    reduction = "none"

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = F.cross_entropy(self(batch["x"]), batch["y"], reduction=self.reduction)
        return ((1 - (-losses).exp()) ** 2 * losses).mean()


class FocalOfTheMean(Focal):
    reduction = "mean"


@pytest.mark.parametrize("kind", [Both, OnlyLogs, Focal, FocalOfTheMean])
def test_a_loss_that_is_explained_and_not_minimised_is_warned_of_once_with_both_numbers(kind: type[Classifier]) -> None:
    torch.manual_seed(1)
    model, batch = kind(), rows()
    logits = model(batch["x"]).detach()
    likely = (-of_classes(logits, batch)).exp()
    own = {Focal: ((1 - likely) ** 2 * -likely.log()).mean()}.get(kind, -likely.mean())
    if kind is FocalOfTheMean:
        mean = of_classes(logits, batch).mean()
        own = (1 - (-mean).exp()) ** 2 * mean
    with pytest.warns(UserWarning, match="OwnStep") as said:
        task, _ = read(model, batch)
    assert numbers_of(said) == pytest.approx([of_classes(logits, batch).mean().item(), own.item()], rel=1e-4)
    task.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(model, rows(6, seed=1), task)


@pytest.mark.parametrize("kept", [lambda loss: loss, Tensor.detach, Tensor.item], ids=["whole", "detached", "number"])
def test_a_loss_of_which_the_step_takes_a_part_is_said(kept: Callable[[Tensor], Any]) -> None:
    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss = 0.125 * F.cross_entropy(self(batch["x"]), batch["y"])
            self.log("val_loss", kept(loss + 0.001 * self.net.weight.square().sum()))

    task, _ = read(Module(), rows())
    assert "0.125 times" in task.explains
    assert "own loss" in task.explains
    assert task.readings[0].doubt == ""


def test_a_loss_that_is_only_logged_is_not_taken_where_there_is_another() -> None:
    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self(batch["x"])
            self.log("cross_entropy", 100 * F.cross_entropy(logits, batch["y"]))
            return F.mse_loss(logits[:, 0], batch["weight"])

    task, _ = read(Module(), rows())
    (reading,) = task.readings
    assert (reading.call, reading.term.function) == (1, F.mse_loss)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rows_compared_with_every_target_are_warned_of_with_both_numbers(reduction: str) -> None:
    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch["x"]), batch["weight"], reduction=reduction)

    torch.manual_seed(1)
    model, batch = Module(outputs=1), rows()
    outputs = model(batch["x"]).detach()
    reduce = torch.mean if reduction == "mean" else torch.sum
    broadcast, meant = (reduce((outputs - one) ** 2).item() for one in (batch["weight"], batch["weight"][:, None]))
    with pytest.warns(UserWarning, match="OwnStep") as said:
        task, _ = read(model, batch)
    assert numbers_of(said) == pytest.approx([broadcast, meant], rel=1e-4)
    assert task.largest_batch == 1


# Functions with other ways to divide


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_a_divergence_of_flattened_tokens_is_divided_by_all_of_them(reduction: str) -> None:
    class Module(Tagger):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self(batch["ids"]).flatten(0, 1)
            return F.kl_div(logits.log_softmax(-1), batch["aims"].flatten(0, 1), reduction=reduction)

    torch.manual_seed(1)
    aims = torch.randn(8, LENGTH, CLASSES).softmax(-1)
    model, batch = Module(), {"ids": sentences()["ids"], "aims": aims}
    task, probes = read(model, batch)
    exact, of_score = measured(task, model, probes)
    by_token = (aims * (aims.log() - model(batch["ids"]).detach().log_softmax(-1))).sum(-1)
    expected = by_token.sum(1) / (LENGTH if reduction == "batchmean" else 1)
    torch.testing.assert_close(exact, expected)
    torch.testing.assert_close(of_score.float(), expected)


def test_a_margin_of_flattened_tokens_is_a_mean_of_them() -> None:
    class Module(Tagger):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.multi_margin_loss(self(batch["ids"]).flatten(0, 1), batch["tags"].flatten())

    torch.manual_seed(1)
    model, batch = Module(), {"ids": sentences()["ids"], "tags": torch.randint(0, CLASSES, (8, LENGTH))}
    exact, of_score = measured(*(found := read(model, batch))[:1], model, found[1])
    logits, tags = model(batch["ids"]).detach(), batch["tags"][..., None]
    margins = (1 - logits.gather(-1, tags) + logits).clamp(min=0).scatter(-1, tags, 0.0).mean(-1)
    torch.testing.assert_close(exact, margins.mean(1))
    torch.testing.assert_close(of_score.float(), margins.mean(1))


def has_weight(function: Any) -> bool:
    """Whether this version of torch takes weights of rows there."""
    return "weight" in inspect.signature(function).parameters


@pytest.mark.parametrize("function", [*filter(has_weight, (F.mse_loss, F.huber_loss, F.binary_cross_entropy_with_logits))])
def test_a_weight_for_each_row_in_the_call_is_refused(function: Any) -> None:
    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return function(self(batch["x"])[:, 0], batch["labels"][:, 0], weight=batch["weight"])

    with pytest.raises(ValueError, match="class MyTask"):
        read(Module(), rows())


@pytest.mark.skipif(not has_weight(F.l1_loss), reason="this version of torch has no such weight")
def test_a_weight_that_torch_does_not_hand_on_is_warned_of() -> None:
    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.l1_loss(self(batch["x"])[:, 0], batch["y"].float(), weight=batch["weight"])

    torch.manual_seed(1)
    model, batch = Module(), rows()
    distances = (model(batch["x"])[:, 0].detach() - batch["y"]).abs()
    weighted = (distances * batch["weight"]).sum() / batch["weight"].sum()
    with pytest.warns(UserWarning, match="OwnStep") as said:
        read(model, batch)
    assert numbers_of(said) == pytest.approx([distances.mean().item(), weighted.item()], rel=1e-4)


# Batches of several structures


class Splits(Classifier):
    """Training batches are dicts, those of validation are tuples, and their losses are reduced in other ways."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["x"]), batch["y"], reduction="sum", weight=self.class_weights)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y, weight=self.class_weights)

    def __init__(self, class_weights: Tensor | None) -> None:
        super().__init__()
        self.class_weights = class_weights


def test_losses_of_each_structure_are_reduced_as_its_own_step_does() -> None:
    torch.manual_seed(1)
    model, batch = Splits(WEIGHTS), rows()
    x, y = batch["x"], batch["y"]
    task, held_out = read(model, (x, y))
    with pytest.warns(UserWarning, match="added up"):
        _, training = read(model, {"x": x, "y": y}, task)
    losses = WEIGHTS[y] * of_classes(model(x).detach(), batch)
    for probes, expected in ((held_out, losses / WEIGHTS[y].mean()), (training, losses)):
        for found in measured(task, model, probes):
            torch.testing.assert_close(found.float(), expected)


def test_where_sum_and_mean_of_a_row_are_the_same_nothing_is_said() -> None:
    model, batch = Splits(None), rows()
    task, _ = read(model, (batch["x"], batch["y"]))
    read(model, {"x": batch["x"], "y": batch["y"]}, task)
    assert len(task.readings) == 2


# Devices without float64


@contextmanager
def without_float64() -> Iterator[None]:
    """Let tensors be of float64 only if they come from the CPU, as on a device that has none."""
    from_cpu = set[int]()
    kept = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.double and id(args[0]) not in from_cpu:
                raise TypeError("this device has no float64")
            result = func(*args, **(kwargs or {}))
            if func is Tensor.cpu:
                result = result.clone()
                from_cpu.add(id(result))
                kept.append(result)
            return result

    with Mode():
        yield


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda z, y: F.nll_loss(z.log_softmax(1), y)])
def test_steps_are_read_on_a_device_without_float64(loss: Any) -> None:
    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return loss(self(batch["x"]), batch["y"]) * 0.5

    model, task = Module(), OwnStep()
    with without_float64():
        _, probes = read(model, rows(), task)
        with torch.no_grad(), on_stage(model):
            mean = task.mean_loss(model, probes.groups)
    batch = rows()
    assert mean == pytest.approx(of_classes(model(batch["x"]), batch).mean().item(), rel=1e-5)
