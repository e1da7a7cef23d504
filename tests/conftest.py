from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from tests.helpers import typechecker

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


def pytest_configure(config: pytest.Config) -> None:
    """Let each of several test processes use one thread, so that they do not wait for each other."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
