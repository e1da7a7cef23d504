"""Patches of the output of an inner layer as players; what comes before the layer runs once an input."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_interactions.game.chunks import is_out_of_memory
from lightning_interactions.game.players.base import Masking, Players
from lightning_interactions.game.players.image_patches import ImagePatches
from lightning_interactions.records import Rows
from lightning_interactions.records.trees import walk

__all__ = ["FeatureMapPatches"]

Run = Callable[[Rows], Any]

TRIED_ROWS = (2, 3)
"""A tensor belongs to the rows if its first axis is as long as there are rows, of both numbers."""

SAME_OUTPUT = 1e-3
"""How far, relative to the largest, outputs may be from those without stubs."""


class FeatureMapPatches(Players):
    """A grid of patches of the output of an inner layer, all channels together; nothing of the inputs is masked.

    Player ``r * cols + c`` is the patch in row ``r`` and column ``c``. The layer may return feature maps ``[inputs, channels,
    height, width]``, or the tokens ``[inputs, tokens, features]`` of a vision transformer: a square grid of them, with or
    without one class token before, which is never masked.

    What comes before the layer runs once an input, not once a coalition. While a model is evaluated, the largest of its
    submodules that end before the layer begins, and the layer itself, return what they returned before. That must be the same
    in every forward of an input, and the layer must be called once in each.

    Args:
        module: Dotted path of the layer in the model, such as ``"layer2"`` or ``"backbone.layer2.0"``.
        rows: Number of patches from top to bottom.
        cols: Number of patches from left to right.
        sample: Inputs as the model gets them, such as some hundred of the training data. Masked features are the mean over
            these inputs and all places, one number a channel, taken from the model that is measured. Zeros if left out.

    Raises:
        ValueError: If ``rows`` or ``cols`` is smaller than 1; or, in the evaluation, if the model has no such layer, does not
            call it exactly once in a forward, or it returns something else.
    """

    most_in_play = 16

    def __init__(self, module: str, rows: int, cols: int, sample: Any = None) -> None:
        self.module = module
        self.grid = ImagePatches(rows, cols)
        self.sample = sample

    def leaves(self, inputs: Rows) -> tuple[str, ...]:
        """Name no tensor: inputs stay as they are."""
        return ()

    def num_players(self, inputs: Rows) -> int:
        """Count the patches."""
        return self.grid.rows * self.grid.cols

    def mask(self, inputs: Rows, coalitions: Bool[Tensor, "inputs players"], baseline: Mapping[str, Tensor]) -> Rows:
        """Refuse: features can only be masked while a model runs; see :meth:`playing`."""
        raise TypeError(
            f"{self!r} masks features inside a model, which only Game can evaluate, but was asked to mask inputs; pass players "
            "that mask inputs, such as ImagePatches"
        )

    @contextmanager
    def playing(
        self,
        model: nn.Module,
        run: Run,
        inputs: Rows,
        baseline: Mapping[str, Tensor],
        largest_batch: int | None = None,
    ) -> Iterator["FeaturesInPlay"]:
        """Remember what the layer and what comes before it return, and put stubs into their places; see :class:`Players`."""
        layer = {self.module: self._layer_of(model)}
        candidates = _candidates(model, self.module)
        sizes = [min(size, largest_batch or size) for size in TRIED_ROWS]
        tried = [inputs.select([0] * size) for size in sizes]
        self._check(layer, tried[-1], run)
        before = _all_that_end_before(self.module, candidates, [_timed(run, rows, layer | candidates) for rows in tried])
        fill = self._mean_feature(layer, run, largest_batch)
        # Stubs return views that repeat a row; else copies of it; else only the layer has one.
        for stubbed, views in ((layer | before, True), (layer | before, False), (layer, False)):
            remembered = _remembered(run, inputs, stubbed, largest_batch or len(inputs))
            play = FeaturesInPlay(self, inputs, remembered, self._assignment(remembered[self.module]), fill, views)
            originals = [(module, module.forward) for module in stubbed.values()]
            with _forwards([(module, play.stub(name)) for name, module in stubbed.items()]):
                if play.is_right(run, originals, sizes[-1]):
                    yield play
                    return
        raise ValueError(
            f"{self!r}: expected outputs that follow from the input and the layer's output, but with the very same features "
            "the model returned something else; it is random or keeps a state, so use players that mask its inputs"
        )

    def _layer_of(self, model: nn.Module) -> nn.Module:
        modules: dict[str, nn.Module] = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
        layer = modules.get(self.module)
        if layer is None or isinstance(layer, torch.jit.ScriptModule):
            last = self.module.rpartition(".")[2]
            like = [name for name in modules if name.rpartition(".")[2] == last] or [*dict(model.named_children())]
            raise ValueError(
                f"players: {self!r} expects a layer named {self.module!r} in {type(model).__name__} that is not scripted, got "
                f"{'none' if layer is None else 'a scripted one'}; there are {like[:20]}"
            )
        return layer

    def _check(self, layer: Mapping[str, nn.Module], rows: Rows, run: Run) -> None:
        """Refuse a layer that is not called once, or whose output has no such patches."""
        outputs = _recorded(run, rows, layer)[self.module]
        if len(outputs) != 1:
            raise ValueError(
                f"players: {self!r} expects a layer that is called once in a forward of {len(rows)} rows, got {len(outputs)} "
                "calls; name a layer around it that is called once"
            )
        (output,) = outputs
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if len(shape) not in (3, 4) or shape[0] != len(rows) or not output.is_floating_point() or self._places(shape) is None:
            got = f"{output.dtype} {shape}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"players: {self!r} expects a layer that returns feature maps [{len(rows)}, channels, height, width] or tokens "
                f"[{len(rows)}, tokens, features] on a square grid, with or without a class token, of at least "
                f"{self.grid.rows}x{self.grid.cols} places, got {got}; name another layer, or choose fewer patches"
            )

    def _places(self, shape: Sequence[int]) -> tuple[int, int, int] | None:
        """Return height and width of the grid of places, and how many tokens come before; ``None`` if there is none."""
        before, (height, width) = 0, shape[-2:]
        if len(shape) == 3:
            height = width = math.isqrt(shape[1])
            before = shape[1] - height * width
        return (height, width, before) if height >= self.grid.rows and width >= self.grid.cols and before in (0, 1) else None

    def _assignment(self, features: Tensor) -> Int[Tensor, " places"]:
        """Say which player each place of a row belongs to; -1 for a class token."""
        places = self._places(features.shape)
        assert places is not None
        height, width, before = places
        grid = self.grid.assignment(features.new_zeros(1, 1, height, width)).flatten()
        return torch.cat([grid.new_full((before,), -1), grid])

    def _mean_feature(
        self, layer: Mapping[str, nn.Module], run: Run, largest_batch: int | None
    ) -> Float[Tensor, " channels"] | None:
        if self.sample is None:
            return None
        rows = Rows.of(self.sample)
        weight = next((one for one in layer[self.module].parameters() if one.is_floating_point()), None)
        if weight is not None:
            like = weight  # Not None in the function below, either.
            rows = rows.map(lambda leaf: leaf.to(like) if leaf.is_floating_point() else leaf.to(like.device))
        chunk = min(self.most_in_play, largest_batch or self.most_in_play)
        output = _remembered(run, rows, layer, chunk)[self.module]
        masked = self._assignment(output) >= 0
        return _features_of(output)[:, masked].double().mean(dim=(0, 1))


class FeaturesInPlay(Masking):
    """Features of some inputs and one model that are masked many times.

    Args:
        players: The patches.
        inputs: The inputs in play.
        remembered: What their layer and some modules before it return for each input, by name.
        assignment: Which player each place belongs to; -1 for none.
        fill: What masked features are replaced with, one number a channel; zeros if ``None``.
        views: Whether modules before the layer may return views that repeat a row.
    """

    def __init__(
        self,
        players: FeatureMapPatches,
        inputs: Rows,
        remembered: Mapping[str, Tensor],
        assignment: Int[Tensor, " places"],
        fill: Float[Tensor, " channels"] | None,
        views: bool,
    ) -> None:
        super().__init__(players, inputs, {})
        self.layer = players.module
        self.remembered = remembered
        self.assignment = assignment
        self.fill = fill
        self.views = views
        # What the next forward is about.
        self._rows = torch.zeros(0, dtype=torch.long)
        self._coalitions = torch.zeros(0, 0, dtype=torch.bool)

    def masked(self, rows: Int[Tensor, " masked"], coalitions: Bool[Tensor, "masked players"]) -> Rows:
        """Tell the stubs what the next forward is about, and return the inputs as they are; see :class:`Masking`."""
        self._rows, self._coalitions = rows, coalitions
        return self._selected(rows)

    def at_baseline(self) -> Bool[Tensor, "inputs players"]:
        """Say whose features have the baseline value anyway; see :class:`Masking`."""
        differs = _features_of(self.remembered[self.layer] != self._filling).any(dim=2)
        players = torch.arange(self.players.num_players(self.inputs), device=differs.device)
        return ~(differs[:, None] & (self.assignment == players[:, None])).any(dim=2)

    def stub(self, name: str) -> Callable[..., Tensor]:
        """Make what stands in for a module's ``forward``."""
        return self._masked if name == self.layer else lambda *_args, **_kwargs: self._repeated(name)

    def is_right(self, run: Run, originals: Sequence[tuple[nn.Module, Callable[..., Any]]], num_rows: int) -> bool:
        """Say whether stubs give the outputs of an unmasked input that there are without them, and stay as they are."""
        last = len(self.inputs) - 1
        known = {name: tensor[last].clone() for name, tensor in self.remembered.items()}
        rows = torch.full((num_rows,), last)
        num_players = self.players.num_players(self.inputs)
        everybody = torch.ones(num_rows, num_players, dtype=torch.bool, device=self.assignment.device)
        repeated = self.masked(rows, everybody).map(lambda leaf: leaf.clone(memory_format=torch.contiguous_format))
        try:
            found = run(repeated)
        except Exception as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            return False  # Such as one that writes into a view that repeats a row, or wants another view of it.
        if not all(torch.equal(self.remembered[name][last], tensor) for name, tensor in known.items()):
            return False
        # After the stubs: a module may have left something for a later one outside of its output.
        with _forwards(originals):
            expected = run(self.inputs.select(rows))
        return _are_close(found, expected)

    @property
    def _is_one_row(self) -> bool:
        return len(self._rows) > 1 and int(self._rows[0]) == int(self._rows[-1])

    @cached_property
    def _filling(self) -> Tensor:
        features = self.remembered[self.layer]
        if self.fill is None:
            return features.new_zeros(())
        return self.fill.to(features).reshape(-1, *[1] * (2 * (features.ndim == 4)))

    def _of_rows(self, name: str) -> Tensor:
        known = self.remembered[name]
        if self._is_one_row:
            return known[int(self._rows[0])].expand(len(self._rows), *known.shape[1:])
        return known[self._rows.to(known.device)]

    def _repeated(self, name: str) -> Tensor:
        own = self._of_rows(name)
        return own if self.views else own.contiguous()

    def _masked(self, *_args: Any, **_kwargs: Any) -> Tensor:
        features = self._of_rows(self.layer)
        keep = self._coalitions[:, self.assignment.clamp(min=0)] | (self.assignment < 0)
        keep = keep.reshape(len(keep), 1, *features.shape[2:]) if features.ndim == 4 else keep[:, :, None]
        return torch.where(keep, features, self._filling)


@dataclass
class Calls:
    """When a module was called in one forward.

    Attributes:
        begins: Times at which it began.
        ends: Times at which it ended.
        is_of_rows: Whether all it returned were tensors whose first axis is the row.
    """

    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    is_of_rows: bool = True


def _candidates(model: nn.Module, path: str) -> dict[str, nn.Module]:
    """Name the modules that are neither around a layer nor inside it, nor the layer itself."""
    modules = dict(model.named_modules(remove_duplicate=False))
    around = {id(module) for name, module in modules.items() if not name or path == name or path.startswith(f"{name}.")}
    inside = {id(module) for module in modules[path].modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if id(module) not in around | inside and not isinstance(module, torch.jit.ScriptModule)
    }


def _all_that_end_before(
    layer: str, candidates: Mapping[str, nn.Module], forwards: Sequence[Mapping[str, Calls]]
) -> dict[str, nn.Module]:
    """Choose the largest modules that are called once, end before a layer begins, and return a tensor of rows."""

    def fits(calls: Mapping[str, Calls], name: str) -> bool:
        own = calls[name]
        return len(own.begins) == 1 and own.is_of_rows and own.ends != [] and own.ends[0] < calls[layer].begins[0]

    chosen: dict[str, nn.Module] = {}
    for name, module in candidates.items():
        parts = name.split(".")
        outer = {".".join(parts[:depth]) for depth in range(1, len(parts))}
        if outer.isdisjoint(chosen) and all(fits(calls, name) for calls in forwards):
            chosen[name] = module
    return chosen


def _timed(run: Run, rows: Rows, modules: Mapping[str, nn.Module]) -> dict[str, Calls]:
    """Run a model on rows, and say when each module was called."""
    calls = {name: Calls() for name in modules}
    time = itertools.count()

    def timed(forward: Callable[..., Any], own: Calls) -> Callable[..., Any]:
        def run_and_note(*args: Any, **kwargs: Any) -> Any:
            own.begins.append(next(time))
            output = forward(*args, **kwargs)
            own.ends.append(next(time))
            own.is_of_rows &= type(output) is Tensor and output.ndim > 0 and len(output) == len(rows)
            return output

        return run_and_note

    with _forwards([(module, timed(module.forward, calls[name])) for name, module in modules.items()]):
        run(rows)
    return calls


def _recorded(run: Run, rows: Rows, modules: Mapping[str, nn.Module]) -> dict[str, list[Any]]:
    """Run a model on rows, and keep what some modules return."""
    outputs: dict[str, list[Any]] = {name: [] for name in modules}

    def kept(forward: Callable[..., Any], own: list[Any]) -> Callable[..., Any]:
        def run_and_keep(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            # What follows may write into it.
            own.append(output.detach().clone() if isinstance(output, Tensor) else output)
            return output

        return run_and_keep

    with _forwards([(module, kept(module.forward, outputs[name])) for name, module in modules.items()]):
        run(rows)
    return outputs


def _remembered(run: Run, rows: Rows, modules: Mapping[str, nn.Module], chunk: int) -> dict[str, Tensor]:
    """Keep what some modules return for each row."""
    chunks = [_recorded(run, rows.select(own), modules) for own in torch.arange(len(rows)).split(chunk)]
    for name in modules:
        if any(len(outputs[name]) != 1 for outputs in chunks):
            raise ValueError(
                f"players: expected that every forward calls {name!r} once, but its calls depend on the inputs; use players "
                "that mask the inputs"
            )
    return {name: torch.cat([outputs[name][0] for outputs in chunks]) for name in modules}


@contextmanager
def _forwards(others: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Run the body with another ``forward`` of some modules."""
    before = [(module, vars(module).get("forward")) for module, _ in others]
    try:
        for module, forward in others:
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before:
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own


def _features_of(output: Tensor) -> Tensor:
    """Bring feature maps or tokens into one order: ``[rows, places, channels]``."""
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


def _are_close(found: Any, expected: Any) -> bool:
    """Compare the tensors of two outputs."""
    ours, theirs = ([leaf for _, leaf in walk(output) if isinstance(leaf, Tensor)] for output in (found, expected))
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and _is_close(one, other) for one, other in zip(ours, theirs, strict=True)
    )


def _is_close(found: Tensor, expected: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    # Other numbers of rows are rounded differently.
    tolerance = max(SAME_OUTPUT, 8 * torch.finfo(expected.dtype).eps)
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)
