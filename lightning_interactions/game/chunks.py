"""How many rows go through a model at once: enough to keep the processor busy, and no more than fit into memory."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.records.trees import walk

__all__ = ["ChunkSizes", "is_out_of_memory"]

FIRST_ROWS = 17
"""Rows of the first chunk, in which activations are seen. A prime: an axis that it divides is made of rows."""

CPU_BYTES, ACCELERATOR_BYTES = 2**22, 2**30
"""What the largest activation of a chunk may take: about what caches hold, and what keeps an accelerator busy."""

FEWEST_ROWS_ON_CPU = 8
"""Of however large activations, where memory is no matter: fewer rows leave a processor idle."""

FREE_PART = 1 / 16
"""The part of the free memory of an accelerator that the largest activation of a chunk may take."""

MOST_ROWS = 2048
"""Of however small activations."""

OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors say that are no ``torch.OutOfMemoryError`` and yet mean that memory ran out."""


@dataclass
class Activations:
    """The largest activation that was seen of one row, in bytes."""

    bytes_of_row: float = 0.0


@dataclass(eq=False)
class ChunkSizes:
    """Chooses the sizes of chunks by rules that depend on nothing but the model and its inputs, so that runs can be repeated.

    Only what running out of memory has taught is remembered.

    Attributes:
        most: The most rows that still fit, for each kind of model and inputs on which memory ran out.
    """

    most: dict[Hashable, int] = field(default_factory=dict)

    def run(
        self,
        function: Callable[[int, int], Tensor],
        total: int,
        model: nn.Module,
        device: torch.device,
        *,
        kind: Hashable,
        batch_size: int | None = None,
        largest: int | None = None,
    ) -> list[Tensor]:
        """Run a function on chunks of rows, and on smaller ones where memory runs out.

        Args:
            function: Gets the first row of a chunk and the one after its last.
            total: Number of rows.
            model: What the function runs; its activations decide.
            device: Where it runs.
            kind: What chunks have in common that take as much memory.
            batch_size: Rows of a chunk; found if left out.
            largest: The most rows of a chunk.

        Returns:
            The function's results, chunk by chunk.

        Raises:
            torch.OutOfMemoryError: If a single row does not fit into memory.
        """
        results: list[Tensor] = []
        size, start = batch_size, 0
        while start < total:
            limit = min(self.most.get(kind, MOST_ROWS if size is None else size), largest or total)
            # Chunks begin at multiples of their size: of sizes and numbers of coalitions that are powers of two, one fits into
            # the other.
            own = min(limit, FIRST_ROWS if size is None else size)
            stop = min(total, start + own if size is None else (start // own + 1) * own)
            looks = size is None and stop < total and limit > 1
            failed: RuntimeError | None = None
            with watched(model, stop - start) if looks else nullcontext(Activations()) as seen:
                try:
                    results.append(function(start, stop))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    failed = error.with_traceback(None)  # Its frames hold what did not fit.
            if failed is not None:
                self._shrink(kind, stop - start, failed)
                continue
            start = stop
            if size is None:
                size = rows_of(seen.bytes_of_row, device) if looks else limit
        return results

    def _shrink(self, kind: Hashable, rows: int, error: RuntimeError) -> None:
        if rows == 1:
            raise torch.OutOfMemoryError(
                f"Game: memory runs out with a single row ({error}); measure on another device, or free memory before: a "
                "smaller batch of the training, or a smaller model"
            ) from error
        self.most[kind] = rows // 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether an error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in OUT_OF_MEMORY)


def rows_of(bytes_of_row: float, device: torch.device) -> int:
    """Choose the rows of a chunk, a power of two, by the largest activation of a row."""
    on_cpu = device.type == "cpu"
    budget: float = CPU_BYTES if on_cpu else ACCELERATOR_BYTES
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        budget = min(budget, FREE_PART * (torch.cuda.mem_get_info(device)[0] + unused))
    fitting = min(int(budget / max(bytes_of_row, 1.0)), MOST_ROWS)
    return 1 << max(fitting, FEWEST_ROWS_ON_CPU if on_cpu else 1).bit_length() - 1


@contextmanager
def watched(model: nn.Module, num_rows: int) -> Iterator[Activations]:
    """Look at what submodules return while the body runs a model on some rows."""
    seen = Activations()

    def look(_module: nn.Module, _args: Any, output: Any) -> None:
        for _, leaf in walk(output):
            # Neither views that repeat one row, nor what has nothing to do with rows, such as a weight that is computed.
            if isinstance(leaf, Tensor) and 0 not in leaf.stride() and any(axis % num_rows == 0 for axis in leaf.shape):
                seen.bytes_of_row = max(seen.bytes_of_row, leaf.numel() * leaf.element_size() / num_rows)

    hooks = [module.register_forward_hook(look) for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
