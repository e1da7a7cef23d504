"""How signatures are checked in the tests: as mypy does, an ``int`` is a ``float``."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
