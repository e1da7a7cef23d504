import math

import pytest
import torch

from lightning_interactions.game.baselines import (
    Baseline,
    Blur,
    Centroid,
    Constant,
    MeanEmbedding,
    MostFrequent,
    Token,
    TrainingMean,
    TrainingSample,
    Typical,
    Zeros,
    check_baseline,
)

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


# Of integers


CATEGORIES = torch.tensor([[3, 1], [0, 1], [3, 2], [1, 0]])


def test_the_most_frequent_category_is_valid() -> None:
    assert MostFrequent().value([CATEGORIES]).tolist() == [3, 1]
    assert MostFrequent().value([CATEGORIES[1:2], CATEGORIES[3:]]).tolist() == [0, 0]
    assert MostFrequent().value([CATEGORIES]).dtype == torch.int64
    assert Typical().value([CATEGORIES]).tolist() == [3, 1]
    assert Typical().value([SAMPLE]) == 0
    with pytest.raises(ValueError, match=r"MostFrequent\(\) expects integers"):
        MostFrequent().value([SAMPLE])
    with pytest.raises(ValueError, match="expects inputs of one shape"):
        MostFrequent().value([CATEGORIES, CATEGORIES[:, :1]])


def test_a_token_has_the_dtype_of_the_ids() -> None:
    value = Token(103).value([CATEGORIES.int()])
    assert value == 103
    assert value.dtype == torch.int32
    with pytest.raises(ValueError, match=r"Token\(id=103\) expects integers, got torch.float64"):
        Token(103).value([SAMPLE])


def test_bytes_have_a_rounded_mean() -> None:
    value = TrainingMean().value([torch.tensor([[255, 0], [254, 1], [255, 0]], dtype=torch.uint8)])
    assert value.tolist() == [255, 0]
    assert value.dtype == torch.uint8


# Of embeddings


def test_the_mean_embedding_leaves_padding_out() -> None:
    embeddings = torch.tensor([[[1.0, 0], [3, 2], [0, 0]], [[5, 4], [0, 0], [0, 0]]])
    assert MeanEmbedding().value([embeddings]).tolist() == [3, 2]
    assert MeanEmbedding().value([embeddings[:1], embeddings[1:, :1]]).tolist() == [3, 2]
    assert MeanEmbedding().value([torch.zeros(2, 3, 4)]).tolist() == [0] * 4
    with pytest.raises(ValueError, match="expects floating-point embeddings"):
        MeanEmbedding().value([CATEGORIES])


# That depend on the input


@pytest.mark.parametrize("baseline", [Zeros(), Constant(2.0), Blur(), Token(1), Centroid()])
def test_what_needs_no_sample(baseline: Baseline) -> None:
    assert not baseline.needs_sample


@pytest.mark.parametrize("baseline", [TrainingMean(), TrainingSample(), MeanEmbedding(), MostFrequent(), Typical()])
def test_what_needs_a_sample(baseline: Baseline) -> None:
    assert baseline.needs_sample


def test_training_rows_are_drawn_by_the_content_of_an_input_and_never_itself() -> None:
    sample = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    baseline = TrainingSample(number=4, seed=3)
    value = baseline.value([sample[:15], sample[15:]])
    assert value.shape == (4, 5)
    assert torch.equal(value, baseline.value([sample]))
    assert not torch.equal(value, TrainingSample(number=4, seed=4).value([sample]))
    drawn = baseline.of_rows(value, sample)
    assert (drawn[:, None] == value).all(dim=2).any(dim=1).all()
    assert not (drawn == sample).all(dim=1).any()
    assert drawn.unique(dim=0).shape[0] == 4
    assert torch.equal(baseline.of_rows(value, sample[[7, 7, 2]]), drawn[[7, 7, 2]])
    check_baseline(drawn, sample)
    with pytest.raises(ValueError, match="at least one row"):
        TrainingSample(number=0)
    with pytest.raises(ValueError, match="one shape"):
        baseline.value([sample, sample[:, :2]])


def gaussian_matrix(size: int, sigma: float) -> torch.Tensor:
    radius = max(1, round(3 * sigma))
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        for offset in range(-radius, radius + 1):
            matrix[row, min(max(row + offset, 0), size - 1)] += math.exp(-0.5 * (offset / sigma) ** 2)
    return matrix / matrix.sum(dim=1, keepdim=True)


def test_blur_is_a_gaussian_along_height_and_width() -> None:
    images = torch.randn(2, 3, 10, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, cols = gaussian_matrix(10, 2.0), gaussian_matrix(14, 2.0)
    expected = torch.einsum("hi,wj,ncij->nchw", rows, cols, images)
    baseline = Blur(0.2)
    blurred = baseline.of_rows(baseline.value([images]), images)
    assert torch.allclose(blurred, expected)
    last = images.movedim(1, -1)
    assert torch.allclose(baseline.of_rows(images, last), expected.movedim(1, -1))
    assert torch.allclose(Blur(0.2, channels="none").of_rows(images, images[:, 0]), expected[:, 0])
    volume = Blur(0.2, dims=3, channels="first").of_rows(images, images[:, None])
    depth = gaussian_matrix(3, 0.2 * 3)
    expected = torch.einsum("dc,hi,wj,ncij->ndhw", depth, gaussian_matrix(10, 0.6), gaussian_matrix(14, 0.6), images)
    assert torch.allclose(volume[:, 0], expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_blur_keeps_dtype_and_flat_images(dtype: torch.dtype) -> None:
    images = torch.full((2, 3, 8, 8), 200).to(dtype)
    blurred = Blur().of_rows(images, images)
    assert blurred.dtype == dtype
    assert torch.equal(blurred, images)
    assert Blur().of_rows(images, images[:0]).shape == (0, 3, 8, 8)


def test_blur_needs_images() -> None:
    with pytest.raises(ValueError, match=r"2 axes of pixels, got torch\.float64"):
        Blur().value([SAMPLE])
    for settings in ({"sigma": 0.0}, {"dims": 1}):
        with pytest.raises(ValueError, match="positive sigma and 2 or 3 dims"):
            Blur(**settings)  # type: ignore[arg-type]


def test_the_centroid_is_the_mean_point() -> None:
    clouds = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    expected = clouds.mean(dim=1, keepdim=True).expand_as(clouds)
    assert torch.equal(Centroid().of_rows(clouds, clouds), expected)
    assert torch.allclose(Centroid(2).of_rows(clouds, clouds.transpose(1, 2)), expected.transpose(1, 2))
    for wrong in (torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 9, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match="Centroid expects floating-point clouds"):
            Centroid().value([wrong])


def test_values_for_each_row_are_taken() -> None:
    check_baseline(SAMPLE * 2, SAMPLE)
    with pytest.raises(ValueError, match="leave out the batch axis"):
        check_baseline(SAMPLE[:2], SAMPLE)
