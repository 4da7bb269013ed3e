"""The frames of one molecule: what is made of it, how much of each kind, and what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from equipot.models.training.frames import Floats, Frame, Ints, closest_ang
from equipot.models.training.geometries import (
    BOLTZMANN_EV_PER_K,
    Molecule,
    build_molecule,
    generator,
    n_atoms,
    noisy,
    on_grid,
    place_at_contact,
    random_contact,
    stretched,
    thermal,
    twisted,
)
from equipot.models.training.labels import LEVEL, Gfn2, LabelError, Point
from equipot.models.training.molecules import charge_of
from equipot.models.training.sampling import langevin, relaxation

# What is not worth learning: torn or crushed structures.
MAX_FORCE_EV_PER_ANG = 15.0
MAX_EXCESS_EV_PER_ATOM = 1.2
MIN_EXCESS_EV_PER_ATOM = -0.5
CLOSEST_ANG = 0.6
#: forces are stored as multiples of this, 0.3 meV/Å from what they were
FORCE_STEP_EV_PER_ANG = 2.0**-10

# Kinds of frames of a molecule, by its size in atoms: many cheap ones of a small molecule, few of a large one.
COUNTS = {
    8: {"relaxation": 4, "displaced": 5, "md": 5, "stretched": 2, "torsion": 1, "dimer": 3},
    14: {"relaxation": 3, "displaced": 4, "md": 2, "stretched": 1, "torsion": 1, "dimer": 2},
    22: {"relaxation": 2, "displaced": 4, "conformer": 1, "stretched": 1, "torsion": 1, "dimer": 2},
    32: {"relaxation": 2, "displaced": 3, "conformer": 1, "torsion": 1},
    99: {"relaxation": 1, "displaced": 2, "torsion": 1},
}
RELAX_STEPS = {8: 10, 14: 8, 22: 6, 32: 4, 99: 2}
EVERYDAY_FACTOR = 5  # as many frames of the molecules that are always trained on
TEMPERATURES_K = (100.0, 1500.0)  # of displacements, evenly on a logarithmic scale
MAX_DIMER_ATOMS, MAX_PARTNER_ATOMS, MAX_CLUSTER_ATOMS = 30, 13, 30
MD_STRIDE, DIMER_RELAX_STEPS, CLUSTER_RELAX_STEPS = 6, 6, 12
SOLVENTS = {"O": 30, "N": 8, "CO": 8, "Cl": 3, "S": 3, "CS": 3, "ClCCl": 3, "[OH3+]": 6, "[NH4+]": 6, "[OH-]": 6}
#: van der Waals radii (Mantina et al., J. Phys. Chem. A 113, 5806, 2009)
VDW_ANG = {1: 1.10, 6: 1.70, 7: 1.55, 8: 1.52, 9: 1.47, 15: 1.80, 16: 1.80, 17: 1.75, 35: 1.83}

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What decides the content of the data set: two runs with equal settings give equal frames.

    `frames` for each molecule, in units of the usual number (COUNTS); molecules of `everyday` get more.
    """

    frames: float = 1.0
    seed: int = 0
    molecules: tuple[str, ...] = ()
    everyday: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Short digest that names the shards of these settings."""
        rules = [LEVEL, COUNTS, RELAX_STEPS, TEMPERATURES_K, SOLVENTS, MAX_FORCE_EV_PER_ANG]
        content = json.dumps([rules, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def counts(self, smiles: str, size: int) -> dict[str, int]:
        """Frames of each kind for a molecule of so many atoms."""
        factor = self.frames * (EVERYDAY_FACTOR if smiles in self.everyday else 1)
        return {kind: max(1, round(factor * n)) for kind, n in _of_size(COUNTS, size).items()}


class Collector:
    """Takes labelled geometries and keeps those worth learning from."""

    def __init__(self, numbers: Ints, group: str, charge: int = 0) -> None:
        self.numbers, self.group, self.charge = numbers, group, charge
        self.gfn2 = Gfn2(numbers, charge=charge)
        self.reference_ev = np.inf
        self.points: list[tuple[str, Point]] = []

    def surface(self, positions_ang: Floats) -> tuple[float, Floats]:
        """Energy and forces at the nearest positions on the grid."""
        return self.gfn2(on_grid(positions_ang))

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
                    positions_ang=on_grid(point.positions_ang) - on_grid(point.positions_ang.mean(axis=0)),
                    forces_ev_per_ang=np.round(point.forces_ev_per_ang / FORCE_STEP_EV_PER_ANG) * FORCE_STEP_EV_PER_ANG,
                    energy_ev=point.energy_ev,
                    cell_ang=np.zeros((3, 3)),
                    pbc=np.zeros(3, dtype=np.bool_),
                    stress_ev_per_ang3=np.full(6, np.nan),
                    config_type=config_type,
                    group=self.group,
                    charge=self.charge,
                )
            )
        return frames


def molecule_frames(smiles: str, partners: Sequence[str], settings: Settings) -> list[Frame]:
    """All frames of one molecule: a function of the settings, `smiles` and the possible `partners` alone.

    `partners` are canonical SMILES of the same split. A molecule without a geometry or whose electronic
    structure never converges gives no frames.
    """
    random = generator(settings.seed, smiles, "frames")
    try:
        molecule = build_molecule(smiles, settings.seed)
        monomer = Collector(molecule.numbers, smiles, molecule.charge)
        start = molecule.conformers_ang[0]
        hessian = molecule.hessian_ev_per_ang2(start)
        steps = _of_size(RELAX_STEPS, molecule.n_atoms)
        path = relaxation(monomer.surface, start, steps, hessian=hessian)
    except (ValueError, LabelError):
        return []
    count = settings.counts(smiles, molecule.n_atoms)
    relaxed = min(path, key=lambda p: p.energy_ev)
    monomer.reference_ev = relaxed.energy_ev
    for k in np.unique(np.linspace(0, len(path) - 1, count["relaxation"] + 1).round().astype(int)):
        monomer.keep("relaxation", path[int(k)])
    shapes = [(relaxed.positions_ang, hessian)]
    shapes += [(c, molecule.hessian_ev_per_ang2(c)) for c in molecule.conformers_ang[1 : 1 + count.get("conformer", 0)]]
    for conformer, own in shapes[1:]:
        monomer.add("conformer", _shaken(conformer, own, 50.0, random))
    pool = [relaxed.positions_ang]
    if "md" in count:
        temperature_k = float(random.choice([300.0, 500.0, 700.0, 1000.0]))
        pool += _dynamics(monomer, relaxed.positions_ang, temperature_k, count["md"], random)
    for _ in range(count.get("stretched", 0)):
        monomer.add("stretched", stretched(molecule, noisy(_pick(pool, random), 0.02, random), random))
    for _ in range(count["torsion"]):
        monomer.add("torsion", twisted(molecule, _shaken(*shapes[-1], 150.0, random), random))
    for k in range(count["displaced"]):
        shape, own = shapes[k % len(shapes)]
        if random.random() < 0.12:  # squeezed or swollen as a whole
            monomer.add("displaced", noisy(shape * random.uniform(0.92, 1.06), 0.02, random))
        else:
            temperature_k = float(np.exp(random.uniform(*np.log(TEMPERATURES_K))))
            monomer.add("displaced", _shaken(shape, own, temperature_k, random))
    frames = monomer.frames()
    if "dimer" in count:
        frames += _dimers(molecule, relaxed, pool, partners, count["dimer"], settings, random)
        frames += _solvated(molecule, relaxed, partners, settings.seed, random)
    if smiles in SOLVENTS:
        frames += _solution(molecule, relaxed, round(SOLVENTS[smiles] * settings.frames), settings.seed, random)
    return frames


def _of_size(table: dict[int, Any], size: int) -> Any:
    return next(value for limit, value in table.items() if size <= limit)


def _shaken(positions_ang: Floats, hessian: Floats | None, temperature_k: float, random: np.random.Generator) -> Floats:
    """A copy displaced as at this temperature; evenly in all directions where there is no force field."""
    if hessian is None:
        return noisy(positions_ang, float(np.sqrt(BOLTZMANN_EV_PER_K * temperature_k / 20.0)), random)
    return thermal(positions_ang, hessian, temperature_k, random)


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
    settings: Settings,
    random: np.random.Generator,
) -> list[Frame]:
    """Two molecules at random: of every other molecule one pair is relaxed for some steps, the others are as placed."""
    fitting = [
        s
        for s in partners
        if n_atoms(s) + molecule.n_atoms <= MAX_DIMER_ATOMS and abs(charge_of(s) + molecule.charge) <= 1
    ]
    everyday = [s for s in fitting if s in settings.everyday]
    frames: list[Frame] = []
    if not fitting:
        return frames
    relax_first = random.random() < 0.5
    for attempt in range(3 * n_frames):
        if len(frames) >= n_frames:
            break
        names = everyday if everyday and random.random() < 0.5 else fitting
        same = random.random() < 0.1 and 2 * molecule.n_atoms <= MAX_DIMER_ATOMS and molecule.charge == 0
        other = _prepared(molecule.smiles if same else names[int(random.integers(len(names)))], settings.seed)
        if other is None:
            continue
        partner, partner_point = other
        dimer = _joined([molecule, partner], [relaxed, partner_point])
        first = noisy(_pick(pool, random), 0.02, random)
        second = noisy(_pick(partner.conformers_ang, random), 0.03, random)
        relax_it = attempt == 0 and relax_first
        contact = random.uniform(0.65, 0.85) if relax_it else random_contact(random)
        try:
            placed = np.concatenate([first, _placed(molecule.numbers, first, partner.numbers, second, contact, random)])
            if relax_it:
                path = relaxation(dimer.surface, placed, DIMER_RELAX_STEPS)
                for k in np.unique(
                    np.linspace(min(1, len(path) - 1), len(path) - 1, max(2, n_frames // 2)).round().astype(int)
                ):
                    dimer.keep("dimer", path[int(k)])
            else:
                dimer.add("dimer", placed)
        except (ValueError, LabelError):
            continue
        frames += dimer.frames()
    return frames


def _placed(
    numbers: Ints, fixed: Floats, other: Ints, moving: Floats, contact: float, random: np.random.Generator
) -> Floats:
    """`moving` where it comes as close to `fixed` as `contact` sums of van der Waals radii."""
    radius_of = np.vectorize(VDW_ANG.__getitem__)
    return place_at_contact(fixed, moving, contact * (radius_of(numbers)[:, None] + radius_of(other)), random)


def _solvated(
    molecule: Molecule, relaxed: Point, partners: Sequence[str], seed: int, random: np.random.Generator
) -> list[Frame]:
    """For one molecule in twelve: the molecule among two to four solvent molecules of its own split."""
    solvents = [s for s in SOLVENTS if s in partners and charge_of(s) == 0]
    if not solvents or random.random() > 0.08 or molecule.n_atoms > 20:
        return []
    solvent = _pick(solvents, random) if random.random() < 0.4 else solvents[0]
    other = _prepared(solvent, seed)
    if other is None:
        return []
    most = (MAX_CLUSTER_ATOMS - molecule.n_atoms) // other[0].n_atoms
    n_solvent = min(int(random.integers(2, 5)), most)
    if n_solvent < 1:
        return []
    return _cluster([molecule, *[other[0]] * n_solvent], [relaxed, *[other[1]] * n_solvent], random, md_frames=0)


def _solution(
    molecule: Molecule, relaxed: Point, n_clusters: int, seed: int, random: np.random.Generator
) -> list[Frame]:
    """Clusters of one solvent; of an ion, the ion among water molecules."""
    other = (molecule, relaxed) if molecule.charge == 0 else _prepared("O", seed)
    frames: list[Frame] = []
    for _ in range(n_clusters if other else 0):
        assert other is not None
        n_others = int(random.integers(1, 6 if molecule.n_atoms < 5 else 4))
        frames += _cluster([molecule, *[other[0]] * n_others], [relaxed, *[other[1]] * n_others], random, md_frames=5)
    return frames


def _cluster(
    molecules: Sequence[Molecule], points: Sequence[Point], random: np.random.Generator, md_frames: int
) -> list[Frame]:
    """Molecules packed one after the other, relaxed for some steps (three frames kept), then run at 200 to 500 K."""
    cluster = _joined(molecules, points)
    placed = noisy(points[0].positions_ang, 0.02, random)
    try:
        for point in points[1:]:
            added = noisy(point.positions_ang, 0.02, random)
            numbers = cluster.numbers[: len(placed)]
            other = cluster.numbers[len(placed) : len(placed) + len(added)]
            moved = _placed(numbers, placed, other, added, random.uniform(0.62, 0.9), random)
            placed = np.concatenate([placed, moved])
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
        return molecule, Point(positions, *Gfn2(molecule.numbers, charge=molecule.charge)(positions))
    except (ValueError, LabelError):
        return None


def _joined(molecules: Sequence[Molecule], points: Sequence[Point]) -> Collector:
    numbers = np.concatenate([m.numbers for m in molecules])
    group = ".".join(sorted(m.smiles for m in molecules))
    joined = Collector(numbers, group, sum(m.charge for m in molecules))
    joined.reference_ev = sum(p.energy_ev for p in points)
    return joined


def _pick(pool: Sequence[T], random: np.random.Generator) -> T:
    return pool[int(random.integers(len(pool)))]
