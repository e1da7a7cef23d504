import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interactions.game.players import (
    AtRandom,
    ByAttribution,
    Choice,
    Evenly,
    FeatureGroups,
    ImagePatches,
    Some,
    Tokens,
)
from lightning_interactions.records import Rows

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
PRESENT = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4)


@PROPERTY
@given(present=PRESENT, number=st.integers(1, 14))
@pytest.mark.parametrize("choice", [AtRandom(), AtRandom(3), Evenly(), ByAttribution()], ids=repr)
def test_so_many_of_the_players_that_are_there_are_chosen(choice: Choice, present: list[list[bool]], number: int) -> None:
    there = torch.tensor(present)
    chosen = choice.chosen(there, number, torch.randn(there.shape) if choice.needs_scores else None)
    assert not (chosen & ~there).any()
    assert torch.equal(chosen.sum(dim=1), there.sum(dim=1).clamp(max=number))


def test_even_choices_are_the_middles_of_equal_parts() -> None:
    present = torch.ones(1, 20, dtype=torch.bool)
    assert Evenly().chosen(present, 4, None)[0].nonzero()[:, 0].tolist() == [2, 7, 12, 17]
    assert Evenly().chosen(present, 1, None)[0].nonzero()[:, 0].tolist() == [9]


def test_random_choices_depend_on_the_seed_and_on_nothing_else() -> None:
    present = torch.ones(3, 40, dtype=torch.bool)
    first, again, other = (AtRandom(seed).chosen(present, 5, None) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first == first[:1]).all()


def test_the_largest_scores_are_chosen_in_the_order_of_the_players() -> None:
    scores = torch.tensor([[0.1, -3.0, 2.0, float("nan")], [4.0, 0.0, -0.5, 1.0]])
    chosen = ByAttribution().chosen(torch.ones(2, 4, dtype=torch.bool), 2, scores)
    assert chosen.tolist() == [[False, True, True, False], [True, False, False, True]]
    with pytest.raises(ValueError, match=r"call Some.choose\(inputs, scores\)"):
        ByAttribution().chosen(torch.ones(2, 4, dtype=torch.bool), 2, None)


def leave_one_out(players: Some, inputs: Rows, weights: torch.Tensor) -> torch.Tensor:
    """Score with a weighted sum, one player left out after the other."""
    many, (name,) = players.players, players.leaves(inputs)
    alone = ~torch.eye(many.num_players(inputs), dtype=torch.bool)
    baseline = {name: torch.zeros(())}
    left_out = [many.mask(inputs, stay.expand(len(inputs), -1), baseline).leaves[name] for stay in alone]
    return torch.stack([((inputs.leaves[name] - one) * weights).flatten(1).sum(dim=1) for one in left_out], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_players_are_chosen_by_attribution_once_for_each_input(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(6, 8, generator=generator)
    weights = torch.randn(8, generator=generator)
    players, inputs = Some(FeatureGroups(), 3, ByAttribution()), Rows.of(table)
    assert players.needs_scores
    assert players.num_players(inputs) == 3
    with pytest.raises(ValueError, match="got 6 others; call choose"):
        players.assignments(inputs)
    players.choose(inputs, leave_one_out(players, inputs, weights))
    order = [5, 0, 0, 2]
    (own,) = players.assignments(inputs.select(order).map(lambda leaf: leaf.to(dtype))).values()
    for row, assignment in zip(order, own, strict=True):
        expected = (table[row] * weights).abs().topk(3).indices.sort().values
        assert [(assignment == player).nonzero().item() for player in range(3)] == expected.tolist()
    resumed = Some(FeatureGroups(), 3, ByAttribution())
    resumed.load(players.state())
    assert torch.equal(next(iter(resumed.assignments(inputs).values())), next(iter(players.assignments(inputs).values())))
    assert Some(FeatureGroups(), 3).state() == {}
    with pytest.raises(ValueError, match="a score for each of 8 players"):
        players.choose(inputs, torch.zeros(6, 3))


def test_words_are_chosen_by_attribution() -> None:
    ids = torch.tensor([[4, 5, 6, 7, 0], [9, 8, 0, 0, 0]])
    players, inputs = Tokens(2, choice=ByAttribution()), Rows.of(ids)
    players.choose(inputs, torch.tensor([[1.0, 5.0, 0.0, -7.0, 99.0], [1.0, 2.0, 99.0, 99.0, 99.0]]))
    (own,) = players.assignments(inputs).values()
    assert own.tolist() == [[-1, 0, -1, 1, -1], [0, 1, -1, -1, -1]]


def test_chosen_players_keep_their_names() -> None:
    inputs = Rows.of(torch.zeros(2, 1, 6, 6))
    players = Some(ImagePatches(3, 3), 2, Evenly())
    assert players.names(inputs) == ("row 1, column 3", "row 3, column 1")
    assert Some(ImagePatches(1, 1), 2).names(inputs) == ("row 1, column 1", "player 1")
    assert Some(ImagePatches(2, 2), 2, ByAttribution()).names(inputs) == ("player 0", "player 1")
    with pytest.raises(ValueError, match="at least one player, got number=0"):
        Some(ImagePatches(2, 2), 0)
