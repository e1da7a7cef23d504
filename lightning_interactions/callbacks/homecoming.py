"""Bringing a callback's state home from the process that Lightning has trained in.

Strategies such as ``ddp_spawn`` and ``ddp_notebook`` train in processes of their own, and Lightning brings weights and metrics
back, but no callbacks. It does bring the Trainer's state; what hangs on it goes along, and is delivered when it arrives.
"""

import io
import uuid
from collections.abc import Callable
from weakref import WeakValueDictionary

import torch
from lightning.pytorch import Callback, Trainer

from lightning_interactions.references.internals import trains_elsewhere

__all__ = ["address_of", "send_home"]

_at_home: WeakValueDictionary[str, Callback] = WeakValueDictionary()


def address_of(callback: Callback, known: str | None = None) -> str:
    """Return an address at which this very callback is reached in this process.

    Args:
        callback: The callback.
        known: The address of what it is a copy of, which it keeps in another process and must not share in the same.
    """
    address = uuid.uuid4().hex if known is None or known in _at_home else known
    _at_home[address] = callback
    return address


def send_home(trainer: Trainer, callback: Callback, address: str) -> None:
    """Send a callback's state to the one at an address, if this process is one that ends with the training.

    Args:
        trainer: The Trainer of the run, at its end.
        callback: The callback as it is here, whose state is made of primitives and tensors.
        address: Where it is reached in the process that made it.
    """
    if trains_elsewhere(trainer) and trainer.local_rank == 0:
        content = io.BytesIO()
        torch.save(callback.state_dict(), content)
        vars(trainer.state)[f"_sent_{address}"] = _Parcel(address, content.getvalue())


class _Parcel:
    """Delivers a state where it is unpickled."""

    def __init__(self, address: str, content: bytes) -> None:
        self.address = address
        self.content = content

    def __deepcopy__(self, _memo: dict[int, object]) -> "_Parcel":
        return self

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, bytes]]:
        return _deliver, (self.address, self.content)


def _deliver(address: str, content: bytes) -> None:
    callback = _at_home.get(address)
    if callback is not None:
        callback.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
