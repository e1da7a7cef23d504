"""Telling whether a fit goes on with the run that was measured before."""

import weakref
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule

from lightning_interactions.records import History, TimePoint

__all__ = ["RunIdentity"]


class RunIdentity:
    """Remembers which run a history is of, by its module and its data, which it does not keep alive."""

    def __init__(self) -> None:
        self._watched: tuple[Callable[[], Any], ...] = ()
        self._is_resumed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_watched": ()}

    def resume(self) -> None:
        """Go on with the run of a state that was loaded, with whatever module and data the next fit has."""
        self._watched, self._is_resumed = (), True

    def why_another(self, history: History, now: TimePoint, model: LightningModule, data: Any) -> str:
        """Begin a fit, and say why its history has to start anew.

        Args:
            history: What was measured before.
            now: The moment at which the fit begins.
            model: The module that it trains.
            data: The data set that it trains on; ``None`` if that is not known.

        Returns:
            The reason; empty if the fit goes on with the run, or nothing was measured.
        """
        before, is_resumed = [reference() for reference in self._watched], self._is_resumed
        watched = (model, data)
        self._watched, self._is_resumed = tuple(map(_reference, watched)), False
        if not history:
            return ""
        last = history.measurements[-1].time
        begins = now == TimePoint(0, 0) and not is_resumed
        # A run that steps its optimizers past the Trainer stays at step 0, so that epochs alone tell where it is.
        is_ahead = last.step > now.step or (now.step == 0 and last.epoch > now.epoch)
        if begins or is_ahead:
            return (
                f"the history reaches epoch {last.epoch}, step {last.step} and this run begins after epoch {now.epoch}, step "
                f"{now.step}, so it is another run: history and probes start anew"
            )
        others = [own for own, one in zip(watched, before, strict=False) if one is not own and one is not None]
        if others:
            return (
                f"the history is of another {'module' if model in others else 'data set'} than this fit trains, so history and "
                "probes start anew; use a monitor for each"
            )
        return ""


def _reference(one: Any) -> Callable[[], Any]:
    """Refer to an object without keeping it alive; to nothing where that cannot be, as with a list."""
    try:
        return weakref.ref(one)
    except TypeError:
        return _nothing


def _nothing() -> None:
    return None
