"""How signatures are checked in the tests: as mypy does, an ``int`` is a ``float``."""

import random
from typing import Any

# The checker looks at random items of lists. It gets a generator of its own, so that it draws nothing from the global one,
# whose state the tests compare.
shared, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
try:
    from beartype import BeartypeConf, beartype

    _check_all = beartype(conf=BeartypeConf(is_pep484_tower=True))

    def check(function: Any) -> Any:
        """Check the signature of a function or class, but not of one inside a function: that is made anew at each call."""
        return function if "<locals>" in function.__qualname__ else _check_all(function)

    @check
    def _loads_all_of_the_checker(items: list[int]) -> int:
        return len(items)
finally:
    random.getrandbits = shared
