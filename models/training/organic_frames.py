"""The frames of one molecule: what is made of it, how much of each kind, and what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from equipot.models.training.frames import Floats, Frame, Ints, closest_ang
from equipot.models.training.geometries import (
    Molecule,
    build_molecule,
    generator,
    n_atoms,
    noisy,
    place_at_contact,
    random_contact_ang,
    stretched,
    twisted,
)
from equipot.models.training.labels import LEVEL, Gfn2, LabelError, Point, Surface
from equipot.models.training.sampling import langevin, relaxation

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
SOLVENTS = {"O": 40, "N": 12, "CO": 12}  # clusters of their own, besides those around other molecules


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


class Collector:
    """Takes labelled geometries and keeps those worth learning from."""

    def __init__(self, numbers: Ints, group: str, surface: Surface) -> None:
        self.numbers, self.group, self.surface = numbers, group, surface
        self.reference_ev = np.inf
        self.points: list[tuple[str, Point]] = []

    def add(self, config_type: str, positions_ang: Floats | None) -> bool:
        """Label a geometry and keep it unless it is crushed, torn or does not converge."""
        if positions_ang is None or closest_ang(positions_ang) < CLOSEST_ANG:
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
    random = generator(settings.seed, smiles, "frames")
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
        monomer.add("stretched", stretched(molecule, noisy(_pick(pool, random), 0.02, random), random))
    for _ in range(count["torsion"]):
        conformer = molecule.conformers_ang[int(random.integers(len(molecule.conformers_ang)))]
        monomer.add("torsion", twisted(molecule, noisy(conformer, 0.02, random), random))
    n_dimers = round(DIMER_SHARE * n)
    n_displaced = max(count["displaced"], n - n_dimers - len(monomer.points))
    for k in range(n_displaced):
        if k % 4 == 3:  # squeezed or swollen as a whole
            monomer.add("displaced", noisy(pool[0] * random.uniform(0.88, 1.08), 0.03, random))
        else:
            monomer.add("displaced", noisy(_pick(pool[:1] * 2 + pool, random), random.uniform(0.02, 0.12), random))
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
    fitting = [s for s in partners if n_atoms(s) + molecule.n_atoms <= MAX_DIMER_ATOMS]
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
        first = noisy(_pick(pool, random), 0.02, random)
        conformer = partner.conformers_ang[int(random.integers(len(partner.conformers_ang)))]
        second = noisy(conformer, 0.03, random)
        relax_it = attempt == 0
        contact_ang = random.uniform(1.8, 2.6) if relax_it else random_contact_ang(random)
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
    placed = noisy(points[0].positions_ang, 0.02, random)
    try:
        for point in points[1:]:
            added = noisy(point.positions_ang, 0.02, random)
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


def _pick(pool: Sequence[Floats], random: np.random.Generator) -> Floats:
    return pool[int(random.integers(len(pool)))]
