import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.players import FeatureGroups, ImagePatches, Players, default_players

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


def player_map(players: Players, inputs: Tensor) -> Tensor:
    """Find out by masking one player at a time which player every entry of an input belongs to."""
    num_players = players.num_players(inputs)
    one_input = torch.zeros_like(inputs[:1]).expand(num_players, *inputs.shape[1:])
    alone = players.mask(one_input, ~torch.eye(num_players, dtype=torch.bool), torch.ones_like(inputs[0])).bool()
    assert (alone.sum(dim=0) == 1).all()
    return alone.int().argmax(dim=0)


# All kinds


@CASES
def test_players_fit_the_protocol(players: Players, inputs: Tensor) -> None:
    assert isinstance(players, Players)
    assert players.num_players(inputs) >= 1


@CASES
def test_all_players_leave_the_input_as_it_is(players: Players, inputs: Tensor) -> None:
    everyone = torch.ones(len(inputs), players.num_players(inputs), dtype=torch.bool)
    assert torch.equal(players.mask(inputs, everyone, torch.zeros_like(inputs[0])), inputs)


@CASES
def test_no_players_leave_the_baseline_value(players: Players, inputs: Tensor) -> None:
    baseline = -inputs[0]
    nobody = torch.zeros(len(inputs), players.num_players(inputs), dtype=torch.bool)
    assert torch.equal(players.mask(inputs, nobody, baseline), baseline.expand_as(inputs))


@CASES
def test_masking_one_player_changes_exactly_its_entries(players: Players, inputs: Tensor) -> None:
    belongs_to = player_map(players, inputs)
    for player in range(players.num_players(inputs)):
        coalitions = torch.ones(len(inputs), players.num_players(inputs), dtype=torch.bool)
        coalitions[1, player] = False
        masked = players.mask(inputs, coalitions, torch.zeros(()))
        assert torch.equal(masked[0], inputs[0])
        assert torch.equal(masked[1] != inputs[1], belongs_to == player)
        assert (masked[1][belongs_to == player] == 0).all()


@CASES
def test_masking_is_the_entry_by_entry_choice(players: Players, inputs: Tensor) -> None:
    belongs_to = player_map(players, inputs)
    baseline = -inputs[0]
    for coalition in coalition_masks(players.num_players(inputs))[1::5]:
        expected = torch.where(coalition[belongs_to], inputs, baseline)
        assert torch.equal(players.mask(inputs, coalition.expand(len(inputs), -1), baseline), expected)


@CASES
def test_masking_leaves_the_inputs_alone_and_keeps_their_dtype(players: Players, inputs: Tensor) -> None:
    before = inputs.clone()
    nobody = torch.zeros(len(inputs), players.num_players(inputs), dtype=torch.bool)
    assert players.mask(inputs.half(), nobody, torch.zeros_like(inputs[0]).half()).dtype == torch.float16
    players.mask(inputs, nobody, torch.zeros(()))
    assert torch.equal(inputs, before)


@CASES
def test_no_inputs_are_masked_to_no_inputs(players: Players, inputs: Tensor) -> None:
    coalitions = torch.ones(0, players.num_players(inputs), dtype=torch.bool)
    assert players.mask(inputs[:0], coalitions, torch.zeros(())).shape == inputs[:0].shape


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
    assert patches.num_players(images) == rows * cols
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
    with pytest.raises(ValueError, match=r"players: 3x3 patches need .* at least 3x3 pixels, got input of shape \(") as caught:
        ImagePatches(3, 3).num_players(torch.zeros(shape))
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
    assert FeatureGroups().num_players(table) == num_features
    assert player_map(FeatureGroups(), table).tolist() == list(range(num_features))


@pytest.mark.parametrize("num_features", [11, 13, 19, 20, 64, 105])
def test_more_features_make_ten_near_equal_groups_of_neighbours(num_features: int) -> None:
    table = torch.zeros(1, num_features)
    assert FeatureGroups().num_players(table) == 10
    belongs_to = player_map(FeatureGroups(), table)
    assert belongs_to.tolist() == sorted(belongs_to.tolist())
    sizes = belongs_to.bincount()
    assert len(sizes) == 10
    assert 1 <= sizes.min() <= sizes.max() <= sizes.min() + 1


def test_given_groups_are_the_players() -> None:
    groups = FeatureGroups([[0, 5], [3], [1, 2, 4]])
    assert groups.num_players(TABLE) == 3
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
    with pytest.raises(ValueError, match=f"the groups name 6 columns, got inputs with {num_features}"):
        groups.num_players(torch.zeros(2, num_features))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (2, 0)])
def test_feature_groups_need_a_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"feature groups need inputs \[inputs, features\], got shape"):
        FeatureGroups().num_players(torch.zeros(shape))


# Defaults


def test_images_get_nine_patches_and_tables_their_features() -> None:
    assert default_players(IMAGES) == ImagePatches(3, 3)
    assert default_players(TABLE) == FeatureGroups()
    assert default_players(TABLE.double()) == FeatureGroups()


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (torch.zeros(2, 3, 4), "torch.float32 of shape (2, 3, 4)"),
        (torch.zeros(2, 3, 4, 5, 6), "torch.float32 of shape (2, 3, 4, 5, 6)"),
        (torch.zeros(7), "torch.float32 of shape (7,)"),
        (torch.zeros(2, 3, dtype=torch.long), "torch.int64 of shape (2, 3)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "torch.uint8 of shape (2, 3, 8, 8)"),
        ({"image": IMAGES}, "dict"),
        ([IMAGES], "list"),
    ],
)
def test_other_inputs_get_the_error_that_shows_the_adapter(inputs: object, got: str) -> None:
    with pytest.raises(ValueError, match="players: ") as caught:
        default_players(inputs)
    message = str(caught.value)
    assert f"got {got}" in message
    assert "players=" in message
    assert "InteractionMonitor(unpack=lambda batch: (batch['image'], batch['label'])" in message
    assert "forward=lambda model, inputs: model(inputs)['logits'])" in message
