"""The module's step runs in the Trainer's precision wherever it runs, if that is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, tasks
from tests.callbacks.runs import TINY_SET_UP, few, quiet_trainer
from tests.helpers.models import Classifier, StreamedDataset, tabular_data, tabular_loader

pytestmark = TINY_SET_UP


class HalfNarrow(Classifier):
    """The second layer has narrow weights, so that it runs under an autocast alone."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3).bfloat16()))

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class MakesTensors(Classifier):
    """Joins its inputs with a tensor of the dtype that is the default."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))

    def forward(self, inputs: Tensor) -> Any:
        return self.network(torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1))

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


RUNS: dict[str, Callable[[], LightningModule]] = {"bf16-mixed": HalfNarrow, "bf16-true": MakesTensors}


def streamed(num_inputs: int, seed: int) -> DataLoader[Any]:
    return DataLoader(StreamedDataset(tabular_data(num_inputs, seed=seed), num_inputs), batch_size=8)


SOURCES: dict[str, tuple[dict[str, Any], Callable[[int, int], DataLoader[Any]]]] = {
    "drawn": ({}, lambda num_inputs, seed: tabular_loader(num_inputs, seed=seed)),
    "passing, with a task": ({"task": tasks.Classification()}, streamed),
    "given": (
        {"training": tabular_data(6, seed=2).tensors, "held_out": 0},
        lambda num_inputs, seed: tabular_loader(num_inputs, seed=seed),
    ),
}


def fit(
    root: Path, precision: Any, monitor: InteractionMonitor, make: Callable[[int, int], DataLoader[Any]]
) -> LightningModule:
    torch.manual_seed(0)
    model = RUNS[precision]()
    trainer = quiet_trainer(root, callbacks=[monitor], max_epochs=1, precision=precision)
    trainer.fit(model, make(16, 0), make(8, 1))
    return model


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("precision", RUNS)
@pytest.mark.slow
def test_a_model_that_runs_in_the_trainers_precision_alone_is_measured(tmp_path: Path, precision: str, source: str) -> None:
    options, make = SOURCES[source]
    monitor = few(trainer_precision=True, **options)
    model = fit(tmp_path, precision, monitor, make)
    measured = monitor.history.measurements[-1].training
    assert bool(measured.measured.all())
    assert bool((measured.loss > 0).all())
    found = monitor.label_issues(model, *tabular_data(4, seed=5).tensors)
    assert bool((found.loss > 0).all())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("precision", RUNS)
def test_an_error_of_dtypes_names_the_setting(tmp_path: Path, precision: str, source: str) -> None:
    options, make = SOURCES[source]
    with pytest.raises(ValueError, match=rf"precision='{precision}', pass extraction=Extraction\(trainer_precision=True\)"):
        fit(tmp_path, precision, few(**options), make)
