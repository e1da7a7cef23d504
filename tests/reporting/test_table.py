import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement, TimePoint
from lightning_interactions.records.measurement import INPUT_FIELDS
from lightning_interactions.reporting import history_table
from lightning_interactions.reporting.table import HEADERS
from tests.helpers.histories import history_from_strengths, with_phases


def some_measurements(times: int = 4, *, held_out: bool = True) -> tuple[Measurement, ...]:
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, times, 3, generator=generator, dtype=torch.float64) + 0.5
    g[1:, 0] = torch.nan
    return history_from_strengths(g, u, excess[:, :2] if held_out else None, chance=0.3)


def cells(history: History) -> list[list[str]]:
    """Cells of the table below two lines of headers and a rule."""
    return [line.split() for line in history_table(history).splitlines()[3:]]


def three_digits(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.3f}" for number in numbers]


def test_the_table_has_one_row_a_measurement() -> None:
    measurements = some_measurements(4)
    rows = cells(with_phases(measurements, [1, 1, 2, 3]))
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert [row[1] for row in rows] == ["0", "10", "20", "30"]
    assert [row[11] for row in rows] == ["1", "1", "2", "3"]
    for row, measurement in zip(rows, measurements, strict=True):
        summary = summarise(measurement)
        training, held_out = summary.training, summary.held_out
        assert held_out is not None
        before = (training.loss, held_out.loss, training.generalizable, training.non_generalizable, training.share)
        after = (training.share_chance, summary.excess_gap)
        assert row[2:7] == three_digits([estimate.value for estimate in before])
        assert row[8:10] == three_digits([estimate.value for estimate in after])
        for cell, estimate in ((row[7], training.share), (row[10], summary.excess_gap)):
            assert cell == f"{estimate.low:.2f}..{estimate.high:.2f}"
        assert row[12] == "0.5"


def test_the_headers_name_the_columns() -> None:
    first, second = (line.split("  ") for line in history_table(with_phases(some_measurements(1), [1])).splitlines()[:2])
    assert [word.strip() for word in second if word.strip()] == list(HEADERS[1])
    assert [word.strip() for word in first if word.strip()] == [word for word in HEADERS[0] if word]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_row_fits_120_columns(scale: float) -> None:
    (one,) = some_measurements(1)
    training = replace(one.training, **{name: getattr(one.training, name) * scale for name in INPUT_FIELDS})
    held_out = replace(one.held_out, loss=one.held_out.loss * scale) if one.held_out else None
    late = replace(one, time=TimePoint(1000, 123456), training=training, held_out=held_out, seconds=3600.0)
    lines = history_table(with_phases([*some_measurements(2), late], [1, 1, 2])).splitlines()
    assert max(map(len, lines)) <= 120


def test_missing_held_out_numbers_are_dashes() -> None:
    rows = cells(with_phases(some_measurements(2, held_out=False), [1, 1]))
    assert [[row[3], row[9], row[10]] for row in rows] == [["-", "-", "-"]] * 2
    assert all(math.isfinite(float(cell)) for row in rows for cell in row[:3] + row[4:7] + row[8:9] + row[11:])


def test_only_rows_without_held_out_probes_have_dashes() -> None:
    without, with_held_out = some_measurements(1, held_out=False), some_measurements(2)[1:]
    rows = cells(with_phases((*without, *with_held_out), [1, 1]))
    assert ["-" in row for row in rows] == [True, False]


def test_a_history_prints_its_table() -> None:
    history = with_phases(some_measurements(), [1, 1, 2, 3])
    assert str(history) == history_table(history)


@pytest.mark.parametrize("history", [History(), History(settings={"loss_unit": "nats"})])
def test_an_empty_history_prints_its_headers(history: History) -> None:
    assert history_table(history).splitlines()[1].split() == list(HEADERS[1])
    assert cells(history) == []
