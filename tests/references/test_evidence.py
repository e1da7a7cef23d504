import copy
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions.evidence import Evidence, ProbeGame
from lightning_interactions.game.tasks import Classification
from lightning_interactions.measuring import Extraction, InteractionMeter
from lightning_interactions.records import Interactions, Probes
from lightning_interactions.references import (
    FittedEvidence,
    HeldOutReferences,
    HoldOutDataModule,
    ReferenceTraining,
    Twins,
)
from tests.helpers.models import (
    Classifier,
    PlainTabularClassifier,
    StreamedDataset,
    TabularClassifier,
    tabular_data,
    tabular_loader,
)
from tests.helpers.trainers import TINY_SET_UP, quiet_trainer
from tests.references.fits import Tables, all_seen, assert_same, fit, prints, trained

pytestmark = TINY_SET_UP

DATA = tabular_data(100, seed=2)


class WithoutHparams(Classifier):
    """Is copied and re-initialised, with the Trainer of the run attached."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)))

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class Fits(Callback):
    """Fits evidence as the monitor does, and notes what passes in the run."""

    def __init__(self, evidence: FittedEvidence | None) -> None:
        self.evidence = evidence
        self.task = Classification()
        self.batches: list[list[str]] = []
        self.random: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.state(trainer, pl_module)
        if self.evidence is not None:
            self.evidence.fit(trainer, pl_module, self.task)
        assert self.state(trainer, pl_module) == before

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(prints(batch[0]))
        self.random.append([random.random(), np.random.random(), torch.rand(1).item()])

    def state(self, trainer: Trainer, pl_module: LightningModule) -> list[Any]:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        return [
            (trainer.current_epoch, trainer.global_step, trainer.should_stop, str(trainer.state), trainer.training),
            pl_module.trainer is trainer,
            datamodule is None or datamodule.trainer is trainer,
            [module.training for module in pl_module.modules()],
            torch.is_grad_enabled(),
        ]


def run(
    root: Path, evidence: FittedEvidence | None, data: str = "loader", model: Any = TabularClassifier, **options: Any
) -> Any:
    """Train with evidence that is fitted in ``on_train_start``; return the callback and the trained weights."""
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    fits, module = Fits(evidence), model()
    trainer = quiet_trainer(root, callbacks=[fits], **options)
    loader = tabular_loader(100, seed=2, shuffle=True, generator=torch.Generator().manual_seed(3))
    if data == "loader":
        trainer.fit(module, loader, tabular_loader(16, seed=1))
    else:
        tables = Tables()
        trainer.fit(module, datamodule=HoldOutDataModule(tables, fraction=0.5) if data == "held out" else tables)
    return fits, copy.deepcopy(module.state_dict())


def twins(**options: Any) -> Twins:
    return Twins(trained(**{"patience": None, **options}))


@pytest.mark.parametrize(
    ("evidence", "data", "model"),
    [
        (twins(), "loader", TabularClassifier),
        (twins(), "loader", WithoutHparams),
        (Twins(), "loader", TabularClassifier),
        (twins(), "data module", TabularClassifier),
        (HeldOutReferences(2, training=trained(patience=None)), "held out", TabularClassifier),
    ],
    ids=["loader", "re-initialised", "early stopping", "data module", "held out"],
)
def test_a_fit_leaves_no_trace_in_the_run(tmp_path: Path, evidence: FittedEvidence, data: str, model: Any) -> None:
    without, control = run(tmp_path, None, data, model)
    with_fit, weights = run(tmp_path, evidence, data, model)
    assert evidence.is_fitted
    assert with_fit.batches == without.batches
    assert with_fit.random == without.random
    assert all(torch.equal(value, control[name]) for name, value in weights.items())


def test_twins_of_a_run_are_those_fitted_before_it(tmp_path: Path) -> None:
    evidence = Twins(trained())
    run(tmp_path, evidence)
    before = fit(TabularClassifier(), tabular_loader(100, seed=2, shuffle=True), folds=2, num_models=1)
    assert_same(evidence.references, before)
    assert evidence.refused == frozenset()


def test_the_runs_own_split_is_fitted_on_and_its_data_module_is_set_up_once(tmp_path: Path) -> None:
    evidence = twins()
    fits, _ = run(tmp_path, evidence, "data module", max_epochs=1)
    # Tables splits at random in every setup, and doubles its inputs in a hook.
    assert all_seen(evidence.references) == frozenset().union(*fits.batches)


def test_held_out_references_are_fitted_on_what_the_run_never_sees(tmp_path: Path) -> None:
    evidence = HeldOutReferences(2, training=trained(patience=None))
    fits, _ = run(tmp_path, evidence, "held out", max_epochs=1)
    seen = all_seen(evidence.references)
    assert len(seen) == 15
    assert seen.isdisjoint(frozenset().union(*fits.batches))
    assert seen <= frozenset(prints(2 * tabular_data(40).tensors[0]))


@pytest.mark.parametrize("data", ["loader", "data module"])
def test_a_run_without_held_out_data_is_refused_with_a_way_out(tmp_path: Path, data: str) -> None:
    with pytest.raises(MisconfigurationException, match=r"HoldOutDataModule\(.*Twins"):
        run(tmp_path, HeldOutReferences(), data)


def test_a_run_on_data_without_indices_is_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=[Fits(twins())])
    with pytest.raises(MisconfigurationException, match="DataLoader"):
        trainer.fit(PlainTabularClassifier(), DataLoader(StreamedDataset(DATA, 100), batch_size=8))


def test_the_runs_precision_and_device_are_taken_over(tmp_path: Path) -> None:
    taken: list[Any] = []

    class Notes(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            taken.append((trainer.precision, trainer.strategy.root_device.type, trainer.max_epochs, pl_module.dtype))

    evidence = Twins(ReferenceTraining(patience=None, max_epochs=2, trainer={"callbacks": Notes()}))
    run(tmp_path, evidence, precision="64-true", max_epochs=1)
    assert taken == 2 * [("64-true", "cpu", 2, torch.float64)]
    with_own = twins(precision="32-true", callbacks=Notes())
    run(tmp_path, with_own, precision="64-true", max_epochs=1)
    assert taken[-1] == ("32-true", "cpu", 1, torch.float32)


def test_a_fast_dev_run_fits_on_a_batch_and_keeps_no_models(tmp_path: Path) -> None:
    evidence = Twins(resume_from=tmp_path / "references.pt")
    run(tmp_path, evidence, fast_dev_run=True)
    assert [len(seen) for seen in evidence.references.seen] == 2 * [8]
    assert not (tmp_path / "references.pt").exists()


def test_a_resumed_fit_takes_finished_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (Twins(trained(patience=None), tmp_path / "own.pt") for _ in range(2))
    run(tmp_path, first, max_epochs=1)
    monkeypatch.setattr("lightning_interactions.references.trainer.ReferenceTrainer._trained", None)
    run(tmp_path, again, max_epochs=1)
    assert_same(first.references, again.references)


ON_TWO_PROCESSES = """
import torch
from pathlib import Path
from tests.references.test_evidence import *
evidence = twins()
trainer = quiet_trainer(Path(), callbacks=[Fits(evidence)], max_epochs=1, devices=2, strategy="ddp")
trainer.fit(TabularClassifier(), tabular_loader(100, shuffle=True), tabular_loader(16))
state = {"seen": [sorted(seen) for seen in evidence.references.seen]}
state["weights"] = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in evidence.references.models]
torch.save(state, f"{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_every_process_of_a_run_fits_the_same_models_on_all_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(ON_TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["seen"] == second["seen"]
    assert len(set().union(*first["seen"])) > 60
    assert all(torch.equal(one, other) for one, other in zip(first["weights"], second["weights"], strict=True))


def test_it_says_what_it_will_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(tmp_path, twins(max_epochs=1), max_epochs=1)
    (said,) = [record.getMessage() for record in caplog.records if "training 2" in record.getMessage()]
    # Two models, half of the inputs, epochs, the part of the run's own training.
    assert [int(number) for number in re.findall(r"\d+", said)] == [2, 50, 100, 1, 100]


def test_fitted_evidence_weighs_as_its_reference_models(tmp_path: Path) -> None:
    evidence = twins()
    run(tmp_path, evidence, max_epochs=1)
    probes = Probes.of((DATA.tensors[0][:3], DATA.tensors[1][:3]))
    model, quick = TabularClassifier(), Extraction(tolerance=0.01)
    own, other = (
        InteractionMeter(evidence=one, extraction=quick, chance_level=False).prepare({"training": probes}).measure(model)
        for one in (evidence, evidence.references)
    )
    assert torch.equal(own.training.generalizable, other.training.generalizable)


class NoGame(ProbeGame):
    def interactions(self, model: nn.Module, rows: Sequence[int] | None = None) -> Interactions:
        raise AssertionError("evaluated")

    def with_other_targets(self) -> list[ProbeGame]:
        return []


def test_nothing_can_be_asked_before_the_fit() -> None:
    evidence = Twins()
    interactions = Interactions(torch.zeros(1, 2, 4), torch.zeros(1))
    assert not evidence.is_fitted
    for ask in (
        lambda: evidence.prepare(NoGame()),
        lambda: evidence.weigh(interactions, 0.05),
        lambda: evidence.refused,
    ):
        with pytest.raises(RuntimeError, match="Twins"):
            ask()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: HeldOutReferences(num_models=2, vote=3), "from 1 to 2"),
        (lambda: HeldOutReferences(num_models=0), "num_models=0"),
        (lambda: HeldOutReferences(vote="most"), "most"),
    ],
)
def test_impossible_settings_are_refused_at_once(make: Any, named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        make()


def test_settings_are_described_without_what_does_not_decide(tmp_path: Path) -> None:
    evidence = twins()
    said = repr(evidence)
    assert said == (
        "Twins(training=ReferenceTraining(max_epochs=1, patience=None, seed=0, factory=None, val_dataloaders=None, trainer={}))"
    )
    run(tmp_path, evidence, max_epochs=1)
    assert repr(evidence) == said
    kept = Twins(trained(patience=None, val_dataloaders=tabular_loader()), "a.pt")
    assert repr(kept) == said
    assert (HeldOutReferences().num_models, HeldOutReferences().vote) == (3, "any")


YAML = """
evidence:
  class_path: lightning_interactions.references.Twins
  init_args:
    training:
      max_epochs: 7
      factory: tests.helpers.models.TabularClassifier
      trainer: {gradient_clip_val: 0.5}
    resume_from: references.pt
"""


def test_evidence_can_be_set_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--evidence", type=Evidence | None)
    evidence = parser.instantiate(parser.parse_args([f"--config={YAML}"])).evidence
    assert isinstance(evidence, Twins)
    assert str(evidence.resume_from) == "references.pt"
    assert (evidence.training.max_epochs, evidence.training.trainer) == (7, {"gradient_clip_val": 0.5})
    held_out = parser.parse_args(["--evidence=lightning_interactions.references.HeldOutReferences", "--evidence.vote=2"])
    assert parser.instantiate(held_out).evidence.vote == 2
