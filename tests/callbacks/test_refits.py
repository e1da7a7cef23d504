"""One monitor and several fits; what cannot be measured is said."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions import FeatureGroups, InteractionMonitor
from tests.callbacks.runs import few
from tests.helpers.models import Classifier, TabularClassifier, tabular_loader
from tests.helpers.trainers import quiet_trainer


def two_fits(root: Path, monitor: InteractionMonitor, *, other: str) -> None:
    """Fit for two epochs, and go on for two more with another module or other data and the same Trainer."""
    model, loader = TabularClassifier(), tabular_loader(24, batch_size=8)
    trainer = quiet_trainer(root, callbacks=[monitor])
    trainer.fit(model, loader, tabular_loader(12, seed=1))
    assert monitor.history.epochs == [0, 1, 2]
    trainer.fit_loop.max_epochs = 4
    second = TabularClassifier() if other == "module" else model
    data = tabular_loader(24, batch_size=8, seed=5) if other == "data" else loader
    trainer.fit(second, data, tabular_loader(12, seed=1))


@pytest.mark.parametrize("other", ["module", "data"])
@pytest.mark.slow
def test_another_module_or_other_data_begin_a_new_history(tmp_path: Path, other: str) -> None:
    monitor = few()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        two_fits(tmp_path, monitor, other=other)
    what = "module" if other == "module" else "data set"
    assert any(f"history is of another {what}" in str(one.message) for one in said)
    assert monitor.history.epochs == [3, 4]


def test_the_same_module_and_data_go_on(tmp_path: Path) -> None:
    monitor = few()
    two_fits(tmp_path, monitor, other="nothing")
    assert monitor.history.epochs == [0, 1, 2, 3, 4]


def test_a_fit_with_other_players_is_refused(tmp_path: Path) -> None:
    monitor = few(players=FeatureGroups())
    model, loader = TabularClassifier(), tabular_loader(24, batch_size=8)
    trainer = quiet_trainer(tmp_path, callbacks=[monitor])
    trainer.fit(model, loader, tabular_loader(12, seed=1))
    trainer.fit_loop.max_epochs = 4
    monitor.players = FeatureGroups([[0, 1], [2, 3]])
    monitor.meter.players = monitor.players
    with pytest.raises(Exception, match="players"):
        trainer.fit(model, loader, tabular_loader(12, seed=1))


def test_a_split_that_is_left_out_is_named_with_the_cause(tmp_path: Path) -> None:
    class Normalised(nn.Module):
        """Divides by the size of its input, as attention does by the weight of what is not masked."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs / inputs.abs().sum(dim=1, keepdim=True))

    class Module(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch)

    monitor = few(schedule=None)
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(Module(Normalised()), tabular_loader(24, batch_size=8), tabular_loader(12, seed=1))
    left_out = [str(one.message) for one in said if "probes are left out" in str(one.message)]
    assert len(left_out) == 2
    assert all("all players are masked" in one for one in left_out)
    assert torch.isnan(monitor.history.measurements[-1].training.full_score).all()
