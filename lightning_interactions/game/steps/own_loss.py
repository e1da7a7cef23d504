"""The number that a step says its loss is, and what part of it the loss is that is explained."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_interactions.game.steps.runs import Reading, Run, StepRunner, are_close, are_equal
from lightning_interactions.game.steps.terms import OF_NUMBERS, LossTerm
from lightning_interactions.records import Rows

__all__ = ["Share", "adds_up", "check", "compare", "own_loss", "share_of"]

RETURNED = ""
"""Where a step's own loss is if the step returns it; else it is the name under which it is logged."""

_STAGES = re.compile(r"validation|valid|val|training|train|test|total|epoch|step|[^a-z]")


@dataclass(frozen=True)
class Share:
    """How a step's own loss depends on one of the losses in it, on which it depends linearly.

    Attributes:
        gradient: Its derivative by the loss, or by each element of one without a reduction.
        result: The loss, or its elements.
    """

    gradient: Tensor
    result: Tensor

    @property
    def is_part(self) -> bool:
        """Whether the step's own loss depends on it at all."""
        return bool((self.gradient != 0).any())

    @property
    def value(self) -> float:
        """How much of the step's own loss it is."""
        return float((self.gradient.cpu().double() * self.result.cpu().double()).sum())


def own_loss(run: Run, value: float) -> float | None:
    """Return what a step says its loss is, beside a loss in it of this value; ``None`` if it says none."""
    place = _place(run, value)
    found = None if place is None else _number_at(run, place)
    return float(found.detach()) if isinstance(found, Tensor) else found


def share_of(runner: StepRunner, model: nn.Module, step: str, number: int, rows: Rows) -> Share | None:
    """Find out how a step's own loss depends on a loss in it.

    Args:
        runner: Runs steps.
        model: The module, on a stage.
        step: Name of the step.
        number: Number of the call of the loss.
        rows: A batch.

    Returns:
        ``None`` if it is no linear function of it (and of nothing else that follows from it), or that cannot be known.
    """
    once, more = (_scaled(runner, model, step, number, rows, scale) for scale in (1.0, 1.5))
    if once is None or more is None:
        return None
    (own, result), (other, _) = once, more
    if own.requires_grad and other.requires_grad:
        try:
            gradient, again = (torch.autograd.grad(*one, allow_unused=True, materialize_grads=True)[0] for one in (once, more))
        except RuntimeError:  # The step has computed gradients itself, and kept nothing for others.
            return None
        return Share(gradient, result.detach()) if are_close(gradient, again, gradient) else None
    step_of_own = float(other.detach()) - float(own.detach())
    if step_of_own == 0:
        return Share(torch.zeros_like(result), result.detach())
    # Detached, or logged as a number.
    twice = _scaled(runner, model, step, number, rows, 2.0) if result.numel() == 1 else None
    if twice is None:
        return None
    slopes = torch.tensor([2 * step_of_own, float(twice[0].detach()) - float(own.detach())]) / float(result.detach())
    slope = slopes[:1].to(result).reshape(result.shape)
    return Share(slope, result.detach()) if are_close(slopes[:1], slopes[1:], slopes) else None


def adds_up(runner: StepRunner, model: nn.Module, reading: Reading, rows: Rows, share: Share) -> bool:
    """Whether a step adds up losses without a reduction: an element counts as much in half of the batch as in all of it."""
    half = len(rows) // 2
    part = share_of(runner, model, reading.step, reading.call, rows.select(range(half))) if half else None
    if part is None:
        return False

    def by_rows(elements: Tensor, num_rows: int) -> Tensor:
        return elements.reshape(-1, num_rows).T.flatten() if reading.term.positions_first else elements.flatten()

    whole, of_half = by_rows(share.gradient, len(rows)), by_rows(part.gradient, half)
    counting = by_rows((share.gradient != 0) & (share.result != 0), len(rows))
    # A mean over elements that are all in this half does not change either.
    are_in_both = bool(counting[: len(of_half)].any()) and bool(counting[len(of_half) :].any())
    return are_in_both and are_close(whole[: len(of_half)], of_half, whole)


def check(run: Run, number: int, term: LossTerm, num_rows: int) -> None:
    """Refuse a call that is not reproduced.

    Raises:
        ValueError: If the loss computed here is not what the call gave, or its outputs are not what it expects.
    """
    call = run.calls[number]
    if call.result is None:
        return
    outputs, targets = term.rows(call, num_rows if len(call.outputs) % num_rows == 0 else 1)
    term.check(outputs)
    losses = term.losses(outputs, targets)
    value = float(call.result.detach().sum())
    here = float(losses.sum() if term.reduction == "none" else term.reduced(losses, term.divides(targets)))
    if not are_equal(here, value, call.outputs.dtype):
        raise ValueError(f"OwnStep: expected to compute what {term} gave, {value:.8g}, got {here:.8g}; pass a task of your own")


def compare(runner: StepRunner, model: nn.Module, reading: Reading, run: Run, rows: Rows) -> tuple[str, str]:
    """Compare the loss that is explained with the step's own.

    Args:
        runner: Runs steps.
        model: The module, on a stage.
        reading: What is explained.
        run: The step on a batch.
        rows: The batch.

    Returns:
        What is explained, in words; and both numbers if it is not, or may not be, what the step minimises, else nothing.
    """
    term, call = reading.term, run.calls[reading.call]
    what = f"{term} in {reading.step}"
    said = f"{'minus the loss' if term.task is None else repr(term.task)}, by {what}"
    if call.result is None:
        return said, ""
    value, dtype = float(call.result.detach().cpu().double().mean()), call.outputs.dtype
    said += f" = {value:.6g}"
    own = own_loss(run, value)
    if reading.rows_alone:
        # What the step makes of losses without a reduction is not followed there.
        there = own if term.reduction == "none" and own is not None else value
        alone = _loss_of_rows_alone(runner, model, reading, rows)
        if not are_equal(alone, there, dtype):
            shapes = tuple(call.outputs.shape), tuple(call.targets.shape)
            why = (
                f"outputs {shapes[0]} and targets {shapes[1]} are compared each with every other"
                if call.function in OF_NUMBERS and shapes[0] != shapes[1]
                else "the outputs of a row depend on the other rows"
            )
            return f"{said}, of rows alone {alone:.6g}", (
                f"{what} gives {there:.6g} for the first batch and {alone:.6g} for its rows one by one, which is what is "
                f"measured, since {why}"
            )
    if own is None:
        return f"{said}; the step neither returns nor logs a loss to compare with", ""
    if call.function is F.l1_loss:
        # While calls are taken down torch 2.13 forgets the weight of this one.
        really = own_loss(runner.run(model, reading.step, rows.tree, watched=False), value)
        if really is not None and not are_equal(really, own, dtype):
            return f"{said}; the step's own loss is {really:.6g}", (
                f"{what} gives {value:.6g} without its weight, which torch does not tell, and is explained, but the step's own "
                f"loss is {really:.6g}"
            )
    if are_equal(own, value, dtype):
        return f"{said}, which is the step's own loss", ""
    share = share_of(runner, model, reading.step, reading.call, rows)
    if share is None:
        return f"{said}; the step's own loss is {own:.6g}, and what it makes of this one is not known", (
            f"{what} gives {value:.6g} and is explained, but the step's own loss is {own:.6g}, no multiple of it nor its sum "
            "with others as far as can be seen"
        )
    if not share.is_part:
        return f"{said}; the step's own loss is {own:.6g}, of which this is no part", (
            f"{what} gives {value:.6g} and is explained, but the step's own loss is {own:.6g} and does not depend on it"
        )
    if term.reduction == "none":
        said += f", of whose elements the step makes {share.value:.6g}"
    elif not are_equal(float(share.gradient), 1, dtype):
        said += f", {float(share.gradient):.6g} times"
    if are_equal(share.value, own, dtype):
        return f"{said}, which is the step's own loss", ""
    names = sorted({one.name for place, one in enumerate(run.calls) if place != reading.call})
    return (
        f"{said} in the step's own loss {own:.6g}; the rest{f' ({chr(44).join(names)})' if names else ''} is not explained",
        "",
    )


def _loss_of_rows_alone(runner: StepRunner, model: nn.Module, reading: Reading, rows: Rows) -> float:
    """Run the rows of a batch one by one, and reduce their losses as the call does."""
    term = reading.term
    calls = (runner.call(model, reading, rows.select([row]).tree) for row in range(len(rows)))
    pairs = [term.rows(call, 1) for call in calls]
    losses = torch.cat([term.losses(*pair) for pair in pairs])
    return float(term.reduced(losses, torch.cat([term.divides(targets) for _, targets in pairs])))


def _scaled(
    runner: StepRunner, model: nn.Module, step: str, number: int, rows: Rows, scale: float
) -> tuple[Tensor, Tensor] | None:
    """Run a step with a multiple of one of its losses; its own loss then, and that multiple."""
    run = runner.run(model, step, rows.tree, (number, scale))
    result = run.calls[number].result if len(run.calls) > number else None
    place = None if result is None else _place(run, float(result.detach().cpu().double().mean()))
    own = None if place is None else _number_at(run, place)
    return None if result is None or own is None else (torch.as_tensor(own), result)


def _place(run: Run, value: float) -> str | None:
    """Say where a step's own loss is: what it returns, else what it logs as its whole loss, as this value, or as a loss."""
    if _number_at(run, RETURNED) is not None:
        return RETURNED
    names = [name for name in run.logged if _number_at(run, name) is not None]
    called_loss = [name for name in names if "loss" in name.lower()]
    whole = [name for name in called_loss if _STAGES.sub("", name.lower()) == "loss"]
    equal = [name for name in names if _number_at(run, name) == value]
    return next(iter([*(name for name in whole if name in equal), *whole, *equal, *called_loss]), None)


def _number_at(run: Run, place: str) -> Tensor | float | None:
    """Return the number that a step returns or logs at a place; ``None`` if it is none."""
    if place == RETURNED:
        returned = run.returned.get("loss") if isinstance(run.returned, Mapping) else run.returned
        return returned if isinstance(returned, Tensor) and returned.numel() == 1 else None
    found = run.logged.get(place)
    return found if isinstance(found, (int, float)) or (isinstance(found, Tensor) and found.numel() == 1) else None
