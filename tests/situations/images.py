"""Images: channels last, bytes, hooks of transfer, segmentation, crops, transformers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import players
from tests.situations.batches import Rows, Stepped, of_rows
from tests.situations.losses import Net
from tests.situations.situation import (
    Answer,
    Base,
    Case,
    Situations,
    classified,
    images,
    integers,
    loaders,
    log_odds,
    mean_over_tokens,
    mlp,
    normal,
    tokens,
    zero,
)

SITUATIONS = situation = Situations()


def cnn(channels: int = 1, out: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, out))


def of_cnn(net: Any, x: Tensor) -> Tensor:
    """The same without modules."""
    hidden = F.conv2d(x.float(), net[0].weight, net[0].bias).clamp(min=0).mean((2, 3))
    return hidden @ net[4].weight.T + net[4].bias


def pictures(**options: Any) -> dict[str, Any]:
    return loaders(images(**options), images(8, seed=1, **options))


@situation("images flattened in the step")
def flattened_images() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(features=36)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            x = x.view(x.size(0), -1)
            return F.cross_entropy(self(x), y)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            x = x.view(x.size(0), -1)
            self.log("val_loss", F.cross_entropy(self(x), y))

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(batch[0].reshape(len(batch[0]), 36)), batch[1])

    return Case(Module(), **pictures(), oracle=oracle, empty=zero(0))


@situation("channels last, permuted in forward")
def channels_last() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn(channels=3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.permute(0, 3, 1, 2).contiguous())

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(of_cnn(module.net, torch.einsum("rhwc->rchw", batch[0])), batch[1])

    row = lambda i: (normal(6, 6, 3, seed=i), i % 3)  # noqa: E731
    return Case(Module(), **of_rows(row), oracle=oracle, empty=zero(0))


@situation("bytes, divided by 255 in the step")
def bytes_in_step() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn(channels=3)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self(x.float().div(255).sub(0.5)), y)

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(of_cnn(module.net, batch[0].double() / 255 - 0.5), batch[1])

    row = lambda i: (integers(256, 3, 6, 6, seed=i).to(torch.uint8), i % 3)  # noqa: E731
    return Case(Module(), **of_rows(row), oracle=oracle, empty=zero(0))


@situation("normalised after the transfer, flipped while training")
def transfer_hook() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(features=36)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.flatten(1))

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            if self.trainer.training:
                x = x.flip(-1) if torch.rand(()) < 0.5 else x
                x = x + 0.1 * torch.randn_like(x)
            return (x - 0.2) / 2.0, y

    def oracle(module: Any, batch: Any) -> Answer:
        # The step gets what the hook has made.
        return classified(module.net(batch[0].reshape(len(batch[0]), 36)), batch[1])

    return Case(Module(), **pictures(), oracle=oracle)


@situation("noise in the step while training")
def noise_in_step() -> Case:
    class Module(Net):
        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            if self.trainer.training:
                x = x + torch.randn_like(x)
            return F.cross_entropy(self(x), y)

    rows = [TensorDataset(normal(count, 4, seed=count), integers(3, count)) for count in (16, 8)]
    return Case(Module(), **loaders(*rows), oracle=lambda m, b: classified(m.net(b[0]), b[1]), empty=zero(0))


class Segmenter(Stepped):
    """One convolution.

    Args:
        classes: Of each pixel.
    """

    def __init__(self, classes: int = 3, **options: Any) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, classes, 3, padding=1)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def step(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch["image"]), batch["mask"], **self.options)


def of_pixels(module: Any, batch: Any) -> Tensor:
    weights = module.net.weight[:, 0]
    windows = F.unfold(batch["image"], 3, padding=1)
    logits = torch.einsum("ok,rkp->rpo", weights.flatten(1), windows) + module.net.bias
    return logits.reshape(len(logits), 6, 6, -1)


def masks(void: bool = False) -> dict[str, Any]:
    def row(index: int) -> Any:
        image = normal(1, 6, 6, seed=index)
        mask = (image[0] > 0).long() + (image[0] > 1).long()
        return {"image": image, "mask": mask.masked_fill(torch.arange(6) < index % 4, 255) if void else mask}

    return of_rows(row)


@situation("segmentation, cross-entropy of [rows, classes, height, width]")
def segmentation() -> Case:
    def oracle(module: Any, batch: Any) -> Answer:
        return tokens(of_pixels(module, batch), batch["mask"])

    return Case(Segmenter(), **masks(), oracle=oracle, empty=zero("image"))


@situation("segmentation with pixels of no class, 255")
def segmentation_with_void() -> Case:
    def oracle(module: Any, batch: Any) -> Answer:
        return tokens(of_pixels(module, batch), batch["mask"], ignored=255)

    def total(module: Any, batch: Any) -> Tensor:
        return mean_over_tokens(of_pixels(module, batch), batch["mask"], ignored=255)

    module = Segmenter(ignore_index=255)
    return Case(module, **masks(void=True), oracle=oracle, empty=zero("image"), step_loss=total, means_only=True)


@situation("segmentation of one class, BCE of [rows, 1, height, width]")
def binary_segmentation() -> Case:
    class Module(Segmenter):
        def step(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch["image"]), (batch["mask"] > 0).float().unsqueeze(1))

    def oracle(module: Any, batch: Any) -> Answer:
        logits = of_pixels(module, batch)
        return tokens(torch.cat([torch.zeros_like(logits), logits], -1), (batch["mask"] > 0).long())

    return Case(Module(classes=1), **masks(), oracle=oracle, empty=zero("image"))


@situation("crops in training, whole images in validation")
def crops() -> Case:
    class Crops(Rows):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            top, left = torch.randint(3, (2,)).tolist()
            return image[:, top : top + 6, left : left + 6], label

    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn(channels=3)

    row = lambda i: (normal(3, 8, 8, seed=i), i % 3)  # noqa: E731
    return Case(
        Module(),
        train=DataLoader(Crops(16, row), batch_size=8, shuffle=True),
        val=DataLoader(Rows(8, row), batch_size=4),
        oracle=lambda m, b: classified(of_cnn(m.net, b[0]), b[1]),
        empty=zero(0),
    )


@situation("rotations predicted without labels, made in the step")
def rotations() -> Case:
    class Module(Stepped):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(features=36, out=4)

        def step(self, batch: Any) -> Tensor:
            images = torch.cat([batch[0].rot90(turns, (2, 3)) for turns in range(4)])
            turns = torch.arange(4).repeat_interleave(len(batch[0]))
            return F.cross_entropy(self.net(images.flatten(1)), turns)

    def oracle(module: Any, batch: Any) -> Answer:
        scores = 0.0
        losses = 0.0
        for turns in range(4):
            logits = module.net(batch[0].rot90(turns, (2, 3)).flatten(1))
            own = torch.full((len(logits),), turns)
            scores = scores + log_odds(logits, own)
            losses = losses + classified(logits, own)[1] / 4  # type: ignore[operator]
        return scores, losses  # type: ignore[return-value]

    return Case(Module(), **pictures(), oracle=oracle, empty=zero(0))


@situation("a vision transformer of Hugging Face")
def vision_transformer() -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=6, patch_size=2,
        num_channels=1, num_labels=3,
    )  # fmt: skip

    class Module(Base):
        def __init__(self) -> None:
            super().__init__()
            self.vit = ViTForImageClassification(config)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.vit(**batch).loss

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
            outputs = self.vit(pixel_values=batch["pixel_values"])
            return F.cross_entropy(outputs["logits"], batch["labels"])

    def oracle(module: Any, batch: Any) -> Answer:
        rows = [module.vit(pixel_values=image[None]).logits[0] for image in batch["pixel_values"]]
        return classified(torch.stack(rows), batch["labels"])

    row = lambda i: {"pixel_values": normal(1, 6, 6, seed=i), "labels": i % 3}  # noqa: E731
    return Case(Module(), **of_rows(row), oracle=oracle, empty=zero("pixel_values"))


@situation("patches of an inner layer")
def feature_map() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.stem(x))

    module = Module()
    inner: Any = players.FeatureMapPatches("stem", 2, 2)  # type: ignore[attr-defined]

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(module.net(F.conv2d(batch[0], module.stem[0].weight, module.stem[0].bias).clamp(min=0)), batch[1])

    return Case(module, **pictures(), oracle=oracle, monitor={"players": inner})


@situation("a point cloud")
def point_cloud() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.points, self.net = nn.Linear(3, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.points(x).relu().amax(dim=1))

    def oracle(module: Any, batch: Any) -> Answer:
        return classified(
            module.net((batch[0] @ module.points.weight.T + module.points.bias).clamp(min=0).max(1).values), batch[1]
        )

    groups: Any = players.PointGroups(4)  # type: ignore[attr-defined]
    return Case(Module(), **of_rows(lambda i: (normal(12, 3, seed=i), i % 3)), oracle=oracle, monitor={"players": groups})
