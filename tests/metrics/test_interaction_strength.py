import copy
import pickle

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.metrics import InteractionStrength
from tests.helpers import oracles
from tests.helpers.games import random_network_tables

NUM_PLAYERS = 4


@pytest.fixture
def values() -> Tensor:
    return random_network_tables(NUM_PLAYERS, 9, torch.Generator().manual_seed(0)) + 0.4


def expected_strength(values: Tensor, threshold: float = 0.05) -> Tensor:
    """Mean strength of salient interactions by order, from the subset loop."""
    strength = oracles.salient_strength_by_order(extract_interactions(values), threshold)
    return strength.sum(dim=(1, 2)).mean(dim=0)


def updated(values: Tensor, sizes: tuple[int, ...] = (4, 1, 4), **settings: float) -> InteractionStrength:
    metric = InteractionStrength(NUM_PLAYERS, **settings)
    for part in values.split(list(sizes)):
        metric.update(part)
    return metric


def assert_strength(actual: Tensor, expected: Tensor, rtol: float = 1e-3) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("sizes", [(9,), (4, 1, 4), (1,) * 9])
@pytest.mark.slow
def test_strength_over_updates_is_that_of_all_inputs_at_once(values: Tensor, sizes: tuple[int, ...]) -> None:
    strength = updated(values, sizes).compute()
    assert strength.shape == (NUM_PLAYERS + 1,)
    assert strength[0] == 0
    assert (strength[1:] > 0).all()
    assert_strength(strength, expected_strength(values))


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_the_threshold_decides_what_counts(values: Tensor, threshold: float) -> None:
    expected = expected_strength(values, threshold)
    assert not torch.allclose(expected, expected_strength(values), rtol=1e-2)
    assert_strength(updated(values, threshold=threshold).compute(), expected)


def test_forward_returns_the_batch_and_adds_it_up(values: Tensor) -> None:
    metric = InteractionStrength(NUM_PLAYERS)
    for part in values.split([4, 1, 4]):
        assert_strength(metric(part), expected_strength(part))
    assert_strength(metric.compute(), expected_strength(values))


def test_states_of_processes_add_up(values: Tensor) -> None:
    # What torchmetrics does on every process: gather the states, stack them, reduce them.
    parts = [updated(values[:3], (3,)), updated(values[3:], (6,))]
    metric = InteractionStrength(NUM_PLAYERS)
    metric.update(values[:1])
    for name, reduce in metric._reductions.items():
        assert callable(reduce)
        setattr(metric, name, reduce(torch.stack([getattr(part, name) for part in parts])))
    assert_strength(metric.compute(), expected_strength(values))


def test_reset_forgets(values: Tensor) -> None:
    metric = updated(values)
    metric.reset()
    metric.update(values[:2])
    assert_strength(metric.compute(), expected_strength(values[:2]))


@pytest.mark.parametrize(
    "duplicate",
    [lambda metric: metric.clone(), copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))],
    ids=["clone", "deepcopy", "pickle"],
)
def test_copies_go_on_by_themselves(values: Tensor, duplicate: object) -> None:
    metric = updated(values[:5], (5,), threshold=0.3)
    assert callable(duplicate)
    other = duplicate(metric)
    assert isinstance(other, InteractionStrength)
    other.update(values[5:])
    assert_strength(other.compute(), expected_strength(values, 0.3))
    assert_strength(metric.compute(), expected_strength(values[:5], 0.3))


def test_states_survive_a_checkpoint(values: Tensor) -> None:
    metric = updated(values)
    metric.persistent(True)
    loaded = InteractionStrength(NUM_PLAYERS)
    loaded.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    loaded.update(values[:3])
    assert_strength(loaded.compute(), expected_strength(torch.cat([values, values[:3]])))


def test_it_lives_in_a_metric_collection(values: Tensor) -> None:
    collection = MetricCollection({"strength": InteractionStrength(NUM_PLAYERS)})
    collection.update(values)
    assert isinstance(collection["strength"], Metric)
    assert_strength(collection.compute()["strength"], expected_strength(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strength_is_in_score_units(values: Tensor, dtype: torch.dtype) -> None:
    metric = updated((100 * values).to(dtype))
    assert_strength(metric.compute(), 100 * expected_strength(values), rtol=1e-2)


@pytest.mark.parametrize("shape", [(2, 8), (2, 32), (16,), (2, 2, 16), (2, 15)])
def test_values_of_another_number_of_players_are_refused(shape: tuple[int, ...]) -> None:
    metric = InteractionStrength(NUM_PLAYERS)
    with pytest.raises(
        ValueError, match=r"InteractionStrength: expected values \[inputs, 16\] of 4 players, got shape"
    ) as caught:
        metric.update(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_values_that_are_not_finite_are_refused(values: Tensor) -> None:
    values[1, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        InteractionStrength(NUM_PLAYERS).update(values)


def test_an_update_of_no_inputs_changes_nothing(values: Tensor) -> None:
    metric = updated(values)
    metric.update(values[:0])
    assert_strength(metric.compute(), expected_strength(values))
