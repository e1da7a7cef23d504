from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def no_checks_of_signatures(checks_of_signatures: None) -> Iterator[None]:
    """Whole trainings call functions that have tests of their own a hundred thousand times."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
