"""Reference models of modules whose own step is all that is known: inputs, targets and loss are found in it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from lightning_interactions import InteractionMonitor, ProbeSampling
from lightning_interactions.game.players import TimeSegments
from lightning_interactions.game.steps import OwnStep
from lightning_interactions.game.tasks import Classification
from lightning_interactions.records import Rows, fingerprints
from lightning_interactions.references import FittedEvidence, HeldOutReferences, HoldOutDataModule, Twins
from lightning_interactions.references.watching import KeepBestWeights
from tests.callbacks.runs import assert_same_history, few
from tests.helpers.models import PlainTabularClassifier, StreamedDataset, tabular_data
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer
from tests.references.fits import all_seen, assert_same, fit, trained

pytestmark = [
    *TINY_SET_UP,
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:InteractionMonitor. there is no validation loader"),
]

WEIGHTS = torch.tensor([1.0, 2.0, 0.5])


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 3))


class Steps(LightningModule):
    """A step without a forward, whose loss has weights and smoothing."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: Any, _batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def logits(self, batch: Any) -> Tensor:
        logits: Tensor = self.network(self.inputs(batch))
        return logits

    def inputs(self, batch: Any) -> Tensor:
        inputs: Tensor = batch["x"]
        return inputs

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(
            self.logits(batch), batch["y"], weight=WEIGHTS.to(self.device), label_smoothing=0.1, ignore_index=-100
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class AfterTransfer(Steps):
    """Scales every input in a transfer hook, and adds noise to it in training alone."""

    noise = 0.0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        noise = self.noise if self.trainer.training else 0.0
        return {**batch, "x": 2 * batch["x"] + noise}


class TimeFirst(Steps):
    """Has the rows on the second axis of its series."""

    def inputs(self, batch: Any) -> Tensor:
        series: Tensor = batch["x"]
        return series.mean(dim=0)


class KeepsLosses(Steps):
    """Carries past losses and a hidden state with a history, with which no module can be copied by Python."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.hidden: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.hidden = self.logits(batch)
        self.losses.append(super().training_step(batch, batch_idx))
        return self.losses[-1]


class Texts(LightningModule):
    """The interface of Hugging Face's classifiers: keyword arguments, the loss inside, an object of outputs."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(500, 6)
            self.head = nn.Linear(6, 3)
            self.loss = nn.CrossEntropyLoss()

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
            mask = attention_mask[..., None].to(self.head.weight)
            pooled = (self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
            logits = self.head(pooled)
            return {"loss": None if labels is None else self.loss(logits, labels), "logits": logits}

    def __init__(self) -> None:
        super().__init__()
        self.model = self.Inner()

    def training_step(self, batch: Mapping[str, Tensor], _batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch)["loss"]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def rows_of(data: TensorDataset) -> list[dict[str, Any]]:
    return [{"y": target, "x": inputs, "source": "generated"} for inputs, target in data]


def dict_loader(num_inputs: int = 140, start: int = 0) -> DataLoader[Any]:
    """Load ``{"y": ..., "x": ..., "source": [...]}``: the targets come first, and there are strings."""
    return DataLoader(rows_of(tabular_data(num_inputs, seed=2))[start:], batch_size=8)  # type: ignore[arg-type]


def text_loader(num_inputs: int = 140, start: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 500, (num_inputs, 6), generator=generator)
    lengths = torch.randint(2, 7, (num_inputs, 1), generator=generator)
    mask = (torch.arange(6) < lengths).long()
    samples = [
        {"input_ids": own, "attention_mask": of_own, "labels": own[0] % 3} for own, of_own in zip(ids * mask, mask, strict=True)
    ]
    return DataLoader(samples[start:], batch_size=8)  # type: ignore[arg-type]


def series_loader(num_inputs: int = 140, start: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(num_inputs, 5, 4, generator=generator)
    samples = [{"x": own, "y": (own.mean() > 0).long()} for own in series]

    def collate(batch: Any) -> dict[str, Tensor]:
        together = default_collate(batch)
        return {"x": together["x"].transpose(0, 1), "y": together["y"]}

    return DataLoader(samples[start:], batch_size=8, collate_fn=collate)  # type: ignore[arg-type]


class DictData(LightningDataModule):
    """Doubles the inputs after the transfer."""

    def setup(self, stage: str) -> None:
        self.training, self.validation = tabular_data(140, seed=2), tabular_data(16, seed=1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(rows_of(self.training), batch_size=8, shuffle=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(rows_of(self.validation), batch_size=8)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {**batch, "x": 2 * batch["x"]}


def prints(inputs: Tensor, others: Any = None) -> frozenset[str]:
    tree = {"x": inputs, "source": ["generated"] * len(inputs)} if others is None else {**others, "x": inputs}
    return frozenset(fingerprints(Rows.of(tree)))


OWN = prints(tabular_data(140, seed=2).tensors[0])


@pytest.mark.parametrize("patience", [None, 2], ids=["to the end", "early stopping"])
@pytest.mark.parametrize("folds", [None, 2], ids=["held out", "folds"])
def test_what_is_seen_is_the_inputs_without_the_targets(folds: int | None, patience: int | None) -> None:
    references = fit(Steps(), dict_loader(), folds=folds, patience=patience)
    assert len(references.models) == 2 * (folds or 1)
    assert all_seen(references) == OWN
    if folds:
        assert set(Counter(one for seen in references.seen for one in seen).values()) == {2}
        assert references.refused == frozenset()


def test_a_stream_is_read_as_it_passes() -> None:
    data = StreamedDataset(rows_of(tabular_data(140, seed=2)), 140)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="no indices"):
        references = fit(Steps(), DataLoader(data, batch_size=8))
    assert all_seen(references) == OWN


@pytest.mark.parametrize("folds", [None, 2])
def test_hooks_of_the_module_see_a_stage(folds: int | None) -> None:
    references = fit(AfterTransfer(), dict_loader(), folds=folds, num_models=1)
    assert all_seen(references) <= prints(2 * tabular_data(140, seed=2).tensors[0])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "loader"), [(Texts, text_loader), (TimeFirst, series_loader), (KeepsLosses, dict_loader)])
@pytest.mark.parametrize("folds", [None, 2])
def test_steps_of_other_kinds_are_raters(tmp_path: Path, model: Any, loader: Any, folds: int | None) -> None:
    references = fit(model(), loader(), folds=folds, num_models=1)
    players = TimeSegments(5, leaf="x", axis=1) if model is TimeFirst else None
    monitor = few(evidence=references, players=players)
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(model(), loader() if folds else loader(180, 140))
    assert len(monitor.history) == 2
    own = all_seen(references)
    assert len(own) == 140
    seen = [fingerprint in own for fingerprint in monitor.meter._splits["training"].probes.fingerprints]
    assert all(seen) if folds else not any(seen)


# Early stopping


class Losses(Callback):
    """Notes the loss of the step on samples, as the step itself computes it, after each epoch."""

    losses: list[list[float]] = []  # noqa: RUF012 - of all its copies

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Losses.losses.append([])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        (keeps,) = (callback for callback in trainer.callbacks if isinstance(callback, KeepBestWeights))
        inputs, targets = (
            torch.stack(own) for own in zip(*((one["x"], one["y"]) for one in keeps.loader.dataset), strict=True)
        )
        with torch.no_grad():
            Losses.losses[-1].append(pl_module.loss({"x": inputs, "y": targets}).item())
        assert keeps._mean_loss(trainer, pl_module) == pytest.approx(Losses.losses[-1][-1], rel=1e-6)


def test_training_stops_by_the_exact_loss_of_the_step() -> None:
    Losses.losses.clear()
    rows = rows_of(tabular_data(140, seed=2))
    for row in rows[::7]:
        row["y"] = torch.tensor(-100)
    references = fit(Steps(), DataLoader(rows, batch_size=8), num_models=1, max_epochs=4, callbacks=[Losses()])  # type: ignore[arg-type]
    (losses,) = Losses.losses
    assert len(losses) == 4
    # Inputs without a label are trained on all the same, and decide nothing.
    assert OWN - prints(tabular_data(140, seed=2).tensors[0][::7]) <= all_seen(references) <= OWN


# Screening


# Files


@pytest.mark.parametrize("folds", [None, 2])
def test_finished_models_are_taken_from_a_file(tmp_path: Path, folds: int | None) -> None:
    options: dict[str, Any] = {"folds": folds, "num_models": 1, "resume_from": tmp_path / "models.pt"}
    first = fit(Steps(), dict_loader(), **options)
    assert_same(fit(Steps(), dict_loader(), callbacks=[Never()], **options), first)


class Never(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise AssertionError("a finished model is trained again")


# Evidence that fits itself


@pytest.mark.parametrize("evidence", [Twins, HeldOutReferences])
@pytest.mark.slow
def test_evidence_fits_itself_and_knows_the_probes(tmp_path: Path, evidence: Any) -> None:
    own: FittedEvidence = evidence(training=trained(patience=2))
    monitor = few(evidence=own, training=8)
    data = DictData()
    trainer = quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1)
    trainer.fit(Steps(), datamodule=data if evidence is Twins else HoldOutDataModule(data, fraction=0.5))
    probes = monitor.meter._splits["training"].probes
    assert set(probes.fingerprints) <= prints(2 * tabular_data(140, seed=2).tensors[0])
    known = [fingerprint in all_seen(own.references) for fingerprint in probes.fingerprints]
    assert all(known) if evidence is Twins else not any(known)
    assert data.trainer is trainer
    assert isinstance(monitor.task, OwnStep)
    assert len(monitor.history) == 2


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_has_the_same_evidence(tmp_path: Path) -> None:
    def run(epochs: int, ckpt_path: Path | None = None) -> InteractionMonitor:
        torch.manual_seed(0)
        monitor = few(evidence=Twins(trained(patience=None)))
        trainer = quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=epochs)
        trainer.fit(Steps(), dict_loader(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return monitor

    whole = run(2)
    run(1)
    resumed = run(2, tmp_path / "1.ckpt")
    assert_same_history(resumed.history, whole.history, 1e-6)


@pytest.mark.slow
def test_models_fitted_by_the_step_judge_a_task_that_unpacks_batches(tmp_path: Path) -> None:
    loader = DataLoader(tabular_data(140, seed=2), batch_size=8)
    references = fit(PlainTabularClassifier(), loader, folds=2, num_models=1)
    monitor = few(evidence=references, task=Classification())
    quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(PlainTabularClassifier(), loader)
    assert len(monitor.history) == 2


@pytest.mark.slow
def test_inputs_that_reference_models_were_trained_on_are_no_probes(tmp_path: Path) -> None:
    references = fit(Steps(), dict_loader(40), num_models=1, patience=None)
    monitor = few(evidence=references, probes=ProbeSampling(16, 0))
    with pytest.warns(UserWarning, match="trained on"):
        quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(Steps(), dict_loader())
    assert not all_seen(references) & set(monitor.meter._splits["training"].probes.fingerprints)


def test_sorted_data_and_constant_targets_are_told_from_inputs() -> None:
    data = tabular_data(140, seed=2)
    order = data.tensors[1].argsort()
    rows = rows_of(TensorDataset(data.tensors[0][order], data.tensors[1][order]))
    for one in (rows, [{**row, "y": torch.tensor(1)} for row in rows]):
        references = fit(Steps(), DataLoader(one, batch_size=8), num_models=1, patience=None)  # type: ignore[arg-type]
        assert all_seen(references) == OWN


class Contrasts(Steps):
    """Takes half of the mean of a batch away from its rows, so that these must run alone."""

    def inputs(self, batch: Any) -> Tensor:
        inputs = super().inputs(batch)
        return inputs - inputs.mean(dim=0) / 2


class LossesAlone(Callback):
    """Compares the loss that decides when to stop with the step's own on rows alone."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        (keeps,) = (callback for callback in trainer.callbacks if isinstance(callback, KeepBestWeights))
        rows = [default_collate([one]) for one in keeps.loader.dataset]  # type: ignore[attr-defined]
        with torch.no_grad():
            losses = torch.stack([pl_module.loss(row) * WEIGHTS[row["y"]].squeeze() for row in rows])
        weights = torch.stack([WEIGHTS[row["y"]].squeeze() for row in rows])
        assert keeps._mean_loss(trainer, pl_module) == pytest.approx((losses.sum() / weights.sum()).item(), rel=1e-5)


@pytest.mark.slow
def test_rows_that_must_run_alone_are_run_alone(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="one by one"):
        references = fit(Contrasts(), dict_loader(), folds=2, num_models=1, callbacks=[LossesAlone()])
    monitor = few(evidence=references)
    with pytest.warns(UserWarning, match="one by one"):
        quiet_trainer(tmp_path, callbacks=[monitor], max_epochs=1).fit(Contrasts(), dict_loader())
    assert len(monitor.history) == 2
