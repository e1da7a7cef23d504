import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Generator, Tensor

from lightning_interactions.functional.decay_spindle import FALLS, LEAST_SKEW, fit_decay_and_spindle
from lightning_interactions.functional.strength import strength_by_order
from lightning_interactions.functional.transforms import mobius_transform
from lightning_interactions.records import DecaySpindle, Interactions
from tests.helpers.games import random_tables

PROPERTY = settings(max_examples=8, deadline=None, derandomize=True)

PLAYERS = pytest.mark.parametrize("num_players", [5, 8, 12])


@pytest.fixture
def generator() -> Generator:
    return torch.Generator().manual_seed(0)


def decay(num_players: int, amplitudes: tuple[float, float], rates: tuple[float, float]) -> Float[Tensor, "signs orders"]:
    """Compute ``a·e^{-bm}`` order by order."""
    rows = [
        [a * math.exp(-b * m) if m else 0.0 for m in range(num_players + 1)] for a, b in zip(amplitudes, rates, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def spindle(num_players: int, scale: float, ratio: float) -> Float[Tensor, " orders"]:
    """Compute ``c·C(n,m)·r^m`` order by order."""
    row = [scale * math.comb(num_players, m) * ratio**m if m else 0.0 for m in range(num_players + 1)]
    return torch.tensor(row, dtype=torch.float64)


def strength_of_noise(effects: Float[Tensor, "inputs coalitions"]) -> Float[Tensor, "signs orders"]:
    """Positive and negative strength by order of AND effects, mean over inputs."""
    effects = effects.clone()
    effects[:, 0] = 0
    interactions = Interactions(torch.stack([effects, torch.zeros_like(effects)], dim=1), effects[:, 0])
    weights = torch.ones_like(interactions.effects)
    return strength_by_order(interactions, weights.bool(), weights).generalizable.sum(dim=1).mean(dim=0)


def assert_fits(fit: DecaySpindle, strength: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(fit.total, strength, rtol=0, atol=tolerance * float(strength.max()))


@st.composite
def mixtures(draw: st.DrawFn, min_players: int = 5) -> tuple[Tensor, Tensor]:
    """Draw a decay of each sign and a spindle well inside the bounds; no part is below a twentieth of the largest."""
    num_players = draw(st.integers(min_players, 12))
    falls = [draw(st.floats(0.05, 0.45)) for _ in range(2)]
    heights = [draw(st.floats(0.05, 1)) for _ in range(3)]
    skew = draw(st.floats(LEAST_SKEW + 0.03, num_players / (num_players + 1) - 0.03))
    hump = spindle(num_players, 1, skew / (1 - skew))
    decays = decay(num_players, (heights[0] / falls[0], heights[1] / falls[1]), (-math.log(falls[0]), -math.log(falls[1])))
    return decays, heights[2] * hump / hump.max()


# Known parts


@PLAYERS
def test_a_decay_is_all_decay(num_players: int) -> None:
    strength = decay(num_players, (3.0, 0.7), (0.9, 1.4))
    fit = fit_decay_and_spindle(strength)
    assert fit.share == pytest.approx(1, abs=1e-6)
    assert fit.r_squared == pytest.approx(1, abs=1e-9)
    assert_fits(fit, strength)
    assert fit.amplitude.tolist() == pytest.approx([3.0, 0.7], rel=1e-5)
    assert fit.rate.tolist() == pytest.approx([0.9, 1.4], rel=1e-5)


@PLAYERS
@pytest.mark.parametrize("ratio", [1.0, 2**0.5])
def test_a_spindle_is_all_spindle(num_players: int, ratio: float) -> None:
    strength = spindle(num_players, 0.01, ratio).expand(2, -1)
    fit = fit_decay_and_spindle(strength)
    assert fit.share == pytest.approx(0, abs=1e-6)
    assert fit.r_squared == pytest.approx(1, abs=1e-9)
    assert_fits(fit, strength)
    assert fit.ratio == pytest.approx(ratio, rel=1e-5)
    assert fit.scale == pytest.approx(0.01, rel=1e-4)


@PLAYERS
@pytest.mark.parametrize("as_values", [False, True], ids=["noise in the effects", "noise in the values"])
def test_noise_is_a_spindle(num_players: int, as_values: bool, generator: Generator) -> None:
    noise = random_tables(num_players, 2 ** (18 - num_players), generator)
    fit = fit_decay_and_spindle(strength_of_noise(mobius_transform(noise) if as_values else noise))
    assert fit.r_squared > 0.99
    assert fit.share < 0.02
    assert fit.ratio == pytest.approx(2**0.5 if as_values else 1, rel=0.03)


@PROPERTY
@given(parts=mixtures())
def test_parts_of_a_mixture_are_recovered(parts: tuple[Tensor, Tensor]) -> None:
    decays, hump = parts
    fit = fit_decay_and_spindle(decays + hump)
    largest = float((decays + hump).max())
    assert fit.r_squared > 1 - 1e-9
    torch.testing.assert_close(fit.decay, decays, rtol=0, atol=1e-3 * largest)
    torch.testing.assert_close(fit.spindle, hump, rtol=0, atol=1e-3 * largest)
    assert fit.share == pytest.approx(float(decays.sum() / (decays + hump).sum()), abs=1e-3)


@pytest.mark.parametrize("num_players", [6, 9, 12])
def test_a_little_noise_moves_the_share_a_little(num_players: int, generator: Generator) -> None:
    for share in (0.2, 0.5, 0.8):
        decays, hump = decay(num_players, (1.0, 0.5), (0.9, 1.2)), spindle(num_players, 1, 0.9)
        strength = share * decays / decays.sum() + (1 - share) * hump / (2 * hump.sum())
        noise = torch.randn(strength.shape, generator=generator, dtype=torch.float64)
        fit = fit_decay_and_spindle(strength * (1 + 0.03 * noise))
        assert fit.share == pytest.approx(share, abs=0.06)


def test_what_one_sign_has_alone_is_no_spindle() -> None:
    hump = spindle(9, 0.01, 1.0)
    fit = fit_decay_and_spindle(torch.stack([hump, torch.zeros_like(hump)]))
    # A spindle cancels; half of this one is the closest that does.
    assert fit.r_squared < 0.7
    assert float(fit.spindle.max()) < 0.6 * float(hump.max())


# Bounds and degenerate strengths


@pytest.mark.parametrize("num_players", [1, 2, 3, 4, 5, 9, 16])
def test_parts_keep_their_shapes_whatever_the_strength(num_players: int, generator: Generator) -> None:
    for power in (1, 5):
        strength = torch.rand(2, num_players + 1, generator=generator, dtype=torch.float64) ** power
        fit = fit_decay_and_spindle(strength)
        assert fit.decay.shape == strength.shape
        assert fit.spindle.shape == strength.shape[1:]
        assert not fit.decay[:, 0].any()
        assert fit.spindle[0] == 0
        assert (fit.decay >= 0).all()
        assert (fit.spindle >= 0).all()
        assert (fit.decay[:, 2:] <= (FALLS[1] + 1e-9) * fit.decay[:, 1:-1]).all()
        assert ((fit.weights >= 0) & (fit.weights <= 1)).all()
        if fit.spindle.any():
            rising = float(fit.spindle[2]) >= (1 - 1e-9) * float(fit.spindle[1])
            falling = float(fit.spindle[-1]) <= (1 + 1e-9) * float(fit.spindle[-2])
            assert rising
            assert falling


@pytest.mark.parametrize("num_players", [1, 2])
def test_few_players_have_no_spindle(num_players: int) -> None:
    strength = decay(num_players, (2.0, 1.0), (1.0, 2.0))
    fit = fit_decay_and_spindle(strength)
    assert fit.share == 1
    assert (fit.scale, math.isnan(fit.ratio)) == (0, True)
    assert_fits(fit, strength)


def test_no_strength_has_no_parts() -> None:
    fit = fit_decay_and_spindle(torch.zeros(2, 10))
    assert not fit.total.any()
    assert not fit.weights.any()
    assert fit.amplitude.tolist() == [0, 0]
    assert fit.rate.isnan().all()
    assert all(math.isnan(number) for number in (fit.share, fit.ratio, fit.r_squared, *fit.share_by_sign.tolist()))
    assert fit.scale == 0


def test_a_sign_without_strength_has_weight_zero() -> None:
    strength = decay(9, (3.0, 0.0), (1.0, 1.0))
    fit = fit_decay_and_spindle(strength)
    assert fit.weights[0, 1:].tolist() == pytest.approx([1] * 9, abs=1e-3)
    assert not fit.decay[1].any()
    assert fit.rate.isnan().tolist() == [False, True]


def test_order_zero_is_ignored() -> None:
    strength = decay(7, (3.0, 0.7), (0.9, 1.4)) + spindle(7, 0.01, 1)
    offset = strength.clone()
    offset[:, 0] = 100
    assert torch.equal(fit_decay_and_spindle(strength).decay, fit_decay_and_spindle(offset).decay)


# Symmetries


@PROPERTY
@given(
    strength=st.lists(st.floats(0, 1), min_size=12, max_size=12).map(lambda row: torch.tensor(row).double().reshape(2, 6)),
    exponent=st.integers(-30, 30),
)
@pytest.mark.slow
def test_the_fit_scales_with_the_strength(strength: Tensor, exponent: int) -> None:
    # A power of two scales without rounding.
    fit, scaled = fit_decay_and_spindle(strength), fit_decay_and_spindle(2.0**exponent * strength)
    assert torch.equal(scaled.decay, 2.0**exponent * fit.decay)
    assert torch.equal(scaled.spindle, 2.0**exponent * fit.spindle)
    assert torch.equal(scaled.weights, fit.weights)


@PROPERTY
@given(parts=mixtures())
def test_signs_may_be_exchanged(parts: tuple[Tensor, Tensor]) -> None:
    strength = sum(parts)
    fit, exchanged = fit_decay_and_spindle(strength), fit_decay_and_spindle(strength.flip(0))
    torch.testing.assert_close(exchanged.decay.flip(0), fit.decay, rtol=0, atol=1e-3 * float(strength.max()))


def test_the_fit_is_deterministic_and_leaves_its_input_alone(generator: Generator) -> None:
    strength = torch.rand(2, 10, generator=generator)
    before = strength.clone()
    first, second = fit_decay_and_spindle(strength), fit_decay_and_spindle(strength)
    assert torch.equal(first.total, second.total)
    assert torch.equal(strength, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    fit = fit_decay_and_spindle((decay(6, (3.0, 1.0), (1.0, 1.0)) + spindle(6, 0.1, 1)).to(dtype))
    assert {part.dtype for part in (fit.decay, fit.spindle, fit.amplitude, fit.rate, fit.weights)} == {dtype}
    assert fit.r_squared == pytest.approx(1, abs=1e-6)


# The record


def test_parts_are_shares_of_the_fitted_strength() -> None:
    decays = torch.tensor([[0.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    hump = torch.tensor([0.0, 1.0, 3.0, 0.0])
    fit = DecaySpindle(decays, hump, torch.ones(2), torch.ones(2), 1.0, 1.0, 1.0)
    assert fit.total.tolist() == [[0, 4, 4, 0], [0, 1, 3, 0]]
    assert fit.weights.tolist() == [[0, 0.75, 0.25, 0], [0, 0, 0, 0]]
    assert fit.share == pytest.approx(4 / 12)
    assert fit.share_by_sign.tolist() == pytest.approx([0.5, 0])


# Errors


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("shape", [(2, 1), (1, 10), (3, 10), (10,), (4, 2, 10)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="strength"):
        fit_decay_and_spindle(torch.ones(shape))


@pytest.mark.parametrize("broken", [-1.0, math.nan, math.inf])
def test_strength_is_finite_and_not_negative(broken: float) -> None:
    strength = torch.ones(2, 10)
    strength[1, 3] = broken
    with pytest.raises(ValueError, match="strength"):
        fit_decay_and_spindle(strength)
