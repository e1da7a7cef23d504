"""What every rule makes of a run: when it stops, whose weights it returns, and what both cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from competitors import (
    Stop,
    best_epoch,
    stop_by_evidence_criterion,
    stop_by_gradient_disparity,
    stop_by_label_wave,
    stop_by_patience,
)
from own_past import OWN_PAST, of_own_past
from runs import KINDS, REFERENCES, TWINS, TWINS_HELD_OUT, Run
from trainings import Trainings

from lightning_interactions import History
from lightning_interactions.analysis import segment_phases
from lightning_interactions.analysis.phases.signals import PhaseSignals

__all__ = [
    "ALONE", "CLEAR_RISE", "ELABORATE", "HELD_OUT", "LAST_ACCURACY_POINT", "MATERIAL_RISE", "ORACLE", "PHASE_3", "RULES",
    "Outcome", "Record", "Rule", "at_onset", "delay", "ends_high", "history_of", "late", "outcome", "overfits", "premature",
    "rises",
]  # fmt: skip

MATERIAL_RISE = 0.05
"""A test loss that never gets so far above its best, as a fraction of it, gives no reason to stop."""

CLEAR_RISE = 0.25
"""A test loss that ends so far above its best, as a fraction of it, gives every reason to stop."""

LAST_ACCURACY_POINT = 0.01
"""A loss of accuracy below which it is said not to fall."""

PATIENCE = 5


@dataclass(frozen=True, eq=False)
class Record:
    """All that is known of a setting.

    Attributes:
        run: The run.
        trainings: What rivals train besides; ``None`` if that has not been done.
    """

    run: Run
    trainings: Trainings | None = None


@dataclass(frozen=True)
class Decision:
    """What a rule decides.

    Attributes:
        stop: When the run stops, and whose weights are returned.
        compute: Processor time of all that the rule does, in units of the plain training to its end.
        trainings: The part of it that is training: the run until its stop, and what is trained besides.
        training: The training whose weights are returned; the run itself if ``None``.
    """

    stop: Stop
    compute: float
    trainings: float
    training: str | None = None

    @classmethod
    def of_trainings(cls, stop: Stop, trainings: float, training: str | None = None) -> "Decision":
        """Decide by trainings alone."""
        return cls(stop, trainings, trainings, training)


@dataclass(frozen=True)
class Outcome:
    """What a rule makes of one run.

    Attributes:
        stop: When it stops, and whose weights it returns.
        loss: Regret in test loss: that of the returned weights over the best of all epochs of the run, minus one.
        accuracy: Regret in test accuracy: the best of all epochs minus that of the returned weights, in [-1, 1].
        epochs: Epochs trained.
        epoch_error: Epoch of the returned weights minus that of the best test loss.
        compute: Processor time until the stop, with everything that the rule needs, over that of the plain training to its end.
        trainings: The part of it that is training.
    """

    stop: Stop
    loss: float
    accuracy: float
    epochs: int
    epoch_error: int
    compute: float
    trainings: float


@dataclass(frozen=True)
class Rule:
    """A rule of the table.

    Attributes:
        decide: When it stops a run, and at what cost; ``None`` where what it looks at was not recorded.
        held_out: Whether it looks at held-out labels.
        kind: The evidence that it looks at, if it looks at phases.
    """

    decide: Callable[[Record], Decision | None]
    held_out: bool
    kind: str | None = None


def on_curve(name: str, rule: Callable[[Sequence[float]], Stop], *, held_out: bool = False) -> Rule:
    """Apply a rule to a curve of the run; a curve that is measured besides costs its part of the training's time."""

    def decide(record: Record) -> Decision | None:
        run = record.run
        if name not in run.curves:
            return None
        stop, length = rule(run.curves[name]), len(run.curves[name])
        trained = (stop.stopped or length) / length
        return Decision(stop, trained * (1 + run.seconds[name] / run.seconds["training"]), trained)

    return Rule(decide, held_out)


def at_onset(history: History) -> Stop:
    """Stop where phase 3 is detected, and return the weights of its onset; the last ones if it never is."""
    phase = history.first_detection(3)
    return Stop(None, history.epochs[-1]) if phase is None else Stop(phase.detected.epoch, max(1, phase.onset.epoch))


def history_of(run: Run, kind: str) -> History | None:
    """Return what was measured of a run with a kind of evidence, if it was."""
    return of_own_past(run) if kind == OWN_PAST else run.histories.get(kind)


def _monitored(run: Run, kind: str, stop: Stop) -> Decision:
    length = len(run.curves["test_loss"])
    epochs = stop.stopped or length
    before = 0.0 if kind == OWN_PAST else run.seconds[f"{kind} before"]
    # The own past is measured at the price of twins, who cost nothing after the beginning.
    seconds = before + (epochs + 1) * run.seconds[f"{TWINS if kind == OWN_PAST else kind} measurement"]
    # Of other kinds the trainings and the raters' first measurement are not told apart.
    fits = run.seconds["twin losses before"] if kind in (TWINS, TWINS_HELD_OUT) else before
    plain = run.seconds["training"]
    return Decision(stop, epochs / length + seconds / plain, epochs / length + fits / plain)


def by_phases(kind: str, *, held_out: bool, keep: str | None = None) -> Rule:
    """Stop where phase 3 is detected.

    Args:
        kind: The evidence.
        held_out: Whether it looks at held-out labels.
        keep: A curve; the weights of its smallest number until the detection are returned, not those of the onset. This is
            ``PhaseEarlyStopping`` beside a ``ModelCheckpoint``.
    """

    def decide(record: Record) -> Decision | None:
        history = history_of(record.run, kind)
        if history is None:
            return None
        stop = at_onset(history)
        if keep is not None:
            stop = Stop(stop.stopped, best_epoch(record.run.curves[keep][: stop.stopped]).kept)
        return _monitored(record.run, kind, stop)

    return Rule(decide, held_out, kind)


def by_expected_test_loss(kind: str, *, held_out: bool) -> Rule:
    """Wait for a smaller expected test loss, as our phases see it: the same signal without any test of ours."""

    def decide(record: Record) -> Decision | None:
        history = history_of(record.run, kind)
        if history is None:
            return None
        expected = PhaseSignals.of(history.measurements).cost.nanmean(dim=1).tolist()
        return _monitored(record.run, kind, stop_by_patience(expected[1:], PATIENCE))

    return Rule(decide, held_out)


def by_validation_split(record: Record) -> Decision | None:
    """Train on four fifths of the noisy data, and stop by the loss on the other fifth: what most people would do."""
    curves = None if record.trainings is None else record.trainings.curves.get("validation split")
    if curves is None:
        return None
    stop = stop_by_patience(curves["loss"], PATIENCE)
    return Decision.of_trainings(stop, 0.8 * (stop.stopped or len(curves["loss"])) / len(curves["loss"]), "validation split")


def by_cross_validation(part: str, *, equal_steps: bool = False) -> Rule:
    """Train without each fold until the mean loss on what was left out waits, and then on everything for as many epochs.

    Args:
        part: ``halves`` or ``fifths``.
        equal_steps: Take as many steps, not epochs: fewer epochs, because those on all data are longer.
    """

    def decide(record: Record) -> Decision | None:
        curves = None if record.trainings is None else record.trainings.curves.get(part)
        if curves is None:
            return None
        folds, length = len(curves), len(curves["loss 0"])
        stop = stop_by_patience(np.mean(list(curves.values()), axis=0).tolist(), PATIENCE)
        kept = max(1, round(stop.kept * (folds - 1) / folds)) if equal_steps else stop.kept
        return Decision.of_trainings(Stop(kept, kept), ((folds - 1) * (stop.stopped or length) + kept) / length)

    return Rule(decide, held_out=False)


def by_twin_losses(record: Record, *, equal_steps: bool = False) -> Decision | None:
    """Train for as many epochs as the twins needed until their mean loss on the half that they had not seen was smallest."""
    run = record.run
    if len(run.twin_losses) != 2:
        return None
    shortest = min(map(len, run.twin_losses))
    mean = np.mean([losses[:shortest] for losses in run.twin_losses], axis=0).tolist()
    kept, length = best_epoch(mean).kept, len(run.curves["test_loss"])
    kept = max(1, round(kept / 2)) if equal_steps else kept
    trainings = run.seconds["twin losses before"] / run.seconds["training"] + kept / length
    return Decision.of_trainings(Stop(kept, kept), trainings)


def by_agreement(record: Record, pair: tuple[str | None, str]) -> Decision | None:
    """Wait for two networks to disagree less on unlabelled inputs.

    Jiang, Nagarajan, Baek and Kolter (ICLR 2022, arXiv 2106.13799), "Assessing generalization of SGD via disagreement": how
    often two runs disagree is how often one is wrong. The paper estimates errors and has no rule; waiting is decided here.

    Args:
        record: What is known.
        pair: Two trainings; ``None`` is the run itself. Otherwise the run is trained for as many epochs afterwards.
    """
    if record.trainings is None or pair[1] not in record.trainings.predictions:
        return None
    first, second = (record.run.predictions if name is None else record.trainings.predictions[name] for name in pair)
    disagreement = (first.argmax(dim=2) != second.argmax(dim=2)).double().mean(dim=1).tolist()
    stop, length = stop_by_patience(disagreement, PATIENCE), len(disagreement)
    trained = (stop.stopped or length) / length
    if pair[0] is None:
        return Decision.of_trainings(stop, 2 * trained)
    return Decision.of_trainings(Stop(stop.kept, stop.kept), trained + stop.kept / length)


def by_flipped_labels(record: Record) -> Decision | None:
    """Wait for more of the knowingly changed labels to be predicted as they were given, and keep the weights of that training.

    What a network says of inputs whose labels were changed at random is no longer the label once it memorises. Decided here: a
    twentieth of the labels, patience 5, accuracy as given (given labels may be wrong, too).
    """
    curves = None if record.trainings is None else record.trainings.curves.get("flipped")
    if curves is None:
        return None
    stop, length = stop_by_patience([-one for one in curves["accuracy"]], PATIENCE), len(curves["accuracy"])
    return Decision.of_trainings(stop, (stop.stopped or length) / length, "flipped")


HELD_OUT = "phase 3, twins, held-out probes"
ALONE = "phase 3, twins, no held-out label"
ORACLE = "oracle: best test loss"

PHASE_3 = {
    ALONE: by_phases(TWINS, held_out=False),
    HELD_OUT: by_phases(TWINS_HELD_OUT, held_out=True),
    "phase 3, references, held-out probes": by_phases(REFERENCES, held_out=True),
    "phase 3, own past, nothing else": by_phases(OWN_PAST, held_out=False),
}
"""Rules that stop at phase 3, one for each kind of evidence that every run may have."""

ELABORATE = {
    f"phase 3, {kind}": by_phases(kind, held_out=False) for kind, arguments in KINDS.items() if kind != TWINS and arguments
}
"""The same for kinds of evidence that only some runs have."""

RULES = {
    **PHASE_3,
    f"{HELD_OUT}, best loss on them": by_phases(TWINS_HELD_OUT, held_out=True, keep="probe_loss"),
    f"{HELD_OUT}, best validation loss": by_phases(TWINS_HELD_OUT, held_out=True, keep="validation_loss"),
    "expected test loss, twins, patience 5": by_expected_test_loss(TWINS, held_out=False),
    "expected test loss, twins, held-out probes, patience 5": by_expected_test_loss(TWINS_HELD_OUT, held_out=True),
    "loss of the twins on the other half": Rule(by_twin_losses, held_out=False),
    "loss of the twins on the other half, equal steps": Rule(partial(by_twin_losses, equal_steps=True), held_out=False),
    "a fifth of the training data, patience 5": Rule(by_validation_split, held_out=False),
    "cross-validation in 2 folds": by_cross_validation("halves"),
    "cross-validation in 2 folds, equal steps": by_cross_validation("halves", equal_steps=True),
    "cross-validation in 5 folds": by_cross_validation("fifths"),
    "agreement with a second run": Rule(partial(by_agreement, pair=(None, "second")), held_out=False),
    "agreement of two halves": Rule(partial(by_agreement, pair=("half 0", "half 1")), held_out=False),
    "5 % of labels changed": Rule(by_flipped_labels, held_out=False),
    "evidence-based criterion": on_curve("evidence_criterion", stop_by_evidence_criterion),
    "Label Wave, first minimum": on_curve("prediction_changes", stop_by_label_wave),
    "Label Wave, confirmed for 5 epochs": on_curve("prediction_changes", partial(stop_by_label_wave, patience=5)),
    "gradient disparity, 5 increases": on_curve("gradient_disparity", stop_by_gradient_disparity),
    "gradient disparity, 5 in a row": on_curve("gradient_disparity", partial(stop_by_gradient_disparity, consecutive=True)),
    "validation loss, patience 5": on_curve("validation_loss", partial(stop_by_patience, patience=5), held_out=True),
    "validation loss, patience 10": on_curve("validation_loss", partial(stop_by_patience, patience=10), held_out=True),
    "loss of the held-out probes, patience 5": on_curve("probe_loss", partial(stop_by_patience, patience=5), held_out=True),
    "never": Rule(lambda record: Decision.of_trainings(Stop(None, len(record.run.curves["test_loss"])), 1.0), held_out=False),
    ORACLE: Rule(lambda record: Decision.of_trainings(best_epoch(record.run.curves["test_loss"]), 1.0), held_out=True),
}  # fmt: skip
"""By the name in the table."""


def outcome(rule: Rule, record: Record) -> Outcome | None:
    """Apply a rule to a run; ``None`` where what it looks at was not recorded."""
    decision = rule.decide(record)
    if decision is None:
        return None
    stop, own = decision.stop, record.run.curves
    returned = own if decision.training is None or record.trainings is None else record.trainings.curves[decision.training]
    losses = own["test_loss"]
    return Outcome(
        stop=stop,
        loss=returned["test_loss"][stop.kept - 1] / min(losses) - 1,
        accuracy=max(own["test_accuracy"]) - returned["test_accuracy"][stop.kept - 1],
        epochs=stop.stopped or len(losses),
        epoch_error=stop.kept - best_epoch(losses).kept,
        compute=decision.compute,
        trainings=decision.trainings,
    )


def rises(run: Run) -> bool:
    """Whether the test loss ever gets 5 % above its best after it: only then is there a reason to stop."""
    losses = run.curves["test_loss"]
    return max(losses[best_epoch(losses).kept - 1 :]) > (1 + MATERIAL_RISE) * min(losses)


def ends_high(run: Run) -> bool:
    """Whether the test loss ends 25 % or more above its best."""
    losses = run.curves["test_loss"]
    return losses[-1] >= (1 + CLEAR_RISE) * min(losses)


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


def delay(history: History) -> int | None:
    """How many measurements the detection of phase 3 lies after its onset; ``None`` if there is none."""
    phase = history.first_detection(3)
    return None if phase is None else history.epochs.index(phase.detected.epoch) - history.epochs.index(phase.onset.epoch)


def late(histories: Sequence[History]) -> list[float]:
    """By how many measurements each online onset of phase 3 lies after its change point; NaN if there is none."""
    found = []
    for history in histories:
        if history.first_detection(3) is None:
            continue
        change_point = next((one for one in segment_phases(history) if one.phase == 3), None)
        found.append(math.nan if change_point is None else float(change_point.measurements_late or 0))
    return found
