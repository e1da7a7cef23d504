from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_interactions.game.players import FeatureGroups, ImagePatches, Players, TimeSegments, Tokens, default_players
from lightning_interactions.records import Rows


def ids(*shape: int) -> Tensor:
    return torch.randint(2, 90, shape, generator=torch.Generator().manual_seed(0))


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


LENGTHS = torch.tensor([7, 3, 5])
REAL = torch.arange(7) < LENGTHS[:, None]
ONES = torch.ones(3, 7, dtype=torch.long)
TEXT = ids(3, 7) * REAL
SERIES = floats(3, 7, 2) * REAL[..., None]

RIGHT: dict[str, tuple[Any, Players]] = {
    "image": (floats(3, 3, 7, 5), ImagePatches(3, 3)),
    "image, channels last": (floats(3, 7, 5, 3), ImagePatches(3, 3)),
    "bytes": (ids(3, 3, 7, 5).to(torch.uint8), ImagePatches(3, 3)),
    "volume": (floats(3, 1, 4, 5, 6), ImagePatches(2, 2, depth=2)),
    "image beside integers": ({"image": floats(3, 3, 7, 5), "at": ids(3, 3, 7, 5)}, ImagePatches(3, 3, leaf="image")),
    "table": (floats(3, 6), FeatureGroups()),
    "double table": (floats(3, 6).double(), FeatureGroups()),
    "table beside weights": ((floats(3), floats(3, 6)), FeatureGroups(leaf="1")),
    "numbers and categories": ({"x": floats(3, 6), "c": ids(3, 2)}, FeatureGroups(leaf=("x", "c"))),
    "categories and numbers": ((ids(3, 2), floats(3, 6)), FeatureGroups(leaf=("1", "0"))),
    "token ids": (ids(3, 7), Tokens()),
    "int32 token ids": (ids(3, 7).int(), Tokens()),
    "a batch of Hugging Face": (
        {"input_ids": TEXT, "attention_mask": REAL.long(), "token_type_ids": REAL.long() * 0},
        Tokens(leaf="input_ids", valid="attention_mask"),
    ),
    "the same in a tuple": ((TEXT, REAL.long(), ONES * 0), Tokens(leaf="0", valid="1")),
    "a full mask": ((TEXT, ONES), Tokens(leaf="0", valid="1")),
    "a mask of padding": ((TEXT, ~REAL), Tokens(leaf="0", padded="1")),
    "no padding": ((TEXT, ~ONES.bool()), Tokens(leaf="0", padded="1")),
    "a named mask of padding": ({"t": TEXT, "key_padding_mask": ~REAL}, Tokens(leaf="t", padded="key_padding_mask")),
    "padding on the left": ((ids(3, 7) * REAL.flip(1), REAL.flip(1)), Tokens(leaf="0", valid="1")),
    "lengths": ((TEXT, LENGTHS), Tokens(leaf="0", valid="1")),
    "series": (floats(3, 2, 7), TimeSegments(axis=2)),
    "series, time first": (floats(3, 7, 2), TimeSegments(axis=1)),
    "series with lengths": ({"x": SERIES, "lengths": LENGTHS}, TimeSegments(leaf="x", axis=1, valid="lengths")),
    "series with lengths in a tuple": ((SERIES, LENGTHS), TimeSegments(leaf="0", axis=1, valid="1")),
    "signals with lengths": ((floats(3, 7) * REAL, LENGTHS), TimeSegments(leaf="0", valid="1")),
    "a table beside numbers that are no lengths": ((floats(3, 7), LENGTHS), FeatureGroups(leaf="0")),
}

WRONG: dict[str, Any] = {
    "square series": floats(3, 4, 5),
    "video": floats(3, 8, 3, 16, 16),
    "numbers": floats(3),
    "flat bytes": ids(3, 7).to(torch.uint8),
    "booleans": REAL,
    "tiny image": floats(3, 1, 2, 2),
    "image and table": {"image": floats(3, 3, 7, 5), "table": floats(3, 6)},
    "two tables": (floats(3, 6), floats(3, 5)),
    "table and series": {"table": floats(3, 6), "series": floats(3, 4, 5)},
    "two texts": {"question": ids(3, 7), "answer": ids(3, 9)},
    "text with a mask and a table": {"ids": TEXT, "attention_mask": REAL, "table": floats(3, 4)},
}


@pytest.mark.parametrize(("inputs", "players"), RIGHT.values(), ids=list(RIGHT))
def test_players_are_inferred_where_that_is_safe(inputs: Any, players: Players) -> None:
    found = default_players(Rows.of(inputs))
    assert repr(found) == repr(players)
    rows = Rows.of(inputs)
    assert found.num_players(rows) == players.num_players(rows)
    assert repr(found) in found.summary(rows)


@pytest.mark.parametrize("inputs", WRONG.values(), ids=list(WRONG))
def test_other_inputs_get_the_error_that_names_the_setting(inputs: Any) -> None:
    with pytest.raises(ValueError, match=r"players: .*got .*; pass players=, such as .*leaf='.*, a task whose unpack"):
        default_players(Rows.of(inputs))


def test_several_candidates_are_named() -> None:
    with pytest.raises(ValueError, match=r"Tokens\(..., leaf='question'\) or Tokens\(..., leaf='answer'\)"):
        default_players(Rows.of(WRONG["two texts"]))
    with pytest.raises(ValueError, match=r"FeatureGroups\(..., leaf='table'\), or players of one of \['series'\]"):
        default_players(Rows.of(WRONG["table and series"]))
