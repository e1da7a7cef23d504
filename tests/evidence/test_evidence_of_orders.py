"""Evidence that gives all interactions of one order the same weight."""

import pytest
import torch
from torch import nn

from lightning_interactions.evidence import Evidence, InputAgreement, OrderShape
from lightning_interactions.functional.agreement import agreement_by_chance, agreement_by_order
from lightning_interactions.functional.coalitions import coalition_orders
from lightning_interactions.functional.decay_spindle import fit_decay_and_spindle
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.strength import salient_mask, strength_by_order
from lightning_interactions.records import EvidenceWeights, Interactions
from tests.helpers.games import random_network_tables

THRESHOLD = 0.05
NUM_PLAYERS = 5


def interactions_of_tables(seed: int) -> Interactions:
    return extract_interactions(random_network_tables(NUM_PLAYERS, 6, torch.Generator().manual_seed(seed)))


def weighed(evidence: Evidence, interactions: Interactions, counterpart: Interactions | None = None) -> EvidenceWeights:
    assert list(evidence.raters(nn.Identity())) == []
    return evidence.weigh(interactions, THRESHOLD, counterpart=counterpart)


def with_nan_input(interactions: Interactions) -> Interactions:
    parts = [tensor.clone() for tensor in vars(interactions).values()]
    for part in parts:
        part[1] = torch.nan
    return Interactions(*parts)


@pytest.mark.parametrize("evidence", [InputAgreement(), OrderShape()])
@pytest.mark.slow
def test_they_are_evidence_with_weights_that_are_parts(evidence: Evidence) -> None:
    assert isinstance(evidence, Evidence)
    interactions = interactions_of_tables(0)
    found = weighed(evidence, interactions, interactions_of_tables(1))
    assert found.rater_score is None
    for weights in (found.weights, found.chance_weights):
        assert weights.shape == interactions.effects.shape
        assert bool(((weights >= 0) & (weights <= 1)).all())


# Agreement of inputs


def test_agreement_gives_every_order_its_agreement() -> None:
    interactions, counterpart = interactions_of_tables(0), interactions_of_tables(1)
    found = weighed(InputAgreement(), interactions, counterpart)
    orders = coalition_orders(NUM_PLAYERS)
    for weights, compare in ((found.weights, agreement_by_order), (found.chance_weights, agreement_by_chance)):
        expected = compare(interactions, counterpart)
        assert all(bool((weights[..., orders == order] == expected[order]).all()) for order in range(NUM_PLAYERS + 1))


def test_agreement_without_held_out_probes_judges_nothing_and_says_so() -> None:
    with pytest.warns(UserWarning, match="no held-out probes yet"):
        found = weighed(InputAgreement(), interactions_of_tables(0))
    assert found.weights.isnan().all()
    assert found.chance_weights.isnan().all()


# Shape over orders


def test_shape_gives_every_sign_and_order_the_part_of_its_decay() -> None:
    interactions = interactions_of_tables(0)
    salient = salient_mask(interactions, THRESHOLD)
    strength = strength_by_order(interactions, salient, salient.to(interactions.effects)).generalizable.sum(dim=1).mean(dim=0)
    expected = fit_decay_and_spindle(strength).weights
    weights = weighed(OrderShape(), interactions).weights
    effects, orders = interactions.effects, coalition_orders(NUM_PLAYERS)
    assert len(expected.unique()) > 3
    for order in range(1, NUM_PLAYERS + 1):
        own_weights, own_effects = weights[..., orders == order], effects[..., orders == order]
        assert bool((own_weights[own_effects > 0] == expected[0, order]).all())
        assert bool((own_weights[own_effects < 0] == expected[1, order]).all())


def test_the_chance_level_of_the_shape_knows_no_sign() -> None:
    interactions = interactions_of_tables(0)
    found = weighed(OrderShape(), interactions)
    orders = coalition_orders(NUM_PLAYERS)
    assert all(len(found.chance_weights[..., orders == order].unique()) == 1 for order in range(1, NUM_PLAYERS + 1))
    opposite = Interactions(-interactions.effects, -interactions.offset)
    torch.testing.assert_close(weighed(OrderShape(), opposite).chance_weights, found.chance_weights)


def test_the_shape_leaves_inputs_of_nan_out() -> None:
    interactions = interactions_of_tables(0)
    rest = interactions.select([0, 2, 3, 4, 5])
    broken = weighed(OrderShape(), with_nan_input(interactions)).weights
    torch.testing.assert_close(broken[[0, 2, 3, 4, 5]], weighed(OrderShape(), rest).weights)


def test_nothing_measured_has_no_shape() -> None:
    nothing = Interactions(*(torch.full_like(tensor, torch.nan) for tensor in vars(interactions_of_tables(0)).values()))
    assert weighed(OrderShape(), nothing).weights.isnan().all()
