import math

import pytest
import torch
from torch.nn import functional as F

from lightning_interactions.game.scores import log_odds, prediction

GENERATOR_SEED = 0


def random_logits(*shape: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_log_odds_are_those_of_the_softmax(num_classes: int) -> None:
    logits = random_logits(8, num_classes)
    targets = torch.arange(8) % num_classes
    p = logits.softmax(dim=1)[torch.arange(8), targets]
    torch.testing.assert_close(log_odds(logits, targets), (p / (1 - p)).log(), rtol=1e-9, atol=1e-9)


def test_log_odds_of_one_logit_are_those_of_the_sigmoid() -> None:
    logits, targets = random_logits(8), torch.tensor([0, 1] * 4)
    p = torch.where(targets == 1, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(log_odds(logits, targets), (p / (1 - p)).log(), rtol=1e-9, atol=1e-9)


def test_softplus_of_minus_the_score_is_the_cross_entropy() -> None:
    logits, targets = random_logits(16, 5, scale=10), torch.arange(16) % 5
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(F.softplus(-log_odds(logits, targets)), expected, rtol=1e-9, atol=1e-12)
    one, labels = random_logits(16, scale=10), torch.arange(16) % 2
    expected = F.binary_cross_entropy_with_logits(one, labels.double(), reduction="none")
    torch.testing.assert_close(F.softplus(-log_odds(one, labels)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("output_shape", [(6,), (6, 1)])
@pytest.mark.parametrize("target_shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.bool, torch.float32, torch.float64])
def test_one_logit_counts_for_or_against(
    output_shape: tuple[int, ...], target_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    logits, targets = random_logits(6), torch.tensor([0, 1, 1, 0, 1, 0])
    score = log_odds(logits.reshape(output_shape), targets.to(dtype).reshape(target_shape))
    assert score.shape == (6,)
    assert torch.equal(score, torch.where(targets == 1, logits, -logits))


def test_two_logits_and_their_difference_score_alike() -> None:
    logits, targets = random_logits(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    one = log_odds(logits[:, 1] - logits[:, 0], targets)
    torch.testing.assert_close(log_odds(logits, targets), one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_floating_point_labels_are_classes(dtype: torch.dtype) -> None:
    logits = random_logits(4, 3)
    targets = torch.tensor([2, 0, 1, 1])
    assert torch.equal(log_odds(logits, targets.to(dtype)), log_odds(logits, targets))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_keep_the_dtype_of_the_logits(dtype: torch.dtype) -> None:
    assert log_odds(random_logits(4, 3).to(dtype), torch.tensor([2, 0, 1, 1])).dtype == dtype
    assert log_odds(random_logits(4).to(dtype), torch.tensor([1, 0, 1, 1])).dtype == dtype


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1000.0, 0.0, -1000.0]]).expand(3, 3)
    # The naive log p/(1-p) is infinite for the first and NaN or minus infinity for the others.
    assert log_odds(logits, torch.tensor([0, 1, 2])).tolist() == [1000.0, -1000.0, -2000.0]
    assert log_odds(torch.tensor([3e38, -3e38]), torch.tensor([1, 1])).tolist() == [torch.tensor(3e38), torch.tensor(-3e38)]


@pytest.mark.parametrize("shift", [-1e6, 1e6])
def test_only_differences_of_logits_count(shift: float) -> None:
    logits, targets = random_logits(8, 4), torch.arange(8) % 4
    torch.testing.assert_close(log_odds(logits + shift, targets), log_odds(logits, targets), rtol=0, atol=1e-8)


def test_classes_that_are_ruled_out_do_not_count() -> None:
    logits = torch.tensor([[-math.inf, 1.0, 2.0], [1.0, 2.0, -math.inf]])
    scores = log_odds(logits, torch.tensor([1, 1]))
    torch.testing.assert_close(scores, torch.tensor([-1.0, 1.0]))
    assert log_odds(logits, torch.tensor([0, 2])).tolist() == [-math.inf, -math.inf]


def test_not_a_number_stays_not_a_number() -> None:
    logits = torch.tensor([[math.nan, 1.0], [0.0, 1.0]])
    assert log_odds(logits, torch.tensor([0, 0])).isnan().tolist() == [True, False]
    assert log_odds(logits, torch.tensor([1, 1])).isnan().tolist() == [True, False]


# Errors


@pytest.mark.parametrize(("targets", "wrong"), [([0, 3], [3]), ([-100, 1], [-100]), ([7, -1], [7, -1])])
def test_labels_outside_the_classes_are_refused(targets: list[int], wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="score: expected labels from 0 to 2 for these outputs") as caught:
        log_odds(torch.zeros(2, 3), torch.tensor(targets))
    assert str(wrong) in str(caught.value)


def test_labels_beside_one_logit_are_zero_or_one() -> None:
    for outputs in (torch.zeros(2), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match=r"expected labels from 0 to 1 for these outputs, got \[2\]"):
            log_odds(outputs, torch.tensor([1, 2]))


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([0.3, 1.0]),
        torch.tensor([math.nan, 1.0]),
        torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]),
        torch.tensor([[0, 0, 1], [0, 1, 0]]),
        torch.tensor([0, 1, 2]),
        torch.tensor([1]),
    ],
    ids=["fractions", "nan", "soft", "one-hot", "too many", "too few"],
)
def test_targets_that_are_no_class_indices_are_refused(targets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="score: expected one class index for each of 2 inputs") as caught:
        log_odds(torch.zeros(2, 3), targets)
    assert str(tuple(targets.shape)) in str(caught.value)
    assert "soft labels" in str(caught.value)


@pytest.mark.parametrize(
    ("outputs", "got"),
    [
        ((torch.zeros(2, 3), torch.zeros(2)), "tuple"),
        ({"logits": torch.zeros(2, 3)}, "dict"),
        (torch.zeros(2, 3, 4), r"torch.float32 of shape \(2, 3, 4\)"),
        (torch.zeros(()), r"torch.float32 of shape \(\)"),
        (torch.zeros(2, dtype=torch.long), r"torch.int64 of shape \(2,\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(outputs: torch.Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=rf"score: expected logits .* from the model, got {got}; .* forward\(model, inputs\)"):
        log_odds(outputs, torch.tensor([0, 1]))


# Prediction


@pytest.mark.parametrize("output_shape", [(6,), (6, 1)])
@pytest.mark.parametrize("target_shape", [(6,), (6, 1)])
def test_a_prediction_is_the_output_itself(output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
    outputs = random_logits(6)
    assert torch.equal(prediction(outputs.reshape(output_shape), torch.zeros(target_shape)), outputs)


def test_several_outputs_need_a_score_that_picks_one() -> None:
    with pytest.raises(ValueError, match=r"got shape \(4, 2\); explain one of them with a Task .*outputs\[:, 0\]"):
        prediction(torch.zeros(4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("outputs", [{"prediction": torch.zeros(2)}, torch.zeros(()), torch.zeros(2, dtype=torch.long)])
def test_outputs_that_are_no_predictions_are_refused(outputs: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"score: expected predictions .* forward\(model, inputs\)"):
        prediction(outputs, torch.zeros(2))


@pytest.mark.parametrize("targets", [torch.zeros(4, 2), torch.zeros(3), torch.zeros(())])
def test_a_prediction_needs_one_target_for_each_input(targets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"score: expected one target for each of 4 inputs.*unpack\(batch\)"):
        prediction(torch.zeros(4), targets)
