"""Batches as the Trainer gives them to a validation step."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_interactions.measuring.memory import data_as_found
from lightning_interactions.references.hold_out import BorrowedHooks
from lightning_interactions.references.internals import batch_hook_owner, in_hook

__all__ = ["transfer"]

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def transfer(trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int = 0) -> Any:
    """Convert and move a batch as the Trainer does before a validation step, the hooks of module and data module included.

    The hooks are called on ``module``, which may be a copy of the Trainer's own, or on the data module where that one has
    them. They see a Trainer that is validating, so what they do in training alone, such as augmentation, is left out. The
    Trainer's stage and what hangs on the data module come back as they were; random states are the caller's to keep.

    Args:
        trainer: The Trainer of the run.
        module: The module that is measured.
        batch: A batch as the loader gives it.
        dataloader_idx: Which of several loaders it comes from.

    Returns:
        The batch on the Trainer's device.
    """
    with _validating(trainer):
        batch = trainer.precision_plugin.convert_input(batch)
        arguments: tuple[tuple[Any, ...], ...] = (
            (dataloader_idx,),
            (trainer.strategy.root_device, dataloader_idx),
            (dataloader_idx,),
        )
        for hook, own in zip(HOOKS, arguments, strict=True):
            owner = batch_hook_owner(trainer, hook)
            # Anything but the Trainer's own module is its data module.
            owner = module if owner is trainer.lightning_module else owner
            with in_hook(module, hook):
                batch = getattr(owner, hook)(batch, *own)
    return batch


@contextmanager
def _validating(trainer: Trainer) -> Iterator[None]:
    stage, data_modules = trainer.state.stage, list(_with_inner(trainer.datamodule))
    # Only where a data module has hooks of its own: looking at all that hangs on it takes a moment for every batch.
    with data_as_found(*data_modules) if _has_hooks(trainer) else nullcontext():
        try:
            trainer.validating = True
            yield
        finally:
            trainer.state.stage = stage


def _has_hooks(trainer: Trainer) -> bool:
    return any(batch_hook_owner(trainer, hook) is not trainer.lightning_module for hook in HOOKS)


def _with_inner(data_module: Any) -> Iterator[Any]:
    """List a data module and those whose hooks it borrows."""
    while data_module is not None:
        yield data_module
        data_module = data_module.inner if isinstance(data_module, BorrowedHooks) else None
