"""Random modules, data, Trainers and settings: a clear error before training, or a run that equals one without a monitor.

The full number of cases comes from ``tests/benchmarks/trust.py``.
"""

from typing import Any

import pytest
import torch

from lightning_interactions import InteractionMonitor
from tests.helpers.fuzz import run_case

pytestmark = [
    # The cases are random, and so are Lightning's opinions of them.
    pytest.mark.filterwarnings("ignore"),
]

CASES = 200
"""CI draws a fifth of them for each commit."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CASES))
def test_no_random_case_harms_its_run(seed: int) -> None:
    outcome = run_case(seed)
    assert outcome.is_fine, str(outcome)


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
