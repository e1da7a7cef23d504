"""What all kinds of players have in common, each on inputs of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.players import (
    AtRandom,
    CustomPlayers,
    Evenly,
    FeatureGroups,
    ImagePatches,
    Players,
    PointGroups,
    Some,
    TimeSegments,
    Tokens,
)
from lightning_interactions.records import Rows
from tests.game.players.vocabularies import WORD_PIECE

ROWS = 4


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def integers(*shape: int, low: int = 1, high: int = 13) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(1))


LENGTHS = torch.tensor([9, 3, 1, 7])
MASK = (torch.arange(9) < LENGTHS[:, None]).long()
IDS = integers(ROWS, 9) * MASK
PAIRS = torch.arange(9).expand(ROWS, -1) // 2

CASES: dict[str, tuple[Players, Any]] = {
    "images": (ImagePatches(2, 2), random(ROWS, 3, 7, 5)),
    "channels last": (ImagePatches(2, 3), random(ROWS, 7, 5, 3)),
    "no channels": (ImagePatches(2, 3, channels="none"), random(ROWS, 7, 5)),
    "volumes": (ImagePatches(2, 1, depth=3), random(ROWS, 1, 4, 5, 6)),
    "volumes, channels last": (ImagePatches(1, 2, depth=2), random(ROWS, 5, 4, 6, 3)),
    "bytes": (ImagePatches(2, 2), integers(ROWS, 3, 6, 6, high=256).to(torch.uint8)),
    "features": (FeatureGroups(), random(ROWS, 6)),
    "features of two tables": (FeatureGroups(leaf=("x", "c")), {"x": random(ROWS, 3), "c": integers(ROWS, 2)}),
    "one-hot": (FeatureGroups(one_hot=[[1, 4], [2, 3]]), random(ROWS, 6)),
    "groups": (FeatureGroups({"a": [0, 3], "b": [1, 2, 4]}, ("x", "c")), {"x": random(ROWS, 3), "c": integers(ROWS, 2)}),
    "tokens": (Tokens(4), IDS),
    "tokens with a mask": (Tokens(4, choice=Evenly()), {"input_ids": IDS, "attention_mask": MASK}),
    "tokens of a tokenizer": (Tokens(3, tokenizer=WORD_PIECE, stop_words=["the"]), {"input_ids": IDS, "attention_mask": MASK}),
    "embeddings": (Tokens(3, words="words"), {"x": random(ROWS, 9, 5), "words": PAIRS, "lengths": LENGTHS}),
    "series": (TimeSegments(4), random(ROWS, 2, 9)),
    "series, time first": (TimeSegments(4), {"x": random(ROWS, 9, 2), "lengths": LENGTHS}),
    "signals": (TimeSegments(4), {"x": random(ROWS, 9), "key_padding_mask": ~MASK.bool()}),
    "points": (PointGroups(4), random(ROWS, 12, 3)),
    "points last": (PointGroups(4), {"x": random(ROWS, 3, 9), "lengths": LENGTHS}),
    "a function": (CustomPlayers(lambda _x: torch.arange(6) % 3 - 1, 2), random(ROWS, 4, 6)),
    "a function of rows": (CustomPlayers(lambda x: (x > 0).long() - (x > 1).long() * 2, 2), random(ROWS, 8)),
    "some patches": (Some(ImagePatches(3, 3), 4), random(ROWS, 3, 7, 5)),
    "some features": (Some(FeatureGroups(leaf=("x", "c")), 3, AtRandom(5)), {"x": random(ROWS, 3), "c": integers(ROWS, 2)}),
    "some of fewer": (Some(FeatureGroups(), 5), random(ROWS, 3)),
    "some clusters": (Some(PointGroups(6), 2, Evenly()), random(ROWS, 12, 3)),
}  # fmt: skip

KINDS = pytest.mark.parametrize(("players", "inputs"), [(one, Rows.of(tree)) for one, tree in CASES.values()], ids=list(CASES))


def no_value(inputs: Rows, players: Players) -> dict[str, Tensor]:
    """Return baseline values that no input has."""
    leaves = {name: inputs.leaves[name] for name in players.leaves(inputs)}
    return {name: leaf.new_tensor(0 if leaf.dtype == torch.uint8 else 77) for name, leaf in leaves.items()}


def owners(players: Players, inputs: Rows) -> dict[str, Tensor]:
    """Find out by masking one player at a time which player every entry belongs to; -1 for nobody."""
    number = players.num_players(inputs)
    baseline = no_value(inputs, players)
    found = {name: torch.full(inputs.leaves[name].shape, -1) for name in baseline}
    for player in range(number):
        stay = (torch.arange(number) != player).expand(len(inputs), -1)
        masked = players.mask(inputs, stay, baseline)
        for name, own in found.items():
            changed = masked.leaves[name] != inputs.leaves[name]
            assert (own[changed] == -1).all()
            assert (masked.leaves[name][changed] == baseline[name]).all()
            own[changed] = player
    return found


def test_the_cases_have_no_baseline_value() -> None:
    for players, tree in CASES.values():
        inputs = Rows.of(tree)
        for name, value in no_value(inputs, players).items():
            assert not (inputs.leaves[name] == value).any()


@KINDS
def test_players_are_counted_named_and_said(players: Players, inputs: Rows) -> None:
    number = players.num_players(inputs)
    assert number >= 2
    assert players.num_players(inputs.select([0])) == number
    assert len(set(players.names(inputs))) == number
    assert str(number) in players.summary(inputs)
    assert " at 0x" not in repr(players)


@KINDS
def test_masking_is_the_entry_by_entry_choice(players: Players, inputs: Rows) -> None:
    number, of_entries = players.num_players(inputs), owners(players, inputs)
    assert any(bool((own >= 0).any()) for own in of_entries.values())
    baseline = no_value(inputs, players)
    coalitions = coalition_masks(number)[:: max(1, 2**number // 17)]
    rows = torch.arange(len(coalitions)) % len(inputs)
    masked = players.mask(inputs.select(rows), coalitions, baseline)
    for name, leaf in inputs.leaves.items():
        if name not in of_entries:
            assert torch.equal(masked.leaves[name], leaf[rows])
            continue
        assert masked.leaves[name].dtype == leaf.dtype
        for place, row in enumerate(rows.tolist()):
            stays = torch.cat([coalitions[place], torch.ones(1, dtype=torch.bool)])[of_entries[name][row]]
            assert torch.equal(masked.leaves[name][place], torch.where(stays, leaf[row], baseline[name]))


@KINDS
def test_rows_are_masked_alike_whatever_is_beside_them(players: Players, inputs: Rows) -> None:
    together = owners(players, inputs)
    order = [2, 0, 3, 3, 1]
    others = owners(players, inputs.select(order))
    for name, own in together.items():
        assert torch.equal(others[name], own[order])
        for row in range(len(inputs)):
            assert torch.equal(owners(players, inputs.select([row]))[name], own[row : row + 1])


@KINDS
def test_prepared_masking_gives_the_same(players: Players, inputs: Rows) -> None:
    number = players.num_players(inputs)
    coalitions = torch.rand(7, number, generator=torch.Generator().manual_seed(2)) < 0.5
    rows = torch.tensor([3, 0, 0, 1, 2, 1, 3])
    shared = no_value(inputs, players)
    own = {name: -inputs.leaves[name] if name in shared else leaf for name, leaf in inputs.leaves.items() if name in shared}
    for baseline in (shared, own):
        of_rows = {name: value if value.ndim == 0 else value[rows] for name, value in baseline.items()}
        expected = players.mask(inputs.select(rows), coalitions, of_rows)
        masked = players.masking(inputs, baseline).masked(rows, coalitions)
        for name, leaf in expected.leaves.items():
            assert torch.equal(masked.leaves[name], leaf)


@KINDS
def test_masking_leaves_the_inputs_alone_and_takes_no_rows(players: Players, inputs: Rows) -> None:
    before = {name: leaf.clone() for name, leaf in inputs.leaves.items()}
    number, baseline = players.num_players(inputs), no_value(inputs, players)
    players.mask(inputs, torch.zeros(len(inputs), number, dtype=torch.bool), baseline)
    assert all(torch.equal(leaf, before[name]) for name, leaf in inputs.leaves.items())
    none = players.mask(inputs.select([]), torch.zeros(0, number, dtype=torch.bool), baseline)
    assert all(leaf.shape == before[name][:0].shape for name, leaf in none.leaves.items())


@KINDS
def test_the_default_baseline_fits(players: Players, inputs: Rows) -> None:
    baseline = players.default_baseline(inputs)
    for name in players.leaves(inputs):
        leaf = inputs.leaves[name]
        value = baseline.of_rows(baseline.value([leaf]), leaf)
        assert value.dtype == leaf.dtype
        assert torch.broadcast_shapes(value.shape, leaf.shape) == leaf.shape


@KINDS
def test_the_axis_of_the_rows_and_targets_beside_them_do_not_matter(players: Players, inputs: Rows) -> None:
    moved = Rows.of({"": inputs.tree} if isinstance(inputs.tree, Tensor) else dict(inputs.tree))
    last = {name: leaf.movedim(0, -1) for name, leaf in moved.leaves.items()}
    tree = last[""] if isinstance(inputs.tree, Tensor) else last
    other = Rows(tree, len(inputs), {name: leaf.ndim - 1 for name, leaf in inputs.leaves.items()})
    for name, own in owners(players, inputs).items():
        assert torch.equal(owners(players, other)[name], own)
    if not isinstance(inputs.tree, Tensor):
        first = players.leaves(inputs)[0]
        beside = Rows.of({**inputs.tree, "target": inputs.leaves[first]}).with_aside({"target"})
        assert players.leaves(beside) == players.leaves(inputs)
        assert torch.equal(owners(players, beside)[first], owners(players, inputs)[first])
