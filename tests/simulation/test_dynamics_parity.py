"""Step by step, each dynamics is ASE's, where ASE has it and the noise can be the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.bussi import Bussi as AseBussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet as AseVelocityVerlet

from equipot.calculator.convert import from_atoms, to_atoms
from equipot.simulation.motions.noise import Stream, normals
from tests.simulation.sampling import Argon, md_params, motion_of, states

SAME_ANG = 1e-6  # what is promised
USUAL_ANG = 1e-9  # what the rounding of the same formulas in other units grows to in these steps
N_STEPS = 150
DT = 2.0 * ase_units.fs
SEED = 5
FORCES = Argon(cutoff_ang=4.4)


class AseArgon(Calculator):
    """The same forces for ASE."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        found = FORCES(atoms.positions, atoms.cell.array)
        stress = found.stress_ev_per_ang3
        energies = {"energy": found.energy_ev, "free_energy": found.energy_ev}
        self.results = {**energies, "forces": found.forces_ev_per_ang, "stress": stress}


def crystal(skew: float) -> Atoms:
    """32 atoms of two masses in a cell that may be triclinic."""
    atoms: Atoms = bulk("Ar", cubic=True, a=5.2).repeat(2)
    atoms.numbers[::3] = 36
    atoms.set_cell(atoms.cell.array @ np.array([[1.0, 0.0, 0.0], [skew, 1.0, 0.0], [-skew, skew, 1.0]]), True)
    atoms.rattle(0.1, seed=2)
    return atoms


class SameNoise:
    """ASE's generator, with our numbers in it."""

    def __init__(self, n_degrees: int) -> None:
        self._n_degrees = n_degrees
        self._step = 0

    def normal(self, size: tuple[int, int]) -> np.ndarray:
        self._step += 1
        return normals(SEED, Stream.LANGEVIN, self._step - 1, size[0])

    def standard_normal(self) -> float:
        return float(self._thermostat()[0])

    def standard_gamma(self, shape: float) -> float:
        assert 2 * shape == self._n_degrees - 1
        self._step += 1
        return float((normals(SEED, Stream.THERMOSTAT, self._step - 1, 40).ravel()[1 : self._n_degrees] ** 2).sum() / 2)

    def _thermostat(self) -> np.ndarray:
        return normals(SEED, Stream.THERMOSTAT, self._step, 40).ravel()


def ase_langevin(atoms: Atoms) -> Any:
    dynamics: Any = LangevinBAOAB(atoms, DT, temperature_K=60.0, T_tau=50.0 * ase_units.fs, rng=0)
    dynamics.rng = SameNoise(0)
    return dynamics


def ase_mtk(kind: Callable[..., Any]) -> Callable[[Atoms], Any]:
    def made(atoms: Atoms) -> Any:
        damping = {"tdamp": 40.0 * ase_units.fs, "pdamp": 200.0 * ase_units.fs}
        dynamics = kind(atoms, DT, temperature_K=60.0, pressure_au=0.7 * ase_units.GPa, **damping)
        if kind is MTKNPT:  # ASE counts nine degrees of freedom of a cell whose strain rate is symmetric: there are six
            dynamics._barostat._cell_dof = 6
            dynamics._barostat._R[0] *= 6.0 / 9.0
        return dynamics

    return made


CHAIN = {"type": "nose_hoover", "tdamp_fs": 40.0}
BAROSTAT = {"pressure_gpa": 0.7, "pdamp_fs": 200.0}
CASES: dict[str, tuple[dict[str, Any], Callable[[Atoms], Any]]] = {
    "nve": ({"ensemble": "nve"}, lambda atoms: AseVelocityVerlet(atoms, DT)),
    "nvt chain": (
        {"thermostat": CHAIN},
        lambda atoms: NoseHooverChainNVT(atoms, DT, temperature_K=60.0, tdamp=40.0 * ase_units.fs),
    ),
    "nvt chain of one": (
        {"thermostat": {**CHAIN, "chain_length": 1}},
        lambda atoms: NoseHooverChainNVT(atoms, DT, temperature_K=60.0, tdamp=40.0 * ase_units.fs, tchain=1),
    ),
    "nvt langevin": ({"thermostat": {"type": "langevin", "friction_per_fs": 0.02}}, ase_langevin),
    "nvt bussi": (
        {"thermostat": {"type": "bussi", "tau_fs": 80.0}},
        lambda atoms: AseBussi(atoms, DT, temperature_K=60.0, taut=80.0 * ase_units.fs, rng=SameNoise(96)),
    ),
    "npt isotropic": (
        {"ensemble": "npt", "thermostat": CHAIN, "barostat": BAROSTAT},
        ase_mtk(IsotropicMTKNPT),
    ),
    "npt flexible": (
        {"ensemble": "npt", "thermostat": CHAIN, "barostat": {**BAROSTAT, "isotropic": False}},
        ase_mtk(MTKNPT),
    ),
}


@pytest.mark.parametrize("skew", [0.0, 0.08], ids=["cubic", "triclinic"])
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_ase(case: str, skew: float) -> None:
    """Positions, cell and velocities; and the conserved quantity, where ASE tells it. The drift is left in, because
    ASE counts three degrees of freedom for every atom."""
    given, ases = CASES[case]
    structure = from_atoms(crystal(skew))
    motion = motion_of(structure, md_params(structure, temperature_k=60.0, remove_com=False, **given), SEED)
    atoms = to_atoms(structure)
    atoms.calc = AseArgon()
    start = motion.start().velocities_ang_per_fs
    assert start is not None
    atoms.set_velocities(start / ase_units.fs)
    dynamics = ases(atoms)
    worst = 0.0
    for state in states(FORCES, motion, N_STEPS):
        if state.step:
            dynamics.run(1)
        assert state.cell_ang is not None
        worst = max(worst, float(np.abs(state.positions_ang - atoms.positions).max()))
        worst = max(worst, float(np.abs(state.cell_ang - atoms.cell.array).max()))
        assert worst < USUAL_ANG < SAME_ANG, f"step {state.step}"
        assert motion.temperature_k(state) == pytest.approx(atoms.get_temperature(), rel=1e-6)
        if hasattr(dynamics, "get_conserved_energy"):
            assert motion.conserved_ev(state) == pytest.approx(dynamics.get_conserved_energy(), abs=1e-9)
        if case == "nvt bussi":
            total = atoms.get_total_energy() - dynamics.transferred_energy
            assert motion.conserved_ev(state) == pytest.approx(total, abs=1e-9)
        pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / ase_units.GPa
        assert motion.observables(state)["pressure_gpa"] == pytest.approx(pressure, abs=1e-6)
    moved = np.abs(state.positions_ang - structure.positions_ang).max()
    assert moved > 0.1, "otherwise this proves little"
