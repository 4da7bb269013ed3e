"""What a calculator must keep for its numbers to be used, as checks that anyone can run on their own.

    from equipot.calculator.contract import check_calculator
    for finding in check_calculator(MyCalculator, [atoms]):
        print(finding)

or `python -m equipot.calculator.contract NAME FILE` for an announced one, or in a test of yours:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(make, atoms, Tolerances())

Each check is a function that raises ContractError in words if the promise its name makes is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

Factory = Callable[[], "BaseCalculator"]


class ContractError(AssertionError):
    """A calculator breaks a promise."""


@dataclass(frozen=True)
class Tolerances:
    """What counts as equal. The defaults fit double precision; `single` is for calculators in single precision."""

    energy_ev: float = 1e-8
    force_ev_per_ang: float = 1e-8
    derivative_ev_per_ang: float = 2e-5  #: of a central difference with `step`
    stress_ev_per_ang3: float = 1e-6
    step_ang: float = 1e-3

    @classmethod
    def single(cls) -> Tolerances:
        """For single precision: a step ten times as long, since an energy of 100 eV is known to 1e-5 eV."""
        return cls(2e-4, 2e-3, 1e-2, 5e-4, 1e-2)


def forces_are_the_derivative_of_the_energy(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """F = -dE/dr, along a random direction and along one atom's axis."""
    atoms = _with(make, atoms)
    forces = np.array(atoms.get_forces())
    random = np.random.default_rng(0).normal(size=forces.shape)
    one = np.zeros_like(forces)
    one[-1, 2] = 1.0
    for direction in (random / np.linalg.norm(random), one):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * tolerances.step_ang * direction
            moved.calc = atoms.calc
            ends.append(moved.get_potential_energy())
        slope = (ends[0] - ends[1]) / (2 * tolerances.step_ang)
        _near(-slope, float((forces * direction).sum()), tolerances.derivative_ev_per_ang, "eV/Å: -dE/dr and the force")


def stress_is_the_derivative_of_the_energy(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """σ = dE/dε / V, ASE's sign and order; for periodic systems, if the calculator says it has stress."""
    atoms = _with(make, atoms)
    if not atoms.pbc.all() or "stress" not in atoms.calc.implemented_properties:
        return
    stress = np.asarray(atoms.get_stress(voigt=False))
    size = tolerances.step_ang / 2
    for row, column in ((0, 0), (1, 2)):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += 0.5 * sign * size
            strain[column, row] += 0.5 * sign * size
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            ends.append(strained.get_potential_energy())
        slope = (ends[0] - ends[1]) / (2 * size * atoms.get_volume())
        mean = 0.5 * (stress[row, column] + stress[column, row])
        _near(slope, float(mean), tolerances.stress_ev_per_ang3, "eV/Å³: dE/dε/V and the stress")


def rotation_turns_forces_and_keeps_the_energy(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """A rotated system has the same energy, and its forces and stress rotate along."""
    atoms = _with(make, atoms)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T
    turned.calc = make()
    _near(turned.get_potential_energy(), atoms.get_potential_energy(), tolerances.energy_ev, "eV after a rotation")
    _near(turned.get_forces(), atoms.get_forces() @ turn.T, tolerances.force_ev_per_ang, "eV/Å after a rotation")
    if atoms.pbc.all() and "stress" in atoms.calc.implemented_properties:
        wanted = turn @ voigt_6_to_full_3x3_stress(atoms.get_stress()) @ turn.T
        difference = full_3x3_to_voigt_6_stress(wanted) - turned.get_stress()
        _near(difference, 0.0 * difference, tolerances.stress_ev_per_ang3, "eV/Å³ after a rotation")


def order_of_atoms_does_not_matter(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """Renumbered atoms have the same energy, and each keeps its force."""
    atoms = _with(make, atoms)
    order = np.random.default_rng(2).permutation(len(atoms))
    other = atoms[order]
    other.calc = make()
    _near(other.get_potential_energy(), atoms.get_potential_energy(), tolerances.energy_ev, "eV after renumbering")
    _near(other.get_forces(), atoms.get_forces()[order], tolerances.force_ev_per_ang, "eV/Å after renumbering")


def place_does_not_matter(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """A system moved as a whole, out of its cell if it has one, is the same system."""
    atoms = _with(make, atoms)
    moved = atoms.copy()
    moved.positions += [11.3, -7.1, 5.9]
    moved.calc = make()
    _near(moved.get_potential_energy(), atoms.get_potential_energy(), tolerances.energy_ev, "eV after a shift")
    _near(moved.get_forces(), atoms.get_forces(), tolerances.force_ev_per_ang, "eV/Å after a shift")


def images_of_atoms_are_atoms(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """A crystal repeated along its first axis has twice the energy and the same forces."""
    if not atoms.pbc.all():
        return
    atoms = _with(make, atoms)
    double = atoms.repeat((2, 1, 1))
    double.calc = make()
    _near(double.get_potential_energy(), 2 * atoms.get_potential_energy(), 2 * tolerances.energy_ev, "eV of two cells")
    _near(double.get_forces()[: len(atoms)], atoms.get_forces(), tolerances.force_ev_per_ang, "eV/Å in two cells")


def what_was_asked_before_does_not_matter(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """A calculator that has seen other positions gives the same numbers as a new one."""
    fresh, used = _with(make, atoms), _with(make, atoms)
    used.get_forces()
    used.positions += np.random.default_rng(3).normal(scale=0.05, size=used.positions.shape)
    used.get_forces()
    used.positions[:] = atoms.positions
    _near(used.get_potential_energy(), fresh.get_potential_energy(), tolerances.energy_ev, "eV after other positions")
    _near(used.get_forces(), fresh.get_forces(), tolerances.force_ev_per_ang, "eV/Å after other positions")


def atoms_are_left_as_they_were(make: Factory, atoms: Atoms, tolerances: Tolerances) -> None:
    """Computing changes neither positions, cell, numbers, arrays nor info; results handed out stay as they are."""
    atoms = _with(make, atoms)
    before, info = atoms.copy(), dict(atoms.info)
    forces = atoms.get_forces()
    kept = np.array(forces)
    _all_properties(atoms)
    if not np.array_equal(atoms.positions, before.positions) or not np.array_equal(atoms.cell, before.cell):
        raise ContractError("computing moved the atoms or their cell.")
    if set(atoms.arrays) != set(before.arrays) or atoms.info.keys() != info.keys():
        raise ContractError("computing left something in the arrays or the info of the atoms.")
    forces += 1.0
    _near(atoms.get_forces(), kept, 0.0, "eV/Å after a caller changed the array it was given")
    atoms.positions[0] += 0.1
    atoms.get_forces()
    _near(forces, kept + 1.0, 0.0, "eV/Å in an array that was handed out before")


CHECKS = (
    forces_are_the_derivative_of_the_energy,
    stress_is_the_derivative_of_the_energy,
    rotation_turns_forces_and_keeps_the_energy,
    order_of_atoms_does_not_matter,
    place_does_not_matter,
    images_of_atoms_are_atoms,
    what_was_asked_before_does_not_matter,
    atoms_are_left_as_they_were,
)


@dataclass(frozen=True)
class Finding:
    """Whether one promise holds for one system; `broken` says in words how not."""

    promise: str
    formula: str
    broken: str | None

    def __str__(self) -> str:
        return f"{'ok    ' if self.broken is None else 'BROKEN'} {self.formula}: {self.broken or self.promise}"


def check_calculator(
    make: Factory, systems: Sequence[Atoms], tolerances: Tolerances | None = None
) -> Iterable[Finding]:
    """Every check on every system; `make` gives a new calculator. A system at rest hides faults: rattle it first."""
    for atoms in systems:
        for check in CHECKS:
            broken = None
            try:
                check(make, atoms.copy(), tolerances or Tolerances())
            except ContractError as error:
                broken = str(error)
            yield Finding(check.__name__.replace("_", " "), atoms.get_chemical_formula(), broken)


def _with(make: Factory, atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = make()
    return atoms


def _all_properties(atoms: Atoms) -> None:
    for name in ("energy", "forces", "stress"):
        if name in atoms.calc.implemented_properties:
            try:
                atoms.calc.get_property(name, atoms)
            except PropertyNotImplementedError:
                continue


def _near(got: float | np.ndarray, wanted: float | np.ndarray, tolerance: float, what: str) -> None:
    worst = float(np.max(np.abs(np.asarray(got) - np.asarray(wanted)), initial=0.0))
    if not worst <= tolerance:
        raise ContractError(f"differ by {worst:.2g} (allowed {tolerance:.2g}) {what}")


def main(words: Sequence[str]) -> int:
    """NAME FILE [--single]: the contract of a model by name, on the structures of a file, moved a little."""
    from ase.io import read

    from equipot.calculator.known import find_known

    single = "--single" in words
    names = [word for word in words if not word.startswith("--")]
    if len(names) != 2:
        print("usage: python -m equipot.calculator.contract NAME FILE [--single]", file=sys.stderr)
        return 2
    known = find_known(names[0])
    systems = read(names[1], ":")
    for atoms in systems:
        atoms.rattle(0.05, seed=0)
    findings = list(check_calculator(known.load_calculator, systems, Tolerances.single() if single else None))
    print(*findings, sep="\n")
    return int(any(finding.broken for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
