from collections import Counter

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_interactions.references.folds import make_plans

POOL = list(range(10, 190, 2))


@pytest.mark.parametrize("stops", [True, False])
def test_every_sample_is_left_out_by_the_models_of_its_fold(stops: bool) -> None:
    plans = make_plans(POOL, 2, 3, stops=stops, knows_loss=True, seed=0)
    shares = [sorted([*(plan.training or []), *plan.stopping]) for plan in plans]
    assert [plan.seed for plan in plans] == list(range(6))
    assert [len(share) for share in shares] == [60] * 6
    assert [len(plan.stopping) for plan in plans] == [12 * stops] * 6
    assert all(shares[2 * fold] == shares[2 * fold + 1] for fold in range(3))
    assert Counter(index for share in shares for index in share) == dict.fromkeys(POOL, 4)


def test_without_folds_all_is_for_every_model_and_each_stops_on_another_part() -> None:
    plans = make_plans(POOL, 3, None, stops=True, knows_loss=True, seed=0)
    assert all(sorted([*(plan.training or []), *plan.stopping]) == POOL for plan in plans)
    assert all(len(plan.stopping) == 18 for plan in plans)
    assert len({tuple(plan.stopping) for plan in plans}) == 3


def test_the_seed_decides_on_the_parts() -> None:
    first, same, other = (make_plans(POOL, 1, 2, stops=False, knows_loss=True, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first[0].training != other[0].training


@pytest.mark.parametrize(
    ("pool", "knows_loss", "reason"),
    [(None, True, "no indices"), (POOL[:49], True, "49 inputs is fewer than 10"), (POOL, False, r"loss\(score, targets\)")],
)
def test_where_a_training_cannot_stop_early_it_says_why(pool: list[int] | None, knows_loss: bool, reason: str) -> None:
    with pytest.warns(UserWarning, match=f"{reason}.*patience=None"):
        (plan,) = make_plans(pool, 1, None, stops=True, knows_loss=knows_loss, seed=0)
    assert (plan.training and list(plan.training), list(plan.stopping)) == (pool, [])


def test_more_folds_than_samples_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="9 folds, got 8"):
        make_plans(POOL[:8], 1, 9, stops=False, knows_loss=True, seed=0)
