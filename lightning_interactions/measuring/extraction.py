"""Settings of how values are evaluated and rewritten as interactions."""

import math
from dataclasses import dataclass

__all__ = ["Extraction"]


@dataclass(frozen=True)
class Extraction:
    """How values are evaluated and rewritten as interactions.

    Attributes:
        threshold: Salience threshold ``τ`` in [0, 1), a fraction of an input's largest interaction.
        noise_tolerance: ``κ``: how far an output may be missed for fewer interactions, a fraction of ``|v(N) - v(∅)|``; 0
            matches all exactly. It is part of every result: strengths are lower with it.
        tolerance: Relative duality gap of the sparsest decomposition. 1e-3 takes a tenth of the time of the solver's own
            default and moves strengths by about 2 %; ``None`` is that default, for studying single interactions; see
            :func:`~lightning_interactions.functional.extract_interactions`. Outputs are matched anyway.
        max_players: Refuse more players than this: a measurement costs ``2^n`` forwards for each probe.
        batch_size: Masked inputs in one forward pass; found by the size of the model's activations if left out. Where memory
            runs out there are fewer.
        trainer_precision: Run the forwards under the Trainer's autocast and TF32 setting, not in the dtype of the weights.

    Raises:
        ValueError: If a number makes no sense.
    """

    threshold: float = 0.05
    noise_tolerance: float = 0.0
    tolerance: float | None = 1e-3
    max_players: int = 16
    batch_size: int | None = None
    trainer_precision: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        limits = {
            "threshold": (0 <= self.threshold < 1, "in [0, 1)"),
            "noise_tolerance": (0 <= self.noise_tolerance < math.inf, "finite and at least 0"),
            "tolerance": (self.tolerance is None or 0 < self.tolerance < 1, "in (0, 1), or None"),
            "max_players": (self.max_players >= 1, "at least 1"),
            "batch_size": (self.batch_size is None or self.batch_size >= 1, "at least 1, or None"),
        }
        for name, (fits, expected) in limits.items():
            if not fits:
                raise ValueError(f"Extraction: expected {name} {expected}, got {getattr(self, name)}")
