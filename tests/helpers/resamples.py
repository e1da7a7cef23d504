"""Intervals over resamples computed by hand, and numbers to resample."""

import math

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor


def random_columns(num_columns: int, num_inputs: int, seed: int = 0) -> Tensor:
    """Draw positive numbers, ``[columns, inputs]``."""
    generator = Generator().manual_seed(seed)
    return torch.randn(num_columns, num_inputs, generator=generator, dtype=torch.float64).exp()


def interval_by_hand(values: Tensor, num_inputs: int) -> tuple[float, float]:
    """Percentiles of the values of a statistic in all resamples, as far out as Student's t wants them."""
    quantile = stats.t.ppf(0.975, num_inputs - 1) * math.sqrt(num_inputs / (num_inputs - 1))
    tail = stats.norm.cdf(-quantile)
    low, high = np.quantile(values.numpy(), [tail, 1 - tail])
    return float(low), float(high)


def drawn_rows(num_resamples: int, *sizes: int) -> list[Tensor]:
    """The resamples of each sample, drawn as SciPy draws them: ``[resamples, inputs]`` row numbers."""
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.integers(0, size, (num_resamples, size))) for size in sizes]
