"""Rows of any tree of tensors, groups of probes, and fingerprints."""

import pickle
from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_interactions.records import ProbeGroup, Probes, Rows, fingerprints
from lightning_interactions.records.describe import describe

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)

INPUTS = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3)
IDS = torch.arange(4) * 10

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Named(NamedTuple):
    image: Any
    ids: Any


@dataclass(frozen=True)
class Sample:
    image: Any
    ids: Any


@dataclass
class Derived:
    """Its last field is not an argument."""

    image: Any
    ids: Any
    sum: Any = field(init=False)

    def __post_init__(self) -> None:
        self.sum = self.image.flatten(1).sum(dim=1)


def default_dict(**leaves: Any) -> defaultdict[str, Any]:
    return defaultdict(list, leaves)


CONTAINERS = [dict, OrderedDict, UserDict, default_dict, Named, Sample, Derived]


def rows_of(container: Any) -> Rows:
    return Rows.of(container(image=INPUTS, ids=IDS))


# Leaves


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_keeps_its_kind_and_names_its_leaves(container: Any) -> None:
    rows = rows_of(container)
    assert len(rows) == 4
    assert list(rows.leaves)[:2] == ["image", "ids"]
    selected = rows.select([2, 0])
    assert type(selected.tree) is type(rows.tree)
    assert torch.equal(selected.leaves["image"], INPUTS[[2, 0]])
    assert selected.leaves["ids"].tolist() == [20, 0]
    assert torch.equal(rows.leaves["image"], INPUTS)


@pytest.mark.parametrize("container", [tuple, list])
def test_sequences_number_their_leaves(container: Any) -> None:
    rows = Rows.of(container([INPUTS, IDS]))
    assert list(rows.leaves) == ["0", "1"]
    assert type(rows.select([1]).tree) is container
    assert list(Rows.of(INPUTS).leaves) == [""]


def test_nested_leaves_are_named_by_their_path() -> None:
    rows = Rows.of({"text": {"ids": IDS, "mask": [IDS > 0, None]}, "image": Named(INPUTS, IDS)})
    assert list(rows.leaves) == ["text.ids", "text.mask.0", "image.image", "image.ids"]
    assert rows.tree["text"]["mask"][1] is rows.select([1]).tree["text"]["mask"][1] is None


@pytest.mark.parametrize("container", [list, tuple])
def test_strings_one_a_row_travel_with_their_row(container: Any) -> None:
    rows = Rows.of({"image": INPUTS, "file": container("abcd")})
    assert rows.names == {"image", "file"}
    assert list(rows.leaves) == ["image"]
    assert rows.select([3, 3, 0]).tree["file"] == container("dda")
    assert rows.select([1]).join([rows]).tree["file"] == container("babcd")


def test_shared_leaves_stay_shared_when_rows_are_taken() -> None:
    rows = Rows.of({"x": torch.zeros(5, 2), "anchors": torch.arange(3.0), "scale": torch.tensor(2.0), "size": [7, 7, 7]})
    assert rows.shared.keys() == {"anchors", "scale", "size"}
    # As many rows as there are anchors, and then more.
    again = rows.select([0, 1, 2]).select([0, 0, 1, 2])
    assert torch.equal(again.tree["anchors"], torch.arange(3.0))
    assert again.tree["size"] == [7, 7, 7]
    assert again.leaves.keys() == {"x"}
    moved = again.map(lambda leaf: leaf.double())
    assert {leaf.dtype for leaf in (moved.tree["x"], moved.tree["anchors"], moved.tree["scale"])} == {torch.float64}


def test_a_number_of_rows_says_which_leaves_have_them() -> None:
    tree = {"weights": torch.ones(3), "x": torch.zeros(5, 2)}
    assert len(Rows.of(tree)) == 3
    assert Rows.of(tree, 5).leaves.keys() == {"x"}


@pytest.mark.parametrize("tree", [None, 3, {}, [], ["a", "b"], {"a": torch.tensor(1.0)}, torch.zeros(())])
def test_trees_without_rows_are_refused(tree: object) -> None:
    with pytest.raises(ValueError, match="inputs: expected a batch with a tensor of some rows, got"):
        Rows.of(tree)


def test_what_came_is_named() -> None:
    with pytest.raises(ValueError, match="tensor of 5 rows") as caught:
        Rows.of({"image": INPUTS, "texts": list("abcdefg"), "meta": {"id": 3}}, 5)
    assert "image: torch.float32 (4, 2, 3); texts: list of 7; meta.id: int;" in str(caught.value)


# Rows


@PROPERTY
@given(rows=st.lists(st.integers(-4, 3), max_size=9))
def test_rows_are_selected_as_a_tensors_are(rows: list[int]) -> None:
    selected = rows_of(dict).select(rows)
    assert len(selected) == len(rows)
    assert torch.equal(selected.leaves["image"], INPUTS[torch.tensor(rows, dtype=torch.long)])
    assert torch.equal(selected.leaves["ids"], rows_of(dict).select(torch.tensor(rows)).leaves["ids"])


def test_a_mask_selects() -> None:
    assert rows_of(dict).select(IDS > 10).leaves["ids"].tolist() == [20, 30]


def test_leaves_are_replaced_and_the_rest_is_the_same() -> None:
    rows = rows_of(Sample)
    other = rows.replace({"image": -INPUTS})
    assert torch.equal(other.tree.image, -INPUTS)
    assert other.tree.ids is IDS
    assert rows.tree.image is INPUTS
    with pytest.raises(ValueError, match=r"expected names among \['image', 'ids'\], got \['picture'\]"):
        rows.replace({"picture": INPUTS})


def test_rows_are_joined_in_order() -> None:
    rows = rows_of(Sample)
    joined = rows.select([3]).join([rows, rows.select([0])])
    assert joined.leaves["ids"].tolist() == [30, 0, 10, 20, 30, 0]
    assert len(joined) == 6


@pytest.mark.parametrize("device", DEVICES)
def test_rows_move(device: str) -> None:
    moved = Rows.of({"x": INPUTS, "anchors": torch.zeros(7)}).to(device)
    assert moved.device.type == moved.tree["anchors"].device.type == device
    assert moved.select([0, 2]).device.type == device


# Probes


def test_batches_of_equal_shapes_are_one_group_and_probes_are_numbered_group_by_group() -> None:
    small, large = torch.arange(6.0).reshape(3, 2), torch.arange(8.0).reshape(2, 4)
    probes = Probes.of((small, torch.tensor([0, 1, 2])), (large, torch.tensor([3, 4])), (small[:1] + 50, torch.tensor([5])))
    assert [len(group) for group in probes.groups] == [4, 2]
    assert probes.starts == [0, 4]
    assert len(probes) == 6
    assert [group.targets.tree.tolist() for group in probes.groups] == [[0, 1, 2, 5], [3, 4]]
    assert probes.fingerprints == [*fingerprints(probes.groups[0].inputs), *fingerprints(probes.groups[1].inputs)]
    chosen = probes.select([5, 3, 0])
    assert [group.targets.tree.tolist() for group in chosen.groups] == [[5, 0], [4]]
    masked = probes.select(torch.tensor([False, False, False, False, True, False]))
    assert [group.targets.tree.tolist() for group in masked.groups] == [[3]]


def test_no_probes_still_know_what_they_would_be() -> None:
    probes = Probes.of((INPUTS, IDS)).select([])
    assert len(probes) == 0
    assert probes.groups[0].inputs.leaves[""].shape == (0, 2, 3)
    assert probes.device.type == "cpu"
    assert probes.fingerprints == []


def test_batches_with_other_shared_leaves_are_groups_of_their_own() -> None:
    batches = [({"x": INPUTS, "scale": scale}, IDS) for scale in (1.0, 2.0, 1.0)]
    assert [len(group) for group in Probes.of(*batches).groups] == [8, 4]


def test_a_leaf_that_does_not_follow_the_rows_in_one_batch_is_shared_in_all() -> None:
    anchors = torch.arange(4.0)
    probes = Probes.of(({"x": INPUTS, "anchors": anchors}, IDS), ({"x": INPUTS[:3], "anchors": anchors}, IDS[:3]))
    (group,) = probes.groups
    assert group.inputs.leaves.keys() == {"x"}
    assert len(group) == 7


def test_the_number_of_targets_says_what_the_rows_of_the_inputs_are() -> None:
    (group,) = Probes.of(({"anchors": torch.zeros(9), "x": INPUTS}, IDS)).groups
    assert group.inputs.leaves.keys() == {"x"}


def test_not_one_target_for_each_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one target for each input, got inputs .*\(4, 2, 3\) and targets torch.int64 \(3,\)"):
        Probes.of((INPUTS, IDS[:3]))


def test_probes_say_their_shapes() -> None:
    assert (
        repr(Probes.of(({"x": INPUTS, "file": list("abcd")}, IDS)))
        == "Probes(4 of x: torch.float32 (4, 2, 3); file: list of 4)"
    )


def test_probes_survive_a_safe_file() -> None:
    anchors, inputs = torch.arange(2.0), {"x": INPUTS, "file": list("abcd"), "more": (IDS, None, 3)}
    probes = Probes.of(({**inputs, "anchors": anchors}, IDS), ({**inputs, "x": INPUTS.double(), "anchors": anchors}, IDS))
    # As many rows in each group as there are anchors.
    probes = probes.select([1, 3, 5, 4])
    file = BytesIO()
    torch.save(probes.to_state(), file)
    file.seek(0)
    loaded = Probes.from_state(torch.load(file, weights_only=True))
    assert loaded.fingerprints == probes.fingerprints
    for group, other in zip(probes.groups, loaded.groups, strict=True):
        assert group.inputs.row_shapes == other.inputs.row_shapes
        assert group.inputs.tree["file"] == other.inputs.tree["file"]
        assert other.inputs.tree["more"][1:] == (None, 3)
        assert other.inputs.shared.keys() == {"anchors", "more.1", "more.2"}
        assert torch.equal(group.targets.tree, other.targets.tree)


@pytest.mark.parametrize("container", [OrderedDict, UserDict, Named, Sample])
def test_probes_in_other_containers_have_no_state(container: Any) -> None:
    assert Probes.of((container(image=INPUTS, ids=IDS), IDS)).to_state() is None
    copied = pickle.loads(pickle.dumps(Probes.of((container(image=INPUTS, ids=IDS), IDS))))
    assert len(copied.fingerprints) == 4


# Fingerprints


def prints(tree: Any) -> list[str]:
    return fingerprints(Rows.of(tree))


def test_equal_rows_have_equal_fingerprints() -> None:
    digests = prints(INPUTS)
    assert len(set(digests)) == 4
    assert prints(INPUTS.clone()) == digests
    assert prints(INPUTS[[2, 0, 2]]) == [digests[2], digests[0], digests[2]]


def test_any_other_content_has_another_fingerprint() -> None:
    changed = INPUTS.clone()
    changed[1, 0, 0] = changed[1, 0, 0].nextafter(torch.tensor(100.0))
    same = [one == other for one, other in zip(prints(INPUTS), prints(changed), strict=True)]
    assert same == [True, False, True, True]


@pytest.mark.parametrize(
    "other",
    [
        {"picture": INPUTS, "ids": IDS, "file": list("abcd")},
        {"image": INPUTS, "ids": IDS, "file": list("efgh")},
        {"image": INPUTS, "ids": IDS + 1, "file": list("abcd")},
        {"image": INPUTS.int(), "ids": IDS, "file": list("abcd")},
        {"image": INPUTS.reshape(4, 6), "ids": IDS, "file": list("abcd")},
        {"image": INPUTS.reshape(4, 3, 2), "ids": IDS, "file": list("abcd")},
    ],
    ids=["name", "string", "second leaf", "integers", "fewer axes", "other axes"],
)
def test_names_kinds_and_every_leaf_count(other: Any) -> None:
    assert set(prints({"image": INPUTS, "ids": IDS, "file": list("abcd")})).isdisjoint(prints(other))


def test_shared_leaves_do_not_count() -> None:
    one, other = (prints({"x": INPUTS, "scale": torch.tensor(scale)}) for scale in (1.0, 2.0))
    assert one == other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floating_point_dtypes_agree(dtype: torch.dtype) -> None:
    assert prints(INPUTS.to(dtype)) == prints(INPUTS)


@pytest.mark.parametrize("dtype", [torch.long, torch.uint8, torch.bool, torch.complex64])
def test_inputs_of_any_dtype_have_fingerprints(dtype: torch.dtype) -> None:
    first, second, third = prints(torch.tensor([[0, 1], [1, 1], [0, 1]]).to(dtype))
    assert first == third != second


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "same",
    [
        lambda inputs: inputs.to(memory_format=torch.channels_last),
        lambda inputs: inputs.transpose(1, 2).contiguous().transpose(1, 2),
        lambda inputs: inputs.repeat_interleave(2, dim=3)[..., ::2],
        lambda inputs: inputs.clone().requires_grad_(),
    ],
    ids=["channels last", "transposed", "strided", "requires grad"],
)
def test_device_and_memory_layout_do_not_matter(device: str, same: Any) -> None:
    images = torch.arange(48, dtype=torch.float32).reshape(2, 2, 3, 4)
    assert prints(same(images.to(device))) == prints(images)


def test_scalars_and_no_inputs() -> None:
    assert len(set(prints(torch.arange(3.0)))) == 3
    assert prints(torch.zeros(0, 3)) == []


def test_fingerprints_are_the_same_in_every_process() -> None:
    # A digest of its own would break files of reference models that were saved before.
    assert prints(torch.zeros(1, 2)) == ["21ff1b764ef3e705aee95fe1587a56a6c363c2a069fb1f34e4651c602452d207"]


# Settings in words


class Colour(Enum):
    RED = 1


class Setting:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Setting(a=1, _hidden=2, b="x", c=None), "Setting(a=1, b='x', c=None)"),
        (Setting(), "Setting()"),
        ([1, (2.5, {"k": True})], "[1, [2.5, {'k': True}]]"),
        ({3, 1}, "[1, 3]"),
        (torch.tensor([0.5]), "tensor(0.5)"),
        (torch.relu, "_VariableFunctionsClass.relu"),
        (partial(Setting, 1, b=2), "partial(Setting, [1], {'b': 2})"),
        (Colour.RED, "Colour.RED"),
        (torch.float32, "torch.float32"),
        (torch.device("cpu"), "device(type='cpu')"),
        (range(3), "range(0, 3)"),
        (Path("a"), f"{type(Path()).__name__}('a')"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_settings_are_said_without_addresses(value: Any, words: str) -> None:
    assert describe(value) == words


def test_tensors_are_said_by_shape_and_content() -> None:
    said = describe(INPUTS)
    assert said.startswith("tensor((4, 2, 3), ")
    assert said == describe(INPUTS.clone()) == describe(INPUTS.numpy()) != describe(INPUTS + 1)
    assert describe(np.float64(0.5)) == describe(0.5)


def test_batches_with_other_shared_leaves_are_of_another_kind() -> None:
    one, other = (Rows.of({"y": torch.arange(3), "w": torch.full((5,), weight)}) for weight in (1.0, 2.0))
    assert one.row_shapes == other.row_shapes
    assert one.kind != other.kind
    assert one.kind == Rows.of({"y": torch.arange(4), "w": torch.full((5,), 1.0)}).kind


def test_rows_may_be_on_another_axis_than_the_first() -> None:
    tree = {"x": torch.arange(24.0).reshape(4, 3, 2), "y": torch.tensor([0, 1, 2])}
    rows = Rows(tree, 3, {"x": 1, "y": 0}, frozenset({"y"}))
    assert rows.leaves.keys() == {"x"}
    torch.testing.assert_close(rows.leaves["x"], tree["x"].transpose(0, 1))
    some = rows.select([2, 0, 2])
    torch.testing.assert_close(some.tree["x"], tree["x"][:, [2, 0, 2]])
    torch.testing.assert_close(some.tree["y"], torch.tensor([2, 0, 2]))
    torch.testing.assert_close(rows.replace({"x": rows.leaves["x"] + 1}).tree["x"], tree["x"] + 1)
    torch.testing.assert_close(rows.join([some]).tree["x"], torch.cat([tree["x"], some.tree["x"]], dim=1))
    assert fingerprints(rows) == fingerprints(Rows.of({"x": tree["x"].transpose(0, 1)}))
    probes = Probes.joined(ProbeGroup(rows, Rows.of(tree["y"])))
    (back,) = Probes.from_state(probes.to_state()).groups
    assert (back.inputs.axes, back.inputs.aside) == (rows.axes, rows.aside)
    assert probes.fingerprints == Probes.from_state(probes.to_state()).fingerprints
