import math

import torch

from lightning_interactions.functional.suspects import find_suspects
from lightning_interactions.records import Suspects
from tests.helpers.histories import split_measurement


def test_the_share_of_an_input_is_the_part_of_its_salient_strength_that_does_not_generalize() -> None:
    generalizable = torch.tensor([3.0, 0.0, 2.0, 0.0, math.nan])
    non_generalizable = torch.tensor([1.0, 5.0, 0.0, 0.0, 1.0])
    excess = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.4])
    split = split_measurement(generalizable, non_generalizable, excess)
    found = find_suspects(split)
    torch.testing.assert_close(found.share, torch.tensor([0.25, 1, 0, math.nan, math.nan]).double(), equal_nan=True)
    torch.testing.assert_close(found.loss, split.loss, equal_nan=True)
    torch.testing.assert_close(found.explained_loss, split.explained_loss, equal_nan=True)
    assert found.ranking.tolist()[:3] == [1, 0, 2]


def test_equal_shares_are_ranked_by_loss_and_inputs_without_a_share_come_last() -> None:
    share = torch.tensor([0.5, math.nan, 1.0, 0.5, 0.5, math.nan])
    loss = torch.tensor([1.0, 9.0, 0.1, 2.0, math.nan, math.nan])
    assert Suspects(share, loss, loss).ranking.tolist() == [2, 3, 0, 4, 1, 5]


def test_without_a_loss_equal_shares_stay_in_order() -> None:
    unknown = torch.full((4,), torch.nan)
    assert Suspects(torch.tensor([0.2, 0.7, 0.2, 0.7]), unknown, unknown).ranking.tolist() == [1, 3, 0, 2]
