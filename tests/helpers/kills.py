"""Fits that are killed with SIGKILL at random moments and resumed, beside unbroken ones and beside ones without a monitor."""

import multiprocessing
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import PhaseEarlyStopping
from lightning_interactions.evidence import ParameterNoise
from lightning_interactions.records import History
from lightning_interactions.schedules import EveryNEpochs, EveryNSteps, Planned, Schedule
from tests.callbacks.runs import Scripted, assert_same_history, fewest, quiet_trainer, script_phases
from tests.helpers.models import PlainTabularClassifier, tabular_data

__all__ = ["SCHEDULES", "Round", "kill_rounds"]

EPOCHS, STEPS_PER_EPOCH = 5, 4

TOLERANCE = 1e-6

MOST_KILLS = 3
"""A fit is killed so often at most; then it may come to its end."""

LONGEST = 120.0
"""Seconds after which a fit is taken to hang."""

PHASES = [
    Scripted(1, tests={3: (0, 0.5)}),
    Scripted(1, tests={3: (1, 0.5)}),
    Scripted(1, tests={3: (2, 0.5)}),
    1,
    Scripted(3, onset=2),
]


@dataclass(frozen=True)
class Kind:
    """When is measured and when is saved.

    Attributes:
        schedule: When to measure.
        saver: Options of ``ModelCheckpoint``.
        restores: Whether the run stops at a scripted onset and gets its weights back.
    """

    schedule: Callable[[], Schedule]
    saver: dict[str, Any]
    restores: bool = False


SCHEDULES = {
    "epochs": Kind(EveryNEpochs, {"save_on_train_epoch_end": True}),
    "epochs, saved after validation": Kind(EveryNEpochs, {"save_on_train_epoch_end": False}),
    "steps": Kind(partial(EveryNSteps, 3), {"every_n_train_steps": 2}),
    "every step": Kind(partial(EveryNSteps, 1), {"every_n_train_steps": 1}),
    "planned": Kind(Planned, {"every_n_train_steps": 3}),
    "onset": Kind(EveryNEpochs, {"save_on_train_epoch_end": True}, restores=True),
}
"""What is killed, by its name."""


@dataclass(frozen=True)
class Round:
    """How one fit went that was killed, and one without a monitor beside it.

    Attributes:
        schedule: Name of the schedule.
        seed: Seed of the moments.
        kills: How often the fit was killed.
        control_kills: How often the one without a monitor was.
        difference: How history, detections or weights differ from those of an unbroken fit; empty if they do not.
        control_difference: The same of the weights without a monitor.
    """

    schedule: str
    seed: int
    kills: int
    control_kills: int
    difference: str
    control_difference: str

    @property
    def is_equal(self) -> bool:
        """Whether the fit is equal to an unbroken one, or Lightning itself did not go on equally."""
        return not self.difference or bool(self.control_difference)


class Steady(PlainTabularClassifier):
    """Nothing random, so that a resumed fit trains as an unbroken one."""

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


def kill_rounds(rounds: int, seed: int, schedule: str) -> list[Round]:
    """Kill fits at random moments, resume each until it comes to its end, and compare.

    Args:
        rounds: Number of fits.
        seed: Seed of the moments; each round has the next one.
        schedule: One of :data:`SCHEDULES`.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        unbroken, seconds = {}, {}
        for monitored in (True, False):
            fit_until_done(root / f"warm-{monitored}", schedule, monitored, None, 0.0)
            begin = time.perf_counter()
            unbroken[monitored], _ = fit_until_done(root / f"unbroken-{monitored}", schedule, monitored, None, 0.0)
            seconds[monitored] = time.perf_counter() - begin
        found = []
        for number in range(rounds):
            own = seed + number
            outcomes = {
                monitored: fit_until_done(
                    root / f"{own}-{monitored}", schedule, monitored, random.Random(own), seconds[monitored]
                )
                for monitored in (True, False)
            }
            found.append(
                Round(
                    schedule,
                    own,
                    kills=outcomes[True][1],
                    control_kills=outcomes[False][1],
                    difference=differences(outcomes[True][0], unbroken[True]),
                    control_difference=differences(outcomes[False][0], unbroken[False]),
                )
            )
        return found


def fit_until_done(
    root: Path, schedule: str, monitored: bool, moments: random.Random | None, seconds: float
) -> tuple[dict[str, Any], int]:
    """Run a fit in processes that are killed at random moments within so many seconds; return its outcome and the kills."""
    root.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    result, kills = root / "result.pt", 0
    while not result.exists():
        process = context.Process(target=run, args=(str(root), schedule, monitored))
        process.start()
        patience = LONGEST if moments is None or kills == MOST_KILLS else moments.uniform(0, seconds)
        process.join(patience)
        if process.is_alive() and patience == LONGEST:
            process.kill()
            return {"error": f"it hung for {LONGEST} s"}, kills
        kills += process.is_alive()
        process.kill()
        process.join()
        if moments is not None and not kills:  # It was over before; only fits that were killed count.
            shutil.rmtree(root)
            root.mkdir()
    return torch.load(result, weights_only=True), kills


def run(folder: str, schedule: str, monitored: bool) -> None:
    """Begin a fit, or go on from its last checkpoint; write what came of it when it has come to its end."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    root, kind = Path(folder), SCHEDULES[schedule]
    outcome: dict[str, Any]
    try:
        with pytest.MonkeyPatch.context() as patch:
            outcome = fit(root, kind, monitored, patch)
    except Exception:
        outcome = {"error": traceback.format_exc()}
    torch.save(outcome, root / "unfinished.pt")
    (root / "unfinished.pt").replace(root / "result.pt")


def fit(root: Path, kind: Kind, monitored: bool, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train, from the last checkpoint if there is one."""
    torch.manual_seed(0)
    callbacks: list[Callback] = [ModelCheckpoint(root, save_last=True, **kind.saver)]
    epochs = EPOCHS
    if monitored:
        monitor = fewest(evidence=ParameterNoise(), schedule=kind.schedule())
        callbacks.append(monitor)
        if kind.restores:
            script_phases(patch, PHASES)
            callbacks.append(PhaseEarlyStopping(restore_best=True, verbose=False, dirpath=root))
    last = root / "last.ckpt"
    trainer = quiet_trainer(root, max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
    model = Steady()
    # Lightning begins the loader of an interrupted epoch from its start: it is always the same batch.
    inputs, targets = tabular_data(8).tensors
    repeated = TensorDataset(inputs.repeat(STEPS_PER_EPOCH, 1), targets.repeat(STEPS_PER_EPOCH))
    val = DataLoader(tabular_data(8, seed=1), batch_size=8)
    trainer.fit(model, DataLoader(repeated, batch_size=8), val, ckpt_path=last if last.exists() else None)
    outcome: dict[str, Any] = {"weights": dict(model.state_dict()), "step": trainer.global_step}
    if monitored:
        outcome |= {"history": monitor.history.to_dict(), "failed": len(monitor.failed)}
    return outcome


def differences(outcome: dict[str, Any], expected: dict[str, Any]) -> str:
    """Say how two fits differ, in one line; empty if they do not."""
    if outcome.get("error") or expected.get("error"):
        return str(outcome.get("error") or expected.get("error"))
    said = [
        f"{name}: {outcome[name]}, not {expected[name]}"
        for name in ("step", "failed")
        if outcome.get(name) != expected.get(name)
    ]
    for name, value in expected["weights"].items():
        if not torch.equal(outcome["weights"][name], value):
            said.append(f"weights of {name}")
    if "history" in expected:
        histories = [History.from_dict(one["history"]) for one in (outcome, expected)]
        times = [[(one.time.epoch, one.time.step) for one in history.measurements] for history in histories]
        if times[0] != times[1]:
            said.append(f"measured at {times[0]}, not {times[1]}")
        elif [str(phase) for phase in histories[0].phases] != [str(phase) for phase in histories[1].phases]:
            said.append("detections")
        else:
            try:
                assert_same_history(*histories, TOLERANCE)
            except AssertionError as error:
                said.append(f"history: {error}")
    return "; ".join(said)
