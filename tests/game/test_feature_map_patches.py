import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_interactions import InteractionMeter
from lightning_interactions.evidence import ReferenceModels
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureMapPatches
from lightning_interactions.game.steps import OwnStep, on_stage
from lightning_interactions.game.tasks import Classification
from lightning_interactions.records import Probes, Rows

NUM_INPUTS, NUM_CLASSES, GRID = 3, 3, (2, 2)


def block(channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU())


class Counted(nn.Module):
    """Runs a module and counts the rows that it gets."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.module(x)


class Residual(nn.Module):
    """Modules and functions before the layer, some of them written into, and a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = Counted(block(4))
        self.layer2 = block(4, 2)
        self.down = nn.Conv2d(4, 4, 1, 2)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = functional.max_pool2d(self.layer1(x), 3, 1, 1)
        x = self.layer2(x) + self.down(x)
        return self.head(functional.relu(x).mean(dim=(2, 3)))


class Nested(nn.Module):
    """A layer deep inside of a backbone that a dictionary goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"first": Counted(nn.Conv2d(1, 4, 3, 1, 1)), "second": nn.Sequential(block(4), block(4))})
        self.head = nn.Linear(4 * 36, NUM_CLASSES)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.backbone["second"](self.backbone["first"](batch["image"]))
        return self.head(x.view(len(x), -1) * batch["factor"][:, None])


class ViewsAndWrites(nn.Module):
    """What a module returns is asked for another view and written into by a function."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.first = Counted(nn.Conv2d(1, 4, 3, 1, 1))
        self.second = nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Linear(4, NUM_CLASSES)
        self.writes = writes

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x.add_(0.5).relu_() if self.writes else x.view(-1).view(len(x), 4, 6, 6)
        return self.head(self.second(x).mean(dim=(2, 3)))


class LeftBehind(nn.Module):
    """A module leaves something for a later one in an attribute."""

    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.skip = x.amax(dim=(1, 2, 3))
            return self.conv(x)

    def __init__(self) -> None:
        super().__init__()
        self.first = self.Leaves()
        self.second = nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x)).relu().mean(dim=(2, 3))
        return self.head(out * self.first.skip[:, None])


class Transformer(nn.Module):
    """Patches as tokens, with a class token before them."""

    def __init__(self, class_token: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if class_token else None
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        for layer in self.blocks:
            x = layer(x)
        return self.head(x[:, 0])


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def images(num_inputs: int = NUM_INPUTS) -> Tensor:
    return torch.randn(num_inputs, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def game_of(players: FeatureMapPatches, inputs: Any = None, batch_size: int | None = None) -> Game:
    inputs = images() if inputs is None else inputs
    return Game(
        Probes.of((inputs, torch.arange(len(Rows.of(inputs))) % NUM_CLASSES)), players, {}, Classification(), batch_size
    )


@contextmanager
def masked(layer: nn.Module, keep: Tensor, fill: Tensor) -> Iterator[None]:
    """Mask what a layer returns: ``keep`` broadcasts to it."""
    hook = layer.register_forward_hook(lambda _module, _args, output: torch.where(keep, output, fill))
    try:
        yield
    finally:
        hook.remove()


def naive_values(model: nn.Module, game: Game, places: Tensor, fill: Tensor | None = None) -> Tensor:
    """Run everything in full, one input and one coalition at a time.

    Args:
        places: Player of each place, broadcasts to the layer's output; -1 for none.
    """
    layer, fill = model.get_submodule(game.players.module), torch.zeros(()) if fill is None else fill
    rows = []
    for row in range(len(game.probes)):
        (group,) = game.probes.select([row]).groups
        values = []
        for coalition in coalition_masks(game.num_players):
            keep = torch.cat([coalition, torch.tensor([True])])[places]
            with torch.no_grad(), masked(layer, keep, fill):
                values.append(game.task.scores(model, group.inputs.tree, group.targets.tree))
        rows.append(torch.cat(values))
    return torch.stack(rows)


def grid(size: int, rows: int = GRID[0], cols: int = GRID[1]) -> Tensor:
    line = torch.arange(size)
    return (line * rows // size)[:, None] * cols + line * cols // size


def assert_equal(model: nn.Module, game: Game, places: Tensor, fill: Tensor | None = None) -> None:
    before = [dict(vars(module)) for module in model.modules()]
    values = game.values(model)
    torch.testing.assert_close(values, naive_values(model, game, places, fill), rtol=1e-4, atol=1e-5)
    assert values.std(dim=1).min() > 1e-3
    for module, attributes in zip(model.modules(), before, strict=True):
        assert vars(module).keys() - {"skip"} == attributes.keys() - {"skip"}


@pytest.mark.parametrize("batch_size", [None, 1, 5, 16, 64])
def test_values_are_those_of_a_hook_on_the_layer(batch_size: int | None) -> None:
    model = seeded(Residual)
    assert_equal(model, game_of(FeatureMapPatches("layer2", *GRID), batch_size=batch_size), grid(3))


@pytest.mark.parametrize(
    ("make", "module", "size"),
    [
        (Residual, "stem", 6),
        (Residual, "layer1", 6),
        (Residual, "layer1.module", 6),
        (Residual, "layer1.module.1", 6),
        (Residual, "layer2.0", 3),
        (Residual, "down", 3),
        (lambda: ViewsAndWrites(True), "second", 6),
        (lambda: ViewsAndWrites(False), "second", 6),
        (LeftBehind, "second", 6),
    ],
)
def test_any_layer_of_any_module_can_be_masked(make: Callable[[], nn.Module], module: str, size: int) -> None:
    assert_equal(seeded(make), game_of(FeatureMapPatches(module, *GRID)), grid(size))


@pytest.mark.parametrize("module", ["backbone.second", "backbone.second.0", "backbone.second.1.0"])
def test_a_layer_may_be_deep_inside_and_inputs_a_tree(module: str) -> None:
    inputs = {"image": images(), "factor": torch.tensor([1.0, 2.0, -1.0])}
    assert_equal(seeded(Nested), game_of(FeatureMapPatches(module, *GRID), inputs), grid(6))


@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_are_masked_and_a_class_token_never(class_token: bool) -> None:
    places = grid(3).flatten()
    places = torch.cat([torch.tensor([-1] * class_token, dtype=torch.long), places])[:, None]
    assert_equal(seeded(lambda: Transformer(class_token)), game_of(FeatureMapPatches("blocks.0", *GRID)), places)


@pytest.mark.parametrize(
    ("make", "fed"),
    [(Residual, "layer1"), (lambda: ViewsAndWrites(False), "first"), (lambda: ViewsAndWrites(True), "first")],
)
def test_what_comes_before_the_layer_runs_some_times_an_input(make: Callable[[], nn.Module], fed: str) -> None:
    model = seeded(make)
    module = {"layer1": "layer2", "first": "second"}[fed]
    game_of(FeatureMapPatches(module, 2, 4 if fed == "first" else 2), images(20)).values(model)
    # Each time that 16 inputs come into play: some rows of one of them, and twice all where views are written into.
    assert model.get_submodule(fed).rows <= 2 * 20 + 2 * 20


def test_masked_features_may_be_the_mean_over_a_sample() -> None:
    model, sample = seeded(Residual), torch.randn(20, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        x = model.relu(model.bn(model.stem(sample.float())))
        features = model.layer2(functional.max_pool2d(model.layer1(x), 3, 1, 1))
    fill = features.mean(dim=(0, 2, 3))[:, None, None]
    assert_equal(model, game_of(FeatureMapPatches("layer2", *GRID, sample=sample)), grid(3), fill)
    vit = seeded(lambda: Transformer(True))
    with torch.no_grad():
        embedded = vit.embed(sample.float()).flatten(2).transpose(1, 2)
        tokens = torch.cat([vit.token.expand(20, -1, -1), embedded], dim=1)
        fill = vit.blocks[0](tokens)[:, 1:].mean(dim=(0, 1))
    places = torch.cat([torch.tensor([-1]), grid(3).flatten()])[:, None]
    assert_equal(vit, game_of(FeatureMapPatches("blocks.0", *GRID, sample=sample)), places, fill)


def test_patches_without_features_are_evaluated_once() -> None:
    model = nn.Sequential(nn.ReLU(), Counted(nn.Sequential(nn.Flatten(), nn.Linear(36, NUM_CLASSES))))
    inputs = images()
    inputs[0, :, :3] = -1.0
    inputs[1] = -1.0
    game = game_of(FeatureMapPatches("0", *GRID), inputs, batch_size=64)
    values = game.values(model)
    extra = sum((2, 3, 3, 3)) + NUM_INPUTS * 2
    assert 2**2 + 1 + 2**4 <= model[1].rows <= 2**2 + 1 + 2**4 + extra
    torch.testing.assert_close(values, naive_values(model, game, grid(6)), rtol=1e-4, atol=1e-5)
    assert torch.equal(values[0], values[0, torch.arange(16) | 0b0011])


def test_every_model_has_its_own_features() -> None:
    players = FeatureMapPatches("layer2", *GRID)
    first, second = seeded(Residual), seeded(Residual)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(-1.1)
    game = game_of(players)
    for model in (first, second, first):
        assert_equal(model, game, grid(3))
    with torch.no_grad():
        first.stem.weight.mul_(2)
    assert_equal(first, game, grid(3))


def test_a_forward_that_is_patched_is_patched_afterwards() -> None:
    model = seeded(Residual)
    for module in (model.stem, model.layer2):
        module.forward = lambda x, own=module.forward: 2 * own(x)
    patched = [vars(module)["forward"] for module in (model.stem, model.layer2)]
    assert_equal(model, game_of(FeatureMapPatches("layer2", *GRID)), grid(3))
    assert [vars(module)["forward"] for module in (model.stem, model.layer2)] == patched


def test_the_model_is_put_back_after_an_error() -> None:
    class Refuses(Classification):
        def score(self, outputs: Any, targets: Any) -> Tensor:
            raise KeyError("no score")

    model = seeded(Residual)
    game = replace(game_of(FeatureMapPatches("layer2", *GRID)), task=Refuses())
    with pytest.raises(KeyError):
        game.values(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_features_may_be_in_reduced_precision() -> None:
    game = game_of(FeatureMapPatches("layer2", *GRID))
    model = seeded(Residual)
    expected = game.values(model)
    rounded = replace(game, forward_context=lambda: torch.autocast("cpu", dtype=torch.bfloat16)).values(model)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.1, atol=0.1)
    double = game.values(copy.deepcopy(model).double())
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-5)


class Module(L.LightningModule):
    """The network is in a module whose step does something before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(Residual)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(2 * self.net(batch["image"].float() / 2), batch["label"])


def test_the_own_step_of_a_module_is_evaluated() -> None:
    module, task = Module().eval(), OwnStep()
    batch = {"image": images(), "label": torch.arange(NUM_INPUTS) % NUM_CLASSES}
    with torch.no_grad(), on_stage(module, None):
        probes = task.read(module, Rows.of(batch))
        game = Game(probes, FeatureMapPatches("net.layer2", *GRID), {}, task)
        assert_equal(module, game, grid(3))


def test_a_meter_measures_a_model_and_reference_models() -> None:
    inputs, labels = images(6), torch.arange(6) % NUM_CLASSES
    evidence = ReferenceModels([seeded(Residual), seeded(Residual)])
    meter = InteractionMeter(Classification(), FeatureMapPatches("layer2", *GRID), evidence=evidence)
    model = seeded(Residual)
    measurement = meter.prepare({"training": Probes.of((inputs, labels))}, model=model).measure(model)
    # Reference models that are the model have all that it has.
    assert (measurement.training.generalizable > 0).all()
    assert (measurement.training.non_generalizable == 0).all()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, 1, 1)
        self.unused = nn.Conv2d(1, 1, 3, 1, 1)
        self.pair = nn.LSTM(6, 6, batch_first=True)
        self.head = nn.Linear(36, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.first(x))
        return self.head(self.pair(x[:, 0])[0].flatten(1))


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("first", "got 2 calls"),
        ("unused", "got 0 calls"),
        ("pair", "got tuple"),
        ("head", r"got torch.float32 \(\d, 3\)"),
        ("third", "a layer named 'third' in Twice .* there are .*'first'"),
        ("net.head", "there are .*'head'"),
        ("", "a layer named ''"),
    ],
)
def test_layers_that_cannot_be_masked_are_refused(module: str, named: str) -> None:
    game = game_of(FeatureMapPatches(module, *GRID))
    model = seeded(Twice)
    for fails in (game.values, game.check):
        with pytest.raises(ValueError, match=named):
            fails(model)
    assert not any("forward" in vars(one) for one in model.modules())


def test_patches_must_fit_the_feature_map() -> None:
    with pytest.raises(ValueError, match=r"at least 4x1 places, got torch.float32 \(\d, 4, 3, 3\)"):
        game_of(FeatureMapPatches("layer2", 4, 1)).values(seeded(Residual))
    with pytest.raises(ValueError, match="at least one row and one column"):
        FeatureMapPatches("layer2", 0, 1)


def test_a_model_that_is_random_is_refused() -> None:
    model = seeded(Residual)
    model.head = nn.Sequential(nn.Dropout(0.5), model.head).train()
    with pytest.raises(ValueError, match="random"):
        game_of(FeatureMapPatches("layer2", *GRID)).values(model)


def test_inputs_cannot_be_masked_outside_of_a_model() -> None:
    players = FeatureMapPatches("layer2", *GRID)
    assert players.leaves(Rows.of(images())) == ()
    assert players.num_players(Rows.of(images())) == 4
    with pytest.raises(TypeError, match="inside a model"):
        players.mask(Rows.of(images()), torch.ones(NUM_INPUTS, 4, dtype=torch.bool), {})


def test_players_are_said_by_what_they_are() -> None:
    said = repr(FeatureMapPatches("layer2", 3, 2))
    assert all(part in said for part in ("layer2", "3", "2"))
    assert said != repr(FeatureMapPatches("layer2", 3, 2, sample=images()))
