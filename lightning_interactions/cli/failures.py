"""Errors of code that is not ours, in words: a user's module or data, which a replay runs."""

import sysconfig
import traceback
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

import lightning_interactions
from lightning_interactions.cli.errors import BadRunError, FailedError

__all__ = ["in_words"]

OURS = Path(lightning_interactions.__file__).parent
PYTHON = Path(sysconfig.get_path("stdlib"))
INSTALLED = frozenset({"site-packages", "dist-packages"})
READER = "jsonargparse"
"""What reads configurations, and makes the objects that they name."""


@contextmanager
def in_words() -> Iterator[None]:
    """Run what the user's module, data and configuration may end.

    Raises:
        BadRunError: If what was given is refused: by Lightning, by the reader of configurations, or by this package.
        FailedError: If anything else was raised, such as in the user's module.
    """
    try:
        yield
    except (BadRunError, MisconfigurationException, ArgumentError) as error:
        raise BadRunError(str(error)) from error
    except Exception as error:
        first = _first(error)
        innermost = _innermost(first)
        if innermost.is_relative_to(OURS) or READER in innermost.parts:
            raise BadRunError(str(first)) from error
        said = "".join(traceback.format_exception_only(first)).strip()
        raise FailedError(f"{said}\n{_place(traceback.extract_tb(first.__traceback__))}") from error


def _first(error: BaseException) -> BaseException:
    """Find what the reader of configurations hides when it cannot make an object: it says that no kind of value fits."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return next((one for one in chain if READER not in _innermost(one).parts), error)


def _innermost(error: BaseException) -> Path:
    """Return the file that raised an error."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename)


def _place(places: traceback.StackSummary) -> str:
    """Say where an error is from: the innermost line of the user's own files; the innermost of all if there is none."""
    own = [place for place in places if _is_of_the_user(place.filename)]
    place = (own or places)[-1]
    return f"  at {place.filename}:{place.lineno}, in {place.name}\n    {place.line}"


def _is_of_the_user(filename: str) -> bool:
    path = Path(filename)
    is_file = not filename.startswith("<")
    is_installed = not INSTALLED.isdisjoint(path.parts) or path.is_relative_to(PYTHON) or path.is_relative_to(OURS)
    return is_file and not is_installed
