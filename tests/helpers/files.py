"""Data in files; nothing else is imported here, so that a spawned worker starts soon."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset, get_worker_info


class LazyFile(Dataset[Any]):
    """Rows in a file that is opened by whoever reads first.

    Args:
        data: The rows.
        in_workers: Whether the file must be opened by :func:`open_file`.
    """

    def __init__(self, data: TensorDataset, in_workers: bool = False) -> None:
        self.path = Path(tempfile.mkdtemp()) / "rows.bin"
        self.width, self.labels, self.file, self.in_workers = data.tensors[0].shape[1], data.tensors[1], None, in_workers
        self.path.write_bytes(data.tensors[0].numpy().tobytes())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            if self.in_workers:
                raise RuntimeError("the file is opened in worker_init_fn")
            self.file = self.path.open("rb")
        # One position that all share who share the open file.
        self.file.seek(4 * self.width * index)
        return torch.from_numpy(np.frombuffer(self.file.read(4 * self.width), np.float32).copy()), self.labels[index]


def open_file(_worker: int) -> None:
    dataset: Any = get_worker_info().dataset  # type: ignore[union-attr]
    dataset.file = dataset.path.open("rb")
