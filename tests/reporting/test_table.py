import math
from collections.abc import Sequence

import pytest
import torch

from lightning_interactions.analysis import summarise
from lightning_interactions.records import History, Measurement
from lightning_interactions.reporting import history_table
from tests.helpers.histories import history_from_strengths, with_phases


def some_measurements(times: int = 4, *, held_out: bool = True) -> tuple[Measurement, ...]:
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, times, 3, generator=generator, dtype=torch.float64) + 0.5
    g[1:, 0] = torch.nan
    return history_from_strengths(g, u, excess[:, :2] if held_out else None, chance=0.3)


def cells(history: History) -> list[list[str]]:
    """Cells of the table below the headers; words of a header are set apart by two spaces."""
    return [line.split() for line in history_table(history).splitlines()[2:]]


def three_digits(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.3f}" for number in numbers]


def test_the_table_has_one_row_a_measurement() -> None:
    measurements = some_measurements(4)
    rows = cells(with_phases(measurements, [1, 1, 2, 3]))
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert [row[1] for row in rows] == ["0", "10", "20", "30"]
    assert [row[12] for row in rows] == ["1", "1", "2", "3"]
    for row, measurement in zip(rows, measurements, strict=True):
        summary = summarise(measurement)
        training, held_out = summary.training, summary.held_out
        assert held_out is not None
        before = (training.loss, held_out.loss, training.generalizable, training.non_generalizable, training.share)
        after = (training.share_chance, training.mean_order, summary.excess_gap)
        assert row[2:7] == three_digits([estimate.value for estimate in before])
        assert row[8:11] == three_digits([estimate.value for estimate in after])
        for cell, estimate in ((row[7], training.share), (row[11], summary.excess_gap)):
            assert cell == f"{estimate.low:.2f}..{estimate.high:.2f}"
        assert row[13] == "0.500"


def test_the_headers_name_the_columns() -> None:
    header = history_table(with_phases(some_measurements(1), [1])).splitlines()[0]
    names = ("epoch", "step", "training loss", "held-out loss", "generalizable", "non-generalizable", "share", "(interval)")
    positions = [header.index(name) for name in (*names, "chance", "mean order", "excess gap", "phase", "seconds")]
    assert positions == sorted(positions)
    assert header.index("excess gap") < header.rindex("(interval)") < header.index("phase")


def test_missing_held_out_numbers_are_dashes() -> None:
    rows = cells(with_phases(some_measurements(2, held_out=False), [1, 1]))
    assert [[row[3], row[10], row[11]] for row in rows] == [["-", "-", "-"]] * 2
    assert all(math.isfinite(float(cell)) for row in rows for cell in row[:3] + row[4:7] + row[8:10] + row[12:])


def test_only_rows_without_held_out_probes_have_dashes() -> None:
    without, with_held_out = some_measurements(1, held_out=False), some_measurements(2)[1:]
    rows = cells(with_phases((*without, *with_held_out), [1, 1]))
    assert ["-" in row for row in rows] == [True, False]


def test_a_history_prints_its_table() -> None:
    history = with_phases(some_measurements(), [1, 1, 2, 3])
    assert str(history) == history_table(history)


@pytest.mark.parametrize("history", [History(), History(settings={"loss_unit": "nats"})])
def test_an_empty_history_prints_its_headers(history: History) -> None:
    assert "non-generalizable" in history_table(history)
    assert cells(history) == []
