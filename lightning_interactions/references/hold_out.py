"""Making the split: data for reference models, taken away from a run's training data."""

from functools import partial
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from lightning_interactions.references.loaders import draw_part, loader_of_part, sampler_pool

__all__ = ["DataPart", "HoldOutReferences", "itself"]

TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")

OTHER_HOOKS = (
    "prepare_data",
    "on_exception",
    "state_dict",
    "load_state_dict",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
)


class DataPart(LightningDataModule):
    """Loads a part of another data module's data, and moves batches as that one does.

    Args:
        inner: The data module; hooks that it does not override itself count as not overridden here.
        hooks: Names of the hooks and loaders that are passed on.
    """

    def __init__(self, inner: LightningDataModule, hooks: tuple[str, ...] = TRANSFER_HOOKS) -> None:
        self.inner = inner
        attached = inner.trainer
        super().__init__()
        self.trainer = attached
        self._log_hyperparams = inner._log_hyperparams
        for name in hooks:
            # The inner's bound methods: Lightning looks at their code to find out whether they are overridden.
            setattr(self, name, getattr(inner, name))

    def __getattr__(self, name: str) -> Any:
        """Find what is not here, such as a number of classes, in the inner data module."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def trainer(self) -> Trainer | None:
        """The Trainer that the data module is attached to."""
        return self.inner.trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self.inner.trainer = trainer


class HoldOutReferences(DataPart):
    """Hold a part of the training data out for reference models, so that the run never trains on it.

    The part is drawn once, with a generator of its own, and stays the same however often the loaders are made. Both parts are
    loaded with the settings of the training loader. Everything else is passed on to the data module::

        data = HoldOutReferences(datamodule)
        references = fit_reference_models(model, data)
        trainer.fit(model, datamodule=data)

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

    def __init__(
        self, data: LightningDataModule | DataLoader[Any], val_dataloaders: Any = None, *, fraction: float = 0.3, seed: int = 0
    ) -> None:
        if not 0 < fraction < 1:
            raise MisconfigurationException(f"HoldOutReferences: expected fraction between 0 and 1, got {fraction}")
        if isinstance(data, LightningDataModule) and val_dataloaders is not None:
            raise MisconfigurationException(
                "HoldOutReferences: expected no val_dataloaders beside a data module, which has its own; leave them out"
            )
        super().__init__(
            data if isinstance(data, LightningDataModule) else _Loaders(data, val_dataloaders),
            TRANSFER_HOOKS + OTHER_HOOKS,
        )
        self.prepare_data_per_node = self.inner.prepare_data_per_node
        self.allow_zero_length_dataloader_with_multiple_devices = self.inner.allow_zero_length_dataloader_with_multiple_devices
        self.fraction = fraction
        self.seed = seed
        self._held_out: frozenset[int] = frozenset()
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

    def _loader(self, held_out: bool) -> DataLoader[Any]:
        loader = self.inner.train_dataloader()
        pool = sampler_pool(loader)
        if pool is None:
            got = (
                f"a DataLoader of {type(loader.dataset).__name__}" if isinstance(loader, DataLoader) else type(loader).__name__
            )
            raise MisconfigurationException(
                "HoldOutReferences: expected one torch DataLoader whose data has indices, without a batch sampler of its own, "
                f"got {got}; split such data yourself, and give fit_reference_models a loader of the held-out part"
            )
        length = len(loader.dataset)
        if not self._held_out:
            part, _ = draw_part(pool, round(self.fraction * len(pool)), self.seed)
            self._held_out, self._length = frozenset(part), length
        if length != self._length:
            raise MisconfigurationException(
                f"HoldOutReferences: expected the same {self._length} training samples whenever the loaders are made, got "
                f"{length} now; make the data set in setup, the same every time"
            )
        indices = [index for index in pool if (index in self._held_out) == held_out]
        if not indices:
            raise MisconfigurationException(
                f"HoldOutReferences: expected samples in both parts, got {len(self._held_out)} held out of {len(pool)}; use "
                "more data or another fraction"
            )
        return loader_of_part(loader, indices, generator=loader.generator or getattr(loader.sampler, "generator", None))


class _Loaders(LightningDataModule):
    """A data module of loaders that are there."""

    def __init__(self, train_dataloader: Any, val_dataloaders: Any) -> None:
        super().__init__()
        self.train_dataloader = partial(itself, train_dataloader)  # type: ignore[method-assign]
        if val_dataloaders is not None:
            self.val_dataloader = partial(itself, val_dataloaders)  # type: ignore[method-assign]


def itself(loaders: Any) -> Any:
    """Return loaders that are there, for data modules whose loader methods are set from outside."""
    return loaders
