import sys

import pytest
import torch
from matplotlib import pyplot
from shapiq import ExactComputer, InteractionValues
from torch import Tensor

from lightning_interactions.functional import extract_interactions, mobius_transform, reconstruct_values
from lightning_interactions.records import Interactions
from lightning_interactions.reporting import from_shapiq, to_shapiq
from tests.helpers.games import random_network_tables


@pytest.fixture
def values() -> Tensor:
    return random_network_tables(4, 3, torch.Generator().manual_seed(0))


@pytest.fixture
def interactions(values: Tensor) -> Interactions:
    return extract_interactions(values)


def test_there_and_back_is_the_same(interactions: Interactions) -> None:
    back = from_shapiq(to_shapiq(interactions, "and"), to_shapiq(interactions, "or"))
    assert torch.equal(back.effects, interactions.effects)
    assert torch.equal(back.offset, interactions.offset)


def test_effects_stand_at_their_players() -> None:
    effects = torch.zeros(1, 2, 8)
    effects[0, 0, 0b101], effects[0, 1, 0b110] = 2.0, -3.0
    interactions = Interactions(effects, torch.tensor([0.5]))
    (and_values,), (or_values,) = to_shapiq(interactions, "and"), to_shapiq(interactions, "or")
    assert and_values.interactions == {(): 0.5, (0, 2): 2.0}
    assert and_values.baseline_value == 0.5
    assert or_values.interactions == {(): 0.0, (1, 2): -3.0}
    assert and_values.n_players == and_values.max_order == 3


def test_and_effects_are_what_shapiq_computes(values: Tensor) -> None:
    and_effects = mobius_transform(values - values[:, :1])
    pure = Interactions(torch.stack([and_effects, torch.zeros_like(values)], dim=1), values[:, 0])

    def game(coalitions: object) -> object:
        index = (torch.as_tensor(coalitions).long() * 2 ** torch.arange(4)).sum(dim=1)
        return values[0, index].numpy()

    expected = ExactComputer(game, n_players=4)("Moebius", order=4)
    (converted, *_) = to_shapiq(pure, "and")
    for members, effect in expected.interactions.items():
        if members:
            assert converted[members] == pytest.approx(float(effect), abs=1e-9)


def test_what_shapiq_computes_becomes_interactions(values: Tensor) -> None:
    def game(coalitions: object) -> object:
        index = (torch.as_tensor(coalitions).long() * 2 ** torch.arange(4)).sum(dim=1)
        return values[1, index].numpy()

    computed = ExactComputer(game, n_players=4)("Moebius", order=4)
    torch.testing.assert_close(reconstruct_values(from_shapiq([computed])), values[1:2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("effect_type", ["and", "or"])
def test_its_plots_draw_them(interactions: Interactions, effect_type: str) -> None:
    (converted, *_) = to_shapiq(interactions, effect_type)
    figure = converted.plot_upset(show=False)
    assert figure is not None
    pyplot.close("all")


def test_an_unknown_type_is_refused(interactions: Interactions) -> None:
    with pytest.raises(ValueError, match=r"among \('and', 'or'\), got 'xor'"):
        to_shapiq(interactions, "xor")


def test_other_indices_are_refused() -> None:
    shapley = InteractionValues({(0,): 1.0, (1,): 2.0}, index="SV", min_order=0, max_order=1, n_players=2)
    with pytest.raises(ValueError, match=r"index 'Moebius'\), got \['SV'\]"):
        from_shapiq([shapley])


def test_values_that_do_not_belong_together_are_refused(interactions: Interactions) -> None:
    converted = to_shapiq(interactions, "and")
    with pytest.raises(ValueError, match="got 3 inputs with AND and 2 with OR"):
        from_shapiq(converted, converted[:2])
    with pytest.raises(ValueError, match="got 0 inputs"):
        from_shapiq([])
    of_two_players = InteractionValues({(0,): 1.0}, index="Moebius", min_order=0, max_order=2, n_players=2)
    with pytest.raises(ValueError, match=r"players \[2, 4\]"):
        from_shapiq([converted[0], of_two_players])


def test_without_shapiq_the_error_says_how_to_install_it(interactions: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(ImportError, match="pip install 'shapiq"):
        to_shapiq(interactions, "and")
