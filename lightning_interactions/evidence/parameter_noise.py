"""Evidence from the run alone: interactions that survive noise in the parameters."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_interactions.evidence.base import InteractionsOf, Judge
from lightning_interactions.functional.generalization import shared_interactions
from lightning_interactions.records import Interactions, Verdict

__all__ = ["ParameterNoise"]


@dataclass(frozen=True)
class ParameterNoise:
    """An interaction generalizes if it keeps salience and sign under every draw of noise on the weights.

    Each draw adds Gaussian noise to every weight tensor, with a fraction of that tensor's own standard deviation; tensors
    of one element or of constant value stay. The draws are the same at every measurement, and the weights come back
    bit by bit. The chance level is what the noisy selves share of an interaction on other inputs.

    Attributes:
        scale: Standard deviation of the noise as a fraction of the tensor's population standard deviation.
        num_draws: Number of independent draws; each costs as much as the measurement itself.
        seed: Seed of the draws.

    Raises:
        ValueError: If ``scale`` is not positive or ``num_draws`` smaller than 1.

    Source:
        Ren et al. 2024 (arXiv 2407.19198): noise in the parameters suppresses high-order interactions. The verdict is our
        own.
    """

    scale: float = 0.6
    num_draws: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that add no noise."""
        if not 0 < self.scale < math.inf or self.num_draws < 1:
            raise ValueError(
                f"ParameterNoise: expected scale > 0 and num_draws >= 1, got scale={self.scale}, num_draws={self.num_draws}"
            )

    def prepare(
        self,
        interactions_of: InteractionsOf,
        threshold: float,
        for_other_targets: Sequence[InteractionsOf] = (),
        inputs: Tensor | None = None,
    ) -> Judge:
        """Return a judge that compares the model with its noisy selves; see :class:`Evidence`."""

        def judge(model: nn.Module, interactions: Interactions, _counterpart: Interactions | None = None) -> Verdict:
            generator = torch.Generator().manual_seed(self.seed)
            noisy = []
            for _ in range(self.num_draws):
                with _noisy_parameters(model, self.scale, generator):
                    noisy.append(interactions_of(model))
            return shared_interactions(interactions, noisy, min_votes=self.num_draws, threshold=threshold)

        return judge


@contextmanager
def _noisy_parameters(model: nn.Module, scale: float, generator: torch.Generator) -> Iterator[None]:
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point() and len(parameter.unique()) > 1:
                    # Drawn on the CPU, so that every device sees the same noise.
                    noise = torch.randn(parameter.shape, generator=generator, device="cpu").to(parameter)
                    parameter.add_(scale * parameter.std(correction=0) * noise)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), kept, strict=True):
                parameter.copy_(value)
