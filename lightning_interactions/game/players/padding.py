"""Which positions of a sequence are real, as lengths and masks beside it say."""

import torch
from jaxtyping import Bool
from torch import Tensor

from lightning_interactions.records import Rows
from lightning_interactions.records.trees import describe_tree

__all__ = ["MASKS_OF_PADDING", "MASKS_OF_REAL", "check_positions", "names_padding", "real_positions"]

LENGTHS = {
    "length", "lengths", "lens", "seq_len", "seq_lens", "seq_length", "seq_lengths", "sequence_length", "sequence_lengths",
    "input_length", "input_lengths", "num_points", "num_frames",
}  # fmt: skip
MASKS_OF_REAL = {"attention_mask", "attn_mask", "valid_mask"}
MASKS_OF_PADDING = {"key_padding_mask", "src_key_padding_mask", "padding_mask", "pad_mask"}
OTHERS = {"token_type_ids", "position_ids", "special_tokens_mask", "mask", "src_mask", "segment_ids"}


def names_padding(name: str) -> bool:
    """Say whether a leaf's name says that it tells something about another leaf, such as where its padding is."""
    return _last(name) in LENGTHS | MASKS_OF_REAL | MASKS_OF_PADDING | OTHERS


def real_positions(
    inputs: Rows, positions: int, valid: str | None, padded: str | None, *, of: str = ""
) -> Bool[Tensor, "inputs positions"] | None:
    """Find out which positions of each row are real.

    Args:
        inputs: Some rows.
        positions: Number of positions.
        valid: Name of the leaf of lengths ``[inputs]`` (absolute, or relative as floating-point numbers up to 1) or of the
            mask ``[inputs, positions]`` that is 1 or true at real positions; found by its usual names if left out.
        padded: Name of the mask that is true at padding; found by its usual names if left out.
        of: Name of the leaf with the positions: what stands beside it in the same container is looked at.

    Returns:
        True at real positions; ``None`` where nothing is known.

    Raises:
        ValueError: If a leaf that is named is not there or does not have such a shape.
    """
    if valid is None and padded is None:
        valid, padded = _found(inputs, positions, of)
    name = padded if valid is None else valid
    if name is None:
        return None
    leaf = inputs.leaves.get(name)
    if leaf is None or not _tells(leaf, positions, len(inputs)):
        raise ValueError(
            f"players: expected lengths [inputs] or a mask [inputs, {positions}] named {name!r}, got "
            f"{describe_tree(inputs.tree)}"
        )
    if leaf.ndim == 2:
        return leaf.bool() if padded is None else ~leaf.bool()
    lengths = (leaf * positions).round() if leaf.is_floating_point() else leaf
    return torch.arange(positions, device=leaf.device) < lengths[:, None]


def check_positions(valid: str | None, padded: str | None) -> None:
    """Refuse two leaves that tell the same.

    Raises:
        ValueError: If both are given.
    """
    if valid is not None and padded is not None:
        raise ValueError(f"players: expected one of valid= and padded=, got {valid!r} and {padded!r}")


def _found(inputs: Rows, positions: int, of: str) -> tuple[str | None, str | None]:
    folder = of.rpartition(".")[0]
    beside = [name for name, leaf in inputs.leaves.items() if name != of and _tells(leaf, positions, len(inputs))]
    beside = [name for name in beside if name.rpartition(".")[0] == folder] or beside
    for names, padding in ((MASKS_OF_REAL, False), (MASKS_OF_PADDING, True), (LENGTHS, False)):
        fitting = [name for name in beside if _last(name) in names]
        if len(fitting) == 1:
            return (None, fitting[0]) if padding else (fitting[0], None)
    return None, None


def _tells(leaf: Tensor, positions: int, rows: int) -> bool:
    return leaf.shape in ((rows,), (rows, positions))


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()
