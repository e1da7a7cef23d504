"""Players that the shapes and dtypes of the inputs suggest, where that is safe."""

from typing import Any

import torch
from torch import Tensor

from lightning_interactions.game.axes import COLOURS, longer_axis
from lightning_interactions.game.players.base import Players
from lightning_interactions.game.players.feature_groups import FeatureGroups
from lightning_interactions.game.players.image_patches import ImagePatches
from lightning_interactions.game.players.padding import MASKS_OF_PADDING, MASKS_OF_REAL, names_padding
from lightning_interactions.game.players.time_segments import TimeSegments
from lightning_interactions.game.players.tokens import Tokens
from lightning_interactions.records import Rows
from lightning_interactions.records.trees import describe_tree

__all__ = ["default_players"]

TOKEN_IDS = (torch.int16, torch.int32, torch.int64)
"""Bytes may be a flat image or a text."""


def default_players(inputs: Rows) -> Players:
    """Choose players by the shapes and dtypes of the inputs, where only one choice makes sense.

    =========================================================  ==============================
    tensor                                                     players
    =========================================================  ==============================
    floating-point or uint8 images, 4 axes                     3x3 patches
    floating-point or uint8 volumes, 5 axes                    2x2x2 patches
    floating-point table, 2 axes                               features, or 10 groups of them
    the same beside a table of integers                        features of both
    integers, 2 axes                                           10 words of token ids
    floating-point series, 3 axes, one at least twice as long  10 segments
    =========================================================  ==============================

    Masks of padding, lengths, token types and positions are no candidates: known by their names, or because everything that
    they leave out is equal.

    Raises:
        ValueError: If no tensor has default players, or several have.
    """
    only = len(inputs.leaves) == 1
    tellers = {name: told for name in inputs.leaves if (told := _told(inputs, name)) is not None}
    masks = {name for told in tellers.values() for name in told.values()}
    # Token types and the like are zeros and ones, too.
    masks |= {
        name
        for name, leaf in inputs.leaves.items()
        for told in tellers
        if name != told and _is_like_a_mask_of(inputs.leaves[told], leaf)
    }
    candidates = {
        name: players
        for name, leaf in inputs.leaves.items()
        if name not in masks
        and (only or not names_padding(name))
        and (players := _players(leaf, None if only else name, tellers.get(name, {}))) is not None
    }
    tables = [name for name, players in candidates.items() if isinstance(players, FeatureGroups)]
    texts = [name for name, players in candidates.items() if isinstance(players, Tokens)]
    if len(candidates) == 2 and len(tables) == len(texts) == 1 and texts[0] not in tellers:
        return FeatureGroups(leaf=(tables[0], texts[0]))
    unclear = [
        name
        for name, leaf in inputs.leaves.items()
        if name not in candidates
        and name not in masks
        and leaf.ndim > 1
        and (leaf.is_floating_point() or leaf.dtype == torch.uint8)
    ]
    if len(candidates) == 1 and not unclear:
        return next(iter(candidates.values()))
    got = describe_tree(inputs.tree)
    if candidates:
        kinds = [f"{type(players).__name__}(..., leaf={name!r})" for name, players in candidates.items()]
        raise ValueError(
            f"players: expected one tensor that may have players, got {got}; pass players=, such as {' or '.join(kinds)}"
            + (f", or players of one of {unclear}" if unclear else "")
            + ", and where others are no inputs, a task whose unpack(batch) leaves them out"
        )
    raise ValueError(
        "players: only images [inputs, channels, height, width], tables [inputs, features], token ids [inputs, positions] and "
        "series [inputs, channels, time] of which one axis is at least twice as long have default players, "
        f"got {got}; pass players=, such as players.TimeSegments(leaf='...', axis=2) or "
        "players.PointGroups(leaf='...'), and where the inputs are elsewhere in a batch, a task whose unpack(batch) finds them"
    )


def _players(leaf: Tensor, name: str | None, told: dict[str, Any]) -> Players | None:
    if 0 in leaf.shape[1:]:
        return None
    numbers = leaf.is_floating_point()
    if leaf.ndim == 4 and (numbers or leaf.dtype == torch.uint8):
        return _if_it_fits(ImagePatches(3, 3, leaf=name), leaf)
    # Of a video [inputs, time, channels, height, width] nobody has said what a player is.
    video = leaf.ndim == 5 and leaf.shape[2] in COLOURS and leaf.shape[1] not in COLOURS
    if leaf.ndim == 5 and not video and (numbers or leaf.dtype == torch.uint8):
        return _if_it_fits(ImagePatches(2, 2, depth=2, leaf=name), leaf)
    if leaf.ndim == 3 and numbers and (axis := longer_axis(leaf)) is not None:
        return TimeSegments(leaf=name, axis=axis, **told)
    if leaf.ndim == 2 and numbers:
        return TimeSegments(leaf=name, **told) if told else FeatureGroups(leaf=name)
    if leaf.ndim == 2 and leaf.dtype in TOKEN_IDS:
        return Tokens(leaf=name, **told)
    return None


def _if_it_fits(patches: ImagePatches, leaf: Tensor) -> ImagePatches | None:
    return patches if patches.fits(leaf) else None


def _told(inputs: Rows, name: str) -> dict[str, Any] | None:
    """Find the leaf that tells the padding of another one: by its name, or because all that it leaves out is equal."""
    leaf = inputs.leaves[name]
    if names_padding(name) or not (leaf.ndim == 2 or (leaf.ndim == 3 and leaf.is_floating_point())):
        return None
    axis = 1 if leaf.ndim == 2 else longer_axis(leaf)
    if axis is None or not leaf.numel():
        return None
    content = leaf if axis == 1 else leaf.transpose(1, 2)
    found = []
    for other, teller in inputs.leaves.items():
        if other == name or teller.is_complex():
            continue
        if _is_like_a_mask_of(leaf, teller):
            found += _mask(other, teller, content)
        elif teller.ndim == 1 and not teller.is_floating_point() and teller.dtype != torch.bool:
            positions = torch.arange(content.shape[1], device=teller.device)
            within = bool(((teller >= 1) & (teller <= content.shape[1])).all())
            if within and _leaves_out_one_value(positions < teller[:, None], content):
                found.append({"valid": other})
    return found[0] if len(found) == 1 else None


def _is_like_a_mask_of(leaf: Tensor, other: Tensor) -> bool:
    """Say whether a tensor consists of zeros and ones, one for each position."""
    if leaf.ndim not in (2, 3) or other.is_complex():
        return False
    positions = leaf.shape[1 if leaf.ndim == 2 else longer_axis(leaf) or 1]
    return other.shape == (len(leaf), positions) and bool(((other == 0) | (other == 1)).all())


def _mask(name: str, mask: Tensor, content: Tensor) -> list[dict[str, str]]:
    if name.rpartition(".")[2].lower() in MASKS_OF_PADDING:
        return [{"padded": name}]
    if name.rpartition(".")[2].lower() in MASKS_OF_REAL:
        return [{"valid": name}]
    if names_padding(name) and not name.endswith("mask"):
        return []
    ways = {"valid": mask.bool(), "padded": ~mask.bool()}
    if mask.dtype != torch.bool and not mask.any():
        del ways["padded"]  # Token types, most likely.
    fitting = [{way: name} for way, real in ways.items() if _is_at_an_end(~real) and _leaves_out_one_value(real, content)]
    return fitting if len(fitting) == 1 else []


def _is_at_an_end(padding: Tensor) -> bool:
    """Say whether the padding of every row is at its beginning, or of every row at its end."""
    steps = padding.long().diff(dim=1)
    return bool((steps >= 0).all()) or bool((steps <= 0).all())


def _leaves_out_one_value(real: Tensor, content: Tensor) -> bool:
    """Say whether whatever is not real is equal, and no mask of which nothing is real."""
    left_out = content.flatten(2)[~real] if content.ndim == 3 else content[~real][:, None]
    return bool((left_out == left_out[:1]).all()) and bool(real.any(dim=1).all())
