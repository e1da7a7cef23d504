"""Fits that are killed with SIGKILL at random moments and resumed, beside unbroken ones and beside ones without a monitor."""

import logging
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
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
    """How one fit went that was killed, and one without a monitor that went on from the same checkpoints.

    Attributes:
        schedule: Name of the schedule.
        seed: Seed of the moments.
        kills: How often the fit was killed.
        resumed_at: Optimizer steps of the checkpoints that it went on from.
        difference: How history, detections or weights differ from those of an unbroken fit; empty if they do not.
        control_difference: The same of the weights without a monitor: where Lightning itself does not go on equally.
        beside_control: How the weights differ from those without a monitor.
    """

    schedule: str
    seed: int
    kills: int
    resumed_at: tuple[int, ...]
    difference: str
    control_difference: str
    beside_control: str

    @property
    def is_fine(self) -> bool:
        """Whether the fit is equal to an unbroken one, or where Lightning does not go on equally, to one without a monitor."""
        return not self.beside_control and (not self.difference or bool(self.control_difference))


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

    Returns:
        How each went; all should be :attr:`Round.is_fine`.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, found = Path(folder), []
        until_done(root / "warm", schedule, True)
        begin = time.perf_counter()
        unbroken, _ = until_done(root / "unbroken", schedule, True)
        seconds = time.perf_counter() - begin
        unbroken_control, _ = until_done(root / "control", schedule, False)
        for own in range(seed, seed + rounds):
            outcome, kills = killed(root / f"killed-{own}", schedule, random.Random(own), seconds)
            stops = sorted({step for step in outcome["resumed_at"] if step})
            control, _ = until_done(root / f"control-{own}", schedule, False, stops)
            restores = SCHEDULES[schedule].restores
            found.append(
                Round(
                    schedule,
                    own,
                    kills,
                    tuple(outcome["resumed_at"]),
                    difference=differences(outcome, unbroken),
                    control_difference=differences(control, unbroken_control),
                    beside_control="" if restores else differences({**outcome, "failed": None}, control),
                )
            )
        return found


def until_done(root: Path, schedule: str, monitored: bool, stops: Sequence[int] = ()) -> tuple[dict[str, Any], int]:
    """Run a fit in one process after the other, each until the checkpoint after so many steps is written, to its end."""
    root.mkdir()
    outcome = None
    for stop in (*stops, None):
        outcome = in_process(root, schedule, monitored, stop, LONGEST)
    return outcome or {"error": f"it hung for {LONGEST} s"}, 0


def killed(root: Path, schedule: str, moments: random.Random, seconds: float) -> tuple[dict[str, Any], int]:
    """Run a fit in processes that are killed at random moments within so many seconds, to its end."""
    kills = 0
    while True:
        if not kills:  # Only fits that were killed count.
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
        last = kills == MOST_KILLS
        outcome = in_process(root, schedule, True, None, LONGEST if last else moments.uniform(0, seconds))
        if kills and outcome is not None:
            return outcome, kills
        if last:
            return {"error": f"it hung for {LONGEST} s", "resumed_at": []}, kills
        kills += outcome is None


def in_process(root: Path, schedule: str, monitored: bool, stop: int | None, seconds: float) -> dict[str, Any] | None:
    """Go on with a fit in a process that is killed after so many seconds; return its outcome if it came to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=run, args=(str(root), schedule, monitored, stop))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    result = root / "result.pt"
    return torch.load(result, weights_only=True) if result.exists() else None


def run(folder: str, schedule: str, monitored: bool, stop: int | None) -> None:
    """Begin a fit, or go on from its last checkpoint; write what came of it when it has come to its end."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    root, kind = Path(folder), SCHEDULES[schedule]
    outcome: dict[str, Any]
    try:
        with pytest.MonkeyPatch.context() as patch:
            outcome = fit(root, kind, monitored, stop, patch)
    except Exception:
        outcome = {"error": traceback.format_exc(), "resumed_at": []}
    torch.save(outcome, root / "unfinished.pt")
    (root / "unfinished.pt").replace(root / "result.pt")


def fit(root: Path, kind: Kind, monitored: bool, stop: int | None, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train, from the last checkpoint if there is one."""
    torch.manual_seed(0)
    callbacks: list[Callback] = [ModelCheckpoint(root, save_last=True, **kind.saver)]
    if monitored:
        monitor = fewest(evidence=ParameterNoise(), schedule=kind.schedule())
        callbacks.append(monitor)
        if kind.restores:
            script_phases(patch, PHASES)
            callbacks.append(PhaseEarlyStopping(restore_best=True, verbose=False, dirpath=root))
    last, diary = root / "last.ckpt", root / "resumed_at"
    if last.exists():
        with diary.open("a") as file:
            file.write(f"{torch.load(last, weights_only=True)['global_step']}\n")
    trainer = quiet_trainer(root, max_epochs=EPOCHS, callbacks=callbacks, enable_checkpointing=True)
    save = trainer.save_checkpoint

    def save_and_stop(path: Any, *args: Any, **options: Any) -> None:
        save(path, *args, **options)
        if stop == trainer.global_step and Path(path).name == last.name:
            os._exit(0)

    patch.setattr(trainer, "save_checkpoint", save_and_stop)
    model = Steady()
    # Lightning begins the loader of an interrupted epoch from its start: it is always the same batch.
    inputs, targets = tabular_data(8).tensors
    repeated = TensorDataset(inputs.repeat(STEPS_PER_EPOCH, 1), targets.repeat(STEPS_PER_EPOCH))
    val = DataLoader(tabular_data(8, seed=1), batch_size=8)
    trainer.fit(model, DataLoader(repeated, batch_size=8), val, ckpt_path=last if last.exists() else None)
    outcome: dict[str, Any] = {"weights": dict(model.state_dict()), "step": trainer.global_step}
    outcome["resumed_at"] = [int(step) for step in diary.read_text().split()] if diary.exists() else []
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
