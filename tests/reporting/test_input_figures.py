"""Interactions on the input that they are of."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_interactions.analysis import OneInteraction, StrongestInteractions
from lightning_interactions.game.players import (
    AssignedPlayers,
    CustomPlayers,
    Evenly,
    FeatureGroups,
    FeatureMapPatches,
    ImagePatches,
    Players,
    Some,
    TimeSegments,
    Tokens,
    Words,
)
from lightning_interactions.records import Probes, Rows
from lightning_interactions.reporting import input_figure
from lightning_interactions.reporting.figures.phases import BLUE, VERMILION
from tests.game.players.vocabularies import WORD_PIECE
from tests.helpers.figures import legend_labels, rendered

AND = OneInteraction((0, 1), "and", 1.5, 1.0)
OR = OneInteraction((1, 2), "or", -0.5, 0.0)
ALONE = OneInteraction((2,), "and", 0.25, 1.0)
FOUND = StrongestInteractions((AND, ALONE), (OR,))


def probe(inputs: Any, target: Any = 3) -> Probes:
    return Probes.of((inputs, torch.tensor([target])))


def edges(axes: Axes) -> set[tuple[tuple[float, float], ...]]:
    (lines,) = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    return {tuple(sorted(map(tuple, segment.tolist()))) for segment in lines.get_segments()}


def box(rows: Sequence[int], columns: Sequence[int]) -> set[tuple[tuple[float, float], ...]]:
    """The outline of a rectangle of pixels, pixel by pixel; ends are not in it."""
    (top, bottom), (left, right) = rows, columns
    across = {((x - 0.5, y - 0.5), (x + 0.5, y - 0.5)) for x in range(left, right) for y in (top, bottom)}
    return across | {((x - 0.5, y - 0.5), (x - 0.5, y + 0.5)) for y in range(top, bottom) for x in (left, right)}


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("last", [False, True])
def test_patches_are_outlined_on_images(channels: int, last: bool) -> None:
    image = torch.rand(1, channels, 6, 6)
    players = ImagePatches(2, 2, channels="last" if last else "first")
    figure = input_figure(probe(image.movedim(1, -1) if last else image), players, FOUND, "Probe 7")
    assert figure.get_suptitle() == "Probe 7, target 3"
    left, right, below, nothing = figure.axes
    assert edges(left) == box((0, 3), (0, 3)) | box((0, 3), (3, 6))
    assert edges(right) == box((0, 3), (3, 6)) | box((3, 6), (0, 3))
    assert edges(below) == box((3, 6), (0, 3))
    assert not nothing.collections
    assert left.get_title() == "generalizable\nAND of 2: +1.50"
    assert right.get_title() == "non-generalizable\nOR of 2: -0.50"
    assert below.get_title() == "1 patch: +0.25"
    assert (to_hex(left.collections[0].get_edgecolor()[0]).upper(), right.title.get_color()) == (BLUE, VERMILION)
    shown = torch.as_tensor(left.get_images()[0].get_array().data)
    assert shown.shape == ((6, 6, 3) if channels in (3, 4) else (6, 6))
    assert (float(shown.min()), float(shown.max())) == (0.0, 1.0) or channels == 4
    assert len(rendered(figure)) > 1000


@pytest.mark.parametrize(
    ("players", "image"),
    [
        (ImagePatches(2, 2, channels="none"), torch.rand(1, 6, 6)),
        (FeatureMapPatches("layer", 2, 2), torch.rand(1, 3, 6, 6)),
        (CustomPlayers(lambda tensor: (torch.arange(6) // 2).expand(tensor.shape[-2], 6), 3), torch.rand(1, 3, 6, 6)),
        (Some(ImagePatches(2, 2), 3, Evenly()), torch.rand(1, 3, 6, 6)),
    ],
    ids=["grey", "inner layer", "superpixels", "some patches"],
)
def test_whatever_assigns_pixels_is_outlined(players: Players, image: Tensor) -> None:
    figure = input_figure(probe(image), players, FOUND)
    assert len(figure.axes) == 4
    assert all(edges(axes) for axes in figure.axes[:3])
    assert len(rendered(figure)) > 1000


def bar_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("players", "inputs", "labels"),
    [
        (
            FeatureGroups(features=["age", "bmi $x_1$", "<b>"]),
            torch.tensor([[0.5, 2.0, 3.0]]),
            ["age = 0.5 AND bmi $x_1$ = 2", "<b> = 3", "bmi $x_1$ = 2 OR <b> = 3"],
        ),
        (
            ImagePatches(2, 2, depth=2),
            torch.zeros(1, 1, 4, 4, 4),
            [
                "layer 1, row 1, column 1 AND layer 1, row 1, column 2",
                "layer 1, row 2, column 1",
                "layer 1, row 1, column 2 OR layer 1, row 2, column 1",
            ],
        ),
    ],
    ids=["table", "volume"],
)
def test_players_of_other_inputs_are_named_on_bars(players: Players, inputs: Tensor, labels: list[str]) -> None:
    figure = input_figure(probe(inputs), players, FOUND)
    (axes,) = figure.axes
    assert bar_labels(axes) == labels
    assert [bar.get_width() for bars in axes.containers for bar in bars] == [1.5, 0.25, -0.5]
    assert legend_labels(axes) == ["generalizable", "non-generalizable"]
    assert axes.get_xlabel() == "Effect (score units)"
    assert len(rendered(figure)) > 1000


def shaded(axes: Axes) -> list[tuple[float, float]]:
    """First and last moments of what is shaded."""
    return [(box.get_x(), box.get_x() + box.get_width()) for box in axes.patches if isinstance(box, Rectangle)]


@pytest.mark.parametrize(
    ("players", "series"),
    [
        (TimeSegments(3), torch.randn(1, 12)),
        (TimeSegments(3), torch.randn(1, 2, 12)),
        (TimeSegments(3), torch.randn(1, 12, 2)),
        (TimeSegments(3, axis=2), torch.randn(1, 3, 12).half()),
        (Some(TimeSegments(6), 3, Evenly()), torch.randn(1, 1, 12)),
    ],
    ids=["one", "channels first", "channels last", "axis given", "some segments"],
)
def test_segments_are_shaded_on_series(players: AssignedPlayers, series: Tensor) -> None:
    figure = input_figure(probe(series), players, FOUND, "Probe 7")
    channels = 1 if series.ndim == 2 else sum(series.shape[1:]) - 12
    panels = [figure.axes[first : first + 2] for first in range(0, len(figure.axes), 2)]
    assert len(panels) == 2 * channels
    whole = series[0].float().reshape(-1, 12) if series.shape[-1] == 12 else series[0].T
    ((_, owners),) = players.assignments(Rows.of(series)).items()
    for row, (left, right) in enumerate(panels):
        line = torch.tensor(left.get_lines()[0].get_ydata())
        assert torch.equal(line, whole[row % channels])
        kept = torch.tensor(AND.players if row < channels else ALONE.players)
        moments = {moment for first, last in shaded(left) for moment in range(round(first + 0.5), round(last + 0.5))}
        assert moments == set(torch.isin(owners.flatten(), kept).nonzero()[:, 0].tolist())
        assert right.get_visible() is (row < channels)
    assert panels[0][0].get_title() == "generalizable\nAND of 2: +1.50"
    assert panels[channels][0].get_title() == "1 segment: +0.25"
    assert (panels[0][0].get_lines()[1].get_color(), panels[0][1].get_lines()[1].get_color()) == (BLUE, VERMILION)
    assert len(rendered(figure)) > 1000


@pytest.mark.slow
def test_of_many_channels_the_first_are_drawn_and_once() -> None:
    figure = input_figure(probe(torch.randn(1, 9, 40)), TimeSegments(4), FOUND)
    assert len(figure.axes) == 12
    assert figure.get_supylabel() == "Channel, first 6 of 9"
    assert len(rendered(figure)) > 1000


def test_a_long_series_keeps_its_peaks_and_odd_values_leave_gaps() -> None:
    series = torch.randn(1, 1, 100_000, generator=torch.Generator().manual_seed(0))
    series[0, 0, 70_001], series[0, 0, 30_000], series[0, 0, :10] = 50.0, torch.inf, torch.nan
    figure = input_figure(probe(series), TimeSegments(5), FOUND)
    line = torch.tensor(figure.axes[0].get_lines()[0].get_ydata())
    assert len(line) <= 1000
    assert float(line.nan_to_num().max()) == 50.0
    assert len(rendered(figure)) > 1000


@pytest.mark.parametrize("players", [Words(tokenizer=WORD_PIECE), Tokens(3, tokenizer=WORD_PIECE, choice=Evenly())], ids=str)
def test_words_are_marked(players: Players) -> None:
    ids = torch.tensor([WORD_PIECE("[CLS] the play ##ing dog [SEP] [PAD]")])
    figure = input_figure(probe({"ids": ids, "attention_mask": (ids > 0).long()}), players, FOUND)
    text, bars = figure.axes
    words = {word.get_text(): word.get_bbox_patch() for word in text.texts}
    assert list(words) == ["the", "playing", "dog"]
    colors = {
        word: None if patch is None else (to_hex(patch.get_facecolor()).upper(), to_hex(patch.get_edgecolor()).upper())
        for word, patch in words.items()
    }
    # The second word is in the strongest of both kinds.
    assert colors == {"the": (BLUE, BLUE), "playing": (BLUE, VERMILION), "dog": (VERMILION, VERMILION)}
    assert bar_labels(bars) == ["the AND playing", "dog", "playing OR dog"]
    assert len(rendered(figure)) > 1000


def test_long_texts_end_in_dots() -> None:
    ids = torch.randint(5, 13, (1, 200), generator=torch.Generator().manual_seed(0))
    figure = input_figure(probe(ids), Words(), FOUND)
    shown = [word.get_text() for word in figure.axes[0].texts]
    assert shown[-1] == "…"
    assert len(shown) < 80
    rendered(figure)


def test_nothing_found_is_said() -> None:
    nothing = StrongestInteractions((), ())
    picture = input_figure(probe(torch.rand(1, 1, 4, 4)), ImagePatches(2, 2), nothing)
    assert [text.get_text() for text in picture.axes[0].texts] == ["none"]
    assert len(rendered(picture)) > 1000
    series = input_figure(probe(torch.rand(1, 2, 12)), TimeSegments(3), nothing)
    assert [axes.get_title() for axes in series.axes] == ["generalizable\nnone", "non-generalizable\nnone", "", ""]
    assert len(rendered(series)) > 1000
    bars = input_figure(probe(torch.rand(1, 3)), FeatureGroups(), nothing)
    assert bar_labels(bars.axes[0]) == ["no salient interaction"]
    assert len(rendered(bars)) > 1000


@pytest.mark.parametrize(("target", "title"), [(0.123456, "target 0.1235"), ([1, 2], "")])
def test_only_a_target_that_is_one_number_is_said(target: Any, title: str) -> None:
    assert input_figure(probe(torch.rand(1, 3), target), FeatureGroups(), FOUND).get_suptitle() == title


def test_several_probes_are_refused() -> None:
    several = Probes.of((torch.rand(2, 3), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="expected a single probe, got 2"):
        input_figure(several, FeatureGroups(), FOUND)


def test_long_names_stand_on_two_lines_that_tell_interactions_apart() -> None:
    names = [f"a rather long name of column {letter}" for letter in "ABCDEFG"]
    ones = [OneInteraction(players, "and", 1.0, 1.0) for players in ((0, 1, 2), (0, 1, 3), (0, 1, 2, 3, 4, 5, 6), (0,))]
    players = FeatureGroups(features=names)
    figure = input_figure(probe(torch.zeros(1, 7)), players, StrongestInteractions(tuple(ones[:3]), (ones[3],)))
    (axes,) = figure.axes
    labels = bar_labels(axes)
    assert len(set(labels)) == 4
    assert all(len(label.splitlines()) <= 2 for label in labels)
    assert [label.count(" AND") for label in labels] == [2, 2, 6, 0]
    assert labels[3] == "a rather long name of column A = 0"


def test_names_on_bars_neither_touch_each_other_nor_lie_behind_the_zero_line() -> None:
    ones = tuple(OneInteraction((0, 1, 2, 3, 4, 5, 6), "or", effect, 0.5) for effect in (3.0, -2.0, 1.0))
    ids = torch.arange(100, 107)[None]
    figure = input_figure(probe(ids), Tokens(7), StrongestInteractions(ones, ones))
    rendered(figure)
    text, bars = figure.axes
    boxes = [one.get_window_extent() for one in bars.texts]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
    zero = next(line for line in bars.lines if set(line.get_xdata()) == {0})
    assert all(one.get_zorder() > zero.get_zorder() for one in bars.texts)
    assert text.get_window_extent().y0 >= bars.get_window_extent().y1
