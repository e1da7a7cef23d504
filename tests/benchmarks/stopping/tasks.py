"""Tasks of the benchmark: two on which settings were chosen, and three that nothing was chosen on."""

from dataclasses import replace
from functools import partial

import torch
from modules import cnn
from papers.tasks import TASKS as PAPERS_TASKS
from papers.tasks import Architecture, Task, draw_series, draw_shapes, draw_table, mlp, residual_mlp
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from lightning_interactions import FeatureGroups

__all__ = ["CHOOSING", "REPORTED", "TASKS"]

CHOOSING = ("digits", "cancer")
REPORTED = ("shapes", "table", "series")

NUM_TEST = 1000
"""Test inputs of the generated tasks, so that a per cent of the test loss is not chance."""


def draw_cancer(_seed: int) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's 569 tumours with 30 standardised features; the seed only splits them."""
    cancer = load_breast_cancer()
    features = torch.tensor(cancer.data, dtype=torch.float32)
    return (features - features.mean(dim=0)) / features.std(dim=0), torch.tensor(cancer.target)


def _enlarged(name: str, draw: object) -> Task:
    """Return a generated task with more test data."""
    task = PAPERS_TASKS[name]
    sizes = (*task.sizes[:3], NUM_TEST)
    return replace(task, draw=partial(draw, num_inputs=sum(sizes)), sizes=sizes)


TASKS = {
    "digits": replace(
        PAPERS_TASKS["digits"],
        architectures={
            "CNN": Architecture(lambda: cnn(8, 10, 16), 100, 3e-3),
            "MLP": Architecture(lambda: mlp(64, 10), 100, 2e-3),
        },
    ),
    # Ten groups of a mean, a standard error and a worst value.
    "cancer": Task(
        draw_cancer, 2, FeatureGroups([list(range(group, 30, 10)) for group in range(10)]), (200, 150, 60, 159),
        {
            "MLP": Architecture(lambda: mlp(30, 2, 128), 50, 1e-3, epochs=50),
            "residual MLP": Architecture(lambda: residual_mlp(30, 2, 64), 50, 1e-3, epochs=50),
        },
    ),
    "shapes": _enlarged("shapes", draw_shapes),
    "table": _enlarged("table", draw_table),
    "series": _enlarged("series", draw_series),
}  # fmt: skip
"""By name."""
