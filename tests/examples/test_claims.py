import math

import pytest
import torch
from papers.claims import CLAIMS, CONTROL, FAILS, HOLDS, UNCLEAR, Claim, check, overfitted
from papers.runs import Run
from papers.series import Number, estimate, rank_correlation
from scipy import stats
from torch import Tensor

from lightning_interactions.functional import coalition_orders, noisy_learning_strength
from lightning_interactions.records import Interactions
from tests.examples.runs import NUM_INPUTS, NUM_PLAYERS, decay, run_of, spindle

G = torch.tensor([0.02, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0])
U = torch.tensor([0.08, 0.2, 0.3, 0.6, 2.0, 4.0, 7.0, 11.0])
TRAINING = [2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1]
TEST = [2.0, 1.5, 1.0, 0.82, 0.8, 0.85, 1.0, 1.3]
EXPLAINED = [2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1]
PHASES = [1, 1, 1, 2, 3, 3, 3, 3]


def as_claimed() -> Run:
    """First a weak spindle, then a growing decay, then a growing spindle with the gap."""
    untrained = torch.zeros(8, 9)
    untrained[0] = 0.02 * spindle()
    g = G[:, None] * decay() * (torch.arange(8) > 0)[:, None] + untrained
    u = U[:, None] * spindle()
    # Low orders do not cancel.
    positive = torch.tensor([0.9, 0.8, *[0.5] * 7], dtype=torch.float64)
    return run_of(g, u, TRAINING, TEST, EXPLAINED, positive=positive, phases=PHASES)


def contrary() -> Run:
    """First a strong decay that is non-generalizable, and in the end only what generalizes, of middle orders."""
    order = torch.arange(7, -1, -1)
    u, g = U[order, None] * decay(), U[:, None] * spindle()
    positive = torch.tensor([0.5, 0.5, 0.5, *[0.9] * 6], dtype=torch.float64)
    # The gap grows at first, and non-generalizable interactions have no part in it.
    test = [2.0, 1.9, 1.8, 1.9, 1.9, 1.9, 1.9, 1.9]
    training = [2.0, 1.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    return run_of(g, u, training, test, test, positive=positive, phases=[1, 3, 3, 3, 3, 3, 3, 2])


def outcomes(run: Run) -> dict[str, str]:
    found = {claim.label: check(claim, run) for claim in CLAIMS}
    return {label: finding.outcome for label, finding in found.items() if finding is not None}


def of(label: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.label == label)


NOT_BUILT_IN = {
    "U grows with the loss gap", "… more than other numbers do", "… and per epoch, too", "… more than by shrinking",
    "decay + spindle fits", "theory fits", "… better than scaling", "noise variance falls",
}  # fmt: skip


def test_a_run_as_the_papers_say_meets_their_claims() -> None:
    found = outcomes(as_claimed())
    assert {label: outcome for label, outcome in found.items() if label not in NOT_BUILT_IN and outcome != HOLDS} == {}
    assert len(found.keys() - NOT_BUILT_IN) == len(CLAIMS) - len(NOT_BUILT_IN) - 1


@pytest.mark.slow
def test_a_contrary_run_fails_them() -> None:
    found = outcomes(contrary())
    expected = {
        "untrained network: a spindle", "untrained network: weak", "share falls later",
        "G decays over orders", "U is a spindle", "U grows with the loss gap", "phases 1, 2, 3 are detected",
        "high orders cancel", "… low orders do not", "mean order falls at first", "high orders generalize less",
    }  # fmt: skip
    assert {label for label in expected if found[label] != FAILS} == set()


def test_non_generalizable_strength_that_follows_the_gap_is_told_from_other_numbers() -> None:
    gap = torch.tensor([0.0, 0.1, 0.5, 0.65, 1.25, 1.95, 2.0, 2.3])
    other = torch.tensor([0.5, 9.0, 4.0, 7.0, 3.0, 1.0, 8.0, 2.0])
    losses = (1 + gap).tolist()
    run = run_of(other[:, None] * decay(), (0.1 + gap)[:, None] * spindle(), [1.0] * 8, losses, [1.0] * 8)
    for label in ("U grows with the loss gap", "… more than other numbers do", "… and per epoch, too", "without U no gap"):
        assert check(of(label), run).outcome == HOLDS
    for label in ("U grows with the loss gap", "without U no gap"):
        assert check(of(label), run).estimate.value == pytest.approx(1)


def test_a_gap_that_stays_without_non_generalizable_interactions_is_not_explained() -> None:
    run = run_of(G[:, None] * decay(), U[:, None] * spindle(), TRAINING, TEST, TEST)
    found = check(of("without U no gap"), run)
    assert (found.estimate.value, found.outcome) == (0, FAILS)


@pytest.mark.slow
def test_decays_and_a_spindle_are_fitted() -> None:
    positive = torch.tensor(4.0).pow(-torch.arange(9, dtype=torch.float64))
    strength = torch.stack([6 * positive + spindle(), 2 * positive + spindle()])
    part = strength[0] / strength.sum(dim=0)
    run = run_of(0 * G[:, None] + strength.sum(dim=0), 0 * U[:, None] + 0 * spindle(), TRAINING, TEST, TEST, positive=part)
    found = check(of("decay + spindle fits"), run)
    assert found.outcome == HOLDS
    assert found.estimate.value == pytest.approx(1, abs=1e-3)


def test_strength_that_the_theory_made_is_recognised() -> None:
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(NUM_INPUTS, 2, 2**NUM_PLAYERS, generator=generator, dtype=torch.float64)
    orders = coalition_orders(NUM_PLAYERS)
    effects[:, 0, orders == 0] = 0
    effects[:, 1, orders < 2] = 0
    final = Interactions(effects, torch.zeros(NUM_INPUTS, dtype=torch.float64))
    strength = noisy_learning_strength(final, torch.tensor([3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.0]))[:, 1:]
    run = run_of(strength, 0 * strength, TRAINING, TEST, TEST, final=final)
    found = {label: check(of(label), run) for label in ("theory fits", "… better than scaling", "noise variance falls")}
    assert {finding.outcome for finding in found.values()} == {HOLDS}
    assert found["theory fits"].estimate.value == pytest.approx(1, abs=1e-3)


def test_the_theory_says_nothing_of_a_second_phase_of_few_measurements() -> None:
    assert check(of("theory fits"), run_of(*as_few(3))) is None


def as_few(times: int) -> tuple[Tensor, Tensor, list[float], list[float], list[float]]:
    return G[:times, None] * decay(), U[:times, None] * spindle(), TRAINING[:times], TEST[:times], TEST[:times]


@pytest.mark.parametrize(("chance", "outcome"), [(0.5, HOLDS), (0.2, FAILS)])
def test_with_random_labels_only_the_control_applies(chance: float, outcome: str) -> None:
    strength = torch.ones(8, 1) * spindle()
    run = run_of(strength, strength, TRAINING, TEST, TEST, chance=chance, random_labels=True)
    control = next(claim for claim in CLAIMS if claim.paper == CONTROL)
    assert outcomes(run) == {control.label: outcome}


@pytest.mark.parametrize(("end", "expected"), [(1.04, False), (1.06, True)])
def test_a_run_is_overfitted_from_five_percent_on(end: float, expected: bool) -> None:
    run = run_of(*as_few(3)[:3], [2.0, 1.0, end], [1.0] * 3)
    assert overfitted(run) == expected
    assert (check(of("share falls later"), run) is not None) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.5, 0.2, 0.8, HOLDS),
        (0.5, -0.1, 0.8, UNCLEAR),
        (-0.1, -0.3, 0.2, UNCLEAR),
        (-0.2, -0.3, -0.1, FAILS),
        (0.0, 0.0, 0.0, FAILS),
        (1.5, 1.2, 1.8, FAILS),
        (0.5, -math.inf, math.inf, UNCLEAR),
        (0.5, math.nan, math.nan, HOLDS),
        (math.inf, math.nan, math.nan, FAILS),
    ],
)
def test_a_claim_holds_only_with_all_of_its_interval(value: float, low: float, high: float, expected: str) -> None:
    claim = Claim("", "", "", "", lambda _run: Number(value), above=0, below=1)
    assert claim.outcome(Number(value, low, high)) == expected


def test_estimates_are_functions_of_means_with_intervals_around_them() -> None:
    numbers = torch.stack([torch.arange(20.0), torch.full((20,), 2.0)])
    found = estimate(lambda means: means[0] / means[1], numbers)
    assert found.value == pytest.approx(9.5 / 2)
    assert 2.8 < found.low < found.value < found.high < 6.7


def test_rank_correlations_are_those_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 12, 3, generator=generator)
    first[3], second[5] = first[4], math.inf
    found = rank_correlation(first, second)
    expected = [stats.spearmanr(first[:, column], second[:, column]).statistic for column in range(3)]
    assert found.tolist() == pytest.approx(expected)
