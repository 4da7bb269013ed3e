"""The picture a run leaves beside its trajectory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from matplotlib.image import imread

from equipot.calculator.convert import from_atoms
from equipot.params import JobKind, parse_params
from equipot.simulation.analysis.summary import draw_summary
from equipot.simulation.providers import AseProvider
from equipot.simulation.run import Run


def _run(directory: Path, kind: JobKind, n_systems: int = 1, **params: object) -> None:
    """A run of rattled copper crystals, to its end."""
    structures = []
    for seed in range(n_systems):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        structures.append(from_atoms(atoms))
    resolved = parse_params(kind, params).resolved([structure.numbers for structure in structures])
    with Run.start(
        directory, kind=kind, structures=structures, params=resolved, provider=AseProvider(EMT(), name="emt")
    ) as run:
        while run.advance():
            pass


@pytest.mark.parametrize("n_systems", [1, 3])
@pytest.mark.parametrize("kind", ["relax", "md"])
def test_the_picture_of_a_run_has_a_curve_of_its_own_for_each_system(
    tmp_path: Path, kind: JobKind, n_systems: int
) -> None:
    run = tmp_path / "run"
    if kind == "relax":
        _run(run, kind, n_systems, fmax_ev_per_ang=0.02)
    else:
        _run(run, kind, n_systems, n_steps=60, timestep_fs=2.0, thermo_every=5, seed=list(range(n_systems)))
    picture = draw_summary(run, tmp_path / "summary.png")
    assert picture == tmp_path / "summary.png"
    pixels = imread(picture)[..., :3]
    assert pixels.shape[1] > 800  # a column wide, at 300 dots per inch
    coloured = pixels[np.ptp(pixels, axis=2) > 0.25]
    hues = {tuple(np.round(colour * 4).astype(int)) for colour in coloured}
    assert len(hues) >= n_systems


def test_a_run_without_curves_leaves_no_picture(tmp_path: Path) -> None:
    _run(tmp_path / "run", "relax", max_steps=0)
    assert draw_summary(tmp_path / "run", tmp_path / "summary.png") is None
    assert not (tmp_path / "summary.png").exists()
