"""How sure numbers are that are means over probe inputs: bootstrap intervals over the draw of the probes.

Probes are resampled as if they had been drawn independently; that they are stratified by class makes the intervals a little
too wide. Nothing here covers other training seeds, other evidence, or the choice of a moment of the run.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

__all__ = ["bootstrap_intervals"]

LEVEL = 0.95
NUM_RESAMPLES = 999
SEED = 0


def bootstrap_intervals(
    statistics: Callable[..., Float[Tensor, "statistics resamples"]], *columns: Float[Tensor, "columns inputs"]
) -> Float[Tensor, "2 statistics"]:
    """Compute 95 % percentile intervals of functions of means over inputs.

    The percentiles are those of Student's t at ``n - 1`` degrees of freedom: plain ones are too narrow for few inputs. With
    32 inputs whose strengths are log-normal (σ of 0.7, and of 1.4, where few inputs hold most), 0.94 and 0.92 of such
    intervals held the true share in 3,000 draws, and 0.93 and 0.82 the true mean strength. Plain percentiles and BCa intervals
    held the share less often.

    Args:
        statistics: Takes the means of each sample's columns, ``[columns, resamples]`` a sample, and returns the numbers in
            question, ``[statistics, resamples]``.
        columns: What is known of each input, one tensor for each sample that was drawn independently of the others. The
            columns of a sample belong to the same inputs and are resampled together.

    Returns:
        Lower and upper ends, float64; NaN if a sample has fewer than two inputs, and for a statistic that is not
        finite in some resample. The same on every call.

    Source:
        Efron & Tibshirani 1993, percentile intervals; Hesterberg 2015 (arXiv 1411.5279), their expansion.
    """
    samples = [sample.detach().cpu().double() for sample in columns]
    sizes = [sample.shape[1] for sample in samples]
    if min(sizes) < 2:
        observed = statistics(*(sample[:, :1].new_full((len(sample), 1), torch.nan) for sample in samples))
        return torch.full((2, len(observed)), torch.nan, dtype=torch.float64)

    def of_rows(*rows: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:  # noqa: ARG001  # SciPy passes it, always the last
        means = (sample @ _frequencies(np.atleast_2d(own)) for sample, own in zip(samples, rows, strict=True))
        found = statistics(*means)
        # SciPy warns of NaN, and of differences of infinities: what is not finite is told apart in a row of its own.
        told_apart = torch.cat([found.nan_to_num(0, 0, 0), found.isfinite()]).numpy()
        return told_apart[:, 0] if rows[0].ndim == 1 else told_apart

    level = _expanded(LEVEL, min(sizes))
    # Row numbers are resampled, so that all statistics share one set of resamples and one product.
    result = stats.bootstrap(
        tuple(np.arange(size) for size in sizes),
        of_rows,
        n_resamples=NUM_RESAMPLES,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(SEED),
    )
    ends = torch.from_numpy(np.stack([result.confidence_interval.low, result.confidence_interval.high]))
    finite = torch.from_numpy(result.bootstrap_distribution).min(dim=1).values > 0
    return ends[:, : len(finite) // 2].masked_fill(~finite[len(finite) // 2 :], torch.nan)


def _frequencies(rows: NDArray[np.int64]) -> Float[Tensor, "inputs resamples"]:
    """How often each input is in each resample, over its size."""
    num_resamples, num_inputs = rows.shape
    counts = np.bincount((rows + num_inputs * np.arange(num_resamples)[:, None]).ravel(), minlength=rows.size)
    return torch.from_numpy(counts.reshape(num_resamples, num_inputs) / num_inputs).T


def _expanded(level: float, num_inputs: int) -> float:
    quantile = stats.t.ppf((1 + level) / 2, num_inputs - 1) * (num_inputs / (num_inputs - 1)) ** 0.5
    return float(2 * stats.norm.cdf(quantile) - 1)
