"""Running a module's own steps, and what comes of it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.game.steps.calls import LossCall, intercepted
from lightning_interactions.game.steps.restoring import as_found
from lightning_interactions.game.steps.stage import on_stage
from lightning_interactions.game.steps.stand_ins import StandInTrainer
from lightning_interactions.game.steps.terms import LossTerm
from lightning_interactions.records.trees import map_leaves, walk

__all__ = ["NORMALISE", "CompanyError", "Reading", "Run", "StepRunner", "are_close", "are_equal", "fails_alone", "step_of"]

NORMALISE = "normalise by running statistics or by layer or group norm, or pass a task of your own"
"""What to do where batches are normalised by themselves."""

REPRODUCED = 1e-5
"""How far, relative to its size, a loss may be from the step's own."""

TIMES_ROUNDING = 1e4
"""Outputs of a row alone and in a batch differ by less than this many roundings of the largest one."""


class CompanyError(ValueError):
    """Scores of rows that only make sense in a batch."""


def fails_alone(error: BaseException) -> CompanyError:
    """Make the error for rows of which one alone raises an error."""
    is_about_norms = "more than 1 value per channel" in str(error) or "more than 1 spatial element" in str(error)
    one_row = "let the module take a batch of one row, such as by squeeze(-1) and not squeeze(), or pass a task of your own"
    return CompanyError(
        f"expected scores of rows that do not depend on the other rows of a batch, but a row alone fails: {error!r}; "
        f"{NORMALISE if is_about_norms else one_row}"
    )


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
        doubt: Why it is not, or may not be, what the step minimises, with both numbers; empty if there is none.
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
    doubt: str = ""


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


class StepRunner:
    """Runs steps of modules that are on a stage.

    Attributes:
        dataloader_idx: What a step gets that asks for it.
    """

    def __init__(self) -> None:
        self.dataloader_idx = 0

    def call(self, model: nn.Module, reading: Reading, tree: Any) -> LossCall:
        """Run the step up to the loss that is explained.

        Raises:
            ValueError: If the step ends before it.
        """
        if reading.clones:
            tree = map_leaves(_cloned, tree)
        step = step_of(model, reading.step)
        if step is None:
            raise ValueError(
                f"OwnStep: expected a Lightning module with a {reading.step}, got {type(model).__name__}; pass a task of your "
                "own for models of other kinds"
            )
        unchanged = as_found(model) if reading.keeps_state else nullcontext()
        with unchanged, torch.set_grad_enabled(reading.needs_grad), intercepted(stop_at=reading.call) as calls:
            positional, named = self._arguments(step, tree)
            step(*positional, **named)
        if len(calls) <= reading.call:
            raise ValueError(
                f"OwnStep: expected {reading.step} to call {reading.term} as its loss number {reading.call + 1}, as before, "
                f"got {len(calls)} losses; a step that takes other ways for other batches needs a task of its own"
            )
        return calls[reading.call]

    def _arguments(self, step: Callable[..., Any], tree: Any) -> tuple[list[Any], dict[str, Any]]:
        """Say what a step is called with: the batch, its number if asked for, the number of the loader if asked for."""
        known = {"batch_idx": 0, "dataloader_idx": self.dataloader_idx}
        positional, named = [tree], dict[str, Any]()
        for other in list(inspect.signature(step).parameters.values())[1:]:
            is_asked_for = other.name in known or other.default is other.empty
            if other.kind is other.VAR_KEYWORD or not is_asked_for:
                continue
            # What has another name is the number of the batch, if it must be given.
            value = known.get(other.name, 0)
            if other.kind in (other.POSITIONAL_ONLY, other.VAR_POSITIONAL):
                positional.append(value)
            else:
                named[other.name] = value
        return positional, named

    def run_on(self, model: nn.Module, step_name: str, tree: Any) -> Any:
        """Run a step, and leave the module as it is then."""
        step = step_of(model, step_name)
        assert step is not None
        positional, named = self._arguments(step, map_leaves(_cloned, tree))
        return step(*positional, **named)

    def run(
        self, model: nn.Module, step_name: str, tree: Any, scaled: tuple[int, float] | None = None, *, watched: bool = True
    ) -> Run:
        """Run a step to its end, whatever comes of it.

        Args:
            model: The module, on a stage.
            step_name: Which step.
            tree: The batch.
            scaled: Number of a loss call, and what its result is multiplied with; what follows from it has gradients.
            watched: Whether loss calls are taken down.
        """
        step = step_of(model, step_name)
        assert step is not None
        for needs_grad in (False, True):
            logged: dict[str, Any] = {}
            returned, error = None, None
            copied = map_leaves(_cloned, tree)
            leaves = [leaf for _, leaf in walk(copied) if isinstance(leaf, Tensor)]
            versions = [leaf._version for leaf in leaves]
            with (
                as_found(model) as changes,
                _logging_to(model, logged),
                torch.set_grad_enabled(needs_grad),
                intercepted(scaled=scaled) if watched else nullcontext(list[LossCall]()) as calls,
            ):
                try:
                    positional, named = self._arguments(step, copied)
                    returned = step(*positional, **named)
                except Exception as raised:
                    error = raised
            if error is None or calls:
                break
        writes = [leaf._version for leaf in leaves] != versions
        return Run(calls, returned, logged, error, needs_grad, writes, bool(changes))


def step_of(model: nn.Module, name: str) -> Callable[..., Any] | None:
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


def are_equal(here: float, there: float, dtype: torch.dtype) -> bool:
    """Whether two losses are the same but for rounding."""
    tolerance = REPRODUCED if dtype.itemsize >= 4 else 10 * torch.finfo(dtype).eps
    return here == there or abs(here - there) <= tolerance * max(1.0, abs(there)) or (here != here and there != there)


def are_close(some: Tensor, others: Tensor, all_outputs: Tensor) -> bool:
    """Whether outputs are the same but for rounding."""
    if some.shape != others.shape:
        return False
    finite = all_outputs[all_outputs.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = TIMES_ROUNDING * torch.finfo(all_outputs.dtype).eps * scale if all_outputs.is_floating_point() else 0.0
    here, there = some.cpu().double(), others.cpu().double()  # Some devices have no float64.
    return bool(torch.isclose(here, there, rtol=0, atol=min(tolerance, 0.05 * scale), equal_nan=True).all())
