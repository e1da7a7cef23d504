"""What every rule makes of a run: when it stops, whose weights it returns, and what both cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from competitors import Stop, best_epoch, stop_by_gradient_disparity, stop_by_label_wave, stop_by_patience
from runs import CROSS_FITTED, REFERENCES, Run

from lightning_interactions import History
from lightning_interactions.analysis import segment_phases

__all__ = ["MATERIAL_RISE", "RULES", "Outcome", "late", "outcome", "overfits", "premature", "rises"]

MATERIAL_RISE = 0.05
"""A test loss that never gets so far above its best, as a fraction of it, gives no reason to stop."""

LAST_ACCURACY_POINT = 0.01
"""A loss of accuracy below which it is said not to fall."""


@dataclass(frozen=True)
class Outcome:
    """What a rule makes of one run.

    Attributes:
        stop: When it stops, and whose weights it returns.
        loss: Regret in test loss: that of the returned weights over the best of all epochs, minus one.
        accuracy: Regret in test accuracy: the best of all epochs minus that of the returned weights, in [0, 1].
        epochs: Epochs trained.
        epoch_error: Epoch of the returned weights minus that of the best test loss.
        compute: Processor time until the stop, with everything that the rule needs, over that of the plain training to its end.
    """

    stop: Stop
    loss: float
    accuracy: float
    epochs: int
    epoch_error: int
    compute: float


@dataclass(frozen=True)
class Rule:
    """A rule of the table.

    Attributes:
        decide: When it stops a run, and whose weights it returns.
        held_out: Whether it looks at held-out labels.
        curve: The curve that it looks at, or the evidence.
    """

    decide: Callable[[Run], Stop]
    held_out: bool
    curve: str


def by_patience(curve: str, patience: int) -> Rule:
    return Rule(lambda run: stop_by_patience(run.curves[curve], patience), held_out=True, curve=curve)


def at_onset(history: History) -> Stop:
    """Stop where phase 3 is detected, and return the weights of its onset; the last ones if it never is."""
    phase = history.first_detection(3)
    return Stop(None, history.epochs[-1]) if phase is None else Stop(phase.detected.epoch, max(1, phase.onset.epoch))


def at_best_until_detection(run: Run) -> Stop:
    """Stop where phase 3 is detected, and return the weights with the smallest validation loss until then.

    This is ``PhaseEarlyStopping`` beside a ``ModelCheckpoint`` that monitors the validation loss.
    """
    stop = at_onset(run.histories[REFERENCES])
    losses = run.curves["validation_loss"]
    return Stop(stop.stopped, best_epoch(losses[: stop.stopped]).kept)


ORACLE = "oracle: best test loss"

RULES = {
    "phase 3, reference models": Rule(lambda run: at_onset(run.histories[REFERENCES]), True, REFERENCES),
    "phase 3, reference models, best validation loss": Rule(at_best_until_detection, True, REFERENCES),
    "phase 3, cross-fitted, no held-out data": Rule(lambda run: at_onset(run.histories[CROSS_FITTED]), False, CROSS_FITTED),
    "validation loss, patience 3": by_patience("validation_loss", 3),
    "validation loss, patience 5": by_patience("validation_loss", 5),
    "validation loss, patience 10": by_patience("validation_loss", 10),
    "loss of the held-out probes, patience 3": by_patience("probe_loss", 3),
    "loss of the held-out probes, patience 5": by_patience("probe_loss", 5),
    "loss of the held-out probes, patience 10": by_patience("probe_loss", 10),
    "Label Wave, first minimum": Rule(
        lambda run: stop_by_label_wave(run.curves["prediction_changes"]), False, "prediction_changes"
    ),
    "Label Wave, confirmed for 5 epochs": Rule(
        lambda run: stop_by_label_wave(run.curves["prediction_changes"], patience=5), False, "prediction_changes"
    ),
    "gradient disparity, 5 increases": Rule(
        lambda run: stop_by_gradient_disparity(run.curves["gradient_disparity"]), False, "gradient_disparity"
    ),
    "gradient disparity, 5 in a row": Rule(
        lambda run: stop_by_gradient_disparity(run.curves["gradient_disparity"], consecutive=True), False, "gradient_disparity"
    ),
    "never": Rule(lambda run: Stop(None, len(run.curves["test_loss"])), False, ""),
    ORACLE: Rule(lambda run: best_epoch(run.curves["test_loss"]), True, ""),
}  # fmt: skip
"""By the name in the table."""


def outcome(rule: Rule, run: Run) -> Outcome:
    """Apply a rule to a run."""
    stop = rule.decide(run)
    losses, accuracies = run.curves["test_loss"], run.curves["test_accuracy"]
    epochs = stop.stopped or len(losses)
    seconds = run.seconds["training"] * epochs / len(losses)
    if rule.curve in run.histories:
        seconds += run.seconds[f"{rule.curve} before"] + (epochs + 1) * run.seconds[f"{rule.curve} measurement"]
    elif rule.curve:
        seconds += run.seconds[rule.curve] * epochs / len(losses)
    return Outcome(
        stop=stop,
        loss=losses[stop.kept - 1] / min(losses) - 1,
        accuracy=max(accuracies) - accuracies[stop.kept - 1],
        epochs=epochs,
        epoch_error=stop.kept - best_epoch(losses).kept,
        compute=seconds / run.seconds["training"],
    )


def rises(run: Run) -> bool:
    """Whether the test loss ever gets 5 % above its best after it: only then is there a reason to stop."""
    losses = run.curves["test_loss"]
    return max(losses[best_epoch(losses).kept - 1 :]) > (1 + MATERIAL_RISE) * min(losses)


def premature(run: Run, stop: Stop) -> bool:
    """Whether a rule stops before the best epoch, without any 5 % rise of the test loss over its best until then."""
    losses = run.curves["test_loss"]
    if stop.stopped is None or stop.stopped >= best_epoch(losses).kept:
        return False
    seen = losses[: stop.stopped]
    return all(loss <= (1 + MATERIAL_RISE) * min(seen[: epoch + 1]) for epoch, loss in enumerate(seen))


def overfits(run: Run) -> bool:
    """Whether accuracy falls with the rise of the loss, by a point from its best (means of five epochs) to the end."""
    accuracies = run.curves["test_accuracy"]
    window = min(5, len(accuracies))
    means = [sum(accuracies[end - window : end]) / window for end in range(window, len(accuracies) + 1)]
    return rises(run) and max(means) - means[-1] >= LAST_ACCURACY_POINT


def late(histories: Sequence[History]) -> list[float]:
    """By how many measurements each online onset of phase 3 lies after its change point; NaN if there is none."""
    found = []
    for history in histories:
        if history.first_detection(3) is None:
            continue
        change_point = next((one for one in segment_phases(history) if one.phase == 3), None)
        found.append(math.nan if change_point is None else float(change_point.measurements_late or 0))
    return found
