"""The theory of the second phase, asked of a whole run."""

from dataclasses import replace

import pytest
import torch

from lightning_interactions.analysis.second_phase import explain_second_phase
from lightning_interactions.analysis.summary import mean_order_of
from lightning_interactions.functional.coalitions import coalition_orders
from lightning_interactions.functional.extraction.extract import extract_interactions
from lightning_interactions.functional.parameter_noise import noisy_learning_effects
from lightning_interactions.functional.strength import salient_mask, strength_by_order, total_strength
from lightning_interactions.records import History, Interactions, Measurement, OrderStrength
from tests.helpers.games import random_network_tables
from tests.helpers.histories import history_from_strengths, with_phases

VARIANCES = (0.5, 0.2, 0.05)
NUM_INPUTS = 4


@pytest.fixture
def final() -> Interactions:
    """Interactions of three players."""
    tables = random_network_tables(3, NUM_INPUTS, torch.Generator().manual_seed(0))
    return extract_interactions(tables + 0.5)


def measurement_of(interactions: Interactions, epoch: int) -> Measurement:
    """Make a measurement with the strengths of these interactions, half of them generalizable."""
    inputs = torch.ones(1, len(interactions))
    (measurement,) = history_from_strengths(inputs, inputs, epochs=[epoch])
    salient = salient_mask(interactions, 0.05)
    strength = strength_by_order(interactions, salient, torch.full_like(interactions.effects, 0.5))
    return with_strength(measurement, strength)


def with_strength(measurement: Measurement, strength: OrderStrength) -> Measurement:
    totals = {name: total_strength(part) for name, part in vars(strength).items()}
    return replace(measurement, training=replace(measurement.training, strength=strength, **totals))


def run_of(final: Interactions, phases: list[int]) -> History:
    """Learn under falling noise, after one measurement in which only high orders are there, up to ``final`` and beyond."""
    high = Interactions(final.effects * (coalition_orders(3) == 3), final.offset)
    learned = [noisy_learning_effects(final, variance) for variance in VARIANCES]
    return with_phases([measurement_of(each, 2 * time) for time, each in enumerate([high, *learned, final, final])], phases)


def test_the_noise_is_found_between_the_smallest_mean_order_and_phase_3(final: Interactions) -> None:
    history = run_of(final, [1, 1, 2, 2, 3, 3])
    orders = [mean_order_of(measurement.training) for measurement in history.measurements]
    assert min(orders) == orders[1]
    second_phase, explained = explain_second_phase(history, final)
    assert explained.epochs == [2, 4, 6]
    assert second_phase.variance.tolist() == pytest.approx(list(VARIANCES), rel=1e-3)
    assert second_phase.r_squared.tolist() == pytest.approx([1, 1, 1])


def test_the_explained_part_keeps_the_settings_of_the_run(final: Interactions) -> None:
    history = replace(run_of(final, [1, 1, 2, 2, 3, 3]), settings={"loss_unit": "nats"})
    assert explain_second_phase(history, final)[1].settings == history.settings


def test_without_phase_3_the_last_measurement_is_explained(final: Interactions) -> None:
    second_phase, explained = explain_second_phase(run_of(final, 6 * [1]), final)
    assert explained.epochs == [2, 4, 6, 8]
    assert second_phase.variance[-1] == 0


def test_condensed_measurements_are_explained_by_their_means(final: Interactions) -> None:
    history = run_of(final, [1, 1, 2, 2, 3, 3])
    condensed = [replace(one, training=one.training.condensed()) for one in history.measurements[:3]]
    mixed = replace(history, measurements=(*condensed, *history.measurements[3:]))
    found, explained = explain_second_phase(mixed, final)
    assert explained.epochs == [2, 4, 6]
    torch.testing.assert_close(found.strength, explain_second_phase(history, final)[0].strength)
    assert found.variance.tolist() == pytest.approx(list(VARIANCES), rel=1e-3)


def test_where_nothing_is_measured_there_is_nothing_to_explain(final: Interactions) -> None:
    history = run_of(final, 6 * [1])
    broken = Interactions(*(torch.full_like(part, torch.nan) for part in vars(final).values()))
    second_phase, explained = explain_second_phase(history, broken)
    assert explained.epochs == []
    assert second_phase.predicted.shape == (0, 4)


def test_inputs_of_nan_are_left_out_everywhere(final: Interactions) -> None:
    history = run_of(final, [1, 1, 2, 2, 3, 3])
    expected, _ = explain_second_phase(history, final)
    broken = Interactions(*(torch.cat([part, torch.full_like(part[:1], torch.nan)]) for part in vars(final).values()))
    whole = Interactions(*(torch.cat([part, part[:1]]) for part in vars(final).values()))
    of_whole = run_of(whole, [1, 1, 2, 2, 3, 3])
    found, _ = explain_second_phase(of_whole, broken)
    torch.testing.assert_close(found.variance, expected.variance)
    torch.testing.assert_close(found.strength, expected.strength)
    # The same if a measurement could not measure it.
    measurements = list(of_whole.measurements)
    measurements[2] = without_rows(measurements[2], slice(NUM_INPUTS, None))
    found, _ = explain_second_phase(replace(of_whole, measurements=tuple(measurements)), whole)
    torch.testing.assert_close(found.strength, expected.strength)


def without_rows(measurement: Measurement, rows: slice) -> Measurement:
    """Leave inputs out of a measurement."""
    parts = {name: part.clone() for name, part in vars(measurement.training.strength).items()}
    for part in parts.values():
        part[rows] = torch.nan
    return with_strength(measurement, OrderStrength(**parts))


def test_what_could_not_be_measured_before_or_after_the_second_phase_does_not_matter(final: Interactions) -> None:
    history = run_of(final, [1, 1, 2, 2, 3, 3])
    expected, expected_part = explain_second_phase(history, final)
    measurements = list(history.measurements)
    for time in (0, 5):
        measurements[time] = without_rows(measurements[time], slice(None))
    found, explained = explain_second_phase(replace(history, measurements=tuple(measurements)), final)
    assert explained.epochs == expected_part.epochs == [2, 4, 6]
    torch.testing.assert_close(found.variance, expected.variance)
