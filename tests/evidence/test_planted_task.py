"""A task in which it is known by construction what generalizes.

Three features carry the score in the same way for every input. Six others are a code that only tells inputs apart: the
network keeps the codes of its own training inputs in a table and adds to the score of each what the others cannot know.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.evidence import Evidence, InputAgreement, OrderShape, ParameterNoise, ReferenceModels
from lightning_interactions.functional import salient_mask
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups
from lightning_interactions.game.tasks import Regression
from lightning_interactions.measuring.extraction import Extraction
from lightning_interactions.measuring.split import Ranks, Split
from lightning_interactions.records import Probes, Rows, fingerprints

NUM_CARRIERS, NUM_CODE_BITS, NUM_INPUTS = 3, 6, 12
THRESHOLD = 0.05
# An even number of minus signs: two codes differ in two bits at least, so that no code is taken for another with a bit masked.
CODES = torch.tensor([code for code in itertools.product([-1.0, 1.0], repeat=NUM_CODE_BITS) if math.prod(code) > 0])


class Memoriser(nn.Module):
    """Knows how three features carry the score, and by heart what to add for some codes."""

    def __init__(self, codes: Tensor, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.carriers = nn.Parameter(torch.tensor([1.0, 1.5, 2.0]) + 0.1 * torch.randn(3, generator=generator))
        self.codes = nn.Parameter(codes.clone())
        sign = 1 - 2 * (torch.arange(len(codes)) % 2)
        self.heights = nn.Parameter(sign * (1 + torch.rand(len(codes), generator=generator)))

    def forward(self, inputs: Tensor) -> Tensor:
        features, code = inputs.split([NUM_CARRIERS, NUM_CODE_BITS], dim=1)
        # Fires for the very code, and a little when one bit of it is masked.
        recognised = torch.relu(code @ self.codes.T - (NUM_CODE_BITS - 1.5))
        return features @ self.carriers + features[:, 0] * features[:, 1] + recognised @ self.heights


def shuffled_codes() -> Tensor:
    return CODES[torch.randperm(len(CODES), generator=torch.Generator().manual_seed(0))]


def inputs_with(codes: Tensor, seed: int) -> Tensor:
    features = 1 + torch.rand(len(codes), NUM_CARRIERS, generator=torch.Generator().manual_seed(seed))
    return torch.cat([features, codes], dim=1)


def split_of(inputs: Tensor) -> Split:
    """Extract interactions on these inputs; the score is the output itself."""
    game = Game(Probes.of((inputs, torch.zeros(len(inputs)))), FeatureGroups(), {"": torch.zeros(())}, Regression())
    return Split(game, Extraction(tolerance=1e-3), Ranks(), chance_level=True)


TRAINING_CODES, HELD_OUT_CODES, REFERENCE_CODES = (
    shuffled_codes()[start : start + count] for start, count in ((0, NUM_INPUTS), (12, 8), (20, 12))
)


TRAINING_INPUTS, HELD_OUT_INPUTS = inputs_with(TRAINING_CODES, 2), inputs_with(HELD_OUT_CODES, 3)


def mean_weights(evidence: Evidence) -> tuple[float, float]:
    """Mean weights, by strength, of the salient interactions among carriers, and of those with bits of the code."""
    model = Memoriser(TRAINING_CODES, seed=1)
    training, held_out = split_of(TRAINING_INPUTS), split_of(HELD_OUT_INPUTS)
    interactions = training.interactions(model)
    weights = evidence.weigh(
        interactions,
        THRESHOLD,
        prepared=evidence.prepare(training),
        ratings=[training.interactions(rater) for rater in evidence.raters(model)],
        counterpart=held_out.interactions(model),
    ).weights
    strength = interactions.effects.abs() * salient_mask(interactions, THRESHOLD)
    with_code = coalition_masks(NUM_CARRIERS + NUM_CODE_BITS)[:, NUM_CARRIERS:].any(dim=1)
    weighted = strength * weights
    generalizable, memorised = (
        float(weighted[..., kind].sum() / strength[..., kind].sum()) for kind in (~with_code, with_code)
    )
    return generalizable, memorised


def test_the_network_memorises_its_own_inputs_only() -> None:
    model = Memoriser(TRAINING_CODES, seed=1)
    with_code = coalition_masks(NUM_CARRIERS + NUM_CODE_BITS)[:, NUM_CARRIERS:].any(dim=1)
    for inputs, expected in ((TRAINING_INPUTS, True), (HELD_OUT_INPUTS, False)):
        effects = split_of(inputs).interactions(model).effects
        memorised = (effects.abs().sum(dim=1) * with_code).sum(dim=1)
        assert bool(((memorised > 0.5) == expected).all())


REFERENCES = [Memoriser(REFERENCE_CODES, seed) for seed in (4, 5, 6)]

FOLDS = (slice(0, None, 2), slice(1, None, 2))
CROSS_FITTED = [Memoriser(TRAINING_CODES[fold], 7) for fold in FOLDS]
SEEN = [fingerprints(Rows.of(TRAINING_INPUTS[fold])) for fold in FOLDS]


@pytest.mark.parametrize(
    "evidence",
    [
        ReferenceModels(REFERENCES),
        ReferenceModels(REFERENCES, "all"),
        ReferenceModels(CROSS_FITTED, seen=SEEN, num_raters=1),
        ParameterNoise(),
        InputAgreement(),
        OrderShape(),
    ],
    ids=["references", "all references", "cross-fitted", "noise", "agreement", "shape"],
)
@pytest.mark.slow
def test_every_evidence_tells_what_generalizes_from_what_is_memorised(evidence: Evidence) -> None:
    generalizable, memorised = mean_weights(evidence)
    assert generalizable > 0.9
    assert memorised < 0.15


def test_models_that_rated_what_they_have_seen_would_be_taken_in() -> None:
    _, memorised = mean_weights(ReferenceModels(CROSS_FITTED))
    assert memorised > 0.5
