from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def as_users_call() -> Iterator[None]:
    """Switch off the checks of shapes and types that all tests have, to see what a function itself says of a wrong one."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
