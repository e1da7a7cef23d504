from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.evidence import Evidence, ParameterNoise
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups
from lightning_interactions.measuring.meter import interactions_on_probes
from lightning_interactions.records import Interactions, Probes, Verdict

THRESHOLD = 0.05


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


class Watch:
    """Keeps what the parameters are each time interactions are asked for."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.fail_at = fail_at

    def __call__(self, model: nn.Module) -> Interactions:
        assert isinstance(model, Parameters)
        self.seen.append(model.copies())
        if len(self.seen) == self.fail_at:
            raise RuntimeError("out of memory")
        return some_interactions()


def some_interactions() -> Interactions:
    and_effects = torch.tensor([[0.0, 1.0, -1.0, 0.5], [0.0, 1.0, 1.0, 0.5]])
    return Interactions(and_effects, torch.zeros_like(and_effects), torch.zeros(2))


def noise_seen(evidence: ParameterNoise, model: nn.Module | None = None) -> list[dict[str, Tensor]]:
    watch = Watch()
    evidence.prepare(watch, THRESHOLD)(Parameters() if model is None else model, some_interactions())
    return watch.seen


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
def test_weights_come_back_when_extraction_fails(fail_at: int) -> None:
    model, watch = Parameters(), Watch(fail_at)
    before = model.copies()
    judge = ParameterNoise(num_draws=2).prepare(watch, THRESHOLD)
    with pytest.raises(RuntimeError, match="out of memory"):
        judge(model, some_interactions())
    assert len(watch.seen) == fail_at
    assert not torch.equal(watch.seen[-1]["weight"], before["weight"])
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
    seen = []

    def interactions_of(noisy: nn.Module) -> Interactions:
        seen.append(next(noisy.parameters()).detach().clone())
        return some_interactions()

    ParameterNoise().prepare(interactions_of, THRESHOLD)(model, some_interactions())
    assert all(torch.equal(draw, torch.full((size,), 0.1, dtype=dtype)) for draw in seen)


def test_a_tensor_without_elements_stays() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.arange(3.0))])
    ParameterNoise().prepare(lambda _model: some_interactions(), THRESHOLD)(model, some_interactions())
    assert model[0].shape == (0, 3)
    assert torch.equal(model[1], torch.arange(3.0))


# The draws


def test_draws_are_the_same_at_every_measurement() -> None:
    model, watch = Parameters(), Watch()
    judge = ParameterNoise(num_draws=2).prepare(watch, THRESHOLD)
    judge(model, some_interactions())
    torch.rand(7)
    judge(model, some_interactions())
    assert len(watch.seen) == 4
    assert_same_bits(watch.seen[2], watch.seen[0])
    assert_same_bits(watch.seen[3], watch.seen[1])


def test_draws_differ_from_each_other_and_between_seeds() -> None:
    first, second = noise_seen(ParameterNoise(seed=0))
    other, _ = noise_seen(ParameterNoise(seed=1))
    assert not torch.isclose(first["weight"], second["weight"]).any(dim=1).all()
    assert (first["weight"] != second["weight"]).float().mean() > 0.99
    assert (first["weight"] != other["weight"]).float().mean() > 0.99


def test_the_noise_on_two_tensors_is_independent() -> None:
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    model = nn.ParameterList([nn.Parameter(weight.clone()), nn.Parameter(weight.clone())])
    added = []

    def interactions_of(noisy: nn.Module) -> Interactions:
        added.append(torch.stack([parameter.detach() - weight for parameter in noisy.parameters()]))
        return some_interactions()

    ParameterNoise(num_draws=1).prepare(interactions_of, THRESHOLD)(model, some_interactions())
    assert abs(added[0].corrcoef()[0, 1].item()) < 0.2


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    noise_seen(ParameterNoise())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_draws", [1, 2, 5])
def test_each_draw_is_one_extraction_of_the_same_model(num_draws: int) -> None:
    model, asked = Parameters(), []

    def interactions_of(noisy: nn.Module) -> Interactions:
        asked.append(noisy)
        return some_interactions()

    judge = ParameterNoise(num_draws=num_draws).prepare(interactions_of, THRESHOLD)
    assert asked == []
    judge(model, some_interactions())
    assert len(asked) == num_draws
    assert all(noisy is model for noisy in asked)


# The verdict


def scripted(answers: list[Tensor]) -> Callable[[nn.Module], Interactions]:
    """Answer with these AND effects, one a draw."""
    left = iter(answers)

    def interactions_of(_model: nn.Module) -> Interactions:
        and_effects = next(left)
        return Interactions(and_effects, torch.zeros_like(and_effects), torch.zeros(len(and_effects)))

    return interactions_of


def test_an_interaction_must_keep_salience_and_sign_under_every_draw() -> None:
    monitored = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, -1.0, -1.0, -1.0]])
    draws = [
        torch.tensor([[0.0, 1.0, 1.0, 0.04], [0.0, -1.0, 1.0, -0.06]]),
        torch.tensor([[0.0, 0.06, -1.0, 1.0], [0.0, -0.5, -1.0, -1.0]]),
    ]
    interactions = Interactions(monitored, torch.zeros_like(monitored), torch.zeros(2))
    judge = ParameterNoise(num_draws=2).prepare(scripted(draws), THRESHOLD)
    verdict = judge(Parameters(), interactions)
    assert verdict.weights[:, 0].tolist() == [[0, 1, 0, 0], [0, 1, 0, 1]]
    assert not verdict.weights[:, 1].any()


def test_the_threshold_is_that_of_prepare() -> None:
    monitored = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    interactions = Interactions(monitored, torch.zeros_like(monitored), torch.zeros(1))
    weights = []
    for threshold in (0.05, 0.3, 0.6):
        draws = [torch.tensor([[0.0, 1.0, 0.5, 0.2]])]
        judge = ParameterNoise(num_draws=1).prepare(scripted(draws), threshold)
        weights.append(judge(Parameters(), interactions).weights[0, 0].tolist())
    assert weights == [[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]]


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


def knife_edge_verdict(evidence: ParameterNoise) -> tuple[Interactions, Verdict]:
    inputs = torch.ones(2, 4)
    game = Game(Probes(inputs, torch.zeros(2)), FeatureGroups(), torch.zeros(()), score=lambda outputs, _targets: outputs)
    interactions_of = interactions_on_probes(game)
    model = LinearWithKnifeEdge()
    interactions = interactions_of(model)
    return interactions, evidence.prepare(interactions_of, THRESHOLD)(model, interactions)


def test_robust_linear_effects_are_kept_and_a_knife_edge_of_high_order_is_lost() -> None:
    interactions, verdict = knife_edge_verdict(ParameterNoise())
    expected = torch.zeros(2, 16)
    expected[0, [1, 2, 15]] = torch.tensor([3.0, -3.1, 3.0])
    torch.testing.assert_close(interactions.effects, expected.expand(2, -1, -1), rtol=0, atol=1e-2)
    assert verdict.weights[:, 0, [1, 2, 15]].tolist() == [[1, 1, 0]] * 2


def test_hardly_any_noise_keeps_even_the_knife_edge() -> None:
    _, verdict = knife_edge_verdict(ParameterNoise(scale=0.001))
    assert (verdict.weights[:, 0, [1, 2, 15]] == 1).all()


def test_interactions_of_random_tables_do_not_survive_by_themselves() -> None:
    # What changes wholly with the weights is kept at chance level only.
    generator = torch.Generator().manual_seed(0)

    def interactions_of(_model: nn.Module) -> Interactions:
        return extract_interactions(torch.randn(16, 16, generator=generator, dtype=torch.float64))

    verdict = ParameterNoise().prepare(interactions_of, THRESHOLD)(Parameters(), interactions_of(Parameters()))
    kept, chance = verdict.weights.mean().item(), verdict.chance_weights.mean().item()
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
