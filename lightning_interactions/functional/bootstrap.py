"""How sure numbers are that are means over probe inputs: bootstrap intervals over the draw of the probes.

Probes are resampled as if they had been drawn independently; that they are stratified by class makes the intervals a little
too wide. Nothing here covers other training seeds, other evidence, or the choice of a moment of the run.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

__all__ = ["bootstrap_intervals"]

LEVEL = 0.95
NUM_RESAMPLES = 999
SEED = 0


def bootstrap_intervals(
    statistics: Callable[..., Float[Tensor, "statistics resamples"]], *columns: Float[Tensor, "_ _"]
) -> Float[Tensor, "2 statistics"]:
    """Compute 95 % percentile intervals of functions of means over inputs.

    The percentiles are those of Student's t at ``n - 1`` degrees of freedom: plain ones are too narrow for few inputs. With
    32 inputs whose strengths are log-normal (σ of 0.7, and of 1.4, where few inputs hold most), 0.94 and 0.92 of such
    intervals held the true share in 3,000 draws, and 0.93 and 0.82 the true mean strength. Plain percentiles and BCa intervals
    held the share less often.

    Args:
        statistics: Takes the means of each sample's columns, ``[columns, resamples]`` a sample, and returns the numbers in
            question, ``[statistics, resamples]``.
        columns: What is known of each input, ``[columns, inputs]`` for each sample that was drawn independently of the
            others. The columns of a sample belong to the same inputs and are resampled together.

    Returns:
        Lower and upper ends, float64; NaN if a sample has fewer than two inputs, and for a statistic that is not
        finite in some resample. The same on every call.

    Source:
        Efron & Tibshirani 1993, percentile intervals; Hesterberg 2015 (arXiv 1411.5279), their expansion.
    """
    samples = [sample.detach().cpu().double() for sample in columns]
    fewest = min(sample.shape[1] for sample in samples)
    if fewest < 2:
        observed = statistics(*(sample.new_full((len(sample), 1), torch.nan) for sample in samples))
        return torch.full((2, len(observed)), torch.nan, dtype=torch.float64)
    random = np.random.default_rng(SEED)
    resampled = statistics(*(sample @ _resample(sample.shape[1], random) for sample in samples))
    finite = resampled.isfinite().all(dim=1)
    tail = _tail(fewest)
    ends = np.quantile(resampled.where(finite[:, None], 0.0).numpy(), [tail, 1 - tail], axis=1)
    return torch.from_numpy(ends).masked_fill(~finite, torch.nan)


def _resample(num_inputs: int, random: np.random.Generator) -> Float[Tensor, "inputs resamples"]:
    """Draw inputs with replacement; tell how often each is in each resample, as a part of all draws."""
    drawn = random.integers(0, num_inputs, (NUM_RESAMPLES, num_inputs))
    places = drawn + num_inputs * np.arange(NUM_RESAMPLES)[:, None]
    counts = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return torch.from_numpy(counts / num_inputs).T


def _tail(num_inputs: int) -> float:
    """The part of the resamples beyond either end: the normal tail at the quantile of Student's t, which is farther out."""
    quantile = stats.t.ppf((1 + LEVEL) / 2, num_inputs - 1) * (num_inputs / (num_inputs - 1)) ** 0.5
    return float(stats.norm.cdf(-quantile))
