"""Records of made-up runs, with all that a record can have."""

from dataclasses import replace
from typing import Any

import torch

from lightning_interactions.records import History, Interactions, Probes, TimePoint
from lightning_interactions.reporting import RunRecord
from tests.helpers.histories import history_from_strengths, with_phases

__all__ = ["some_history", "some_run"]

PLAYERS = 3
PROBES = 4


def some_history(numbers: tuple[int, ...] = (1, 1, 2, 3), *, held_out: bool = True, **settings: Any) -> History:
    """A run that is in these phases."""
    generator = torch.Generator().manual_seed(0)
    g, u, excess = torch.rand(3, len(numbers), PROBES, generator=generator, dtype=torch.float64) + 0.5
    history = with_phases(history_from_strengths(g, u, excess if held_out else None), numbers)
    return replace(history, settings={"loss_unit": "nats", **settings})


def some_run(history: History | None = None, *, names: tuple[str, ...] = ("a", "b", "c"), **more: Any) -> RunRecord:
    """A run of four inputs of three players, with effects that are known: an AND, an OR and single players."""
    effects = torch.zeros(PROBES, 2, 2**PLAYERS, dtype=torch.float64)
    effects[:, 0, 1], effects[:, 0, 0b110], effects[:, 1, 0b101] = 1.0, -2.0, 0.5
    weights = torch.zeros_like(effects)
    weights[:, 0, 1] = weights[:, 1, 0b101] = 1
    probes = Probes.of((torch.arange(4 * 3.0).reshape(4, 3), torch.tensor([3, 1, 4, 1])))
    options: dict[str, Any] = {
        "interactions": Interactions(effects, torch.full((PROBES,), 0.25, dtype=torch.float64)),
        "weights": weights,
        "player_names": (names,) * PROBES,
        "indices": (17, None, 5, 6),
        "probes": {"training": probes},
        "failed": (TimePoint(2, 15),),
        "forwards": 12_345,
    }
    return RunRecord(some_history() if history is None else history, **{"title": "made up", **options, **more})
