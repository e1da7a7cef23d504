import pytest
import torch

from lightning_interactions.game.baselines import Baseline, Constant, TrainingMean, Zeros

SAMPLE = torch.arange(24, dtype=torch.float64).reshape(4, 2, 3)


@pytest.mark.parametrize("baseline", [Zeros(), TrainingMean(), Constant(torch.ones(3))])
def test_baselines_fit_the_protocol(baseline: Baseline) -> None:
    assert isinstance(baseline, Baseline)
    value = baseline.value(SAMPLE)
    assert torch.broadcast_shapes(value.shape, SAMPLE.shape[1:]) == SAMPLE.shape[1:]
    assert value.dtype == SAMPLE.dtype


def test_zeros_are_zero_everywhere() -> None:
    assert torch.equal(Zeros().value(SAMPLE), torch.zeros(2, 3, dtype=torch.float64))


def test_the_training_mean_is_taken_entry_by_entry() -> None:
    expected = (SAMPLE[0] + SAMPLE[1] + SAMPLE[2] + SAMPLE[3]) / 4
    assert torch.equal(TrainingMean().value(SAMPLE), expected)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 3), (2, 3)])
def test_a_constant_that_broadcasts_to_one_input_is_taken(shape: tuple[int, ...]) -> None:
    value = Constant(torch.full(shape, 0.5)).value(SAMPLE)
    assert value.dtype == SAMPLE.dtype
    assert torch.equal(value.expand(2, 3), torch.full((2, 3), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2,), (4, 2, 3), (1, 2, 3), (3, 3), (5,)])
def test_a_constant_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"baseline: expected .* one input of shape \(2, 3\), got shape") as caught:
        Constant(torch.zeros(shape)).value(SAMPLE)
    assert str(shape) in str(caught.value)
    assert "leave out the batch axis" in str(caught.value)


def test_a_constant_does_not_stretch_an_axis_of_one() -> None:
    with pytest.raises(ValueError, match="leave out the batch axis"):
        Constant(torch.zeros(2, 3)).value(torch.zeros(5, 1, 3))
