"""The plain loop trains as a Trainer does, conditions do what they say, and runs are kept and read again."""

import sys
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions.analysis import detect_phases
from tests.callbacks.runs import TINY_SET_UP

sys.path.insert(0, str(Path(__file__).parent))
from own_past import measurements_of_own_past
from runs import REFERENCES, TWINS, TWINS_HELD_OUT, Size, load, load_or_make, load_values
from tasks import CONDITIONS, Setting, choosing, make_model, make_parts, reported
from trainings import load_or_make_trainings, load_trainings, train
from votes import of_votes

pytestmark = [*TINY_SET_UP, pytest.mark.filterwarnings("ignore:You defined a `validation_step`")]

SMALL = Size(training_probes=8, held_out_probes=4, tolerance=1e-2, epochs=2)
CANCER = Setting("cancer", "MLP", 0.2, 0)


@pytest.mark.parametrize("condition", ["plain", "decay", "weight decay"])
def test_the_plain_loop_trains_as_a_trainer_does(tmp_path: Path, condition: str) -> None:
    setting = replace(CANCER, condition=condition)
    inputs, labels = make_parts(setting)["training"].tensors
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(make_model(setting, 3))
    options = {"batch_size": len(labels), "epochs": 3, "seed": 0}
    losses = train(models[0], inputs, labels, **options, measures={"loss": lambda model: model.loss((inputs, labels)).item()})
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(models[1], DataLoader(TensorDataset(inputs, labels), len(labels)))
    for actual, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(actual, expected)
    assert len(losses["loss"]) == 3
    assert losses["loss"] == sorted(losses["loss"], reverse=True)


def test_augmentation_changes_training_alone() -> None:
    model = make_model(replace(CANCER, condition="augmentation"), 1)
    batch = make_parts(CANCER)["training"].tensors
    assert model.training_step(batch) != model.training_step(batch)
    assert model.loss(batch) == model.loss(batch)


def test_an_imbalanced_task_has_a_rare_class_in_all_parts() -> None:
    for part in make_parts(Setting("table", "MLP", 0.0, 3, "imbalance")).values():
        counts = part.tensors[1].bincount()
        assert counts[2] < 0.2 * counts[0]


@pytest.mark.slow
def test_tweets_of_other_parts_are_surer_and_nobody_is_in_two_parts() -> None:
    parts = make_parts(Setting("tweets", "MLP", 0.0, 1))
    assert [len(part) for part in parts.values()] == [600, 500, 200, 1000]
    assert all(part.tensors[1].float().mean() == 0.5 for part in parts.values())


def test_plans_have_enough_runs_of_each_kind_and_none_twice() -> None:
    settings = reported()
    assert sum(one.is_noisy for one in settings) >= 60
    assert sum(one.is_clean for one in settings) >= 30
    assert {one.condition for one in settings} == set(CONDITIONS)
    assert len({one.file_name for one in [*settings, *choosing()]}) == len(settings) + len(choosing())
    assert {one.task for one in settings}.isdisjoint(one.task for one in choosing())


@pytest.mark.slow
def test_a_run_and_its_trainings_are_read_as_they_were_made(tmp_path: Path) -> None:
    made = load_or_make(CANCER, SMALL, tmp_path)
    path = tmp_path / f"{CANCER.file_name}.pt"
    read = load(CANCER, SMALL, path)
    assert load(CANCER, replace(SMALL, epochs=3), path) is None
    assert list(read.histories) == [TWINS, TWINS_HELD_OUT, REFERENCES]
    assert read.curves.keys() == made.curves.keys()
    for name, curve in made.curves.items():
        assert read.curves[name] == pytest.approx(curve, rel=0, abs=0, nan_ok=True), name
    assert [len(losses) for losses in read.twin_losses] == [2, 2]
    torch.testing.assert_close(read.salient_effects, made.salient_effects)
    values = load_values(CANCER, SMALL, path)
    assert {split: tuple(own.shape) for split, own in values.items()} == {
        "training": (3, 8, 1024),
        "held_out": (3, 4, 1024),
    }

    # Twins are raters like others: with their votes for its past, the own past is what weighing gives.
    own = measurements_of_own_past(read, fraction=0.0)
    assert len(own) == 3
    first, last = own[0].training, own[-1].training
    torch.testing.assert_close(first.non_generalizable, torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(first.explained_score, first.full_score)
    twins = read.histories[TWINS].measurements[-1].training
    torch.testing.assert_close(
        last.generalizable + last.non_generalizable, twins.generalizable + twins.non_generalizable, rtol=1e-5, atol=1e-6
    )
    assert len(detect_phases(own)) == 3

    # All raters and as many votes as were asked for give what was measured.
    voted = of_votes(read, 1, 1, TWINS).measurements[-1].training
    for name in ("generalizable", "chance_generalizable", "explained_score", "expected_test_loss"):
        torch.testing.assert_close(getattr(voted, name), getattr(twins, name), rtol=1e-4, atol=1e-5)

    trainings = load_or_make_trainings(CANCER, SMALL, tmp_path)
    again = load_trainings(CANCER, SMALL, tmp_path)
    assert again.curves == trainings.curves
    assert set(again.curves) == {"validation split", "halves", "fifths", "flipped"}
    assert {name: tuple(own.shape) for name, own in again.predictions.items()} == dict.fromkeys(
        ("second", "half 0", "half 1"), (2, 60, 2)
    )
    assert read.predictions.shape == (2, 60, 2)
