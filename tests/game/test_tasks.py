"""Tasks: losses as functions of the score, against PyTorch's own."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.tasks import BinaryClassification, Classification, MultiLabel, Regression, Task
from lightning_interactions.records import Rows

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def random_logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def logits_with_equal_others(targets: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """Logits that differ for the target alone, the only ones of which the log-odds tell everything."""
    generator = torch.Generator().manual_seed(seed)
    own, others = 3 * torch.randn(2, len(targets), 1, generator=generator, dtype=torch.float64)
    return torch.where(F.one_hot(targets, num_classes).bool(), own, others)


def loss_of(task: Task, outputs: Any, targets: Tensor) -> Tensor:
    loss = task.loss(task.score(outputs, targets), targets)
    assert loss is not None
    assert loss.shape == (len(targets),)
    return loss


# One class out of several


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_plain_cross_entropy_is_pytorchs(num_classes: int) -> None:
    logits, targets = random_logits(16, num_classes), torch.arange(16) % num_classes
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss_of(Classification(), logits, targets), expected, rtol=1e-9, atol=1e-12)


def test_plain_cross_entropy_is_softplus_to_the_last_bit() -> None:
    score = random_logits(100)
    assert torch.equal(Classification().loss(score, torch.zeros(100)), F.softplus(-score))


@PROPERTY
@given(num_classes=st.integers(2, 6), num_inputs=st.integers(1, 20), seed=st.integers(0, 10_000), as_tensor=st.booleans())
def test_the_mean_of_weighted_losses_is_pytorchs_weighted_mean(
    num_classes: int, num_inputs: int, seed: int, as_tensor: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = 0.1 + torch.rand(num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (num_inputs,), generator=generator)
    logits = random_logits(num_inputs, num_classes, seed=seed)
    loss = loss_of(Classification(weights if as_tensor else weights.tolist()), logits, targets)
    torch.testing.assert_close(loss.mean(), F.cross_entropy(logits, targets, weight=weights), rtol=1e-9, atol=1e-12)
    # Input by input it is PyTorch's, up to the common norm.
    by_input = F.cross_entropy(logits, targets, weight=weights, reduction="none")
    torch.testing.assert_close(loss * weights[targets].mean(), by_input, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.25]])
@pytest.mark.parametrize("smoothing", [0.05, 0.3, 1.0])
def test_smoothed_cross_entropy_is_pytorchs_where_the_other_logits_are_equal(
    weights: list[float] | None, smoothing: float
) -> None:
    targets = torch.arange(15) % 4
    logits = logits_with_equal_others(targets, 4)
    loss = loss_of(Classification(weights, label_smoothing=smoothing, num_classes=4), logits, targets)
    as_tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, targets, weight=as_tensor, label_smoothing=smoothing)
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-9, atol=1e-12)


def test_smoothed_cross_entropy_of_two_classes_is_pytorchs_and_of_more_at_most_that() -> None:
    for num_classes in (2, 5):
        logits, targets = random_logits(50, num_classes), torch.arange(50) % num_classes
        loss = loss_of(Classification(label_smoothing=0.2, num_classes=num_classes), logits, targets)
        expected = F.cross_entropy(logits, targets, label_smoothing=0.2, reduction="none")
        assert (loss <= expected + 1e-12).all()
        assert torch.allclose(loss, expected, rtol=1e-9) == (num_classes == 2)


def test_targets_in_a_column_and_as_floating_point_count_alike() -> None:
    score, targets = random_logits(6), torch.tensor([0, 1, 2, 2, 1, 0])
    task = Classification([1.0, 2.0, 3.0], label_smoothing=0.1)
    assert torch.equal(task.loss(score, targets[:, None].float()), task.loss(score, targets))


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"label_smoothing": 1.1}, "label_smoothing", "1.1"),
        ({"label_smoothing": -0.1}, "label_smoothing", "-0.1"),
        ({"label_smoothing": 0.1}, "num_classes", "None"),
        ({"label_smoothing": 0.1, "num_classes": 1}, "num_classes", "1"),
        ({"class_weights": [1.0, -1.0]}, "class_weights", "[1.0, -1.0]"),
        ({"class_weights": [1.0, math.nan]}, "class_weights", "nan"),
        ({"class_weights": torch.ones(1, 2)}, "class_weights", "[[1.0, 1.0]]"),
        ({"class_weights": [1.0, 2.0], "num_classes": 3}, "num_classes", "3"),
    ],
)
def test_impossible_cross_entropies_are_refused(arguments: dict[str, Any], name: str, value: str) -> None:
    with pytest.raises(ValueError, match="Classification: ") as caught:
        Classification(**arguments)
    assert name in str(caught.value)
    assert value in str(caught.value)


@pytest.mark.parametrize("label", [2, -1, -100])
def test_a_label_without_a_weight_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"one label from 0 to 1 for each of 3 inputs, got \[{label}\]"):
        Classification([1.0, 2.0]).loss(torch.zeros(3), torch.tensor([0, 1, label]))


# One logit


@pytest.mark.parametrize("pos_weight", [1.0, 3.0, 0.2])
@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_binary_cross_entropy_is_pytorchs(pos_weight: float, shape: tuple[int, ...]) -> None:
    logits, targets = random_logits(12).reshape(shape), (torch.arange(12) % 2).reshape(shape)
    loss = loss_of(BinaryClassification(pos_weight), logits, targets)
    own = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight, dtype=torch.float64), reduction="none")
    torch.testing.assert_close(loss, own(logits, targets.double()).reshape(-1), rtol=1e-9, atol=1e-12)


def test_one_logit_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"BinaryClassification: expected one logit for each input, got shape \(4, 2\)"):
        BinaryClassification().score(torch.zeros(4, 2), torch.zeros(4))
    for weight in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected pos_weight above 0, got"):
            BinaryClassification(weight)


# Several labels


LOGITS = st.one_of(st.floats(-40, 40), st.floats(-700, 700), st.sampled_from([0.0, 1e-9, -1e-9, 1e4, -1e4, 50.0]))


@st.composite
def labelled_logits(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    numbers = st.lists(LOGITS, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    logits = torch.tensor(draw(numbers), dtype=torch.float64).reshape(shape)
    return logits, torch.randint(2, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))


@settings(PROPERTY, max_examples=300)
@given(labelled_logits())
@pytest.mark.slow
def test_the_mean_loss_of_several_labels_is_pytorchs(pair: tuple[Tensor, Tensor]) -> None:
    logits, targets = pair
    score = MultiLabel().score(logits, targets)
    assert score.isfinite().all()
    expected = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").mean(dim=1)
    torch.testing.assert_close(loss_of(MultiLabel(), logits, targets), expected, rtol=1e-12, atol=1e-12)
    # In single precision as far as that goes.
    torch.testing.assert_close(MultiLabel().score(logits.float(), targets).double(), score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-800.0, -30.0, -1.0, 0.0, 1.0, 30.0, 150.0, 800.0])
def test_one_of_several_labels_is_one_logit(logit: float, dtype: torch.dtype) -> None:
    logits, targets = torch.tensor([[logit], [logit]], dtype=dtype), torch.tensor([[1], [0]])
    score = MultiLabel().score(logits, targets)
    torch.testing.assert_close(score, torch.tensor([logit, -logit], dtype=dtype), rtol=1e-6, atol=1e-6)


def test_joint_log_odds_are_those_of_the_product() -> None:
    logits, targets = random_logits(20, 3, scale=1.0), torch.randint(2, (20, 3), generator=torch.Generator().manual_seed(0))
    p = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid()).prod(dim=1)
    torch.testing.assert_close(MultiLabel().score(logits, targets), (p / (1 - p)).log(), rtol=1e-10, atol=1e-10)


def test_certain_and_broken_labels() -> None:
    logits = torch.tensor([[math.inf, math.inf], [math.inf, 2.0], [-math.inf, 2.0], [math.nan, 2.0]])
    score = MultiLabel().score(logits, torch.ones(4, 2))
    assert score[0] == math.inf
    assert score[1].item() == pytest.approx(2.0)
    assert score[2] == -math.inf
    assert score[3].isnan()


@pytest.mark.parametrize("targets", [torch.zeros(4), torch.zeros(4, 3), torch.full((4, 2), 0.5)])
def test_targets_that_are_no_labels_are_refused(targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"targets 0 and 1 of the shape \(4, 2\) of the logits, got"):
        MultiLabel().score(torch.zeros(4, 2), targets)


# A number


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long])
def test_squared_error_is_pytorchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    outputs, targets = random_logits(7), (10 * random_logits(7, seed=1)).to(dtype)
    expected = F.mse_loss(outputs, targets.double(), reduction="none")
    torch.testing.assert_close(loss_of(Regression(), outputs.reshape(shape), targets.reshape(shape)), expected)


@pytest.mark.parametrize("targets", [torch.zeros(3, 2), torch.zeros(2), torch.zeros(())])
def test_squared_error_needs_one_target_for_each_input(targets: Tensor) -> None:
    with pytest.raises(ValueError, match="Regression: expected one target for each of 3 inputs"):
        Regression().loss(torch.zeros(3), targets)


# Any task


class Captioned(Classification):
    """The example of the documentation."""

    def unpack(self, batch: Any) -> tuple[Any, Any]:
        return batch["image"], batch["label"]

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        return model(inputs)["logits"]


class AbsoluteError(Regression):
    """A loss of its own."""

    loss_unit = ""

    def loss(self, score: Tensor, targets: Any) -> Tensor:
        return (score - targets).abs()


class Norm(Task):
    """A score of its own."""

    def score(self, outputs: Any, targets: Any) -> Tensor:
        return outputs.norm(dim=1)


class Logits(nn.Module):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": inputs}


def test_a_task_of_ones_own_takes_five_lines() -> None:
    logits, labels = random_logits(4, 3), torch.tensor([0, 1, 2, 0])
    task = Captioned()
    inputs, targets = task.unpack({"image": logits, "label": labels})
    assert torch.equal(task.scores(Logits(), inputs, targets), Classification().score(logits, labels))
    assert Norm().loss(torch.zeros(2), None) is None
    assert Norm().loss_unit == ""
    assert not Norm().score_is_log_odds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_narrow_outputs_are_scored_in_float32(dtype: torch.dtype) -> None:
    logits, targets = random_logits(4, 3).to(dtype), torch.tensor([0, 1, 2, 0])
    score = Classification().scores(nn.Identity(), logits, targets)
    wide = torch.promote_types(dtype, torch.float32)
    assert score.dtype == wide
    assert torch.equal(score, Classification().score(logits.to(wide), targets))


@pytest.mark.parametrize("batch", [(1, 2), [1, 2]])
def test_pairs_are_unpacked(batch: Any) -> None:
    assert Classification().unpack(batch) == (1, 2)


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ({"image": torch.zeros(2), "label": torch.zeros(2)}, "dict of 2"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), "tuple of 3"),
        ([torch.zeros(2)], "list of 1"),
        (torch.zeros(2, 5), "Tensor of 2"),
        ("ab", "str of 2"),
        (None, "NoneType"),
    ],
)
def test_other_batches_get_the_error_that_shows_a_task(batch: object, got: str) -> None:
    with pytest.raises(ValueError, match=r"task: expected batches \(inputs, targets\), got ") as caught:
        Classification().unpack(batch)
    assert f"got {got};" in str(caught.value)
    assert "def unpack(self, batch):" in str(caught.value)


@pytest.mark.parametrize("task", [Classification([1.0, 4.0]), Regression(), AbsoluteError()])
def test_an_input_without_a_score_counts_neither_in_its_loss_nor_in_those_of_others(task: Task) -> None:
    score, targets = random_logits(5), torch.tensor([0, 1, 1, 0, 1])
    score[1], score[3] = math.nan, math.inf
    kept = [0, 2, 4]
    losses = task.losses(score, Rows.of(targets))
    assert losses.isnan().tolist() == [False, True, False, True, False]
    # The norm of class weights is over the inputs that are measured.
    expected = task.loss(score[kept], targets[kept])
    assert expected is not None
    assert torch.equal(losses[kept], expected)


def test_without_a_loss_all_is_nan() -> None:
    assert Norm().losses(torch.zeros(4), Rows.of(torch.zeros(4))).isnan().all()


def test_nothing_measured_is_nan_and_the_loss_is_not_asked() -> None:
    class Never(Norm):
        def loss(self, score: Tensor, targets: Any) -> Tensor:
            raise AssertionError

    assert Never().losses(torch.full((3,), math.nan), Rows.of(torch.zeros(3))).isnan().all()


@pytest.mark.parametrize(
    ("found", "got"),
    [(torch.tensor(0.5), r"shape \(\)"), (torch.zeros(3, 3), r"shape \(3, 3\)"), (0.5, "float")],
    ids=["mean", "broadcast", "number"],
)
def test_losses_that_are_not_one_number_an_input_are_refused(found: Any, got: str) -> None:
    class Wrong(Norm):
        def loss(self, score: Tensor, targets: Any) -> Any:
            return found

    with pytest.raises(ValueError, match=f"loss: expected one number for each of 3 inputs.*got {got}; take no mean"):
        Wrong().losses(torch.zeros(3), Rows.of(torch.zeros(3)))


@pytest.mark.slow
def test_tasks_are_said_in_the_same_words_in_every_process() -> None:
    code = (
        "import torch; from lightning_interactions.tasks import *\n"
        "print([Classification(torch.tensor([1.0, 2.0]), 0.1), BinaryClassification(2.0), MultiLabel(), Regression()])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    tasks = [Classification(torch.tensor([1.0, 2.0]), 0.1), BinaryClassification(2.0), MultiLabel(), Regression()]
    assert said == repr(tasks)
    assert "class_weights=[1.0, 2.0], label_smoothing=0.1" in said
    assert repr(Captioned()).startswith("Captioned(")
