"""Images with channels last: the same values, and only where a model takes them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.layout import channels_last
from lightning_interactions.players import ImagePatches
from lightning_interactions.records import Probes, Rows
from lightning_interactions.tasks import Classification


class Network(nn.Module):
    """Convolutions that note the layout of what they get; what comes between them and the last layer is given."""

    def __init__(self, channels: int, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.Linear(4 * 4 * 4, 3)
        self.between = between
        self.rows = {True: 0, False: 0}

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.between(self.convolutions(images)))
        self.rows[images.stride(1) == 1] += len(images)
        return outputs


def flattened(activations: Tensor) -> Tensor:
    return activations.flatten(1)


def viewed(activations: Tensor) -> Tensor:
    return activations.view(len(activations), -1)


def in_order_of_memory(activations: Tensor) -> Tensor:
    order = (0, 2, 3, 1) if activations.stride(1) == 1 else (0, 1, 2, 3)
    return activations.permute(order).reshape(len(activations), -1)


def game_of(channels: int, grid: tuple[int, int] = (2, 4), count: int = 3) -> Game:
    images = torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    probes = Probes.of((images, torch.arange(count) % 3))
    return Game(probes, ImagePatches(*grid), {"": torch.zeros(())}, Classification())


def network_of(channels: int, between: Callable[[Tensor], Tensor]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(channels, between).eval()


@pytest.mark.parametrize(("between", "taken"), [(flattened, True), (viewed, False), (in_order_of_memory, False)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.slow
def test_values_are_those_of_contiguous_images(channels: int, between: Callable[[Tensor], Tensor], taken: bool) -> None:
    network, game = network_of(channels, between), game_of(channels)
    values = game.values(network)
    assert (network.rows[True] > network.rows[False]) == taken
    # Few rows at once are no reason for a trial.
    coalitions = (torch.arange(256)[:, None] >> torch.arange(8) & 1).bool()
    apart = torch.cat([game.values(network, some) for some in coalitions.split(32)], dim=1)
    torch.testing.assert_close(values, apart, rtol=1e-5, atol=1e-5)


def test_few_rows_are_left_as_they_are() -> None:
    network = network_of(3, flattened)
    game_of(3, grid=(2, 2)).values(network)
    assert network.rows[True] == 0


def test_a_network_without_convolutions_is_left_as_it_is() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3 * 8 * 8, 3)
            self.strides: set[int] = set()

        def forward(self, images: Tensor) -> Tensor:
            self.strides.add(images.stride(1))
            outputs: Tensor = self.last(images.flatten(1))
            return outputs

    network = Flat()
    game_of(3).values(network)
    assert network.strides == {64}


def test_an_error_of_the_network_is_raised() -> None:
    network = network_of(5, flattened)
    with pytest.raises(RuntimeError, match="channels"):
        game_of(3).values(network)


def test_other_leaves_keep_their_layout() -> None:
    tree = {"image": torch.randn(2, 3, 4, 5), "ids": torch.zeros(2, 3, 4, 5, dtype=torch.long), "table": torch.randn(2, 3)}
    tree["last"] = torch.randn(2, 6, 5, 3)
    rows = channels_last(Rows.of(tree))
    assert rows.leaves["image"].is_contiguous(memory_format=torch.channels_last)
    assert rows.leaves["ids"].is_contiguous()
    assert rows.leaves["last"].is_contiguous()
    assert all(torch.equal(rows.leaves[name], leaf) for name, leaf in tree.items())
