from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_interactions.analysis import summarise
from lightning_interactions.functional import reconstruct_values
from lightning_interactions.records import History
from lightning_interactions.reporting import RunRecord, export_tables, write_tables
from tests.helpers.run_records import some_history, some_run


def test_measurements_have_every_summary() -> None:
    run = some_run()
    table = export_tables(run)["measurements"]
    summaries = [summarise(measurement) for measurement in run.history.measurements]
    assert table["phase"].tolist() == [1, 1, 2, 3]
    for end in ("value", "low", "high"):
        ending = "" if end == "value" else f"_{end}"
        np.testing.assert_array_equal(
            table[f"training_share{ending}"], [getattr(summary.training.share, end) for summary in summaries]
        )
        np.testing.assert_array_equal(table[f"excess_gap{ending}"], [getattr(summary.excess_gap, end) for summary in summaries])
    np.testing.assert_array_equal(
        table["held_out_loss"], [summary.held_out.loss.value for summary in summaries if summary.held_out is not None]
    )


def test_inputs_are_every_probe_at_every_measurement() -> None:
    run = some_run()
    table = export_tables(run)["inputs"]
    training = table["split"] == "training"
    expected = torch.stack([measurement.training.loss for measurement in run.history.measurements])
    np.testing.assert_array_equal(table["loss"][training].reshape(4, 4), expected.numpy())
    assert table["probe"][training].reshape(4, 4)[0].tolist() == [0, 1, 2, 3]
    assert table["sample"][training].reshape(4, 4)[0].tolist() == [17, -1, 5, 6]
    assert set(table["sample"][~training].tolist()) == {-1}


def test_strength_by_order_adds_up_to_the_whole() -> None:
    run = some_run()
    tables = export_tables(run)
    orders = tables["orders"]
    last = (orders["epoch"] == 3) & (orders["split"] == "training")
    assert orders["generalizable"][last].sum() == pytest.approx(tables["measurements"]["training_generalizable"][-1])
    chosen = last & (orders["type"] == "or") & (orders["sign"] == "negative") & (orders["order"] == 3)
    expected = run.history.measurements[-1].training.strength.non_generalizable[:, 1, 1, 3].mean()
    assert orders["non_generalizable"][chosen] == pytest.approx([expected.item()])


def test_interactions_and_values_are_those_of_the_record() -> None:
    run = some_run()
    tables = export_tables(run)
    table = tables["interactions"]
    first = table["probe"] == 0
    assert list(zip(table["type"][first], table["players"][first], table["effect"][first], strict=True)) == [
        ("and", "a", 1.0),
        ("and", "b · c", -2.0),
        ("or", "a · c", 0.5),
    ]
    assert table["weight"][first].tolist() == [1, 0, 1]
    assert run.interactions is not None
    np.testing.assert_allclose(tables["values"]["value"].reshape(4, 8), reconstruct_values(run.interactions).numpy())


def test_what_a_record_does_not_have_is_left_out() -> None:
    assert list(export_tables(RunRecord(some_history(held_out=False)))) == ["measurements", "inputs", "orders"]
    assert np.isnan(export_tables(some_run(weights=None))["interactions"]["weight"]).all()
    with pytest.raises(ValueError, match="at least one measurement"):
        export_tables(RunRecord(History()))


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = export_tables(some_run(names=("<a>", "b", "ß")))
    (file,) = write_tables(tables, tmp_path / "run.npz")
    files = write_tables(tables, tmp_path / "run.parquet")
    assert [path.name for path in files] == [f"run.{name}.parquet" for name in tables]
    with np.load(file, allow_pickle=False) as arrays:
        for path, (name, table) in zip(files, tables.items(), strict=True):
            columns = parquet.read_table(path).to_pydict()
            for column, values in table.items():
                np.testing.assert_array_equal(arrays[f"{name}/{column}"], values)
                np.testing.assert_array_equal(np.asarray(columns[column]), values)


def test_an_npz_has_the_columns_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = export_tables(some_run())
    columns = {f"{name}/{column}" for name, table in tables.items() for column in table}
    given: dict[str, object] = {}
    # Older numpy takes whatever it does not know for an array.
    monkeypatch.setattr(np, "savez_compressed", lambda _file, **arrays: given.update(arrays))
    write_tables(tables, tmp_path / "run.npz")
    assert set(given) == columns


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_columns_of_objects_are_refused(tmp_path: Path, ending: str) -> None:
    tables = {"one": {"good": np.arange(2), "bad": np.array([{}, None])}}
    with pytest.raises(ValueError, match="one/bad"):
        write_tables(tables, tmp_path / f"run.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.npz or \.parquet"):
        write_tables(export_tables(some_run()), tmp_path / "run.csv")


def test_a_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'pyarrow"):
        write_tables(export_tables(some_run()), tmp_path / "run.parquet")
