"""Interactions in the form of other packages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lightning_interactions.functional.coalitions import infer_num_players
from lightning_interactions.records import EFFECT_TYPES, Interactions

if TYPE_CHECKING:
    from shapiq import InteractionValues

__all__ = ["from_shapiq", "to_shapiq"]

INDEX = "Moebius"
"""What shapiq calls Harsanyi dividends: AND effects. It has no name for OR effects."""


def to_shapiq(interactions: Interactions, effect_type: str) -> "list[InteractionValues]":
    """Convert one type of effects to shapiq's ``InteractionValues``, for its plots and indices.

    Args:
        interactions: AND and OR effects of some inputs.
        effect_type: ``"and"`` or ``"or"``. AND effects are Möbius coefficients in shapiq, too; OR effects keep their sets
            and strengths, but shapiq takes every set for an AND.

    Returns:
        One object for each input, with the effects that are not zero; the offset goes with the AND effects.

    Raises:
        ValueError: If there is no such type of effect.
        ImportError: If shapiq is not installed: ``pip install 'shapiq>=1.3'``.
    """
    if effect_type not in EFFECT_TYPES:
        raise ValueError(f"to_shapiq: expected an effect type among {EFFECT_TYPES}, got {effect_type!r}")
    try:
        from shapiq import InteractionValues
    except ImportError as error:
        raise ImportError("to_shapiq: shapiq is not installed; pip install 'shapiq>=1.3'") from error

    effects = interactions.effects[:, EFFECT_TYPES.index(effect_type)].double().cpu()
    num_players = infer_num_players(effects.shape[-1])
    converted = []
    for row, offset in zip(effects, interactions.offset.tolist(), strict=True):
        found = row.nonzero().flatten().tolist()
        players = [tuple(player for player in range(num_players) if coalition >> player & 1) for coalition in found]
        baseline = offset if effect_type == "and" else 0.0
        converted.append(
            InteractionValues(
                {(): baseline, **dict(zip(players, row[found].tolist(), strict=True))},
                index=INDEX,
                min_order=0,
                max_order=num_players,
                n_players=num_players,
                estimated=False,
                baseline_value=baseline,
            )
        )
    return converted


def from_shapiq(
    and_values: "Sequence[InteractionValues]", or_values: "Sequence[InteractionValues] | None" = None
) -> Interactions:
    """Convert shapiq's ``InteractionValues`` back.

    Args:
        and_values: Möbius coefficients of each input, taken as AND effects; their empty sets are the offsets.
        or_values: OR effects of each input, as :func:`to_shapiq` made them; none if left out.

    Returns:
        Interactions in float64.

    Raises:
        ValueError: If there are no inputs, the numbers of inputs or players differ, or the values are no Möbius coefficients.
    """
    or_values = or_values or ()
    players = {values.n_players for values in (*and_values, *or_values)}
    if len(players) != 1 or len(or_values) not in (0, len(and_values)):
        raise ValueError(
            f"from_shapiq: expected values of the same number of players for each input, got {len(and_values)} inputs with AND "
            f"and {len(or_values)} with OR effects, and players {sorted(players)}"
        )
    indices = {values.index for values in (*and_values, *or_values)}
    if indices != {INDEX}:
        raise ValueError(
            f"from_shapiq: expected Möbius coefficients (index {INDEX!r}), got {sorted(indices)}; other indices mix the "
            "effects of many sets"
        )
    effects = torch.zeros(len(and_values), len(EFFECT_TYPES), 2 ** players.pop(), dtype=torch.float64)
    for by_type, inputs in zip(effects.unbind(dim=1), (and_values, or_values), strict=True):
        for row, values in zip(by_type, inputs, strict=False):
            for members, effect in values.interactions.items():
                row[sum(2**player for player in members)] = float(effect)
    offset = effects[:, :, 0].sum(dim=1)
    effects[:, :, 0] = 0
    return Interactions(effects, offset)
