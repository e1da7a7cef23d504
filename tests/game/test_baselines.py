import pytest
import torch

from lightning_interactions.game.baselines import Baseline, Constant, TrainingMean, Zeros

SAMPLE = torch.arange(24, dtype=torch.float64).reshape(4, 2, 3)


@pytest.mark.parametrize(
    "baseline", [Zeros(), TrainingMean(), Constant(torch.ones(3)), Constant(0.5), Constant([1.0, 2.0, 3.0])]
)
def test_baseline_values_broadcast_to_one_input(baseline: Baseline) -> None:
    value = baseline.value([SAMPLE])
    assert torch.broadcast_shapes(value.shape, SAMPLE.shape[1:]) == SAMPLE.shape[1:]
    assert value.dtype == SAMPLE.dtype


def test_zeros_are_zero() -> None:
    assert torch.equal(Zeros().value([SAMPLE]).expand(2, 3), torch.zeros(2, 3, dtype=torch.float64))
    assert Zeros().value([SAMPLE, torch.zeros(1, 5)]) == 0


def test_the_training_mean_is_taken_entry_by_entry_over_all_groups() -> None:
    expected = (SAMPLE[0] + SAMPLE[1] + SAMPLE[2] + SAMPLE[3]) / 4
    assert torch.equal(TrainingMean().value([SAMPLE]), expected)
    assert torch.equal(TrainingMean().value([SAMPLE[:1], SAMPLE[1:]]), expected)


@pytest.mark.parametrize("sample", [[SAMPLE, SAMPLE[:, :1]], [SAMPLE.long()]], ids=["two shapes", "integers"])
def test_inputs_without_a_mean_are_refused(sample: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="baseline: TrainingMean expects floating-point inputs of one shape, got"):
        TrainingMean().value(sample)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 3), (2, 3)])
def test_a_constant_that_broadcasts_to_one_input_is_taken(shape: tuple[int, ...]) -> None:
    value = Constant(torch.full(shape, 0.5)).value([SAMPLE])
    assert torch.equal(value.expand(2, 3), torch.full((2, 3), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shape", "sample"),
    [*(((shape), SAMPLE) for shape in [(2,), (4, 2, 3), (1, 2, 3), (3, 3), (5,)]), ((2, 3), torch.zeros(5, 1, 3))],
)
def test_a_constant_of_another_shape_is_refused(shape: tuple[int, ...], sample: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="leave out the batch axis") as caught:
        Constant(torch.zeros(shape)).value([sample])
    assert str(shape) in str(caught.value)
    assert str(tuple(sample.shape[1:])) in str(caught.value)


def test_baselines_say_what_they_are() -> None:
    assert [repr(one) for one in (Zeros(), TrainingMean(), Constant(0.5))] == [
        "Zeros()",
        "TrainingMean()",
        "Constant(constant=tensor(0.5))",
    ]
