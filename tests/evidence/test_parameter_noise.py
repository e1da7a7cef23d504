from contextlib import closing
from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.evidence import Evidence, ParameterNoise
from lightning_interactions.functional.extraction import extract_interactions
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups
from lightning_interactions.game.tasks import Regression
from lightning_interactions.records import EvidenceWeights, Interactions, Probes
from tests.evidence.games import THRESHOLD, ands


class Parameters(nn.Module):
    """Parameters of every kind, and nothing that is computed with them."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(3 + 2 * torch.randn(200, 100, generator=generator).to(dtype))
        self.bias = nn.Parameter(torch.randn(5, generator=generator).to(dtype))
        self.scale = nn.Parameter(torch.full((1,), 0.7, dtype=dtype))
        self.scalar = nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.zeros = nn.Parameter(torch.zeros(17, dtype=dtype))
        self.ones = nn.Parameter(torch.ones(33, dtype=dtype))
        self.frozen = nn.Parameter(torch.arange(4, dtype=dtype), requires_grad=False)
        self.counts = nn.Parameter(torch.arange(4), requires_grad=False)
        self.register_buffer("running_mean", torch.arange(4, dtype=dtype))

    def copies(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.state_dict().items()}


def noise_seen(evidence: ParameterNoise, model: nn.Module | None = None) -> list[dict[str, Tensor]]:
    """Parameters under each draw."""
    model = Parameters() if model is None else model
    return [{name: value.detach().clone() for name, value in rater.state_dict().items()} for rater in evidence.raters(model)]


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        assert torch.equal(actual[name].flatten().view(torch.uint8), value.flatten().view(torch.uint8)), name


# The weights


def test_parameter_noise_is_evidence() -> None:
    assert isinstance(ParameterNoise(), Evidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_come_back_bit_by_bit(dtype: torch.dtype) -> None:
    model = Parameters(dtype)
    with torch.no_grad():
        model.weight[0, :3] = torch.tensor([-0.0, 1e-30, 1e30])
        # Noise on a tensor with infinite spread is NaN, which must not stay.
        model.bias[0] = torch.inf
    before = model.copies()
    assert len(noise_seen(ParameterNoise(num_draws=3), model)) == 3
    assert_same_bits(model.copies(), before)


@pytest.mark.parametrize("fail_at", [1, 2])
def test_weights_come_back_when_a_rater_fails(fail_at: int) -> None:
    model, seen = Parameters(), []
    before = model.copies()

    def measure() -> None:
        with closing(ParameterNoise(num_draws=2).raters(model)) as raters:
            for _ in raters:
                seen.append(model.copies())
                if len(seen) == fail_at:
                    raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure()
    assert len(seen) == fail_at
    assert not torch.equal(seen[-1]["weight"], before["weight"])
    assert_same_bits(model.copies(), before)


def test_parameters_stay_the_same_objects_with_their_gradients() -> None:
    model = Parameters()
    model.weight.grad = torch.ones_like(model.weight)
    parameters = list(model.parameters())
    needs_gradient = [parameter.requires_grad for parameter in parameters]
    noise_seen(ParameterNoise(), model)
    assert all(after is before for after, before in zip(model.parameters(), parameters, strict=True))
    assert [parameter.requires_grad for parameter in parameters] == needs_gradient
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    assert model.weight.is_leaf
    assert model.bias.grad is None


def test_every_weight_tensor_is_noisy_in_proportion_to_its_spread() -> None:
    model = Parameters()
    before = model.copies()
    for draw in noise_seen(ParameterNoise(scale=0.25), model):
        added = draw["weight"] - before["weight"]
        spread = before["weight"].std(correction=0)
        assert added.std().item() == pytest.approx(0.25 * spread.item(), rel=0.03)
        assert abs(added.mean().item()) < 5 * 0.25 * spread.item() / 20_000**0.5
        # Gaussian, as far as one number can tell: for a uniform distribution it would be 0.58.
        within = (added.abs() < 0.25 * spread).double().mean().item()
        assert within == pytest.approx(0.683, abs=0.02)
        for name in ("bias", "frozen"):
            assert (draw[name] != before[name]).any()


@pytest.mark.parametrize("name", ["scale", "scalar", "zeros", "ones", "counts", "running_mean"])
def test_constant_and_one_element_tensors_and_buffers_stay(name: str) -> None:
    model = Parameters()
    before = model.copies()
    for draw in noise_seen(ParameterNoise(), model):
        assert torch.equal(draw[name], before[name])


@pytest.mark.parametrize("size", [3, 17, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_any_constant_value_stay(size: int, dtype: torch.dtype) -> None:
    # 0.1 is rounded, so a mean of many need not be 0.1.
    model = nn.ParameterList([nn.Parameter(torch.full((size,), 0.1, dtype=dtype))])
    assert all(torch.equal(draw["0"], torch.full((size,), 0.1, dtype=dtype)) for draw in noise_seen(ParameterNoise(), model))


def test_a_tensor_without_elements_stays() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.arange(3.0))])
    assert len(noise_seen(ParameterNoise(), model)) == 2
    assert model[0].shape == (0, 3)
    assert torch.equal(model[1], torch.arange(3.0))


# The draws


def test_draws_are_the_same_at_every_measurement() -> None:
    model, evidence = Parameters(), ParameterNoise(num_draws=2)
    first = noise_seen(evidence, model)
    torch.rand(7)
    for one, other in zip(first, noise_seen(evidence, model), strict=True):
        assert_same_bits(other, one)


def test_draws_differ_from_each_other_and_between_seeds() -> None:
    first, second = noise_seen(ParameterNoise(seed=0))
    other, _ = noise_seen(ParameterNoise(seed=1))
    assert not torch.isclose(first["weight"], second["weight"]).any(dim=1).all()
    assert (first["weight"] != second["weight"]).float().mean() > 0.99
    assert (first["weight"] != other["weight"]).float().mean() > 0.99


def test_the_noise_on_two_tensors_is_independent() -> None:
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    model = nn.ParameterList([nn.Parameter(weight.clone()), nn.Parameter(weight.clone())])
    (draw,) = noise_seen(ParameterNoise(num_draws=1), model)
    assert abs(torch.stack([draw["0"] - weight, draw["1"] - weight]).corrcoef()[0, 1].item()) < 0.2


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    noise_seen(ParameterNoise())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_draws", [1, 2, 5])
def test_each_draw_is_a_rater_that_is_the_model_itself(num_draws: int) -> None:
    model = Parameters()
    assert all(rater is model for rater in ParameterNoise(num_draws=num_draws).raters(model))
    assert len(list(ParameterNoise(num_draws=num_draws).raters(model))) == num_draws


# The weights of evidence


def test_an_interaction_must_keep_salience_and_sign_under_every_draw() -> None:
    monitored = ands(torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, -1.0, -1.0, -1.0]]))
    draws = [
        ands(torch.tensor([[0.0, 1.0, 1.0, 0.04], [0.0, -1.0, 1.0, -0.06]])),
        ands(torch.tensor([[0.0, 0.06, -1.0, 1.0], [0.0, -0.5, -1.0, -1.0]])),
    ]
    found = ParameterNoise(num_draws=2).weigh(monitored, THRESHOLD, ratings=draws)
    assert found.weights[:, 0].tolist() == [[0, 1, 0, 0], [0, 1, 0, 1]]
    assert not found.weights[:, 1].any()
    assert found.rater_score is None


@pytest.mark.parametrize(("threshold", "expected"), [(0.05, [0, 1, 1, 1]), (0.3, [0, 1, 1, 0]), (0.6, [0, 1, 0, 0])])
def test_the_threshold_is_that_of_the_raters(threshold: float, expected: list[float]) -> None:
    monitored, draw = ands(torch.tensor([[0.0, 1.0, 1.0, 1.0]])), ands(torch.tensor([[0.0, 1.0, 0.5, 0.2]]))
    assert ParameterNoise(num_draws=1).weigh(monitored, threshold, ratings=[draw]).weights[0, 0].tolist() == expected


class LinearWithKnifeEdge(nn.Module):
    """A linear score of the first two features, and an AND of all four that is there for exact weights only.

    The AND needs weights of its own to add up to 4 within 1 %: with all four players present it is 3; with fewer, or under
    noise on the weights, it is 0. It never is larger, so that noise on it cannot hide the linear effects. These have
    different signs: the sum of two single players is as sparse as the AND and the OR of both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.robust = nn.Parameter(torch.tensor([3.0, 3.1]))
        self.exact = nn.Parameter(torch.tensor([0.8, 1.2, 0.9, 1.1]))

    def forward(self, inputs: Tensor) -> Tensor:
        edge = (1 - (inputs @ self.exact - 4).abs() / 0.04).clamp(min=0)
        return inputs[:, 0] * self.robust[0] - inputs[:, 1] * self.robust[1] + 3 * edge


def knife_edge(evidence: ParameterNoise) -> tuple[Interactions, EvidenceWeights]:
    probes = Probes.of((torch.ones(2, 4), torch.zeros(2)))
    game, model = Game(probes, FeatureGroups(), {"": torch.zeros(())}, Regression()), LinearWithKnifeEdge()
    interactions, *ratings = (extract_interactions(game.values(one)) for one in chain([model], evidence.raters(model)))
    return interactions, evidence.weigh(interactions, THRESHOLD, ratings=ratings)


def test_robust_linear_effects_are_kept_and_a_knife_edge_of_high_order_is_lost() -> None:
    interactions, found = knife_edge(ParameterNoise())
    expected = torch.zeros(2, 16)
    expected[0, [1, 2, 15]] = torch.tensor([3.0, -3.1, 3.0])
    torch.testing.assert_close(interactions.effects, expected.expand(2, -1, -1), rtol=0, atol=1e-2)
    assert found.weights[:, 0, [1, 2, 15]].tolist() == [[1, 1, 0]] * 2


def test_hardly_any_noise_keeps_even_the_knife_edge() -> None:
    _, found = knife_edge(ParameterNoise(scale=0.001))
    assert (found.weights[:, 0, [1, 2, 15]] == 1).all()


def test_interactions_of_random_tables_do_not_survive_by_themselves() -> None:
    # What changes wholly with the weights is kept at chance level only.
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(3, 16, 16, generator=generator, dtype=torch.float64)
    monitored, *draws = (extract_interactions(table, tolerance=1e-3) for table in tables)
    found = ParameterNoise().weigh(monitored, THRESHOLD, ratings=draws)
    kept, chance = found.weights.mean().item(), found.chance_weights.mean().item()
    assert 0 < chance < 0.2
    assert kept == pytest.approx(chance, abs=0.05)


# Errors


@pytest.mark.parametrize("arguments", [{"scale": 0.0}, {"scale": -0.6}, {"num_draws": 0}, {"num_draws": -1}])
def test_settings_that_add_no_noise_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ParameterNoise: expected scale > 0 and num_draws >= 1, got scale=") as caught:
        ParameterNoise(**arguments)  # type: ignore[arg-type]
    assert all(f"{name}={value}" in str(caught.value) for name, value in arguments.items())


def test_a_scale_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="expected scale > 0"):
        ParameterNoise(scale=float("nan"))
