"""Geometries of molecules: force-field conformers, with RDKit, and copies stretched, twisted, shaken and placed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from equipot.models.training.frames import Floats, Ints

#: force-field gradient in eV/Å at positions in Å, both (n_atoms, 3)
Gradient = Callable[[Floats], Floats]
KCAL_PER_MOL_EV = 0.0433641153
BOLTZMANN_EV_PER_K = 8.617333262e-5
#: positions are multiples of this, so that they are the same in single precision; Å
GRID_ANG = 2.0**-12
#: soft modes are no softer than this when structures are drawn at a temperature; eV/Å²
SOFTEST_EV_PER_ANG2 = 0.4


@dataclass(frozen=True, eq=False)
class Molecule:
    """A molecule with force-field conformers: `numbers` (n_atoms,), `conformers_ang` (n_conformers, n_atoms, 3)
    from the lowest to the highest, `bonds` as (i, j, order), its `charge` in e, and the force field's gradient (None
    where no force field knows it)."""

    smiles: str
    numbers: Ints
    conformers_ang: Floats
    bonds: tuple[tuple[int, int, float], ...]
    charge: int = 0
    gradient: Gradient | None = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms, hydrogens included."""
        return len(self.numbers)

    def side(self, i: int, j: int) -> Ints:
        """Atoms on j's side of the bond i-j, j included; empty if the bond is in a ring."""
        reached, todo = {j}, [j]
        while todo:
            atom = todo.pop()
            for a, b, _ in self.bonds:
                for here, there in ((a, b), (b, a)):
                    if here == atom and {here, there} != {i, j} and there not in reached:
                        reached.add(there)
                        todo.append(there)
        return np.array(sorted(reached) if i not in reached else [], dtype=np.int64)

    def hessian_ev_per_ang2(self, positions_ang: Floats) -> Floats | None:
        """The force field's second derivatives (3 n_atoms, 3 n_atoms) there, by central differences of its gradient."""
        if self.gradient is None:
            return None
        h = 1e-3
        columns = []
        for k in range(positions_ang.size):
            shift = np.zeros(positions_ang.size)
            shift[k] = h
            moved = shift.reshape(-1, 3)
            difference = self.gradient(positions_ang + moved) - self.gradient(positions_ang - moved)
            columns.append(difference.ravel() / (2 * h))
        hessian = np.stack(columns)
        return np.asarray(0.5 * (hessian + hessian.T)) if np.isfinite(hessian).all() else None


@lru_cache(maxsize=4096)
def build_molecule(smiles: str, seed: int) -> Molecule:
    """Up to three conformers from distance geometry (ETKDG), relaxed with MMFF94 (UFF where it has no parameters).

    Raises ValueError when no geometry can be made.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    rdBase.DisableLog("rdApp.*")
    rdmol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    random = generator(seed, smiles, "embed")
    ids: list[int] = []
    for random_coordinates in (False, True):
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = int(random.integers(1, 2**31 - 1))
        parameters.useRandomCoords = random_coordinates
        parameters.numThreads = 1
        parameters.pruneRmsThresh = 0.3
        ids = list(rdDistGeom.EmbedMultipleConfs(rdmol, 4, parameters))
        if ids:
            break
    if not ids:
        raise ValueError(f"no three-dimensional structure could be made for {smiles}")
    gradient: Gradient | None = None
    outcome = [(0, 0.0)] * len(ids)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(rdmol):
        outcome = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(rdmol, numThreads=1, maxIters=200)
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(rdmol)
        gradient = _gradient(rdForceFieldHelpers.MMFFGetMoleculeForceField(rdmol, properties, confId=ids[0]))
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(rdmol):
        outcome = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(rdmol, numThreads=1, maxIters=200)
        gradient = _gradient(rdForceFieldHelpers.UFFGetMoleculeForceField(rdmol, confId=ids[0]))
    order = sorted(range(len(ids)), key=lambda k: round(outcome[k][1], 6))
    chosen: list[int] = []
    for k in order:  # one of each energy: the others are the same structure again
        if all(abs(outcome[k][1] - outcome[c][1]) > 0.05 for c in chosen):
            chosen.append(k)
    positions = [np.array(rdmol.GetConformer(ids[k]).GetPositions(), dtype=np.float64) for k in chosen[:3]]
    return Molecule(
        smiles=smiles,
        numbers=np.array([a.GetAtomicNum() for a in rdmol.GetAtoms()], dtype=np.int64),
        conformers_ang=np.stack(positions),
        bonds=tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in rdmol.GetBonds()),
        charge=int(Chem.GetFormalCharge(rdmol)),
        gradient=gradient,
    )


def _gradient(field: Any) -> Gradient:
    field.Initialize()

    def gradient(positions_ang: Floats) -> Floats:
        flat = positions_ang.ravel().tolist()
        field.CalcEnergy(flat)  # renews the distances, which the gradient takes from where they were last computed
        return KCAL_PER_MOL_EV * np.asarray(field.CalcGrad(flat)).reshape(-1, 3)

    return gradient


@lru_cache(maxsize=4096)
def n_atoms(smiles: str) -> int:
    """Number of atoms of a molecule, hydrogens included."""
    from rdkit import Chem

    return int(Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms())


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the names alone."""
    digest = hashlib.sha256("|".join([str(seed), *names]).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def noisy(positions_ang: Floats, sigma_ang: float, random: np.random.Generator) -> Floats:
    """A copy with normal noise of width `sigma_ang` on every coordinate."""
    return np.asarray(positions_ang + sigma_ang * random.standard_normal(positions_ang.shape), dtype=np.float64)


def on_grid(positions_ang: Floats) -> Floats:
    """Positions rounded to multiples of GRID_ANG."""
    return np.asarray(np.round(positions_ang / GRID_ANG) * GRID_ANG, dtype=np.float64)


def thermal(positions_ang: Floats, hessian: Floats, temperature_k: float, random: np.random.Generator) -> Floats:
    """A copy displaced as a classical harmonic system is at this temperature, without turning or shifting."""
    stiffness, modes = np.linalg.eigh(hessian)
    inner = np.argsort(np.abs(stiffness))[min(6, len(stiffness) - 1) :]
    width = np.sqrt(BOLTZMANN_EV_PER_K * temperature_k / np.maximum(stiffness[inner], SOFTEST_EV_PER_ANG2))
    step = modes[:, inner] @ (width * random.standard_normal(len(inner)))
    return np.asarray(positions_ang + step.reshape(-1, 3), dtype=np.float64)


def stretched(molecule: Molecule, positions_ang: Floats, random: np.random.Generator) -> Floats | None:
    """A copy with one bond outside rings scaled: single bonds by 0.85 to 1.35, others by 0.9 to 1.2."""
    open_bonds = [(i, j, order) for i, j, order in molecule.bonds if len(molecule.side(i, j))]
    if not open_bonds:
        return None
    i, j, order = open_bonds[int(random.integers(len(open_bonds)))]
    factor = random.uniform(0.85, 1.35) if order == 1.0 else random.uniform(0.9, 1.2)
    moved = positions_ang.copy()
    moved[molecule.side(i, j)] += (factor - 1.0) * (positions_ang[j] - positions_ang[i])
    return moved


def twisted(molecule: Molecule, positions_ang: Floats, random: np.random.Generator) -> Floats | None:
    """A copy with one to three single bonds outside rings turned by any angle; None if there are no such bonds."""
    degree = Counter(atom for i, j, _ in molecule.bonds for atom in (i, j))
    free = [(i, j) for i, j, order in molecule.bonds if order == 1.0 and degree[i] > 1 and degree[j] > 1]
    free = [(i, j) for i, j in free if len(molecule.side(i, j))]
    if not free:
        return None
    moved = positions_ang.copy()
    for pick in random.permutation(len(free))[: int(random.integers(1, 4))]:
        i, j = free[int(pick)]
        side = molecule.side(i, j)
        axis = moved[j] - moved[i]
        x, y, z = axis / np.linalg.norm(axis)
        angle = random.uniform(0, 2 * np.pi)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)  # Rodrigues
        moved[side] = (moved[side] - moved[j]) @ rotation.T + moved[j]
    return moved


def random_rotation(random: np.random.Generator) -> Floats:
    """(3, 3) rotation matrix, uniform over all rotations."""
    q, r = np.linalg.qr(random.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.sign(np.linalg.det(q)), dtype=np.float64)


def random_contact(random: np.random.Generator) -> float:
    """How close two molecules come, in sums of van der Waals radii: a fifth repulsive, most about contact, some far."""
    low, high = [(0.5, 0.65), (0.65, 0.85), (0.85, 1.05), (0.85, 1.05), (1.05, 1.6)][int(random.integers(5))]
    return float(random.uniform(low, high))


def place_at_contact(fixed: Floats, moving: Floats, contact_ang: float | Floats, random: np.random.Generator) -> Floats:
    """`moving` (n, 3) turned and shifted so that a first pair of atoms is as close to `fixed` (m, 3) as it may be.

    contact_ang: one distance for all pairs, or (m, n).
    """
    closest = np.broadcast_to(contact_ang, (len(fixed), len(moving))).reshape(-1)
    for _ in range(20):
        turned = (moving - moving.mean(axis=0)) @ random_rotation(random).T
        direction = random.standard_normal(3)
        direction /= np.linalg.norm(direction)
        # |d + t u| = contact for each pair; the largest t is where the two meet first, coming from far away.
        d = (turned[None] - (fixed - fixed.mean(axis=0))[:, None]).reshape(-1, 3)
        along = d @ direction
        inside = closest**2 - ((d**2).sum(axis=1) - along**2)
        if (inside > 0).any():
            t = float((np.sqrt(np.maximum(inside, 0)) - along)[inside > 0].max())
            return np.asarray(turned + fixed.mean(axis=0) + t * direction, dtype=np.float64)
    raise ValueError("the two structures cannot be brought into contact")
