import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.players import FeatureGroups, ImagePatches, LeafPlayers, Players
from lightning_interactions.records import Rows

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)

IMAGES = torch.arange(2 * 3 * 7 * 5, dtype=torch.float32).reshape(2, 3, 7, 5) + 1
TABLE = torch.arange(2 * 6, dtype=torch.float32).reshape(2, 6) + 1

CASES = pytest.mark.parametrize(
    ("players", "inputs"),
    [
        (ImagePatches(3, 2), IMAGES),
        (ImagePatches(1, 1), IMAGES),
        (ImagePatches(7, 1), IMAGES),
        (FeatureGroups(), TABLE),
        (FeatureGroups([[0, 5], [3], [1, 2, 4]]), TABLE),
    ],
    ids=["3x2 patches", "1x1 patch", "7x1 patches", "features", "groups"],
)


def count(players: Players, inputs: Tensor) -> int:
    return players.num_players(Rows.of(inputs))


def mask(players: Players, inputs: Tensor, coalitions: Tensor, baseline: Tensor) -> Tensor:
    masked = players.mask(Rows.of(inputs), coalitions, {"": baseline})
    assert isinstance(masked.tree, Tensor)
    return masked.tree


def player_map(players: Players, inputs: Tensor) -> Tensor:
    """Find out by masking one player at a time which player every entry of an input belongs to."""
    num_players = count(players, inputs)
    one_input = torch.zeros_like(inputs[:1]).expand(num_players, *inputs.shape[1:])
    alone = mask(players, one_input, ~torch.eye(num_players, dtype=torch.bool), torch.ones_like(inputs[0])).bool()
    assert (alone.sum(dim=0) == 1).all()
    return alone.int().argmax(dim=0)


# All kinds


@CASES
def test_players_fit_the_protocol(players: Players, inputs: Tensor) -> None:
    assert isinstance(players, Players)
    assert count(players, inputs) >= 1


@CASES
def test_all_players_leave_the_input_as_it_is(players: Players, inputs: Tensor) -> None:
    everyone = torch.ones(len(inputs), count(players, inputs), dtype=torch.bool)
    assert torch.equal(mask(players, inputs, everyone, torch.zeros_like(inputs[0])), inputs)


@CASES
def test_no_players_leave_the_baseline_value(players: Players, inputs: Tensor) -> None:
    baseline = -inputs[0]
    nobody = torch.zeros(len(inputs), count(players, inputs), dtype=torch.bool)
    assert torch.equal(mask(players, inputs, nobody, baseline), baseline.expand_as(inputs))


@CASES
def test_masking_one_player_changes_exactly_its_entries(players: Players, inputs: Tensor) -> None:
    belongs_to = player_map(players, inputs)
    for player in range(count(players, inputs)):
        coalitions = torch.ones(len(inputs), count(players, inputs), dtype=torch.bool)
        coalitions[1, player] = False
        masked = mask(players, inputs, coalitions, torch.zeros(()))
        assert torch.equal(masked[0], inputs[0])
        assert torch.equal(masked[1] != inputs[1], belongs_to == player)
        assert (masked[1][belongs_to == player] == 0).all()


@CASES
def test_masking_is_the_entry_by_entry_choice(players: Players, inputs: Tensor) -> None:
    belongs_to = player_map(players, inputs)
    baseline = -inputs[0]
    for coalition in coalition_masks(count(players, inputs))[1::5]:
        expected = torch.where(coalition[belongs_to], inputs, baseline)
        assert torch.equal(mask(players, inputs, coalition.expand(len(inputs), -1), baseline), expected)


@CASES
def test_masking_leaves_the_inputs_alone_and_keeps_their_dtype(players: Players, inputs: Tensor) -> None:
    before = inputs.clone()
    nobody = torch.zeros(len(inputs), count(players, inputs), dtype=torch.bool)
    assert mask(players, inputs.half(), nobody, torch.zeros_like(inputs[0]).half()).dtype == torch.float16
    mask(players, inputs, nobody, torch.zeros(()))
    assert torch.equal(inputs, before)


@CASES
def test_no_inputs_are_masked_to_no_inputs(players: Players, inputs: Tensor) -> None:
    coalitions = torch.ones(0, count(players, inputs), dtype=torch.bool)
    assert mask(players, inputs[:0], coalitions, torch.zeros(())).shape == inputs[:0].shape


# Image patches


def test_patches_are_numbered_row_by_row() -> None:
    expected = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    belongs_to = player_map(ImagePatches(2, 2), torch.zeros(1, 3, 4, 4))
    assert torch.equal(belongs_to, expected.expand(3, 4, 4))


def test_the_channels_of_a_pixel_belong_to_one_player() -> None:
    belongs_to = player_map(ImagePatches(3, 2), IMAGES)
    assert torch.equal(belongs_to, belongs_to[:1].expand_as(belongs_to))


@PROPERTY
@given(rows=st.integers(1, 5), cols=st.integers(1, 5), more_rows=st.integers(0, 9), more_cols=st.integers(0, 9))
def test_patch_sizes_differ_by_one_pixel_at_most(rows: int, cols: int, more_rows: int, more_cols: int) -> None:
    images = torch.zeros(1, 1, rows + more_rows, cols + more_cols)
    patches = ImagePatches(rows, cols)
    assert count(patches, images) == rows * cols
    belongs_to = player_map(patches, images)[0]
    heights = (belongs_to[:, 0] // cols).bincount(minlength=rows)
    widths = (belongs_to[0] % cols).bincount(minlength=cols)
    assert len(heights) == rows
    assert len(widths) == cols
    assert 1 <= heights.min() <= heights.max() <= heights.min() + 1
    assert 1 <= widths.min() <= widths.max() <= widths.min() + 1
    grid = torch.arange(rows * cols).reshape(rows, cols)
    assert torch.equal(belongs_to, grid.repeat_interleave(heights, 0).repeat_interleave(widths, 1))


@pytest.mark.parametrize("shape", [(1, 1, 2, 5), (1, 1, 5, 2), (1, 2, 2), (3, 4)])
def test_images_too_small_for_the_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"players: .*rows=3, cols=3.* of at least 3x3 pixels, .* got torch.float32 \("
    ) as caught:
        count(ImagePatches(3, 3), torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_the_smallest_image_has_a_pixel_a_patch() -> None:
    belongs_to = player_map(ImagePatches(3, 2), torch.zeros(1, 1, 3, 2))
    assert torch.equal(belongs_to[0], torch.arange(6).reshape(3, 2))


@pytest.mark.parametrize(("rows", "cols"), [(0, 3), (3, 0), (-1, 3)])
def test_an_empty_grid_is_refused(rows: int, cols: int) -> None:
    with pytest.raises(ValueError, match=f"at least one row and one column of patches, got {rows}x{cols}"):
        ImagePatches(rows, cols)


# Feature groups


@pytest.mark.parametrize("num_features", [1, 2, 9, 10])
def test_up_to_ten_features_are_players_of_their_own(num_features: int) -> None:
    table = torch.zeros(1, num_features)
    assert count(FeatureGroups(), table) == num_features
    assert player_map(FeatureGroups(), table).tolist() == list(range(num_features))


@pytest.mark.parametrize("num_features", [11, 13, 19, 20, 64, 105])
def test_more_features_make_ten_near_equal_groups_of_neighbours(num_features: int) -> None:
    table = torch.zeros(1, num_features)
    assert count(FeatureGroups(), table) == 10
    belongs_to = player_map(FeatureGroups(), table)
    assert belongs_to.tolist() == sorted(belongs_to.tolist())
    sizes = belongs_to.bincount()
    assert len(sizes) == 10
    assert 1 <= sizes.min() <= sizes.max() <= sizes.min() + 1


def test_given_groups_are_the_players() -> None:
    groups = FeatureGroups([[0, 5], [3], [1, 2, 4]])
    assert count(groups, TABLE) == 3
    assert player_map(groups, TABLE).tolist() == [0, 2, 2, 1, 2, 0]


@pytest.mark.parametrize(
    "groups",
    [[[0, 1], [1, 2]], [[0], [2]], [[1, 2], [3]], [[0, 1], []], [[-1, 0]], [], [[]]],
    ids=["overlap", "gap", "not from zero", "empty group", "negative", "no groups", "one empty group"],
)
def test_groups_that_are_no_partition_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="players: expected non-empty groups that name every column from 0 up exactly once"):
        FeatureGroups(groups)


@pytest.mark.parametrize("num_features", [5, 7])
def test_groups_of_other_columns_than_the_table_has_are_refused(num_features: int) -> None:
    groups = FeatureGroups([[0, 5], [3], [1, 2, 4]])
    with pytest.raises(ValueError, match=rf"the 6 features of the groups.*, got torch.float32 \(2, {num_features}\)"):
        count(groups, torch.zeros(2, num_features))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (2, 0)])
def test_feature_groups_need_a_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expects a table \[inputs, features\], .* got torch.float32 \("):
        count(FeatureGroups(), torch.zeros(shape))


# Leaves


BATCH = {"image": IMAGES, "other": IMAGES[..., :4], "table": TABLE, "text": {"ids": torch.zeros(2, 9, dtype=torch.long)}}


@pytest.mark.parametrize(
    ("players", "leaf", "num_players"),
    [
        (ImagePatches(2, 2, leaf="image"), "image", 4),
        (ImagePatches(2, 5), "image", 10),  # The other images have four columns.
        (FeatureGroups(leaf="table"), "table", 6),
        (FeatureGroups([[0, 1], [2, 3, 4, 5]]), "table", 2),
        (FeatureGroups(leaf="text.ids"), "text.ids", 9),
    ],
    ids=str,
)
def test_one_leaf_is_masked_and_the_others_travel_along(players: Players, leaf: str, num_players: int) -> None:
    rows = Rows.of(BATCH)
    assert players.leaves(rows) == (leaf,)
    assert players.num_players(rows) == num_players
    coalitions = torch.arange(2 * num_players).reshape(2, -1) % 3 == 0
    masked = players.mask(rows, coalitions, {leaf: torch.zeros((), dtype=rows.leaves[leaf].dtype)})
    assert masked.leaves.keys() == rows.leaves.keys()
    for name, tensor in masked.leaves.items():
        expected = mask(type(players)(*kind_of(players)), tensor, coalitions, tensor.new_zeros(())) if name == leaf else tensor
        assert torch.equal(tensor, expected)
        assert (tensor.data_ptr() == rows.leaves[name].data_ptr()) == (name != leaf)


def kind_of(players: Players) -> tuple[object, ...]:
    return (players.rows, players.cols) if isinstance(players, ImagePatches) else (players.groups,)  # type: ignore[attr-defined]


def test_several_leaves_that_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"the only one of the inputs, got .*leaf= one of \['image', 'other'\]"):
        ImagePatches(2, 2).leaves(Rows.of(BATCH))
    with pytest.raises(ValueError, match=r"leaf= one of \['table', 'text.ids'\]"):
        FeatureGroups().leaves(Rows.of(BATCH))
    with pytest.raises(ValueError, match=r"the only one of the inputs, got torch.float32 \(2, 6\); pass other players"):
        ImagePatches(2, 2).leaves(Rows.of(TABLE))


@pytest.mark.parametrize("leaf", ["picture", "table", "text"])
def test_a_leaf_that_is_not_there_or_does_not_fit_is_refused(leaf: str) -> None:
    with pytest.raises(ValueError, match=rf"expects images .*, named '{leaf}', got image: torch.float32 \(2, 3, 7, 5\); other"):
        ImagePatches(2, 2, leaf=leaf).num_players(Rows.of(BATCH))


def test_players_of_ones_own_name_their_leaf_and_their_assignment() -> None:
    class Steps(LeafPlayers):
        @property
        def expects(self) -> str:
            return "a series [inputs, steps, channels]"

        def fits(self, tensor: Tensor) -> bool:
            return tensor.ndim == 3

        def assignment(self, tensor: Tensor) -> Tensor:
            return torch.arange(tensor.shape[1])[:, None]

    series = torch.ones(2, 4, 3)
    belongs_to = player_map(Steps(), series)
    assert torch.equal(belongs_to, torch.arange(4)[:, None].expand(4, 3))
    assert repr(Steps("0")) == "Steps(leaf='0')"
