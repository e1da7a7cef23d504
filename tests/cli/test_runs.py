"""Runs are read safely, and what is none is refused in words."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_interactions.cli import main
from lightning_interactions.cli.errors import BadRunError
from lightning_interactions.cli.runs import read_run
from lightning_interactions.records import History
from lightning_interactions.reporting import html
from tests.cli.files import state_of, written
from tests.helpers.broken_files import broken
from tests.helpers.run_records import some_history, some_run


def test_a_checkpoint_has_everything(tmp_path: Path) -> None:
    expected = some_run()
    run = read_run(written(tmp_path / "run.ckpt", None))
    assert run.history.to_dict()["times"] == expected.history.to_dict()["times"]
    assert run.interactions is not None
    assert expected.interactions is not None
    assert torch.equal(run.interactions.effects, expected.interactions.effects)
    assert run.weights is not None
    assert torch.equal(run.weights, torch.as_tensor(expected.weights))
    assert (run.player_names, run.indices, run.failed) == (expected.player_names, expected.indices, expected.failed)
    assert list(run.probes) == ["training"]
    assert run.forwards == expected.forwards == 12_345


def test_a_history_file_has_a_history(tmp_path: Path) -> None:
    some_history().save(tmp_path / "history.pt")
    run = read_run(tmp_path / "history.pt")
    assert len(run.history) == 4
    assert run.interactions is None
    assert run.names_of(0) == ()


def test_a_monitor_is_found_by_its_name(tmp_path: Path) -> None:
    both = written(tmp_path / "both.ckpt", "first", "second")
    assert read_run(both, "second").name == "second"
    with pytest.raises(BadRunError, match=r"expected --name.*'first', 'second'"):
        read_run(both)
    with pytest.raises(BadRunError, match="named 'third', got 'first', 'second'"):
        read_run(both, "third")
    assert read_run(written(tmp_path / "unnamed.ckpt", None, "second")).name is None


def test_the_newest_run_of_a_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "version_0" / "checkpoints").mkdir(parents=True)
    old, new = tmp_path / "version_0" / "checkpoints" / "old.ckpt", tmp_path / "new.pt"
    written(old, "old")
    some_history((1,)).save(new)
    os.utime(old, (1, 1))
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")  # Newer, and no run.
    assert read_run(tmp_path).title == str(new)
    assert read_run(tmp_path / "version_0").name == "old"


def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    written(tmp_path / "elsewhere.ckpt", None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.ckpt").symlink_to(tmp_path / "elsewhere.ckpt")
    with pytest.raises(BadRunError, match="found none"):
        read_run(tmp_path / "folder")


class Executed:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


BROKEN_STATE = {"version": 1, "history": {"version": 2}, "final_interactions": None}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read safely"),
        (b"not a checkpoint", "cannot be read safely"),
        ([1, 2], "with list"),
        ({"state_dict": {}, "callbacks": {}}, "without; it was written by a run without monitor"),
        ({"state_dict": {}}, "without"),
        ({"callbacks": [1]}, "without"),
        ({"callbacks": {"InteractionMonitor{'name': None}": BROKEN_STATE}}, "broken one"),
        ({"version": 1, "settings": {}, "splits": {}, "phases": []}, "version"),
        (History().to_dict(), "at least one measurement"),
        (Executed(), "cannot be read safely"),
    ],
    ids=["empty", "text", "list", "no monitor", "weights", "list of callbacks", "broken", "old", "nothing measured", "code"],
)
def test_what_is_no_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(BadRunError, match=said):
        read_run(path)
    with pytest.raises(BadRunError, match=said):
        read_run(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("left_out", sorted(state_of(some_run()).keys() - {"version", "task", "digests"}))
def test_a_state_that_lacks_something_is_refused(tmp_path: Path, left_out: str) -> None:
    state = state_of(some_run())
    del state[left_out]
    torch.save({"callbacks": {"InteractionMonitor{'name': None}": state}}, tmp_path / "bad.ckpt")
    with pytest.raises(BadRunError):
        read_run(tmp_path / "bad.ckpt")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.ckpt", None).read_bytes()
    for length in range(0, len(whole), len(whole) // 7):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(BadRunError):
            read_run(tmp_path / "cut.ckpt")


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("effects", torch.zeros(4, 2, 7)),
        ("effects", torch.zeros(3, 2, 8)),
        ("effects", torch.zeros(4, 2, 8, dtype=torch.long)),
        ("effects", torch.zeros(4, 8)),
        ("offset", torch.zeros(2)),
        ("weights", torch.zeros(4, 2, 4)),
    ],
    ids=["players", "inputs", "whole numbers", "types", "offset", "weights"],
)
def test_a_state_of_other_shapes_is_refused(tmp_path: Path, part: str, other: torch.Tensor) -> None:
    state = state_of(some_run())
    state["final_interactions"][part] = other
    torch.save({"callbacks": {"InteractionMonitor{'name': None}": state}}, tmp_path / "bad.ckpt")
    with pytest.raises(BadRunError, match="broken one"):
        read_run(tmp_path / "bad.ckpt")
    assert main(["phases", str(tmp_path / "bad.ckpt")]) == 2


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.slow
def test_a_broken_file_is_read_or_refused_and_hides_no_other(tmp_path: Path, data: st.DataObject) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.ckpt"
    some_history().save(good)
    os.utime(good, (1, 1))
    bad.write_bytes(data.draw(broken(written(bad, None).read_bytes())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "FIGURES", ())
        assert main(["phases", str(bad)]) in (0, 2, 3)
        for command, output in (("report", "page.html"), ("export", "run.npz")):
            assert main([command, str(bad), "--output", str(tmp_path / output)]) in (0, 2)
        assert main(["compare", str(good), str(bad), "--figure", str(tmp_path / "both.png")]) in (0, 2)
    assert read_run(tmp_path).title in (str(good), str(bad))


def test_a_file_that_fails_in_an_odd_way_hides_no_other(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.ckpt"
    some_history().save(good)
    os.utime(good, (1, 1))
    bad.write_bytes(b"\x80\x02G.")  # A number without its bytes, which is an error of the module struct.
    assert read_run(tmp_path).title == str(good)
    assert main(["phases", str(bad)]) == 2


def test_a_run_outlives_its_file(tmp_path: Path) -> None:
    path = written(tmp_path / "run.ckpt", None)
    run = read_run(path)
    path.write_bytes(b"")
    assert run.interactions is not None
    assert torch.equal(run.interactions.effects, some_run().interactions.effects)  # type: ignore[union-attr]
    assert run.probes["training"].fingerprints == some_run().probes["training"].fingerprints


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRunError, match="does not exist"):
        read_run(tmp_path / "nothing.ckpt")
    with pytest.raises(BadRunError, match="found none"):
        read_run(tmp_path)
