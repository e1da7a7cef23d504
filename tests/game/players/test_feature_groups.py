import pytest
import torch

from lightning_interactions.game.baselines import Typical, Zeros
from lightning_interactions.game.players import FeatureGroups
from lightning_interactions.records import Rows

BOTH = Rows.of({"x": torch.zeros(3, 3), "c": torch.zeros(3, 2, dtype=torch.long)})


def columns(players: FeatureGroups, inputs: Rows) -> list[int]:
    return torch.cat([own[0] for own in players.assignments(inputs).values()]).tolist()


def test_columns_of_several_tables_are_numbered_on() -> None:
    assert FeatureGroups(leaf=["x", "c"]).leaves(BOTH) == ("x", "c")
    assert columns(FeatureGroups(leaf=("x", "c")), BOTH) == [0, 1, 2, 3, 4]
    assert columns(FeatureGroups(leaf=("c", "x")), BOTH) == [0, 1, 2, 3, 4]
    assert columns(FeatureGroups([[4, 0], [1, 2, 3]], ("x", "c")), BOTH) == [0, 1, 1, 1, 0]
    for leaf in (("x", "z"), ()):
        with pytest.raises(ValueError, match=r"expects tables of features, named .*, got x: torch.float32 \(3, 3\)"):
            FeatureGroups(leaf=leaf).leaves(BOTH)


def test_one_hot_columns_are_one_player() -> None:
    assert columns(FeatureGroups(one_hot=[[1, 3], [4, 5]]), Rows.of(torch.zeros(1, 7))) == [0, 1, 2, 1, 3, 3, 4]
    wide = columns(FeatureGroups(one_hot=[list(range(5, 25))]), Rows.of(torch.zeros(1, 40)))
    assert wide[5:25] == [wide[5]] * 20
    assert sorted(set(wide)) == list(range(10))
    with pytest.raises(ValueError, match="groups or one_hot, got both"):
        FeatureGroups([[0]], one_hot=[[0]])
    for wrong in ([[0, 1], [1]], [[]], [[-1]]):
        with pytest.raises(ValueError, match="groups of columns in one_hot, each column once"):
            FeatureGroups(one_hot=wrong)
    with pytest.raises(ValueError, match="expects a table"):
        FeatureGroups(one_hot=[[0, 7]]).leaves(Rows.of(torch.zeros(1, 7)))


def test_features_and_groups_have_names() -> None:
    assert FeatureGroups().names(Rows.of(torch.zeros(1, 2))) == ("feature 0", "feature 1")
    assert FeatureGroups(leaf=("x", "c")).names(BOTH) == ("x 0", "x 1", "x 2", "c 0", "c 1")
    named = FeatureGroups(leaf=("x", "c"), features=["age", "height", "weight", "town", "job"], one_hot=[[3, 4]])
    assert named.names(BOTH) == ("age", "height", "weight", "town+job")
    assert FeatureGroups({"body": [0, 1, 2], "place": [3, 4]}, ("x", "c")).names(BOTH) == ("body", "place")
    with pytest.raises(ValueError, match="3 named features"):
        FeatureGroups(features=["a", "b", "c"]).leaves(Rows.of(torch.zeros(1, 4)))


def test_categories_become_the_most_frequent_one() -> None:
    assert isinstance(FeatureGroups().default_baseline(Rows.of(torch.zeros(2, 3))), Zeros)
    baseline = FeatureGroups(leaf=("x", "c")).default_baseline(BOTH)
    assert isinstance(baseline, Typical)
    assert baseline.value([torch.tensor([[4, 1], [2, 1], [4, 0]])]).tolist() == [4, 1]
    assert baseline.value([torch.ones(3, 2)]) == 0
