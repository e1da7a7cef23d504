"""The precision in which a module is measured: that of its weights, or the Trainer's where it is asked for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lightning.pytorch import Trainer

from lightning_interactions.game.steps import is_about_dtypes
from lightning_interactions.measuring.extraction import Extraction

__all__ = ["dtypes_named", "forward_context"]


def forward_context(trainer: Trainer | None, extraction: Extraction) -> Callable[[], AbstractContextManager[object]]:
    """Return in which context the module's step runs.

    Args:
        trainer: The Trainer of the run, if there is one.
        extraction: Says whether its precision is asked for.
    """
    if trainer is None or not extraction.trainer_precision:
        return nullcontext
    context: Callable[[], AbstractContextManager[object]] = trainer.precision_plugin.forward_context
    return context


@contextmanager
def dtypes_named(trainer: Trainer | None, extraction: Extraction) -> Iterator[None]:
    """Name the setting to change in an error of dtypes that do not go together.

    Args:
        trainer: The Trainer of the run, if there is one.
        extraction: Says whether its precision is asked for.

    Raises:
        ValueError: If the body raises such an error.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if extraction.trainer_precision or not is_about_dtypes(error):
            raise
        precision = "its precision" if trainer is None else f"precision={trainer.precision!r}"
        raise ValueError(
            "InteractionMonitor: expected a model that runs in the dtype of its weights, got an error of dtypes; if it "
            f"runs under the Trainer's {precision}, pass extraction=Extraction(trainer_precision=True), which measures it "
            f"so. The error: {error}"
        ) from error
