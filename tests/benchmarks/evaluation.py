"""How long the evaluation of masked inputs takes, beside as many plain forwards of the same model.

python tests/benchmarks/evaluation.py                      # ten minutes on two cores
python tests/benchmarks/evaluation.py --quick              # fewer inputs and players, seconds
python tests/benchmarks/evaluation.py --device cuda        # a larger network on an accelerator, too
python tests/benchmarks/evaluation.py --sizes              # seconds of forwards by the rows of a chunk
python tests/benchmarks/evaluation.py --check              # exits with 1 if a bound is missed

Both sides of a row are timed in turns, and their medians compared. Plain forwards run on random rows that are there already, at
the best of several batch sizes, and nothing is done with what they return.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import lightning as L
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

# The script runs from anywhere, and the helpers are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from lightning_interactions import tasks
from lightning_interactions.functional.precision import full_precision
from lightning_interactions.game.evaluation import Game
from lightning_interactions.game.players import FeatureMapPatches, ImagePatches, Players
from lightning_interactions.game.tasks import Classification, Task
from lightning_interactions.records import Probes, Rows

NUM_CLASSES = 10
PLAYERS, QUICK_PLAYERS = (2, 5), (2, 3)
"""Rows and columns of patches."""

MOST_OF_FORWARDS, MOST_OF_STEPS, MOST_OF_MASKED_INPUTS, MOST_ON_CUDA = 1.25, 1.5, 0.7, 1.15
BATCH_SIZES = {"cpu": (32, 64, 128, 256), "cuda": (64, 128, 256, 512, 1024)}


class ConvNet(nn.Sequential):
    """A convolutional network for images of 32x32, with batch norm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, NUM_CLASSES),
        )  # fmt: skip


class Block(nn.Module):
    """Two convolutions and a way around them, as in a ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        short = [nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)]
        self.shortcut = nn.Sequential(*(short if stride > 1 or before != after else []))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of four stages.

    Args:
        width: Channels of the first stage; each has twice as many as the one before.
        large: Whether the stem reduces images of 224x224 fourfold.
    """

    def __init__(self, width: int, large: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.head = nn.Linear(8 * width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.head(x.mean(dim=(2, 3)))


class Module(L.LightningModule):
    """A network in a module whose step normalises its images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.network((batch["image"] - 0.1) / 1.1)
        loss = cross_entropy(logits, batch["label"])
        self.log("val_loss", loss)
        return loss


@dataclass(frozen=True)
class Row:
    """One ratio of the table.

    Attributes:
        what: What is compared with what.
        rows: Masked inputs that are evaluated.
        seconds: Of the evaluation, median.
        beside: Of what it is compared with, median.
        most: The bound on their ratio.
        detail: More in words.
    """

    what: str
    rows: int
    seconds: float
    beside: float
    most: float
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the ratio meets its bound."""
        return self.seconds / self.beside <= self.most

    def cells(self) -> list[str]:
        """The row as printed."""
        ratio = self.seconds / self.beside
        numbers = [f"{self.seconds:.3f}", f"{self.beside:.3f}", f"{ratio:.3f}", f"<= {self.most:g}"]
        return [self.what, str(self.rows), *numbers, "yes" if self.met else "no", self.detail]


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = CLOCKS["wall"]


def seconds_in_turns(sides: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Time several functions in turns, after a first round that does not count; the median of each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, function in sides.items():
            begin = clock()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                times[name].append(clock() - begin)
    return {name: median(own) for name, own in times.items()}


def plain_forwards(
    model: nn.Module, like: Tensor, total: int, batch_size: int, forward: Callable[..., object] | None = None
) -> None:
    """Run a model on as many random rows."""
    run = forward or (lambda rows: model(rows))
    chunk = torch.randn(batch_size, *like.shape[1:], device=like.device)
    with torch.no_grad(), full_precision(like.device):
        for start in range(0, total, batch_size):
            run(chunk[: total - start])


def best_batch_size(model: nn.Module, like: Tensor, total: int, device: str) -> int:
    """Find the batch size at which forwards are fastest, on a part of the rows."""
    part = min(total, 4 * max(BATCH_SIZES[device]) if device == "cuda" else 2 * max(BATCH_SIZES[device]))
    sides = {
        str(size): lambda size=size: plain_forwards(model, like, part, size) for size in BATCH_SIZES[device] if size <= part
    }
    seconds = seconds_in_turns(sides, 2, device)
    return int(min(seconds, key=seconds.__getitem__))


def network(make: Callable[[], nn.Module], device: str) -> nn.Module:
    torch.manual_seed(0)
    return make().eval().to(device)


def game_of(images: Tensor, players: Players, task: Task | None = None) -> Game:
    baseline = {name: torch.zeros((), device=images.device) for name in players.leaves(Rows.of(images))}
    labels = torch.arange(len(images), device=images.device) % NUM_CLASSES
    return Game(Probes.of((images, labels)), players, baseline, task or Classification())


def forwards_row(name: str, model: nn.Module, images: Tensor, players: Players, most: float, repeats: int, device: str) -> Row:
    """Compare an evaluation with plain forwards at the best batch size."""
    game = game_of(images, players)
    total = len(images) * 2**game.num_players
    size = best_batch_size(model, images, total, device)
    sides = {"own": lambda: game.values(model), "plain": lambda: plain_forwards(model, images, total, size)}
    seconds = seconds_in_turns(sides, repeats, device)
    return Row(f"evaluation / plain forwards, {name}", total, seconds["own"], seconds["plain"], most, f"plain: {size} rows")


def own_step_row(module: L.LightningModule, images: Tensor, players: Players, repeats: int, device: str) -> Row:
    """Compare an evaluation through a module's own step with plain forwards of its network."""
    from lightning_interactions.game.steps import on_stage

    task = tasks.OwnStep()
    batch = {"image": images, "label": torch.arange(len(images), device=images.device) % NUM_CLASSES}
    with torch.no_grad(), on_stage(module, None):
        read = task.read(module, Rows.of(batch))
        probes = Probes((read,)) if not isinstance(read, Probes) else read
        game = Game(probes, players, {"image": torch.zeros((), device=images.device)}, task)
        total = len(images) * 2**game.num_players
        size = best_batch_size(module.network, images, total, device)
        sides = {"own": lambda: game.values(module), "plain": lambda: plain_forwards(module.network, images, total, size)}
        seconds = seconds_in_turns(sides, repeats, device)
    return Row(
        "evaluation through OwnStep / plain forwards, CNN 32x32",
        total, seconds["own"], seconds["plain"], MOST_OF_STEPS, f"plain: {size} rows",
    )  # fmt: skip


def feature_map_row(model: nn.Module, images: Tensor, grid: tuple[int, int], repeats: int, device: str) -> Row:
    """Compare masking the middle of a network with masking its input."""
    inner, outer = game_of(images, FeatureMapPatches("layer2", *grid)), game_of(images, ImagePatches(*grid))
    sides = {"inner": lambda: inner.values(model), "outer": lambda: outer.values(model)}
    seconds = seconds_in_turns(sides, repeats, device)
    total = len(images) * 2**inner.num_players
    return Row(
        "masking the output of layer2 / masking the input, ResNet", total,
        seconds["inner"], seconds["outer"], MOST_OF_MASKED_INPUTS,
    )  # fmt: skip


def all_rows(device: str, quick: bool, repeats: int, count: int) -> Iterator[Row]:
    grid = QUICK_PLAYERS if quick else PLAYERS
    generator = torch.Generator().manual_seed(1)
    if device == "cpu":
        images = torch.randn(count, 3, 32, 32, generator=generator)
        yield forwards_row(
            "CNN 32x32", network(ConvNet, device), images, ImagePatches(*grid), MOST_OF_FORWARDS, repeats, device
        )
        if hasattr(tasks, "OwnStep"):
            yield own_step_row(
                Module(network(ConvNet, device)).eval(), images, ImagePatches(*grid, leaf="image"), repeats, device
            )
        yield feature_map_row(network(lambda: ResNet(16, large=False), device), images, grid, repeats, device)
        return
    images = torch.randn(count, 3, 32, 32, generator=generator).to(device)
    yield forwards_row("CNN 32x32", network(ConvNet, device), images, ImagePatches(*grid), MOST_OF_FORWARDS, repeats, device)
    if hasattr(tasks, "OwnStep"):
        module = Module(network(ConvNet, device)).eval()
        yield own_step_row(module, images, ImagePatches(*grid, leaf="image"), repeats, device)
    resnet = network(lambda: ResNet(64, large=True), device)
    large = torch.randn(count, 3, 224, 224, generator=generator).to(device)
    yield forwards_row("ResNet-18 224x224", resnet, large, ImagePatches(*grid), MOST_ON_CUDA, repeats, device)
    yield feature_map_row(resnet, large, grid, repeats, device)


def sizes_table(device: str, quick: bool) -> list[list[str]]:
    """Seconds of forwards by the rows of a chunk, relative to the fastest, beside the bytes of the largest activation."""
    from lightning_interactions.game.chunks import watched

    cases = {
        "CNN 32x32": (ConvNet, (3, 32, 32), 256 if quick else 1024),
        "ResNet 32x32, width 16": (lambda: ResNet(16, large=False), (3, 32, 32), 256 if quick else 512),
        "ResNet-18 224x224": (lambda: ResNet(64, large=True), (3, 224, 224), 32),
        "MLP of 64": (lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10)), (20,), 32768),
    }
    table = []
    for name, (make, shape, total) in cases.items():
        model = network(make, device)
        like = torch.randn(3, *shape, device=device)
        with torch.no_grad(), watched(model, len(like)) as seen:
            model(like)
        sizes = [2**power for power in range(16) if total // 256 <= 2**power <= total]
        sides = {str(size): lambda size=size: plain_forwards(model, like, total, size) for size in sizes[-9:]}  # noqa: B023
        seconds = seconds_in_turns(sides, 1 if quick else 3, device)
        fastest = min(seconds.values())
        table += [
            [name, size, f"{int(size) * seen.bytes_of_row / 2**20:.3g}", f"{1e3 * own / total:.4f}", f"{own / fastest:.2f}"]
            for size, own in seconds.items()
        ]
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer inputs and players")
    parser.add_argument("--inputs", type=int, help="number of inputs (default: 64, and 8 with --quick)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor where others compute, too (default: wall)")
    parser.add_argument("--repeats", type=int, default=3, help="of each side (default: %(default)s)")
    parser.add_argument("--sizes", action="store_true", help="seconds of forwards by the rows of a chunk instead")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bound is missed")
    arguments = parser.parse_args()
    global clock
    clock = CLOCKS[arguments.clock]
    torch.set_num_threads(arguments.threads)
    if arguments.sizes:
        headers = ["network", "rows", "largest activation, MiB", "ms a row", "of the fastest"]
        print(tabulate(sizes_table(arguments.device, arguments.quick), headers, disable_numparse=True))
        return 0
    count = arguments.inputs or (8 if arguments.quick else 64)
    rows = list(all_rows(arguments.device, arguments.quick, arguments.repeats, count))
    headers = ["what", "rows", "seconds", "beside", "ratio", "bound", "met", "detail"]
    print(tabulate([row.cells() for row in rows], headers, disable_numparse=True))
    return int(arguments.check and not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
