import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from lightning_interactions.game.losses import CrossEntropy, Loss, SquaredError, losses_of_inputs, unit_of
from lightning_interactions.game.scores import default_loss, log_odds, prediction


def random_logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def logits_with_equal_others(targets: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """Logits that differ for the target alone, the only ones of which the log-odds tell everything."""
    generator = torch.Generator().manual_seed(seed)
    own, others = 3 * torch.randn(2, len(targets), 1, generator=generator, dtype=torch.float64)
    return torch.where(F.one_hot(targets, num_classes).bool(), own, others)


# Cross-entropy


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_plain_cross_entropy_is_pytorchs(num_classes: int) -> None:
    logits, targets = random_logits(16, num_classes), torch.arange(16) % num_classes
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(CrossEntropy()(log_odds(logits, targets), targets), expected, rtol=1e-9, atol=1e-12)


def test_plain_cross_entropy_is_softplus_to_the_last_bit() -> None:
    score = random_logits(100)
    assert torch.equal(CrossEntropy()(score, torch.zeros(100)), F.softplus(-score))


@given(
    num_classes=st.integers(2, 6),
    num_inputs=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    as_tensor=st.booleans(),
)
def test_the_mean_of_weighted_losses_is_pytorchs_weighted_mean(
    num_classes: int, num_inputs: int, seed: int, as_tensor: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = 0.1 + torch.rand(num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (num_inputs,), generator=generator)
    logits = random_logits(num_inputs, num_classes, seed=seed)
    loss = CrossEntropy(weights if as_tensor else weights.tolist())(log_odds(logits, targets), targets)
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
    loss = CrossEntropy(weights, label_smoothing=smoothing, num_classes=4)(log_odds(logits, targets), targets)
    as_tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, targets, weight=as_tensor, label_smoothing=smoothing)
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-9, atol=1e-12)


def test_smoothed_cross_entropy_of_two_classes_is_pytorchs_for_any_logits() -> None:
    logits, targets = random_logits(20, 2), torch.arange(20) % 2
    loss = CrossEntropy(label_smoothing=0.2, num_classes=2)(log_odds(logits, targets), targets)
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def test_smoothed_cross_entropy_is_at_most_pytorchs() -> None:
    logits, targets = random_logits(50, 5), torch.arange(50) % 5
    loss = CrossEntropy(label_smoothing=0.1, num_classes=5)(log_odds(logits, targets), targets)
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
    assert (loss <= expected + 1e-12).all()
    assert (loss < expected - 0.05).any()


def test_the_positive_weight_of_one_logit_is_a_weight_of_two_classes() -> None:
    logits, targets = random_logits(12), torch.arange(12) % 2
    loss = CrossEntropy([1.0, 3.0])(log_odds(logits, targets), targets)
    expected = F.binary_cross_entropy_with_logits(logits, targets.double(), pos_weight=torch.tensor(3.0), reduction="none")
    torch.testing.assert_close(loss * 2, expected, rtol=1e-9, atol=1e-12)


def test_targets_in_a_column_and_as_floating_point_count_alike() -> None:
    score, targets = random_logits(6), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = CrossEntropy([1.0, 2.0, 3.0], label_smoothing=0.1)
    assert torch.equal(loss(score, targets[:, None].float()), loss(score, targets))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": 1.1}, r"label_smoothing in \[0, 1\], got 1.1"),
        ({"label_smoothing": -0.1}, r"label_smoothing in \[0, 1\], got -0.1"),
        ({"label_smoothing": 0.1}, "needs the number of classes, got num_classes=None; pass num_classes=10"),
        ({"label_smoothing": 0.1, "num_classes": 1}, "needs the number of classes, got num_classes=1"),
        ({"class_weights": [1.0, -1.0]}, r"class_weights of at least 0.* got \[1.0, -1.0\]"),
        ({"class_weights": [1.0, math.nan]}, "class_weights of at least 0"),
        ({"class_weights": [[1.0, 1.0]]}, "class_weights of at least 0"),
        ({"class_weights": [1.0, 2.0], "num_classes": 3}, "and num_classes=3"),
    ],
)
def test_impossible_cross_entropies_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"CrossEntropy: .*{message}"):
        CrossEntropy(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [2, -1, -100])
def test_a_label_without_a_weight_is_refused(label: int) -> None:
    with pytest.raises(
        ValueError, match=rf"one label from 0 to 1 for each of 3 inputs, got \[{label}\]; pass one class weight"
    ):
        CrossEntropy([1.0, 2.0])(torch.zeros(3), torch.tensor([0, 1, label]))


# Squared error


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long])
def test_squared_error_is_pytorchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    score, targets = random_logits(7), (10 * random_logits(7, seed=1)).to(dtype)
    expected = F.mse_loss(score, targets.double(), reduction="none")
    loss = SquaredError()(score, targets.reshape(shape))
    assert loss.shape == (7,)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("targets", [torch.zeros(3, 2), torch.zeros(2), torch.zeros(())])
def test_squared_error_needs_one_target_for_each_input(targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"SquaredError: expected one target for each of 3 inputs.*loss=lambda score, targets"):
        SquaredError()(torch.zeros(3), targets)


# Any loss


def test_each_score_has_the_loss_that_goes_with_it() -> None:
    assert isinstance(default_loss(log_odds), CrossEntropy)
    assert isinstance(default_loss(prediction), SquaredError)
    assert default_loss(lambda outputs, _targets: outputs[:, 0]) is None


def test_units_are_those_of_the_loss() -> None:
    function: Callable[[Tensor, Tensor], Tensor] = lambda score, targets: (score - targets).abs()  # noqa: E731
    assert [unit_of(loss) for loss in (CrossEntropy(), SquaredError(), function, None)] == [
        "nats",
        "target units²",
        "",
        "",
    ]


@pytest.mark.parametrize("loss", [CrossEntropy([1.0, 4.0]), SquaredError(), lambda score, targets: (score - targets).abs()])
def test_an_input_without_a_score_counts_neither_in_its_loss_nor_in_those_of_others(loss: Loss) -> None:
    score, targets = random_logits(5), torch.tensor([0, 1, 1, 0, 1])
    score[1], score[3] = math.nan, math.inf
    kept = [0, 2, 4]
    losses = losses_of_inputs(loss, score, targets)
    assert losses.isnan().tolist() == [False, True, False, True, False]
    # The norm of class weights is over the inputs that are measured.
    assert torch.equal(losses[kept], loss(score[kept], targets[kept]))


def test_without_a_loss_all_is_nan() -> None:
    assert losses_of_inputs(None, torch.zeros(4), torch.zeros(4)).isnan().all()


def test_nothing_measured_is_nan_and_the_loss_is_not_asked() -> None:
    def never(_score: Tensor, _targets: Tensor) -> Tensor:
        raise AssertionError

    assert losses_of_inputs(never, torch.full((3,), math.nan), torch.zeros(3)).isnan().all()


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda score, targets: (score - targets).square().mean(), r"shape \(\)"),
        (lambda score, targets: (score - targets[:, None]).square(), r"shape \(3, 3\)"),
        (lambda _score, _targets: 0.5, "float"),
    ],
    ids=["mean", "broadcast", "number"],
)
def test_losses_that_are_not_one_number_an_input_are_refused(loss: Loss, got: str) -> None:
    with pytest.raises(ValueError, match=f"loss: expected one number for each of 3 inputs.*got {got}; take no mean"):
        losses_of_inputs(loss, torch.zeros(3), torch.zeros(3))
