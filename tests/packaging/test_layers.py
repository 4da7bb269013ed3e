"""The arrows between the layers are checked, and a break of each rule is caught."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import copy_sources

LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]

BREAKS = [
    ("models/neighbours.py", "import equipot.calculator", "Arrows point down"),
    ("simulation/verdicts.py", "import equipot.service", "Arrows point down"),
    ("src/equipot/errors.py", "import torch", "The leaves import nothing of ours"),
    ("src/equipot/structure.py", "import ase", "The leaves import nothing of ours"),
    ("service/store.py", "def _():\n    import equipot.models.loading", "never reach torch"),
    ("simulation/trajectory.py", "import equipot.simulation.providers", "never reach torch"),
    ("service/client/calls.py", "import torch", "never reach torch"),
    ("models/loading.py", "def _():\n    from ase import Atoms", "The potential knows no ASE"),
]


def _lint(sources: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(sources / "src")}
    return subprocess.run(LINT, cwd=sources, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sources(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(repository, tmp_path_factory.mktemp("layers") / "sources")


def test_the_project_keeps_every_contract(sources: Path) -> None:
    ran = _lint(sources)
    assert ran.returncode == 0, ran.stdout[-3000:]


@pytest.mark.parametrize(("path", "line", "contract"), BREAKS)
def test_a_forbidden_import_is_caught(sources: Path, path: str, line: str, contract: str) -> None:
    original = (sources / path).read_text()
    (sources / path).write_text(f"{original}\n\n{line}\n")
    ran = _lint(sources)
    (sources / path).write_text(original)
    assert ran.returncode == 1, ran.stdout[-3000:]
    broken = [text for text in ran.stdout.splitlines() if " BROKEN" in text]
    assert any(contract in text for text in broken), broken
