"""A stage on which a module's step can run outside of its Trainer's loops, and changes nothing there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from lightning_interactions.game.steps.stand_ins import Folder, StandInOptimizer, StandInTrainer, nothing, unchanged

__all__ = ["on_stage"]


@contextmanager
def on_stage(model: nn.Module, trainer: Any = None, log: Callable[[str, Any], object] | None = None) -> Iterator[None]:
    """Let the Lightning modules in a model see a stand-in for their Trainer while the body runs.

    Logging is swallowed, optimizers and ``manual_backward`` do nothing, and what is written into the folders of the Trainer or
    its logger is written elsewhere and removed. Afterwards all is as it was.

    Args:
        model: Any module; parts of it that are no Lightning modules need no stage.
        trainer: The Trainer of the run, to be read only; ``None`` if there is none.
        log: Gets name and value of everything that is logged.
    """
    parts = [part for part in model.modules() if _is_lightning_module(part)]
    before = [(part, _trainer_of(part), dict(vars(part))) for part in parts]
    folder = Folder()
    stand_in = StandInTrainer(trainer, model, folder)
    doings = _doings(stand_in, nothing if log is None else log)
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
        folder.remove()


def _doings(trainer: StandInTrainer, log: Callable[[str, Any], object]) -> dict[str, Any]:
    """Make the methods of a module that would do something in the run."""

    def optimizers(*_args: Any, **_options: Any) -> Any:
        found = trainer.optimizers or [StandInOptimizer()]
        return found[0] if len(found) == 1 else found

    def lr_schedulers() -> Any:
        found = [config.scheduler for config in trainer.lr_scheduler_configs]
        return (found[0] if len(found) == 1 else found) if found else None

    def log_dict(dictionary: Any, *_others: Any, **_options: Any) -> None:
        for name, value in dictionary.items():
            log(name, value)

    def log_one(name: str, value: Any, *_others: Any, **_options: Any) -> None:
        log(name, value)

    return {
        "log": log_one,
        "log_dict": log_dict,
        "print": nothing,
        "all_gather": unchanged,
        "optimizers": optimizers,
        "lr_schedulers": lr_schedulers,
        "manual_backward": nothing,
        "toggle_optimizer": nothing,
        "untoggle_optimizer": nothing,
        "toggled_optimizer": nullcontext,
        "clip_gradients": nothing,
    }


def _is_lightning_module(module: nn.Module) -> bool:
    """Say whether a module belongs to a Trainer, of whichever of Lightning's packages."""
    return isinstance(getattr(type(module), "trainer", None), property) and hasattr(module, "log_dict")


def _trainer_of(module: Any) -> Any:
    try:
        return module.trainer
    except RuntimeError:  # It is attached to none.
        return None
