"""Every situation is trained with and without a monitor, and what was measured is compared with maths by hand."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from lightning_interactions import InteractionMonitor, Twins
from lightning_interactions.evidence import ParameterNoise
from tests.callbacks.runs import TINY_SET_UP, few
from tests.situations import batches, images, layers, loaders, loops, losses, memory, refused, state, tables, text
from tests.situations.situation import Case, Situation, mean_loss
from tests.situations.traces import Recorder, counted, differences, everything, trace

pytestmark = [
    *TINY_SET_UP,
    # Python 3.12 and later says this where a loader forks its worker; so does every training run with workers there.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    # What Lightning and torch say of these situations themselves.
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"),
]

FILES = (losses, tables, batches, text, images, state, layers, loaders, memory, loops, refused)
ALL = [situation for file in FILES for situation in file.SITUATIONS]
PARAMETERS = [pytest.param(situation, id=situation.name) for situation in ALL]


@dataclasses.dataclass
class Run:
    """A finished run."""

    case: Case
    trainer: Any
    recorder: Recorder
    trace: dict[str, Any]


def train(situation: Situation, root: Path, monitor: InteractionMonitor | None) -> Run:
    """Build a situation from a seed, and train it for two epochs."""
    seed_everything(0, verbose=False)
    case = situation.build()
    recorder = Recorder()
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "max_epochs": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "logger": False,
        "callbacks": [*case.callbacks, recorder, *([] if monitor is None else [monitor])],
    }

    def new_trainer() -> Any:
        return case.framework.Trainer(**{**options, **case.trainer})

    trainer = new_trainer()
    with counted(case.module, case.train) as calls:
        case.fit(trainer)
    if case.then is not None:
        trainer = case.then(case, trainer, new_trainer)
    left = everything(trainer, case.module, {"train": case.train, "val": case.val}, recorder)
    return Run(case, trainer, recorder, {**left, "calls": dict(calls)})


def test_no_two_situations_share_a_name() -> None:
    assert len({situation.name for situation in ALL}) == len(ALL)


def test_nine_of_ten_situations_need_no_argument() -> None:
    needed = [situation.name for situation in ALL if situation.build().monitor]
    assert len(needed) <= len(ALL) / 10, needed


def change(module: Any, what: str) -> None:
    """Leave a trace in a module."""
    with torch.no_grad():
        match what:
            case "weight":
                module.net[0].weight[0, 0] += 1e-6
            case "gradient":
                module.net[0].weight.grad = torch.zeros(8, 4)
            case "counter":
                module.calls += 1
            case "tensor":
                module.running.add_(1e-6)
            case "key":
                module.shapes[3,] = 1
            case "mode":
                module.net[1].eval()
            case "hook":
                module.net[1].register_forward_hook(print)
            case "replaced":
                module.running = nn.Parameter(module.running)


@pytest.mark.parametrize("what", ["weight", "gradient", "counter", "tensor", "key", "mode", "hook", "replaced"])
def test_a_trace_shows_what_has_changed(what: str) -> None:
    """Without it, no equal traces mean anything."""
    (situation,) = (one for one in state.SITUATIONS if one.name.startswith("counters"))
    seed_everything(0, verbose=False)
    module = situation.build().module
    before = trace(module)
    assert differences(trace(module), before) == []
    change(module, what)
    assert differences(trace(module), before)


@pytest.mark.slow
@pytest.mark.parametrize("situation", ALL, ids=lambda situation: situation.name)
def test_the_oracle_agrees_with_the_step(situation: Situation, tmp_path: Path) -> None:
    """What is checked here is the situation itself: without it, no failure of the next test means anything."""
    with warnings.catch_warnings():
        if (warned := situation.build().warned) is not None:
            warnings.filterwarnings("ignore", f".*{warned}")
        run = train(situation, tmp_path, None)
    case, module = run.case, run.case.module.eval()
    if case.step_loss is None or case.refused is not None or not run.recorder.validated:
        return
    expected = []
    with torch.no_grad():
        for batch, _outputs in run.recorder.validated:
            expected.append(mean_loss(case, module, batch) if case.step_loss == "mean" else case.step_loss(module, batch))
    returned = [own_loss(outputs) for _batch, outputs in run.recorder.validated]
    if None in returned:
        returned = [run.recorder.metrics["val_loss"]]
        expected = [torch.stack(expected).mean()]
    assert [float(loss) for loss in expected] == pytest.approx(returned, rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("situation", PARAMETERS)
def test_situation(situation: Situation, tmp_path: Path) -> None:
    case = situation.build()
    monitor, refused, warned = few(**case.monitor), case.refused, case.warned
    if refused is not None:
        kinds, words = refused
        with pytest.raises(kinds, match=words):
            train(situation, tmp_path, monitor)
        assert not monitor.history
        return
    if warned is not None:
        with pytest.warns(UserWarning, match=warned):
            run = train(situation, tmp_path, monitor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = train(situation, tmp_path, None)
    else:
        run, alone = train(situation, tmp_path, monitor), train(situation, tmp_path, None)
    assert monitor.history.epochs == list(run.case.epochs)
    check_numbers(run.case, monitor)
    assert differences(run.trace, alone.trace) == []


def check_numbers(case: Case, monitor: InteractionMonitor) -> None:
    """Compare the last measurement with the oracle on the same rows."""
    module = case.module.eval()
    measured = monitor.history.measurements[-1]
    trees = {
        split: [group.inputs.tree for group in probes.groups] for split, probes in monitor._preparation.keeper.probes.items()
    }
    assert trees.keys() == measured.splits.keys()
    for split, found in measured.splits.items():
        with torch.no_grad():
            scores, losses = (
                joined(parts) for parts in zip(*[case.oracle(module, tree) for tree in trees[split]], strict=True)
            )
        assert bool(found.measured.all()), f"some {split} probes were left out"
        if scores is not None:
            close(found.full_score, scores, 1e-4, 1e-4, f"scores, {split}")
        if losses is not None and not case.means_only:
            # A float32 score of size s knows its loss to 1e-7 s.
            close(found.loss, losses, 1e-5, 2e-6, f"losses, {split}")
        elif len(trees[split]) == 1 and case.means_only and callable(case.step_loss):
            with torch.no_grad():
                together = float(case.step_loss(module, trees[split][0]))
            assert float(found.loss.mean()) == pytest.approx(together, rel=2e-5), f"mean of losses, {split}"
        if case.empty is not None:
            with torch.no_grad():
                empty = joined([case.oracle(module, case.empty(tree))[0] for tree in trees[split]])
            assert empty is not None
            close(found.empty_score, empty, 1e-4, 1e-4, f"scores of nothing, {split}")


def close(found: Tensor, expected: Tensor, relative: float, absolute: float, what: str) -> None:
    torch.testing.assert_close(
        found.double(), expected, rtol=relative, atol=absolute, msg=lambda text: f"{what}: {text}\n{found}\n{expected}"
    )


def joined(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known).double() if len(known) == len(parts) else None


def own_loss(outputs: Any) -> float | None:
    if isinstance(outputs, Mapping):
        outputs = outputs.get("loss")
    return None if outputs is None or not math.isfinite(float(outputs)) else float(outputs)


WITHOUT_TWINS = {
    "a CombinedLoader for training",
    "a dataset that gives whole batches for lists of numbers",
    "a dict of training loaders",
    "a stream of batches of different lengths",
    "a stream of rows",
    "attributes that cannot be copied",
    "a loader that keeps its iterator",
    "a loader with a state",
    "a stream that goes on where it was",
    "a stream that workers share out",
    "scales that are set by the first batch, which is one of training",
}
"""Where two models on two halves cannot be trained."""

SPAWNED = "a file that is opened lazily, read by a spawned worker"
"""Each worker that is spawned takes seconds; twins would spawn many."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("situation", [one for one in ALL if one.name != SPAWNED], ids=lambda situation: situation.name)
def test_the_default_evidence(situation: Situation, tmp_path: Path) -> None:
    """Twins are trained in nearly every situation, and leave no trace."""
    case = situation.build()
    if case.refused is not None:
        return
    monitor = few(**{**case.monitor, "evidence": None})
    run, alone = train(situation, tmp_path, monitor), train(situation, tmp_path, None)
    assert isinstance(monitor.evidence, ParameterNoise if situation.name in WITHOUT_TWINS else Twins)
    assert monitor.history.epochs == list(run.case.epochs)
    assert differences(run.trace, alone.trace) == []
