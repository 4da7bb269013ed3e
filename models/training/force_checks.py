"""What forces imply for energies and stresses, to tell whether labels belong together.

Two ways, both rough. Between two frames of the same atoms the energy changes by about minus the mean force times the
displacement (the trapezoid rule, exact where the energy is quadratic). And a pair potential fitted to the forces
alone gives energies and stresses of its own, good to a factor of two or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import VOIGT
from equipot.models.training.frames import Floats, Frame, FrameSet

MAX_FRAMES_PER_GROUP, MAX_GROUPS, MAX_ATOMS = 200, 6, 400
CUTOFF_ANG = 5.0
#: the pair potential is Σ_k c_k (1 - r / cutoff)^k for these k, for every pair of elements
POWERS = np.array([2.0, 4.0, 8.0, 16.0, 32.0])
MAX_UNKNOWNS = 1500
#: share of the forces that the pair potential must explain before it is asked anything
LEAST_EXPLAINED = 0.4


def work_between_frames(frames: FrameSet) -> tuple[Floats, Floats]:
    """(n,) energy differences as labelled and as forces ask for, eV, each of a frame and the most similar other one.

    Compared are frames of the same atoms in the same order and cell; molecules are laid over each other first
    (Kabsch, Acta Cryst. A 32, 922, 1976).
    """
    groups: dict[bytes, list[int]] = {}
    offsets = frames.offsets
    for i in np.flatnonzero((frames.n_atoms > 1) & (frames.n_atoms <= MAX_ATOMS) & ~frames.has_no_forces):
        numbers = frames.numbers[offsets[i] : offsets[i + 1]]
        key = numbers.tobytes() + frames.pbc[i].tobytes() + np.round(frames.cell_ang[i], 3).tobytes()
        groups.setdefault(key, []).append(int(i))
    labelled: list[float] = []
    asked_for: list[float] = []
    for members in sorted(groups.values(), key=len, reverse=True)[:MAX_GROUPS]:
        spread = np.linspace(0, len(members) - 1, min(MAX_FRAMES_PER_GROUP, len(members))).astype(int)
        chosen = [frames.frame(members[k]) for k in spread]
        for change, work in _nearest_differences(chosen):
            labelled.append(change)
            asked_for.append(work)
    return np.array(labelled), np.array(asked_for)


def _nearest_differences(group: Sequence[Frame]) -> list[tuple[float, float]]:
    positions = np.array([frame.positions_ang for frame in group])
    forces = np.array([frame.forces_ev_per_ang for frame in group])
    found = []
    for i, frame in enumerate(group):
        moved, turned = _laid_over(positions, forces, i, frame)
        distance = np.sqrt((moved**2).mean(axis=(1, 2)))
        distance[distance < 1e-3] = np.inf
        j = int(np.argmin(distance))
        if np.isfinite(distance[j]):
            work = -0.5 * float(((forces[i] + turned[j]) * moved[j]).sum())
            found.append((group[j].energy_ev - frame.energy_ev, work))
    return found


def _laid_over(positions: Floats, forces: Floats, i: int, frame: Frame) -> tuple[Floats, Floats]:
    """Displacements of all frames (n, n_atoms, 3) from frame i, and their forces, as seen in its orientation."""
    if frame.pbc.any():
        moved = positions - positions[i]
        if frame.pbc.all():
            fractional = moved @ np.linalg.inv(frame.cell_ang)
            moved = (fractional - np.round(fractional)) @ frame.cell_ang
        return moved, forces
    centred = positions - positions.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("nax,ay->nxy", centred, centred[i]))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    rotation = u @ vt
    return centred @ rotation - centred[i], forces @ rotation


@dataclass(frozen=True, eq=False)
class PairFit:
    """Energies (n_frames,) and stresses (n_frames, 6), NaN without a cell, of a pair potential fitted to forces."""

    energies_ev: Floats
    stresses_ev_per_ang3: Floats

    @classmethod
    def of(cls, sample: Sequence[Frame]) -> PairFit | None:
        """The fit, or None if there is too little to fit or too much to fit it to."""
        kinds = sorted({int(z) for frame in sample for z in frame.numbers})
        n_unknowns = len(kinds) * (len(kinds) + 1) // 2 * len(POWERS)
        if len(sample) < 5 or n_unknowns > MAX_UNKNOWNS:
            return None
        designs = [_design(frame, kinds, n_unknowns) for frame in sample]
        normal = sum(f.T @ f for f, _, _ in designs)
        right = sum(f.T @ frame.forces_ev_per_ang.ravel() for (f, _, _), frame in zip(designs, sample, strict=True))
        size = np.trace(normal) / n_unknowns
        if not size > 0.0 or not np.abs(right).max() > 0.0:
            return None
        solution = np.linalg.solve(normal + 1e-6 * size * np.eye(n_unknowns), right)
        squares = sum(float(frame.forces_ev_per_ang.ravel() @ frame.forces_ev_per_ang.ravel()) for frame in sample)
        explained = float(2 * solution @ right - solution @ normal @ solution) / squares
        if explained < LEAST_EXPLAINED:
            return None
        return cls(
            np.array([energy @ solution for _, energy, _ in designs]),
            np.array([stress @ solution for _, _, stress in designs]),
        )


def _design(frame: Frame, kinds: Sequence[int], n_unknowns: int) -> tuple[Floats, Floats, Floats]:
    """What forces (3 n_atoms, n), energy (n,) and stress (6, n) are for each unknown.

    E = 1/2 Σ_ij φ(r_ij), so F_i = Σ_j φ'(r_ij) r̂_ij and dE/dε = 1/2 Σ_ij φ'(r_ij) r_ij r̂_ij ⊗ r̂_ij.
    """
    first, second, vectors = edges_of(frame, CUTOFF_ANG)
    distance = np.linalg.norm(vectors, axis=1)
    unit = vectors / distance[:, None]
    rest = 1.0 - distance[:, None] / CUTOFF_ANG
    value, slope = rest**POWERS, -POWERS / CUTOFF_ANG * rest ** (POWERS - 1)
    place = np.searchsorted(kinds, frame.numbers)
    low, high = np.minimum(place[first], place[second]), np.maximum(place[first], place[second])
    pair = high * (high + 1) // 2 + low
    columns = pair[:, None] * len(POWERS) + np.arange(len(POWERS))

    forces = np.zeros((len(frame.numbers), 3, n_unknowns))
    for axis in range(3):
        np.add.at(forces[:, axis], (first[:, None], columns), slope * unit[:, axis : axis + 1])
    energy = np.zeros(n_unknowns)
    np.add.at(energy, columns, 0.5 * value)
    stress = np.full((6, n_unknowns), np.nan)
    if frame.pbc.all():
        stress[:] = 0.0
        volume = abs(float(np.linalg.det(frame.cell_ang)))
        for row, (a, b) in enumerate(VOIGT):
            np.add.at(stress[row], columns, 0.5 * slope * (vectors[:, a] * unit[:, b] / volume)[:, None])
    return forces.reshape(-1, n_unknowns), energy, stress


def edges_of(frame: Frame, cutoff_ang: float) -> tuple[np.ndarray, np.ndarray, Floats]:
    """First atom, second atom and the vector between them (Å) for every neighbour within the cutoff."""
    periodic = (bool(frame.pbc[0]), bool(frame.pbc[1]), bool(frame.pbc[2]))
    search = NeighbourSearch(cutoff_ang, skin_ang=0.0)
    graph = search.graph(frame.numbers, frame.positions_ang, frame.cell_ang, periodic)
    first = np.nonzero(graph.mask)[0]
    return first, graph.neighbours[graph.mask], graph.vectors_ang[graph.mask]
