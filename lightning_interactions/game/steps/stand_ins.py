"""What a step finds in the place of its Trainer, optimizers, loggers and callbacks: all can be read, nothing is done."""

import copy
import enum
import inspect
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions.game.steps.copies import copied, is_data, is_frame

__all__ = ["Folder", "Silence", "StandIn", "StandInOptimizer", "StandInTrainer", "nothing", "unchanged"]

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
    "should_stop": False,
    "datamodule": None,
}
"""What a step finds of a Trainer where there is none."""

_ALONE_EMPTY = {
    "callbacks": list,
    "optimizers": list,
    "lr_scheduler_configs": list,
    "callback_metrics": dict,
    "logged_metrics": dict,
    "progress_bar_metrics": dict,
}

_FOLDERS = ("log_dir", "default_root_dir")
"""Where a step would write: what is written there goes with the stage."""

_GATHERS = ("all_gather", "reduce", "broadcast", "reduce_boolean_decision")
"""Methods that give back what they get where there is one process."""

_CONTEXTS = ("toggle_model", "toggled_optimizer", "profile", "forward_context", "no_sync", "block_backward_sync")

_READS = ("get_last_lr", "state_dict")
"""Methods of optimizers and schedulers that only say something."""

ATOMS = (
    *(str, bytes, int, float, complex, np.generic, type(None), type, enum.Enum, pathlib.PurePath),
    *(torch.dtype, torch.device, torch.Size),
)


def nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


def unchanged(value: Any, *_others: Any, **_options: Any) -> Any:
    """Return what was given, as gathering from one process does."""
    return value


class Folder:
    """A temporary folder that is made when it is first asked for."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def path(self) -> str:
        """Where it is."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="interactions_")
        return self._folder.name

    def remove(self) -> None:
        """Remove it with all that is in it."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _itself(silence: "Silence", *_args: Any, **_kwargs: Any) -> "Silence":
    return silence


def _false(*_args: Any) -> bool:
    return False


class Silence:
    """Swallows whatever a step does to it: a logger, its experiment, a progress bar, a profiler.

    It is nothing where a number or a length is asked for, and a temporary folder where a path or a string is.
    """

    def __init__(self, folder: Folder) -> None:
        vars(self)["_folder"] = folder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __add__(self, other: Any) -> Any:
        return str(self) + other if isinstance(other, str) else self

    def __radd__(self, other: Any) -> Any:
        return other + str(self) if isinstance(other, str) else self

    def __truediv__(self, other: Any) -> Any:
        return pathlib.Path(str(self)) / other if isinstance(other, (str, pathlib.PurePath)) else self

    def __fspath__(self) -> str:
        return str(vars(self)["_folder"].path)

    __str__ = __fspath__

    def __format__(self, spec: str) -> str:
        try:
            return format(str(self), spec)
        except ValueError:  # A number is asked for.
            return format(0, spec)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    __int__ = __index__ = __len__

    def __float__(self) -> float:
        return 0.0

    def __exit__(self, *exception: object) -> None:
        pass

    __setitem__ = __delitem__ = __delattr__ = nothing
    __bool__ = __contains__ = __lt__ = __le__ = __gt__ = __ge__ = _false
    __call__ = __getitem__ = __enter__ = __neg__ = __pos__ = __abs__ = __round__ = _itself
    __sub__ = __rsub__ = __mul__ = __rmul__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _itself
    __mod__ = __rmod__ = __pow__ = __rpow__ = _itself


class _Seen:
    """Turns what belongs to a run into what a step may see of it.

    Args:
        trainer: The real Trainer.
        stand_in: What takes its place.
        module: What the step belongs to, a copy of the Trainer's module or that itself.
    """

    def __init__(self, trainer: Any, stand_in: Any, module: nn.Module) -> None:
        self._trainer, self._stand_in, self._module = trainer, stand_in, module

    @cached_property
    def _memo(self) -> dict[int, Any]:
        """What takes the place of what, by its address."""
        memo = {id(self._trainer): self._stand_in}
        real, here = getattr(self._trainer, "lightning_module", None), self._module
        if isinstance(real, nn.Module):
            modules, parameters = dict(here.named_modules()), dict(here.named_parameters())
            memo |= {id(part): modules[name] for name, part in real.named_modules() if name in modules}
            memo |= {id(part): parameters[name] for name, part in real.named_parameters() if name in parameters}
        return memo

    def of(self, value: Any, works: bool = False) -> Any:
        """Return a value that cannot be changed, or a copy, or a stand-in.

        Args:
            value: Anything that belongs to the run.
            works: Whether methods of a stand-in run, on a copy; else they do nothing.
        """
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, ATOMS) or inspect.isfunction(value) or inspect.isbuiltin(value):
            return value
        if isinstance(value, Tensor):
            return value.detach().clone()
        if isinstance(value, nn.Module):
            inner = id(getattr(value, "module", None))  # Of a wrapper such as that of several processes.
            return self._memo[inner] if inner in self._memo else self.copy(value)
        if isinstance(value, np.ndarray) or is_frame(value):
            return self.copy([value])[0]
        if isinstance(value, dict):
            new = copy.copy(value)
            for key, item in value.items():
                new[key] = self.of(item, works)
            return new
        if type(value) in (list, tuple, set, frozenset):
            return type(value)(self.of(item, works) for item in value)
        if isinstance(value, tuple):
            return type(value)(*(self.of(item, works) for item in value))
        if hasattr(value, "param_groups") or hasattr(value, "last_epoch"):
            return StandInOptimizer(value, self)
        if is_data(value) and not hasattr(value, "prepare_data_per_node"):
            return _shallow(value)
        if not hasattr(value, "__dict__"):
            return self.copy(value)
        return StandIn(value, self, works)

    def copy(self, value: Any) -> Any:
        """Copy a value, in which what belongs to the module refers to the module of the step; itself if it has no copy."""
        try:
            return copied(value, dict(self._memo))
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return value


def _shallow(data: Any) -> Any:
    """Copy a data set, loader or sampler without its data; workers that persist stay those of the run."""
    new = copy.copy(data)
    if isinstance(data, DataLoader):
        vars(new)["_iterator"] = None
    return new


class StandIn:
    """Something of the run that can be read; what is set on it stays here.

    Args:
        real: The thing.
        seen: What a step may see of it.
        works: Whether its methods run, on a copy, as those of a data module or callback; else they do nothing.
    """

    def __init__(self, real: Any, seen: _Seen, works: bool = False) -> None:
        vars(self).update(_real=real, _seen=seen, _works=works)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the real one, so that callbacks are found by it."""
        return type(self._real)

    @cached_property
    def _copy(self) -> Any:
        return self._seen.copy(self._real)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._real, name)
        if inspect.ismethod(value):
            return getattr(self._copy, name) if self._works else _method(name)
        vars(self)[name] = own = self._seen.of(value, self._works)
        return own

    def __len__(self) -> int:
        return len(self._real)

    def __bool__(self) -> bool:
        return bool(self._real)

    def __iter__(self) -> Iterator[Any]:
        return (self._seen.of(item, self._works) for item in copy.copy(self._real))

    def __getitem__(self, key: Any) -> Any:
        return self._seen.of(self._real[key], self._works)

    def __contains__(self, item: Any) -> bool:
        return item in self._real

    def __str__(self) -> str:
        return str(self._real)

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the copy, or do nothing."""
        return self._copy(*args, **kwargs) if self._works else None

    __setitem__ = __delitem__ = nothing


class StandInOptimizer:
    """An optimizer or scheduler whose settings can be read and that does nothing.

    Args:
        real: The real one; ``None`` where there is none.
        seen: What a step may see of it.
    """

    def __init__(self, real: Any = None, seen: _Seen | None = None) -> None:
        self._real, self._seen = real, seen

    @cached_property
    def param_groups(self) -> list[dict[str, Any]]:
        """The settings; their parameters are those of the module that the step belongs to."""
        groups = getattr(self._real, "param_groups", None)
        return [{"params": [], "lr": 0.0}] if groups is None or self._seen is None else self._seen.of(groups)

    @property
    def optimizer(self) -> "StandInOptimizer":
        """The optimizer inside of Lightning's, or of a scheduler."""
        inner = getattr(self._real, "optimizer", None)
        return self if inner is None else StandInOptimizer(inner, self._seen)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._real, name, nothing)
        if self._seen is None or (callable(value) and name not in _READS):
            return _method(name)
        seen = self._seen
        return (lambda: seen.copy(value())) if callable(value) else seen.of(value)

    def step(self, closure: Callable[[], Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Call the closure, as the real one would, and do nothing else."""
        return closure() if callable(closure) else None


def _method(name: str) -> Callable[..., Any]:
    """Make a method that does nothing in the run."""
    if name in _CONTEXTS:
        return nullcontext
    return unchanged if name in _GATHERS else nothing


class StandInTrainer:
    """What a step sees of its Trainer: everything can be read, the stage is that of validation, nothing is done.

    Metrics and the like are copies, callbacks and the data module stand-ins whose methods run on copies, optimizers and all
    else stand-ins whose methods do nothing. What a step writes into a folder of the Trainer goes with the stage.

    Args:
        trainer: The real one; ``None`` if there is none.
        module: What the step belongs to.
        folder: What the Trainer's folders are here.
    """

    def __init__(self, trainer: Any, module: nn.Module, folder: Folder) -> None:
        silence = Silence(folder)
        fixed = {
            "real": trainer,
            "_folder": folder,
            "lightning_module": module,
            "model": module,
            "logger": silence,
            "loggers": [silence for _ in getattr(trainer, "loggers", None) or ()],
            "profiler": silence,
            "progress_bar_callback": None,
            "training": False,
            "validating": True,
            "evaluating": True,
            "testing": False,
            "predicting": False,
            "sanity_checking": False,
        }
        state = getattr(trainer, "state", None)
        if state is not None:
            fixed["state"] = copy.copy(state)
            if state.stage is not None:
                fixed["state"].stage = type(state.stage)("validate")
        vars(self).update(fixed)
        vars(self)["seen"] = _Seen(trainer, self, module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _FOLDERS:
            return vars(self)["_folder"].path
        real = vars(self).get("real")
        if real is not None:
            value = getattr(real, name)
            if inspect.ismethod(value):
                return _method(name)
            own = self.seen.of(value, works="callback" in name or name == "datamodule")
        elif name in _ALONE_EMPTY:
            own = _ALONE_EMPTY[name]()
        elif name in _ALONE:
            return _ALONE[name]
        else:
            raise AttributeError(
                f"the step reads self.trainer.{name}, and there is no Trainer here; measure in a run, or pass the Trainer to "
                "InteractionMeter(trainer=)"
            )
        # What a step changes of it, it finds changed.
        vars(self)[name] = own
        return own
