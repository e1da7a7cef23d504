import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.game.chunks import FIRST_ROWS
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureGroups, ImagePatches, Players
from lightning_interactions.game.scores import log_odds
from lightning_interactions.game.tasks import Classification, MultiLabel, Regression, Task
from lightning_interactions.records import ProbeGroup, Probes, Rows

NUM_INPUTS, NUM_PLAYERS, NUM_CLASSES = 3, 4, 3


class OutputItself(Task):
    """The score is the output; targets do not matter to it."""

    score_depends_on_targets = False

    def score(self, outputs: Any, targets: Any) -> Tensor:
        return outputs


@pytest.fixture
def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Linear(NUM_PLAYERS, 8), nn.Tanh(), nn.Linear(8, NUM_CLASSES))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(generator=generator)
    return layers.eval()


@pytest.fixture
def game() -> Game:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(NUM_INPUTS, NUM_PLAYERS, generator=generator)
    baseline = torch.randn(NUM_PLAYERS, generator=generator)
    return Game(Probes.of((inputs, torch.tensor([0, 2, 1]))), FeatureGroups(), {"": baseline}, Classification())


def inputs_of(game: Game) -> Tensor:
    (group,) = game.probes.groups
    return group.inputs.leaves[""]


def targets_of(game: Game) -> Tensor:
    (group,) = game.probes.groups
    return group.targets.leaves[""]


def on(game: Game, inputs: Tensor, targets: Tensor | None = None) -> Game:
    return replace(game, probes=Probes.of((inputs, targets_of(game) if targets is None else targets)))


def of_outputs(game: Game) -> Game:
    return replace(game, baseline={"": torch.zeros(())}, task=OutputItself())


def naive_values(model: nn.Module, game: Game) -> list[list[float]]:
    """One input, one coalition, one forward at a time; bit i of the index is player i."""
    rows = []
    for features, target in zip(inputs_of(game).tolist(), targets_of(game).tolist(), strict=True):
        row = []
        for index in range(2 ** len(features)):
            masked = [
                feature if index >> player & 1 else float(game.baseline[""][player]) for player, feature in enumerate(features)
            ]
            logits = model(torch.tensor([masked]))[0].tolist()
            others = [math.exp(logit) for label, logit in enumerate(logits) if label != target]
            row.append(logits[target] - math.log(sum(others)))
        rows.append(row)
    return rows


class Recorder(nn.Module):
    """Passes inputs on to a function and keeps how many came at a time."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function
        self.batches: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        return self.function(inputs)


# Values


@pytest.mark.parametrize("batch_size", [1, 5, 48])
def test_values_are_those_of_a_loop_over_coalitions(network: nn.Module, game: Game, batch_size: int) -> None:
    recorder = Recorder(network)
    values = replace(game, batch_size=batch_size).values(recorder)
    torch.testing.assert_close(values, torch.tensor(naive_values(network, game)), rtol=1e-4, atol=1e-5)
    total = NUM_INPUTS * 2**NUM_PLAYERS
    assert sum(recorder.batches) == total
    assert len(recorder.batches) == math.ceil(total / batch_size)
    assert max(recorder.batches) <= batch_size


def test_values_of_images_are_those_of_a_loop_over_coalitions() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    probes = Probes.of((images, torch.tensor([0, 1])))
    game = Game(probes, ImagePatches(2, 2), {"": torch.tensor(0.5)}, Classification(), batch_size=3)
    values = game.values(Recorder(lambda x: (x * weight).sum(dim=(1, 2, 3)).tanh()))
    patches = [(slice(0, 3), slice(0, 2)), (slice(0, 3), slice(2, 4)), (slice(3, 5), slice(0, 2)), (slice(3, 5), slice(2, 4))]
    for i, sign in enumerate((-1, 1)):
        for index in range(16):
            masked = torch.full_like(images[i], 0.5)
            for player, (rows, cols) in enumerate(patches):
                if index >> player & 1:
                    masked[:, rows, cols] = images[i, :, rows, cols]
            assert values[i, index].item() == pytest.approx(sign * math.tanh(float((masked * weight).sum())), abs=1e-12)


def test_equal_masked_versions_are_evaluated_once(network: nn.Module, game: Game) -> None:
    inputs = inputs_of(game).clone()
    inputs[0, [1, 3]] = game.baseline[""][[1, 3]]
    inputs[2] = game.baseline[""]
    game = replace(on(game, inputs), batch_size=7)
    recorder = Recorder(network)
    values = game.values(recorder)
    assert sum(recorder.batches) == 2**2 + 2**4 + 1
    torch.testing.assert_close(values, torch.tensor(naive_values(network, game)), rtol=1e-4, atol=1e-5)
    # A player that is never seen to change anything changes nothing at all, not even by rounding.
    without = torch.arange(16) & ~0b1010
    assert torch.equal(values[0], values[0, without])


def test_an_input_that_is_not_a_number_is_evaluated_in_full(network: nn.Module, game: Game) -> None:
    inputs = inputs_of(game).clone()
    inputs[1, 2] = math.nan
    recorder = Recorder(network)
    on(game, inputs).values(recorder)
    assert sum(recorder.batches) == NUM_INPUTS * 2**NUM_PLAYERS


def test_bits_of_the_index_are_players(game: Game) -> None:
    values = of_outputs(game).values(Recorder(lambda x: x.sum(dim=1)))
    for player in range(NUM_PLAYERS):
        torch.testing.assert_close(values[:, 2**player], inputs_of(game)[:, player])


def test_every_input_is_scored_against_its_own_target(network: nn.Module, game: Game) -> None:
    values = game.values(network)
    torch.testing.assert_close(values[:, -1], log_odds(network(inputs_of(game)), targets_of(game)).detach())
    differs = (on(game, inputs_of(game), torch.tensor([0, 1, 1])).values(network) != values).all(dim=1)
    assert differs.tolist() == [False, True, False]


def test_outputs_that_are_not_finite_are_kept(game: Game) -> None:
    broken = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    values = of_outputs(game).values(Recorder(lambda x: torch.where(x != 0, broken, 0.0).sum(dim=1)))
    assert values[:, 1].isnan().all()
    assert values[:, 2].tolist() == [math.inf] * 3
    assert values[:, 4].tolist() == [-math.inf] * 3
    assert values[:, [0, 8]].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_inputs_give_no_values(network: nn.Module, game: Game, dtype: torch.dtype) -> None:
    recorder = Recorder(network.to(dtype))
    values = game.select([]).values(recorder)
    assert values.shape == (0, 2**NUM_PLAYERS)
    assert values.dtype == dtype
    assert recorder.batches == []


def test_inputs_are_converted_to_the_dtype_of_the_model(network: nn.Module, game: Game) -> None:
    expected = game.values(network)
    values = game.values(network.double())
    assert values.dtype == torch.float64
    torch.testing.assert_close(values.float(), expected)
    assert game.values(network.bfloat16()).dtype == torch.float32


def test_the_model_is_used_as_it_is_and_without_gradients(network: nn.Module, game: Game) -> None:
    for training in (True, False):
        network.train(training)
        assert not game.values(network).requires_grad
        assert all(module.training == training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


# Chunks


class Limited(nn.Module):
    """Raises an error above a number of rows, and keeps how many came at a time."""

    def __init__(self, network: nn.Module, most: int, error: type[RuntimeError], said: str) -> None:
        super().__init__()
        self.network, self.most, self.error, self.said = network, most, error, said
        self.tried: list[int] = []
        self.done: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.tried.append(len(inputs))
        if len(inputs) > self.most:
            raise self.error(self.said)
        self.done.append(len(inputs))
        return self.network(inputs)


CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)


class Wide(nn.Module):
    """Its largest activation has so many bytes a row; what does not belong to rows does not count."""

    def __init__(self, network: nn.Module, row_bytes: int) -> None:
        super().__init__()
        self.network = network
        self.pad = nn.ZeroPad1d((0, row_bytes // 4 - NUM_PLAYERS))
        self.weight = nn.Identity()
        self.batches: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        self.weight(torch.empty(2**20))
        return self.network(self.pad(inputs)[:, :NUM_PLAYERS])


@pytest.mark.parametrize(("row_bytes", "size"), [(2**20, 8), (2**18, 16), (2**18 + 8, 8), (2**17, 32), (2**16, 64), (2**24, 8)])
@pytest.mark.slow
def test_chunks_are_as_large_as_their_activations_allow(network: nn.Module, game: Game, row_bytes: int, size: int) -> None:
    model = Wide(network, row_bytes)
    values = replace(game, batch_size=None).values(model)
    total = NUM_INPUTS * 2**NUM_PLAYERS
    first, *others = model.batches
    assert first == FIRST_ROWS
    # They begin at multiples of their size.
    starts = [first + sum(others[:place]) for place in range(len(others))]
    assert all(batch <= size for batch in others)
    assert starts[1:] == [start for start in range(FIRST_ROWS + 1, total) if start % size == 0]
    torch.testing.assert_close(values, replace(game, batch_size=5).values(network))
    assert not any(module._forward_hooks for module in model.modules())
    again = Wide(network, row_bytes)
    assert torch.equal(replace(game, batch_size=None).values(again), values)
    assert again.batches == model.batches


def test_few_rows_are_one_chunk(network: nn.Module, game: Game) -> None:
    recorder = Recorder(network)
    game.select([1]).values(recorder)
    assert recorder.batches == [2**NUM_PLAYERS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"), [(torch.OutOfMemoryError, "CUDA out of memory"), (RuntimeError, CPU_ERROR)], ids=["accelerator", "cpu"]
)
@pytest.mark.parametrize("batch_size", [None, 48, 10])
@pytest.mark.parametrize("most", [1, 3, 16, 40])
def test_chunks_halve_where_memory_runs_out(
    network: nn.Module, game: Game, error: type[RuntimeError], said: str, batch_size: int | None, most: int
) -> None:
    game = replace(game, batch_size=batch_size)
    model = Limited(network, most, error, said)
    torch.testing.assert_close(game.values(model), game.values(network))
    assert sum(model.done) == NUM_INPUTS * 2**NUM_PLAYERS
    assert max(model.done) <= most
    assert len(model.tried) - len(model.done) <= 6
    # It is remembered, by games that are made of this one, too.
    model.tried, model.done = [], []
    replace(game.select([2, 0, 1]), probes=game.probes).values(model)
    assert model.tried == model.done


def test_what_fits_is_known_for_each_kind_of_model(network: nn.Module, game: Game) -> None:
    game = replace(game, batch_size=48)
    game.values(Limited(network, 3, torch.OutOfMemoryError, ""))
    recorder = Recorder(network)
    game.values(recorder)
    assert recorder.batches == [48]


def test_a_single_row_that_does_not_fit_is_an_error(network: nn.Module, game: Game) -> None:
    for batch_size in (None, 4):
        with pytest.raises(torch.OutOfMemoryError, match=r"a single row .*you tried to allocate"):
            replace(game, batch_size=batch_size).values(Limited(network, 0, RuntimeError, CPU_ERROR))


def test_other_errors_are_no_lack_of_memory(network: nn.Module, game: Game) -> None:
    model = Limited(network, 4, RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        game.values(model)
    assert model.tried == [FIRST_ROWS]


@pytest.mark.parametrize("batch_size", [None, 48])
def test_a_task_may_limit_the_chunks(network: nn.Module, game: Game, batch_size: int | None) -> None:
    class Alone(Classification):
        largest_batch = 1

    recorder = Recorder(network)
    values = replace(game, task=Alone(), batch_size=batch_size).values(recorder)
    assert set(recorder.batches) == {1}
    torch.testing.assert_close(values, game.values(network))


class WithExactLosses(Classification):
    """Computes its losses from the outputs, with the weights of the classes."""

    def exact_losses(self, outputs: Any, targets: Any) -> Tensor:
        losses = nn.functional.cross_entropy(outputs, targets, weight=CLASS_WEIGHTS, reduction="none")
        return torch.stack([losses, CLASS_WEIGHTS[targets]], dim=1)


CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0])


@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize("largest", [None, 1])
def test_exact_losses_are_computed_in_chunks(
    network: nn.Module, game: Game, batch_size: int | None, largest: int | None
) -> None:
    task, recorder = WithExactLosses(), Recorder(network)
    task.largest_batch = largest
    losses = replace(game, task=task, batch_size=batch_size).exact_losses(recorder)
    assert losses is not None
    own = nn.functional.cross_entropy(network(inputs_of(game)), targets_of(game), weight=CLASS_WEIGHTS)
    torch.testing.assert_close(losses.mean().float(), own)
    assert sum(recorder.batches) == NUM_INPUTS
    assert max(recorder.batches) == min(batch_size or NUM_INPUTS, largest or NUM_INPUTS)


def test_without_exact_losses_no_model_is_run(network: nn.Module, game: Game) -> None:
    recorder = Recorder(network)
    assert game.exact_losses(recorder) is None
    assert recorder.batches == []


@pytest.mark.parametrize("batch_size", [7, 16, 48])
def test_a_model_may_write_into_what_it_gets_and_view_it(batch_size: int) -> None:
    class Writes(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            ids = inputs["ids"].view(-1).view(len(inputs["x"]), -1)
            ids[ids == 3] = 0
            inputs["x"].add_(1)
            inputs["scale"].mul_(1)
            return inputs["x"].sum(dim=1) + ids.sum(dim=1)

    x = torch.randn(NUM_INPUTS, NUM_PLAYERS, dtype=torch.float64)
    inputs = {"x": x, "ids": torch.tensor([[3, 1], [2, 3], [5, 5]]), "scale": torch.ones(4)}
    players, baseline = FeatureGroups([[0], [1], [2], [3]], leaf="x"), {"x": torch.zeros(())}
    game = Game(Probes.of((inputs, torch.zeros(NUM_INPUTS))), players, baseline, OutputItself(), batch_size)
    expected = x @ coalition_masks(NUM_PLAYERS).double().T + 4 + torch.tensor([1, 2, 10])[:, None]
    torch.testing.assert_close(game.values(Writes()), expected)
    assert inputs["ids"].tolist() == [[3, 1], [2, 3], [5, 5]]


def test_rows_on_another_axis_are_evaluated() -> None:
    class First(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            assert inputs["series"].shape[0] == 5
            return inputs["table"].sum(dim=1) * inputs["series"].sum(dim=(0, 2))

    generator = torch.Generator().manual_seed(0)
    table, series = torch.randn(2, 3, generator=generator), torch.randn(5, 2, 4, generator=generator)
    rows = Rows({"table": table, "series": series}, 2, {"table": 0, "series": 1})
    probes = Probes((ProbeGroup(rows, Rows.of(torch.zeros(2))),))
    game = Game(probes, FeatureGroups(leaf="table"), {"table": torch.zeros(())}, OutputItself())
    expected = table @ coalition_masks(3).float().T * series.sum(dim=(0, 2))[:, None]
    for batch_size in (None, 1, 3, 8):
        torch.testing.assert_close(replace(game, batch_size=batch_size).values(First()), expected)


# Several targets


def test_one_forward_serves_all_targets(network: nn.Module, game: Game) -> None:
    others = game.with_other_targets()
    recorder = Recorder(network)
    together = game.values_with_targets(recorder, others)
    assert sum(recorder.batches) == NUM_INPUTS * 2**NUM_PLAYERS
    assert len(together) == 3
    for values, one in zip(together, (game, *others), strict=True):
        assert torch.equal(values, one.values(network))
    masks = coalition_masks(NUM_PLAYERS)[[3, 9]]
    assert torch.equal(game.values_with_targets(network, others, masks)[1], others[0].values(network, masks))


def test_a_score_that_writes_into_the_outputs_is_scored_alone(network: nn.Module, game: Game) -> None:
    class Writes(Classification):
        def score(self, outputs: Any, targets: Any) -> Tensor:
            outputs["logits"].scatter_add_(1, targets[:, None], torch.ones(len(targets), 1))
            return super().score(outputs["logits"], targets)

        def forward(self, model: nn.Module, inputs: Any) -> Any:
            return {"logits": model(inputs)}

    game = replace(game, task=Writes())
    others = game.with_other_targets()
    for values, one in zip(game.values_with_targets(network, others), (game, *others), strict=True):
        assert torch.equal(values, one.values(network))


class WithMargin(Classification):
    outputs_depend_on_targets = True


class WithScores(Classification):
    def scores(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        return super().scores(model, inputs, targets) + targets


@pytest.mark.parametrize("task", [WithMargin(), WithScores()], ids=["outputs", "scores"])
def test_targets_that_matter_to_the_forward_have_their_own(network: nn.Module, game: Game, task: Task) -> None:
    game = replace(game, task=task)
    others = game.with_other_targets()
    recorder = Recorder(network)
    together = game.values_with_targets(recorder, others)
    assert sum(recorder.batches) == 3 * NUM_INPUTS * 2**NUM_PLAYERS
    for values, one in zip(together, (game, *others), strict=True):
        assert torch.equal(values, one.values(network))


# Trees and groups


class Fusion(nn.Module):
    """An image and a number that belongs to it, in a dictionary; the outputs are in one, too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 5))
        self.batches: list[int] = []

    def forward(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        assert inputs["names"] == [str(int(factor)) for factor in inputs["factor"]]
        assert inputs["scale"].shape == (3,)
        self.batches.append(len(inputs["factor"]))
        moments = torch.stack([inputs["image"].flatten(1).pow(k).sum(dim=1) for k in range(1, 6)], dim=1)
        return {"logits": moments[:, :3] * self.weight[:3] * inputs["factor"][:, None] * inputs["scale"]}


class InLogits(Classification):
    def forward(self, model: nn.Module, inputs: Any) -> Any:
        return model(inputs)["logits"]


def fusion_batch(size: int, num_inputs: int, first: int) -> tuple[dict[str, Any], Tensor]:
    factor = torch.arange(first, first + num_inputs, dtype=torch.float32)
    images = torch.randn(num_inputs, 1, size, size, generator=torch.Generator().manual_seed(first))
    names = [str(int(one)) for one in factor]
    return {"image": images, "factor": factor, "names": names, "scale": torch.ones(3)}, torch.arange(num_inputs) % 3


def test_groups_of_different_shapes_have_the_values_that_they_have_apart() -> None:
    # As many in one group as the shared tensor has entries.
    batches = [fusion_batch(4, 3, 1), fusion_batch(7, 2, 4), fusion_batch(4, 2, 6)]
    model, players, baseline = Fusion(), ImagePatches(2, 2, leaf="image"), {"image": torch.zeros(())}
    game = Game(Probes.of(*batches), players, baseline, InLogits(), batch_size=10)
    values = game.values(model)
    assert values.shape == (7, 16)
    assert [len(group) for group in game.probes.groups] == [5, 2]
    apart = [replace(game, probes=Probes((group,))).values(model) for group in game.probes.groups]
    torch.testing.assert_close(values, torch.cat(apart))
    torch.testing.assert_close(game.select([6, 1, 4]).values(model), values[[1, 4, 6]])
    one_by_one = [replace(game.select([row]), batch_size=1).values(model) for row in range(7)]
    torch.testing.assert_close(torch.cat(one_by_one), values)
    game.check(model)


def test_groups_must_have_as_many_players() -> None:
    probes = Probes.of((torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2)))
    game = Game(probes, FeatureGroups(), {"": torch.zeros(())}, Regression())
    with pytest.raises(ValueError, match=r"as many players in every group .*, got \[3, 4\]"):
        _ = game.num_players


class Halves(Players):
    """The first half of two tensors, and the second half of them."""

    def leaves(self, inputs: Rows) -> tuple[str, ...]:
        return ("0", "1")

    def num_players(self, inputs: Rows) -> int:
        return 2

    def mask(self, inputs: Rows, coalitions: Tensor, baseline: Any) -> Rows:
        leaves = {name: inputs.leaves[name] for name in self.leaves(inputs)}
        keep = coalitions.repeat_interleave(2, dim=1)
        return inputs.replace({name: torch.where(keep, leaf, baseline[name]) for name, leaf in leaves.items()})


def test_players_may_mask_several_leaves() -> None:
    first, second = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0]]), torch.full((2, 4), 10.0)
    second[1, :2] = -1.0

    class Sum(nn.Module):
        def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
            return inputs[0].sum(dim=1) + inputs[1].sum(dim=1)

    baseline = {"0": torch.zeros(4), "1": torch.full((4,), -1.0)}
    game = Game(Probes.of(((first, second), torch.zeros(2))), Halves(), baseline, Regression())
    assert game.values(Sum()).tolist() == [[-4.0, 21.0, 25.0, 50.0], [-4.0, -4.0, 20.0, 20.0]]


# Given coalitions


def test_given_masks_are_evaluated_in_their_order(network: nn.Module, game: Game) -> None:
    index = [5, 0, 15, 5]
    masks = coalition_masks(NUM_PLAYERS)[index]
    recorder = Recorder(network)
    values = replace(game, batch_size=5).values(recorder, masks)
    torch.testing.assert_close(values, game.values(network)[:, index])
    assert recorder.batches == [5, 4]  # One of the coalitions is there twice.


def test_sixty_four_players_can_be_masked() -> None:
    inputs = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    players = FeatureGroups([[column] for column in range(64)])
    game = Game(Probes.of((inputs, torch.zeros(2))), players, {"": torch.zeros(())}, OutputItself())
    masks = torch.eye(64, dtype=torch.bool)
    values = game.values(Recorder(lambda x: x.sum(dim=1)), torch.cat([masks, ~masks]))
    expected = torch.cat([inputs, inputs.sum(dim=1, keepdim=True) - inputs], dim=1)
    torch.testing.assert_close(values, expected)


def test_no_masks_give_no_values(network: nn.Module, game: Game) -> None:
    assert game.values(network, torch.zeros(0, NUM_PLAYERS, dtype=torch.bool)).shape == (NUM_INPUTS, 0)


@pytest.mark.parametrize("masks", [torch.ones(3, 5, dtype=torch.bool), torch.ones(4, dtype=torch.bool), torch.ones(3, 4)])
def test_masks_that_do_not_fit_are_an_error(network: nn.Module, game: Game, masks: Tensor) -> None:
    with pytest.raises(ValueError, match=r"boolean masks \[coalitions, 4\], one column a player, got .* draw_coalitions"):
        game.values(network, masks)


@pytest.mark.parametrize(("num_players", "masked"), [(31, False), (65, True)])
def test_more_players_than_can_be_numbered_are_refused(network: nn.Module, num_players: int, masked: bool) -> None:
    probes = Probes.of((torch.randn(2, num_players), torch.zeros(2)))
    players = FeatureGroups([[column] for column in range(num_players)])
    game = Game(probes, players, {"": torch.zeros(())}, Classification())
    masks = torch.ones(3, num_players, dtype=torch.bool) if masked else None
    with pytest.raises(ValueError, match=f"got {num_players}; group players, or draw coalitions"):
        game.values(network, masks)


# Errors


def test_outputs_that_the_task_does_not_know_are_refused(network: nn.Module, game: Game) -> None:
    for fails in (game.values, game.check):
        with pytest.raises(ValueError, match="got tuple"):
            fails(Recorder(lambda x: (network(x), None)))


@pytest.mark.parametrize(
    ("output", "got"),
    [(lambda x: x.sum(), r"shape \(\)"), (lambda x: x[:, :1], r"shape \(\d+, 1\)")],
    ids=["sum", "column"],
)
def test_scores_that_are_not_one_number_an_input_are_refused(game: Game, output: Callable[[Tensor], Any], got: str) -> None:
    for fails in (of_outputs(game).values, of_outputs(game).check):
        with pytest.raises(
            ValueError, match=rf"score: expected one number for each of \d+ inputs, .*, got {got}; take no mean"
        ):
            fails(Recorder(output))


def test_a_check_finds_labels_that_do_not_fit(network: nn.Module, game: Game) -> None:
    game.check(network)
    with pytest.raises(ValueError, match="score: expected labels from 0 to 2"):
        on(game, inputs_of(game), torch.tensor([0, 3, 1])).check(network)
    with pytest.raises(ValueError, match="one label from 0 to 1"):
        replace(game, task=Classification([1.0, 2.0])).check(network)


# Games


def test_a_game_knows_its_number_of_players(game: Game) -> None:
    assert game.num_players == NUM_PLAYERS
    assert replace(game, players=FeatureGroups([[0, 1], [2, 3]])).num_players == 2


def test_selected_rows_are_the_same_game_in_their_order(network: nn.Module, game: Game) -> None:
    selected = game.select([2, 0])
    assert torch.equal(inputs_of(selected), inputs_of(game)[[2, 0]])
    assert targets_of(selected).tolist() == [1, 0]
    torch.testing.assert_close(selected.values(network), game.values(network)[[2, 0]])
    assert len(game.probes) == NUM_INPUTS


def test_full_precision_shuts_autocast_out(network: nn.Module, game: Game) -> None:
    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    expected = game.values(network)
    with autocast():
        assert torch.equal(game.values(network), expected)
    rounded = replace(game, forward_context=autocast).values(network)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, expected)
    torch.testing.assert_close(rounded, expected, rtol=0.1, atol=0.3)


# Other targets


def test_every_input_gets_different_targets_of_other_probes(game: Game) -> None:
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 0, 3, 0, 0])
    game = on(game, torch.randn(10, NUM_PLAYERS), targets)
    others = game.with_other_targets()
    assert len(others) == 3
    for other in others:
        assert torch.equal(inputs_of(other), inputs_of(game))
        assert (targets_of(other) != targets).all()
        assert all(getattr(other, name) is getattr(game, name) for name in vars(game) if name != "probes")
    # All other targets have their turn, also where one of them is the most frequent.
    assert {int(target) for other in others for target in targets_of(other)[targets == 0]} == {1, 2, 3}


@pytest.mark.parametrize(
    ("targets", "num_games"),
    [([0, 1, 1, 0], 1), ([2, 2, 2], 0), ([4], 0), ([], 0), ([0, 1, 2], 2), ([0.5, 0.1, 0.7, 0.2, 0.9], 3)],
)
@pytest.mark.parametrize("column", [False, True])
def test_there_are_no_more_games_than_other_targets(game: Game, targets: list[float], num_games: int, column: bool) -> None:
    tensor = torch.tensor(targets)[:, None] if column else torch.tensor(targets)
    others = on(game, torch.zeros(len(targets), NUM_PLAYERS), tensor).with_other_targets()
    assert len(others) == num_games
    for other in others:
        assert targets_of(other).shape == tensor.shape
        assert (targets_of(other) != tensor).all()


def test_a_score_that_does_not_depend_on_targets_has_no_other_ones(game: Game) -> None:
    assert game.with_other_targets()
    assert replace(game, task=Regression()).with_other_targets() == []
    assert replace(game, task=OutputItself()).with_other_targets() == []


def test_targets_may_be_vectors_and_trees(game: Game) -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    (other,) = replace(on(game, inputs_of(game), targets), task=MultiLabel()).with_other_targets()
    assert torch.equal(targets_of(other), 1 - targets)
    tree = {"label": torch.tensor([0, 0, 0]), "text": ["a", "b", "a"]}
    (other,) = replace(game, probes=Probes.of((inputs_of(game), tree))).with_other_targets()
    assert other.probes.groups[0].targets.tree["text"] == ["b", "a", "b"]


def test_targets_are_lent_across_groups_where_their_shapes_are_equal(game: Game) -> None:
    small, large = torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 6, 6)
    players = ImagePatches(2, 2)
    probes = Probes.of((small, torch.tensor([0, 0])), (large, torch.tensor([1])))
    (other,) = replace(game, probes=probes, players=players).with_other_targets()
    assert [group.targets.tree.tolist() for group in other.probes.groups] == [[1, 1], [0]]
    assert [len(group) for group in other.probes.groups] == [2, 1]
    probes = Probes.of((small, torch.tensor([[0], [0]])), (large, torch.tensor([1])))
    assert replace(game, probes=probes, players=players).with_other_targets() == []
