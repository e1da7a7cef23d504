"""Sign tests of all changes between two moments of a run, taken together: how large is the largest of them by chance?

The same probes are measured every time, so the tests of different pairs of moments depend on each other strongly. To count
them as if they did not would leave a few dozen probes without power. If no pair of moments has a change in which most inputs
agree, a probe is as likely to have gained as to have lost. So the signs of whole trajectories are flipped, probe by probe,
thousands of times: in every flipped run the largest test of all onsets at a look is as large as chance makes it, and the pairs
depend on each other as they do in the run.

Only signs count. So each single test is an exact sign test, however skewed or heavy-tailed the changes are; symmetry is asked
of the dependence between pairs alone. A sign also says more than a mean where a few inputs hold most of the strength.

Looks go on as long as the run does. A spending function says which part of the allowed errors may have been made up to a look,
and the boundary at a look is the lowest at which no larger part of the flipped runs has crossed a boundary so far.

Source:
    Westfall & Young 1993, Resampling-Based Multiple Testing (the largest statistic, single step); Lan & DeMets 1983, Biometrika
    70(3) (spending functions). The shape of the spending function and the use of signs are our own.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["JointSignTest", "spent"]

FLIPPED_RUNS = 4096
"""Flipped runs, and the one that was observed among them."""

SEED = 0

TIMESCALE = 16
"""Looks up to which 29 % are spent, and 50 % up to three times as many."""

MOST_REMEMBERED = 16
"""Runs whose boundaries are remembered, so that a run that goes on does not begin at its first look."""


def spent(look: int) -> float:
    """Part of the allowed errors that may have been made up to a look, counted from 1; about a tenth for each doubling."""
    return float(1 - (1 + look / TIMESCALE) ** -0.5)


class JointSignTest:
    """Tests whether most inputs changed in one direction since an onset, for all onsets and looks of a run together.

    The boundaries at a look need nothing of later looks, and are the same on every call.

    Args:
        path: What may have changed, of each probe at each moment; NaN where it was not measured.
        levels: Fractions of runs that may have an error; boundaries are found for each.
        two_sided: Whether falls are tested together with rises, at the same boundaries.

    Attributes:
        path: As given.
        boundaries: ``[moments, levels]``; what a statistic must exceed.
    """

    def __init__(self, path: Float[Tensor, "moments probes"], levels: Sequence[float], *, two_sided: bool) -> None:
        self.path = path.numpy()
        self.boundaries = _boundaries(path, tuple(levels), two_sided).numpy()

    def statistic(self, onset: int, look: int) -> float:
        """Return the sum of the probes' signs over the root of their number; ties count as probes."""
        signs = np.sign(self.path[look] - self.path[onset])
        known = np.isfinite(signs)
        # In single precision, as boundaries are.
        return float(np.float32(signs[known].sum()) / np.sqrt(np.float32(max(known.sum(), 1))))

    def crossed(self, statistic: float, look: int) -> NDArray[np.bool_]:
        """Say at which levels a statistic of this look is significant."""
        return np.asarray(self.boundaries[look] < statistic)

    @cached_property
    def can_be_crossed(self) -> NDArray[np.bool_]:
        """Whether anything could have been significant since half as many looks, had all probes agreed, ``[looks, levels]``."""
        probes = np.logical_or.accumulate(np.isfinite(self.path)).sum(axis=1, keepdims=True)
        possible = np.concatenate([np.zeros_like(self.boundaries[:1]), (np.sqrt(probes) > self.boundaries).cumsum(axis=0)])
        looks = np.arange(len(self.path))
        return possible[looks + 1] > possible[looks // 2]


def _statistics(changes: Float[Tensor, "onsets probes"], flips: Float[Tensor, "runs probes"]) -> Float[Tensor, "runs onsets"]:
    signs = changes.sign().nan_to_num(0.0).to(flips)
    # Sums of whole numbers are exact, so that equal statistics are equal in whatever order they are summed.
    return flips @ signs.T / changes.isfinite().sum(dim=1).clamp(min=1).sqrt().to(flips)


@dataclass(frozen=True)
class _Looks:
    """What is known after some looks: the boundaries, and which flipped runs have not crossed one at each level."""

    boundaries: tuple[Float[Tensor, " levels"], ...]
    within: Bool[Tensor, "levels runs"]


_remembered: OrderedDict[bytes, _Looks] = OrderedDict()


def _boundaries(
    path: Float[Tensor, "moments probes"], levels: tuple[float, ...], two_sided: bool
) -> Float[Tensor, "moments levels"]:
    """Find the boundaries at all looks, going on from the last that is remembered; at the first there is nothing to test."""
    digest = hashlib.blake2b(repr((levels, two_sided, path.shape[1])).encode())
    keys = []
    for moment in path:
        digest.update(moment.numpy().tobytes())
        keys.append(digest.digest())
    first = next((look for look in range(len(path), 0, -1) if keys[look - 1] in _remembered), 0)
    nothing = torch.full((len(levels),), torch.inf)
    known = _remembered[keys[first - 1]] if first else _Looks((), torch.ones(len(levels), FLIPPED_RUNS, dtype=torch.bool))
    boundaries, within = list(known.boundaries), known.within.clone()
    flips = _flips(path.shape[1])
    for look in range(first, len(path)):
        if look == 0:
            boundaries.append(nothing)
            continue
        statistics = _statistics(path[look] - path[:look], flips)
        largest = (statistics.abs() if two_sided else statistics).amax(dim=1)
        boundary = _boundary(largest, within, [int(level * spent(look) * FLIPPED_RUNS) for level in levels])
        within &= largest <= boundary[:, None]
        boundaries.append(boundary)
    if len(path):
        _remembered[keys[-1]] = _Looks(tuple(boundaries), within)
        while len(_remembered) > MOST_REMEMBERED:
            _remembered.popitem(last=False)
    return torch.stack(boundaries) if boundaries else torch.empty(0, len(levels))


def _boundary(
    largest: Float[Tensor, " runs"], within: Bool[Tensor, "levels runs"], allowed: Sequence[int]
) -> Float[Tensor, " levels"]:
    """Find the lowest boundary that no more runs cross, of those that are within, than are still allowed to cross one.

    Statistics take few values, and runs that have the same one cross together.
    """
    left = torch.tensor(allowed) - (~within).sum(dim=1)
    values, place = largest.unique(return_inverse=True)
    counts = within.float() @ torch.nn.functional.one_hot(place).float()
    higher = counts.sum(dim=1, keepdim=True) - counts.cumsum(dim=1)
    boundaries: Tensor = values[(higher <= left[:, None]).int().argmax(dim=1)]
    return boundaries.where(left > 0, torch.inf)


@lru_cache(maxsize=4)
def _flips(num_probes: int) -> Float[Tensor, "runs probes"]:
    generator = torch.Generator().manual_seed(SEED)
    flips = torch.randint(0, 2, (FLIPPED_RUNS, num_probes), generator=generator).float().mul(2).sub(1)
    flips[0] = 1
    return flips
