"""Two small force fields with the physics written out, fast enough for statistics."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms

from equipot.calculator.convert import from_atoms
from equipot.errors import EquipotError
from equipot.simulation.providers import Evaluation, System
from equipot.structure import Structure


@dataclass
class NumpyForces:
    """A force field over all pairs or none; `poisoned` keys give NaN, `broken` keys an exception's error."""

    name: str
    n_calls: int = 0
    company: list[int] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        pins = {"execution": "numpy"}
        facts = {"level_of_theory": None, "elements": None, "dtype": "float64", "device": "cpu"}
        return {"model": self.name, "sha256": None, **facts, "pins": pins}

    def evaluate(self, systems: Sequence[System]) -> list[Evaluation]:
        self.n_calls += 1
        self.company.append(len(systems))
        return [self.one(system) for system in systems]

    def one(self, system: System) -> Evaluation:
        if 2 in system.numbers:  # helium stands for a system without finite forces
            return Evaluation(np.nan, np.full((len(system.numbers), 3), np.nan))
        if 10 in system.numbers:  # neon for one whose forces cannot be had
            return Evaluation.failed(EquipotError("no forces for neon"), len(system.numbers))
        return self.forces(system)

    def forces(self, system: System) -> Evaluation:
        raise NotImplementedError

    def forget(self, key: Hashable) -> None:
        pass


@dataclass
class Springs(NumpyForces):
    """Every atom on its own spring to the point (20 i, 0, 0) Å of its index i: 3 N independent oscillators."""

    name: str = "springs"
    stiffness_ev_per_ang2: float = 2.0

    def forces(self, system: System) -> Evaluation:
        away = system.positions_ang - anchors_ang(len(system.numbers))
        energies = 0.5 * self.stiffness_ev_per_ang2 * (away * away).sum(axis=1)
        return Evaluation(float(energies.sum()), -self.stiffness_ev_per_ang2 * away, energies)


@dataclass
class LennardJones(NumpyForces):
    """Argon-like clusters: all pairs, no cutoff, no cell."""

    name: str = "lennard-jones"
    depth_ev: float = 0.0104
    diameter_ang: float = 3.4

    def forces(self, system: System) -> Evaluation:
        n = len(system.numbers)
        first, second = np.triu_indices(n, 1)
        vector = system.positions_ang[second] - system.positions_ang[first]
        square = (vector * vector).sum(axis=1)
        sixth = (self.diameter_ang**2 / square) ** 3
        energy = 4.0 * self.depth_ev * (sixth * sixth - sixth)
        pull = (24.0 * self.depth_ev * (sixth - 2.0 * sixth * sixth) / square)[:, None] * vector
        forces = np.zeros((n, 3))
        np.add.at(forces, first, pull)
        np.add.at(forces, second, -pull)
        return Evaluation(float(energy.sum()), forces)


def anchors_ang(n_atoms: int) -> np.ndarray:
    return np.outer(np.arange(n_atoms), [20.0, 0.0, 0.0])


def argon_cluster(n_atoms: int, seed: int = 0, symbol_number: int = 18) -> Structure:
    """Atoms near the sites of an fcc lattice, 0.1 Å away from them."""
    sites = bulk("Ar", cubic=True, a=5.3).repeat(3).positions
    order = np.argsort(((sites - sites.mean(axis=0)) ** 2).sum(axis=1), kind="stable")[:n_atoms]
    shifts = np.random.default_rng(seed).normal(0.0, 0.1, (n_atoms, 3))
    return Structure(np.full(n_atoms, symbol_number), sites[order] + shifts)


def oscillators(n_atoms: int, symbol_number: int = 18) -> Structure:
    return Structure(np.full(n_atoms, symbol_number), anchors_ang(n_atoms))


def copper_structures() -> dict[str, Structure]:
    """A crystal, a slab with its lower layers fixed, a cluster and a molecule, away from their minima."""
    crystal = bulk("Cu", cubic=True).repeat((2, 1, 1))
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_constraint(FixAtoms(indices=[a.index for a in slab if a.tag > 1]))
    cluster = bulk("Cu", cubic=True).repeat(2)
    cluster.set_pbc(False)
    cluster.set_cell(None)
    found = {"crystal": crystal, "slab": slab, "cluster": cluster[:13], "water": molecule("H2O")}
    for atoms in found.values():
        atoms.rattle(0.08, seed=2)
    return {name: from_atoms(atoms) for name, atoms in found.items()}


@pytest.fixture(scope="session")
def forces() -> Any:
    """The module's tools, for tests that live in other files."""
    from types import SimpleNamespace

    return SimpleNamespace(
        NumpyForces=NumpyForces,
        Springs=Springs,
        LennardJones=LennardJones,
        argon_cluster=argon_cluster,
        oscillators=oscillators,
        anchors_ang=anchors_ang,
        copper_structures=copper_structures,
    )
