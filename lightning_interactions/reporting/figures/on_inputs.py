"""Interactions on the input that they are of: patches outlined, moments shaded, words marked, features named."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lightning_interactions.analysis import OneInteraction, StrongestInteractions
from lightning_interactions.game.axes import axis_of_channels
from lightning_interactions.game.players import AssignedPlayers, FeatureMapPatches, Players, Some, TimeSegments, Words
from lightning_interactions.records import Probes, Rows
from lightning_interactions.reporting.figures.cards import TEXT, TITLE, card, style
from lightning_interactions.reporting.figures.phases import BLUE, VERMILION
from lightning_interactions.reporting.figures.pictures import pixels_of, target_of

__all__ = ["input_figure"]

KINDS = (("generalizable", BLUE), ("non-generalizable", VERMILION))

PICTURES_A_KIND = 2
BARS_A_KIND = 3

MOST_CHANNELS = 6
"""Panels that a card has room for above each other."""

MOST_POINTS = 1000
"""Points of a line; a longer series is drawn by the least and the greatest value of short spans."""

LETTERS_A_LINE = 54
"""Letters of a monospaced font of 7 points that a card has room for."""

LINES_OF_TEXT = 6

LINES_OF_CARD = 15
"""Lines of text and rows of bars together."""

LETTERS_OF_LABEL = 58

LINE, BAR, GAP, SPACE = 0.5, 0.26, 0.14, 0.06
"""Height of a line of names, of a bar, of what is left below it, and of what is left above it."""

HARD_SPACE = "\u00a0"


@dataclass(frozen=True)
class Picture:
    """An image, and whose each pixel is.

    Attributes:
        pixels: ``[height, width]`` or ``[height, width, 3]``, in [0, 1].
        owners: ``[height, width]``; the player of each pixel, -1 for nobody.
    """

    pixels: Tensor
    owners: Int[Tensor, "height width"]


@dataclass(frozen=True)
class Course:
    """A series, and whose each moment is.

    Attributes:
        values: ``[channels, time]``.
        owners: ``[time]``; the player of each moment, -1 for nobody.
    """

    values: Float[Tensor, "channels time"]
    owners: Int[Tensor, " time"]


def input_figure(probe: Probes, players: Players, found: StrongestInteractions, title: str = "") -> Figure:
    """Draw the strongest interactions of both kinds on their input; for a card.

    Args:
        probe: The input, a single probe.
        players: The input variables.
        found: Its strongest interactions, of :func:`~lightning_interactions.analysis.strongest_interactions`.
        title: Which input it is; its target is added if that is one number.

    Returns:
        Of an image two pictures of each kind, in which the patches of an interaction are outlined; of a series its course, by
        channel, with the segments of an interaction shaded; of other inputs bars with the names of the players, and above them
        of a text its words, those of the strongest interaction of each kind marked.

    Raises:
        ValueError: If it is not a single probe.
    """
    if len(probe) != 1:
        raise ValueError(f"input_figure: expected a single probe, got {len(probe)}; select one")
    inputs = probe.groups[0].inputs
    figure = card()
    target = target_of(probe.groups[0])
    named = f"target {target}" if target else ""
    figure.suptitle(f"{title}{', ' if title and named else ''}{named}", fontsize=TITLE, parse_math=False)
    picture = _picture(players, inputs)
    if picture is not None:
        _draw_pictures(figure, picture, found)
        return figure
    course = _course(players, inputs)
    if course is not None:
        _draw_course(figure, course, found)
        return figure
    words = _words(players, inputs)
    if words is None:
        _draw_bars(figure.add_subplot(), players.labels(inputs)[0], found)
        return figure
    placed = _placed(words)
    lines = 1 + max((line for _, _, line, _ in placed), default=0)
    text, bars = figure.subplots(2, height_ratios=[lines, LINES_OF_CARD - lines])
    _draw_words(text, placed, lines, found)
    _draw_bars(bars, players.labels(inputs)[0], found)
    return figure


def _draw_pictures(figure: Figure, picture: Picture, found: StrongestInteractions) -> None:
    panels = figure.subplots(PICTURES_A_KIND, len(KINDS))
    # Outlines reach out of their pictures.
    figure.set_layout_engine("constrained", h_pad=0.06)
    for column, ((kind, color), interactions) in enumerate(zip(KINDS, _of_kinds(found), strict=True)):
        for row in range(PICTURES_A_KIND):
            axes = panels[row][column]
            axes.set_axis_off()
            if row >= len(interactions):
                axes.text(
                    0.5, 0.5, "none" if row == 0 else "", ha="center", va="center", fontsize=TEXT, transform=axes.transAxes
                )
            else:
                _outline(axes, picture, interactions[row], color)
            heading = f"{kind}\n" if row == 0 else ""
            effect = _effect(interactions[row], "patch") if row < len(interactions) else ""
            axes.set_title(f"{heading}{effect}", fontsize=TEXT, color=color, pad=4)


def _outline(axes: Axes, picture: Picture, one: OneInteraction, color: str) -> None:
    """Outline the patches of an interaction, and fade the rest."""
    axes.imshow(picture.pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    inside = torch.isin(picture.owners, torch.tensor(one.players))
    fade = torch.ones(*inside.shape, 4)
    fade[..., 3] = torch.where(inside, 0.0, 0.4)
    axes.imshow(fade.numpy(), interpolation="nearest")
    # Lines between pixels that belong to different players, one of which is in the interaction.
    owners = torch.where(inside, picture.owners, -2)
    padded = torch.nn.functional.pad(owners, (1, 1, 1, 1), value=-2)
    across, along = padded[1:-1, :-1] != padded[1:-1, 1:], padded[:-1, 1:-1] != padded[1:, 1:-1]
    lines = [[(x - 0.5, y - 0.5), (x - 0.5, y + 0.5)] for y, x in across.nonzero().tolist()]
    lines += [[(x - 0.5, y - 0.5), (x + 0.5, y - 0.5)] for y, x in along.nonzero().tolist()]
    axes.add_collection(LineCollection(lines, colors=color, linewidths=2.2, capstyle="projecting", clip_on=False))


def _draw_course(figure: Figure, course: Course, found: StrongestInteractions) -> None:
    """Draw a series once for each interaction, a panel a channel; of each kind two where there are few channels."""
    channels = min(len(course.values), MOST_CHANNELS)
    most = max(1, *(len(own) for own in _of_kinds(found)))
    blocks = min(most, PICTURES_A_KIND if PICTURES_A_KIND * channels <= MOST_CHANNELS else 1)
    panels = figure.subplots(blocks * channels, len(KINDS), sharex=True, sharey="row", squeeze=False)
    for column, ((kind, color), interactions) in enumerate(zip(KINDS, _of_kinds(found), strict=True)):
        for block in range(blocks):
            one = interactions[block] if block < len(interactions) else None
            own = [panels[block * channels + channel][column] for channel in range(channels)]
            for axes, values in zip(own, course.values, strict=False):
                _shade(axes, values, torch.isin(course.owners, torch.tensor(one.players if one else ())), color)
                axes.set_visible(one is not None or block == 0)
            heading = f"{kind}\n" if block == 0 else ""
            own[0].set_title(f"{heading}{_effect(one, 'segment') if one else 'none'}", fontsize=TEXT, color=color, pad=2)
        # A column may end before the other one, which has the numbers of time below it otherwise.
        [axes for axes in panels[:, column] if axes.get_visible()][-1].tick_params(labelbottom=True)
    for row, (left, _) in enumerate(panels):
        if channels > 1:
            left.set_ylabel(row % channels + 1, fontsize=TEXT, rotation=0, ha="right", va="center", weight="bold")
    if channels > 1:
        figure.align_ylabels(panels[:, 0])
        more = f", first {channels} of {len(course.values)}" if channels < len(course.values) else ""
        figure.supylabel(f"Channel{more}", fontsize=TEXT)
    figure.supxlabel("Time (steps)", fontsize=TEXT)


def _shade(axes: Axes, values: Float[Tensor, " time"], inside: Bool[Tensor, " time"], color: str) -> None:
    """Draw one channel, and shade the moments of an interaction."""
    shown = _thinned(values)
    for first, last in _runs(inside):
        axes.axvspan(first - 0.5, last + 0.5, color=color, alpha=0.25, linewidth=0)
    axes.plot(shown.numpy(), values[shown].numpy(), color="0.55", linewidth=0.8)
    axes.plot(shown.numpy(), values[shown].where(inside[shown], torch.nan).numpy(), color=color, linewidth=1.3)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(2, min_n_ticks=1))
    style(axes)
    axes.tick_params(labelsize=TEXT - 1.5)


def _thinned(values: Float[Tensor, " time"]) -> Int[Tensor, " points"]:
    """Choose the moments that a line is drawn through."""
    if len(values) <= MOST_POINTS:
        return torch.arange(len(values))
    parts = torch.arange(len(values)).tensor_split(MOST_POINTS // 2)
    ends = [part[end(values[part])] for part in parts for end in (torch.argmin, torch.argmax)]
    moments: Tensor = torch.stack(ends).unique()
    return moments


def _runs(inside: Bool[Tensor, " time"]) -> list[tuple[int, int]]:
    """List the first and the last of moments that follow each other."""
    edges = torch.nn.functional.pad(inside.int(), (1, 1)).diff()
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), ((edges == -1).nonzero()[:, 0] - 1).tolist(), strict=True))


def _placed(words: Sequence[tuple[str, int]]) -> list[tuple[str, int, int, int]]:
    """Put words onto lines: each with its player, line and column; what there is no room for becomes an ellipsis."""
    placed: list[tuple[str, int, int, int]] = []
    line, place = 0, 0
    for word, player in words:
        shown = textwrap.shorten(word, LETTERS_A_LINE, placeholder="…") or "…"
        is_last = line == LINES_OF_TEXT - 1
        if place + len(shown) > LETTERS_A_LINE - 2 * is_last:
            if is_last:
                return [*placed, ("…", -1, line, place)]
            line, place = line + 1, 0
        placed.append((shown, player, line, place))
        place += len(shown) + 1
    return placed


def _draw_words(axes: Axes, placed: Sequence[tuple[str, int, int, int]], lines: int, found: StrongestInteractions) -> None:
    """Write the text, and mark the words of the strongest interaction of each kind: bold on its colour, in a frame of it.

    A word of both has the colour of the first in a frame of the second.
    """
    axes.set_axis_off()
    marked = [set(one[0].players) if one else set() for one in _of_kinds(found)]
    for word, player, line, place in placed:
        colors = [color for (_, color), own in zip(KINDS, marked, strict=True) if player in own]
        x, y = place / LETTERS_A_LINE, 1 - (line + 0.5) / lines
        axes.text(
            x, y, word, family="monospace", fontsize=7, va="center", transform=axes.transAxes, parse_math=False,
            color="white" if colors else "black", weight="bold" if colors else "normal",
            bbox={"facecolor": colors[0], "edgecolor": colors[-1], "pad": 1.2, "linewidth": 1.6} if colors else None,
        )  # fmt: skip


def _draw_bars(axes: Axes, labels: Sequence[str], found: StrongestInteractions) -> None:
    """Draw effects as bars, with the players of each above it."""
    drawn = [
        (one, kind, color) for (kind, color), own in zip(KINDS, _of_kinds(found), strict=True) for one in own[:BARS_A_KIND]
    ]
    # Behind the names, which it would strike through.
    axes.axvline(0, color="black", linewidth=0.8, zorder=0.5)
    seen: set[str] = set()
    top = 0.0
    for one, kind, color in drawn:
        names = _on_two_lines(one, labels)
        height = LINE * len(names)
        axes.annotate(
            "\n".join(names),
            (0, top - height + SPACE),
            xycoords=("axes fraction", "data"),
            fontsize=TEXT - 1,
            linespacing=1.0,
            va="bottom",
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
        axes.barh(top - height - BAR / 2, one.effect, height=BAR, color=color, label=f"_{kind}" if kind in seen else kind)
        seen.add(kind)
        top -= height + BAR + GAP
    axes.set_yticks([])
    axes.set_ylim(min(top, -1), SPACE)
    axes.spines[["left"]].set_visible(False)
    axes.xaxis.set_major_locator(_few())
    style(axes, x="Effect (score units)")
    if drawn:
        axes.legend(
            fontsize=TEXT - 1, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, borderpad=0.1,
            handlelength=1.2, columnspacing=1.0,
        )  # fmt: skip
    else:
        axes.text(0.5, 0.5, "no salient interaction", transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)


def _few() -> MaxNLocator:
    return MaxNLocator(4, steps=[1, 2, 5, 10])


def _on_two_lines(one: OneInteraction, labels: Sequence[str]) -> list[str]:
    """Write the players of an interaction on at most two lines; long names lose their middle where they have to."""
    # A line ends between players where it can.
    names = [labels[player].replace(" ", HARD_SPACE) for player in one.players]
    joint = f"{HARD_SPACE}{one.effect_type.upper()} "
    lines: list[str] = []
    for longest in range(max(map(len, names)), 1, -1):
        cut = [_cut(name, longest) for name in names]
        lines = textwrap.wrap(joint.join(cut), LETTERS_OF_LABEL) or [""]
        if len(lines) <= 2:
            break
    return [line.replace(HARD_SPACE, " ") for line in lines[:2]]


def _cut(name: str, longest: int) -> str:
    """Leave out the middle of a name that is too long: names of columns often differ at their ends alone."""
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"


def _effect(one: OneInteraction, part: str) -> str:
    kind = f"{one.effect_type.upper()} of {len(one.players)}" if len(one.players) > 1 else f"1 {part}"
    return f"{kind}: {one.effect:+.2f}"


def _of_kinds(found: StrongestInteractions) -> tuple[tuple[OneInteraction, ...], tuple[OneInteraction, ...]]:
    return found.generalizable, found.non_generalizable


def _words(players: Players, inputs: Rows) -> list[tuple[str, int]] | None:
    """Return the words of a single text with their players, -1 for those that are none; ``None`` for other inputs."""
    if isinstance(players, Words):
        return [(word, player) for player, word in enumerate(players.labels(inputs)[0]) if word]
    if not isinstance(players, Some) or not isinstance(players.players, Words):
        return None
    (name,) = players.leaves(inputs)
    of_words, of_players = (one.assignments(inputs)[name][0].flatten().tolist() for one in (players.players, players))
    owner = dict(zip(of_words, of_players, strict=True))
    labels = players.players.labels(inputs)[0]
    return [(labels[word], owner[word]) for word in sorted(owner) if word >= 0]


def _course(players: Players, inputs: Rows) -> Course | None:
    """Return a single input as a series if its players are segments of time."""
    segments = players.players if isinstance(players, Some) else players
    if not isinstance(segments, TimeSegments) or not isinstance(players, AssignedPlayers):
        return None
    ((name, owners),) = players.assignments(inputs).items()
    series = inputs.leaves[name][0].detach().cpu().float()
    axis = segments.axis or (1 if owners.ndim == 2 or owners.shape[1] > 1 else 2)
    values = series[None] if series.ndim == 1 else series.movedim(axis - 1, 1)
    # Axes have no place for what is not finite.
    return Course(values.where(values.isfinite(), torch.nan), owners[0].flatten().cpu())


def _picture(players: Players, inputs: Rows) -> Picture | None:
    """Return a single input as an image if it is one."""
    if isinstance(players, FeatureMapPatches):
        images = [leaf for leaf in inputs.leaves.values() if leaf.ndim == 4 and leaf.is_floating_point()]
        grid = players.grid
        if len(images) != 1 or not grid.fits(images[0]):
            return None
        (image,) = images
        owners = grid.assignment(image)[None]
    else:
        if not isinstance(players, AssignedPlayers) or len(players.leaves(inputs)) != 1:
            return None
        ((name, owners),) = players.assignments(inputs).items()
        image = inputs.leaves[name]
    inner = players.players if isinstance(players, Some) else players
    channels = axis_of_channels(image, getattr(inner, "channels", None)) if image.ndim in (3, 4) else 0
    if image.ndim != (3 if channels is None else 4):
        return None
    owners = owners.reshape([1] * (image.ndim - owners.ndim) + list(owners.shape)).expand(image.shape)[0].cpu()
    return Picture(pixels_of(image, channels), owners if channels is None else owners.movedim(channels - 1, 0)[0])
