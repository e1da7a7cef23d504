"""What is tried beside a training, and must not end it."""

import warnings
from types import TracebackType

from lightning.pytorch import Trainer

__all__ = ["Attempt"]


class Attempt:
    """Run the body; if it fails, warn with the reason and go on.

    What is no ``Exception``, such as Ctrl-C, goes through.

    Args:
        what: What is tried, for the warning.
        raises: Whether a failure ends the run after all.
        trainer: The Trainer whose processes all do this and have to agree how it went; ``None`` if each is on its own.

    Attributes:
        failed: Whether the body has failed, on any of the processes that have to agree.

    Raises:
        RuntimeError: With ``raises``, if another process failed.
    """

    def __init__(self, what: str, *, raises: bool = False, trainer: Trainer | None = None) -> None:
        self.what = what
        self.raises = raises
        self.trainer = trainer
        self.failed = False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        self.failed = error is not None
        if self.trainer is not None:
            self.failed = not self.trainer.strategy.reduce_boolean_decision(error is None, all=True)
        if self.failed and self.raises:
            if error is None:
                raise RuntimeError(f"{self.what} failed on another process")
            return False
        if self.failed and (error is not None or (self.trainer is not None and self.trainer.is_global_zero)):
            reason = "another process failed" if error is None else repr(error)
            warnings.warn(f"{self.what} failed and is left out: {reason:.1000}", stacklevel=2)
        return True
