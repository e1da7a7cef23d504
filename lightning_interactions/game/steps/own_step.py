"""The default task: the module's own step says what the outputs, the targets and the loss are."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_interactions.game.evaluation import in_dtype_of
from lightning_interactions.game.steps.own_loss import own_loss, share_of
from lightning_interactions.game.steps.reading import STEPS, FirstBatchError, find_reading, is_concatenation
from lightning_interactions.game.steps.runs import Reading, StepRunner, are_equal, step_of
from lightning_interactions.game.steps.terms import LossTerm
from lightning_interactions.game.tasks import Task, TokenClassification
from lightning_interactions.records import ProbeGroup, Probes, Rows
from lightning_interactions.records.trees import describe_tree, walk

__all__ = ["FirstBatchError", "IgnoredError", "OwnStep", "disagreement"]

WEIGHTS = "weights"
"""Name of the weights of elements beside targets."""


class IgnoredError(ValueError):
    """A batch in which no target counts."""


class OwnStep(Task):
    """The module's own ``validation_step`` (else ``training_step``) is the game: nothing has to be said about a module.

    The step runs on masked batches of the user's own data, and its call of a loss function of torch is intercepted, also in
    ``nn.CrossEntropyLoss`` or inside a Hugging Face model. That gives outputs, targets, class weights, label smoothing and
    ignored targets of every row. What is explained follows from it:

    - classes: the log-odds of the target class; of tokens or pixels the sum of them; of labels the log-odds that all are right;
    - one number a row (squared, absolute or Huber error): the prediction;
    - anything else: minus the loss of the row.

    Of several losses the one of classes with the largest value is explained. Losses of unmasked rows are exactly the step's. A
    loss that is written by hand cannot be seen: such a module needs a task of its own, see :class:`Task`.

    Raises:
        ValueError: When it first sees a batch, if the module has no step, or no loss in it is understood.
    """

    def __init__(self) -> None:
        self._runner = StepRunner()
        self._warned: set[tuple[Any, ...]] = set()
        self.begin()

    def __repr__(self) -> str:
        return "OwnStep()"

    @property
    def dataloader_idx(self) -> int:
        """Number of the loader that a step gets that asks for it."""
        return self._runner.dataloader_idx

    @dataloader_idx.setter
    def dataloader_idx(self, number: int) -> None:
        self._runner.dataloader_idx = number

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What was found out about the step, one for each structure of batches."""
        return tuple(self._readings.values())

    @property
    def is_ready(self) -> bool:  # type: ignore[override]
        """Whether a batch was read."""
        return bool(self._readings)

    @property
    def explains(self) -> str:
        """What is explained, in words; empty before a batch was read."""
        return "; ".join(dict.fromkeys(reading.said for reading in self.readings))

    def begin(self, state: Mapping[str, Any] | None = None) -> None:
        """Forget what was found out about another module; of a saved run, explain the same losses."""
        self._readings: dict[str, Reading] = {}
        self._axes: dict[str, int] = {}
        self._saved = dict(state or {})

    def state_dict(self) -> dict[str, Any]:
        """Return which loss of which step is explained, for each structure of batches."""
        return self._saved | {key: {"step": one.step, "call": one.call} for key, one in self._readings.items()}

    def rows(self, batch: Any) -> Rows:
        """Take a whole batch for rows, on the axes of the batches that were read before."""
        sizes = {
            leaf.shape[self._axes[name]]
            for name, leaf in walk(batch)
            if name in self._axes and isinstance(leaf, Tensor) and leaf.ndim > self._axes[name]
        }
        return Rows(batch, sizes.pop(), self._axes) if len(sizes) == 1 else Rows.of(batch)

    def given(self, model: nn.Module, inputs: Any, targets: Any = None) -> tuple[Probes, Int[Tensor, " probes"], int]:
        """Take a batch, or one of ``(inputs, targets)``, that is handed in; see :class:`Task`."""
        batch = inputs if targets is None else (inputs, targets)
        known = self.rows(batch)
        number = len(known) if targets is None else len(Probes.of((inputs, targets)))
        rows = known if len(known) == number else Rows.of(batch, number)
        try:
            parts = self._read(model, in_dtype_of(model, rows)) if number else []
        except IgnoredError:  # No target counts.
            parts = []
        places = [torch.empty(0, dtype=torch.long), *(own for _, own in parts)]
        return Probes(tuple(group for group, _ in parts)), torch.cat(places), number

    def unpack(self, batch: Any) -> tuple[Any, Any]:
        """Refuse: what the targets are is only known by running the step; see :meth:`read`."""
        raise TypeError("OwnStep: expected a call of read(model, batch), which runs the module's step, got unpack(batch)")

    def inputs(self, batch: Any) -> Rows:
        """Take the inputs of a batch; all of it if no other of its structure was read before."""
        reading = self._readings.get(_structure(batch))
        return self.rows(batch).with_aside(frozenset() if reading is None else reading.aside)

    def read(self, model: nn.Module, batch: Rows) -> Probes:
        """Run the step on a batch, and take the whole batch for inputs and what its loss gets for targets.

        Args:
            model: A Lightning module in evaluation mode, on a stage; see :func:`~lightning_interactions.game.steps.on_stage`.
            batch: The batch, on the model's device. Rows whose targets are all ignored are left out.

        Raises:
            ValueError: If there is no step, its loss is not understood, or cannot be told apart by rows.
            IgnoredError: If no target counts.
        """
        return Probes.joined(*(group for group, _ in self._read(model, batch)))

    def _read(self, model: nn.Module, batch: Rows) -> list[tuple[ProbeGroup, Int[Tensor, " rows"]]]:
        """Read a batch; beside each group of rows say which of the batch they are."""
        self._axes = {**batch.axes, **self._axes}
        structure = _structure(batch.tree)
        if structure not in self._readings:
            self._take(structure, find_reading(self._runner, model, batch, self._saved.get(structure)))
        reading = self._readings[structure]
        rows = batch.with_aside(reading.aside)
        kept = []
        for places in self._of_equal_counts(model, reading, rows):
            group, counts = self._with_targets(model, reading, rows if len(places) == len(rows) else rows.select(places))
            if bool(counts.any()):
                kept.append((group if bool(counts.all()) else group.select(counts), places[counts.cpu()]))
        if not kept:
            raise IgnoredError(
                f"OwnStep: expected rows with targets that count, got only ignored ones in {describe_tree(batch.tree)}; look "
                "at ignore_index and the labels"
            )
        return kept

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """Run the step up to its loss, and return the outputs that the loss gets, ``[rows, ...]``.

        Raises:
            ValueError: If the step does not get there, or batches of this structure were not read.
        """
        reading = self._readings.get(_structure(inputs))
        if reading is None:
            raise ValueError(f"OwnStep: expected a batch like one that was read, got {describe_tree(inputs)}")
        num_rows = next(
            leaf.shape[self._axes[name]] for name, leaf in walk(inputs) if name in self._axes and isinstance(leaf, Tensor)
        )
        call = self._runner.call(model, reading, inputs)
        term = reading.term.updated(call, num_rows)
        if term is not reading.term:
            self._readings[_structure(inputs)] = replace(reading, term=term)
        return term.rows(call, num_rows)[0]

    def score(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return what is explained; see the class."""
        term, own, weights = self._term(targets)
        return term.score(outputs, own, weights)

    def loss(self, score: Float[Tensor, " rows"], targets: Any) -> Float[Tensor, " rows"] | None:
        """Return the loss of each row as a function of its score; see :class:`Task`."""
        term, own, weights = self._term(targets)
        return term.loss(score, own, weights)

    def row_weights(self, targets: Any) -> Float[Tensor, " rows"]:
        """Return the weights of rows that :meth:`loss` norms to a mean of 1."""
        term, own, weights = self._term(targets)
        return term.divides(own, weights)

    def exact_losses(self, outputs: Any, targets: Any) -> Float[Tensor, "rows 2"]:
        """Return the sum of each row's losses, as the step's loss function computes them, and its part of what divides them."""
        term, own, weights = self._term(targets)
        return torch.stack([term.losses(outputs, own, weights), term.divides(own, weights).to(outputs)], dim=1)

    def _take(self, structure: str, reading: Reading) -> None:
        """Keep what was found out; all that is asked of a task follows from the first structure of batches.

        Raises:
            ValueError: If something else would be explained of these batches than of others.
        """
        first = next(iter(self._readings.values()), reading)
        if type(first.term.task) is not type(reading.term.task):
            raise ValueError(
                f"OwnStep: expected the same to be explained of all batches, got {first.said} for some and {reading.said} for "
                "others; pass a task of your own"
            )
        self._readings[structure] = reading
        if reading.doubt:
            self._warn((reading.step, reading.call), reading.doubt)
        if first.term.is_sum != reading.term.is_sum and not (first.term.is_one_number and reading.term.is_one_number):
            self._warn(
                (first.call, reading.call),
                f"the losses of some batches are added up and those of others are a mean, {first.said} and {reading.said}, so "
                "that they cannot be compared",
            )
        task = first.term.task
        self.score_is_log_odds = task is not None and task.score_is_log_odds
        self.score_depends_on_targets = task is None or task.score_depends_on_targets
        self.loss_unit = "" if task is None else task.loss_unit
        self.largest_batch = 1 if any(one.rows_alone for one in self.readings) else None
        self.outputs_depend_on_targets = any(one.outputs_depend_on_targets for one in self.readings)

    def _warn(self, about: tuple[Any, ...], doubt: str) -> None:
        """Warn once, whatever the numbers, of what is explained but may not be minimised."""
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(
                f"OwnStep: {doubt}; if that is not meant, say what is minimised in a task of your own, "
                "InteractionMonitor(task=MyTask())",
                stacklevel=2,
            )

    def _term(self, targets: Any) -> tuple[LossTerm, Tensor, Tensor | None]:
        """Say which loss targets belong to, and how much its elements count; see :meth:`_tagged`."""
        if isinstance(targets, Tensor):
            return self.readings[0].term, targets, None
        (name,) = targets.keys() - {WEIGHTS}
        return self.readings[int(name)].term, targets[name], targets.get(WEIGHTS)

    def _tagged(self, reading: Reading, targets: Tensor, element_weights: Tensor | None) -> Any:
        """Mark targets of other structures than the first with its number, and put weights of elements beside them."""
        number = self.readings.index(reading)
        beside = {} if element_weights is None else {WEIGHTS: element_weights}
        return {str(number): targets, **beside} if number or beside else targets

    def _with_targets(self, model: nn.Module, reading: Reading, rows: Rows) -> tuple[ProbeGroup, Bool[Tensor, " rows"]]:
        """Find the targets of rows with equally many elements, and say which rows have any that counts."""
        term = reading.term
        if reading.rows_alone:
            alone = [term.rows(self._runner.call(model, reading, rows.select([row]).tree), 1)[1] for row in range(len(rows))]
            targets, element_weights = torch.cat(alone), None
        else:
            targets = term.rows(self._runner.call(model, reading, rows.tree), len(rows))[1].clone()
            element_weights = self._element_weights(model, reading, rows, targets)
        if element_weights is not None and isinstance(term.task, TokenClassification):
            targets = torch.where(element_weights.reshape(targets.shape) == 0, term.task.ignore_index, targets)
        group = ProbeGroup(rows, Rows.of(self._tagged(reading, targets, element_weights), len(rows)))
        return group, term.counts(targets, element_weights).any(dim=1)

    def _element_weights(self, model: nn.Module, reading: Reading, rows: Rows, targets: Tensor) -> Tensor | None:
        """Find out what the step makes of a loss without a reduction; ``None`` for the mean, or if that cannot be known."""
        if reading.term.reduction != "none":
            return None
        share = share_of(self._runner, model, reading.step, reading.call, rows)
        return None if share is None or not share.is_part else reading.term.element_weights(share.gradient, targets)

    def _of_equal_counts(self, model: nn.Module, reading: Reading, rows: Rows) -> list[Int[Tensor, " part"]]:
        """Number rows, in parts by how many elements of the loss are theirs, where a batch's elements are on one axis.

        Raises:
            ValueError: If the elements of a batch are not those of its rows alone.
        """
        if len(rows) == 1 or not reading.term.flattened:
            return [torch.arange(len(rows))]
        alone = [self._runner.call(model, reading, rows.select([row]).tree) for row in range(len(rows))]
        counts = torch.tensor([len(one.outputs) for one in alone])
        if not reading.rows_alone and not is_concatenation(reading.term, self._runner.call(model, reading, rows.tree), alone):
            raise ValueError(
                f"OwnStep: expected the elements of {reading.term} to be those of rows alone, {counts.tolist()}, one row after "
                "the other, got others; pass a task of your own, or a loader of batch size 1"
            )
        return [(counts == count).nonzero()[:, 0] for count in counts.unique()]


def _structure(tree: Any) -> str:
    """Name the leaves of a batch."""
    return ", ".join(name for name, _ in walk(tree))


def disagreement(task: Task, model: nn.Module, batch: Any, probes: Probes) -> str:
    """Compare the loss of a task of the user's own with what the module's step says on the same batch.

    Args:
        task: A task that is not :class:`OwnStep`.
        model: A Lightning module in evaluation mode, on a stage.
        batch: A whole batch.
        probes: Its inputs and targets as the task found them.

    Returns:
        Both numbers in words if they differ; empty if they agree, or the step says no number.
    """
    here = task.mean_loss(model, probes.groups)
    name = next((name for name in STEPS if step_of(model, name) is not None), None)
    if name is None or here != here:
        return ""
    run = StepRunner().run(model, name, batch)
    own = own_loss(run, here)
    said = [(call.name, float(call.result)) for call in run.calls if call.result is not None and call.result.numel() == 1]
    said += [] if own is None else [("a loss of its own", own)]
    # What is computed in a narrow dtype is only as exact.
    dtype = min((call.outputs.dtype for call in run.calls), key=lambda one: one.itemsize, default=torch.float32)
    if not said or any(are_equal(one, here, dtype) for _, one in said):
        return ""
    there = " and ".join(f"{what} {number:.6g}" for what, number in said)
    return f"{task!r} gives a loss of {here:.6g} on the first batch of probes, where {name} gives {there}"
