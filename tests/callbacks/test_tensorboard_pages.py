"""TensorBoard as a person sees it: a real server, opened in a real browser."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_interactions import ImagePatches
from lightning_interactions.schedules import EveryNEpochs
from tests.callbacks.runs import TINY_SET_UP, few, quiet_trainer
from tests.helpers.browser import CHROMIUM, browser, opened, shown, tensorboard
from tests.helpers.models import ImageClassifier, image_data

pytestmark = [
    *TINY_SET_UP,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("logs")
    logger = TensorBoardLogger(folder)
    monitor = few(players=ImagePatches(2, 2), figures=EveryNEpochs())
    trainer = quiet_trainer(folder, callbacks=[monitor], logger=logger, max_epochs=3)
    trainer.fit(ImageClassifier(), *(DataLoader(image_data(16, seed=seed), batch_size=8) for seed in (0, 1)))
    logger.finalize("success")
    with tensorboard(Path(logger.root_dir)) as served:
        yield served


def test_custom_scalars_open_on_the_phase_view(address: str) -> None:
    with browser() as page:
        opened(page, address, "phase_view")
        page.get_by_text("Phase that was detected").first.wait_for()
        page.get_by_text("Non-generalizable strength of order 1").first.wait_for()
        text = shown(page)
        # The order that a person reads in, which is not that of the layout.
        order = (
            "phase view",
            "Phase that was detected",
            "Share of generalizable",
            "Expected test loss",
            "Loss on held-out",
            "Excess gap",
            "strength by order",
            "Generalizable strength of order 1",
            "Non-generalizable strength of order 1",
            "Generalizable strength of order 3",
            "behind it",
        )
        assert sorted(order, key=text.index) == list(order)
        matches = [int(number) for number in re.findall(r"Matches\s*\(\s*(\d+)\s*\)", text)]
        # Of four orders two are in one chart. What is behind is closed.
        assert matches[:9] == [2, 3, 1, 1, 1, 2, 2, 2, 2]
        assert page.locator("tf-custom-scalar-margin-chart-card svg path").count() > 0


def test_the_axis_of_the_phase_reaches_to_phase_3(address: str) -> None:
    with browser() as page:
        opened(page, address, "phase_view")
        chart = page.locator("tf-custom-scalar-margin-chart-card").first
        chart.locator("svg path").first.wait_for()
        # Numbers of the vertical axis come first; those of the horizontal one begin below zero.
        numbers = chart.locator("svg .tick-label").all_text_contents()
        assert "3" in itertools.takewhile(lambda number: not number.startswith("-"), numbers)


def test_time_series_come_in_groups(address: str) -> None:
    with browser(height=3000) as page:
        opened(page, address, "scalars")
        page.get_by_text("interactions-diagnostics").first.wait_for()
        names = page.locator("metrics-card-group-toolbar .group-title, .group-title-text").all_inner_texts()
        groups = [name.split()[0] for name in names if "interactions" in name]
        expected = ["interactions", "interactions-by-order", "interactions-diagnostics"]
        assert groups[:3] == expected


def test_images_hold_cards_of_figures_and_inputs(address: str) -> None:
    with browser(height=3000) as page:
        opened(page, address, "images")
        page.get_by_text("interactions-figures/on_input_1").first.wait_for()
        text = shown(page)
        # The group that comes first.
        assert text.index("interactions/phases") < text.index("interactions-figures/")
        for name in ("decay_and_spindle", "order_and_time", "strength_by_order"):
            assert f"interactions-figures/{name}" in text
        pictures = page.locator("tf-image-loader img")
        pictures.first.wait_for()
        sizes = pictures.evaluate_all("images => images.map(image => [image.naturalWidth, image.naturalHeight])")
        assert sizes
        assert all(width == height > 300 for width, height in sizes)


def test_the_text_says_the_phase(address: str) -> None:
    with browser() as page:
        opened(page, address, "text")
        page.get_by_text("What to do").first.wait_for()
        cells = page.locator("tf-text-loader td").all_inner_texts()
        assert "Phase" in cells
        assert any("ImagePatches(" in cell for cell in cells)
