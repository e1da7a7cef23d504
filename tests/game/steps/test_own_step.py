"""The module's own step as the game: its loss, score and targets, against plain calls of the loss function."""

import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.scores import log_odds
from lightning_interactions.game.steps import OwnStep, disagreement, on_stage
from lightning_interactions.game.tasks import Classification
from lightning_interactions.records import Probes, Rows

CLASSES = 4
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0])

Loss = Callable[[LightningModule, Tensor, Tensor], Any]


class Stepping(LightningModule):
    """A linear classifier whose validation step is a given loss of its logits and the labels."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.net = nn.Linear(5, CLASSES)
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self.loss(self, self(batch["x"]), batch["y"])


def batch_of(num_rows: int = 7, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, 5, generator=generator)
    y = torch.randint(0, CLASSES, (num_rows,), generator=generator)
    return {"x": x, "y": y, "number": torch.arange(num_rows)}


def read(model: LightningModule, batch: Any, task: OwnStep | None = None) -> tuple[OwnStep, Probes]:
    task = OwnStep() if task is None else task
    with torch.no_grad(), on_stage(model.eval()):
        return task, task.read(model, Rows.of(batch))


def scores_and_losses(task: OwnStep, model: LightningModule, probes: Probes) -> tuple[Tensor, Tensor]:
    """Scores and exact losses of all probes, group by group."""
    with torch.no_grad(), on_stage(model):
        outputs = [(task.forward(model, group.inputs.tree), group.targets.tree) for group in probes.groups]
        exact = torch.cat([task.exact_losses(*pair) for pair in outputs])
    return torch.cat([task.score(*pair) for pair in outputs]), task.reduce_exact(exact)


def tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Three positions for each row, the last of which does not count for every other row."""
    scaled = logits[:, None] * torch.tensor([1.0, -0.5, 2.0])[:, None]
    targets = torch.stack([labels, (labels + 1) % CLASSES, labels], dim=1)
    targets[::2, 2] = -100
    return scaled, targets


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, CLASSES).float()


KINDS: dict[str, tuple[Loss, str]] = {
    "classes": (lambda _, z, y: F.cross_entropy(z, y), "Classification"),
    "weighted": (lambda _, z, y: F.cross_entropy(z, y, weight=WEIGHTS), "Classification"),
    "smoothed": (lambda _, z, y: nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2)(z, y), "Classification"),
    "log-probabilities": (lambda _, z, y: F.nll_loss(z.log_softmax(1), y, weight=WEIGHTS), "Classification"),
    "log of probabilities": (lambda _, z, y: F.nll_loss(z.softmax(1).log(), y), "Classification"),
    "one-hot": (lambda _, z, y: F.cross_entropy(z, one_hot(y)), "SoftClassification"),
    "mixed up": (lambda _, z, y: F.cross_entropy(z, 0.7 * one_hot(y) + 0.3 * one_hot(y.flip(0))), "SoftClassification"),
    "one logit": (lambda _, z, y: F.binary_cross_entropy_with_logits(z[:, 0], (y > 1).float()), "BinaryClassification"),
    "pos_weight": (
        lambda _, z, y: F.binary_cross_entropy_with_logits(z[:, :1], (y > 1).float()[:, None], pos_weight=torch.tensor([3.0])),
        "BinaryClassification",
    ),
    "probability": (lambda _, z, y: F.binary_cross_entropy(z[:, 0].sigmoid(), (y > 1).float()), "BinaryClassification"),
    "soft label": (lambda _, z, y: F.binary_cross_entropy_with_logits(z[:, 0], 0.1 + 0.2 * y), "BinaryClassification"),
    "labels": (lambda _, z, y: F.binary_cross_entropy_with_logits(z, one_hot(y)), "MultiLabel"),
    "sum of labels": (lambda _, z, y: F.binary_cross_entropy_with_logits(z, one_hot(y), reduction="sum"), "MultiLabel"),
    "squared": (lambda _, z, y: F.mse_loss(z[:, 0], y.float()), "Prediction"),
    "absolute": (lambda _, z, y: F.l1_loss(z[:, :1], y.float()[:, None]), "Prediction"),
    "huber": (lambda _, z, y: F.huber_loss(z[:, 0], y.float(), delta=0.5), "Prediction"),
    "several numbers": (lambda _, z, y: F.mse_loss(z, one_hot(y)), "NoneType"),
    "divergence": (lambda _, z, y: F.kl_div(z.log_softmax(1), one_hot(y), reduction="batchmean"), "NoneType"),
    "flattened": (lambda _, z, y: F.cross_entropy(*(part.flatten(0, 1) for part in tokens(z, y))), "TokenClassification"),
    "positions": (lambda _, z, y: F.cross_entropy(tokens(z, y)[0].movedim(-1, 1), tokens(z, y)[1]), "TokenClassification"),
    "positions first": (
        lambda _, z, y: F.cross_entropy(*(part.transpose(0, 1).flatten(0, 1) for part in tokens(z, y))),
        "TokenClassification",
    ),
    "pixels": (
        lambda _, z, y: F.binary_cross_entropy_with_logits(z.reshape(-1, 1, 2, 2), one_hot(y).reshape(-1, 1, 2, 2)),
        "TokenClassification",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_unmasked_rows_is_the_steps_own(kind: str) -> None:
    loss, explained = KINDS[kind]
    torch.manual_seed(1)
    model, batch = Stepping(loss), batch_of(8)
    task, probes = read(model, batch)
    (reading,) = task.readings
    assert type(reading.term.task).__name__ == explained
    score, exact = scores_and_losses(task, model, probes)
    own = loss(model, model(batch["x"]), batch["y"])
    assert len(score) == 8
    if reading.term.reduction in ("sum", "batchmean"):
        torch.testing.assert_close(exact.sum() / (8 if reading.term.reduction == "batchmean" else 1), own, rtol=1e-5, atol=1e-6)
    else:
        torch.testing.assert_close(exact.mean(), own, rtol=1e-5, atol=1e-6)
    assert "which is the step's own loss" in task.explains


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("weighted", "smoothed", "mixed up")])
def test_the_loss_of_a_row_is_the_step_of_that_row_alone(kind: str) -> None:
    loss, _ = KINDS[kind]
    torch.manual_seed(1)
    model, batch = Stepping(loss), batch_of(6)
    task, probes = read(model, batch)
    _, exact = scores_and_losses(task, model, probes)
    (reading,) = task.readings
    divides = torch.cat([reading.term.divides(group.targets.tree) for group in probes.groups])
    # Every other row, since tokens leave a position out by the number of the row in its batch.
    for row in range(0, 6, 2):
        own = loss(model, model(batch["x"][[row]]), batch["y"][[row]])
        torch.testing.assert_close(exact[row] * divides.mean() / divides[row], own, rtol=1e-4, atol=1e-6)


def test_what_is_explained_are_log_odds_of_the_target_class() -> None:
    torch.manual_seed(1)
    model, batch = Stepping(KINDS["smoothed"][0]), batch_of()
    task, probes = read(model, batch)
    score, _ = scores_and_losses(task, model, probes)
    torch.testing.assert_close(score, log_odds(model(batch["x"]), batch["y"]).detach())
    assert (task.score_is_log_odds, task.loss_unit) == (True, "nats")


def test_of_tokens_the_sum_of_log_odds_of_those_that_count_is_explained() -> None:
    torch.manual_seed(1)
    model, batch = Stepping(KINDS["flattened"][0]), batch_of()
    task, probes = read(model, batch)
    score, _ = scores_and_losses(task, model, probes)
    logits, targets = tokens(model(batch["x"]).detach(), batch["y"])
    for row, expected in enumerate(targets):
        own = sum(log_odds(logits[row, [place]], expected[[place]])[0] for place in range(3) if expected[place] >= 0)
        torch.testing.assert_close(score[row], own, rtol=1e-4, atol=1e-5)


def ragged(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
    """As many elements as the label says, plus one."""
    there = torch.arange(CLASSES) <= labels[:, None]
    scaled = logits[:, None] * torch.arange(1, CLASSES + 1)[:, None]
    return F.cross_entropy(scaled[there], labels[:, None].expand(-1, CLASSES)[there])


def test_rows_with_other_numbers_of_elements_are_groups_of_their_own() -> None:
    torch.manual_seed(1)
    model, batch = Stepping(ragged), batch_of(12)
    task, probes = read(model, batch)
    assert sorted(group.targets.tree.shape[1] for group in probes.groups) == (batch["y"].unique() + 1).tolist()
    numbers = torch.cat([group.inputs.tree["number"] for group in probes.groups])
    score, exact = scores_and_losses(task, model, probes)
    torch.testing.assert_close(exact.mean(), ragged(model, model(batch["x"]), batch["y"]).detach())
    for place, row in enumerate(numbers.tolist()):
        label = batch["y"][row]
        logits = model(batch["x"][[row]]).detach()
        own = sum(log_odds(logits * factor, label[None])[0] for factor in range(1, int(label) + 2))
        torch.testing.assert_close(score[place], own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["classes", "flattened", "squared"])
def test_targets_and_what_reaches_nothing_are_no_inputs(kind: str) -> None:
    _, probes = read(Stepping(KINDS[kind][0]), batch_of())
    (group,) = probes.groups
    assert group.inputs.leaves.keys() == {"x"}
    assert group.inputs.tree.keys() == {"x", "y", "number"}


def test_while_nothing_reaches_the_outputs_all_but_the_targets_may_be_inputs() -> None:
    model = Stepping(KINDS["classes"][0])
    nn.init.constant_(model.net.weight, torch.nan)
    _, probes = read(model, batch_of())
    (group,) = probes.groups
    assert group.inputs.leaves.keys() == {"x", "number"}
    assert len(set(probes.fingerprints)) == len(probes) == 7


def test_a_margin_on_the_logit_of_the_label_makes_outputs_depend_on_targets() -> None:
    task, probes = read(Stepping(lambda _, z, y: F.cross_entropy(z - 0.5 * one_hot(y), y)), batch_of())
    assert task.outputs_depend_on_targets
    assert probes.groups[0].inputs.leaves.keys() == {"x"}


def test_of_several_losses_that_of_classes_with_the_largest_value_is_explained() -> None:
    def loss(model: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        penalty = F.mse_loss(model.net.weight, torch.zeros_like(model.net.weight))
        return 100 * F.mse_loss(logits, one_hot(labels)) + penalty + F.cross_entropy(logits, labels) * 0.1

    task, _ = read(Stepping(loss), batch_of())
    (reading,) = task.readings
    assert (reading.call, reading.term.function) == (2, F.cross_entropy)
    assert "mse_loss" in task.explains
    assert "own loss" in task.explains


@pytest.mark.parametrize(
    "returns", [lambda loss: loss, lambda loss: {"loss": loss, "other": 1}, lambda _: None], ids=["tensor", "dict", "nothing"]
)
def test_the_steps_own_loss_is_what_it_returns_or_logs(returns: Callable[[Tensor], Any]) -> None:
    def loss(model: LightningModule, logits: Tensor, labels: Tensor) -> Any:
        value = F.cross_entropy(logits, labels)
        model.log_dict({"accuracy": 0.5, "val_loss": value})
        return returns(value)

    task, _ = read(Stepping(loss), batch_of())
    assert "which is the step's own loss" in task.explains


def test_the_training_step_is_taken_where_validation_has_no_loss() -> None:
    class Training(Stepping):
        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            self.log("accuracy", (self(batch["x"]).argmax(1) == batch["y"]).float().mean())

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch["x"]), batch["y"])
            self.manual_backward(loss)
            self.optimizers().step()
            return loss

    task, _ = read(Training(KINDS["classes"][0]), batch_of())
    assert task.readings[0].step == "training_step"


def test_a_step_that_needs_gradients_gets_them() -> None:
    def loss(model: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        x = torch.ones(len(labels), 5, requires_grad=True)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return F.cross_entropy(logits + slope[:, :CLASSES], labels)

    model, batch = Stepping(loss), batch_of()
    task, probes = read(model, batch)
    score, _ = scores_and_losses(task, model, probes)
    assert not score.requires_grad
    slope = model.net.weight.sum(0)[:CLASSES]
    torch.testing.assert_close(score, log_odds(model(batch["x"]) + slope, batch["y"]).detach())


def test_a_step_that_writes_into_its_batch_sees_it_unwritten_each_time() -> None:
    class Writing(Stepping):
        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            batch["x"].sub_(0.5)
            return F.cross_entropy(self(batch.pop("x")), batch["y"])

    model, batch = Writing(KINDS["classes"][0]), batch_of()
    expected = log_odds(model(batch["x"] - 0.5), batch["y"]).detach()
    task, probes = read(model, batch)
    for _ in range(2):
        torch.testing.assert_close(scores_and_losses(task, model, probes)[0], expected)
    assert torch.equal(batch["x"], batch_of()["x"])


def test_what_hangs_on_the_module_is_as_it_was_after_each_step() -> None:
    class Counting(Stepping):
        def __init__(self) -> None:
            super().__init__(KINDS["classes"][0])
            self.seen, self.outs, self.hidden = 0, [1], torch.zeros(CLASSES)
            self.register_buffer("total", torch.zeros(()))

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            self.seen += 1
            self.outs.append(self.seen)
            self.total += 1
            self.hidden = self.hidden + 1
            self.new = 1
            return F.cross_entropy(self(batch["x"]) * (1 + self.hidden), batch["y"])

    model, batch = Counting(), batch_of()
    task, probes = read(model, batch)
    expected = log_odds(2 * model(batch["x"]), batch["y"]).detach()
    for _ in range(2):
        torch.testing.assert_close(scores_and_losses(task, model, probes)[0], expected)
    assert (model.seen, model.outs, model.total.item(), model.hidden.sum().item(), hasattr(model, "new")) == (
        0,
        [1],
        0,
        0,
        False,
    )


def test_rows_without_a_target_that_counts_are_left_out() -> None:
    batch = batch_of()
    batch["y"][[1, 3]] = -100
    _, probes = read(Stepping(KINDS["classes"][0]), batch)
    assert probes.groups[0].inputs.tree["number"].tolist() == [0, 2, 4, 5, 6]


def by_hand(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(1).gather(1, labels[:, None]).mean()


def contrastive(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits @ logits.T, torch.arange(len(labels)))


def over_the_batch(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits - logits.mean(0), labels)


@pytest.mark.parametrize("loss", [by_hand, over_the_batch])
def test_what_is_not_understood_is_refused_with_the_lines_to_write(loss: Loss) -> None:
    batch = batch_of()
    first, second = list(batch)[:2]
    with pytest.raises(ValueError, match=rf"(?s)class MyTask.*batch\['{first}'\], batch\['{second}'\]") as refused:
        read(Stepping(loss), batch)
    lines = str(refused.value).splitlines()[1:]
    defined: dict[str, Any] = {}
    exec(textwrap.dedent("\n".join(lines[:-1])), defined)
    assert issubclass(defined["MyTask"], Classification)


def test_a_loss_over_a_whole_batch_gets_no_lines_for_classes() -> None:
    with pytest.raises(ValueError, match="a whole batch") as refused:
        read(Stepping(contrastive), batch_of())
    assert "MyTask" not in str(refused.value)


OTHER_KINDS: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "the same": (F.cross_entropy, False),
    "smoothed": (partial(F.cross_entropy, label_smoothing=0.1), False),
    "of log-probabilities": (lambda z, y: F.nll_loss(z.log_softmax(1), y), False),
    "by hand": (lambda z, _: -z.log_softmax(1)[:, 0].mean(), False),
    "another": (lambda z, y: F.mse_loss(z.softmax(1), F.one_hot(y, CLASSES).float()), True),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_validation_step_with_a_loss_of_another_kind_is_doubted(kind: str) -> None:
    trained, is_other = OTHER_KINDS[kind]

    class Two(Stepping):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return trained(self(batch["x"]), batch["y"])

    model = Two(KINDS["classes"][0])
    with pytest.warns(UserWarning, match="mse_loss") if is_other else nullcontext():
        task, _ = read(model, batch_of())
    assert task.readings[0].step == "validation_step"


def test_raw_logits_as_log_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="log_softmax"):
        read(Stepping(lambda _, z, y: F.nll_loss(z + 3, y)), batch_of())


def test_rows_that_depend_on_the_others_run_alone() -> None:
    def loss(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + 0.3 * logits.mean(0), labels)

    model, batch = Stepping(loss), batch_of()
    logits = model(batch["x"]).detach()
    losses = [F.cross_entropy(logits + 0.3 * logits.mean(0), batch["y"]), F.cross_entropy(1.3 * logits, batch["y"])]
    with pytest.warns(UserWarning, match=".*".join(f"{one.item():.3f}"[:-1] for one in losses)):
        task, probes = read(model, batch)
    assert task.largest_batch == 1
    assert "one by one" in task.explains
    with torch.no_grad(), on_stage(model):
        alone = [task.scores(model, {name: leaf[[row]] for name, leaf in batch.items()}, batch["y"][[row]]) for row in range(7)]
    torch.testing.assert_close(torch.cat(alone), log_odds(1.3 * model(batch["x"]), batch["y"]).detach())
    assert len(probes) == 7


def test_batches_of_other_structures_are_read_on_their_own() -> None:
    class Two(Stepping):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch["labelled"][0]), batch["labelled"][1], label_smoothing=0.1)

    model, batch = Two(KINDS["classes"][0]), batch_of()
    task, held_out = read(model, batch)
    _, training = read(model, {"labelled": (batch["x"], batch["y"]), "more": torch.zeros(7, 5)}, task)
    assert [reading.step for reading in task.readings] == ["validation_step", "training_step"]
    own = [F.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=smoothing).item() for smoothing in (0.0, 0.1)]
    found = [scores_and_losses(task, model, probes)[1].mean().item() for probes in (held_out, training)]
    assert found == pytest.approx(own, rel=1e-5)


def test_a_run_that_is_gone_on_with_explains_the_same_loss() -> None:
    def loss(model: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits * model.first, labels) + F.cross_entropy(logits * (1 - model.first), labels.flip(0))

    model, batch = Stepping(loss), batch_of()
    model.first = 1
    task, _ = read(model, batch)
    model.first = 0
    again = OwnStep()
    again.begin(task.state_dict())
    read(model, batch, again)
    assert again.readings[0].call == task.readings[0].call


@settings(max_examples=25, deadline=None, derandomize=True)
@given(num_rows=st.integers(1, 9), positions=st.integers(1, 4), flattened=st.booleans(), seed=st.integers(0, 1000))
@pytest.mark.slow
def test_tokens_are_told_apart_whatever_the_numbers(num_rows: int, positions: int, flattened: bool, seed: int) -> None:
    factors = torch.arange(1, positions + 1)[:, None]

    def loss(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        scaled, targets = logits[:, None] * factors, labels[:, None].expand(-1, positions)
        if flattened:
            return F.cross_entropy(scaled.flatten(0, 1), targets.reshape(-1))
        return F.cross_entropy(scaled.movedim(-1, 1), targets)

    torch.manual_seed(seed)
    model, batch = Stepping(loss), batch_of(num_rows, seed)
    task, probes = read(model, batch)
    score, exact = scores_and_losses(task, model, probes)
    logits = model(batch["x"]).detach()
    own = torch.stack([log_odds(logits * factor, batch["y"]) for factor in range(1, positions + 1)]).sum(0)
    torch.testing.assert_close(score, own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact.mean(), loss(model, logits, batch["y"]), rtol=1e-5, atol=1e-6)


def test_an_explicit_task_is_compared_with_the_step() -> None:
    model, batch = Stepping(KINDS["weighted"][0]).eval(), batch_of()

    class Dicts(Classification):
        def unpack(self, batch: Any) -> tuple[Any, Any]:
            return batch["x"], batch["y"]

    for task, agrees in ((Dicts(WEIGHTS), True), (Dicts(), False)):
        with torch.no_grad(), on_stage(model):
            said = disagreement(task, model, batch, task.read(model, Rows.of(batch)))
        assert (said == "") == agrees


def test_an_explicit_task_may_agree_with_any_of_several_losses() -> None:
    model, batch = Stepping(lambda _, z, y: F.cross_entropy(z, y) + F.cross_entropy(2 * z, y)).eval(), batch_of()

    class Scaled(Classification):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def unpack(self, batch: Any) -> tuple[Any, Any]:
            return batch["x"], batch["y"]

        def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
            return self.factor * model(inputs)

    with torch.no_grad(), on_stage(model):
        found = [disagreement(task, model, batch, task.read(model, Rows.of(batch))) for task in map(Scaled, (1.0, 2.0, 3.0))]
    assert [said == "" for said in found] == [True, True, False]


MASK = torch.tensor([1.0, 1.0, 0.0])


def of_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of three equal positions of each row, ``[rows, 3]``."""
    repeated = logits[:, None].expand(-1, 3, -1) * torch.tensor([1.0, 2.0, 9.0])[:, None]
    return F.cross_entropy(repeated.flatten(0, 1), labels[:, None].expand(-1, 3).reshape(-1), reduction="none").view(-1, 3)


def masked_mean(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
    return (of_tokens(logits, labels) * MASK).sum() / (MASK.sum() * len(labels))


def weighted_rows(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
    return (F.cross_entropy(logits, labels, reduction="none") * (1 + labels)).mean()


@pytest.mark.parametrize("loss", [masked_mean, weighted_rows])
def test_what_the_step_makes_of_losses_without_a_reduction_is_found(loss: Loss) -> None:
    torch.manual_seed(1)
    model, batch = Stepping(loss), batch_of()
    task, probes = read(model, batch)
    score, exact = scores_and_losses(task, model, probes)
    logits = model(batch["x"]).detach()
    torch.testing.assert_close(exact.mean(), loss(model, logits, batch["y"]))
    of_class = log_odds(logits, batch["y"])
    expected = of_class + log_odds(2 * logits, batch["y"]) if loss is masked_mean else of_class
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_weighted_sum_of_the_losses_is_said() -> None:
    def focal(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-losses).exp()) ** 2 * losses).mean()

    with pytest.warns(UserWarning, match="own loss"):
        task, _ = read(Stepping(focal), batch_of())
    assert "not known" in task.explains


def test_options_of_the_loss_are_those_of_the_moment() -> None:
    class Annealed(Stepping):
        smoothing = 0.4

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch["x"]), batch["y"], label_smoothing=self.smoothing)

    model, batch = Annealed(KINDS["classes"][0]), batch_of()
    task, probes = read(model, batch)
    for smoothing in (0.4, 0.1):
        model.smoothing = smoothing
        _, exact = scores_and_losses(task, model, probes)
        own = F.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=smoothing).detach()
        torch.testing.assert_close(exact.mean(), own)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS.to(z), label_smoothing=0.2),
        lambda z, y: F.cross_entropy(z, one_hot(y).to(z)),
        lambda z, y: F.binary_cross_entropy(z[:, 0].sigmoid(), (y > 1).to(z)),
        lambda z, y: F.binary_cross_entropy_with_logits(z, one_hot(y).to(z)),
        lambda z, y: F.mse_loss(z[:, 0], y.to(z)),
        lambda z, y: F.mse_loss(z, one_hot(y).to(z)),
    ],
    ids=["classes", "soft", "probability", "labels", "number", "numbers"],
)
def test_outputs_of_narrow_weights_are_scored_in_float32(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(1)
    model, batch = Stepping(lambda _, logits, labels: loss(logits, labels)).to(torch.bfloat16), batch_of()
    batch["x"] = batch["x"].to(torch.bfloat16)
    task, probes = read(model, batch)
    with torch.no_grad(), on_stage(model):
        (group,) = probes.groups
        outputs = task.forward(model, group.inputs.tree).float()
        found = task.reduce_exact(task.exact_losses(outputs, group.targets.tree))
        score = task.scores(model, group.inputs.tree, group.targets.tree)
    assert score.dtype == torch.float32
    # What the step itself computes with narrow numbers.
    torch.testing.assert_close(found.mean(), loss(model(batch["x"]), batch["y"]).float().detach(), rtol=2e-2, atol=1e-2)


def test_a_penalty_that_has_as_many_numbers_as_the_batch_rows_is_not_taken_for_a_loss_of_rows() -> None:
    def loss(model: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        penalty = F.mse_loss(model.net.weight[:, 0], torch.zeros(CLASSES))
        return 1000 * penalty + F.mse_loss(logits[:, 0], labels.float())

    task, _ = read(Stepping(loss), batch_of(CLASSES))
    (reading,) = task.readings
    assert reading.call == 1


def test_a_step_may_ask_for_what_it_likes_to_be_called_with() -> None:
    class Asking(Stepping):
        def validation_step(self, batch: dict[str, Tensor], index: int, stage: str = "val", dataloader_idx: int = 0, **more: Any) -> Tensor:  # fmt: skip # noqa: E501
            assert (index, stage, dataloader_idx, more) == (0, "val", 3, {})
            return super().validation_step(batch, index)

    task = OwnStep()
    task.dataloader_idx = 3
    read(Asking(KINDS["classes"][0]), batch_of(), task)
    assert [reading.step for reading in task.readings] == ["validation_step"]


def test_targets_tell_rows_apart_where_outputs_are_all_the_same() -> None:
    def loss(_: LightningModule, logits: Tensor, labels: Tensor) -> Tensor:
        targets = torch.stack([labels, (labels + 1) % CLASSES])  # Positions first.
        return F.cross_entropy(logits[None].expand(2, -1, -1).flatten(0, 1), targets.reshape(-1))

    model, batch = Stepping(loss), {**batch_of(4), "y": torch.tensor([0, 2, 1, 3])}
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    task, _ = read(model, batch)
    assert task.readings[0].term.positions_first
