import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_interactions import PhaseEarlyStopping
from lightning_interactions.callbacks import homecoming
from tests.callbacks.runs import TINY_SET_UP, assert_same_history, fewest, quiet_trainer
from tests.helpers.models import TabularClassifier, tabular_loader

pytestmark = TINY_SET_UP


def sent(callback: Any, monkeypatch: pytest.MonkeyPatch, local_rank: int = 0) -> bytes:
    """What a training in a process of its own sends home."""
    monkeypatch.setattr(homecoming, "trains_elsewhere", lambda _trainer: True)
    trainer: Any = SimpleNamespace(local_rank=local_rank, state=SimpleNamespace())
    homecoming.send_home(trainer, callback, callback._address)
    return pickle.dumps(copy.deepcopy(trainer.state))


def test_a_state_is_delivered_where_it_arrives_and_to_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = fewest()
    copied = copy.deepcopy(monitor)
    trained = fewest()
    quiet_trainer(tmp_path, callbacks=[trained]).fit(TabularClassifier(), tabular_loader(24), tabular_loader(12, seed=1))
    trained._address = monitor._address  # As it has in a process that was spawned with a copy.
    content = sent(trained, monkeypatch)
    assert not monitor.history
    pickle.loads(content)
    assert_same_history(monitor.history, trained.history, 0)
    assert not copied.history
    assert copied._address != monitor._address


def test_one_process_of_a_machine_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = PhaseEarlyStopping()
    stopping.wait_count = 3
    other = sent(stopping, monkeypatch, local_rank=1)
    content = sent(stopping, monkeypatch)
    stopping.wait_count = 0
    pickle.loads(other)
    assert stopping.wait_count == 0
    pickle.loads(content)
    assert stopping.wait_count == 3


def test_what_nobody_waits_for_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    content = sent(PhaseEarlyStopping(), monkeypatch)
    pickle.loads(content)
