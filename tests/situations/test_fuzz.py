"""Whether the fuzz of ``tests/benchmarks/trust.py`` notices harm."""

from typing import Any

import pytest
import torch

from lightning_interactions import InteractionMonitor
from tests.helpers.fuzz import run_case

pytestmark = [
    pytest.mark.slow,
    # The cases are random, and so are Lightning's opinions of them.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("harm", ["random numbers", "a weight", "a late error"])
def test_a_harm_is_noticed(harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, no fine outcome means anything."""
    assert run_case(HARMLESS).kind == "equal"
    measure = InteractionMonitor.on_train_epoch_end

    def harmful(self: InteractionMonitor, trainer: Any, pl_module: Any) -> None:
        measure(self, trainer, pl_module)
        match harm:
            case "random numbers":
                torch.rand(())
            case "a weight":
                with torch.no_grad():
                    next(pl_module.parameters()).add_(1e-6)
            case _:
                raise ValueError("after training")

    monkeypatch.setattr(InteractionMonitor, "on_train_epoch_end", harmful)
    assert run_case(HARMLESS).kind == ("late error" if harm == "a late error" else "different")


HARMLESS = 0
"""A case that trains to its end."""
