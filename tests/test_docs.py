"""Documentation: every block of Python runs, every name can be imported, every link and picture leads somewhere."""

import ast
import functools
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import matplotlib as mpl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lightning_interactions
from lightning_interactions.records import Probes

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightning_interactions.__file__).parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
BUILT = DOCS / "generated"
"""Pages that Sphinx writes."""
PAGES = [README, *sorted(page for page in DOCS.rglob("*.md") if BUILT not in page.parents)]
SOURCES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES = 90
MOST_EPOCHS = 1
FEW = (8, 8, 0)
"""Training probes, held-out probes and the seed of their draw, where a page does not say them."""
LOOSE = {1: 1e-2}
"""Duality gap at which an extraction ends: what the interactions are does not matter here."""

DOTTED = re.compile(r"\blightning_interactions(?:\.[A-Za-z_]\w*)+")
ROLE = re.compile(r":(?:func|class|meth|attr|data|exc|mod|obj):`~?([\w.]+)`")
NAMESPACES = (
    "analysis",
    "baselines",
    "evidence",
    "functional",
    "players",
    "records",
    "references",
    "reporting",
    "schedules",
    "tasks",
)
SHORT = re.compile(rf"(?<![\w./])(?:{'|'.join(NAMESPACES)})(?:\.(?!py\b|md\b|pt\b)[A-Za-z_]\w*)+")


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield the blocks of a language, those of MyST's directives as well, with the line in front of each."""
    opening = rf"(?:{language}|\{{code(?:-block)?\}} {language})"
    for found in re.finditer(rf"^```{opening}\n((?::.*\n)*)(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        yield page.read_text()[: found.start(2)].count("\n"), found.group(2)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the blocks of Python, and what stands there after each diff is applied, in their order."""
    diffs = (
        (line, "".join(f"{row[1:]}\n" for row in diff.splitlines() if not row.startswith("-")))
        for line, diff in blocks(page, "diff")
    )
    yield from sorted([*blocks(page, "python"), *diffs])


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


class TinyClassifier(L.LightningModule):
    """A linear classifier of four features, or of images of four pixels."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.linear = nn.Linear(4, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.flatten(1))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("validation_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Logits(nn.Linear):
    """A linear classifier whose output is a dict."""

    def __init__(self) -> None:
        super().__init__(4, 2)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(inputs)}


def table(seed: int, num_rows: int = 40) -> TensorDataset:
    inputs = torch.randn(num_rows, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs.sum(dim=1) > 0).long())


class TinyTables(L.LightningDataModule):
    """Loaders of tables."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(table(0), 20, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(table(1), 20)


def namespace(monitor: Any) -> dict[str, Any]:
    """Return what the pages take for granted: a model and its data, and a monitor that has watched a run."""
    inputs, targets = table(0).tensors
    other_inputs, other_targets = table(1).tensors
    data = TinyTables()
    return {
        "L": L,
        "model": TinyClassifier(),
        "monitor": monitor,
        "datamodule": data,
        "train_loader": data.train_dataloader(),
        "val_loader": data.val_dataloader(),
        "reference_loader": DataLoader(table(2), 20, shuffle=True),
        "network": nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
        "inputs": inputs,
        "targets": targets,
        "images": inputs[:8].reshape(8, 1, 2, 2),
        "labels": targets[:8],
        "other_images": other_inputs[:8].reshape(8, 1, 2, 2),
        "other_labels": other_targets[:8],
        "values": torch.randn(8, 2**4, generator=torch.Generator().manual_seed(0)),
        "values_of": lambda masks: (masks[:, :1] & masks[:, 1:2]).float().T,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run a page's blocks one after the other in one namespace, with short and quiet trainings on the CPU; each page once."""
    initialise = L.Trainer.__init__
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}

    @functools.wraps(initialise)
    def short(self: L.Trainer, **settings: Any) -> None:
        initialise(self, **{**settings, **quiet, "max_epochs": min(settings.get("max_epochs") or MOST_EPOCHS, MOST_EPOCHS)})

    with pytest.MonkeyPatch.context() as patch, mpl.rc_context({"backend": "agg"}):
        patch.setattr(L.Trainer, "__init__", short)
        patch.setattr("lightning_interactions.functional.extraction.extract.TOLERANCES", LOOSE)
        patch.setattr(lightning_interactions.ProbeSampling.__init__, "__defaults__", FEW)
        patch.chdir(tmp_path_factory.mktemp("docs"))
        L.seed_everything(0, verbose=False)
        monitor = lightning_interactions.InteractionMonitor()
        L.Trainer(callbacks=[monitor]).fit(TinyClassifier(), datamodule=TinyTables())

        @functools.cache
        def run_page(page: Path) -> dict[str, Any]:
            names = namespace(monitor)
            for line, text in code(page):
                exec(compile("\n" * line + text, str(page), "exec"), names)
            return names

        yield run_page


def resolve(path: str) -> object:
    """Import what a dotted path names.

    Raises:
        AttributeError, ImportError: If there is no such thing.
    """
    parts = path.split(".")
    found: object = importlib.import_module(parts[0])
    for position, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError:
            if isinstance(found, ModuleType):
                found = importlib.import_module(".".join(parts[:position]))
            elif part in getattr(found, "__annotations__", {}):
                return found
            else:
                raise
    return found


def exists(path: str) -> bool:
    try:
        resolve(path)
    except (AttributeError, ImportError):
        return False
    return True


def strings(tree: ast.AST) -> str:
    """Join every string of a module, docstrings and messages alike."""
    return "\n".join(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def own_names(tree: ast.Module, module: ModuleType) -> set[str]:
    """List what a docstring of a module may name without a path: its names, and attributes of its classes, also inherited."""
    names = {*vars(module)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
    for kind in [kind for kind in vars(module).values() if isinstance(kind, type)]:
        bases = [base for base in kind.__mro__ if base.__module__.startswith(PACKAGE.name)]
        members = {*dir(kind), *(name for base in bases for name in vars(base).get("__annotations__", {}))}
        names |= {f"{kind.__name__}.{member}" for member in members}
        names |= members if kind.__module__ == module.__name__ else set()
    return names


def packages_of(module: ModuleType) -> list[ModuleType]:
    """List the packages around a module."""
    parts = module.__name__.split(".")
    return [importlib.import_module(".".join(parts[:length])) for length in range(1, len(parts))]


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables_of_contents(page: Path) -> list[str]:
    """List what a page's tables of contents name, in their order, without options."""
    found = re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [line for table in found for line in table.splitlines() if line and not line.startswith(":")]


def test_every_page_is_in_the_navigation_once_and_linked_for_code_hosts() -> None:
    index = DOCS / "index.md"
    named = tables_of_contents(index)
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES if DOCS in page.parents and page != index}
    assert sorted(named) == sorted({*pages, "generated/gallery/index"})
    assert {f"{page}.md" for page in pages} <= set(re.findall(r"\]\((.+?)\)", index.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_fence_is_of_a_kind_that_is_checked(page: Path) -> None:
    fences = re.findall(r"^[ >]*(?:```|~~~|:::).*$", page.read_text(), re.MULTILINE)
    known = r"```(?:python|diff|bash|yaml|\{toctree\}|\{eval-rst\}|\{include\} \S+|\{code(?:-block)?\} python)"
    opened, closed = fences[::2], fences[1::2]
    assert [fence for fence in opened if not re.fullmatch(known, fence)] == []
    assert closed == ["```"] * len(opened)


def test_the_installation_is_that_of_the_readme() -> None:
    install, *_ = "".join(text for _, text in blocks(DOCS / "quickstart.md", "bash")).splitlines()
    assert install in README.read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if any(code(page))], ids=ids)
def test_blocks_run(run: Any, page: Path) -> None:
    run(page)


@pytest.mark.filterwarnings("ignore")
def test_scalars_are_those_that_are_logged(run: Any) -> None:
    page = ROOT / "docs" / "scalars.md"
    rows = re.findall(r"^\| (`.*?) \|", page.read_text(), re.MULTILINE)
    said = {tag for row in rows for tag in re.findall(r"`(interactions[\w-]*/\w+)`", row)}
    logged = {re.sub(r"_01$", "_03", tag) for tag in run(page)["tags"] if not re.search(r"_0[2-9]$", tag)}
    # The monitor adds how long all measurements took.
    assert logged | {"interactions-diagnostics/overhead"} == {
        tag for tag in said if "-figures/" not in tag and tag != "interactions/phases"
    }


@pytest.mark.filterwarnings("ignore")
def test_what_users_plug_in_works(run: Any) -> None:
    names = run(ROOT / "docs" / "usage.md")
    inputs, targets = table(0, 8).tensors
    plain = {"players": names["Halves"](), "baseline": names["TrainingMedian"](), "evidence": names["LowOrders"]()}
    image_and_table = {"image": inputs.reshape(8, 1, 2, 2), "table": inputs, "label": targets}
    cases = [
        ({"task": names["Counts"](), **plain}, (inputs, targets), nn.Linear(4, 1)),
        ({"task": names["Captioned"](), **plain}, {"image": inputs, "label": targets}, Logits()),
        (
            {"task": names["ImageAndTable"](), "players": lightning_interactions.FeatureGroups(leaf="table")},
            image_and_table,
            nn.Linear(8, 2),
        ),
    ]
    for settings, batch, model in cases:
        meter = lightning_interactions.InteractionMeter(**settings)
        measured = meter.prepare({"training": Probes.of(settings["task"].unpack(batch))}, model=model).measure(model).training
        assert measured.measured.all()
        assert measured.loss.isfinite().all()
    assert [epoch for epoch in range(21) if names["At"]((0, 1, 20)).due(epoch)] == [0, 1, 20]


@pytest.mark.filterwarnings("ignore")
def test_yaml_configures_callbacks(tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    ((_, text),) = blocks(ROOT / "docs" / "usage.md", "yaml")
    config = tmp_path / "config.yaml"
    config.write_text(text)
    quiet = {"logger": False, "accelerator": "cpu", "enable_checkpointing": False}
    cli = LightningCLI(
        TinyClassifier, TinyTables, run=False, args=["--config", str(config)], trainer_defaults=quiet, save_config_callback=None
    )
    monitor, stopping = (
        next(callback for callback in cli.trainer.callbacks if isinstance(callback, kind))
        for kind in (lightning_interactions.InteractionMonitor, lightning_interactions.PhaseEarlyStopping)
    )
    assert monitor.players.rows == 3
    assert monitor.evidence.num_draws == 3
    assert (monitor.probes.training, monitor.probes.held_out) == (64, 32)
    assert monitor.extraction.tolerance == 0.001
    assert stopping.restore_best


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_names_on_pages_can_be_imported(page: Path) -> None:
    text = page.read_text()
    inline = " ".join(re.findall(r"`[^`\n]+`", without_blocks(text)))
    paths = {*DOTTED.findall(text), *(f"lightning_interactions.{name}" for name in SHORT.findall(inline))}
    assert sorted(path for path in paths if not exists(path)) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(PACKAGE)))
def test_names_in_docstrings_and_messages_can_be_imported(source: Path) -> None:
    tree = ast.parse(source.read_text())
    text = strings(tree)
    dotted = ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(dotted)
    own = own_names(tree, module) | {name for package in packages_of(module) for name in dir(package)}
    targets = {target for target in ROLE.findall(text) if target not in own} | {*DOTTED.findall(text)}
    assert sorted(target for target in targets if not exists(target)) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(PACKAGE)))
def test_files_in_docstrings_and_messages_exist(source: Path) -> None:
    text = strings(ast.parse(source.read_text()))
    files = set(re.findall(r"\b(?:docs|tests|examples)/[\w/]+\.\w+", text))
    assert sorted(file for file in files if not (ROOT / file).exists()) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=ids)
def test_links_and_pictures_exist(page: Path) -> None:
    text = without_blocks(page.read_text())
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else Path(os.path.normpath(page.parent / path))
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_scripts_exist(page: Path) -> None:
    scripts = set(re.findall(r"\b(?:examples|tests|configs)/[\w/]+\.(?:py|yaml)\b", page.read_text()))
    assert sorted(script for script in scripts if not (ROOT / script).exists()) == []


def test_readme_is_short_and_has_two_commands() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES
    commands = "".join(text for _, text in blocks(README, "bash")).splitlines()
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)
