"""The sparsest decomposition of values into AND and OR effects: the functions and their two solvers."""

from lightning_interactions.functional.extraction.extract import (
    extract_interactions,
    extract_shared_interactions,
    extract_with_certificate,
)

__all__ = ["extract_interactions", "extract_shared_interactions", "extract_with_certificate"]
