import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, softplus

from lightning_interactions.analysis.phases.over_confidence import calibrated_losses
from lightning_interactions.measuring.facts import NORMAL_NODES

EVERY = torch.ones(200, dtype=torch.bool)


def logits(classes: int, margin: float, wrong: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of which one stands out by a margin: the target's, or in a part of the inputs another one."""
    generator = Generator().manual_seed(seed)
    targets = torch.zeros(200, dtype=torch.long)
    leader = torch.where(torch.rand(200, generator=generator) < wrong, 1, 0)
    sizes = margin * (0.5 + torch.rand(200, generator=generator, dtype=torch.float64))
    return sizes[:, None] * torch.eye(classes, dtype=torch.float64)[leader], targets


def log_odds(scores: Tensor, targets: Tensor) -> Tensor:
    own = scores.gather(1, targets[:, None])[:, 0]
    others = scores.scatter(1, targets[:, None], -torch.inf)
    return own - others.logsumexp(dim=1)


def test_losses_are_those_at_the_best_temperature_of_the_logits() -> None:
    for classes in (2, 10):
        untrained = torch.zeros(200, classes, dtype=torch.float64)
        trained, targets = logits(classes, margin=12.0, wrong=0.1)
        scores = torch.stack([log_odds(one, targets) for one in (untrained, trained)])
        found, most = calibrated_losses(softplus(-scores), scores, torch.zeros_like(scores), EVERY)
        inverse = torch.linspace(0, 1, 2001, dtype=torch.float64)
        losses = torch.stack([softplus(-log_odds(one * trained, targets)).mean() for one in inverse])
        assert found[1].mean().item() == pytest.approx(losses.min().item(), abs=1e-4)
        assert found[1].mean() < 0.7 * softplus(-scores[1]).mean()
        assert most == pytest.approx(math.log(classes))


def test_scores_that_are_not_too_sure_keep_their_losses() -> None:
    scores = torch.full((3, 200), 2.0, dtype=torch.float64)
    losses = softplus(-scores)
    torch.testing.assert_close(calibrated_losses(losses, scores, torch.zeros_like(scores), EVERY)[0], losses)


def test_uncertain_scores_count_with_their_spread() -> None:
    nodes, weights = torch.tensor(NORMAL_NODES, dtype=torch.float64).unbind(dim=1)
    scores = torch.stack([torch.zeros(200), torch.full((200,), 3.0)]).double()
    spread = torch.stack([torch.zeros(200), torch.full((200,), 9.0)]).double()
    losses = softplus(-(scores[..., None] + spread[..., None] * nodes)) @ weights
    found, _ = calibrated_losses(losses, scores, spread, EVERY)
    inverse = torch.linspace(0, 1, 2001, dtype=torch.float64)
    best = (softplus(-inverse[:, None] * (3.0 + 9.0 * nodes)) @ weights).min().item()
    assert found[1, 0].item() == pytest.approx(best, abs=1e-4)
    assert found[1, 0] < losses[1, 0]


def test_only_counted_inputs_decide_on_the_temperature() -> None:
    scores = torch.stack([torch.zeros(200), torch.where(torch.arange(200) < 100, 5.0, -5.0)]).double()
    counted = torch.arange(200) < 100
    found, _ = calibrated_losses(softplus(-scores), scores, torch.zeros_like(scores), counted)
    torch.testing.assert_close(found, softplus(-scores))


def test_losses_that_are_no_cross_entropies_stay() -> None:
    scores = torch.randn(4, 200, generator=Generator().manual_seed(0), dtype=torch.float64)
    losses = scores.square()
    found, most = calibrated_losses(losses, scores, torch.zeros_like(scores), EVERY)
    assert torch.equal(found, losses)
    assert most == math.inf


def test_losses_of_a_module_are_as_exact_as_single_precision() -> None:
    own, targets = logits(10, margin=20.0, wrong=0.1)
    shifted = own + 100.0  # Which changes no probability, and costs digits.
    scores = torch.stack([log_odds(torch.zeros_like(own), targets), log_odds(own, targets)])
    losses = torch.stack([cross_entropy(one.float(), targets, reduction="none") for one in (0.0 * own, shifted)]).double()
    assert not torch.allclose(losses, softplus(-scores), rtol=1e-4, atol=1e-9)
    exact, most = calibrated_losses(softplus(-scores), scores, torch.zeros_like(scores), EVERY)
    found = calibrated_losses(losses, scores, torch.zeros_like(scores), EVERY)
    torch.testing.assert_close(found[0], exact, rtol=0, atol=1e-5)
    assert found[1] == most < math.inf
    assert found[0][1].mean() < 0.7 * losses[1].mean()


def test_what_a_later_loss_is_more_than_a_cross_entropy_stays_and_changes_nothing_before() -> None:
    own, targets = logits(10, margin=12.0, wrong=0.1)
    scores = torch.stack([log_odds(one, targets) for one in (torch.zeros_like(own), own, own)])
    plain = calibrated_losses(softplus(-scores), scores, torch.zeros_like(scores), EVERY)[0]
    losses = softplus(-scores)
    losses[2] += 0.5
    found, most = calibrated_losses(losses, scores, torch.zeros_like(scores), EVERY)
    torch.testing.assert_close(found[:2], plain[:2])
    torch.testing.assert_close(found[2], plain[2] + 0.5)
    assert most == pytest.approx(math.log(10))


def test_inputs_and_measurements_that_are_left_out_stay_out() -> None:
    scores = torch.randn(4, 200, generator=Generator().manual_seed(0), dtype=torch.float64)
    scores[0] = torch.nan
    scores[2, :5] = torch.nan
    found, _ = calibrated_losses(softplus(-scores), scores, torch.zeros_like(scores), EVERY)
    assert torch.equal(found.isnan(), scores.isnan())
    nothing, most = calibrated_losses(scores * torch.nan, scores, torch.zeros_like(scores), EVERY)
    assert bool(nothing.isnan().all())
    assert most == math.inf


@pytest.mark.parametrize("first", [[-2.0], [-1e5]])
def test_large_scores_are_no_trouble(first: list[float]) -> None:
    scores = torch.tensor([first, [-5000.0], [5000.0]], dtype=torch.float64).expand(3, 200)
    found, _ = calibrated_losses(softplus(-scores), scores, torch.zeros_like(scores), EVERY)
    assert bool(found.isfinite().all())
