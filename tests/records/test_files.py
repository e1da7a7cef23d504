"""Files are read safely, and whatever is wrong with them is one error."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_interactions.records.files import UnreadableError, load_safely
from tests.helpers.broken_files import broken
from tests.helpers.run_records import some_history

PROPERTY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


HISTORY = saved(some_history().to_dict())


@PROPERTY
@given(data=st.data(), whole=st.booleans())
@pytest.mark.slow
def test_a_broken_file_is_one_error_or_none(tmp_path: Path, data: st.DataObject, whole: bool) -> None:
    (tmp_path / "broken.pt").write_bytes(data.draw(broken(HISTORY)))
    with contextlib.suppress(UnreadableError):
        load_safely(tmp_path / "broken.pt", whole=whole)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"text", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00trueR."])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(UnreadableError, match="other"):
        load_safely(tmp_path / "other")


def test_what_cannot_be_opened_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_safely(tmp_path / "nothing")
    with pytest.raises(OSError, match="directory"):
        load_safely(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_both_formats_of_torch_are_read(tmp_path: Path, zipped: bool, whole: bool) -> None:
    (tmp_path / "file.pt").write_bytes(saved({"one": torch.ones(3)}, _use_new_zipfile_serialization=zipped))
    assert load_safely(tmp_path / "file.pt", whole=whole)["one"].tolist() == [1, 1, 1]


def test_what_is_read_whole_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(saved({"one": torch.ones(3)}))
    kept = load_safely(path, whole=True)["one"]
    path.write_bytes(b"")
    assert kept.tolist() == [1, 1, 1]
