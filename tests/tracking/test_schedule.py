import pytest

from lightning_interactions.tracking.schedule import EveryNEpochs, Schedule


def test_every_n_epochs_is_a_schedule() -> None:
    assert isinstance(EveryNEpochs(), Schedule)


@pytest.mark.parametrize(("n", "due"), [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 3, 6]), (10, [0])])
def test_due_are_the_untrained_model_and_every_nth_epoch(n: int, due: list[int]) -> None:
    assert [epoch for epoch in range(8) if EveryNEpochs(n).due(epoch)] == due


def test_every_epoch_is_the_default() -> None:
    assert EveryNEpochs() == EveryNEpochs(1)


@pytest.mark.parametrize("n", [0, -1])
def test_an_interval_that_never_comes_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"schedule: expected to measure every n >= 1 epochs, got n={n}"):
        EveryNEpochs(n)
