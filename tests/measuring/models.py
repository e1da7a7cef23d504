"""Models and probes on which measurements are tried; everything in float64."""

import torch
from torch import Tensor, nn

from lightning_interactions.records import Probes

NUM_INPUTS, NUM_PLAYERS = 5, 4


class TableModel(nn.Module):
    """A random network of four features that gives NaN for some inputs as soon as their first feature is unmasked."""

    def __init__(self, broken: tuple[float, ...] = ()) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(NUM_PLAYERS, 8, dtype=torch.float64)
        self.last = nn.Linear(8, 3, dtype=torch.float64)
        self.broken = torch.tensor(broken, dtype=torch.float64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.last(self.first(inputs).tanh())
        return torch.where(torch.isin(inputs[:, :1], self.broken), torch.nan, logits)


def table_probes(seed: int = 1) -> Probes:
    """Rows whose first feature is their number, from 1 on."""
    inputs = torch.randn(NUM_INPUTS, NUM_PLAYERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs[:, 0] = torch.arange(1, NUM_INPUTS + 1)
    return Probes.of((inputs, torch.tensor([0, 2, 1, 1, 0])))
