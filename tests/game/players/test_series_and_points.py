import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interactions.game.players import CustomPlayers, PointGroups, TimeSegments
from lightning_interactions.game.players.point_groups import clusters_of
from lightning_interactions.records import Rows

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


# Series


@PROPERTY
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4), number=st.integers(1, 12), left=st.booleans())
def test_segments_are_near_equal_parts_of_the_valid_length(lengths: list[int], number: int, left: bool) -> None:
    real = torch.arange(30) < torch.tensor(lengths)[:, None]
    real = real.flip(1) if left else real
    series = {"x": torch.zeros(len(lengths), 30), "attention_mask": real}
    players = TimeSegments(number)
    assert players.num_players(Rows.of(series)) == number
    for own, length, mask in zip(players.assignments(Rows.of(series))["x"], lengths, real, strict=True):
        assert (own[~mask] == -1).all()
        segments = own[mask].tolist()
        assert segments == [place * number // length for place in range(length)]
        sizes = own[mask].bincount(minlength=number)
        assert sizes.max() - sizes.min() <= 1


def test_lengths_may_be_relative() -> None:
    series = Rows.of({"x": torch.zeros(2, 8, 3), "l": torch.tensor([0.5, 1.0])})
    own = TimeSegments(2, leaf="x", valid="l").assignments(series)["x"]
    assert own.squeeze(2).tolist() == [[0, 0, 1, 1, -1, -1, -1, -1], [0] * 4 + [1] * 4]


def test_time_is_the_longer_axis_where_that_is_safe() -> None:
    for shape, axis in (((2, 3, 6), 2), ((2, 6, 3), 1), ((2, 1, 2), 2)):
        (own,) = TimeSegments(2).assignments(Rows.of(torch.zeros(shape))).values()
        assert own.shape[axis] == shape[axis]
        assert own.numel() == shape[axis]
    for shape in ((2, 4, 6), (2, 5, 5)):
        with pytest.raises(ValueError, match=r"TimeSegments\(axis=1\) or TimeSegments\(axis=2\)"):
            TimeSegments(2).num_players(Rows.of(torch.zeros(shape)))
    assert TimeSegments(2, axis=1).assignments(Rows.of(torch.zeros(2, 4, 6)))[""].shape == (1, 4, 1)
    changing = TimeSegments(2)
    changing.num_players(Rows.of(torch.zeros(2, 16, 40)))
    with pytest.raises(ValueError, match="always the same one"):
        changing.num_players(Rows.of(torch.zeros(2, 16, 5)))
    with pytest.raises(ValueError, match="axis 1 or 2, got number=2, axis=3"):
        TimeSegments(2, axis=3)
    with pytest.raises(ValueError, match="expects a floating-point series"):
        TimeSegments(2).num_players(Rows.of(torch.zeros(2, 4, dtype=torch.long)))


# Point clouds


def blobs(centres: list[list[float]], number: int = 8) -> torch.Tensor:
    noise = 0.01 * torch.randn(len(centres), number, 3, generator=torch.Generator().manual_seed(0))
    return (torch.tensor(centres)[:, None] + noise).flatten(0, 1)


def test_clusters_are_the_blobs_from_left_to_right() -> None:
    left, middle, right = [-2.0, 1, 0], [0.0, 0, 3], [5.0, 0, 0]
    clouds = torch.stack([blobs([middle, right, left]), blobs([left, middle, right])])
    for tensor, axis in ((clouds, 1), (clouds.transpose(1, 2), 2)):
        own = PointGroups(3).assignments(Rows.of(tensor))[""].squeeze(3 - axis)
        assert own[0].tolist() == [1] * 8 + [2] * 8 + [0] * 8
        assert own[1].tolist() == [0] * 8 + [1] * 8 + [2] * 8


def test_other_features_follow_the_coordinates() -> None:
    cloud = blobs([[0.0, 0, 0], [9.0, 0, 0]])
    with_normals = torch.cat([cloud, 100 * torch.randn(16, 3, generator=torch.Generator().manual_seed(1))], dim=1)
    assert PointGroups(2).assignments(Rows.of(with_normals[None]))[""].flatten().tolist() == [0] * 8 + [1] * 8


def test_clusters_are_found_once_and_alike_every_time() -> None:
    clouds = torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(0))
    players = PointGroups(5)
    (first,) = players.assignments(Rows.of(clouds)).values()
    (again,) = PointGroups(5).assignments(Rows.of(clouds)).values()
    assert torch.equal(first, again)
    assert not torch.equal(first, PointGroups(5, seed=1).assignments(Rows.of(clouds))[""])
    assert first.amax(dim=(1, 2)).tolist() == [4, 4, 4]
    found = len(players._found)
    assert torch.equal(players.assignments(Rows.of(clouds[[2, 0, 0]]))[""], first[[2, 0, 0]])
    assert len(players._found) == found == 3


@PROPERTY
@given(points=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), max_size=12), number=st.integers(1, 6))
def test_equal_points_are_in_one_cluster(points: list[tuple[int, int]], number: int) -> None:
    cloud = np.array(points, dtype=float).reshape(-1, 2)
    labels = clusters_of(cloud, number, seed=0)
    of_points: dict[tuple[int, int], set[int]] = {}
    for point, label in zip(points, labels.tolist(), strict=True):
        of_points.setdefault(point, set()).add(label)
    assert all(len(own) == 1 for own in of_points.values())
    found = sorted(set(labels.tolist()))
    assert found == list(range(len(found)))
    assert len(found) <= min(number, max(1, len(of_points)))


def test_masked_points_move_to_the_centre() -> None:
    clouds = blobs([[0.0, 0, 0], [9.0, 0, 0]])[None]
    inputs, players = Rows.of(clouds), PointGroups(2)
    baseline = players.default_baseline(inputs)
    value = baseline.of_rows(baseline.value([clouds]), clouds)
    masked = players.mask(inputs, torch.tensor([[True, False]]), {"": value}).tree
    assert torch.equal(masked[0, :8], clouds[0, :8])
    assert torch.allclose(masked[0, 8:], clouds[0].mean(dim=0).expand(8, 3))


def test_clouds_without_a_longer_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"PointGroups\(axis=1\) or PointGroups\(axis=2\)"):
        PointGroups(2).num_players(Rows.of(torch.zeros(1, 4, 3)))
    assert PointGroups(2, axis=1).num_players(Rows.of(torch.zeros(1, 4, 3))) == 2
    with pytest.raises(ValueError, match="at least one cluster"):
        PointGroups(0)


# Functions


@pytest.mark.parametrize(
    "wrong", [lambda x: x, lambda x: x.long()[:, :3], lambda _x: [1], lambda _x: torch.zeros(1, 2, 4, 5, dtype=torch.long)]
)
def test_functions_must_return_integers_that_broadcast(wrong: object) -> None:
    with pytest.raises(ValueError, match="returns integers which broadcast"):
        CustomPlayers(wrong, 2).assignments(Rows.of(torch.zeros(2, 4, 5)))  # type: ignore[arg-type]


def test_functions_must_return_players_that_there_are() -> None:
    for low, high in ((-2, 0), (0, 2)):
        with pytest.raises(ValueError, match=f"players from 0 to 1, .*got {low} to {high}"):
            CustomPlayers(lambda _x, ends=(low, high): torch.tensor(ends), 2).assignments(Rows.of(torch.zeros(2, 2)))
    with pytest.raises(ValueError, match="at least one player"):
        CustomPlayers(lambda x: x, 0)
