"""What is said of the package beside its code: metadata, versions, citation, and checks before a commit."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_interactions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightning_interactions.__file__).parent
PAPERS = {"2505.06993", "2502.10162", "2405.10262", "2407.19198"}
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(?:\[[\w,-]+\])?(?P<versions>.*)")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def requirements(project: dict[str, Any]) -> dict[str, str]:
    """List what the package needs: the versions that are allowed, by name."""
    found = [REQUIREMENT.fullmatch(requirement) for requirement in project["dependencies"]]
    return {match["name"]: match["versions"] for match in found if match is not None}


def oldest() -> dict[str, str]:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def steps() -> dict[str, str]:
    """List the commands of `.ci/run` by name, without the folder of the environment."""
    found = re.findall(r"^step \"(.+?)\" (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    return {name: command.removeprefix(".venv/bin/") for name, command in found}


def test_metadata_are_complete_and_of_what_is_installed(project: dict[str, Any]) -> None:
    assert {"description", "readme", "requires-python", "license", "license-files", "authors", "keywords"} < project.keys()
    assert metadata.version(project["name"]) == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert all((ROOT / file).exists() for file in (project["readme"], *project["license-files"]))


def test_every_requirement_has_a_lower_bound(project: dict[str, Any]) -> None:
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    for requirement in [*project["dependencies"], *extras]:
        match = REQUIREMENT.fullmatch(requirement)
        assert match is not None
        assert match["versions"].startswith(">=") or match["name"] == project["name"], requirement


def test_files_of_the_package_that_are_no_code_are_packed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    folders = {package: PACKAGE.parent.joinpath(*package.split(".")) for package in data}
    packed = {path for package, patterns in data.items() for pattern in patterns for path in folders[package].glob(pattern)}
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == packed


def test_the_oldest_versions_are_those_that_are_allowed(project: dict[str, Any]) -> None:
    allowed = requirements(project)
    pinned = {name: version for name, version in oldest().items() if name in allowed}
    assert pinned.keys() == allowed.keys() - {"torch"}
    for name, version in pinned.items():
        bound = allowed[name].split(",")[0].removeprefix(">=")
        assert version == bound or re.fullmatch(rf"{re.escape(bound)}(?:\.0)+", version), name


def test_the_table_of_versions_is_that_of_the_pins(project: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text()
    (torch,) = set(re.findall(r"torch==(\S+)", (ROOT / ".ci" / "run").read_text() + (ROOT / "README.md").read_text()))
    pins = {**oldest(), "torch": torch, "python": "–"}
    allowed = {"python": project["requires-python"], **requirements(project)}
    rows = re.findall(r"^\| ([\w-]+) \| `(.+?)` \| (\S+) \|$", page, re.MULTILINE)
    assert [(name, versions.replace(" ", ""), pin) for name, versions, pin in rows] == [
        (name, versions, pins[name]) for name, versions in allowed.items()
    ]
    assert all(f"`{extra}`" in page for extra in project["optional-dependencies"])


def test_the_citation_is_of_this_version_and_of_the_papers(project: dict[str, Any], citation: dict[str, Any]) -> None:
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["message"]
    for key, said in (("name", "title"), ("version", "version"), ("license", "license"), ("keywords", "keywords")):
        assert project[key] == citation[said]
    assert project["description"] == citation["abstract"].removesuffix(".")
    assert citation["authors"] == project["authors"]
    references = citation["references"]
    assert {reference["url"].rpartition("/")[2] for reference in references} == PAPERS
    assert all(reference["authors"] and reference["title"] and reference["type"] for reference in references)
    method = (ROOT / "docs" / "method.md").read_text()
    assert all(paper in method for paper in PAPERS)


def test_checks_before_a_commit_are_those_of_ci() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    assert {hook["name"]: hook["entry"] for hook in hooks} == {
        name: steps()[name] for name in ("linter", "format", "rooms", "types")
    }
    assert all(hook["language"] == "system" and not hook["pass_filenames"] and hook["always_run"] for hook in hooks)
