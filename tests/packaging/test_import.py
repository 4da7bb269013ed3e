"""Importing equipot is cheap and can be done under one name only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import equipot

LAYERS = ["calculator", "models", "service", "simulation"]
LONGEST_IMPORT_S = 0.1  # of the processor; measured 2 ms, torch alone takes more than a second


def _python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_refuses_to_be_imported_under_its_short_name(layer: str, repository: Path) -> None:
    ran = _python(f"import {layer}", repository)
    assert ran.returncode != 0
    assert f"ImportError: import equipot.{layer}" in ran.stderr


def test_a_models_module_of_the_user_does_not_disturb_ours(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("")
    ran = _python("import equipot.models, models; print(models.__file__)", tmp_path)
    assert ran.stdout.strip() == str(tmp_path / "models.py"), ran.stderr


def test_import_equipot_loads_nothing_heavy_and_is_fast(tmp_path: Path) -> None:
    code = (
        "import sys, time; start = time.process_time(); import equipot; took_s = time.process_time() - start;"
        "heavy = {'torch', 'ase', 'numpy', 'scipy', 'fastapi', 'pydantic', 'redis'} & set(sys.modules);"
        "print(took_s, sorted(heavy))"
    )
    took_s = []
    for _ in range(3):
        time, _, heavy = _python(code, tmp_path).stdout.strip().partition(" ")
        assert heavy == "[]"
        took_s.append(float(time))
    assert min(took_s) < LONGEST_IMPORT_S


@pytest.mark.parametrize("name", equipot.__all__)
def test_every_public_name_leads_to_something(name: str) -> None:
    assert getattr(equipot, name) is not None


def test_a_name_equipot_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Calculator'"):
        equipot.Calculator  # noqa: B018
