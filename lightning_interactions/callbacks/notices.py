"""What a monitor says to the user of a run: before it, at its measurements, and after it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_interactions.analysis import NearChance, share_near_chance
from lightning_interactions.game.steps import OwnStep
from lightning_interactions.game.tasks import Task
from lightning_interactions.measuring.cost import Expense, MeasuringCost, duration
from lightning_interactions.measuring.meter import HELD_OUT, TRAINING, InteractionMeter
from lightning_interactions.records import History, TimePoint
from lightning_interactions.references.internals import classes
from lightning_interactions.references.trainer import progress
from lightning_interactions.reporting import explain_phase

__all__ = ["Notices", "say_failed", "say_if_long", "say_limits", "say_what_is_measured", "shown"]

NAMES_OF_SPLITS = {TRAINING: "training", HELD_OUT: "held-out"}

MUCH_OVERHEAD = 0.1
"""Part of the wall time above which it is named."""

FEWEST_PLANNED = 10
"""With fewer measurements phases are hardly found, so that none are proposed."""


class Notices:
    """Says what there is to say of each measurement of a run: each kind of note, and each split that is left out, once."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def say(self, history: History, left_out: Mapping[str, str]) -> None:
        """Say what the last measurement brings.

        Args:
            history: All measurements so far.
            left_out: Why nothing could be measured of a split, by its name.
        """
        time, phase = history.measurements[-1].time, history.phases[-1]
        for split, reason in left_out.items():
            if self._is_new("left out", split):
                rank_zero_warn(
                    f"InteractionMonitor: all {split} probes are left out of the measurement after epoch {time.epoch}, because "
                    f"{reason}"
                )
        near_chance = share_near_chance(history.measurements)
        if phase.number > 1:  # The share of a network that has yet to learn something is near chance, too.
            self._say_doubt(near_chance, time)
        if phase.number == 3 and phase.detected == time:
            rank_zero_info(f"InteractionMonitor: {explain_phase(phase, near_chance)}")
        for kind, note in phase.notes.items():
            if self._is_new("note", kind):
                rank_zero_info(f"InteractionMonitor: after epoch {time.epoch}, {note}")

    def say_at_end(self, history: History) -> None:
        """Say after the training what was not said before, because the run has stayed in phase 1.

        Args:
            history: All measurements.
        """
        if len(history) > 1:
            self._say_doubt(share_near_chance(history.measurements), history.measurements[-1].time)

    def _say_doubt(self, near_chance: NearChance | None, time: TimePoint) -> None:
        if near_chance is not None and near_chance.never_above and self._is_new("note", "near_chance"):
            rank_zero_info(f"InteractionMonitor: after epoch {time.epoch}, {near_chance.note}")

    def _is_new(self, what: str, name: str) -> bool:
        is_new = (what, name) not in self._said
        self._said.add((what, name))
        return is_new


def say_limits(trainer: Trainer, task: Task) -> None:
    """Say before the training what is not known of its loss, and what else counts the time.

    Args:
        trainer: The Trainer of the run.
        task: What is explained.
    """
    if not task.knows_loss:
        rank_zero_warn(
            f"InteractionMonitor: {task!r} knows no loss, so losses and gaps are NaN, and phases are detected without "
            "them; give the task a loss(score, targets), such as return (score - targets) ** 2"
        )
    if any(isinstance(callback, classes("Timer", "callbacks")) for callback in trainer.callbacks):
        rank_zero_info("InteractionMonitor: the Trainer's max_time counts evidence and measurements, too")


def say_what_is_measured(meter: InteractionMeter, cost: MeasuringCost) -> None:
    """Say in one line what was found out and chosen, and what it will cost.

    Args:
        meter: With its training probes prepared.
        cost: What its measurements will cost.
    """
    assert meter.players is not None
    explained = meter.task.explains if isinstance(meter.task, OwnStep) else repr(meter.task)
    numbers = " and ".join(f"{len(own)} {NAMES_OF_SPLITS[split]}" for split, own in meter.probes.items())
    inputs = meter.probes[TRAINING].groups[0].inputs
    number_of_players = meter.players.num_players(inputs)
    rank_zero_info(
        f"InteractionMonitor: measures {numbers} inputs of {number_of_players} players ({type(meter.players).__name__}), "
        f"masked with {meter.baseline!r}; explains {explained}; evidence: {type(meter.evidence).__name__}; plans {cost}"
    )
    if hint := meter.players.naming_hint(inputs):
        label = next(filter(None, meter.players.labels(inputs.select([0]))[0]), "player 0")
        rank_zero_info(f"InteractionMonitor: figures call players {label!r} and the like; name them with players={hint}")


@contextmanager
def shown(meter: InteractionMeter, trainer: Trainer) -> Iterator[None]:
    """Show that what a meter does in the body goes on, where it takes long.

    Args:
        meter: The meter.
        trainer: The Trainer of the run: where it shows no bar, there is none.
    """
    with progress(None, trainer, "Measuring interactions", "input") as bar:
        meter.tick = bar.update
        try:
            yield
        finally:
            meter.tick = None


def say_failed(failed: Sequence[TimePoint], history: History) -> None:
    """Say after the training how many measurements are missing, if some are.

    Args:
        failed: When measurements failed.
        history: Those that did not.
    """
    if failed:
        rank_zero_info(
            f"InteractionMonitor: {len(failed)} of {len(failed) + len(history)} measurements failed and are missing in the "
            "history; when, is in monitor.failed"
        )


def say_if_long(expense: Expense) -> None:
    """Say after the training that measuring took much of its time, if it did.

    Args:
        expense: The account of the fit.
    """
    part = expense.part
    if part > MUCH_OVERHEAD:
        half = expense.number // 2
        less = f"schedule=schedules.Planned(measurements={half}) measures half as often, " if half >= FEWEST_PLANNED else ""
        rank_zero_info(
            f"InteractionMonitor: evidence and measurements took {duration(expense.seconds)}, {part:.0%} of this fit's time; "
            f"{less}fewer probes or players make each cheaper"
        )
