"""Synthetic measurements: runs whose strengths and excess losses are given input by input."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lightning_interactions.records import History, Measurement, OrderStrength, Phase, SplitMeasurement, TimePoint

NON_SALIENT = 0.125
"""Strength of what is not salient, of every input at every time."""

EMPTY_SCORE = -1.0
EXPLAINED_SCORE = 0.0
"""Score without the non-generalizable interactions: a loss of log 2, so that an excess may be negative, too."""

FALL = {"share_before": 0.75, "share_after": 0.5, "more": 30.0, "probes": 32.0}
"""Findings of a fall of the share."""


def history_from_strengths(
    generalizable: Float[Tensor, "times inputs"],
    non_generalizable: Float[Tensor, "times inputs"],
    held_out_excess: Float[Tensor, "times held_out_inputs"] | None = None,
    *,
    training_excess: Float[Tensor, "times inputs"] | None = None,
    held_out_strengths: tuple[Float[Tensor, "times held_out_inputs"], Float[Tensor, "times held_out_inputs"]] | None = None,
    expected_test_loss: Float[Tensor, "times inputs"] | None = None,
    rater_score: Float[Tensor, " inputs"] | None = None,
    chance: float = 0.0,
    epochs: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> tuple[Measurement, ...]:
    """Make the measurements of a run whose numbers are known.

    Games of three players. Generalizable strength is put on positive ANDs of order 1 (three quarters) and negative ORs of
    order 2, non-generalizable strength on positive ANDs of order 2 (one quarter) and negative ORs of order 3.

    Args:
        generalizable: Total ``G`` of each training probe at each time; NaN leaves the input out of that measurement.
        non_generalizable: Total ``U`` of each training probe at each time.
        held_out_excess: Loss in nats that non-generalizable interactions add on each held-out probe, above ``-log 2``; no
            held-out probes if left out.
        training_excess: The same on each training probe; zero if left out.
        held_out_strengths: ``G`` and ``U`` of each held-out probe at each time; one and one if left out.
        expected_test_loss: Loss expected of each training probe if it were not trained on; its loss if left out.
        rater_score: Score of each training probe by other models, at all times; no other model is asked if left out.
        chance: Part of the salient strength of every probe with given strengths that chance calls generalizable.
        epochs: Completed epochs at each time; 0, 1, 2 … if left out.
        steps: Optimizer steps taken at each time; ten an entry if left out.

    Returns:
        One measurement for each time.
    """
    if training_excess is None:
        training_excess = torch.zeros_like(generalizable)

    def held_out(time: int) -> SplitMeasurement | None:
        if held_out_excess is None:
            return None
        if held_out_strengths is None:
            return held_out_split(held_out_excess[time])
        return split_measurement(*(strength[time] for strength in held_out_strengths), held_out_excess[time], chance)

    return tuple(
        Measurement(
            time=TimePoint(time if epochs is None else epochs[time], 10 * time if steps is None else steps[time]),
            seconds=0.5,
            training=split_measurement(
                generalizable[time],
                non_generalizable[time],
                training_excess[time],
                chance,
                expected_test_loss=None if expected_test_loss is None else expected_test_loss[time],
                rater_score=rater_score,
            ),
            held_out=held_out(time),
        )
        for time in range(len(generalizable))
    )


def split_measurement(
    generalizable: Float[Tensor, " inputs"],
    non_generalizable: Float[Tensor, " inputs"],
    excess: Float[Tensor, " inputs"],
    chance: float = 0.0,
    expected_test_loss: Float[Tensor, " inputs"] | None = None,
    rater_score: Float[Tensor, " inputs"] | None = None,
) -> SplitMeasurement:
    """Make one split's measurement; an input that is NaN anywhere is NaN everywhere, as in a real one.

    Other models may have scored an input that is left out; their scores stay.
    """
    total = (generalizable + non_generalizable + excess).double()
    left_out = torch.zeros_like(total).where(total.isfinite(), torch.nan)
    g, u = torch.zeros(2, len(generalizable), 2, 2, 4, dtype=torch.float64)
    rest = torch.zeros_like(g)
    g[:, 0, 0, 1], g[:, 1, 1, 2] = 0.75 * generalizable, 0.25 * generalizable
    u[:, 0, 0, 2], u[:, 1, 1, 3] = 0.25 * non_generalizable, 0.75 * non_generalizable
    rest[:, 0, 1, 3] = NON_SALIENT
    by_order = left_out[:, None, None, None]
    loss = excess.double() + math.log1p(math.exp(-EXPLAINED_SCORE))
    full_score = -loss.expm1().log() + left_out
    explained_score = EXPLAINED_SCORE + left_out
    return SplitMeasurement(
        generalizable=generalizable.double() + left_out,
        non_generalizable=non_generalizable.double() + left_out,
        non_salient=NON_SALIENT + left_out,
        chance_generalizable=chance * (generalizable + non_generalizable).double() + left_out,
        empty_score=EMPTY_SCORE + left_out,
        # softplus(-v) is the loss.
        full_score=full_score,
        explained_score=explained_score,
        loss=softplus(-full_score),
        explained_loss=softplus(-explained_score),
        expected_test_loss=(loss if expected_test_loss is None else expected_test_loss.double()) + left_out,
        rater_score=torch.full_like(total, torch.nan) if rater_score is None else rater_score.double(),
        strength=OrderStrength(g + by_order, u + by_order, rest + by_order),
    )


def held_out_split(excess: Float[Tensor, " held_out_inputs"]) -> SplitMeasurement:
    """Make a held-out split with strengths one and one."""
    ones = torch.ones_like(excess)
    return split_measurement(ones, ones, excess)


def begun(number: int, epoch: int, confidence: float, findings: Mapping[str, float] | None = None) -> Phase:
    """Make a phase that is detected at its onset, ten steps an epoch; without findings if they are left out."""
    time = TimePoint(epoch, 10 * epoch)
    return Phase(number, time, time, confidence, {} if findings is None else findings)


def with_phases(measurements: Sequence[Measurement], numbers: Sequence[int]) -> History:
    """Put measurements and phase numbers together; a phase begins where its number first comes up in a row."""
    history = History()
    for measurement, number in zip(measurements, numbers, strict=True):
        phase = history.phases[-1] if history.phases else None
        if phase is None or phase.number != number:
            time = measurement.time
            phase = Phase(number, time, time, math.nan if number == 1 else 0.99, {} if number == 1 else FALL)
        history = history.append(measurement, phase)
    return history
