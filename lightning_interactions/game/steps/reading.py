"""Finding out from a module's own steps what there is to explain."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.game.steps.calls import LOSSES, LossCall
from lightning_interactions.game.steps.own_loss import adds_up, check, compare, share_of
from lightning_interactions.game.steps.restoring import opened
from lightning_interactions.game.steps.runs import Reading, StepRunner, are_close, fails_alone, step_of
from lightning_interactions.game.steps.terms import LossTerm, weighs_rows
from lightning_interactions.game.tasks import MultiLabel
from lightning_interactions.records import Rows

__all__ = ["STEPS", "FirstBatchError", "find_reading", "is_about_dtypes", "is_concatenation"]

STEPS = ("validation_step", "training_step")

CERTAIN, RANDOM, ALONE = 2, 1, 0
"""How it is known which outputs are whose: from rows alone; from their order, since they are random; not at all."""

CERTAINTIES = {
    CERTAIN: "",
    RANDOM: "; outputs are random even in evaluation, and so are interactions in part",
    ALONE: "; the outputs of a row depend on the other rows, so that rows are run one by one, which takes long",
}

ABOUT_DTYPES = re.compile(r"dtype|scalar type|type .*should be the same|BFloat16|\bHalf\b|\bbfloat16\b|\bfloat16\b")
"""What torch says where dtypes do not fit."""

OTHERS = "they depend on the other rows, as in a loss over a batch or with batch norm without running statistics"

NOT_OF_ROWS = "are not those of each row, whatever the others are"

_KINDS = {"nll_loss": "cross_entropy", "binary_cross_entropy": "binary_cross_entropy_with_logits"}
"""Loss functions that are the same but for what they make of the outputs first."""

MOST_LISTED = 8
"""Names of leaves that are said."""


class FirstBatchError(ValueError):
    """A module whose weights are set by the first batch that passes, and none has passed."""


def is_about_dtypes(error: BaseException) -> bool:
    """Whether an error is one of torch about dtypes that do not go together."""
    return ABOUT_DTYPES.search(str(error)) is not None


def find_reading(runner: StepRunner, model: nn.Module, batch: Rows, saved: Mapping[str, Any] | None) -> Reading:
    """Find the loss to explain in a module's steps, or the one that was explained before.

    Raises:
        FirstBatchError: If the module can be understood only after a first batch.
        ValueError: If there is none.
    """
    tried: list[_Choice] = []
    for name in STEPS if saved is None else [saved["step"]]:
        if step_of(model, name) is not None:
            choice = _Choice(runner, model, batch, name, None if saved is None else saved["call"])
            reading = choice.reading()
            if reading is not None:
                instead = "".join(f"; {one.step} was not taken: {', '.join(one.reasons)}" for one in tried)
                other = "" if saved is not None else _trained_otherwise(choice, reading)
                return replace(reading, said=reading.said + instead, doubt=reading.doubt or other)
            tried.append(choice)
    for one in tried:
        if _sets_weights_once(runner, model, one.step, batch):
            raise FirstBatchError(
                f"OwnStep: expected a module whose weights are set, got {type(model).__name__}, in which {one.step} sets some "
                "by the first batch that passes, as layers do that scale by its statistics; let a batch pass before"
            )
    raise _not_understood(model, tried)


def _trained_otherwise(choice: "_Choice", reading: Reading) -> str:
    """Say that a validation step has a loss of another kind than the training step; nothing where that cannot be known."""
    validation, training = STEPS
    if reading.step != validation or step_of(choice.model, training) is None:
        return ""
    minimised = {call.name for call in choice.runner.run(choice.model, training, choice.batch.tree).calls}
    own = choice.run.calls[reading.call].name
    if not minimised or _KINDS.get(own, own) in {_KINDS.get(name, name) for name in minimised}:
        return ""
    return f"{validation} has {own}, which is explained, and {training} minimises {' and '.join(sorted(minimised))}"


def _sets_weights_once(runner: StepRunner, model: nn.Module, step: str, batch: Rows) -> bool:
    """Run a step twice, and say whether the first time changes weights and the second does not."""
    changes = []
    # Other rows than those that have run before, which may have set the weights.
    for rows in (batch.select(range(max(1, len(batch) // 2))), batch):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with suppress(Exception), torch.no_grad():
            runner.run_on(model, step, rows.tree)
        changes.append(not all(map(torch.equal, before, model.parameters())))
    return changes == [True, False]


class _Choice:
    """The losses of one step, of which one is chosen.

    Args:
        runner: Runs steps.
        model: The module.
        batch: A batch.
        step: Name of the step.
        only: Number of the only loss to choose; any if ``None``.
    """

    def __init__(self, runner: StepRunner, model: nn.Module, batch: Rows, step: str, only: int | None) -> None:
        self.runner, self.model, self.batch, self.step, self.only = runner, model, batch, step, only
        self.run = runner.run(model, step, batch.tree)
        self.reasons: list[str] = []
        self.fails_alone: Exception | None = None
        if not self.run.calls:
            self.reasons.append("none of them" if self.run.error is None else f"none of them before {self.run.error!r}")

    def reading(self) -> Reading | None:
        """Choose a loss: a part of the step's own, of outputs that can be told apart by rows, of classes, the largest, if any.

        Raises:
            ValueError: If the loss is not what the call gave, or its outputs are not what it expects.
        """
        some = sorted({0, len(self.batch) // 2, len(self.batch) - 1}) if self.run.calls else []
        alone = {row: self.runner.run(self.model, self.step, self.batch.select([row]).tree) for row in some}
        found = []
        for number, call in enumerate(self.run.calls):
            if self.only not in (None, number):
                continue
            of_rows = {row: run.calls[number] for row, run in alone.items() if len(run.calls) > number}
            if len(of_rows) < len(alone):
                error = next((run.error for run in alone.values() if run.error is not None), None)
                self.reasons.append(f"{call.name}, which is not reached for a row alone ({error!r})")
                self.fails_alone = self.fails_alone or error
                continue
            term, certainty = self._told_apart(number, call, of_rows)
            if term is not None:
                size = 0.0 if call.result is None else float(call.result.detach().float().mean().abs())
                found.append(((self._is_part(number), certainty, term.is_about_classes, size), number, term))
        if not found:
            return None
        (_, certainty, *_), number, term = max(found, key=lambda one: one[0])
        check(self.run, number, term, len(self.batch))
        reading = Reading(
            step=self.step,
            call=number,
            term=term,
            aside=frozenset(),
            rows_alone=certainty == ALONE,
            needs_grad=self.run.needs_grad,
            clones=self.run.writes,
            outputs_depend_on_targets=False,
            keeps_state=self.run.keeps_state,
            said="",
        )
        aside, depends, nothing = _roles(self.runner, reading, self.model, self.batch)
        reading = self._of_elements(replace(reading, aside=aside, outputs_depend_on_targets=depends))
        said, doubt = compare(self.runner, self.model, reading, self.run, self.batch)
        unused = f"; what reaches neither outputs nor targets is left out: {_listed(nothing)}" if nothing else ""
        return replace(reading, said=said + CERTAINTIES[certainty] + self.failed() + unused, doubt=doubt)

    def _is_part(self, number: int) -> bool:
        """Whether the step's own loss depends on one of several losses; it does if that cannot be known."""
        share = share_of(self.runner, self.model, self.step, number, self.batch) if len(self.run.calls) > 1 else None
        return share is None or share.is_part

    def failed(self) -> str:
        """Say that the step fails after a loss, if it does."""
        return f"; {self.step} fails after its losses: {self.run.error!r}" if self.run.calls and self.run.error else ""

    def _of_elements(self, reading: Reading) -> Reading:
        """Find out what the step makes of losses without a reduction; labels that count differently have no joint log-odds."""
        if reading.term.reduction != "none" or reading.rows_alone:
            return reading
        share = share_of(self.runner, self.model, self.step, reading.call, self.batch)
        if share is None:
            return reading
        term = replace(reading.term, adds_up=adds_up(self.runner, self.model, reading, self.batch, share))
        differ = share.gradient.ndim > 1 and not bool((share.gradient == share.gradient[:, :1]).all())
        return replace(reading, term=replace(term, task=None) if differ and isinstance(term.task, MultiLabel) else term)

    def _told_apart(self, number: int, call: LossCall, alone: Mapping[int, LossCall]) -> tuple[LossTerm | None, int]:
        """Find out which outputs of a batch belong to which row, by rows that ran alone, and how certain that is."""
        num_rows = len(self.batch)
        term = LossTerm.of(call, num_rows)
        candidates = [] if term is None else [term, *([term.with_positions_first()] if term.flattened else [])]
        fitting = []
        for candidate in candidates:
            outputs, targets = candidate.rows(call, num_rows)
            own = {row: candidate.rows(one, 1) for row, one in alone.items() if candidate.fits(one)}
            if own.keys() == alone.keys() and all(are_close(outputs[row], one[0], outputs) for row, (one, _) in own.items()):
                fitting.append((all(torch.equal(targets[row], aims[0]) for row, (_, aims) in own.items()), candidate))
        if fitting:
            # Outputs may be the same in all rows, as those of a head that begins with zeros: then targets decide.
            return next((candidate for same_targets, candidate in fitting if same_targets), fitting[0][1]), CERTAIN
        if weighs_rows(call):
            self.reasons.append(f"{call.name}, which has a tensor with a weight for each element: take reduction='none'")
            return None, ALONE
        ragged = LossTerm.of(call, 1)
        if ragged is None or call.outputs.shape[1:] != alone[0].outputs.shape[1:]:
            shapes = f"{tuple(call.outputs.shape)} for {num_rows} rows and {tuple(alone[0].outputs.shape)} for one"
            self.reasons.append(f"{call.name}, whose outputs {shapes} {NOT_OF_ROWS}")
            return None, ALONE
        count = len(alone[0].outputs)
        if len(call.outputs) != num_rows and are_close(call.outputs[:count], alone[0].outputs, call.outputs):
            return replace(ragged, flattened=True), CERTAIN
        again = self.runner.run(self.model, self.step, self.batch.tree).calls
        if term is not None and len(again) > number and not are_close(again[number].outputs, call.outputs, call.outputs):
            return term, RANDOM
        first = alone[0].outputs
        if len(alone) > 1 and all(are_close(one.outputs, first, first) for one in alone.values()):
            self.reasons.append(f"{call.name}, whose outputs for rows alone are all the same: {OTHERS}")
            return None, ALONE
        return (replace(ragged, flattened=True) if term is None else term), ALONE


def is_concatenation(term: LossTerm, whole: LossCall, alone: Sequence[LossCall]) -> bool:
    """Whether the elements of a batch are those of its rows, one after the other, or position by position."""
    together = torch.cat([one.outputs for one in alone])
    if term.positions_first:
        counts = {len(one.outputs) for one in alone}
        if len(counts) != 1:
            return False
        together = torch.stack([one.outputs for one in alone], dim=1).flatten(0, 1)
    return together.shape == whole.outputs.shape and are_close(whole.outputs, together, whole.outputs)


def _roles(runner: StepRunner, reading: Reading, model: nn.Module, batch: Rows) -> tuple[frozenset[str], bool, frozenset[str]]:
    """Find out, by changing one leaf at a time, which leaves are inputs and which are targets.

    Parameters that are zero may close the way of a leaf to the outputs, such as a gate that begins with zero. So the same is
    asked once more with them opened, which says what can reach the outputs and not what does.

    Returns:
        The leaves that are no inputs: they reach the targets alone, or nothing; whether a leaf that reaches the targets reaches
        the outputs, too; and those of the first that reach nothing.
    """
    reaches_outputs, reaches_targets = _reached(runner, reading, model, batch)
    with opened(model) as num_opened:
        if num_opened:
            with suppress(Exception):  # A step that fails with other weights says no more than it did.
                more = _reached(runner, reading, model, batch)
                reaches_outputs, reaches_targets = reaches_outputs | more[0], reaches_targets | more[1]
    reaches_nothing = frozenset(batch.tensors) - reaches_outputs - reaches_targets
    inputs = reaches_outputs - reaches_targets
    if not reaches_outputs:  # Such as outputs of NaN: any leaf but the targets may be an input.
        return reaches_targets, False, frozenset()
    if not inputs:  # Such as an autoencoder or a language model, whose inputs are its targets.
        return (reaches_targets - reaches_outputs) | reaches_nothing, False, reaches_nothing
    return reaches_targets | reaches_nothing, bool(reaches_targets & reaches_outputs), reaches_nothing


def _reached(runner: StepRunner, reading: Reading, model: nn.Module, batch: Rows) -> tuple[frozenset[str], frozenset[str]]:
    """Return the leaves that reach the outputs and those that reach the targets, each found by a run of its own."""
    before, again = (runner.call(model, reading, batch.tree) for _ in range(2))
    # Where the same batch gives the same outputs to the last bit, the smallest difference is an effect.
    is_same = _are_same if _are_same(before.outputs, again.outputs) else partial(are_close, all_outputs=before.outputs)
    outputs, targets = set[str](), set[str]()
    for name, leaf in batch.tensors.items():
        try:
            after = runner.call(model, reading, batch.replace({name: _other(leaf)}).tree)
        except Exception:  # An index that is out of range: it does not matter for what.
            outputs.add(name)
            continue
        if not is_same(after.outputs, before.outputs):
            outputs.add(name)
        if not _are_same(after.targets, before.targets):
            targets.add(name)
    return frozenset(outputs), frozenset(targets)


def _are_same(some: Tensor, others: Tensor) -> bool:
    """Whether all numbers are the same; NaN is the same as NaN."""
    return some.shape == others.shape and bool(((some == others) | (some.isnan() & others.isnan())).all())


def _other(leaf: Tensor) -> Tensor:
    """Change every row of a leaf into one that is as possible: another row's, or if all are the same a little other."""
    another = leaf.roll(1, 0)
    if not torch.equal(another, leaf):
        return another
    if leaf.dtype == torch.bool:
        return ~leaf
    if leaf.is_floating_point():
        return 1.1 * leaf + 0.1
    return leaf - 1 if leaf.numel() and bool((leaf > 0).all()) else leaf + 1


def _listed(names: frozenset[str]) -> str:
    some = sorted(names)[:MOST_LISTED]
    return ", ".join(some if len(names) == len(some) else [*some, f"and {len(names) - len(some)} more"])


def _not_understood(model: nn.Module, tried: Sequence[_Choice]) -> ValueError:
    """Make the error that says what to write."""
    alone = next((choice.fails_alone for choice in tried if choice.fails_alone is not None), None)
    if alone is not None:
        return fails_alone(alone)
    parts = [f"{choice.step} with {', '.join(choice.reasons)}{choice.failed()}" for choice in tried]
    got = "; ".join(parts) or f"{type(model).__name__}, which has no validation_step or training_step"
    if any(choice.run.error is not None and is_about_dtypes(choice.run.error) for choice in tried):
        return ValueError(
            f"OwnStep: expected a step that runs in the dtype of its weights, got {got}; pass "
            "Extraction(trainer_precision=True), with which it runs under the precision of the Trainer"
        )
    reasons = [reason for choice in tried for reason in choice.reasons]
    if reasons and all(NOT_OF_ROWS in reason for reason in reasons):
        return ValueError(
            f"OwnStep: expected outputs and targets of each row, got {got}; a loss over a whole batch says nothing of a row: "
            "explain another number of each row in a task of your own, a tasks.Task with unpack, forward and score, such as "
            "the similarity of its two views"
        )
    return ValueError(
        f"OwnStep: expected a step that calls a loss function of torch ({', '.join(one.__name__ for one in LOSSES[:5])}, …) on "
        f"outputs and targets of each row, got {got}; say what is explained in a task of your own:\n"
        "    from lightning_interactions import tasks\n"
        "    class MyTask(tasks.Classification):  # or BinaryClassification, Regression, …\n"
        "        def unpack(self, batch):\n"
        f"            return {_two_of(tried[0].batch.tree if tried else None)}  # inputs, targets\n"
        "        def forward(self, model, inputs):\n"
        "            return model(inputs)\n"
        "    InteractionMonitor(task=MyTask())"
    )


def _two_of(batch: Any) -> str:
    """Write how two things are taken out of a batch, by the names that it has."""
    if isinstance(batch, Mapping) and len(batch) > 1:
        return ", ".join(f"batch[{name!r}]" for name in list(batch)[:2])
    return "batch[0], batch[1]"
