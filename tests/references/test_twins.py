import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping, ProbeSampling, Twins
from lightning_interactions.evidence import ParameterNoise
from lightning_interactions.evidence.reference_models import Ratings
from lightning_interactions.functional import RaterVotes
from lightning_interactions.references import (
    HeldOutReferences,
    HoldOutDataModule,
    ReferenceTraining,
    fit_reference_models,
)
from lightning_interactions.references.fit import NEARLY, learned_epochs
from lightning_interactions.references.fit_length import fit_length
from lightning_interactions.references.trainer import progress
from lightning_interactions.references.watching import KeepBestWeights
from tests.callbacks.runs import assert_same_history, few
from tests.helpers.models import (
    Classifier,
    DeterministicClassifier,
    GloballyAugmentedDataset,
    StreamedDataset,
    TabularClassifier,
    tabular_data,
    tabular_loader,
)
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer

pytestmark = TINY_SET_UP

DATA = tabular_data(120, seed=2)


def loader(data: Dataset[Any] = DATA, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, **{"batch_size": 8, "shuffle": not isinstance(data, StreamedDataset), **options})


def fit(
    root: Path, *callbacks: Callback, model: Any = None, train: Any = None, resume: Any = None, val: Any = None, **options: Any
) -> Trainer:
    torch.manual_seed(3)
    trainer = quiet_trainer(root, callbacks=list(callbacks), **options)
    # Made here, so that all begin alike.
    made = TabularClassifier() if model is None else model() if isinstance(model, type) else model
    trainer.fit(
        made, loader() if train is None else train, tabular_loader(16, seed=1) if val is None else val, ckpt_path=resume
    )
    return trainer


class Notes(Callback):
    """Notes what the Trainer of each twin is like, and what it trains on."""

    def __init__(self) -> None:
        self.trainers: list[Trainer] = []
        self.starts: list[Tensor] = []

    def __deepcopy__(self, _memo: Any) -> "Notes":
        return self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trainers.append(trainer)
        self.starts.append(nn.utils.parameters_to_vector(pl_module.parameters()).detach().clone())


def noted(**settings: Any) -> tuple[Twins, Notes]:
    notes = Notes()
    return Twins(ReferenceTraining(**settings, trainer={"callbacks": notes})), notes


# The default


def test_twins_are_the_default_and_judge_what_they_have_not_seen(tmp_path: Path) -> None:
    monitor = InteractionMonitor(probes=ProbeSampling(training=12, held_out=6))
    stopping = PhaseEarlyStopping(phase=3)
    fit(tmp_path, monitor, stopping)
    assert isinstance(monitor.evidence, Twins)
    references = monitor.evidence.references
    assert len(references.models) == 2
    first, second = references.seen
    assert len(first) == len(second) == 60
    assert first.isdisjoint(second)
    assert not monitor.history.measurements[-1].training.generalizable.isnan().any()


def test_a_run_with_the_default_ends_with_the_same_weights(tmp_path: Path) -> None:
    ended = []
    for callbacks in ([], [InteractionMonitor(probes=ProbeSampling(6, 4))]):
        torch.manual_seed(1)
        model = TabularClassifier()
        fit(tmp_path, *callbacks, model=model)
        ended.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*ended)


@pytest.mark.parametrize(
    ("train", "named"),
    [
        (lambda: loader(StreamedDataset(DATA, 120)), "indices"),
        (lambda: [loader(), loader()], "indices"),
    ],
    ids=["stream", "several loaders"],
)
@pytest.mark.slow
def test_where_there_can_be_no_twins_noise_takes_their_place_and_says_why(tmp_path: Path, train: Any, named: str) -> None:
    class First(TabularClassifier):
        def training_step(self, batch: Any, _batch_index: int) -> Tensor:
            return self.loss(batch[0] if isinstance(batch[0], (list, tuple)) else batch)

    monitor = InteractionMonitor(probes=ProbeSampling(training=6, held_out=4))
    with pytest.warns(UserWarning, match=rf"cannot be trained: .*{named}.*ParameterNoise"):
        fit(tmp_path, monitor, model=First(), train=train())
    assert isinstance(monitor.evidence, ParameterNoise)
    assert monitor.history.epochs[-1] == 2
    with pytest.raises(MisconfigurationException, match=named):
        fit(tmp_path, few(evidence=Twins()), model=First(), train=train())


@pytest.mark.slow
def test_a_module_whose_twins_fail_keeps_its_run(tmp_path: Path) -> None:
    class NeedsRun(DeterministicClassifier):
        def on_train_start(self) -> None:
            if self.trainer.accumulate_grad_batches != self.trainer.max_epochs:
                raise KeyError("the run's own settings")

    monitor = InteractionMonitor(probes=ProbeSampling(training=6, held_out=4))
    with pytest.warns(UserWarning, match="the run's own settings"):
        fit(tmp_path, monitor, model=NeedsRun(), max_epochs=60, max_steps=1, accumulate_grad_batches=60)
    assert isinstance(monitor.evidence, ParameterNoise)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_workers_of_the_run_go_on(tmp_path: Path) -> None:
    train = loader(num_workers=1, persistent_workers=True)
    assert fit(tmp_path, few(evidence=Twins()), train=train).global_step == 30


# Who has seen what


@pytest.mark.slow
def test_probes_of_augmented_data_are_known_by_their_index(tmp_path: Path) -> None:
    twins = Twins()
    monitor = few(evidence=twins, training=20, held_out=4)
    fit(tmp_path, monitor, train=loader(GloballyAugmentedDataset(DATA)))
    prints = monitor._preparation.keeper.probes["training"].fingerprints
    indices = monitor._preparation.keeper.indices
    assert set(indices) == set(prints)
    (inputs,) = [group.inputs.leaves["0"] for group in monitor._preparation.keeper.probes["training"].groups]
    originals = DATA.tensors[0][[indices[one] for one in prints]]
    # Noise moves an input a little; another one is further away.
    nearest = torch.cdist(inputs, DATA.tensors[0]).argmin(dim=1)
    assert (nearest == torch.tensor([indices[one] for one in prints])).float().mean() > 0.8
    assert originals.shape == inputs.shape
    own = [{indices[one] for one in prints if one in seen} for seen in twins.references.seen]
    assert own[0].isdisjoint(own[1])
    assert own[0] | own[1] == set(indices.values())
    assert min(map(len, own)) >= 3


@pytest.mark.slow
def test_probes_of_augmented_data_that_are_handed_in_are_unknown(tmp_path: Path) -> None:
    given = {"training": (DATA.tensors[0][:6], DATA.tensors[1][:6]), "held_out": 4}
    train = loader(GloballyAugmentedDataset(DATA))
    with pytest.raises(MisconfigurationException, match="6 of 6 training probes"):
        fit(tmp_path, few(evidence=Twins(), **given), train=train)
    monitor = InteractionMonitor(probes=ProbeSampling(**given))
    with pytest.warns(UserWarning, match="ParameterNoise"):
        fit(tmp_path, monitor, train=train)
    assert monitor.history.epochs == [0, 1, 2]


# As the run trains


def test_twins_train_as_the_run_does(tmp_path: Path) -> None:
    twins, notes = noted(patience=None)
    fit(tmp_path, few(evidence=twins), max_epochs=3, gradient_clip_val=0.5, accumulate_grad_batches=2, limit_train_batches=6)
    assert len(notes.trainers) == 2
    for trainer in notes.trainers:
        assert (trainer.max_epochs, trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (3, 0.5, 2)
        # Six batches of the whole are three of a half.
        assert trainer.num_training_batches == 3


@pytest.mark.slow
def test_no_more_epochs_than_the_run_unless_asked_for(tmp_path: Path) -> None:
    counts = []
    for settings, run in (
        ({}, {"max_epochs": 2}),
        ({"max_epochs": 3}, {"max_epochs": 2}),
        ({}, {"max_epochs": -1, "max_steps": 20}),
    ):
        twins, notes = noted(**settings)
        trainer = fit(tmp_path, few(evidence=twins), **run)
        counts.append((notes.trainers[0].max_epochs, fit_length(trainer).epochs))
    assert counts == [(2, 2), (3, 2), (2, 2)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_schedule_that_watches_validation_has_it_and_the_runs_workers_go_on(tmp_path: Path) -> None:
    class Plateau(TabularClassifier):
        def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
            loss = self.loss(batch)
            self.log("val_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    twins = Twins()
    val = DataLoader(tabular_data(16, seed=1), batch_size=8, num_workers=1, persistent_workers=True)
    trainer = fit(tmp_path, few(evidence=twins), model=Plateau(), val=val)
    assert twins.is_fitted
    assert (trainer.global_step, trainer.current_epoch) == (30, 2)
    assert "val_loss" in trainer.callback_metrics


def test_callbacks_and_loggers_of_the_module_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Brings(TabularClassifier):
        def configure_callbacks(self) -> Any:
            return [EarlyStopping("nothing"), ModelCheckpoint(), StochasticWeightAveraging(1e-2)]

        def training_step(self, batch: Any, _batch_index: int) -> Tensor:
            self.logger.experiment.add_scalar("loss", 1.0, self.global_step)  # type: ignore[union-attr]
            self.logger.log_metrics({"loss": 1.0})  # type: ignore[union-attr]
            return self.loss(batch)

    monkeypatch.chdir(tmp_path)
    notes = Notes()
    training = ReferenceTraining(max_epochs=1, trainer={"callbacks": notes, "accelerator": "cpu"})
    fit_reference_models(Brings(), loader(), folds=2, num_models=1, training=training)
    kinds = {type(callback).__name__ for own in notes.trainers for callback in own.callbacks}
    assert "StochasticWeightAveraging" in kinds
    assert kinds.isdisjoint({"EarlyStopping", "ModelCheckpoint"})
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.slow
def test_pretrained_weights_are_where_twins_begin_and_fresh_ones_are_drawn_anew(tmp_path: Path) -> None:
    class Pretrained(Classifier):
        def __init__(self, spread: float) -> None:
            super().__init__(nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3)))
            nn.init.normal_(self.network.get_submodule("0").weight, std=spread)  # type: ignore[arg-type]

        def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
            return self.loss(batch)

    class Fresh(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3)))

        validation_step = Pretrained.validation_step

    for model, begins_alike in ((Pretrained(3.0), True), (Fresh(), False)):
        begin = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        twins, notes = noted()
        fit(tmp_path, few(evidence=twins), model=model)
        assert [torch.equal(start, begin) for start in notes.starts] == 2 * [begins_alike]


# For how long they learn


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([[3.0, 1.0, 2.0], [1.0, 1.0, 4.0]], 2),
        # Only as far as all were trained.
        ([[3.0, 2.0, 1.0, 0.5], [3.0, 2.0]], 2),
        # Nearly as good is as good; losses may be negative.
        ([[2.0, 1 + 0.9 * NEARLY, 1.0, 2.0]], 2),
        ([[2.0, 1 + 1.1 * NEARLY, 1.0, 2.0]], 3),
        ([[0.0, -1 + 0.9 * NEARLY, -1.0]], 2),
        ([[math.nan, 2.0, 1.0], [1.0, math.inf, 1.0]], 3),
        ([[math.nan], [1.0]], 0),
        ([[], []], 0),
    ],
)
def test_models_learn_until_their_loss_is_nearly_the_smallest(losses: list[list[float]], expected: int) -> None:
    assert learned_epochs(losses) == expected


@pytest.mark.parametrize(("evidence", "early"), [(Twins, 2), (HeldOutReferences, -1)])
@pytest.mark.slow
def test_measurements_are_early_while_models_of_less_of_the_runs_data_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: Any, early: int
) -> None:
    monkeypatch.setattr(KeepBestWeights, "_mean_loss", lambda self, *_given: [3.0, 1.0, 2.0, 2.0, 2.0][len(self.losses)])
    monitor = few(evidence=evidence(training=ReferenceTraining(max_epochs=4)))
    data = HoldOutDataModule(loader(tabular_data(240, seed=2)), tabular_loader(16, seed=1), fraction=0.5)
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=4).fit(TabularClassifier(), datamodule=data)
    assert [one.is_early for one in monitor.history.measurements] == [epoch <= early for epoch in range(5)]


# Going on


@pytest.mark.slow
def test_a_resumed_run_needs_no_other_twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = ReferenceTraining(max_epochs=2, patience=None)
    unbroken, first, resumed = (few(evidence=Twins(training)) for _ in range(3))
    model = DeterministicClassifier
    train = tabular_loader(80, seed=2)
    fit(tmp_path, unbroken, model=model, train=train, max_epochs=4)
    fit(tmp_path, first, model=model, train=train, max_epochs=2).save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(Twins, "fit", None)
    fit(tmp_path, resumed, model=model, train=train, max_epochs=4, resume=tmp_path / "last.ckpt")
    assert_same_history(resumed.history, unbroken.history, 1e-6)
    with pytest.raises(RuntimeError, match="resume_from"):
        resumed.label_issues(model(), *DATA.tensors)


@pytest.mark.slow
def test_a_resumed_run_without_twins_goes_on_without(tmp_path: Path) -> None:
    first, resumed = (InteractionMonitor(probes=ProbeSampling(training=6, held_out=4)) for _ in range(2))
    streams = [loader(StreamedDataset(DATA, 24)) for _ in range(2)]
    with pytest.warns(UserWarning, match="ParameterNoise"):
        fit(tmp_path, first, train=streams[0], max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    fit(tmp_path, resumed, train=streams[1], resume=tmp_path / "last.ckpt")
    assert resumed.history.epochs == [1, 2]
    assert isinstance(resumed.evidence, ParameterNoise)


def test_votes_survive_a_checkpoint(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn() -> RaterVotes:
        signs = torch.randint(-8, 9, (2, 5, 2, 16), generator=generator)
        return RaterVotes((signs * (signs.abs() < 2)).to(torch.int8), torch.tensor([True, True, False, True, True]))

    ratings = Ratings(drawn(), (drawn(), drawn()), torch.randn(5, generator=generator), learned_epochs=7)
    torch.save(ratings.to_state(), tmp_path / "ratings.pt")
    again = Ratings.from_state(torch.load(tmp_path / "ratings.pt", weights_only=True))
    for own, other in zip((ratings.votes, *ratings.by_chance), (again.votes, *again.by_chance), strict=True):
        assert torch.equal(own.signs, other.signs)
        assert own.signs.dtype == other.signs.dtype
        assert torch.equal(own.finite, other.finite)
    assert torch.equal(ratings.score, again.score)
    assert again.learned_epochs == 7


# What is said


@pytest.mark.slow
def test_the_cost_is_said_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(tmp_path, few(evidence=Twins()), max_epochs=3)
    (said,) = [record.getMessage() for record in caplog.records if "training 2" in record.getMessage()]
    assert "60 of 120 inputs" in said
    assert "3 epochs" in said
    # A fifth of each half only says when to stop: twice 48 of 120 inputs for as many epochs.
    assert "80 %" in said


def test_progress_is_hidden_where_the_run_hides_it(tmp_path: Path) -> None:
    assert progress(4, quiet_trainer(tmp_path)).disable
    shown = progress(4, quiet_trainer(tmp_path, enable_progress_bar=True))
    assert shown.total is None or shown.total == 4
