"""Structures of all kinds away from their minima, each with a calculator that knows its elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc100, fcc111, graphene, make_supercell, molecule
from ase.calculators.calculator import BaseCalculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import FIRE, LBFGS
from ase.spacegroup import crystal

from equipot.calculator.ase import EquipotCalculator
from equipot.calculator.convert import from_atoms
from equipot.models.loading import load_potential
from equipot.params import RelaxParams
from equipot.simulation.api import provider_for
from equipot.simulation.engine import Engine, Moving
from equipot.simulation.motions.relaxations import relaxation
from equipot.simulation.verdicts import Outcome

ASE_OPTIMIZERS: dict[str, Any] = {"fire": FIRE, "lbfgs": LBFGS}
ASE_FILTERS: dict[str, Any] = {"none": lambda atoms: atoms, "frechet": FrechetCellFilter, "unit_cell": UnitCellFilter}
N_COMPARED = 50


@dataclass
class Relaxed:
    """One relaxation: places and cells of each step, and its end."""

    places_ang: list[np.ndarray]
    cells_ang: list[np.ndarray]
    energy_ev: float = np.nan
    n_steps: int = 0
    converged: bool = False


@dataclass
class Difference:
    """Ours beside ASE's."""

    n_steps: int
    n_steps_ase: int
    farthest_ang: float  #: of any atom or lattice vector in the first N_COMPARED steps
    energy_ev_per_atom: float
    both_converged: bool

    @property
    def same_length(self) -> bool:
        """Within 1 step up to 200 steps, 2 % beyond."""
        return abs(self.n_steps - self.n_steps_ase) <= max(1.0, 0.02 * self.n_steps_ase * (self.n_steps_ase > 200))


def rattled(atoms: Atoms, strain: float = 0.02, seed: int = 1, stdev: float = 0.05) -> Atoms:
    """Away from the minimum in every coordinate: atoms shaken, the cell sheared and stretched."""
    atoms = atoms.copy()
    atoms.rattle(stdev, seed=seed)
    if all(atoms.pbc) and strain:
        change = np.random.default_rng(seed).normal(0.0, strain, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + change), scale_atoms=True)
    return atoms


def boxed(name: str, edge_ang: float) -> Atoms:
    atoms: Atoms = molecule(name, cell=[edge_ang] * 3, pbc=True)
    atoms.center()
    return atoms


def alone(atoms: Atoms) -> Atoms:
    return Atoms(atoms.symbols, atoms.positions)


def slab(symbol: str, build: Any = fcc111, periodic: bool = True) -> Atoms:
    atoms: Atoms = build(symbol, (2, 2, 3), vacuum=4.0)
    atoms.set_pbc(periodic or (True, True, False))
    atoms.set_constraint(FixAtoms(indices=[atom.index for atom in atoms if atom.tag > 1]))
    return atoms


def skewed(atoms: Atoms) -> Atoms:
    larger: Atoms = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 2, 1]])
    return larger


def pinned(atoms: Atoms, *fixed: int) -> Atoms:
    atoms.set_constraint(FixAtoms(indices=list(fixed)))
    return atoms


def graphite() -> Atoms:
    layers: Atoms = graphene(vacuum=3.35 / 2).repeat((1, 1, 2))
    layers.set_pbc(True)
    return layers


def urea() -> Atoms:
    """CO(NH2)2 by X-ray (P-42_1m)."""
    places = [(0, 0.5, 0.326), (0, 0.5, 0.595), (0.146, 0.646, 0.176), (0.257, 0.757, 0.283), (0.144, 0.644, -0.038)]
    found: Atoms = crystal(["C", "O", "N", "H", "H"], places, spacegroup=113, cellpar=[5.57, 5.57, 4.68, 90, 90, 90])
    return found


def perovskite(a_ang: float = 3.9) -> Atoms:
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    found: Atoms = crystal(["Sr", "Ti", "O"], places, spacegroup=221, cellpar=[a_ang] * 3 + [90] * 3)
    return found


def ordered_alloy() -> Atoms:
    found: Atoms = crystal(["Al", "Ni"], [(0, 0, 0), (0, 0.5, 0.5)], spacegroup=221, cellpar=[3.6] * 3 + [90] * 3)
    return found


def rock_salt() -> Atoms:
    found: Atoms = bulk("NaCl", "rocksalt", a=4.2, cubic=True)
    return found


def argon() -> BaseCalculator:
    return LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)


def soft_spheres() -> BaseCalculator:
    return LennardJones(sigma=2.0, epsilon=0.3, rc=5.0, smooth=True)


def tiny() -> BaseCalculator:
    return EquipotCalculator(load_potential("tiny"))


#: name: the structure, its calculator. All are near enough to a minimum for their paths to be well defined: where
#: negative curvature throws L-BFGS about, which has no line search, ASE ends elsewhere after a nudge of 1e-13 Å too.
SET: dict[str, tuple[Callable[[], Atoms], Callable[[], BaseCalculator]]] = {
    "water": (lambda: rattled(molecule("H2O")), tiny),
    "acetic acid, a carbon fixed": (lambda: rattled(pinned(molecule("CH3COOH"), 0)), tiny),
    "copper cluster": (lambda: rattled(alone(bulk("Cu", cubic=True).repeat(2)[:13])), EMT),
    "copper slab, open": (lambda: rattled(slab("Cu", periodic=False)), EMT),
    "water in a box": (lambda: rattled(boxed("H2O", 5.0)), tiny),
    "ethanol in a box": (lambda: rattled(boxed("CH3CH2OH", 7.0)), tiny),
    "urea": (lambda: rattled(urea()), tiny),
    "diamond": (lambda: rattled(bulk("C", cubic=True)), tiny),
    "graphite": (lambda: rattled(graphite(), stdev=0.02), tiny),
    "silicon, one atom": (lambda: rattled(bulk("Si", "sc", a=2.6), 0.03), tiny),
    "silicon, skewed": (lambda: rattled(skewed(bulk("Si"))), tiny),
    "silicon and oxygen": (lambda: rattled(bulk("SiO", "rocksalt", a=4.4, cubic=True), stdev=0.02), tiny),
    "copper and silicon": (lambda: rattled(bulk("CuSi", "rocksalt", a=4.8), stdev=0.02), tiny),
    "copper, an atom fixed": (lambda: rattled(pinned(bulk("Cu", cubic=True).repeat((2, 1, 1)), 2)), tiny),
    "aluminium": (lambda: rattled(bulk("Al", cubic=True)), EMT),
    "nickel, one atom": (lambda: rattled(bulk("Ni"), 0.03), EMT),
    "palladium, skewed": (lambda: rattled(skewed(bulk("Pd")).repeat((1, 2, 1))), EMT),
    "gold and copper": (lambda: rattled(bulk("AuCu", "rocksalt", a=5.0).repeat((2, 1, 1))), EMT),
    "platinum slab": (lambda: rattled(slab("Pt"), 0.01), EMT),
    "silver slab": (lambda: rattled(slab("Ag", fcc100), 0.01), EMT),
    "methane on copper": (lambda: rattled(boxed("CH4", 6.0), 0.01), EMT),
    "argon": (lambda: rattled(bulk("Ar", cubic=True, a=5.3), stdev=0.1), argon),
    "argon, hexagonal": (lambda: rattled(bulk("Ar", "hcp", a=3.7).repeat((2, 1, 1))), argon),
    "argon, skewed": (lambda: rattled(skewed(bulk("Ar", a=5.3))), argon),
    "argon with a hole": (lambda: rattled(bulk("Ar", cubic=True, a=5.3).repeat((2, 1, 1))[1:]), argon),
    "nickel and aluminium": (lambda: rattled(ordered_alloy()), EMT),
}


def by_ase(atoms: Atoms, calculator: BaseCalculator, optimizer: str, cell_filter: str, **limits: Any) -> Relaxed:
    """ASE's relaxation of a copy of the atoms."""
    atoms = atoms.copy()
    atoms.calc = calculator
    descent = ASE_OPTIMIZERS[optimizer](ASE_FILTERS[cell_filter](atoms), logfile=None, maxstep=0.2)
    run = Relaxed([], [])
    for converged in descent.irun(fmax=limits["fmax"], steps=limits["max_steps"]):
        run.places_ang.append(atoms.get_positions())
        run.cells_ang.append(atoms.cell.array.copy())
        run.converged = bool(converged)
    run.energy_ev, run.n_steps = float(atoms.get_potential_energy()), descent.nsteps
    return run


def by_us(atoms: Atoms, calculator: BaseCalculator, optimizer: str, cell_filter: str, **limits: Any) -> Relaxed:
    """Our relaxation of the same atoms, step by step in the engine."""
    structure = from_atoms(atoms)
    params = RelaxParams.model_validate(
        {
            "optimizer": optimizer,
            "cell_filter": cell_filter,
            "fmax_ev_per_ang": limits["fmax"],
            "max_steps": limits["max_steps"],
        }
    )
    motion = relaxation(structure, params)
    engine = Engine(provider_for(calculator))
    engine.add(Moving(0, structure, motion, motion.start()))
    run = Relaxed([], [])
    while engine.systems:
        (event,) = engine.step()
        state = event.system.state
        run.places_ang.append(state.positions_ang)
        run.cells_ang.append(np.zeros((3, 3)) if state.cell_ang is None else state.cell_ang)
        run.n_steps = state.step
        if state.evaluation is not None:
            run.energy_ev = state.evaluation.energy_ev
        if event.verdict is not None:
            run.converged = event.verdict.outcome == Outcome.CONVERGED
    return run


def difference(name: str, optimizer: str, cell_filter: str, fmax: float = 0.02, max_steps: int = 500) -> Difference:
    """How our relaxation of a structure of the set differs from ASE's."""
    build, calculator = SET[name]
    limits = {"fmax": fmax, "max_steps": max_steps}
    ours = by_us(build(), calculator(), optimizer, cell_filter, **limits)
    theirs = by_ase(build(), calculator(), optimizer, cell_filter, **limits)
    first = slice(N_COMPARED + 1)
    pairs = [*zip(ours.places_ang[first], theirs.places_ang[first], strict=False)]
    if any(build().pbc):
        pairs += [*zip(ours.cells_ang[first], theirs.cells_ang[first], strict=False)]
    return Difference(
        ours.n_steps,
        theirs.n_steps,
        max(float(np.abs(one - other).max()) for one, other in pairs),
        abs(ours.energy_ev - theirs.energy_ev) / len(build()),
        ours.converged and theirs.converged,
    )
