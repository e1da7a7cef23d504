import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Let each of several test processes use one thread, so that they do not wait for each other."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
