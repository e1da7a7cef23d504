from pathlib import Path

import pytest
import torch
from papers.runs import Setting, Size, load, save
from papers.tasks import PARTS, QUICK_TASKS, TASKS, make_parts
from torch.testing import assert_close

from lightning_interactions.records import Rows
from tests.examples.runs import decay, run_of, spindle

ALL_TASKS = {**TASKS, **QUICK_TASKS}


@pytest.mark.parametrize("name", ALL_TASKS)
def test_parts_are_the_same_for_a_seed_and_only_training_labels_are_spoilt(name: str) -> None:
    task = ALL_TASKS[name]
    clean, parts, again = (make_parts(task, 3, noise=noise) for noise in (0, 0.2, 0.2))
    for part, size in zip(PARTS, task.sizes, strict=True):
        inputs, labels = parts[part].tensors
        assert len(inputs) == len(labels) == size
        assert torch.equal(inputs, clean[part].tensors[0])
        assert torch.equal(labels, again[part].tensors[1])
        changed = (labels != clean[part].tensors[1]).float().mean().item()
        assert changed == pytest.approx(0.2, abs=0.06) if part == "training" else changed == 0
    assert task.players.num_players(Rows.of(inputs)) == (4 if name in QUICK_TASKS else 9)
    for architecture in task.architectures.values():
        assert architecture.classifier()(inputs[:2]).shape == (2, task.num_classes)


def test_random_labels_have_nothing_to_do_with_the_inputs() -> None:
    task = TASKS["digits"]
    spoilt, clean = make_parts(task, 3, random_labels=True), make_parts(task, 3, noise=0)
    for part in PARTS:
        assert (spoilt[part].tensors[1] == clean[part].tensors[1]).float().mean() < 0.2


def test_a_run_is_read_as_it_was_saved_and_only_as_what_it_is(tmp_path: Path) -> None:
    times = torch.ones(3, 1)
    run = run_of(times * decay(), times * spindle(), [1.0] * 3, [2.0] * 3, [1.5] * 3)
    path = tmp_path / "folder" / "run.pt"
    save(run, Size(), path)
    read = load(run.setting, Size(), path)
    assert read is not None
    assert read.history.epochs == [0, 1, 2]
    assert read.test_losses == run.test_losses
    assert_close(vars(read.final), vars(run.final))
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]
    assert load(run.setting, Size(probes=5), path) is None
    assert load(Setting("made up", "none", 1), Size(), path) is None
    assert load(run.setting, Size(), tmp_path / "none.pt") is None
