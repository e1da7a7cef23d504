"""Baseline values: what a masked player is replaced with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from lightning_interactions.game.axes import Channels, axis_of_channels, longer_axis
from lightning_interactions.game.row_keys import tensor_keys
from lightning_interactions.records.describe import describe

__all__ = [
    "Baseline",
    "Blur",
    "Centroid",
    "Constant",
    "MeanEmbedding",
    "MostFrequent",
    "Token",
    "TrainingMean",
    "TrainingSample",
    "Typical",
    "Zeros",
    "check_baseline",
]


class Baseline(ABC):
    """Chooses baseline values, once for a run; what they are for an input may also depend on the input."""

    needs_sample: bool = True
    """Whether the value depends on the sample of training inputs."""

    def __repr__(self) -> str:
        return describe(self)

    @abstractmethod
    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the baseline value for one row of a tensor that is masked.

        Args:
            training_inputs: That tensor in a sample of training inputs, ``[inputs, ...]``, one for each group of equal shapes.
                If the value does not need the sample, any inputs do: they say shape, dtype and device.

        Returns:
            A tensor that broadcasts to one row of each, or whatever else :meth:`of_rows` makes values of.

        Raises:
            ValueError: If there is none.
        """

    def of_rows(self, value: Tensor, rows: Tensor) -> Tensor:
        """Return the baseline value of given rows.

        Args:
            value: What :meth:`value` returned.
            rows: The tensor that is masked, ``[rows, ...]``, unmasked. What comes out for a row does not depend on the others.

        Returns:
            A tensor that broadcasts to one row, or ``[rows, ...]`` with a value for each row.
        """
        return value


class Zeros(Baseline):
    """Zero everywhere: black pixels, or the mean of standardised features."""

    needs_sample = False

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return a zero; see :class:`Baseline`."""
        return training_inputs[0].new_zeros(())


class TrainingMean(Baseline):
    """The mean over a sample of training inputs, entry by entry; they must have one shape. Bytes, as of images, are rounded."""

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the mean; see :class:`Baseline`."""
        first = training_inputs[0]
        if len(_kinds(training_inputs)) > 1 or not (first.is_floating_point() or first.dtype == torch.uint8):
            raise ValueError(
                "baseline: TrainingMean expects floating-point inputs of one shape, got "
                f"{', '.join(_kinds(training_inputs))}; use Zeros() or Constant(...), or MostFrequent() for categories"
            )
        return _like(torch.cat([_as_float(one) for one in training_inputs]).mean(dim=0), first)


class Constant(Baseline):
    """A given baseline value.

    Args:
        value: A number, nested lists of numbers or a tensor that broadcasts to one row.
    """

    needs_sample = False

    def __init__(self, value: float | list[float] | Tensor) -> None:
        self.constant = torch.as_tensor(value)

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the given value; see :class:`Baseline`."""
        for one in training_inputs:
            _check_one_row(self.constant, one)
        return self.constant.to(training_inputs[0])


class Token(Baseline):
    """A token that stands for a missing one: mask, padding or unknown.

    Args:
        id: Its id, such as ``tokenizer.mask_token_id``.
    """

    needs_sample = False

    def __init__(self, id: int) -> None:
        self.id = id

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the id; see :class:`Baseline`."""
        _check_integers(self, training_inputs, "Zeros() or MeanEmbedding() for embeddings")
        return training_inputs[0].new_tensor(self.id)


class MeanEmbedding(Baseline):
    """The mean over a sample of training inputs and over their positions, for embeddings ``[inputs, positions, features]``.

    Positions of zeros, such as padding, do not count. Lengths may differ.
    """

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the mean; see :class:`Baseline`."""
        if any(one.ndim != 3 or not one.is_floating_point() for one in training_inputs):
            raise ValueError(
                "baseline: MeanEmbedding expects floating-point embeddings [inputs, positions, features], got "
                f"{', '.join(_kinds(training_inputs))}; use Token(id) for token ids"
            )
        positions = torch.cat([one.flatten(0, 1) for one in training_inputs])
        real = positions[(positions != 0).any(dim=1)]
        return real.mean(dim=0) if len(real) else positions.new_zeros(positions.shape[1])


class MostFrequent(Baseline):
    """The most frequent value of a sample of training inputs, entry by entry, for categories: the smallest of equals."""

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the mode; see :class:`Baseline`."""
        _check_integers(self, training_inputs, "TrainingMean() for numbers")
        if len(_kinds(training_inputs)) > 1:
            kinds = ", ".join(_kinds(training_inputs))
            raise ValueError(f"baseline: MostFrequent expects inputs of one shape, got {kinds}; use Constant(...)")
        rows = torch.cat(list(training_inputs)).cpu()
        columns = rows.reshape(len(rows), -1).T
        most = [values[counts.argmax()] for values, counts in (column.unique(return_counts=True) for column in columns)]
        return torch.stack(most).reshape(rows.shape[1:]).to(training_inputs[0].device)


class Typical(Baseline):
    """Zero for numbers, the most frequent category for integers: for tables with both."""

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return zero or the mode; see :class:`Baseline`."""
        return (Zeros() if training_inputs[0].is_floating_point() else MostFrequent()).value(training_inputs)


class TrainingSample(Baseline):
    """Rows of the training sample: each input gets one of them, drawn by its content, and none gets itself.

    Args:
        number: Of how many rows one is drawn.
        seed: Other seeds draw other rows.
    """

    def __init__(self, number: int = 32, seed: int = 0) -> None:
        if number < 1:
            raise ValueError(f"baseline: expected at least one row, got number={number}")
        self.number = number
        self.seed = seed

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return the rows among which one is drawn; see :class:`Baseline`."""
        if len(_kinds(training_inputs)) > 1:
            kinds = ", ".join(_kinds(training_inputs))
            raise ValueError(f"baseline: TrainingSample expects inputs of one shape, got {kinds}; use Zeros() or Constant(...)")
        rows = torch.cat(list(training_inputs))
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))[: self.number]
        return rows[drawn.to(rows.device)]

    def of_rows(self, value: Tensor, rows: Tensor) -> Tensor:
        """Return the row that was drawn for each row; see :class:`Baseline`."""
        place = tensor_keys(rows).remainder(len(value))
        itself = (value.to(rows)[place] == rows).flatten(1).all(dim=1)
        return value.to(rows)[(place + itself).remainder(len(value))]


class Blur(Baseline):
    """The image itself, blurred by a Gaussian: what is left of a masked patch is its colour.

    Args:
        sigma: Standard deviation of the Gaussian, as a part of the shorter side of the image.
        dims: Number of axes to blur along: 2, or 3 for volumes.
        channels: ``"first"``, ``"last"`` or ``"none"``; found out as by
            :class:`~lightning_interactions.players.ImagePatches` if left out.

    Source:
        Fong & Vedaldi 2017 (arXiv 1704.03296).
    """

    needs_sample = False

    def __init__(self, sigma: float = 0.1, dims: int = 2, channels: Channels | None = None) -> None:
        if sigma <= 0 or dims not in (2, 3):
            raise ValueError(f"baseline: Blur expects a positive sigma and 2 or 3 dims, got sigma={sigma}, dims={dims}")
        self.sigma = sigma
        self.dims = dims
        self.channels = channels

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return a zero in place of what depends on the input; see :class:`Baseline`."""
        for one in training_inputs:
            self._axes(one)
        return training_inputs[0].new_zeros(())

    def of_rows(self, value: Tensor, rows: Tensor) -> Tensor:
        """Return the blurred images; see :class:`Baseline`."""
        axes = self._axes(rows)
        if not rows.numel():
            return rows
        blurred, sigma = _as_float(rows), self.sigma * min(rows.shape[axis] for axis in axes)
        for axis in axes:
            blurred = _smoothed(blurred, axis, sigma)
        return _like(blurred, rows)

    def _axes(self, images: Tensor) -> list[int]:
        if images.ndim != self.dims + (1 if self.channels == "none" else 2):
            raise ValueError(
                f"baseline: {self!r} expects images [inputs, ...] with {self.dims} axes of pixels, got {_kinds([images])[0]}; "
                "use Zeros(), or dims=3 for volumes"
            )
        return [axis for axis in range(1, images.ndim) if axis != axis_of_channels(images, self.channels)]


class Centroid(Baseline):
    """The mean point of each cloud: a masked point moves to the centre.

    Args:
        axis: Axis of the points of ``[inputs, points, features]`` or ``[inputs, features, points]``; the one that is at least
            twice as long if left out.
    """

    needs_sample = False

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis

    def value(self, training_inputs: Sequence[Tensor]) -> Tensor:
        """Return a zero in place of what depends on the input; see :class:`Baseline`."""
        for one in training_inputs:
            self._points_axis(one)
        return training_inputs[0].new_zeros(())

    def of_rows(self, value: Tensor, rows: Tensor) -> Tensor:
        """Return the mean point of each row; see :class:`Baseline`."""
        return rows.mean(dim=self._points_axis(rows), keepdim=True).expand_as(rows)

    def _points_axis(self, clouds: Tensor) -> int:
        axis = self.axis if clouds.ndim != 3 or self.axis is not None else longer_axis(clouds)
        if clouds.ndim != 3 or axis is None or not clouds.is_floating_point():
            raise ValueError(
                "baseline: Centroid expects floating-point clouds [inputs, points, features], got "
                f"{_kinds([clouds])[0]}; say which axis is that of the points with Centroid(axis=...)"
            )
        return axis


def check_baseline(value: Tensor, inputs: Tensor) -> None:
    """Refuse a baseline value that neither broadcasts to one row of inputs ``[inputs, ...]`` nor has one value for each.

    Args:
        value: What :meth:`Baseline.of_rows` returned for these inputs.
        inputs: The tensor that is masked.
    """
    if value.shape != inputs.shape:
        _check_one_row(value, inputs)


def _check_one_row(value: Tensor, inputs: Tensor) -> None:
    shape = inputs.shape[1:]
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"baseline: expected a value that broadcasts to one input of shape {tuple(shape)}, got shape {tuple(value.shape)}; "
            "leave out the batch axis, and use Zeros() for inputs of different shapes"
        )


def _check_integers(baseline: Baseline, inputs: Sequence[Tensor], otherwise: str) -> None:
    if any(one.is_floating_point() or one.is_complex() for one in inputs):
        raise ValueError(f"baseline: {baseline!r} expects integers, got {', '.join(_kinds(inputs))}; use {otherwise}")


def _kinds(inputs: Sequence[Tensor]) -> list[str]:
    return sorted({f"{one.dtype} {tuple(one.shape[1:])}" for one in inputs})


def _as_float(inputs: Tensor) -> Tensor:
    """Convert bytes, and numbers of half precision, to what can be averaged."""
    return inputs if inputs.dtype in (torch.float32, torch.float64) else inputs.float()


def _like(values: Tensor, inputs: Tensor) -> Tensor:
    return values.to(inputs.dtype) if inputs.is_floating_point() else values.round().to(inputs.dtype)


def _smoothed(values: Tensor, axis: int, sigma: float) -> Tensor:
    """Convolve along an axis with a Gaussian; the outermost values are continued beyond the ends."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    weights = (-0.5 * (offsets / sigma) ** 2).exp()
    lines = values.movedim(axis, -1)
    padded = pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
    smooth = conv1d(padded, (weights / weights.sum()).reshape(1, 1, -1))
    return smooth.reshape(lines.shape).movedim(-1, axis)
