"""Several processes with gloo on the CPU, in one spawn; every scenario is also run in one process and compared.

The rows are dealt out in turns and the batches of a process are as much smaller, so both trainings take the same batches; in
float64 without batch norm or dropout they differ by rounding. (Lightning's own sampler always shuffles the training data
over the ranks, so the scenario that leaves the sampler to it compares the probes and the untrained model only.)
"""

import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from lightning_interactions import InteractionMonitor, PhaseEarlyStopping
from lightning_interactions.analysis import summarise
from lightning_interactions.evidence import InputAgreement, OrderShape, ParameterNoise, ReferenceModels
from lightning_interactions.records import History
from lightning_interactions.references.trainer import ReferenceTrainer
from lightning_interactions.schedules import EveryNSteps
from tests.callbacks.runs import (
    RecordingLogger,
    Scripted,
    assert_same_history,
    few,
    fewest,
    inputs_of,
    other_models,
    quiet_trainer,
    script_phases,
)
from tests.helpers.models import PlainTabularClassifier, tabular_data

WORLD_SIZE = 2
TOLERANCE = 1e-6
BATCH_SIZE = 8


class Validated(PlainTabularClassifier):
    """Nothing random; has a validation step."""

    def validation_step(self, batch: Any, _batch_index: int) -> Tensor:
        return self.loss(batch)


class SometimesNotANumber(Validated):
    """Gives NaN in evaluation for inputs whose first feature is positive."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        return logits if self.training else torch.where(inputs[:, :1] > 0, torch.nan, logits)


def rank_of_process() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class CannotBeCopied:
    """An attribute that the second of two processes has no memory to copy after the first epoch."""

    fails = False

    def __deepcopy__(self, _memo: dict[int, Any]) -> "CannotBeCopied":
        if self.fails:
            raise torch.OutOfMemoryError("this process alone")
        return CannotBeCopied()


class FailsToBeCopiedOnOneRank(Validated):
    """Has such an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.large = CannotBeCopied()

    def on_train_epoch_start(self) -> None:
        self.large.fails = rank_of_process() == 1 and self.trainer.current_epoch == 0


class FailsToReadOnOneRank(Dataset[Any]):
    """Cannot be read once by the second of two processes."""

    reads = 0  # Not the instance's, which forgets what is read beside the run.

    def __init__(self, rows: int) -> None:
        self.data = tabular_data(rows)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        FailsToReadOnOneRank.reads += 1
        if rank_of_process() == 1 and self.reads == 1:
            raise OSError("this process alone")
        return self.data[index]


class FailsOnOneRank(Validated):
    """Cannot be evaluated by the second of two processes at the measurement after the first epoch."""

    fails = False

    def on_validation_epoch_end(self) -> None:
        self.fails = rank_of_process() == 1 and self.trainer.current_epoch == 0 and not self.trainer.sanity_checking

    def on_train_epoch_start(self) -> None:
        self.fails = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("this process alone")
        logits: Tensor = self.network(inputs)
        return logits


class FailsToSaveOnOneRank(Validated):
    """What the process that writes adds to a checkpoint cannot be had."""

    def on_save_checkpoint(self, _checkpoint: dict[str, Any]) -> None:
        if rank_of_process() == 0:
            raise OSError("disk full")


class Shard(IterableDataset[Any]):
    """Every other row, beginning with the rank; all rows in a single process."""

    def __iter__(self) -> Any:
        spread = torch.distributed.is_initialized()
        rows = range(torch.distributed.get_rank(), 24, WORLD_SIZE) if spread else range(24)
        data = tabular_data(24)
        return iter([data[row] for row in rows])


@dataclass(frozen=True)
class Scenario:
    """A run of two epochs.

    Attributes:
        monitors: Makes the monitors, under their names.
        model: Makes the module.
        scripted: Phases that the detector of each rank calls; what it finds itself if left out.
        stopping: Options of PhaseEarlyStopping.
        streamed: Whether the training data cannot be indexed.
        own_sampler: Whether the samplers are set up by hand, or left to Lightning.
        shorter: By how many batches the second process has fewer.
        data: Makes the training data of so many rows.
    """

    monitors: Callable[[], list[InteractionMonitor]]
    model: Callable[[], Validated] = Validated
    scripted: tuple[tuple[int | Scripted, ...], ...] | None = None
    stopping: Mapping[str, Any] = field(default_factory=dict)
    streamed: bool = False
    own_sampler: bool = True
    shorter: int = 0
    data: Callable[[int], Dataset[Any]] = tabular_data


def both_evidences() -> list[InteractionMonitor]:
    return [
        few(name="noise", evidence=ParameterNoise()),
        few(name="references", evidence=ReferenceModels(model.double() for model in other_models())),
    ]


def more_evidence() -> list[InteractionMonitor]:
    """Models that rate two thirds of the inputs each, and the evidence that compares splits and orders."""
    spread = ReferenceModels([model.double() for model in other_models(3)], num_raters=2)
    return [
        few(name="spread", evidence=spread),
        few(name="agreement", evidence=InputAgreement()),
        few(name="shape", evidence=OrderShape()),
    ]


def one_probe() -> list[InteractionMonitor]:
    return [few(training=1, held_out=1)]


def noise() -> list[InteractionMonitor]:
    return [few(evidence=ParameterNoise())]


def one_monitor() -> list[InteractionMonitor]:
    return [few()]


def twins() -> list[InteractionMonitor]:
    return [few(evidence=None)]


ANNOUNCED = (Scripted(1, tests={3: (0, 0.5)}), Scripted(1, tests={3: (1, 0.5)}), Scripted(3, onset=1))


def every_second_step() -> list[InteractionMonitor]:
    return [few(schedule=EveryNSteps(2))]


SCENARIOS = {
    "both evidences": Scenario(both_evidences),
    "more evidence": Scenario(more_evidence),
    "twins": Scenario(twins, own_sampler=False),
    "fewer probes than ranks": Scenario(one_probe),
    "NaN outputs": Scenario(one_monitor, model=SometimesNotANumber),
    "streamed": Scenario(one_monitor, streamed=True),
    "within epochs": Scenario(every_second_step),
    "streamed, within epochs": Scenario(every_second_step, streamed=True),
    "Lightning's sampler": Scenario(one_monitor, own_sampler=False),
    "one rank fails": Scenario(noise, model=FailsOnOneRank),
    "one rank cannot copy": Scenario(noise, model=FailsToBeCopiedOnOneRank),
    "one rank cannot read": Scenario(twins, own_sampler=False, data=FailsToReadOnOneRank),
    "one rank has fewer batches": Scenario(one_monitor, shorter=1),
    "not saved": Scenario(
        one_monitor, model=FailsToSaveOnOneRank, scripted=(ANNOUNCED, ANNOUNCED), stopping={"restore_best": True}
    ),
    "stopped": Scenario(one_monitor, scripted=((1, 3), (1, 3))),
    "stopped by one rank": Scenario(one_monitor, scripted=((1, 1), (1, 3))),
    "restored": Scenario(one_monitor, scripted=(ANNOUNCED, ANNOUNCED), stopping={"restore_best": True}),
    "restored by one rank": Scenario(
        one_monitor, scripted=((1, 1, 1), (1, 1, Scripted(3, onset=1))), stopping={"restore_best": True}
    ),
}


def weights_of(model: LightningModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def run(scenario: Scenario, root: Path, rank: int, world_size: int) -> dict[str, Any]:
    """Train and return what the callbacks know afterwards, in primitives and tensors."""
    torch.manual_seed(0)
    batch_size = BATCH_SIZE // world_size
    monitors, logger = scenario.monitors(), RecordingLogger()
    stopping = PhaseEarlyStopping(monitor=monitors[0].name, verbose=False, **scenario.stopping)
    before: dict[int, Tensor] = {}
    callbacks: list[Callback] = [
        *monitors,
        stopping,
        LambdaCallback(on_train_epoch_end=lambda trainer, module: before.update({trainer.global_step: weights_of(module)})),
    ]
    distributed: dict[str, Any] = {
        "strategy": DDPStrategy(),
        "devices": world_size,
        "plugins": [LightningEnvironment()],
    }
    with pytest.MonkeyPatch.context() as patch:
        if scenario.scripted is not None:
            script_phases(patch, scenario.scripted[rank])
        trainer: Trainer = quiet_trainer(
            root, callbacks=callbacks, logger=logger, precision="64-true", **(distributed if world_size > 1 else {})
        )
        data = (scenario.data(24), tabular_data(12, seed=1))
        samplers = [
            DistributedSampler(part, world_size, rank, shuffle=False) if scenario.own_sampler and world_size > 1 else None
            for part in data
        ]
        train, val = (
            DataLoader(part, batch_size=batch_size, sampler=sampler) for part, sampler in zip(data, samplers, strict=True)
        )
        if scenario.shorter and rank == 1:
            trainer.limit_train_batches = len(train) - scenario.shorter
        model, trainings = scenario.model(), list[int]()
        trained = ReferenceTrainer._trained

        def counted(*args: Any) -> Any:
            trainings.append(rank)
            return trained(*args)

        patch.setattr(ReferenceTrainer, "_trained", counted)
        trainer.fit(model, DataLoader(Shard(), batch_size=batch_size) if scenario.streamed else train, val)
    return {
        "weights": weights_of(model),
        "before": before,
        "best_model_path": stopping.best_model_path,
        "states": {str(monitor.name): monitor.state_dict() for monitor in monitors},
        "stopping": stopping.state_dict(),
        "epochs": trainer.current_epoch,
        "should_stop": trainer.should_stop,
        "logged": logger.calls,
        "trainings": len(trainings),
    }


def run_some(rank: int, folder: str, names: Sequence[str], world_size: int) -> None:
    """Run some scenarios as one of several processes, and write what came of it to a file for each."""
    # Gloo would look for the network interface of the machine's name, which may not have one.
    os.environ.update({"LOCAL_RANK": str(rank), "NODE_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"})
    for position, name in enumerate(names):
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting-{position}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=40),
        )
        try:
            outcome = run(SCENARIOS[name], Path(folder), rank, world_size)
        except Exception:
            outcome = {"error": traceback.format_exc()}
        torch.save(outcome, Path(folder) / f"{name}-{rank}.pt")
        torch.distributed.destroy_process_group()


def on_processes(folder: Path, names: Sequence[str], world_size: int = WORLD_SIZE) -> Callable[[str], list[dict[str, Any]]]:
    """Run scenarios, and give what came of one on each rank."""
    torch.multiprocessing.spawn(run_some, args=(str(folder), names, world_size), nprocs=world_size)

    def load(name: str) -> list[dict[str, Any]]:
        loaded = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(world_size)]
        for rank, outcome in enumerate(loaded):
            assert "error" not in outcome or SCENARIOS[name].shorter, f"rank {rank}: {outcome['error']}"
        return loaded

    return load


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """Give what came of any scenario on each rank."""
    return on_processes(tmp_path_factory.mktemp("ranks"), list(SCENARIOS))


def run_alone(name: str, root: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        # Few workers, and others of Lightning's hints for large runs.
        warnings.simplefilter("ignore")
        return run(SCENARIOS[name], root, rank=0, world_size=1)


def history_of(outcome: dict[str, Any], monitor: str) -> History:
    return History.from_dict(outcome["states"][monitor]["history"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "monitor"),
    [
        ("both evidences", "noise"),
        ("both evidences", "references"),
        ("more evidence", "spread"),
        ("more evidence", "agreement"),
        ("more evidence", "shape"),
        ("fewer probes than ranks", "None"),
        ("NaN outputs", "None"),
    ],
)
def test_two_processes_have_the_history_of_one(
    outcomes: Callable[[str], list[dict[str, Any]]], tmp_path: Path, name: str, monitor: str
) -> None:
    alone = run_alone(name, tmp_path)
    expected = history_of(alone, monitor)
    assert expected.epochs == [0, 1, 2]
    for outcome in outcomes(name):
        assert_same_history(history_of(outcome, monitor), expected, TOLERANCE)
        for split, probes in alone["states"][monitor]["probes"].items():
            assert torch.equal(inputs_of(outcome["states"][monitor]["probes"][split]), inputs_of(probes))
        assert outcome["stopping"] == alone["stopping"]


@pytest.mark.slow
def test_four_processes_have_the_history_of_one(tmp_path: Path) -> None:
    name = "both evidences"
    alone, (first, *others) = run_alone(name, tmp_path), on_processes(tmp_path, [name], world_size=4)(name)
    for monitor in ("noise", "references"):
        assert_same_history(history_of(first, monitor), history_of(alone, monitor), TOLERANCE)
        for outcome in others:
            assert_same_history(history_of(outcome, monitor), history_of(first, monitor), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if not SCENARIOS[name].shorter])
def test_both_ranks_have_the_same_probes(outcomes: Callable[[str], list[dict[str, Any]]], name: str) -> None:
    first, second = outcomes(name)
    for monitor, state in first["states"].items():
        other = second["states"][monitor]
        assert torch.equal(state["baseline"]["0"], other["baseline"]["0"])
        assert state["probes"].keys() == other["probes"].keys() == {"training", "held_out"}
        for split, probes in state["probes"].items():
            assert torch.equal(inputs_of(probes), inputs_of(other["probes"][split])), split


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in SCENARIOS if not name.endswith("by one rank") and not SCENARIOS[name].shorter]
)
def test_both_ranks_have_the_same_history(outcomes: Callable[[str], list[dict[str, Any]]], name: str) -> None:
    first, second = outcomes(name)
    for monitor in first["states"]:
        assert_same_history(history_of(first, monitor), history_of(second, monitor), tolerance=0)


@pytest.mark.slow
def test_probes_do_not_depend_on_how_the_rows_are_dealt_out(
    outcomes: Callable[[str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    name = "Lightning's sampler"
    alone = run_alone(name, tmp_path)
    for outcome in outcomes(name):
        for split, probes in alone["states"]["None"]["probes"].items():
            assert torch.equal(inputs_of(outcome["states"]["None"]["probes"][split]), inputs_of(probes))
        untrained = [
            History(history.measurements[:1], history.phases[:1])
            for history in (history_of(outcome, "None"), history_of(alone, "None"))
        ]
        assert_same_history(*untrained, TOLERANCE)


@pytest.mark.slow
def test_processes_share_reference_trainings_out(tmp_path: Path, outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    assert [outcome["trainings"] for outcome in outcomes("twins")] == [1, 1]
    assert run_alone("twins", tmp_path)["trainings"] == 2


@pytest.mark.slow
def test_nan_outputs_are_left_out_on_both_ranks(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    for outcome in outcomes("NaN outputs"):
        broken = inputs_of(outcome["states"]["None"]["probes"]["training"])[:, 0] > 0
        assert 0 < broken.sum() < len(broken)
        for measurement in history_of(outcome, "None").measurements:
            assert torch.equal(measurement.training.measured, ~broken)


@pytest.mark.slow
def test_streamed_data_are_measured_after_every_epoch(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    for outcome in outcomes("streamed"):
        assert history_of(outcome, "None").epochs == [1, 2]


@pytest.mark.slow
def test_two_processes_measure_within_epochs_as_one_does(
    outcomes: Callable[[str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    expected = history_of(run_alone("within epochs", tmp_path), "None")
    assert (expected.epochs, expected.steps) == ([0, 0, 1, 2], [0, 2, 4, 6])
    for outcome in outcomes("within epochs"):
        assert_same_history(history_of(outcome, "None"), expected, TOLERANCE)
    for outcome in outcomes("streamed, within epochs"):
        assert history_of(outcome, "None").steps == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stopped", "stopped by one rank"])
def test_both_ranks_decide_alike_to_stop(outcomes: Callable[[str], list[dict[str, Any]]], name: str) -> None:
    for outcome in outcomes(name):
        assert (outcome["epochs"], outcome["should_stop"]) == (1, True)
        assert outcome["stopping"]["stopping_reason"] == 1
        assert outcome["stopping"]["stopped_epoch"] == 0
    if name == "stopped":
        assert [outcome["stopping"]["onset_epoch"] for outcome in outcomes(name)] == [1, 1]


@pytest.mark.slow
def test_both_ranks_restore_the_onset_from_one_checkpoint(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    first, second = outcomes("restored")
    assert first["best_model_path"] == second["best_model_path"] != ""
    for outcome in (first, second):
        assert (outcome["epochs"], outcome["stopping"]["onset_epoch"], outcome["stopping"]["stopped_epoch"]) == (2, 1, 1)
        onset, final = outcome["before"].values()
        assert torch.equal(outcome["weights"], onset)
        assert not torch.equal(onset, final)
    assert torch.equal(first["weights"], second["weights"])


@pytest.mark.slow
def test_ranks_that_disagree_about_the_onset_restore_the_same(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    first, second = outcomes("restored by one rank")
    # The first rank knows of no onset before the detection.
    for key in ("onset_epoch", "onset_step", "detected_epoch", "best_step", "kept"):
        assert first["stopping"][key] == second["stopping"][key], key
    assert first["stopping"]["onset_epoch"] == 2
    assert torch.equal(first["weights"], second["weights"])
    assert torch.equal(first["weights"], first["before"][first["stopping"]["best_step"]])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one rank fails", "one rank cannot copy"])
def test_a_measurement_that_fails_on_one_rank_is_left_out_on_both(
    tmp_path: Path, outcomes: Callable[[str], list[dict[str, Any]]], name: str
) -> None:
    alone = run_alone(name, tmp_path)
    for outcome in outcomes(name):
        assert history_of(outcome, "None").epochs == [0, 2]
        assert outcome["states"]["None"]["failed"] == [[1, 3]]
        torch.testing.assert_close(outcome["weights"], alone["weights"], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
def test_twins_that_one_rank_cannot_train_are_trained_by_none(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    for outcome in outcomes("one rank cannot read"):
        assert history_of(outcome, "None").epochs == [0, 1, 2]
        assert outcome["trainings"] == 0
        assert outcome["states"]["None"]["took_other_evidence"]


@pytest.mark.slow
def test_a_rank_with_fewer_batches_is_an_error_before_training(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    for outcome in outcomes("one rank has fewer batches"):
        assert "MisconfigurationException" in outcome["error"]
        assert "got [3, 2]" in outcome["error"]


@pytest.mark.slow
def test_a_checkpoint_that_one_rank_cannot_write_is_restored_by_none(outcomes: Callable[[str], list[dict[str, Any]]]) -> None:
    first, second = outcomes("not saved")
    for outcome in (first, second):
        assert outcome["best_model_path"] == ""
        assert torch.equal(outcome["weights"], list(outcome["before"].values())[-1])
    assert torch.equal(first["weights"], second["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_history_and_onset_come_home_from_processes_that_end_with_the_training(tmp_path: Path, strategy: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", __name__, strategy, str(tmp_path)],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found["epochs"] == [0, 1, 2]
    assert found["final"] == 16
    assert found["onset"] is None
    assert found["wait_count"] == 0


@pytest.mark.slow
def test_only_the_first_rank_logs_and_it_logs_what_is_in_the_history(
    outcomes: Callable[[str], list[dict[str, Any]]],
) -> None:
    first, second = outcomes("both evidences")
    assert second["logged"] == []
    for monitor in ("noise", "references"):
        calls = [(step, metrics) for step, metrics in first["logged"] if f"{monitor}-interactions/share" in metrics]
        assert [step for step, _ in calls] == [0, 2, 5]
        for (_, metrics), measurement in zip(calls[1:], history_of(first, monitor).measurements[1:], strict=True):
            share = summarise(measurement).training.share.value
            assert metrics[f"{monitor}-interactions/share"] == pytest.approx(share, rel=1e-5)


@pytest.mark.slow
def test_two_processes_measure_and_stop_as_one_does(tmp_path: Path) -> None:
    name, alone = "stopped", run_alone("stopped", tmp_path / "alone")
    outcomes = on_processes(tmp_path, [name])(name)
    for outcome in outcomes:
        assert_same_history(history_of(outcome, "None"), history_of(alone, "None"), TOLERANCE)
        assert outcome["stopping"] == alone["stopping"]
        assert (outcome["epochs"], outcome["should_stop"]) == (alone["epochs"], alone["should_stop"])
    assert torch.equal(outcomes[0]["weights"], outcomes[1]["weights"])
    assert outcomes[0]["logged"]
    assert not outcomes[1]["logged"]


def train_elsewhere(strategy: str, root: Path) -> None:
    """Train in processes that end with the training, and write down what is known here afterwards."""
    warnings.simplefilter("ignore")
    monitor, stopping = fewest(), PhaseEarlyStopping(log_only=True)
    trainer = quiet_trainer(root, strategy=strategy, devices=WORLD_SIZE, callbacks=[monitor, stopping])
    train, val = (DataLoader(tabular_data(size, seed=seed), batch_size=4) for seed, size in enumerate((24, 12)))
    trainer.fit(Validated(), train, val)
    assert monitor.final_interactions is not None
    found = {
        "epochs": monitor.history.epochs,
        "final": monitor.final_interactions.effects.numel(),
        "onset": stopping.onset_epoch,
        "wait_count": stopping.wait_count,
    }
    torch.save(found, root / "found.pt")


if __name__ == "__main__":
    train_elsewhere(sys.argv[1], Path(sys.argv[2]))
