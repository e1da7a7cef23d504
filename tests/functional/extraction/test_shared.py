import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from lightning_interactions.functional import (
    and_effects,
    extract_interactions,
    extract_shared_interactions,
    mobius_transform,
    or_effects,
    reconstruct_values,
)
from lightning_interactions.records import Interactions
from tests.helpers.games import planted_game, random_network_tables, random_tables, salient_jaccard

RIDGE = 0.01


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def scales(values: Tensor) -> Tensor:
    """Mean effect ``s`` of the decomposition into two equal parts of each model, ``[models]``, for one input."""
    centred = values - values[:, :1]
    return mobius_transform(centred).abs().mean(dim=1) + mobius_transform(centred.flip(1)).abs().mean(dim=1)


def objective(gamma: Tensor, values: Tensor) -> Tensor:
    """What is minimised, of one input: values and ``gamma`` are ``[models, coalitions]``."""
    centred = values - values[:, :1]
    effects = torch.cat([and_effects(0.5 * centred + gamma), or_effects(0.5 * centred - gamma)], dim=1)
    scaled = effects / scales(values)[:, None]
    # Smooth enough for a general solver, and close enough for its answer.
    lengths = (scaled.square().sum(dim=0) + 1e-10).sqrt()
    return lengths.sum() + 0.5 * RIDGE * scaled.square().sum()


def test_one_model_has_the_interactions_of_its_own(generator: torch.Generator) -> None:
    values = random_network_tables(6, 4, generator)
    (shared,) = extract_shared_interactions(values[None])
    own = extract_interactions(values)
    assert torch.equal(shared.effects, own.effects)
    assert torch.equal(shared.offset, own.offset)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("num_players", [1, 3, 6])
def test_every_model_is_matched(num_players: int, dtype: torch.dtype, bound: float, generator: torch.Generator) -> None:
    values = torch.stack([random_tables(num_players, 3, generator), 100 * random_network_tables(num_players, 3, generator)])
    values = values.to(dtype)
    shared = extract_shared_interactions(values)
    assert len(shared) == 2
    for interactions, of_model in zip(shared, values, strict=True):
        assert interactions.and_effects.dtype == dtype
        error = (reconstruct_values(interactions) - of_model).abs().amax(dim=1)
        assert (error <= bound * (of_model.amax(dim=1) - of_model.amin(dim=1))).all()


@pytest.mark.slow
def test_the_decomposition_is_the_optimum_that_a_general_solver_finds(generator: torch.Generator) -> None:
    num_models = 3
    values = torch.stack([random_tables(3, 1, generator) for _ in range(num_models)])

    def value_and_gradient(flat: object) -> tuple[float, object]:
        gamma = torch.tensor(flat).reshape(num_models, 8).requires_grad_()
        loss = objective(gamma, values[:, 0])
        loss.backward()
        return loss.item(), gamma.grad.flatten().numpy()

    starts = [torch.zeros(num_models * 8), torch.randn(num_models * 8, generator=generator)]
    options = {"maxiter": 3000, "maxfun": 5000, "ftol": 1e-12, "gtol": 1e-8}
    found = [
        minimize(value_and_gradient, start.double().numpy(), jac=True, method="L-BFGS-B", options=options).fun
        for start in starts
    ]
    shared = extract_shared_interactions(values, tolerance=1e-8, max_iterations=100_000)
    scaled = torch.stack([interactions.effects[0] for interactions in shared]) / scales(values[:, 0])[:, None, None]
    # Single players were folded after the decomposition; before, the ridge had them half an AND and half an OR.
    squares = scaled.square()
    squares[:, 0, [1, 2, 4]] /= 2
    own = scaled.square().sum(dim=0).sqrt().sum() + 0.5 * RIDGE * squares.sum()
    assert own.item() == pytest.approx(min(found), rel=1e-4)


@pytest.mark.slow
def test_common_planted_sets_are_found_by_all(generator: torch.Generator) -> None:
    game = planted_game(6, 4, 4, 0.0, generator)
    noise = 0.03 * torch.randn(3, 1, 64, generator=generator, dtype=torch.float64)
    factors = torch.tensor([1.0, 0.7, 2.0])[:, None, None]
    values = factors * (game.values + noise * game.values.std())
    shared = extract_shared_interactions(values)
    alone = [extract_interactions(of_model) for of_model in values]

    def agreement(models: tuple[Interactions, ...] | list[Interactions]) -> float:
        pairs = [salient_jaccard(models[i], models[j]).item() for i, j in ((0, 1), (0, 2), (1, 2))]
        return sum(pairs) / 3

    assert agreement(shared) > agreement(alone)


def test_the_order_of_models_does_not_matter(generator: torch.Generator) -> None:
    values = torch.stack([random_tables(4, 2, generator) for _ in range(3)])
    forwards, backwards = extract_shared_interactions(values), extract_shared_interactions(values.flip(0))
    for first, second in zip(forwards, reversed(backwards), strict=True):
        torch.testing.assert_close(first.effects, second.effects, rtol=0, atol=1e-6)


def test_a_constant_model_leaves_the_others_alone(generator: torch.Generator) -> None:
    values = random_tables(4, 2, generator)
    shared, constant = extract_shared_interactions(torch.stack([values, torch.ones_like(values)]))
    assert not constant.effects.any()
    torch.testing.assert_close(shared.effects, extract_interactions(values).effects, rtol=0, atol=2e-3)


@pytest.mark.usefixtures("as_users_call")
@pytest.mark.parametrize("shape", [(4, 8), (0, 4, 8), (8,)])
def test_values_without_models_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="model"):
        extract_shared_interactions(torch.zeros(shape))


def test_a_model_with_nan_is_refused() -> None:
    values = torch.zeros(2, 3, 8)
    values[1, 2, 5] = torch.nan
    with pytest.raises(ValueError, match=r"\[2\]"):
        extract_shared_interactions(values)


def test_too_few_iterations_are_a_warning(generator: torch.Generator) -> None:
    values = torch.stack([random_tables(6, 2, generator) for _ in range(2)])
    with pytest.warns(UserWarning, match="2 of 2"):
        extract_shared_interactions(values, max_iterations=25)
