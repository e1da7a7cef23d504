import pytest
import torch
from jaxtyping import install_import_hook

from tests.helpers import typechecker

# Shapes and types in signatures are checked whenever a test calls a function of the package.
hook = install_import_hook("lightning_interactions", f"{typechecker.__name__}.check")


def pytest_configure(config: pytest.Config) -> None:
    """Let each of several test processes use one thread, so that they do not wait for each other."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
