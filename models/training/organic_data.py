"""GFN2-xTB energies and forces for the `organic` potential: generated here, with RDKit and tblite.

    python -m equipot.models.training.organic_data --out data/organic --frames 30000 --processes 2 --seed 0

Every molecule gives conformers, relaxation snapshots, short Langevin dynamics, displaced, stretched and twisted
structures, dimers and clusters. A molecule's frames depend on the seed and the molecule alone, so neither the
number of processes nor an interruption changes them: work is cut into shards, and a second run does only the
missing ones. Molecules are split into training, validation and test by identity, partners in dimers included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from equipot.models.training.frames import Floats, Frame, FrameSet, Ints, concatenate, minimum_distances_ang
from equipot.models.training.molecules import molecule_list, split_of

LEVEL = "GFN2-xTB"
HARTREE_EV, BOHR_ANG = 27.211386245988, 0.529177210903  # CODATA 2018, which tblite counts in
BOLTZMANN_EV_PER_K = 8.617333262e-5
ACCELERATION = 9.648533212e-3  # (eV/Å)/u in Å/fs²
MASSES_U = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999}
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O"}
UNPAIRED = {1: 1, 6: 2, 7: 3, 8: 2}  # ground-state terms 2S, 3P, 4S, 3P
SCF_ACCURACY = 0.1  # tblite's scale; ten times tighter than its default

# What is not worth learning: torn or crushed structures.
MAX_FORCE_EV_PER_ANG = 25.0
MAX_EXCESS_EV_PER_ATOM = 1.5
MIN_EXCESS_EV_PER_ATOM = -0.5
CLOSEST_ANG = 0.55

# Shares of a molecule's monomer and dimer frames, and what the kinds cost.
SHARES = {"conformer": 0.08, "relaxation": 0.14, "md": 0.27, "displaced": 0.15, "stretched": 0.10, "torsion": 0.06}
DIMER_SHARE = 0.20
MAX_DIMER_ATOMS, MAX_CLUSTER_ATOMS = 30, 30
MD_STRIDE, RELAX_STEPS, DIMER_RELAX_STEPS, CLUSTER_RELAX_STEPS = 9, 24, 14, 20
MOLECULES_PER_SHARD = 8
SOLVENTS = {"O": 40, "N": 12, "CO": 12}  # clusters of their own, besides those around other molecules


class LabelError(RuntimeError):
    """The electronic structure of a geometry did not converge."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of the data set: two runs with equal settings give equal frames."""

    frames: int = 30000
    seed: int = 0
    molecules: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Short digest that names the shards of these settings."""
        content = json.dumps([LEVEL, SHARES, SOLVENTS, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def frames_per_molecule(self) -> int:
        """Frames aimed at for each molecule, clusters of solvents apart."""
        return max(4, -(-self.frames // len(self.molecules)))


# ---- labels


class Gfn2:
    """GFN2-xTB energies and forces of one molecule or cluster, each geometry computed from scratch."""

    def __init__(self, numbers: Ints, unpaired: int = 0) -> None:
        from tblite.interface import Calculator

        self.numbers = numbers
        start = np.arange(3.0 * len(numbers)).reshape(-1, 3)
        self._calculator = Calculator("GFN2-xTB", numbers, start, charge=0.0, uhf=unpaired)
        self._calculator.set("verbosity", 0)
        self._calculator.set("accuracy", SCF_ACCURACY)

    def __call__(self, positions_ang: Floats) -> tuple[float, Floats]:
        """Energy (eV) and forces (n_atoms, 3) (eV/Å). Raises LabelError when the SCF does not converge."""
        self._calculator.update(np.ascontiguousarray(positions_ang / BOHR_ANG))
        try:
            result = self._calculator.singlepoint()
        except RuntimeError as error:
            raise LabelError(str(error)) from error
        energy = float(result.get("energy")) * HARTREE_EV
        forces = -np.asarray(result.get("gradient"), dtype=np.float64) * (HARTREE_EV / BOHR_ANG)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise LabelError("energy or forces are not finite")
        return energy, forces


def isolated_atom_energies_ev() -> dict[str, float]:
    """GFN2-xTB energy (eV) of each free atom with the number of unpaired electrons of its ground state."""
    return {SYMBOLS[z]: Gfn2(np.array([z]), unpaired)(np.zeros((1, 3)))[0] for z, unpaired in UNPAIRED.items()}


# ---- molecules and their starting geometries


@dataclass(frozen=True, eq=False)
class Molecule:
    """A molecule with force-field conformers: `numbers` (n_atoms,), `conformers_ang` (n_conformers, n_atoms, 3)
    from the lowest to the highest, and `bonds` as (i, j, order)."""

    smiles: str
    numbers: Ints
    conformers_ang: Floats
    bonds: tuple[tuple[int, int, float], ...]

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


@lru_cache(maxsize=4096)
def build_molecule(smiles: str, seed: int) -> Molecule:
    """Up to four conformers from distance geometry (ETKDG), relaxed with MMFF94 (UFF where it has no parameters).

    Raises ValueError when no geometry can be made.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    rdBase.DisableLog("rdApp.*")
    rdmol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    random = _generator(seed, smiles, "embed")
    ids: list[int] = []
    for random_coordinates in (False, True):
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = int(random.integers(1, 2**31 - 1))
        parameters.useRandomCoords = random_coordinates
        parameters.numThreads = 1
        parameters.pruneRmsThresh = 0.3
        ids = list(rdDistGeom.EmbedMultipleConfs(rdmol, 6, parameters))
        if ids:
            break
    if not ids:
        raise ValueError(f"no three-dimensional structure could be made for {smiles}")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(rdmol):
        outcome = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(rdmol, numThreads=1, maxIters=300)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(rdmol):
        outcome = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(rdmol, numThreads=1, maxIters=300)
    else:
        outcome = [(0, 0.0)] * len(ids)
    order = sorted(range(len(ids)), key=lambda k: round(outcome[k][1], 6))
    chosen: list[int] = []
    for k in order:  # one of each energy: the others are the same structure again
        if all(abs(outcome[k][1] - outcome[c][1]) > 0.05 for c in chosen):
            chosen.append(k)
    positions = [np.array(rdmol.GetConformer(ids[k]).GetPositions(), dtype=np.float64) for k in chosen[:4]]
    return Molecule(
        smiles=smiles,
        numbers=np.array([a.GetAtomicNum() for a in rdmol.GetAtoms()], dtype=np.int64),
        conformers_ang=np.stack(positions),
        bonds=tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in rdmol.GetBonds()),
    )


def _generator(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("|".join([str(seed), *names]).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


# ---- motion on the GFN2 surface

Surface = Callable[[Floats], tuple[float, Floats]]


@dataclass(frozen=True, eq=False)
class Point:
    """A geometry (n_atoms, 3) in Å with its energy (eV) and forces (n_atoms, 3) (eV/Å)."""

    positions_ang: Floats
    energy_ev: float
    forces_ev_per_ang: Floats


def relaxation(surface: Surface, positions_ang: Floats, max_steps: int, fmax: float = 0.02) -> list[Point]:
    """Every point of a BFGS descent from `positions_ang`, first to last.

    The Hessian starts at 70 eV/Å² and a step moves no atom by more than 0.2 Å, as in ASE's BFGS.
    """
    hessian = 70.0 * np.eye(positions_ang.size)
    points = [Point(positions_ang, *surface(positions_ang))]
    for _ in range(max_steps):
        point = points[-1]
        force = point.forces_ev_per_ang.ravel()
        if np.linalg.norm(point.forces_ev_per_ang, axis=1).max() < fmax:
            break
        omega, vectors = np.linalg.eigh(hessian)
        step = (vectors @ ((force @ vectors) / np.abs(omega))).reshape(-1, 3)
        longest = np.linalg.norm(step, axis=1).max()
        step *= min(1.0, 0.2 / longest)
        moved = point.positions_ang + step
        try:
            points.append(Point(moved, *surface(moved)))
        except LabelError:
            break
        dx = step.ravel()
        df = points[-1].forces_ev_per_ang.ravel() - force
        hx = hessian @ dx
        if np.abs(dx).max() > 1e-7:
            hessian = hessian - np.outer(df, df) / (dx @ df) - np.outer(hx, hx) / (dx @ hx)
    return points


def langevin(
    surface: Surface, numbers: Ints, start: Floats, temperature_k: float, n_steps: int, random: np.random.Generator
) -> Iterator[Point]:
    """Points of a Langevin trajectory (BAOAB, 1 fs, friction 0.02/fs) started at `start`, one per step.

    Velocities start at twice the temperature, since a relaxed structure has no potential energy to share.
    """
    dt, friction = 1.0, 0.02
    mass = np.array([MASSES_U[int(z)] for z in numbers])[:, None]
    thermal = np.sqrt(BOLTZMANN_EV_PER_K * temperature_k / mass * ACCELERATION)
    keep = np.exp(-friction * dt)
    positions, velocity = start.copy(), np.sqrt(2.0) * thermal * random.standard_normal(start.shape)
    force = surface(positions)[1]
    for _ in range(n_steps):
        velocity = velocity + 0.5 * dt * ACCELERATION * force / mass
        positions = positions + 0.5 * dt * velocity
        velocity = keep * velocity + np.sqrt(1 - keep**2) * thermal * random.standard_normal(start.shape)
        positions = positions + 0.5 * dt * velocity
        energy, force = surface(positions)
        velocity = velocity + 0.5 * dt * ACCELERATION * force / mass
        yield Point(positions, energy, force)


# ---- geometry changes


def random_rotation(random: np.random.Generator) -> Floats:
    """(3, 3) rotation matrix, uniform over all rotations."""
    q, r = np.linalg.qr(random.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.sign(np.linalg.det(q)), dtype=np.float64)


def place_at_contact(fixed: Floats, moving: Floats, contact_ang: float, random: np.random.Generator) -> Floats:
    """`moving` (n, 3) turned and shifted so that its closest atom is `contact_ang` from `fixed` (m, 3)."""
    for _ in range(20):
        turned = (moving - moving.mean(axis=0)) @ random_rotation(random).T
        direction = random.standard_normal(3)
        direction /= np.linalg.norm(direction)
        # |d + t u| = contact for each pair; the largest t is where the two meet first, coming from far away.
        d = (turned[None] - (fixed - fixed.mean(axis=0))[:, None]).reshape(-1, 3)
        along = d @ direction
        inside = contact_ang**2 - ((d**2).sum(axis=1) - along**2)
        if (inside > 0).any():
            t = float((np.sqrt(np.maximum(inside, 0)) - along)[inside > 0].max())
            return np.asarray(turned + fixed.mean(axis=0) + t * direction, dtype=np.float64)
    raise ValueError("the two structures cannot be brought into contact")


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


# ---- the frames of one molecule


class Collector:
    """Takes labelled geometries and keeps those worth learning from."""

    def __init__(self, numbers: Ints, group: str, surface: Surface) -> None:
        self.numbers, self.group, self.surface = numbers, group, surface
        self.reference_ev = np.inf
        self.points: list[tuple[str, Point]] = []

    def add(self, config_type: str, positions_ang: Floats | None) -> bool:
        """Label a geometry and keep it unless it is crushed, torn or does not converge."""
        if positions_ang is None or _closest(positions_ang) < CLOSEST_ANG:
            return False
        try:
            point = Point(positions_ang, *self.surface(positions_ang))
        except LabelError:
            return False
        return self.keep(config_type, point)

    def keep(self, config_type: str, point: Point) -> bool:
        """Keep a labelled point if its forces are bearable; energies are judged in `frames`."""
        if np.linalg.norm(point.forces_ev_per_ang, axis=1).max() > MAX_FORCE_EV_PER_ANG:
            return False
        self.points.append((config_type, point))
        return True

    def frames(self) -> list[Frame]:
        """The kept points as frames, without those of absurd energy relative to `reference_ev`."""
        frames = []
        for config_type, point in self.points:
            excess = (point.energy_ev - self.reference_ev) / len(self.numbers)
            if not MIN_EXCESS_EV_PER_ATOM <= excess <= MAX_EXCESS_EV_PER_ATOM:
                continue
            frames.append(
                Frame(
                    numbers=self.numbers,
                    positions_ang=point.positions_ang - point.positions_ang.mean(axis=0),
                    forces_ev_per_ang=point.forces_ev_per_ang,
                    energy_ev=point.energy_ev,
                    cell_ang=np.zeros((3, 3)),
                    pbc=np.zeros(3, dtype=np.bool_),
                    stress_ev_per_ang3=np.full(6, np.nan),
                    config_type=config_type,
                    group=self.group,
                )
            )
        return frames


def molecule_frames(smiles: str, partners: Sequence[str], settings: Settings) -> list[Frame]:
    """All frames of one molecule: a function of the settings, `smiles` and the possible `partners` alone.

    `partners` are canonical SMILES of the same split. A molecule without a geometry or whose electronic
    structure never converges gives no frames.
    """
    random = _generator(settings.seed, smiles, "frames")
    n = settings.frames_per_molecule
    try:
        molecule = build_molecule(smiles, settings.seed)
        surface = Gfn2(molecule.numbers)
        lowest = relaxation(surface, molecule.conformers_ang[0], RELAX_STEPS)
    except (ValueError, LabelError):
        return []
    relaxed = min(lowest, key=lambda p: p.energy_ev)
    monomer = Collector(molecule.numbers, smiles, surface)
    monomer.reference_ev = relaxed.energy_ev
    count = {kind: max(1, round(share * n)) for kind, share in SHARES.items()}
    pool = [relaxed.positions_ang]

    for conformer in molecule.conformers_ang[1 : 1 + count["conformer"]]:
        monomer.add("conformer", conformer)
    picks = np.unique(np.linspace(0, len(lowest) - 1, count["relaxation"]).round().astype(int))
    for k in picks:
        monomer.keep("relaxation", lowest[int(k)])
    temperature_k = float(random.choice([300.0, 500.0, 700.0, 1000.0]))
    pool += _dynamics(monomer, relaxed.positions_ang, temperature_k, count["md"], random)

    for _ in range(count["stretched"]):
        monomer.add("stretched", stretched(molecule, _noisy(_pick(pool, random), 0.02, random), random))
    for _ in range(count["torsion"]):
        conformer = molecule.conformers_ang[int(random.integers(len(molecule.conformers_ang)))]
        monomer.add("torsion", twisted(molecule, _noisy(conformer, 0.02, random), random))
    n_dimers = round(DIMER_SHARE * n)
    n_displaced = max(count["displaced"], n - n_dimers - len(monomer.points))
    for k in range(n_displaced):
        if k % 4 == 3:  # squeezed or swollen as a whole
            monomer.add("displaced", _noisy(pool[0] * random.uniform(0.88, 1.08), 0.03, random))
        else:
            monomer.add("displaced", _noisy(_pick(pool[:1] * 2 + pool, random), random.uniform(0.02, 0.12), random))
    frames = monomer.frames()
    frames += _dimers(molecule, relaxed, pool, partners, n_dimers, settings.seed, random)
    frames += _solvated(molecule, relaxed, partners, settings.seed, random)
    if smiles in SOLVENTS:
        for _ in range(SOLVENTS[smiles]):
            size = int(random.integers(2, 7 if molecule.n_atoms < 5 else 5))
            frames += _cluster([molecule] * size, [relaxed] * size, random, md_frames=4)
    return frames


def _dynamics(
    collector: Collector,
    start: Floats,
    temperature_k: float,
    n_frames: int,
    random: np.random.Generator,
    config_type: str = "md",
) -> list[Floats]:
    """Keep every MD_STRIDE-th point of a short trajectory; returns the geometries kept."""
    kept = []
    try:
        steps = langevin(collector.surface, collector.numbers, start, temperature_k, n_frames * MD_STRIDE, random)
        for k, point in enumerate(steps, start=1):
            if k % MD_STRIDE == 0 and collector.keep(config_type, point):
                kept.append(point.positions_ang)
    except LabelError:
        pass
    return kept


def _dimers(
    molecule: Molecule,
    relaxed: Point,
    pool: Sequence[Floats],
    partners: Sequence[str],
    n_frames: int,
    seed: int,
    random: np.random.Generator,
) -> list[Frame]:
    """Two molecules at random: one pair relaxed for some steps (half of the frames), the others as placed."""
    fitting = [s for s in partners if _n_atoms(s) + molecule.n_atoms <= MAX_DIMER_ATOMS]
    frames: list[Frame] = []
    if not fitting:
        return frames
    for attempt in range(3 * n_frames):
        if len(frames) >= n_frames:
            break
        same = random.random() < 0.3 and 2 * molecule.n_atoms <= MAX_DIMER_ATOMS
        name = molecule.smiles if same else fitting[int(random.integers(len(fitting)))]
        other = _prepared(name, seed)
        if other is None:
            continue
        partner, partner_point = other
        dimer = _joined([molecule, partner], [relaxed, partner_point])
        first = _noisy(_pick(pool, random), 0.02, random)
        conformer = partner.conformers_ang[int(random.integers(len(partner.conformers_ang)))]
        second = _noisy(conformer, 0.03, random)
        relax_it = attempt == 0
        contact_ang = random.uniform(1.8, 2.6) if relax_it else _contact(random)
        try:
            placed = np.concatenate([first, place_at_contact(first, second, contact_ang, random)])
            if relax_it:
                path = relaxation(dimer.surface, placed, DIMER_RELAX_STEPS)
                last = len(path) - 1
                for k in np.unique(np.linspace(min(4, last), last, max(1, n_frames // 2)).round().astype(int)):
                    dimer.keep("dimer", path[int(k)])
            else:
                dimer.add("dimer", placed)
        except (ValueError, LabelError):
            continue
        frames += dimer.frames()
    return frames


def _solvated(
    molecule: Molecule, relaxed: Point, partners: Sequence[str], seed: int, random: np.random.Generator
) -> list[Frame]:
    """For one molecule in three: the molecule among two to four solvent molecules of its own split."""
    solvents = [s for s in SOLVENTS if s in partners]
    if not solvents or random.random() > 0.33 or molecule.n_atoms > 20:
        return []
    solvent = solvents[min(int(random.integers(5)), len(solvents) - 1) if random.random() < 0.4 else 0]
    other = _prepared(solvent, seed)
    if other is None:
        return []
    most = (MAX_CLUSTER_ATOMS - molecule.n_atoms) // other[0].n_atoms
    n_solvent = min(int(random.integers(2, 5)), most)
    if n_solvent < 1:
        return []
    return _cluster([molecule, *[other[0]] * n_solvent], [relaxed, *[other[1]] * n_solvent], random, md_frames=0)


def _cluster(
    molecules: Sequence[Molecule], points: Sequence[Point], random: np.random.Generator, md_frames: int
) -> list[Frame]:
    """Molecules packed one after the other, relaxed for some steps (three frames kept), then run at 200 to 500 K."""
    cluster = _joined(molecules, points)
    placed = _noisy(points[0].positions_ang, 0.02, random)
    try:
        for point in points[1:]:
            added = _noisy(point.positions_ang, 0.02, random)
            placed = np.concatenate([placed, place_at_contact(placed, added, random.uniform(1.7, 2.5), random)])
        path = relaxation(cluster.surface, placed, CLUSTER_RELAX_STEPS)
    except (ValueError, LabelError):
        return []
    for k in sorted({0, len(path) // 2, len(path) - 1}):
        cluster.keep("cluster", path[k])
    if md_frames:
        temperature_k = random.uniform(200, 500)
        _dynamics(cluster, path[-1].positions_ang, temperature_k, md_frames, random, "cluster")
    return cluster.frames()


@lru_cache(maxsize=4096)
def _prepared(smiles: str, seed: int) -> tuple[Molecule, Point] | None:
    """A partner molecule and its lowest force-field conformer with label; None if it cannot be made."""
    try:
        molecule = build_molecule(smiles, seed)
        positions = molecule.conformers_ang[0]
        return molecule, Point(positions, *Gfn2(molecule.numbers)(positions))
    except (ValueError, LabelError):
        return None


def _joined(molecules: Sequence[Molecule], points: Sequence[Point]) -> Collector:
    numbers = np.concatenate([m.numbers for m in molecules])
    group = ".".join(sorted(m.smiles for m in molecules))
    joined = Collector(numbers, group, Gfn2(numbers))
    joined.reference_ev = sum(p.energy_ev for p in points)
    return joined


@lru_cache(maxsize=4096)
def _n_atoms(smiles: str) -> int:
    from rdkit import Chem

    return int(Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms())


def _contact(random: np.random.Generator) -> float:
    """A closest distance (Å): a quarter repulsive, half about van der Waals contact, a quarter farther."""
    low, high = [(1.4, 1.8), (1.8, 3.0), (1.8, 3.0), (3.0, 5.0)][int(random.integers(4))]
    return float(random.uniform(low, high))


def _noisy(positions_ang: Floats, sigma_ang: float, random: np.random.Generator) -> Floats:
    return np.asarray(positions_ang + sigma_ang * random.standard_normal(positions_ang.shape), dtype=np.float64)


def _pick(pool: Sequence[Floats], random: np.random.Generator) -> Floats:
    return pool[int(random.integers(len(pool)))]


def _closest(positions_ang: Floats) -> float:
    distance = np.linalg.norm(positions_ang[:, None] - positions_ang[None], axis=-1)
    return float(distance[np.triu_indices(len(distance), k=1)].min())


# ---- shards, merging, command line


@dataclass(frozen=True)
class Shard:
    """Some molecules of one split and the file their frames go to."""

    path: Path
    molecules: tuple[str, ...]
    partners: tuple[str, ...]
    settings: Settings


def plan_shards(settings: Settings, out_dir: Path) -> dict[str, list[Shard]]:
    """The shards of each split. Molecules stand in the order of their hash, so that any part is a fair sample."""
    shards: dict[str, list[Shard]] = {"train": [], "valid": [], "test": []}
    ordered = sorted(settings.molecules, key=lambda s: hashlib.sha256(f"order {s}".encode()).digest())
    for split, planned in shards.items():
        members = [s for s in ordered if split_of(s) == split]
        partners = tuple(sorted(members))
        for start in range(0, len(members), MOLECULES_PER_SHARD):
            path = out_dir / "shards" / f"{settings.key}-{split}-{start // MOLECULES_PER_SHARD:04d}.npz"
            planned.append(Shard(path, tuple(members[start : start + MOLECULES_PER_SHARD]), partners, settings))
    return shards


def write_shard(shard: Shard) -> Shard:
    """Compute a shard's frames and write its file; a worker process runs this."""
    frames = [f for s in shard.molecules for f in molecule_frames(s, shard.partners, shard.settings)]
    FrameSet.from_frames(frames, LEVEL).save(shard.path)
    return shard


def generate(settings: Settings, out_dir: Path, processes: int = 1, show_progress: bool = False) -> dict[str, Any]:
    """Compute the missing shards in `processes` processes, merge, and return the manifest."""
    start = time.perf_counter()
    shards = plan_shards(settings, out_dir)
    total = [s for planned in shards.values() for s in planned]
    # Validation and test are small: compute them early, so that a part of the run is already usable.
    rank = {s.path: (k / len(planned), s.path.name) for planned in shards.values() for k, s in enumerate(planned)}
    todo = sorted((s for s in total if not s.path.exists()), key=lambda s: rank[s.path])
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the children: one thread each, whatever this process has
    with multiprocessing.get_context("spawn").Pool(processes) as workers, _progress(show_progress) as advance:
        advance(len(total) - len(todo), len(total))
        for done, _ in enumerate(workers.imap_unordered(write_shard, todo), start=len(total) - len(todo) + 1):
            advance(done, len(total))
    return merge(settings, out_dir, wall_s=time.perf_counter() - start)


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, if `shown`; gives `advance(done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("shards", *columns, disable=not shown) as bar:
        task = bar.add_task("shards")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def merge(settings: Settings, out_dir: Path, wall_s: float = 0.0) -> dict[str, Any]:
    """Join the finished shards into train, valid and test ``.npz`` and write `manifest.json`; return the manifest."""
    files: dict[str, Any] = {}
    shards = plan_shards(settings, out_dir)
    complete = True
    for split, planned in shards.items():
        done = [s.path for s in planned if s.path.exists()]
        complete = complete and len(done) == len(planned)
        parts = [FrameSet.load(path) for path in done]
        frames = concatenate([FrameSet.from_frames([], LEVEL), *parts]).validate()
        frames.save(out_dir / f"{split}.npz")
        names = {s for group in frames.group.tolist() for s in group.split(".")}
        files[split] = {
            "file": f"{split}.npz",
            "sha256": frames.sha256(),
            "n_frames": frames.n_frames,
            "n_atoms": int(frames.n_atoms.sum()),
            "n_molecules": len(names),
            "config_types": dict(sorted(Counter(frames.config_type.tolist()).items())),
            "minimum_distance_ang": {
                f"{SYMBOLS[a]}-{SYMBOLS[b]}": round(d, 4) for (a, b), d in minimum_distances_ang(frames).items()
            },
        }
    manifest = {
        "format_version": 1,
        "level_of_theory": LEVEL,
        "complete": complete,
        "seed": settings.seed,
        "frames_asked_for": settings.frames,
        "splits": files,
        "isolated_atom_energies_ev": isolated_atom_energies_ev(),
        "isolated_atom_unpaired_electrons": {SYMBOLS[z]: u for z, u in UNPAIRED.items()},
        "versions": {name: version(name) for name in ("rdkit", "tblite", "numpy")},
        "wall_s": round(wall_s, 1),
    }
    temporary = out_dir / ".manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n")
    temporary.replace(out_dir / "manifest.json")
    return manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: generate the GFN2-xTB frames, or go on with an interrupted run."""
    parser = argparse.ArgumentParser(prog="python -m equipot.models.training.organic_data", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/organic"))
    parser.add_argument("--frames", type=int, default=30000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--merge-only", action="store_true", help="join the shards there are, compute nothing")
    arguments = parser.parse_args(argv)
    settings = Settings(arguments.frames, arguments.seed, tuple(molecule_list()))
    if arguments.merge_only:
        manifest = merge(settings, arguments.out)
    else:
        manifest = generate(settings, arguments.out, arguments.processes, show_progress=True)
    for name, part in manifest["splits"].items():
        print(f"{name}: {part['n_frames']} frames of {part['n_molecules']} molecules, {part['config_types']}")
    print(f"written to {arguments.out}{'' if manifest['complete'] else ' (not complete yet)'}")


if __name__ == "__main__":
    main()
