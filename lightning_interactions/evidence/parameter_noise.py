"""Evidence from the run alone: interactions that survive noise in the parameters."""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.evidence.base import Evidence
from lightning_interactions.functional.generalization import shared_interactions
from lightning_interactions.records import EvidenceWeights, Interactions

__all__ = ["ParameterNoise"]


class ParameterNoise(Evidence):
    """An interaction generalizes if it keeps salience and sign under every draw of noise on the weights.

    Each draw adds Gaussian noise to every weight tensor, with a fraction of that tensor's own standard deviation; tensors
    of one element or of constant value stay. The draws are the same at every measurement, and the weights come back
    bit by bit. The chance level is what the noisy selves share of an interaction on other inputs.

    Args:
        scale: Standard deviation of the noise as a fraction of the tensor's population standard deviation.
        num_draws: Number of independent draws; each costs as much as the measurement itself.
        seed: Seed of the draws.

    Raises:
        ValueError: If ``scale`` is not positive or ``num_draws`` smaller than 1.

    Source:
        Ren et al. 2024 (arXiv 2407.19198): noise in the parameters suppresses high-order interactions. The
        weights are our own.
    """

    def __init__(self, scale: float = 0.6, num_draws: int = 2, seed: int = 0) -> None:
        if not 0 < scale < math.inf or num_draws < 1:
            raise ValueError(f"ParameterNoise: expected scale > 0 and num_draws >= 1, got scale={scale}, num_draws={num_draws}")
        self.scale = scale
        self.num_draws = num_draws
        self.seed = seed

    @property
    def models_beside(self) -> int:
        """As many as there are draws; see :class:`Evidence`."""
        return self.num_draws

    def raters(self, model: nn.Module) -> Generator[nn.Module, None, None]:
        """Yield the model with each draw of noise on its weights."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.num_draws):
            with _noisy_parameters(model, self.scale, generator):
                yield model

    def weigh(
        self,
        interactions: Interactions,
        threshold: float,
        *,
        prepared: Any = None,
        ratings: Sequence[Interactions] = (),
        counterpart: Interactions | None = None,
    ) -> EvidenceWeights:
        """Compare the model with its noisy selves; see :class:`Evidence`."""
        return shared_interactions(interactions, ratings, min_votes=self.num_draws, threshold=threshold)


def _varies(parameter: Tensor) -> bool:
    """Whether a tensor has two different values; sorting them would take longer than the noise."""
    if not parameter.numel():
        return False
    low, high = parameter.aminmax()
    return bool(low != high)


@contextmanager
def _noisy_parameters(model: nn.Module, scale: float, generator: torch.Generator) -> Iterator[None]:
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point() and _varies(parameter):
                    # Drawn on the CPU, so that every device sees the same noise.
                    noise = torch.randn(parameter.shape, generator=generator, device="cpu").to(parameter)
                    parameter.add_(scale * parameter.std(correction=0) * noise)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), kept, strict=True):
                parameter.copy_(value)
