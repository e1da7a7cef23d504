"""What the theory of the second phase says of a run."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

__all__ = ["SecondPhase"]


@dataclass(frozen=True)
class SecondPhase:
    """Real strength by order beside the strength that learning under parameter noise predicts, in hindsight.

    The last axis is indexed by the order itself, 0 to n; order 0 is always zero.

    Attributes:
        variance: ``[times]``; the noise variance ``σ²`` whose prediction is closest to each time's strength. 0 predicts the
            final interactions, infinity none at all.
        predicted: ``[times, orders]``, score units; strength of the predicted interactions, mean over inputs.
        strength: ``[times, orders]``, score units; real strength, mean over inputs.
        r_squared: ``[times]``; part of the real strength's variance over orders from 1 on that the prediction explains.
            Negative where a constant would be closer, NaN where the strength does not vary.
    """

    variance: Float[Tensor, " times"]
    predicted: Float[Tensor, "times orders"]
    strength: Float[Tensor, "times orders"]
    r_squared: Float[Tensor, " times"]
