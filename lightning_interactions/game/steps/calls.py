"""Calls of torch's loss functions, intercepted while a step runs."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["LOSSES", "LossCall", "StopStep", "intercepted"]

LOSSES: tuple[Callable[..., Any], ...] = (
    F.cross_entropy,
    F.nll_loss,
    F.binary_cross_entropy_with_logits,
    F.binary_cross_entropy,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.kl_div,
    F.poisson_nll_loss,
    F.soft_margin_loss,
    F.multi_margin_loss,
    F.multilabel_margin_loss,
    F.multilabel_soft_margin_loss,
)
"""Loss functions of outputs and targets that are understood; ``nn.CrossEntropyLoss`` and the like call them."""

_SIGNATURES = {function: inspect.signature(function) for function in LOSSES}
_LEGACY = ("size_average", "reduce")


@dataclass(frozen=True, eq=False)
class LossCall:
    """One call of a loss function.

    Attributes:
        function: The function.
        outputs: Its first argument: what the model says.
        targets: Its second argument.
        options: Its other arguments, without the reduction.
        reduction: ``"mean"``, ``"sum"``, ``"none"`` or ``"batchmean"``.
        result: What it returned; ``None`` where the step was ended here.
    """

    function: Callable[..., Any]
    outputs: Tensor
    targets: Tensor
    options: Mapping[str, Any]
    reduction: str
    result: Tensor | None

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.__name__)


class StopStep(BaseException):
    """Ends a step at the loss that was waited for; no exception that a step would catch."""


class _Interception(TorchFunctionMode):
    """Takes down calls of loss functions.

    Args:
        stop_at: Number of the call at which the step ends, before the loss is computed; never if ``None``.
        scaled: Number of a call, and what its result is multiplied with; it becomes a leaf then, of which gradients can be
            taken.
    """

    def __init__(self, stop_at: int | None, scaled: tuple[int, float] | None) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self.stop_at = stop_at
        self.scaled = scaled

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _SIGNATURES:
            return func(*args, **kwargs)
        bound = _SIGNATURES[func].bind(*args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        outputs, targets = (given.pop(name) for name in list(given)[:2])
        size_average, reduce = (given.pop(name, None) for name in _LEGACY)
        reduction = given.pop("reduction", "mean")
        if reduce is False:
            reduction = "none"
        elif size_average is False:
            reduction = "sum"
        stops = self.stop_at == len(self.calls)
        result = None if stops else func(*args, **kwargs)
        if result is not None and self.scaled is not None and self.scaled[0] == len(self.calls):
            torch.set_grad_enabled(True)  # From here on: what the model keeps for gradients may not fit beside so many rows.
            result = (self.scaled[1] * result.detach()).requires_grad_()
        self.calls.append(LossCall(func, outputs.detach(), targets.detach(), given, reduction, result))
        if stops:
            raise StopStep
        return result


@contextmanager
def intercepted(stop_at: int | None = None, scaled: tuple[int, float] | None = None) -> Iterator[list[LossCall]]:
    """Run the body and list the calls of loss functions in it, in their order.

    Args:
        stop_at: Number of the call with which the body ends; with its own end if ``None``.
        scaled: Number of a call, and what its result is multiplied with, to find out what the step makes of it.
    """
    mode = _Interception(stop_at, scaled)
    with suppress(StopStep), mode:
        yield mode.calls
