"""Trainings that the processes of a run share out."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed
from lightning.pytorch import Trainer

from lightning_interactions.references.internals import default_store

__all__ = ["Sharing"]

ASKED_EVERY = 0.2
"""Seconds between two looks at what the other processes do."""

_numbers = itertools.count()


class Sharing:
    """Deals trainings out to the processes of a run, and hands their results round.

    Processes wait without an operation of the group: that would time out while another one still trains.

    Args:
        run: The Trainer of the run; ``None`` if there is none, so that this process does everything.
    """

    def __init__(self, run: Trainer | None) -> None:
        is_shared = run is not None and run.world_size > 1 and torch.distributed.is_initialized()
        self._run = run if is_shared else None
        self.size = 1 if self._run is None else self._run.world_size
        self._rank = 0 if self._run is None else self._run.global_rank

    def is_own(self, number: int) -> bool:
        """Whether this process does the training of a number."""
        return number % self.size == self._rank

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the body, which needs no other process, and wait until every process is through with it.

        Raises:
            Exception: The failure of the body.
            RuntimeError: If it failed on another process.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self._run is not None:
            store, meeting = default_store(), f"lightning_interactions/{next(_numbers)}"
            store.set(f"{meeting}/{self._rank}", "" if failure is None else f"{failure!r:.1000}")
            keys = [f"{meeting}/{rank}" for rank in range(self.size)]
            while not store.check(keys):
                time.sleep(ASKED_EVERY)
            reasons = [store.get(key).decode() for key in keys]
            if failure is None and any(reasons):
                raise RuntimeError(f"reference models: another process failed: {max(reasons)}")
        if failure is not None:
            raise failure

    def hand_round(self, number: int, result: Any) -> Any:
        """Give every process the result of a training."""
        return result if self._run is None else self._run.strategy.broadcast(result, src=number % self.size)
