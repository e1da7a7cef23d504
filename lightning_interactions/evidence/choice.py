"""What decides where the user leaves it open."""

from lightning_interactions.evidence.base import Evidence
from lightning_interactions.evidence.parameter_noise import ParameterNoise

__all__ = ["choose_evidence"]


def choose_evidence() -> tuple[Evidence, str]:
    """Choose the evidence that agrees best with reference models of all that needs neither held-out labels nor other models.

    Returns:
        The evidence, and why it was chosen, in words with the numbers of ``tests/benchmarks/evidence.py``.
    """
    return ParameterNoise(), (
        "ParameterNoise decides what generalizes. Of the evidence that needs no other model it agreed best with reference "
        "models that were trained on held-out data: on 71 % of the salient strength in the six runs of "
        "tests/benchmarks/evidence.py (OrderShape 69 %, InputAgreement 60 %, the better of two constant verdicts 67 %, other "
        "reference models 83 %). Cross-fitted models, fit_reference_models(model, train_dataloader, folds=2), agreed on 77 % "
        "without any more labels, after trainings of their own."
    )
