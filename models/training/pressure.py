"""The constant pressure by which the stresses of a data set disagree with its energies, and data without it.

A calculation with plane waves keeps their number while the cell changes, so that its stress is off by a pressure that
hardly depends on the cell (Francis and Payne, J. Phys.: Condens. Matter 2, 4395, 1990); other differences between the
run that gave energies and the one that gave stresses look alike. A potential that learns both follows the stress, and
its crystals come out too large or too small. Strained copies of one crystal tell the pressure without any potential:
the work of the stress between two of them must be the difference of their energies.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from equipot.models.training.frames import Bools, Frame, FrameSet
from equipot.voigt import symmetric_matrix

LARGEST_STRAIN = 0.02  #: between the cells of a pair; twice as much, and the trapezoidal rule is wrong by 0.3 GPa
SMALLEST_DILATION = 0.001  #: a pair of equal volumes tells nothing
MIN_PAIRS = 20
SAME_PLACE = 2e-3  #: fractional coordinates of strained copies


def pressure_offset_ev_per_ang3(frames: FrameSet) -> float | None:
    """The pressure p for which `stress + p` agrees best with the energies; None if too few pairs of frames tell.

    Least squares of E_j - E_i - W_ij = p (V_j - V_i) over pairs of strained copies of one crystal, W_ij being the work
    of the stresses as they are.
    """
    known = [f for f in frames if f.pbc.all() and np.isfinite(f.stress_ev_per_ang3).all()]
    missing, dilation = [], []
    for pair in itertools.combinations(known, 2):
        if not _are_copies(*pair):
            continue
        change = pair[1].cell_ang - pair[0].cell_ang
        strains = [np.linalg.solve(f.cell_ang, change) for f in pair]  # what leads to the other, seen from each
        volumes = [abs(float(np.linalg.det(f.cell_ang))) for f in pair]
        growth = volumes[1] - volumes[0]
        if max(np.abs(s).max() for s in strains) > LARGEST_STRAIN or abs(growth) < SMALLEST_DILATION * volumes[0]:
            continue
        works = [
            v * (symmetric_matrix(f.stress_ev_per_ang3) * s).sum()
            for f, v, s in zip(pair, volumes, strains, strict=True)
        ]
        missing.append(pair[1].energy_ev - pair[0].energy_ev - sum(works) / 2.0)
        dilation.append(growth)
    if len(missing) < MIN_PAIRS:
        return None
    return float(np.dot(missing, dilation) / np.dot(dilation, dilation))


def with_pressure(frames: FrameSet, which: Bools, offset_ev_per_ang3: float) -> FrameSet:
    """The same frames, the offset added to the diagonal of the stresses of those that are chosen."""
    stress = frames.stress_ev_per_ang3.copy()
    stress[which, :3] += offset_ev_per_ang3
    return replace(frames, stress_ev_per_ang3=stress)


def _are_copies(first: Frame, second: Frame) -> bool:
    """Whether both are one crystal under different strains, atoms in the same order."""
    if not np.array_equal(first.numbers, second.numbers):
        return False
    here, there = (np.linalg.solve(f.cell_ang.T, (f.positions_ang - f.positions_ang[0]).T) for f in (first, second))
    apart = here - there
    return bool(np.abs(apart - np.round(apart)).max() < SAME_PLACE)
