import base64
import re
import string
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.analysis import strongest_interactions
from lightning_interactions.records import History, Probes
from lightning_interactions.reporting import RunRecord, html, html_report, write_html
from tests.helpers.run_records import some_history, some_run

EVIL = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Tags, texts and attributes of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a second."""
    monkeypatch.setattr(html, "FIGURES", ())


@pytest.mark.parametrize("number", [1, pytest.param(len(html.FIGURES), marks=pytest.mark.slow)])
def test_a_report_has_figures_and_needs_no_other_file(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = html.FIGURES[1:2] if number == 1 else html.FIGURES
    assert len(figures) == number
    monkeypatch.setattr(html, "FIGURES", figures)
    page = Page(html_report(some_run()))
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == number
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert all(base64.b64decode(source.split(",")[1]).startswith(b"\x89PNG") for source in sources if source)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), "1"),
        (torch.tensor([[2.5], [-0.125], [3.0], [4.0]]), "-0.125"),
        (torch.tensor([12_345] * 4), "12345"),
        (torch.zeros(4, 2), ""),
    ],
)
def test_labels_are_targets_that_are_one_number(targets: Tensor, expected: str) -> None:
    run = some_run(probes={"training": Probes.of((torch.zeros(4, 3), targets))})
    assert html._label(run, 1) == expected


@pytest.mark.usefixtures("no_figures")
def test_a_report_says_what_is_known() -> None:
    text = Page(html_report(some_run(some_history(players="ImagePatches")))).text
    parts = (
        "Phase 3: memorising",
        "What to do:",
        "probe 0, sample 17",
        "label 3",
        "ImagePatches",
        "epoch 2, step 15",
        "nats",
        "12,345 a",
    )
    assert [part for part in parts if part not in text] == []


@pytest.mark.usefixtures("no_figures")
def test_the_strongest_interactions_are_those_with_their_players() -> None:
    text = Page(html_report(some_run())).text
    first = text[text.index("Strongest interactions") :]
    kinds = r"generalizable effect players \+1.000 a \+0.500 OR a · c not generalizable effect players -2.000 AND b · c"
    assert re.search(kinds, first)


@pytest.mark.usefixtures("no_figures")
def test_they_are_those_that_are_drawn_for_loggers() -> None:
    run = some_run(some_history(threshold=0.7))
    assert run.weights is not None
    # Of an effect that generalizes by half there is as much on either side; what is not salient is on none.
    run.weights[:, 0, 0b110] = 0.5
    text = Page(html_report(run)).text
    kinds = r"generalizable effect players -2.000 AND b · c not generalizable effect players -2.000 AND b · c"
    assert re.search(kinds, text[text.index("Strongest interactions") :])
    assert run.interactions is not None
    (found, *_) = strongest_interactions(run.interactions, run.weights, run.threshold)
    assert [len(found.generalizable), len(found.non_generalizable)] == [1, 1]


@pytest.mark.usefixtures("no_figures")
def test_without_weights_all_interactions_are_in_one_list() -> None:
    text = Page(html_report(some_run(weights=None))).text
    assert re.search(r"all effect players -2.000 AND b · c \+1.000 a", text)


@settings(deadline=None, max_examples=10)
@given(text=st.text(alphabet=f"{string.printable}ß中\x00", max_size=40))
def test_everything_from_the_run_is_escaped(text: str) -> None:
    evil = f"<script>{text}</script>"
    run = some_run(some_history((1,), **{evil: evil, "loss_unit": evil}), names=(evil, evil, evil), title=evil)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "FIGURES", ())
        content = html_report(run)
    page = Page(content)
    assert "script" not in page.tags
    assert "<script" not in content


def test_a_figure_that_fails_is_replaced_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_run: RunRecord) -> matplotlib.figure.Figure:
        raise ValueError(EVIL)

    monkeypatch.setattr(html, "FIGURES", (html.FigureOfRun("One", "", fails), html.FigureOfRun("Two", "", lambda _run: None)))
    content = html_report(some_run())
    assert EVIL not in content
    assert "alert" in content
    assert "Numbers at the last measurement" in content


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("held_out", [True, False])
def test_a_history_alone_is_enough(held_out: bool) -> None:
    text = Page(html_report(RunRecord(some_history((1,), held_out=held_out)))).text
    assert "Phase 1" in text
    assert "nan" not in text.split("Settings")[0].lower().replace("nano", "")


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        write_html(RunRecord(History()), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_path_that_cannot_be_written_is_found_out_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "html_report", lambda _run: pytest.fail("drawn"))
    with pytest.raises(OSError, match="nothing"):
        write_html(some_run(), tmp_path / "nothing" / "report.html")
    with pytest.raises(IsADirectoryError):
        write_html(some_run(), tmp_path)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("inputs", "drawn"),
    [
        (torch.rand(4, 1, 6, 5), True),
        (torch.rand(4, 3, 6, 5), True),
        (torch.rand(4, 6, 5), True),
        (torch.ones(4, 1, 6, 5), True),
        (torch.rand(4, 6, 5, 3), True),
        (torch.rand(4, 4, 6, 5), True),
        (torch.rand(4, 6, 5, 4), True),
        (torch.rand(4, 7, 6, 5), False),
        (torch.rand(4, 3), False),
        (torch.full((4, 1, 6, 5), torch.nan), False),
        (torch.ones(4, 6, 5, dtype=torch.long), False),
    ],
)
def test_images_are_drawn(inputs: torch.Tensor, drawn: bool) -> None:
    run = some_run(probes={"training": Probes.of((inputs, torch.zeros(4, dtype=torch.long)))})
    pictures: list[Any] = [name for name, value in Page(html_report(run)).attributes if name == "src"]
    assert len(pictures) == 4 * drawn
