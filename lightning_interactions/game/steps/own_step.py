"""The default task: the module's own step says what the outputs, the targets and the loss are."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_interactions.game.steps.calls import LOSSES, LossCall, intercepted
from lightning_interactions.game.steps.stage import StandInTrainer, as_found, on_stage
from lightning_interactions.game.steps.terms import LossTerm
from lightning_interactions.game.tasks import MultiLabel, Task, TokenClassification
from lightning_interactions.records import ProbeGroup, Probes, Rows
from lightning_interactions.records.trees import describe_tree, map_leaves, walk

__all__ = ["IgnoredError", "OwnStep", "disagreement"]

STEPS = ("validation_step", "training_step")

REPRODUCED = 1e-5
"""How far, relative to its size, a loss may be from the step's own."""

TIMES_ROUNDING = 1e4
"""Outputs of a row alone and in a batch differ by less than this many roundings of the largest one."""

CERTAIN, RANDOM, ALONE = 2, 1, 0
"""How it is known which outputs are whose: from rows alone; from their order, since they are random; not at all."""

CERTAINTIES = {
    CERTAIN: "",
    RANDOM: "; outputs are random even in evaluation, and so are interactions in part",
    ALONE: "; the outputs of a row depend on the other rows, so that rows are run one by one, which takes long",
}

WEIGHTS = "weights"
"""Name of the weights of elements beside targets."""

MOST_PERTURBED = 32
"""Leaves of a batch that are tried out one by one."""


class IgnoredError(ValueError):
    """A batch in which no target counts."""


@dataclass(frozen=True)
class Reading:
    """What was found out about a module's step.

    Attributes:
        step: Its name.
        call: Number of the loss call that is explained, in the order in which the step makes them.
        term: What that call says of rows.
        aside: Leaves of the batch that reach only the targets, or nothing.
        rows_alone: Whether rows must be run one by one, because nothing else tells which outputs are whose.
        needs_grad: Whether the step computes gradients.
        clones: Whether the step writes into its batch.
        outputs_depend_on_targets: Whether the outputs are others for other targets.
        keeps_state: Whether the step changes what hangs on the module, such as counters, metrics or a hidden state.
        said: What is explained, and how it compares with the step's own loss, in words.
    """

    step: str
    call: int
    term: LossTerm
    aside: frozenset[str]
    rows_alone: bool
    needs_grad: bool
    clones: bool
    outputs_depend_on_targets: bool
    keeps_state: bool
    said: str


@dataclass(frozen=True)
class Run:
    """A step that ran once: its loss calls, what it returned and logged, its error, and what it changed."""

    calls: Sequence[LossCall]
    returned: Any
    logged: Mapping[str, Any]
    error: Exception | None
    needs_grad: bool
    writes: bool
    keeps_state: bool


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

    Attributes:
        dataloader_idx: What a step gets that asks for it.

    Raises:
        ValueError: When it first sees a batch, if the module has no step, or no loss in it is understood.
    """

    def __init__(self) -> None:
        self.dataloader_idx = 0
        self.begin()

    def __repr__(self) -> str:
        return "OwnStep()"

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

    @property
    def knows_loss(self) -> bool:
        """Whether there is a loss; always so."""
        return True

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

    def given(self, model: nn.Module, inputs: Any, targets: Any) -> Probes:
        """Take a batch ``(inputs, targets)`` that is handed in."""
        return self.read(model, Rows.of((inputs, targets)))

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
        self._axes = {**batch.axes, **self._axes}
        structure = _structure(batch.tree)
        if structure not in self._readings:
            self._take(structure, _find(self, model, batch, self._saved.get(structure)))
        reading = self._readings[structure]
        rows = batch.with_aside(reading.aside)
        groups = [self._with_targets(model, reading, part) for part in self._of_equal_counts(model, reading, rows)]
        kept = [group for group in groups if len(group)]
        if not kept:
            raise IgnoredError(
                f"OwnStep: expected rows with targets that count, got only ignored ones in {describe_tree(batch.tree)}; look "
                "at ignore_index and the labels"
            )
        return Probes.joined(*kept)

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
        call = self.call(model, reading, inputs)
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

    def margin(self, outputs: Any, targets: Any) -> Float[Tensor, " rows"]:
        """Return the logit of the label minus the largest other one, nats, where there are classes."""
        term, own, _ = self._term(targets)
        return super().margin(outputs, own) if term.task is None else term.task.margin(term.logits(outputs), own)

    def exact_losses(self, outputs: Any, targets: Any) -> Float[Tensor, "rows 2"]:
        """Return the sum of each row's losses and its weight in a mean, as the step's loss function computes them."""
        term, own, weights = self._term(targets)
        return torch.stack([term.losses(outputs, own, weights), term.weights(own, weights).to(outputs)], dim=1)

    def reduce_exact(self, losses: Float[Tensor, "rows 2"]) -> Float[Tensor, " rows"]:
        """Give each row its part of the loss of all rows together; see :class:`Task`."""
        return self.readings[0].term.by_row(losses[:, 0], losses[:, 1])

    def call(self, model: nn.Module, reading: Reading, tree: Any) -> LossCall:
        """Run the step up to the loss that is explained.

        Raises:
            ValueError: If the step ends before it.
        """
        if reading.clones:
            tree = map_leaves(_cloned, tree)
        step = _step(model, reading.step)
        if step is None:
            raise ValueError(
                f"OwnStep: expected a Lightning module with a {reading.step}, got {type(model).__name__}; pass a task of your "
                "own for models of other kinds"
            )
        unchanged = as_found(model) if reading.keeps_state else nullcontext()
        with unchanged, torch.set_grad_enabled(reading.needs_grad), intercepted(stop_at=reading.call) as calls:
            step(*self.arguments(step, tree))
        if len(calls) <= reading.call:
            raise ValueError(
                f"OwnStep: expected {reading.step} to call {reading.term} as its loss number {reading.call + 1}, as before, "
                f"got {len(calls)} losses; a step that takes other ways for other batches needs a task of its own"
            )
        return calls[reading.call]

    def arguments(self, step: Callable[..., Any], tree: Any) -> list[Any]:
        """List what a step is called with: the batch, its number if asked for, the number of the loader if asked for."""
        others = list(inspect.signature(step).parameters.values())[1:]
        known = {"batch_idx": 0, "dataloader_idx": self.dataloader_idx}
        # What has another name is the number of the batch, if it must be given.
        named = [known.get(other.name, 0) for other in others if other.name in known or other.default is other.empty]
        return [tree, *named]

    def run(self, model: nn.Module, step_name: str, tree: Any, scale: float | None = None) -> Run:
        """Run a step to its end, whatever comes of it.

        Args:
            model: The module, on a stage.
            step_name: Which step.
            tree: The batch.
            scale: If given, the step has gradients, and losses without a reduction are multiplied with it.
        """
        step = _step(model, step_name)
        assert step is not None
        for needs_grad in (False, True) if scale is None else (True,):
            logged: dict[str, Any] = {}
            returned, error = None, None
            copied = map_leaves(_cloned, tree)
            leaves = [leaf for _, leaf in walk(copied) if isinstance(leaf, Tensor)]
            versions = [leaf._version for leaf in leaves]
            with (
                as_found(model) as changes,
                _logging_to(model, logged),
                torch.set_grad_enabled(needs_grad),
                intercepted(scale=scale) as calls,
            ):
                try:
                    returned = step(*self.arguments(step, copied))
                except Exception as raised:
                    error = raised
            if error is None or calls:
                break
        writes = [leaf._version for leaf in leaves] != versions
        return Run(calls, returned, logged, error, needs_grad, writes, bool(changes))

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
        task = first.term.task
        self.score_is_log_odds = task is not None and task.score_is_log_odds
        self.score_depends_on_targets = task is None or task.score_depends_on_targets
        self.has_classes = task is not None and task.has_classes
        self.loss_unit = "" if task is None else task.loss_unit
        self.largest_batch = 1 if any(one.rows_alone for one in self.readings) else None
        self.outputs_depend_on_targets = any(one.outputs_depend_on_targets for one in self.readings)

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

    def _with_targets(self, model: nn.Module, reading: Reading, rows: Rows) -> ProbeGroup:
        """Find the targets of rows with equally many elements, and leave out rows without any that counts."""
        term = reading.term
        if reading.rows_alone:
            alone = [term.rows(self.call(model, reading, rows.select([row]).tree), 1)[1] for row in range(len(rows))]
            targets, element_weights = torch.cat(alone), None
        else:
            targets = term.rows(self.call(model, reading, rows.tree), len(rows))[1].clone()
            element_weights = self._element_weights(model, reading, rows)
        if element_weights is not None and isinstance(term.task, TokenClassification):
            targets = torch.where(element_weights.reshape(targets.shape) == 0, term.task.ignore_index, targets)
        group = ProbeGroup(rows, Rows.of(self._tagged(reading, targets, element_weights), len(rows)))
        counts = term.weights(targets, element_weights) > 0
        return group if bool(counts.all()) else group.select(counts)

    def _element_weights(self, model: nn.Module, reading: Reading, rows: Rows) -> Tensor | None:
        """Find out what the step makes of a loss without a reduction; ``None`` for the mean, or if that cannot be known."""
        if reading.term.reduction != "none":
            return None
        gradient = _gradient(self, model, reading, rows)
        return None if gradient is None else reading.term.element_weights(gradient, len(rows))

    def _of_equal_counts(self, model: nn.Module, reading: Reading, rows: Rows) -> list[Rows]:
        """Part rows by how many elements of the loss are theirs, where a batch's elements are on one axis.

        Raises:
            ValueError: If the elements of a batch are not those of its rows alone.
        """
        if len(rows) == 1 or not reading.term.flattened:
            return [rows]
        alone = [self.call(model, reading, rows.select([row]).tree) for row in range(len(rows))]
        counts = torch.tensor([len(one.outputs) for one in alone])
        if not reading.rows_alone and not _is_concatenation(reading.term, self.call(model, reading, rows.tree), alone):
            raise ValueError(
                f"OwnStep: expected the elements of {reading.term} to be those of rows alone, {counts.tolist()}, one row after "
                "the other, got others; pass a task of your own, or a loader of batch size 1"
            )
        return [rows.select(counts == count) for count in counts.unique()]


def _structure(tree: Any) -> str:
    """Name the leaves of a batch."""
    return ", ".join(name for name, _ in walk(tree))


def _find(task: OwnStep, model: nn.Module, batch: Rows, saved: Mapping[str, Any] | None) -> Reading:
    """Find the loss to explain in a module's steps, or the one that was explained before.

    Raises:
        ValueError: If there is none.
    """
    tried: list[_Choice] = []
    for name in STEPS if saved is None else [saved["step"]]:
        if _step(model, name) is not None:
            choice = _Choice(task, model, batch, name, None if saved is None else saved["call"])
            reading = choice.reading()
            if reading is not None:
                instead = "".join(f"; {one.step} was not taken: {', '.join(one.reasons)}" for one in tried)
                return replace(reading, said=reading.said + instead)
            tried.append(choice)
    raise _not_understood(model, tried)


class _Choice:
    """The losses of one step, of which one is chosen.

    Args:
        task: Runs steps.
        model: The module.
        batch: A batch.
        step: Name of the step.
        only: Number of the only loss to choose; any if ``None``.
    """

    def __init__(self, task: OwnStep, model: nn.Module, batch: Rows, step: str, only: int | None) -> None:
        self.task, self.model, self.batch, self.step, self.only = task, model, batch, step, only
        self.run = task.run(model, step, batch.tree)
        self.reasons: list[str] = []
        if not self.run.calls:
            self.reasons.append("none of them" if self.run.error is None else f"none of them before {self.run.error!r}")

    def reading(self) -> Reading | None:
        """Choose a loss: one whose outputs can be told apart by rows, one of classes, the largest; ``None`` if there is none.

        Raises:
            ValueError: If the loss is not what the call gave, or its outputs are not what it expects.
        """
        some = sorted({0, len(self.batch) // 2, len(self.batch) - 1}) if self.run.calls else []
        alone = {row: self.task.run(self.model, self.step, self.batch.select([row]).tree) for row in some}
        found = []
        for number, call in enumerate(self.run.calls):
            if self.only not in (None, number):
                continue
            of_rows = {row: run.calls[number] for row, run in alone.items() if len(run.calls) > number}
            if len(of_rows) < len(alone):
                error = next((run.error for run in alone.values() if run.error is not None), None)
                self.reasons.append(f"{call.name}, which is not reached for a row alone ({error!r})")
                continue
            term, certainty = self._told_apart(number, call, of_rows)
            if term is not None:
                size = 0.0 if call.result is None else float(call.result.detach().float().mean().abs())
                found.append(((certainty, term.is_about_classes, size), number, term))
        if not found:
            return None
        (certainty, *_), number, term = max(found, key=lambda one: one[0])
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
            said=_said(self.step, self.run, number, term, len(self.batch)) + CERTAINTIES[certainty],
        )
        aside, depends = _roles(self.task, reading, self.model, self.batch)
        reading = replace(reading, aside=aside, outputs_depend_on_targets=depends)
        return self._of_elements(reading) if term.reduction == "none" and certainty == CERTAIN else reading

    def _of_elements(self, reading: Reading) -> Reading:
        """Say what the step makes of losses without a reduction; labels of which some do not count have no joint log-odds."""
        gradient = _gradient(self.task, self.model, reading, self.batch)
        if gradient is None:
            return replace(
                reading, said=f"{reading.said}; what the step makes of these losses is not known: their mean is taken"
            )
        some = not bool((gradient == gradient.flatten()[0]).all())
        term = replace(reading.term, task=None) if some and isinstance(reading.term.task, MultiLabel) else reading.term
        return replace(reading, term=term, said=f"{reading.said}; its elements are weighted as the step does")

    def _told_apart(self, number: int, call: LossCall, alone: Mapping[int, LossCall]) -> tuple[LossTerm | None, int]:
        """Find out which outputs of a batch belong to which row, by rows that ran alone, and how certain that is."""
        num_rows = len(self.batch)
        term = LossTerm.of(call, num_rows)
        candidates = [] if term is None else [term, *([term.with_positions_first()] if term.flattened else [])]
        for candidate in candidates:
            outputs, _ = candidate.rows(call, num_rows)
            if all(
                _close(outputs[row], candidate.rows(one, 1)[0][0], outputs) for row, one in alone.items() if candidate.fits(one)
            ):
                return candidate, CERTAIN
        ragged = LossTerm.of(call, 1)
        if ragged is None or call.outputs.shape[1:] != alone[0].outputs.shape[1:]:
            shapes = f"{tuple(call.outputs.shape)} for {num_rows} rows and {tuple(alone[0].outputs.shape)} for one"
            self.reasons.append(f"{call.name}, whose outputs {shapes} are not those of each row, whatever the others are")
            return None, ALONE
        count = len(alone[0].outputs)
        if len(call.outputs) != num_rows and _close(call.outputs[:count], alone[0].outputs, call.outputs):
            return replace(ragged, flattened=True), CERTAIN
        again = self.task.run(self.model, self.step, self.batch.tree).calls
        if term is not None and len(again) > number and not _close(again[number].outputs, call.outputs, call.outputs):
            return term, RANDOM
        first = alone[0].outputs
        if len(alone) > 1 and all(_close(one.outputs, first, first) for one in alone.values()):
            self.reasons.append(f"{call.name}, whose outputs for rows alone are all the same: they depend on the other rows")
            return None, ALONE
        return (replace(ragged, flattened=True) if term is None else term), ALONE


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
    name = next((name for name in STEPS if _step(model, name) is not None), None)
    if name is None or here != here:
        return ""
    run = OwnStep().run(model, name, batch)
    own = _own_loss(run, here)
    said = [(call.name, float(call.result)) for call in run.calls if call.result is not None and call.result.numel() == 1]
    said += [] if own is None else [("a loss of its own", own)]
    if not said or any(_equal(one, here, torch.float32) for _, one in said):
        return ""
    there = " and ".join(f"{what} {number:.6g}" for what, number in said)
    return f"{task!r} gives a loss of {here:.6g} on the first batch of probes, where {name} gives {there}"


def _is_concatenation(term: LossTerm, whole: LossCall, alone: Sequence[LossCall]) -> bool:
    """Whether the elements of a batch are those of its rows, one after the other, or position by position."""
    together = torch.cat([one.outputs for one in alone])
    if term.positions_first:
        counts = {len(one.outputs) for one in alone}
        if len(counts) != 1:
            return False
        together = torch.stack([one.outputs for one in alone], dim=1).flatten(0, 1)
    return together.shape == whole.outputs.shape and _close(whole.outputs, together, whole.outputs)


def _close(some: Tensor, others: Tensor, all_outputs: Tensor) -> bool:
    """Whether outputs are the same but for rounding."""
    if some.shape != others.shape:
        return False
    finite = all_outputs[all_outputs.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = TIMES_ROUNDING * torch.finfo(all_outputs.dtype).eps * scale if all_outputs.is_floating_point() else 0.0
    return bool(torch.isclose(some.double(), others.double(), rtol=0, atol=min(tolerance, 0.05 * scale), equal_nan=True).all())


def _roles(task: OwnStep, reading: Reading, model: nn.Module, batch: Rows) -> tuple[frozenset[str], bool]:
    """Find out, by changing one leaf at a time, which leaves are inputs and which are targets.

    Returns:
        The leaves that are no inputs: they reach the targets alone, or nothing; and whether a leaf that reaches the targets
        reaches the outputs, too.
    """
    before = task.call(model, reading, batch.tree)
    reaches_outputs, reaches_targets, reaches_nothing = set(), set(), set()
    for name, leaf in list(batch.tensors.items())[:MOST_PERTURBED]:
        other = _other(leaf)
        if torch.equal(other, leaf):
            continue
        try:
            after = task.call(model, reading, batch.replace({name: other}).tree)
        except Exception:  # An index that is out of range: it does not matter for what.
            reaches_outputs.add(name)
            continue
        outputs = not _close(after.outputs, before.outputs, before.outputs)
        targets = after.targets.shape != before.targets.shape or not torch.equal(after.targets, before.targets)
        reaches_outputs |= {name} if outputs else set()
        reaches_targets |= {name} if targets else set()
        reaches_nothing |= set() if outputs or targets else {name}
    inputs = reaches_outputs - reaches_targets
    if not reaches_outputs:  # Such as a last layer of zeros, or outputs of NaN: any leaf but the targets may be an input.
        return frozenset(reaches_targets), False
    if not inputs:  # Such as an autoencoder or a language model, whose inputs are its targets.
        return frozenset((reaches_targets - reaches_outputs) | reaches_nothing), False
    return frozenset(reaches_targets | reaches_nothing), bool(reaches_targets & reaches_outputs)


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


def _said(step: str, run: Run, number: int, term: LossTerm, num_rows: int) -> str:
    """Say what is explained and compare it with the step's own loss; refuse a call that is not reproduced.

    Raises:
        ValueError: If the loss computed here is not what the call gave.
    """
    call = run.calls[number]
    said = f"{'minus the loss' if term.task is None else repr(term.task)}, by {term} in {step}"
    if call.result is None:
        return said
    outputs, targets = term.rows(call, num_rows if len(call.outputs) % num_rows == 0 else 1)
    term.check(outputs)
    losses, weights = term.losses(outputs, targets), term.weights(targets)
    value = float(call.result.detach().sum())
    here = float(losses.sum() if term.reduction == "none" else term.reduced(losses, weights))
    if not _equal(here, value, call.outputs.dtype):
        raise ValueError(
            f"OwnStep: expected to compute what {term} gave in {step}, {value:.8g}, got {here:.8g}; pass a task of your own"
        )
    own = _own_loss(run, value)
    said = f"{said} = {value:.6g}"
    if own is None:
        return f"{said}; the step neither returns nor logs a loss to compare with"
    if _equal(own, value, call.outputs.dtype):
        return f"{said}, which is the step's own loss"
    names = sorted({one.name for place, one in enumerate(run.calls) if place != number})
    return f"{said} of the step's own loss {own:.6g}; the rest{f' ({chr(44).join(names)})' if names else ''} is not explained"


def _equal(here: float, there: float, dtype: torch.dtype) -> bool:
    tolerance = REPRODUCED if dtype.itemsize >= 4 else 10 * torch.finfo(dtype).eps
    return here == there or abs(here - there) <= tolerance * max(1.0, abs(there)) or (here != here and there != there)


def _gradient(task: OwnStep, model: nn.Module, reading: Reading, rows: Rows) -> Tensor | None:
    """Return the derivative of the step's own loss by the elements of its loss; ``None`` if it is no weighted sum of them."""
    found = []
    for scale in (1.0, 1.5):
        run = task.run(model, reading.step, rows.tree, scale)
        result = run.calls[reading.call].result if len(run.calls) > reading.call else None
        own = _own_loss_tensor(run)
        if result is None or own is None or not own.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(own, result, allow_unused=True, materialize_grads=True)
        found.append(gradient)
    return found[0] if _close(found[0], found[1], found[0]) and bool((found[0] != 0).any()) else None


def _own_loss_tensor(run: Run) -> Tensor | None:
    """Return the loss that a step returns, else the first that it logs."""
    returned = run.returned.get("loss") if isinstance(run.returned, Mapping) else run.returned
    if isinstance(returned, Tensor) and returned.numel() == 1:
        return returned
    logged = [value for name, value in run.logged.items() if "loss" in name.lower() and isinstance(value, Tensor)]
    return next((value for value in logged if value.numel() == 1 and value.requires_grad), None)


def _own_loss(run: Run, value: float) -> float | None:
    """Return what a step says its loss is: what it returns, else what it logs that has this value or is called a loss."""
    returned = run.returned.get("loss") if isinstance(run.returned, Mapping) else run.returned
    if isinstance(returned, Tensor) and returned.numel() == 1:
        return float(returned.detach())
    numbers = {
        name: float(value)
        for name, value in run.logged.items()
        if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    }
    called_loss = [number for name, number in numbers.items() if "loss" in name.lower()]
    return next((number for number in numbers.values() if number == value), called_loss[0] if called_loss else None)


def _step(model: nn.Module, name: str) -> Callable[..., Any] | None:
    """Return a module's step if it has one of its own."""
    step = getattr(model, name, None)
    of_class = getattr(type(model), name, None)
    is_empty = (getattr(of_class, "__module__", None) or "").endswith(
        ("lightning.pytorch.core.module", "pytorch_lightning.core.module")
    )
    return step if callable(step) and not is_empty else None


@contextmanager
def _logging_to(model: nn.Module, logged: dict[str, Any]) -> Iterator[None]:
    """Take down what a module logs while the body runs."""
    try:
        trainer = getattr(model, "trainer", None)
    except RuntimeError:  # It is attached to none.
        trainer = None
    with on_stage(model, trainer.real if isinstance(trainer, StandInTrainer) else trainer, log=logged.__setitem__):
        yield


def _cloned(_name: str, leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _not_understood(model: nn.Module, tried: Sequence[_Choice]) -> ValueError:
    """Make the error that says what to write."""
    parts = [f"{choice.step} with {', '.join(choice.reasons)}" for choice in tried]
    got = "; ".join(parts) or f"{type(model).__name__}, which has no validation_step or training_step"
    return ValueError(
        f"OwnStep: expected a step that calls a loss function of torch ({', '.join(one.__name__ for one in LOSSES[:5])}, …) on "
        f"outputs and targets of each row, got {got}; say what is explained in a task of your own:\n"
        "    class MyTask(tasks.Classification):\n"
        "        def unpack(self, batch):\n"
        "            return batch['image'], batch['label']\n"
        "        def forward(self, model, inputs):\n"
        "            return model(inputs)\n"
        "    InteractionMonitor(task=MyTask())"
    )
