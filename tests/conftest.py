import zlib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

from tests.helpers import typechecker

# A machine that does other work besides is no reason to fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Shapes and types in signatures are checked whenever a test calls a function of the package.
hook = jaxtyping.install_import_hook("lightning_interactions", f"{typechecker.__name__}.check")

WITHOUT_CHECKS = ("callbacks", "references", "examples", "benchmarks", "situations")
"""Whole trainings, which call functions that have tests of their own a hundred thousand times."""


@pytest.fixture(autouse=True)
def checks_of_signatures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the checks out of tests of whole trainings."""
    folder = Path(request.path).relative_to(Path(__file__).parent).parts[0]
    jaxtyping.config.update("jaxtyping_disable", folder in WITHOUT_CHECKS)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a part of the tests be drawn."""
    parser.addoption("--part", type=float, default=1.0, help="run this part of the tests, drawn by --part-seed (default: all)")
    parser.addoption("--part-seed", default="", help="which part; printed in the header")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which part of the tests runs."""
    part, seed = config.getoption("part"), config.getoption("part_seed")
    return None if part >= 1 else f"a part of the tests: --part {part} --part-seed {seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Draw the part: the same tests in every process."""
    part, seed = config.getoption("part"), config.getoption("part_seed")
    if part < 1:
        left = [item for item in items if not _is_drawn(item.nodeid, seed, part)]
        items[:] = [item for item in items if _is_drawn(item.nodeid, seed, part)]
        config.hook.pytest_deselected(items=left)


def _is_drawn(name: str, seed: str, part: float) -> bool:
    return zlib.crc32(f"{seed} {name}".encode()) < part * 2**32


def pytest_configure(config: pytest.Config) -> None:
    """Let each of several test processes use one thread, so that they do not wait for each other."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
