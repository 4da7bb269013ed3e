"""The files that describe the project agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import equipot


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, object]:
    described: dict[str, object] = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return described


def test_the_version_is_the_same_everywhere(project: dict[str, object], repository: Path) -> None:
    changelog = re.findall(r"^## (\S+)", (repository / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    released = next(version for version in changelog if version != "Unreleased")
    assert project["version"] == equipot.__version__ == released == citation["version"]


def test_the_constraints_pin_every_dependency_to_something_the_project_allows(
    project: dict[str, object], repository: Path
) -> None:
    pins = dict(
        line.strip().lower().split("==")
        for line in (repository / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    pins = {name.replace("_", "-"): version for name, version in pins.items()}
    dependencies, extras = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    lines = [*dependencies, *extras["test"], *extras["train"]]
    own = [Requirement(line) for line in lines if Requirement(line).name == "equipot"]  # equipot[docs], say
    lines = [line for line in lines if Requirement(line).name != "equipot"]
    lines += [line for requirement in own for extra in requirement.extras for line in extras[extra]]
    for line in lines:
        wanted = Requirement(line)
        assert Version(pins[wanted.name.lower().replace("_", "-")]) in wanted.specifier, line
    assert "+" not in pins["torch"]


def test_no_file_names_the_host_of_a_package_registry(repository: Path) -> None:
    names = ["Makefile", "constraints.txt", "pyproject.toml", ".ci/run", "docker/Dockerfile", "docker/test-image"]
    for name in [*names, "docker-compose.yml", "docker-compose.gpu.yml"]:
        text = (repository / name).read_text()
        assert not re.search(r"--(extra-)?index-url|https?://[^/\s]*(pypi|pytorch)", text), name
