"""Everything that a run leaves behind, as a structure that can be compared bit by bit."""

import functools
import inspect
import random
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

OWN_TAGS = "interactions"
"""In all tags that the monitor logs; a run without it has none."""

NOT_THE_USERS = {"_trainer", "_fabric", "_current_fx_name", "_log_hyperparams", "_torchdynamo_wrapper_id"}
"""Attributes by which Lightning ties a module to its Trainer, which is another one in another run, and addresses."""


LIVING = {"_iterator"}
"""What a loader holds of processes and queues."""

FRAMEWORK = ("lightning", "pytorch_lightning", "torch")


class Recorder(Callback):
    """Keeps what each batch leaves: data in order, outputs, weights, gradients, optimizers, modes, logs, random states."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.validated: list[tuple[Any, Any]] = []
        self.metrics: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        left = {
            "batch": batch,
            "outputs": outputs,
            "modes": [module.training for module in pl_module.modules()],
            "weights": list(pl_module.parameters()),  # With their gradients.
            "buffers": list(pl_module.buffers()),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "logged": logged(trainer),
            "random": random_states(),
            "flags": flags(),
        }
        self.seen.append(trace(left))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.validated.clear()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.seen.append(trace({"batch": batch, "outputs": outputs}))
        self.validated.append((batch, outputs))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(trace(logged(trainer)))
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


def logged(trainer: Any) -> list[dict[str, Any]]:
    """What the module has logged."""
    kinds = (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics)
    return [{name: value for name, value in kind.items() if OWN_TAGS not in name} for kind in kinds]


def random_states() -> list[Any]:
    """The global states of Python, NumPy and torch."""
    return [random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()]


def flags() -> dict[str, Any]:
    """Settings of the whole process."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
    }


def everything(trainer: Any, module: nn.Module, data: Any, recorder: Recorder) -> dict[str, Any]:
    """What is left after a run: the module with all it holds, optimizers, logged numbers, data and random states.

    Args:
        trainer: The Trainer.
        module: Its module.
        data: Its loaders or data module, with their samplers and generators.
        recorder: What it has seen on the way.
    """
    others = [callback for callback in trainer.callbacks if type(callback).__module__.split(".")[0] in FRAMEWORK]
    return {
        "module": trace(module),
        "optimizers": [trace(optimizer.state_dict()) for optimizer in trainer.optimizers],
        "schedulers": [trace(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
        "logged": trace(logged(trainer)),
        "seen": recorder.seen,
        "data": trace(data),
        "callbacks": trace([{type(callback).__name__: callback.state_dict()} for callback in others]),
        "loops": trace(trainer.fit_loop.state_dict()),
        "random": trace(random_states()),
        "flags": trace(flags()),
        "steps": (trainer.global_step, trainer.current_epoch, trainer.should_stop),
    }


@contextmanager
def counted(*things: Any) -> Iterator[Counter[str]]:
    """Count the calls of the methods that a module or data module has of its user, whoever calls them.

    Args:
        things: Those whose own calls count; calls of copies do not.
    """
    calls: Counter[str] = Counter()
    kinds = {kind for thing in things for kind in type(thing).__mro__ if kind.__module__.split(".")[0] == "tests"}
    functions = [(kind, name, method) for kind in kinds for name, method in list(vars(kind).items())]
    methods = [(kind, name, method) for kind, name, method in functions if inspect.isfunction(method)]
    for kind, name, method in methods:
        # Probes come from a data module itself: its hooks are called once more, and what they leave on it is taken back.
        of_probes = not issubclass(kind, nn.Module) and ("transfer" in name or name == "val_dataloader")
        if not name.startswith("__") and not of_probes:
            setattr(kind, name, _counting(method, calls, things))
    try:
        yield calls
    finally:
        for kind, name, method in methods:
            setattr(kind, name, method)


def _counting(method: Any, calls: Counter[str], things: tuple[Any, ...]) -> Any:
    @functools.wraps(method)
    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any(self is thing for thing in things):
            calls[method.__qualname__] += 1
        return method(self, *args, **kwargs)

    return counting


def trace(thing: Any, within: frozenset[int] = frozenset()) -> Any:
    """Turn anything into nested dicts, lists and bytes; a thing that holds itself is named where it comes again."""
    if isinstance(thing, (type(None), bool, int, str, bytes, torch.dtype, torch.device, torch.Size, type)):
        return repr(thing)
    if isinstance(thing, float):
        return thing.hex()
    if isinstance(thing, Tensor):
        return _of_tensor(thing)
    if isinstance(thing, np.ndarray):
        return ("array", str(thing.dtype), thing.shape, thing.tobytes())
    if id(thing) in within:
        return f"<{type(thing).__name__} again>"
    within = within | {id(thing)}
    if isinstance(thing, Mapping):
        return {f"{type(thing).__name__}": [(trace(key, within), trace(value, within)) for key, value in thing.items()]}
    if isinstance(thing, (list, tuple, deque)):
        return [type(thing).__name__, *(trace(part, within) for part in thing)]
    if isinstance(thing, (set, frozenset)):
        return sorted(map(repr, thing))
    if isinstance(thing, torch.Generator):
        return _of_tensor(thing.get_state())
    if isinstance(thing, random.Random):
        return repr(thing.getstate())
    if isinstance(thing, np.random.Generator):
        return trace(thing.bit_generator.state, within)
    return _of_object(thing, within)


def _of_object(thing: Any, within: frozenset[int]) -> Any:
    if isinstance(thing, types.MethodType):
        return f"{thing.__qualname__} of {trace(thing.__self__, within)}"
    if isinstance(thing, CombinedLoader):
        return trace(thing.flattened, within)
    if not hasattr(thing, "__dict__") or (callable(thing) and not isinstance(thing, nn.Module)):
        return getattr(thing, "__qualname__", type(thing).__name__)
    if type(thing).__module__.split(".")[0] in ("lightning", "pytorch_lightning") and not isinstance(thing, nn.Module):
        return type(thing).__name__
    left_out = NOT_THE_USERS | LIVING if isinstance(thing, DataLoader) else NOT_THE_USERS
    held = {name: value for name, value in vars(thing).items() if name not in left_out}
    # Hooks are numbered through the whole process.
    held = {name: list(value.values()) if "_hooks" in name else value for name, value in held.items()}
    return {type(thing).__name__: {name: trace(value, within) for name, value in held.items()}}


def _of_tensor(tensor: Tensor) -> Any:
    if tensor.layout is torch.sparse_coo:
        return ("sparse", tuple(tensor.shape), _of_tensor(tensor._indices()), _of_tensor(tensor._values()))
    values = tensor.detach().cpu()
    content = values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
    grad = None if not tensor.is_leaf or tensor.grad is None else _of_tensor(tensor.grad)
    return (type(tensor).__name__, str(tensor.dtype), tuple(tensor.shape), content, grad)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Name the places where two traces differ."""
    if type(one) is not type(other):
        return [f"{where}: {type(one).__name__} against {type(other).__name__}"]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(one.keys() ^ other.keys())}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} against {len(other)} entries"]
        return [
            found
            for at, (left, right) in enumerate(zip(one, other, strict=True))
            for found in differences(left, right, f"{where}/{left[0] if _is_pair(left) else at}")
        ]
    return [] if one == other else [f"{where}: {str(one)[:60]} against {str(other)[:60]}"]


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
