"""Games with known answers, and tables of values to try the extraction on. All tables are float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from lightning_interactions.records import Interactions


@dataclass(frozen=True)
class PlantedGame:
    """Values that are a known sum of a few AND and OR effects, plus noise.

    Attributes:
        values: ``[1, coalitions]``.
        interactions: The planted effects of the one input; most entries are zero.
    """

    values: Float[Tensor, "1 coalitions"]
    interactions: Interactions


def planted_game(num_players: int, num_and: int, num_or: int, noise: float, generator: Generator) -> PlantedGame:
    """Plant AND and OR effects of random sets.

    The sets are distinct and have at least two players each, because a single player's OR is its AND. Effect sizes are
    uniform in [0.5, 2] with random signs, so each of them is salient.

    Args:
        num_players: Number of players ``n``.
        num_and: Number of AND effects.
        num_or: Number of OR effects.
        noise: Standard deviation of the Gaussian noise on each of the ``2^n`` values.
        generator: Source of randomness.

    Returns:
        Values and the planted effects.
    """
    coalitions = torch.arange(2**num_players)
    candidates = torch.tensor([s for s in range(2**num_players) if s.bit_count() >= 2])
    sets = candidates[torch.randperm(len(candidates), generator=generator)[: num_and + num_or]]
    sizes = 0.5 + 1.5 * torch.rand(len(sets), generator=generator, dtype=torch.float64)
    signs = 2 * torch.randint(2, (len(sets),), generator=generator) - 1
    effects = torch.zeros(2, len(coalitions), dtype=torch.float64)
    values = noise * torch.randn(len(coalitions), generator=generator, dtype=torch.float64)
    for position, (players, effect) in enumerate(zip(sets, sizes * signs, strict=True)):
        is_and = position < num_and
        common = coalitions & players
        values += effect * (common == players if is_and else common != 0)
        effects[0 if is_and else 1, players] = effect
    planted = Interactions(effects[None], torch.zeros(1, dtype=torch.float64))
    return PlantedGame(values[None], planted)


def random_tables(num_players: int, num_inputs: int, generator: Generator) -> Float[Tensor, "inputs coalitions"]:
    """Draw independent standard normal values: the least sparse tables there are."""
    return torch.randn(num_inputs, 2**num_players, generator=generator, dtype=torch.float64)


def random_network_tables(
    num_players: int, num_inputs: int, generator: Generator, width: int = 32
) -> Float[Tensor, "inputs coalitions"]:
    """Evaluate one random ReLU network on every masked version of random inputs, one feature a player.

    Args:
        num_players: Number of players, which is the number of features.
        num_inputs: Number of inputs.
        generator: Source of randomness.
        width: Width of the two hidden layers.

    Returns:
        Values of shape ``[inputs, 2^n]``.
    """

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    masks = (torch.arange(2**num_players)[:, None] >> torch.arange(num_players)) & 1
    hidden = gaussian(num_inputs, 1, num_players) * masks
    for fan_in in (num_players, width):
        hidden = (hidden @ gaussian(fan_in, width) * (2 / fan_in) ** 0.5 + 0.5 * gaussian(width)).relu()
    return hidden @ gaussian(width) / width**0.5


@st.composite
def integer_tables(
    draw: st.DrawFn, num_inputs: int = 1, min_players: int = 1, max_players: int = 5
) -> Float[Tensor, "inputs coalitions"]:
    """Draw tables of small integers in float64, on which alternating sums are exact.

    Args:
        draw: Given by hypothesis.
        num_inputs: Number of rows.
        min_players: Smallest number of players.
        max_players: Largest number of players.

    Returns:
        Values of shape ``[inputs, 2^n]``.
    """
    num_players = draw(st.integers(min_players, max_players))
    row = st.lists(st.integers(-1000, 1000), min_size=2**num_players, max_size=2**num_players)
    return torch.tensor(draw(st.lists(row, min_size=num_inputs, max_size=num_inputs)), dtype=torch.float64)


def permute_players(
    table: Float[Tensor, "*batch coalitions"], permutation: Sequence[int]
) -> Float[Tensor, "*batch coalitions"]:
    """Rename players: player ``i`` of the result is player ``permutation[i]`` of the table.

    Args:
        table: Any numbers, one for each coalition along the last axis.
        permutation: Every player once.

    Returns:
        The same numbers in another order.
    """
    num_coalitions = table.shape[-1]
    renamed = [sum(1 << player for i, player in enumerate(permutation) if index >> i & 1) for index in range(num_coalitions)]
    return table[..., renamed]


def recovered(
    planted: Float[Tensor, "types coalitions"], extracted: Float[Tensor, "types coalitions"]
) -> Bool[Tensor, " planted"]:
    """Say for each salient planted effect whether it came back.

    Args:
        planted: Planted effects of one input; salient are those above 5 % of the largest.
        extracted: Extracted effects of the same input.

    Returns:
        True where the extracted effect has the same sign and is off by at most 5 % of the largest planted effect.
    """
    tolerated = 0.05 * planted.abs().max()
    hit = (planted.sign() == extracted.sign()) & ((extracted - planted).abs() <= tolerated)
    return hit[planted.abs() > tolerated]


def salient_jaccard(first: Interactions, second: Interactions, threshold: float = 0.05) -> Float[Tensor, " inputs"]:
    """Compare two sets of salient interactions of the same inputs: intersection over union.

    Args:
        first: Interactions.
        second: Other interactions of the same inputs.
        threshold: Salience threshold, a fraction of the largest effect.

    Returns:
        One number in [0, 1] for each input.
    """
    salient = [
        interactions.effects.abs() > threshold * interactions.effects.abs().amax(dim=(1, 2), keepdim=True)
        for interactions in (first, second)
    ]
    return (salient[0] & salient[1]).sum(dim=(1, 2)) / (salient[0] | salient[1]).sum(dim=(1, 2))


@dataclass(frozen=True)
class ManyPlayerGame:
    """A known sum of a few AND and OR effects of players that are too many to list all coalitions.

    Attributes:
        players: ``[interactions, players]``, the sets; distinct.
        is_or: ``[interactions]``; false for single players.
        effects: ``[interactions]``.
    """

    players: Bool[Tensor, "interactions players"]
    is_or: Bool[Tensor, " interactions"]
    effects: Float[Tensor, " interactions"]

    def values(self, masks: Bool[Tensor, "coalitions players"]) -> Float[Tensor, " coalitions"]:
        """Evaluate the game set by set."""
        values = torch.zeros(len(masks), dtype=torch.float64)
        for players, is_or, effect in zip(self.players, self.is_or, self.effects, strict=True):
            present = masks[:, players]
            values += effect * (present.any(dim=1) if is_or else present.all(dim=1))
        return values


def many_player_game(num_players: int, num_and: int, num_or: int, max_order: int, generator: Generator) -> ManyPlayerGame:
    """Plant AND and OR effects of random sets whose sizes are uniform in 1 … max_order; ORs have at least two players.

    Effect sizes are uniform in [0.5, 2] with random signs.
    """
    is_or = torch.arange(num_and + num_or) >= num_and
    low = 1 + is_or.long()
    sizes = low + (torch.rand(len(is_or), generator=generator) * (max_order - low + 1)).long()
    ranks = torch.rand(len(is_or), num_players, generator=generator).argsort(dim=1).argsort(dim=1)
    signs = 2 * torch.randint(2, (len(is_or),), generator=generator) - 1
    effects = (0.5 + 1.5 * torch.rand(len(is_or), generator=generator, dtype=torch.float64)) * signs
    return ManyPlayerGame(ranks < sizes[:, None], is_or, effects)
