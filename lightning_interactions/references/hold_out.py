"""Making the split: data for reference models, taken away from a run's training data."""

import copy
from collections.abc import Sequence
from functools import cache
from types import MethodType
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_interactions.references.internals import classes, data_module_class, share_hyperparameters
from lightning_interactions.references.loaders import as_indices, draw_part, loader_of_part, sampler_pool

__all__ = ["BorrowedHooks", "GivenLoaders", "HoldOutDataModule"]


def _hook_of_inner(name: str) -> Any:
    """Make a property that gives the inner data module's own bound method.

    Lightning compares the code of a hook with that of the base class to find out whether it is overridden. A method written
    here would always count as overridden; the inner one's counts as it does there.
    """
    return property(lambda self: getattr(self.inner, name))


def _hook_of_package(name: str) -> Any:
    """Make a property that gives what the attached Trainer takes for a hook that is not overridden."""
    return property(lambda self: MethodType(getattr(data_module_class(self.trainer), name), self))


@cache
def _of_all_packages(kind: type[Any], data_modules: tuple[type[Any], ...]) -> type[Any]:
    """Make a class that is a data module of every package of Lightning: a Trainer asks for its own."""
    others = tuple(other for other in data_modules if not issubclass(kind, other))
    return type(kind.__name__, (kind, *others), {"__module__": kind.__module__, "written": kind}) if others else kind


def _empty(kind: Any) -> Any:
    return kind.__new__(kind)


class BorrowedHooks(LightningDataModule):
    """Moves batches as another data module does, has its Trainer, and finds whatever else is asked for there.

    Args:
        inner: The data module.
    """

    written: type[Any] | None = None
    """The class as it is written in a file, where this one was made of it."""

    def __new__(cls, *_args: Any, **_options: Any) -> Any:
        """Make a data module of every package of Lightning that is loaded."""
        kind: Any = cls
        return super().__new__(_of_all_packages(kind, classes("LightningDataModule")))

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return _empty, (self.written or type(self),), vars(self)

    def __copy__(self) -> Any:
        """Copy what the Trainer hangs on, too: the inner data module."""
        new = _empty(type(self))
        vars(new).update({**vars(self), "inner": copy.copy(self.inner)})
        return new

    on_before_batch_transfer = _hook_of_inner("on_before_batch_transfer")
    transfer_batch_to_device = _hook_of_inner("transfer_batch_to_device")
    on_after_batch_transfer = _hook_of_inner("on_after_batch_transfer")

    def __init__(self, inner: LightningDataModule) -> None:
        self.inner = inner
        attached = inner.trainer
        super().__init__()  # Detaches the Trainer.
        self.trainer = attached

    def __getattr__(self, name: str) -> Any:
        """Find what is not here, such as a number of classes, in the inner data module."""
        if name == "inner":  # Not there yet, in a copy that is being made.
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def trainer(self) -> Any:
        """The Trainer that the data module is attached to, of any package, or what stands in for it."""
        return self.inner.trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self.inner.trainer = trainer


class NoHooks(LightningDataModule):
    """Moves batches as Lightning does without a data module."""

    on_before_batch_transfer = _hook_of_package("on_before_batch_transfer")
    transfer_batch_to_device = _hook_of_package("transfer_batch_to_device")
    on_after_batch_transfer = _hook_of_package("on_after_batch_transfer")


class GivenLoaders(BorrowedHooks):
    """Gives loaders that are there.

    Args:
        train_dataloader: The training loader.
        val_dataloaders: Validation loaders; may be left out.
        inner: The data module whose hooks move the batches; Lightning's own hooks do if left out.
    """

    def __init__(self, train_dataloader: Any, val_dataloaders: Any = None, inner: LightningDataModule | None = None) -> None:
        super().__init__(NoHooks() if inner is None else inner)
        self._training = train_dataloader
        self._validation = val_dataloaders

    def train_dataloader(self) -> Any:
        """Give the training loader."""
        return self._training

    @property
    def val_dataloader(self) -> Any:
        """A hook that gives the validation loaders; the base class's, which is as good as none, where there are none."""
        return self._no_validation if self._validation is None else self._given_validation

    _no_validation = _hook_of_package("val_dataloader")

    def _given_validation(self) -> Any:
        return self._validation


class HoldOutDataModule(BorrowedHooks):
    """Hold a part of the training data out for reference models, so that the run never trains on it.

    The part is drawn once, with a generator of its own, and stays the same however often the loaders are made. Both parts are
    loaded with the settings of the training loader. Everything else is the data module's own::

        data = HoldOutDataModule(datamodule)
        monitor = InteractionMonitor(evidence=HeldOutReferences())
        Trainer(callbacks=[monitor]).fit(model, datamodule=data)

    The data module is set up for fitting once, so that a split that it draws in ``setup`` is drawn once as well, until its
    ``teardown``.

    Args:
        data: A :class:`~lightning.pytorch.LightningDataModule` whose ``train_dataloader`` gives one loader, or that loader.
        val_dataloaders: Validation loaders beside a training loader; a data module has its own.
        fraction: Fraction of the training data that is held out, above 0 and below 1.
        seed: Seed of the draw.

    Raises:
        MisconfigurationException: If the fraction is not between 0 and 1, validation loaders are given beside a data module,
            or (when loaders are made) the training data is several loaders, cannot be indexed, or has changed its length.
    """

    prepare_data = _hook_of_inner("prepare_data")
    val_dataloader = _hook_of_inner("val_dataloader")
    test_dataloader = _hook_of_inner("test_dataloader")
    predict_dataloader = _hook_of_inner("predict_dataloader")
    state_dict = _hook_of_inner("state_dict")
    load_state_dict = _hook_of_inner("load_state_dict")
    on_exception = _hook_of_inner("on_exception")

    def __init__(
        self, data: LightningDataModule | DataLoader[Any], val_dataloaders: Any = None, *, fraction: float = 0.3, seed: int = 0
    ) -> None:
        if not 0 < fraction < 1:
            raise MisconfigurationException(f"HoldOutDataModule: expected fraction between 0 and 1, got {fraction}")
        inner: Any = data if isinstance(data, classes("LightningDataModule")) else GivenLoaders(data, val_dataloaders)
        if inner is data and val_dataloaders is not None:
            raise MisconfigurationException(
                "HoldOutDataModule: expected no val_dataloaders beside a data module, which has its own; leave them out"
            )
        super().__init__(inner)
        share_hyperparameters(self, self.inner)
        self.prepare_data_per_node = self.inner.prepare_data_per_node
        self.allow_zero_length_dataloader_with_multiple_devices = self.inner.allow_zero_length_dataloader_with_multiple_devices
        self.fraction = fraction
        self.seed = seed
        self._held_out = as_indices([])
        self._length = 0
        self._set_up: set[str] = set()

    def setup(self, stage: str) -> None:
        """Set the data module up, once for each stage."""
        if stage not in self._set_up:
            self.inner.setup(stage)
            self._set_up.add(stage)

    def teardown(self, stage: str) -> None:
        """Tear the data module down."""
        self._set_up.discard(stage)
        self.inner.teardown(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """Load what is left of the training data."""
        return self._loader(held_out=False)

    def reference_dataloader(self) -> DataLoader[Any]:
        """Load the part that is held out for the reference models."""
        return self._loader(held_out=True)

    def _loader(self, *, held_out: bool) -> DataLoader[Any]:
        loader = self.inner.train_dataloader()
        pool = sampler_pool(loader)
        if pool is None:
            got = (
                f"a DataLoader of {type(loader.dataset).__name__}" if isinstance(loader, DataLoader) else type(loader).__name__
            )
            raise MisconfigurationException(
                "HoldOutDataModule: expected one torch DataLoader whose data has indices, without a batch sampler of its own, "
                f"got {got}; split such data yourself, and give fit_reference_models a loader of the held-out part"
            )
        self._draw_once(pool, len(loader.dataset))
        numbers = np.asarray(pool)
        indices = as_indices(numbers[np.isin(numbers, np.asarray(self._held_out), invert=not held_out)])
        if not indices:
            raise MisconfigurationException(
                f"HoldOutDataModule: expected samples in both parts, got {len(self._held_out)} held out of {len(pool)}; use "
                "more data or another fraction"
            )
        return loader_of_part(loader, indices, generator=loader.generator or getattr(loader.sampler, "generator", None))

    def _draw_once(self, pool: Sequence[int], length: int) -> None:
        if not self._held_out:
            self._held_out, _ = draw_part(pool, round(self.fraction * len(pool)), self.seed)
            self._length = length
        if length != self._length:
            raise MisconfigurationException(
                f"HoldOutDataModule: expected the same {self._length} training samples whenever the loaders are made, got "
                f"{length} now; make the data set in setup, the same every time"
            )
