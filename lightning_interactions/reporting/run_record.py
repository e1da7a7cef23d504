"""All that is kept of one monitored run, as reports and commands need it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_interactions.measuring.extraction import Extraction
from lightning_interactions.records import EFFECT_TYPES, History, Interactions, Probes, SplitMeasurement, TimePoint
from lightning_interactions.records.phases import time_from_list

__all__ = ["RunRecord"]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What is known of one monitored run.

    Attributes:
        history: All measurements and phases.
        title: What the run is called in reports, such as its path.
        name: Name of the monitor; ``None`` if it has none.
        interactions: On the training probes at the first measurement in phase 3, else at the last; ``None`` if not kept.
        weights: ``[inputs, types, coalitions]`` in [0, 1]; how far each of them generalizes; ``None`` if not kept.
        player_names: Names of the players of each training probe; empty if not kept.
        indices: Where each training probe is in its dataset; ``None`` where that is not known, empty if not kept.
        probes: The inputs by their split, as far as they are kept.
        failed: When measurements failed and were left out.
        forwards: Forwards of one measurement at most, of all models that are measured; 0 if that is not known.
    """

    history: History
    title: str = "run"
    name: str | None = None
    interactions: Interactions | None = None
    weights: Float[Tensor, "inputs types coalitions"] | None = None
    player_names: tuple[tuple[str, ...], ...] = ()
    indices: tuple[int | None, ...] = ()
    probes: Mapping[str, Probes] = field(default_factory=dict)
    failed: tuple[TimePoint, ...] = ()
    forwards: int = 0

    @property
    def place_of_interactions(self) -> int:
        """Which measurement the interactions and label issues are of."""
        numbers = [phase.number for phase in self.history.phases]
        return numbers.index(3) if 3 in numbers else len(numbers) - 1

    @property
    def judged(self) -> SplitMeasurement:
        """The training probes at this measurement."""
        return self.history.measurements[self.place_of_interactions].training

    @property
    def threshold(self) -> float:
        """Salience threshold ``τ`` of the measurements; the default where the settings do not say."""
        said = self.history.settings.get("threshold")
        return float(said) if isinstance(said, int | float) and 0 <= said < 1 else Extraction().threshold

    @property
    def num_players(self) -> int:
        """Players of each input; 0 if no interactions are kept."""
        return 0 if self.interactions is None else self.interactions.effects.shape[-1].bit_length() - 1

    def names_of(self, probe: int) -> tuple[str, ...]:
        """Name the players of a training probe; by their numbers where no names are kept."""
        kept = self.player_names[probe] if probe < len(self.player_names) else ()
        number = self.num_players
        return kept if len(kept) == number else tuple(f"player {player}" for player in range(number))

    def check_measured(self) -> None:
        """Refuse an empty run.

        Raises:
            ValueError: If nothing was measured.
        """
        if not self.history:
            raise ValueError(
                f"{self.title}: expected a run with at least one measurement, got an empty history; measure it first"
            )

    def _check_shapes(self) -> None:
        """Refuse interactions that are not of these probes."""
        if self.interactions is None or self.weights is None:
            return
        effects, offset = self.interactions.effects, self.interactions.offset
        coalitions = effects.shape[-1]
        probes = len(self.judged) if self.history else len(offset)
        expected = (probes, len(EFFECT_TYPES), coalitions)
        if not (
            effects.shape == self.weights.shape == expected and offset.shape == expected[:1] and coalitions.bit_count() == 1
        ):
            raise ValueError(
                f"expected interactions [{probes} inputs, types, coalitions] and their weights, got {list(effects.shape)}, "
                f"{list(self.weights.shape)} and offset {list(offset.shape)}"
            )
        if not (effects.is_floating_point() and offset.is_floating_point()):
            raise ValueError(f"expected interactions of floating-point numbers, got {effects.dtype} and {offset.dtype}")

    @classmethod
    def from_state(cls, state: Mapping[str, Any], title: str, name: str | None = None) -> "RunRecord":
        """Take up the state of a monitor, as a checkpoint has it.

        Args:
            state: What ``InteractionMonitor.state_dict`` returned.
            title: What the run is called.
            name: Name of the monitor.

        Raises:
            ValueError: If it is no such state, or one of another version.
        """
        history = History.from_dict(state["history"])
        try:
            final = state["final_interactions"]
            saved = state["probes"]
            probes = {split: Probes.from_state(one) for split, one in saved.items() if one is not None}
            again = state["read_again"].get("training")
            prints = probes["training"].fingerprints if "training" in probes else again["fingerprints"] if again else []
            known = state["indices"]
            run = cls(
                history,
                title,
                name,
                None if final is None else Interactions(final["effects"], final["offset"]),
                None if final is None else final["weights"].double(),
                tuple(tuple(map(str, one["names"])) for one in state["player_names"] for _ in range(one["probes"])),
                tuple(None if known.get(one) is None else int(known[one]) for one in prints),
                probes,
                tuple(time_from_list(time) for time in state["failed"]),
                int(state["forwards"]),
            )
            run._check_shapes()
            return run
        except Exception as error:  # Whatever a state of somebody else makes of this.
            raise ValueError(
                f"{title}: expected the whole state of an InteractionMonitor, got a broken one: {error!r}; read it with the "
                "version of this package that wrote it"
            ) from error
