"""A run as tables of plain columns, for other programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_interactions.analysis import summarise
from lightning_interactions.functional import reconstruct_values
from lightning_interactions.records import EFFECT_TYPES, SIGNS, Estimate, SplitMeasurement
from lightning_interactions.records.measurement import INPUT_FIELDS
from lightning_interactions.reporting.run_record import RunRecord

__all__ = ["Table", "export_tables", "write_tables"]

Table = Mapping[str, NDArray[Any]]
"""Columns of equal length by their names."""

KINDS = ("generalizable", "non_generalizable", "non_salient")


def export_tables(run: RunRecord) -> dict[str, Table]:
    """Turn all that is known of a run into tables.

    | Table | One row for each |
    | --- | --- |
    | ``measurements`` | measurement: moment, seconds, phase, and every summary with both ends of its 95 % interval |
    | ``inputs`` | probe at each measurement: strengths, scores and losses |
    | ``orders`` | measurement, split, type, sign and order: mean strength of each kind |
    | ``interactions`` | interaction that is not zero, on each training probe: players as bits, effect, how far it generalizes |
    | ``values`` | training probe and coalition: the value ``v(S)``, rebuilt from the interactions |

    The last two are of the first measurement in phase 3, else of the last; they are left out where the run does not have them.

    Args:
        run: With at least one measurement.

    Raises:
        ValueError: If nothing was measured.
    """
    run.check_measured()
    tables: dict[str, Table] = {"measurements": _measurements(run), "inputs": _inputs(run), "orders": _orders(run)}
    if run.interactions is not None:
        tables |= {"interactions": _interactions(run), "values": _values(run)}
    return tables


def write_tables(tables: Mapping[str, Table], path: str | Path) -> list[Path]:
    """Write tables: to one ``.npz`` of arrays ``table/column``, or to a ``.parquet`` for each, named by its table.

    Args:
        tables: What :func:`export_tables` gave.
        path: ``run.npz``; or ``run.parquet`` for ``run.measurements.parquet`` and so on.

    Returns:
        The files.

    Raises:
        ValueError: If the file is named otherwise, or a column holds Python objects.
        ModuleNotFoundError: If pyarrow is missing, for Parquet.
        OSError: If a file cannot be written.
    """
    path = Path(path)
    # Such a column would be pickled, which other programs cannot read and nobody should.
    columns = {f"{name}/{column}": values for name, table in tables.items() for column, values in table.items()}
    objects = [name for name, values in columns.items() if values.dtype.hasobject]
    if objects:
        raise ValueError(f"export: expected columns of numbers and strings, got Python objects in {', '.join(objects)}")
    if path.suffix == ".npz":
        np.savez_compressed(path, **columns)  # type: ignore[arg-type]  # No column is called as an option of it is.
        return [path]
    if path.suffix != ".parquet":
        raise ValueError(f"export: expected a file that ends in .npz or .parquet, got {path}")
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "export: expected pyarrow to write Parquet, which is not installed; pip install 'pyarrow>=16', or write .npz"
        ) from error
    files = []
    for name, table in tables.items():
        files.append(path.with_suffix(f".{name}.parquet"))
        parquet.write_table(arrow.table(dict(table)), files[-1])
    return files


def _measurements(run: RunRecord) -> Table:
    columns: dict[str, list[Any]] = {}

    def add(name: str, value: float) -> None:
        columns.setdefault(name, []).append(value)

    for measurement, phase in zip(run.history.measurements, run.history.phases, strict=True):
        add("epoch", measurement.time.epoch)
        add("step", measurement.time.step)
        add("seconds", measurement.seconds)
        add("phase", phase.number)
        add("phase_onset_epoch", phase.onset.epoch)
        add("phase_onset_step", phase.onset.step)
        add("phase_confidence", phase.confidence)
        summary = summarise(measurement)
        for split in ("training", "held_out"):
            of_split = getattr(summary, split)
            for name, value in vars(summary.training).items():
                if isinstance(value, Estimate):
                    own = Estimate(np.nan, np.nan, np.nan) if of_split is None else getattr(of_split, name)
                    for end in ("value", "low", "high"):
                        add(_column(f"{split}_{name}", end), getattr(own, end))
        for name in ("loss_gap", "remaining_gap", "excess_gap"):
            for end in ("value", "low", "high"):
                add(_column(name, end), getattr(getattr(summary, name), end))
    return {name: np.asarray(values) for name, values in columns.items()}


def _column(name: str, end: str) -> str:
    return name if end == "value" else f"{name}_{end}"


def _splits(run: RunRecord) -> list[tuple[int, str, SplitMeasurement]]:
    return [
        (place, name, split)
        for place, measurement in enumerate(run.history.measurements)
        for name, split in measurement.splits.items()
    ]


def _inputs(run: RunRecord) -> Table:
    splits = _splits(run)
    lengths = [len(split) for _, _, split in splits]
    indices = [None if name != "training" else run.indices for _, name, _ in splits]
    samples = [
        list(own) if own is not None and len(own) == length else [None] * length
        for own, length in zip(indices, lengths, strict=True)
    ]
    return {
        **_moments(run, [place for place, _, _ in splits], lengths),
        "split": np.repeat([name for _, name, _ in splits], lengths),
        "probe": np.concatenate([np.arange(length) for length in lengths]),
        # -1 where it is not known.
        "sample": np.asarray([-1 if one is None else one for own in samples for one in own]),
        **{name: torch.cat([getattr(split, name) for _, _, split in splits]).numpy() for name in INPUT_FIELDS},
    }


def _orders(run: RunRecord) -> Table:
    splits = _splits(run)
    means = {kind: [getattr(split.strength, kind).nanmean(dim=0).numpy() for _, _, split in splits] for kind in KINDS}
    shapes = [own.shape for own in means[KINDS[0]]]
    types, signs, orders = zip(*(np.indices(shape).reshape(3, -1) for shape in shapes), strict=True)
    lengths = [own.size for own in means[KINDS[0]]]
    return {
        **_moments(run, [place for place, _, _ in splits], lengths),
        "split": np.repeat([name for _, name, _ in splits], lengths),
        "type": np.asarray(EFFECT_TYPES)[np.concatenate(types)],
        "sign": np.asarray(SIGNS)[np.concatenate(signs)],
        "order": np.concatenate(orders),
        **{kind: np.concatenate([one.ravel() for one in own]) for kind, own in means.items()},
    }


def _moments(run: RunRecord, places: list[int], lengths: list[int]) -> Table:
    times = [run.history.measurements[place].time for place in places]
    return {
        "epoch": np.repeat([time.epoch for time in times], lengths),
        "step": np.repeat([time.step for time in times], lengths),
    }


def _interactions(run: RunRecord) -> Table:
    assert run.interactions is not None
    effects = run.interactions.effects.double().numpy()
    probes, types, coalitions = effects.nonzero()
    weights = np.full_like(effects, np.nan) if run.weights is None else run.weights.double().numpy()
    bits = coalitions[:, None] >> np.arange(run.num_players) & 1
    names = [run.names_of(probe) for probe in range(len(effects))]
    words = [
        " · ".join(name for name, there in zip(names[probe], own, strict=True) if there)
        for probe, own in zip(probes.tolist(), bits.tolist(), strict=True)
    ]
    return {
        "probe": probes,
        "type": np.asarray(EFFECT_TYPES)[types],
        "coalition": coalitions,
        "order": bits.sum(axis=1),
        "players": np.asarray(words, dtype=str),
        "effect": effects[probes, types, coalitions],
        "weight": weights[probes, types, coalitions],
    }


def _values(run: RunRecord) -> Table:
    assert run.interactions is not None
    values = reconstruct_values(run.interactions).double().numpy()
    probes, coalitions = np.indices(values.shape).reshape(2, -1)
    return {"probe": probes, "coalition": coalitions, "value": values.ravel()}
