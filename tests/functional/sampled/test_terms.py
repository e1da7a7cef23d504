from itertools import combinations
from math import comb

import pytest
import torch

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.functional.sampled.terms import (
    Terms,
    all_terms,
    count_terms,
    find_terms,
    term_matrix,
)


def as_sets(terms: Terms) -> list[tuple[frozenset[int], bool]]:
    rows = zip(terms.players, terms.is_or.tolist(), strict=True)
    return [(frozenset(players.nonzero().flatten().tolist()), is_or) for players, is_or in rows]


@pytest.mark.parametrize(("num_players", "order"), [(1, 1), (4, 1), (5, 3), (4, 4), (7, 2)])
def test_all_terms_are_all_sets_once(num_players: int, order: int) -> None:
    sets = as_sets(all_terms(num_players, order))
    expected = {
        (frozenset(players), is_or)
        for size in range(1, order + 1)
        for players in combinations(range(num_players), size)
        for is_or in ((False, True) if size > 1 else (False,))
    }
    assert set(sets) == expected
    assert len(sets) == len(expected) == count_terms(num_players, order)
    assert [set(players) for players, _ in sets[:num_players]] == [{player} for player in range(num_players)]


def test_many_terms_are_counted_without_a_list() -> None:
    assert count_terms(64, 20) == 64 + 2 * sum(comb(64, size) for size in range(2, 21))


def test_the_matrix_says_where_terms_hold() -> None:
    terms, masks = all_terms(5, 5), coalition_masks(5)
    matrix = term_matrix(terms, masks, torch.float64)
    for column, (players, is_or) in enumerate(as_sets(terms)):
        present = masks[:, sorted(players)]
        assert torch.equal(matrix[:, column].bool(), present.any(dim=1) if is_or else present.all(dim=1))


@pytest.mark.parametrize("is_or", [False, True])
def test_a_term_of_many_players_is_found_first(is_or: bool) -> None:
    masks = torch.rand(2000, 30, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 2000)[:, None]
    players = [3, 8, 11, 20, 29]
    holds = masks[:, players].any(dim=1) if is_or else masks[:, players].all(dim=1)
    residual = holds.double() - holds.double().mean()
    assert as_sets(find_terms(masks, residual, range(3, 9), 10))[0] == (frozenset(players), is_or)


def test_found_terms_are_of_the_orders_asked_for_and_distinct() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(300, 6, generator=generator) < 0.5
    found = find_terms(masks, torch.randn(300, generator=generator), range(2, 4), 1000)
    assert found.players.sum(dim=1).unique().tolist() == [2, 3]
    assert len(set(as_sets(found))) == len(found) == 2 * (15 + 20)
    assert not len(find_terms(masks, torch.zeros(300), range(2, 4), 10))


def test_join_leaves_out_what_is_there() -> None:
    low, all_up_to_three = all_terms(4, 2), all_terms(4, 3)
    joined = low.join(all_up_to_three)
    assert as_sets(joined)[: len(low)] == as_sets(low)
    assert sorted(map(str, as_sets(joined))) == sorted(map(str, as_sets(all_up_to_three)))
    assert len(low.join(low)) == len(low)
