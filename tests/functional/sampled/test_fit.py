import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.sampled.draw import draw_coalitions
from lightning_interactions.functional.sampled.fit import fit_interactions, predict_values
from lightning_interactions.records import SampledInteractions
from tests.helpers.games import ManyPlayerGame, many_player_game

PROPERTY = settings(max_examples=2, deadline=None, derandomize=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_dict(interactions: SampledInteractions | ManyPlayerGame, threshold: float = 0.05) -> dict[tuple[object, ...], float]:
    """Effects of the first input by set and type, without those below a fraction of the largest."""
    effects = interactions.effects.reshape(-1, len(interactions.players))[0].tolist()
    largest = max(map(abs, effects))
    sets = [tuple(players.nonzero().flatten().tolist()) for players in interactions.players]
    rows = zip(sets, interactions.is_or.tolist(), effects, strict=True)
    return {
        (*players, "or" if is_or else "and"): effect for players, is_or, effect in rows if abs(effect) > threshold * largest
    }


def assert_same(actual: dict[tuple[object, ...], float], expected: dict[tuple[object, ...], float]) -> None:
    assert set(actual) == set(expected)
    assert actual == pytest.approx(expected, abs=0.01 * max(map(abs, expected.values())))


def planted(seed: int, num_players: int, max_order: int, num_coalitions: int) -> tuple[ManyPlayerGame, Tensor]:
    source = generator(seed)
    game = many_player_game(num_players, 4, 4, max_order, source)
    return game, draw_coalitions(num_players, num_coalitions, source)


# What comes out


@pytest.mark.parametrize(
    ("num_players", "max_order", "num_coalitions", "dtype"),
    [
        (20, 5, 800, torch.float64),
        (40, 5, 1200, torch.float32),
        pytest.param(64, 6, 1500, torch.float32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_planted_effects_come_back(num_players: int, max_order: int, num_coalitions: int, dtype: torch.dtype) -> None:
    game, masks = planted(0, num_players, max_order, num_coalitions)
    fitted = fit_interactions(masks, 3 + game.values(masks)[None].to(dtype))
    assert_same(as_dict(fitted), as_dict(game))
    assert fitted.effects.dtype == fitted.offset.dtype == fitted.rms_error.dtype == dtype
    assert fitted.offset.item() == pytest.approx(3, abs=1e-2)
    assert fitted.relative_error.item() < 1e-3
    assert fitted.num_forwards == num_coalitions
    assert fitted.num_held_out == num_coalitions // 10


@pytest.mark.slow
def test_a_sparse_game_gives_the_exact_answer() -> None:
    game, masks = planted(1, 12, 4, 600)
    exact = extract_interactions(game.values(coalition_masks(12))[None]).effects[0]
    fitted = fit_interactions(masks, game.values(masks)[None])
    of_exact = ManyPlayerGame(
        coalition_masks(12).repeat(2, 1), torch.arange(2 * 2**12) >= 2**12, torch.cat([exact[0], exact[1]])
    )
    assert_same(as_dict(fitted), as_dict(of_exact))


@pytest.mark.slow
def test_inputs_share_the_list_and_keep_their_own_effects() -> None:
    masks = draw_coalitions(20, 600, generator())
    games = [many_player_game(20, 3, 3, 4, generator(seed)) for seed in range(3)]
    together = fit_interactions(masks, torch.stack([game.values(masks) for game in games]))
    for row, game in enumerate(games):
        assert_same(as_dict(ManyPlayerGame(together.players, together.is_or, together.effects[row])), as_dict(game))
    rows = torch.cat([together.players, together.is_or[:, None]], dim=1)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert not together.is_or[together.orders == 1].any()
    assert (together.effects != 0).any(dim=0).all()


def test_a_constant_game_has_an_offset_only() -> None:
    masks = draw_coalitions(10, 100, generator())
    fitted = fit_interactions(masks, torch.full((2, 100), 7.0))
    assert fitted.players.shape == (0, 10)
    assert fitted.effects.shape == (2, 0)
    assert fitted.offset.tolist() == [7, 7]
    assert fitted.relative_error.tolist() == [0, 0]
    assert "nan" not in fitted.blind_spot


# What it says about itself


@pytest.mark.slow
def test_the_error_is_that_of_unseen_coalitions() -> None:
    source = generator()
    masks, unseen = draw_coalitions(24, 3600, source).tensor_split([600])
    weights = torch.randn(24, 24, generator=source, dtype=torch.float64)

    def values(coalitions: Tensor) -> Tensor:
        return ((coalitions.double() @ weights).relu().sum(dim=1))[None]

    fitted = fit_interactions(masks, values(masks))
    errors = values(unseen) - predict_values(fitted, unseen)
    assert 0.02 < fitted.relative_error.item() < 0.8
    assert errors.square().mean().sqrt().item() == pytest.approx(fitted.rms_error.item(), rel=0.3)
    assert fitted.rms_error < fitted.max_error


@pytest.mark.parametrize("game", ["parity", "noise"])
def test_what_it_cannot_see_is_a_large_error(game: str) -> None:
    masks = draw_coalitions(20, 500, generator())
    noise = torch.randn(500, generator=generator(), dtype=torch.float64)
    values = {"parity": (masks[:, :10].sum(dim=1) % 2).double(), "noise": noise}[game]
    fitted = fit_interactions(masks, values[None])
    assert fitted.relative_error.item() > 0.9
    assert f"{100 * fitted.relative_error.item():.1f}% of the spread" in fitted.blind_spot


def test_the_blind_spot_names_the_candidates_and_the_forwards() -> None:
    game, masks = planted(0, 20, 2, 200)
    fitted = fit_interactions(masks, game.values(masks)[None], order=1, max_order=3)
    assert fitted.order == 1
    assert fitted.orders.max() <= 3
    for words in ("200 of 2^20 coalitions", "on 20 that were held out", "more than 1 players", "more than 3"):
        assert words in fitted.blind_spot


@pytest.mark.slow
def test_held_out_coalitions_take_no_part() -> None:
    game, masks = planted(2, 20, 3, 300)
    values = game.values(masks)[None]
    held_out = torch.randperm(300, generator=generator(5))[:30]
    changed = values.clone()
    changed[:, held_out] += 100 * torch.randn(30, generator=generator(), dtype=torch.float64)
    fitted = fit_interactions(masks, values, generator=generator(5))
    other = fit_interactions(masks, changed, generator=generator(5))
    assert torch.equal(fitted.effects, other.effects)
    assert torch.equal(fitted.players, other.players)
    assert other.rms_error > 10 * fitted.rms_error


# What it does not depend on


@pytest.mark.slow
def test_one_generator_gives_one_result() -> None:
    game, masks = planted(3, 20, 4, 300)
    values = game.values(masks)[None]
    results = [fit_interactions(masks, values, generator=generator(1)) for _ in range(2)]
    assert torch.equal(results[0].effects, results[1].effects)
    assert torch.equal(results[0].rms_error, results[1].rms_error)
    assert not torch.equal(results[0].rms_error, fit_interactions(masks, values, generator=generator(2)).rms_error)


@pytest.mark.slow
@PROPERTY
@given(permutation=st.permutations(range(12)), seed=st.integers(0, 100))
def test_renamed_players_have_the_same_interactions(permutation: list[int], seed: int) -> None:
    game, masks = planted(seed, 12, 3, 500)
    values = game.values(masks)[None]
    fitted = fit_interactions(masks, values)
    renamed = fit_interactions(masks[:, permutation], values)
    expected = SampledInteractions(**{**vars(fitted), "players": fitted.players[:, permutation]})
    assert_same(as_dict(renamed), as_dict(expected))


@pytest.mark.slow
@PROPERTY
@given(exponent=st.integers(-20, 20), shift=st.sampled_from([0.0, -2.0, 64.0]), seed=st.integers(0, 100))
def test_effects_scale_with_the_values_and_not_with_their_zero(exponent: int, shift: float, seed: int) -> None:
    game, masks = planted(seed, 12, 3, 300)
    values, scale = game.values(masks)[None], 2.0**exponent
    fitted, scaled = fit_interactions(masks, values), fit_interactions(masks, scale * (values + shift))
    unseen = draw_coalitions(12, 200, generator(7))
    expected = scale * (predict_values(fitted, unseen) + shift)
    torch.testing.assert_close(predict_values(scaled, unseen), expected, rtol=0, atol=1e-3 * scale)
    torch.testing.assert_close(scaled.spread, scale * fitted.spread)


def test_predictions_are_the_sum_of_the_effects() -> None:
    game, masks = planted(0, 20, 3, 300)
    fitted = fit_interactions(masks, game.values(masks)[None])
    listed = ManyPlayerGame(fitted.players, fitted.is_or, fitted.effects[0])
    torch.testing.assert_close(predict_values(fitted, masks)[0], listed.values(masks) + fitted.offset)


# Errors


MASKS = draw_coalitions(10, 60, generator())


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize(
    ("masks", "values", "orders", "named"),
    [
        (MASKS.double(), torch.zeros(1, 60), {}, "masks"),
        (MASKS[0], torch.zeros(1, 60), {}, "masks"),
        (MASKS, torch.zeros(60), {}, "values"),
        (MASKS, torch.zeros(1, 61), {}, "values"),
        (MASKS, torch.zeros(1, 60).long(), {}, "values"),
        (MASKS, torch.zeros(0, 60), {}, "input"),
        (MASKS[:49], torch.zeros(1, 49), {}, "49"),
        (MASKS[[0, *range(59)]], torch.zeros(1, 60), {}, "distinct"),
        (MASKS, torch.full((2, 60), torch.nan), {}, r"\[0, 1\]"),
        (MASKS, torch.zeros(1, 60), {"order": 0}, "order=0"),
        (MASKS, torch.zeros(1, 60), {"max_order": 0}, "max_order=0"),
        (draw_coalitions(64, 60, generator()), torch.zeros(1, 60), {"order": 6}, "order"),
    ],
)
def test_what_does_not_fit_is_an_error(masks: Tensor, values: Tensor, orders: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        fit_interactions(masks, values, **orders)


def test_predictions_for_other_players_are_an_error() -> None:
    fitted = fit_interactions(MASKS, torch.zeros(1, 60))
    with pytest.raises(ValueError, match="masks"):
        predict_values(fitted, torch.ones(3, 9, dtype=torch.bool))
