"""How signatures are checked in the tests: as mypy does, an ``int`` is a ``float``."""

import random

# The checker looks at random items of lists. It gets a generator of its own, so that it draws nothing from the global one,
# whose state the tests compare.
shared, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
try:
    from beartype import BeartypeConf, beartype

    check = beartype(conf=BeartypeConf(is_pep484_tower=True))

    @check
    def _loads_all_of_the_checker(items: list[int]) -> int:
        return len(items)
finally:
    random.getrandbits = shared
