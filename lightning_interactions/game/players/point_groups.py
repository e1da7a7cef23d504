"""Clusters of points of a point cloud as players."""

import numpy as np
import torch
from jaxtyping import Int
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor

from lightning_interactions.game.axes import longer_axis
from lightning_interactions.game.baselines import Baseline, Centroid
from lightning_interactions.game.players.base import NOBODY, OneLeaf
from lightning_interactions.game.players.padding import check_positions, real_positions
from lightning_interactions.game.row_keys import RowMemory
from lightning_interactions.records import Rows

__all__ = ["PointGroups"]

TRIES = 5
"""Starts of k-means before there is one cluster less."""

MOST_CLOUDS = 2**14
"""Clouds whose clusters are remembered: more than there are probes."""


class PointGroups(OneLeaf):
    """Clusters of neighbouring points, found by k-means in each cloud, in the order of their first coordinate.

    A masked point moves to the centre of its cloud, where it adds no shape
    (:class:`~lightning_interactions.baselines.Centroid`), unless another baseline is given. Clusters are those of SciPy's
    ``kmeans2``, which the package needs anyway, from k-means++ starts. They are found once for each cloud.

    Args:
        number: How many clusters. A cloud of fewer different points has empty players.
        leaf: Name of the clouds ``[inputs, points, features]`` or ``[inputs, features, points]``; the only one that fits if
            left out.
        axis: Axis of the points, counted with the batch axis: 1 or 2. If left out, the one that is at least twice as long.
        coordinates: Points are near by their first so many features: others, such as normals, are masked with them.
        seed: Other seeds may find other clusters.
        valid: Name of the numbers of points ``[inputs]`` or of the mask ``[inputs, points]`` that is true at real points.
            Found by its usual names, such as ``lengths``, if left out. Other points belong to nobody and stay.
        padded: Name of a mask that is true at padding.

    Raises:
        ValueError: If a number is smaller than 1, the axis is neither 1 nor 2, or both ``valid`` and ``padded`` are given.

    Source:
        Shen et al. 2021 (arXiv 2111.03549) mask regions of a cloud by moving their points to its centre.
    """

    def __init__(
        self,
        number: int = 10,
        leaf: str | None = None,
        axis: int | None = None,
        coordinates: int = 3,
        seed: int = 0,
        valid: str | None = None,
        padded: str | None = None,
    ) -> None:
        if number < 1 or coordinates < 1 or axis not in (None, 1, 2):
            raise ValueError(
                "players: expected at least one cluster by at least one coordinate, points along axis 1 or 2, got "
                f"number={number}, coordinates={coordinates}, axis={axis}"
            )
        check_positions(valid, padded)
        super().__init__(leaf)
        self.number = number
        self.axis = axis
        self.coordinates = coordinates
        self.seed = seed
        self.valid = valid
        self.padded = padded
        self._found = RowMemory(MOST_CLOUDS)

    @property
    def expects(self) -> str:
        """What a tensor must be, in words."""
        return "floating-point clouds [inputs, points, features] or [inputs, features, points]"

    def fits(self, tensor: Tensor) -> bool:
        """Say whether a tensor may be a batch of point clouds."""
        return tensor.is_floating_point() and tensor.ndim == 3 and 0 not in tensor.shape[1:]

    def num_players(self, inputs: Rows) -> int:
        """Count the clusters; see :class:`~lightning_interactions.players.Players`."""
        self._points_axis(self.tensor(inputs))
        return self.number

    def names(self, inputs: Rows) -> tuple[str, ...]:
        """Number the clusters from 1 on; see :class:`~lightning_interactions.players.Players`."""
        return tuple(f"cluster {place}" for place in range(1, self.number + 1))

    def default_baseline(self, inputs: Rows) -> Baseline:
        """Return the centre of each cloud."""
        return Centroid(self._points_axis(self.tensor(inputs)))

    def assignments(self, inputs: Rows) -> dict[str, Int[Tensor, "..."]]:
        """Say which cluster each point belongs to; see :class:`~lightning_interactions.players.AssignedPlayers`."""
        (name,) = self.leaves(inputs)
        axis = self._points_axis(inputs.leaves[name])
        return {name: self._found.recall(inputs, self._clusters).unsqueeze(3 - axis)}

    def _clusters(self, inputs: Rows) -> Int[Tensor, "inputs points"]:
        (name,) = self.leaves(inputs)
        clouds = inputs.leaves[name]
        clouds = clouds if self._points_axis(clouds) == 1 else clouds.transpose(1, 2)
        real = real_positions(inputs, clouds.shape[1], self.valid, self.padded, of=name)
        real = torch.ones(clouds.shape[:2], dtype=torch.bool) if real is None else real.cpu()
        points = clouds[..., : self.coordinates].detach().double().cpu()
        found = torch.full(clouds.shape[:2], NOBODY)
        for own, kept, cloud in zip(found, real, points, strict=True):
            own[kept] = torch.as_tensor(clusters_of(cloud[kept].numpy(), self.number, self.seed), dtype=torch.long)
        return found

    def _points_axis(self, clouds: Tensor) -> int:
        axis = self.axis or longer_axis(clouds)
        if axis is None:
            raise ValueError(
                "players: expected clouds of at least twice as many points as features, or the other way round, got "
                f"{tuple(clouds.shape)}; say which axis is that of the points with PointGroups(axis=1) or PointGroups(axis=2)"
            )
        return axis


def clusters_of(points: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Put points into clusters, numbered by the first coordinate of their centres.

    Args:
        points: ``[points, coordinates]``, finite.
        number: How many clusters there are at most; fewer if there are fewer different points.
        seed: Seed of the starts.

    Returns:
        The number of the cluster of each point.
    """
    different = len(np.unique(points, axis=0))
    for wanted in range(min(number, different), 1, -1):
        for start in range(TRIES):
            generator = np.random.default_rng([seed, start])
            try:
                centres, labels = kmeans2(points, wanted, iter=20, minit="++", missing="raise", rng=generator)
            except ClusterError:
                continue
            rank = np.lexsort(centres.T[::-1]).argsort()
            return np.asarray(rank[labels], dtype=np.int64)
    return np.zeros(len(points), dtype=np.int64)
