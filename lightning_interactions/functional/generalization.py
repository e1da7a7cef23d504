"""Which interactions generalize, what share of the strength they hold, and how much of the loss gap the others explain."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from lightning_interactions.functional.strength import salient_mask
from lightning_interactions.records import EvidenceWeights, Interactions

__all__ = [
    "RaterVotes",
    "above_chance",
    "cross_entropy_from_log_odds",
    "explained_score",
    "shared_interactions",
    "strength_share",
    "votes_by_chance",
    "weights_from_votes",
]

CHANCE_SHIFTS = 31
"""At most this many pairings with other inputs go into a chance level; all of them at the default 32 probes."""


@dataclass(frozen=True, eq=False)
class RaterVotes:
    """Which interactions raters have: models other than the monitored one, on the same inputs. Computed once for a run.

    Attributes:
        signs: ``[raters, inputs, types, coalitions]``; sign of each effect that is salient in that rater, 0 of the others.
        finite: ``[inputs]``; whether all effects of all raters are finite. Other inputs cannot be judged.
    """

    signs: Int8[Tensor, "raters inputs types coalitions"]
    finite: Bool[Tensor, " inputs"]

    @classmethod
    def of(cls, raters: Sequence[Interactions], threshold: float) -> "RaterVotes":
        """Collect the votes of raters.

        Args:
            raters: The raters' interactions of the same inputs, each salient by its own maximum.
            threshold: Salience threshold ``τ`` of the raters.

        Raises:
            ValueError: If there are no raters, or the threshold is outside [0, 1).
        """
        if not raters:
            raise ValueError("RaterVotes: expected at least one rater, got none")
        signs = [(rater.effects.sign() * salient_mask(rater, threshold)).nan_to_num_().to(torch.int8) for rater in raters]
        finite = [rater.effects.isfinite().all(dim=(1, 2)) for rater in raters]
        return cls(torch.stack(signs), torch.stack(finite).all(dim=0))

    def __len__(self) -> int:
        return len(self.signs)

    def to(self, device: torch.device) -> "RaterVotes":
        """Move to a device."""
        return RaterVotes(self.signs.to(device), self.finite.to(device))

    def roll(self, shift: int) -> "RaterVotes":
        """Give every input the votes on the input some places before it, in a circle."""
        return RaterVotes(self.signs.roll(shift, dims=1), self.finite.roll(shift))


def votes_by_chance(
    raters: Sequence[Interactions], draws: Sequence[Sequence[Interactions]], threshold: float
) -> tuple[RaterVotes, ...]:
    """Collect what raters would vote for if they knew nothing of an input's target.

    Args:
        raters: The raters' interactions.
        draws: The raters' interactions of the same inputs with another target, one list as long as ``raters`` for each draw.
        threshold: Salience threshold ``τ`` of the raters.

    Returns:
        The votes of each draw. None if all draws equal the raters' own interactions: then the score does not depend on targets.

    Raises:
        ValueError: If a draw does not have as many raters, or the threshold is outside [0, 1).
    """
    if any(len(draw) != len(raters) for draw in draws):
        raise ValueError(
            f"votes_by_chance: expected {len(raters)} raters in each draw, got {sorted({len(draw) for draw in draws})}"
        )
    pairs = [pair for draw in draws for pair in zip(draw, raters, strict=True)]
    if all(torch.allclose(drawn.effects, own.effects, equal_nan=True) for drawn, own in pairs):
        return ()
    return tuple(RaterVotes.of(draw, threshold) for draw in draws)


def weights_from_votes(
    interactions: Interactions, votes: RaterVotes, *, min_votes: int, by_chance: Sequence[RaterVotes] = ()
) -> EvidenceWeights:
    """Call the interactions generalizable that enough raters share: salient on the same input, of the same type and sign.

    Args:
        interactions: The monitored model's interactions.
        votes: The raters' votes on the same inputs.
        min_votes: How many raters must share an interaction for it to count as generalizable.
        by_chance: The raters' votes for other targets, from :func:`votes_by_chance`.

    Returns:
        Weights 0 or 1, and chance weights: how often the same interaction would be called generalizable by the raters on
        *other* inputs, over up to 31 cyclic pairings (NaN for a single input, which has no others), or on draws for other
        targets, whichever calls more strength generalizable in all. Where a rater's effects are NaN, the input cannot
        be judged: its weights are NaN, and it is in no draw and no pairing.

    Raises:
        ValueError: If ``min_votes`` is not between 1 and the number of raters.

    Source:
        He et al. 2025 (arXiv 2505.06993), generalizable interactions (any vote). The chance level is our own.
    """
    if not 1 <= min_votes <= len(votes):
        raise ValueError(f"weights_from_votes: expected min_votes between 1 and the {len(votes)} raters, got {min_votes}")
    effects = interactions.effects
    sign = effects.sign().nan_to_num_().to(torch.int8)
    # No rater votes for 2, so what is zero in the monitored model gets no votes.
    sign.masked_fill_(sign == 0, 2)
    votes = votes.to(sign.device)

    def shared(drawn: RaterVotes) -> Bool[Tensor, "inputs types coalitions"]:
        count = torch.zeros_like(sign, dtype=torch.int16)
        for of_rater in drawn.signs:
            count += of_rater == sign
        return count >= min_votes

    def frequency(draws: Iterable[RaterVotes]) -> Float[Tensor, "inputs types coalitions"]:
        hits, num_draws = torch.zeros_like(sign, dtype=torch.int16), torch.zeros_like(votes.finite, dtype=torch.int16)
        for drawn in draws:
            hits += shared(drawn) & drawn.finite[:, None, None]
            num_draws += drawn.finite
        return hits.to(effects) / num_draws.to(effects)[:, None, None]

    weights = shared(votes).to(effects).masked_fill_(~votes.finite[:, None, None], torch.nan)
    chance_weights = frequency(map(votes.roll, _pairings(len(interactions))))
    if by_chance:
        magnitude = effects.abs()
        drawn = frequency(drawn.to(sign.device) for drawn in by_chance)
        if (magnitude * drawn).nansum() >= (magnitude * chance_weights).nansum():
            chance_weights = drawn
    return EvidenceWeights(weights, chance_weights)


def shared_interactions(
    interactions: Interactions,
    others: Sequence[Interactions],
    *,
    min_votes: int = 1,
    threshold: float = 0.05,
    others_by_chance: Sequence[Sequence[Interactions]] = (),
) -> EvidenceWeights:
    """Judge interactions by whether other models have them too, on the same input, of the same type and sign.

    Does all at once; for many measurements with the same raters collect their votes once, with :class:`RaterVotes` and
    :func:`votes_by_chance`, and call :func:`weights_from_votes`.

    Args:
        interactions: The monitored model's interactions.
        others: The raters' interactions of the same inputs, each salient by its own maximum.
        min_votes: How many raters must share a salient interaction for it to count as generalizable.
        threshold: Salience threshold ``τ`` of the raters.
        others_by_chance: The raters' interactions of the same inputs with another target; see :func:`votes_by_chance`.

    Returns:
        Weights and chance weights; see :func:`weights_from_votes`.

    Raises:
        ValueError: If there are no raters, ``min_votes`` is not between 1 and their number, or the threshold is outside
            [0, 1).

    Source:
        He et al. 2025 (arXiv 2505.06993), generalizable interactions (any vote).
    """
    votes, by_chance = RaterVotes.of(others, threshold), votes_by_chance(others, others_by_chance, threshold)
    return weights_from_votes(interactions, votes, min_votes=min_votes, by_chance=by_chance)


def strength_share(generalizable: Float[Tensor, " inputs"], salient: Float[Tensor, " inputs"]) -> Float[Tensor, ""]:
    """Compute the share ``ρ = G / (G + U)``, a ratio of sums over inputs; NaN if there is no salient strength.

    Args:
        generalizable: Generalizable strength of each input.
        salient: Salient strength of each input.

    Returns:
        A scalar in [0, 1].
    """
    return generalizable.sum() / salient.sum()


def above_chance(share: Float[Tensor, "*resamples"], chance: Float[Tensor, "*resamples"]) -> Float[Tensor, "*resamples"]:
    """Rescale a share so that its chance level is 0 and a full share is 1: ``(share - chance) / (1 - chance)``."""
    return (share - chance) / (1 - chance)


def explained_score(
    full_score: Float[Tensor, " inputs"],
    interactions: Interactions,
    salient: Bool[Tensor, "inputs types coalitions"],
    weights: Float[Tensor, "inputs types coalitions"],
) -> Float[Tensor, " inputs"]:
    """Take the salient non-generalizable interactions out of the score: ``v′ = v(N) - Σ (1 - w) I``.

    On the whole input every interaction counts, so the sum is over all of them.

    Args:
        full_score: ``v(N)`` of each input.
        interactions: AND and OR effects.
        salient: Which of them are salient.
        weights: How far each is generalizable.

    Returns:
        Scores of shape ``[inputs]``.
    """
    return full_score - (interactions.effects * salient * (1 - weights)).sum(dim=(1, 2))


def cross_entropy_from_log_odds(score: Float[Tensor, " inputs"]) -> Float[Tensor, " inputs"]:
    """Return the cross-entropy of each input in nats: exactly ``softplus(-v)`` where ``v`` is the target's log-odds."""
    return torch.nn.functional.softplus(-score)


def _pairings(num_inputs: int) -> list[int]:
    """Up to 31 evenly spaced shifts of a circle of inputs, each of which pairs every input with another one."""
    num_shifts = min(num_inputs - 1, CHANCE_SHIFTS)
    return [1 + k * (num_inputs - 1) // num_shifts for k in range(num_shifts)]
