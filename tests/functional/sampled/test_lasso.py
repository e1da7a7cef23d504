import pytest
import torch
from sklearn.linear_model import ElasticNet
from torch import Tensor

from lightning_interactions.functional.sampled.lasso import lasso_path, least_squares


def problem(observations: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    design = (torch.rand(observations, features, generator=generator) < 0.4).double()
    design -= design.mean(dim=0)
    target = design[:, :5].sum(dim=1) + 0.3 * torch.randn(observations, generator=generator, dtype=torch.float64)
    target -= target.mean()
    return design, target / target.std()


@pytest.mark.parametrize(("observations", "features"), [(60, 150), (200, 40)])
def test_the_path_is_that_of_a_coordinate_descent(observations: int, features: int) -> None:
    design, target = problem(observations, features)
    penalties = (design.T @ target).abs().max() / observations * torch.logspace(0, -2, 8, dtype=torch.float64)
    for penalty, coefficients in zip(penalties.tolist(), lasso_path(design, target, penalties), strict=True):
        model = ElasticNet(alpha=1.01 * penalty, l1_ratio=1 / 1.01, fit_intercept=False, tol=1e-10, max_iter=100_000)
        expected = torch.from_numpy(model.fit(design.numpy(), target.numpy()).coef_)
        torch.testing.assert_close(coefficients, expected, rtol=0, atol=2e-3)


def test_the_largest_penalty_leaves_nothing() -> None:
    design, target = problem(100, 30)
    largest = (design.T @ target).abs().max() / 100
    (coefficients,) = lasso_path(design, target, 1.001 * largest[None])
    assert not coefficients.any()


def test_least_squares_survive_features_that_depend_on_each_other() -> None:
    design, target = problem(100, 10)
    doubled = torch.cat([design, design], dim=1)
    fitted = doubled @ least_squares(doubled, target)
    expected = design @ torch.linalg.lstsq(design, target[:, None]).solution[:, 0]
    torch.testing.assert_close(fitted, expected, rtol=0, atol=1e-4)
    assert least_squares(design[:, :0], target).shape == (0,)
