"""Data that are read besides the run, and remember nothing of it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_interactions.game.steps.restoring import as_found
from lightning_interactions.measuring.generators import preserve_generators

__all__ = ["data_as_found"]


@contextmanager
def data_as_found(*roots: object) -> Iterator[None]:
    """Give loaders, datasets and data modules back what hangs on them after a body that reads from them.

    That is: generators, counters, caches, and files that the body has opened, which are closed. A dataset that opens its file
    where it is first read would otherwise hand the open file to workers that start later.

    Args:
        roots: What is read from; also what hangs on it, such as a sampler, a transform or a collate function with a memory.
    """
    with warnings.catch_warnings(), preserve_generators(*roots), as_found(*roots, data=True):
        # A file that nobody refers to any more is closed.
        warnings.simplefilter("ignore", ResourceWarning)
        yield
