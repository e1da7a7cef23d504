"""A stage on which a module's step can run outside of its Trainer's loops, and changes nothing there."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["StandInTrainer", "as_found", "on_stage"]

_ALONE: dict[str, Any] = {
    "current_epoch": 0,
    "global_step": 0,
    "global_rank": 0,
    "local_rank": 0,
    "world_size": 1,
    "node_rank": 0,
    "num_devices": 1,
    "is_global_zero": True,
    "barebones": False,
    "datamodule": None,
    "callbacks": (),
    "optimizers": (),
    "lr_scheduler_configs": (),
    "callback_metrics": {},
    "logged_metrics": {},
    "progress_bar_metrics": {},
}
"""What a step finds of a Trainer where there is none."""


class Silence:
    """Swallows whatever a step does to it: a logger, its experiment, a progress bar, a profiler."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Silence":
        return self

    def __getitem__(self, key: Any) -> "Silence":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class StandInOptimizer:
    """An optimizer or scheduler whose settings can be read and that does nothing."""

    def __init__(self, real: Any = None) -> None:
        self._real = real
        self.param_groups = [dict(group) for group in getattr(real, "param_groups", [])]

    def __getattr__(self, name: str) -> Any:
        value = None if name.startswith("_") else getattr(self._real, name, None)
        return _nothing if callable(value) or value is None else value

    def step(self, closure: Callable[[], Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Call the closure, as the real one would, and do nothing else."""
        return closure() if callable(closure) else None


class StandInTrainer:
    """What a step sees of its Trainer: everything can be read, the stage is that of validation, nothing is done.

    Args:
        trainer: The real one; ``None`` if there is none.
        module: What the step belongs to.
    """

    def __init__(self, trainer: Any, module: nn.Module) -> None:
        silence = Silence()
        fixed = {
            "real": trainer,
            "lightning_module": module,
            "model": module,
            "logger": silence,
            "loggers": [],
            "profiler": silence,
            "progress_bar_callback": None,
            "training": False,
            "validating": True,
            "evaluating": True,
            "testing": False,
            "predicting": False,
            "sanity_checking": False,
        }
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            fixed["datamodule"] = copy.copy(datamodule)
            fixed["datamodule"].trainer = self
        state = getattr(trainer, "state", None)
        if state is not None:
            fixed["state"] = copy.copy(state)
            if state.stage is not None:
                fixed["state"].stage = type(state.stage)("validate")
        vars(self).update(fixed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        real = vars(self).get("real")
        if real is None:
            if name in _ALONE:
                return _ALONE[name]
            raise AttributeError(
                f"the step reads self.trainer.{name}, and there is no Trainer here; measure in a run, or pass the Trainer to "
                "InteractionMeter(trainer=)"
            )
        value = getattr(real, name)
        return _nothing if inspect.ismethod(value) else value


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


def _first(tensor: Any, *_others: Any, **_options: Any) -> Any:
    """Return what was given, as gathering from one process does."""
    return tensor


@contextmanager
def on_stage(model: nn.Module, trainer: Any = None, log: Callable[[str, Any], object] | None = None) -> Iterator[None]:
    """Let the Lightning modules in a model see a stand-in for their Trainer while the body runs.

    Logging is swallowed, optimizers and ``manual_backward`` do nothing. Afterwards all is as it was.

    Args:
        model: Any module; parts of it that are no Lightning modules need no stage.
        trainer: The Trainer of the run, to be read only; ``None`` if there is none.
        log: Gets name and value of everything that is logged.
    """
    parts = [part for part in model.modules() if _is_lightning_module(part)]
    before = [(part, _trainer_of(part), dict(vars(part))) for part in parts]
    stand_in = StandInTrainer(trainer, model) if parts else None
    doings = _doings(trainer, _nothing if log is None else log)
    try:
        for part in parts:
            vars(part).update(doings)
            part.trainer = stand_in  # type: ignore[assignment]
        yield
    finally:
        for part, own, attributes in before:
            part.trainer = own
            for name in doings:
                if name in attributes:
                    vars(part)[name] = attributes[name]
                else:
                    vars(part).pop(name, None)


@contextmanager
def as_found(model: nn.Module) -> Iterator[list[str]]:
    """Give a module what hangs on it back after the body: attributes, lists and dicts of them, and buffers.

    Yields:
        Names of what the body changed, filled when it ends.
    """
    changes: list[str] = []
    before = [(module, {name: (value, _content(value)) for name, value in vars(module).items()}) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield changes
    finally:
        for module, attributes in before:
            for name in [name for name in vars(module) if name not in attributes]:
                changes.append(name)
                del vars(module)[name]
            for name, (value, content) in attributes.items():
                if vars(module).get(name) is not value:
                    changes.append(name)
                    vars(module)[name] = value
                if content is not None and _differs(value, content):
                    changes.append(name)
                    value.clear()
                    value.update(content) if isinstance(value, dict) else value.extend(content)
        for buffer, content in buffers:
            if not torch.equal(buffer, content):
                changes.append("buffer")
                with torch.no_grad():
                    buffer.copy_(content)


def _content(value: Any) -> Any:
    """Copy a plain list or dict."""
    return copy.copy(value) if type(value) in (list, dict) else None


def _differs(value: Any, content: Any) -> bool:
    """Whether a list or dict has other items than its copy."""
    if len(value) != len(content):
        return True
    if isinstance(value, dict):
        return any(name not in value or value[name] is not item for name, item in content.items())
    return any(one is not other for one, other in zip(value, content, strict=True))


def _doings(trainer: Any, log: Callable[[str, Any], object]) -> dict[str, Any]:
    """Make the methods of a module that would do something in the run."""
    optimizers = [StandInOptimizer(one) for one in getattr(trainer, "optimizers", None) or ()] or [StandInOptimizer()]
    configs = getattr(trainer, "lr_scheduler_configs", None) or ()
    schedulers = [StandInOptimizer(config.scheduler) for config in configs]

    def log_dict(dictionary: Any, *_others: Any, **_options: Any) -> None:
        for name, value in dictionary.items():
            log(name, value)

    def log_one(name: str, value: Any, *_others: Any, **_options: Any) -> None:
        log(name, value)

    return {
        "log": log_one,
        "log_dict": log_dict,
        "print": _nothing,
        "all_gather": _first,
        "optimizers": lambda *_args, **_options: optimizers[0] if len(optimizers) == 1 else optimizers,
        "lr_schedulers": lambda: (schedulers[0] if len(schedulers) == 1 else schedulers) if schedulers else None,
        "manual_backward": _nothing,
        "toggle_optimizer": _nothing,
        "untoggle_optimizer": _nothing,
        "toggled_optimizer": nullcontext,
        "clip_gradients": _nothing,
    }


def _is_lightning_module(module: nn.Module) -> bool:
    """Say whether a module belongs to a Trainer, of whichever of Lightning's packages."""
    return isinstance(getattr(type(module), "trainer", None), property) and hasattr(module, "log_dict")


def _trainer_of(module: Any) -> Any:
    try:
        return module.trainer
    except RuntimeError:  # It is attached to none.
        return None
