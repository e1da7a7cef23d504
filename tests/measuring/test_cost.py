import pytest

from lightning_interactions.measuring.cost import Expense, MeasuringCost, duration


def test_nothing_is_made_up_that_is_not_known() -> None:
    cost = MeasuringCost(forwards=512)
    assert (cost.all_forwards, cost.part_of_training, cost.all_seconds) == (None, None, None)
    assert MeasuringCost(512, 10).part_of_training is None
    assert MeasuringCost(512, 10, training_forwards=0).part_of_training is None
    assert MeasuringCost(512, None, 1000).part_of_training is None
    assert MeasuringCost(512).timed(2.0).all_seconds is None


def test_the_arithmetic() -> None:
    cost = MeasuringCost(forwards=32_768, measurements=41, training_forwards=1_500_000).timed(2.5)
    assert cost.all_forwards == 41 * 32_768
    assert cost.part_of_training == pytest.approx(41 * 32_768 / 1_500_000)
    assert cost.all_seconds == pytest.approx(102.5)


@pytest.mark.parametrize(
    ("cost", "numbers"),
    [
        (MeasuringCost(512), ["512"]),
        (MeasuringCost(32_768, 41), ["41", "32,768"]),
        (MeasuringCost(32_768, 41, 1_500_000), ["41", "32,768", "90%"]),
        (MeasuringCost(32_768, 41, 150_000_000, 2.54), ["41", "32,768", "2.5 s", "1.7 min", "0.9%"]),
    ],
)
def test_the_text_has_what_is_known(cost: MeasuringCost, numbers: list[str]) -> None:
    said = str(cost) if cost.seconds is None else f"{cost}; {cost.timing}"
    assert all(number in said for number in numbers)
    assert ("%" in said) == (cost.part_of_training is not None)


def test_the_account_of_a_fit() -> None:
    expense = Expense()
    assert expense.part == 0
    expense.begin()
    assert expense.part == 0
    expense.planned = MeasuringCost(512, 10)
    assert expense.measured(20.0) is None  # The first one is no measure of the others.
    assert expense.measured(3.0) == MeasuringCost(512, 10, seconds=3.0)
    assert expense.measured(1.0) is None
    assert (expense.seconds, expense.number, expense.planned) == (24.0, 3, MeasuringCost(512, 10, seconds=3.0))
    assert expense.part > 0
    expense.begin()
    assert (expense.seconds, expense.number, expense.planned, expense.part) == (0, 0, None, 0)
    assert (expense.measured(1.0), expense.measured(1.0)) == (None, None)  # Nothing was planned.


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99.6, "1.7 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
