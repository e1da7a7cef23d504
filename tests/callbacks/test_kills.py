import pytest

from tests.helpers.kills import SCHEDULES, kill_rounds


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_killed_fit_goes_on_to_the_history_of_an_unbroken_one(schedule: str) -> None:
    rounds = kill_rounds(3, seed=0, schedule=schedule)
    assert all(one.kills for one in rounds)
    assert all(one.is_fine for one in rounds), rounds
