from collections.abc import Iterator

import pytest
import torch

from lightning_interactions.functional.precision import Arithmetic, full_precision

CPU = torch.device("cpu")


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = Arithmetic()
    yield
    before.restore()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [False, True])
def test_nothing_is_reduced_inside_and_all_comes_back(precision: str, tf32: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32
    with full_precision(CPU):
        assert settings() == ("highest", False)
        assert Arithmetic().is_full
        with full_precision(CPU):
            assert Arithmetic().is_full
        assert Arithmetic().is_full
    assert settings() == (precision, tf32)


def test_what_ends_after_what_it_runs_in_restores_nothing() -> None:
    def suspended() -> Iterator[None]:
        with full_precision(CPU):
            yield

    torch.backends.cudnn.allow_tf32 = True
    inner = suspended()
    with full_precision(CPU):
        next(inner)
    assert torch.backends.cudnn.allow_tf32
    inner.close()  # type: ignore[attr-defined]
    assert torch.backends.cudnn.allow_tf32


def test_there_is_no_autocast_inside() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            with full_precision(CPU), full_precision(CPU):
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
