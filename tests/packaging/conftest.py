"""A copy of what is packaged, and the wheel built from it the way a release is: sources first, the wheel from those."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGED = ["pyproject.toml", "README.md", "LICENSE", "src", "models", "calculator", "simulation", "service"]


def copy_sources(repository: Path, target: Path) -> Path:
    """Copies what a build reads, links kept, so that nothing left over in the checkout can get in."""
    target.mkdir()
    for name in PACKAGED:
        source = repository / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, target / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, target / name)
    return target


@pytest.fixture(scope="session")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, which is built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(repository, folder / "sources")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(sources)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (path,) = (folder / "dist").glob("*.whl")
    return path
