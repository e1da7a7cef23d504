"""Checkpoints of made-up runs."""

from pathlib import Path
from typing import Any

import torch

from lightning_interactions.reporting import RunRecord
from tests.helpers.run_records import some_run

__all__ = ["state_of", "written"]


def state_of(run: RunRecord) -> dict[str, Any]:
    """What a monitor of this run has in a checkpoint, as far as it is read."""
    final, probes = run.interactions, run.probes["training"]
    assert final is not None
    assert run.weights is not None
    return {
        "version": 1,
        "history": run.history.to_dict(),
        "failed": [[time.epoch, time.step] for time in run.failed],
        "final_interactions": {"effects": final.effects, "offset": final.offset, "weights": run.weights.half()},
        "forwards": run.forwards,
        "player_names": [{"probes": len(probes), "names": list(run.player_names[0])}],
        "probes": {"training": probes.to_state()},
        "read_again": {},
        "indices": {
            fingerprint: index for fingerprint, index in zip(probes.fingerprints, run.indices, strict=True) if index is not None
        },
    }


def written(path: Path, *names: str | None, run: RunRecord | None = None) -> Path:
    """Write a checkpoint of monitors of these names."""
    state = state_of(some_run() if run is None else run)
    callbacks = {f"InteractionMonitor{ {'name': name}!r}": state for name in names}
    torch.save({"state_dict": {}, "callbacks": {"EarlyStopping{}": {"version": 3}, **callbacks}}, path)
    return path
