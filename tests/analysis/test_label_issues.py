import math
from dataclasses import replace

import torch
from torch.nn.functional import softplus

from lightning_interactions.analysis.label_issues import find_label_issues
from lightning_interactions.records import LabelIssues
from tests.helpers.histories import split_measurement


def test_the_share_of_an_input_is_the_part_of_its_salient_strength_that_does_not_generalize() -> None:
    generalizable = torch.tensor([3.0, 0.0, 2.0, 0.0, math.nan])
    non_generalizable = torch.tensor([1.0, 5.0, 0.0, 0.0, 1.0])
    excess = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.4])
    split = split_measurement(generalizable, non_generalizable, excess)
    found = find_label_issues(split)
    torch.testing.assert_close(found.share, torch.tensor([0.25, 1, 0, math.nan, math.nan]).double(), equal_nan=True)
    torch.testing.assert_close(found.loss, split.loss, equal_nan=True)
    torch.testing.assert_close(found.explained_loss, split.explained_loss, equal_nan=True)


def test_labels_that_what_generalizes_explains_worst_come_first_and_nan_last() -> None:
    share = torch.tensor([0.9, math.nan, 0.1, 0.5])
    loss = torch.tensor([9.0, math.nan, 0.1, 0.2])
    explained_loss = torch.tensor([0.5, math.nan, 3.0, 1.0])
    assert LabelIssues(share, loss, explained_loss).ranking.tolist() == [2, 3, 0, 1]


def test_a_memorised_wrong_label_is_found_though_its_loss_is_small() -> None:
    # What generalizes speaks against the label by 2; what is memorised speaks for it by 6.
    memorised = split_measurement(torch.tensor([2.0, 2.0]), torch.tensor([6.0, 0.5]), torch.tensor([-0.6, 0.5]))
    explained = softplus(torch.tensor([2.0, -2.0], dtype=torch.float64))
    found = find_label_issues(replace(memorised, explained_loss=explained))
    assert found.loss[0] < found.loss[1]
    assert found.ranking.tolist() == [0, 1]
