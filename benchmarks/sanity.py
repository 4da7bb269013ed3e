"""Physical sanity of a potential as a table: python benchmarks/sanity.py [MODEL ...] [--drift-ps 50] [--write]

Short-range repulsion of every pair of elements down to 0.5 Å, additivity of two molecules far apart, the drift of the
energy in NVE dynamics, and for crystals lattice constants, elastic constants, vacancy energies and phonons. References:
lattice constants with PBE (Tran, Stelzl, Blaha, J. Chem. Phys. 144, 204120, 2016); elastic constants from experiment
(Simmons and Wang, Single Crystal Elastic Constants, 1971); vacancy energies from experiment (Ehrhart, Landolt-Börnstein
III/25, 1991; Si and Ge: DFT, about). --write puts what was found on the card of the potential.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from numpy.typing import NDArray

from equipot import EquipotCalculator, load_potential, run_md, singlepoint
from equipot.cards import Crystal, CrystalCheck, Sanity, find_model, read_card
from equipot.elements import COVALENT_RADII_ANG, NUMBERS
from equipot.models.training.files import write_whole

#: lattice, PBE lattice constant (Å), C11, C12, C44 (GPa), vacancy formation energy (eV)
CRYSTALS = {
    "Li": ("bcc", 3.434, (14.8, 12.5, 10.8), 0.48),
    "Si": ("diamond", 5.469, (165.7, 63.9, 79.6), 3.6),
    "Ni": ("fcc", 3.518, (246.5, 147.3, 124.7), 1.79),
    "Cu": ("fcc", 3.632, (168.4, 121.4, 75.4), 1.28),
    "Ge": ("diamond", 5.760, (128.5, 48.3, 66.8), 2.5),
    "Nb": ("bcc", 3.312, (246.0, 134.0, 28.7), 2.65),
    "Mo": ("bcc", 3.164, (463.0, 161.0, 109.0), 3.2),
    "Ta": ("bcc", 3.320, (267.0, 161.0, 82.5), 3.1),
    "W": ("bcc", 3.184, (522.4, 204.4, 160.8), 3.7),
}
GPA = 1.0 / units.GPa
TIMESTEP_FS = 0.5


def attractive_pairs(model: str) -> list[tuple[str, str, float]]:
    """Pairs whose energy falls somewhere between 0.65 of the bond length and 0.5 Å as they approach, and where (Å)."""
    calculator, found = EquipotCalculator(model), []
    for pair in itertools.combinations_with_replacement(calculator.potential.elements, 2):
        start = 0.65 * COVALENT_RADII_ANG[[NUMBERS[s] for s in pair]].sum()
        distances = np.arange(max(start, 0.6), 0.49, -0.01)
        energies = [_energy(Atoms(pair, [(0, 0, 0), (0, 0, d)]), calculator) for d in distances]
        holes = np.flatnonzero(np.diff(energies) <= 0)
        found += [(*pair, float(distances[holes[0]]))] if len(holes) else []
    return found


def _energy(atoms: Atoms, calculator: EquipotCalculator) -> float:
    import warnings

    atoms.calc = calculator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(atoms.get_potential_energy())


def additivity_error_ev(model: str) -> float:
    """|E(A + B, 30 Å apart) - E(A) - E(B)| of water and methanol, or of two dimers of the first element."""
    calculator = EquipotCalculator(model)
    known = set(calculator.potential.elements)
    first, second = molecule("H2O"), molecule("CH3OH")
    if not {"H", "C", "O"} <= known:
        symbol = calculator.potential.elements[0]
        first, second = Atoms([symbol] * 2, [(0, 0, 0), (0, 0, 2.5)]), Atoms([symbol] * 3, np.eye(3) * 2.0)
    apart = second.copy()
    apart.translate((30.0, 0.0, 0.0))
    return abs(_energy(first + apart, calculator) - _energy(first, calculator) - _energy(second, calculator))


def drift_ev_per_atom(model: str, atoms: Atoms, duration_ps: float) -> tuple[float, float]:
    """Slope of a linear fit to the energy in NVE dynamics at 0.5 fs and 300 K, times 50 ps, per atom: of the total and
    of the shadow energy.

    Velocity Verlet keeps a shadow of the energy, not the energy, whose difference rises and falls with the vibrations
    that happen to be excited; over tens of picoseconds of one small molecule that hides what does not come back
    (Engle, Skeel, Drees, J. Comput. Phys. 206, 432, 2005).
    """
    steps_between = 100
    result = run_md(
        atoms, model, ensemble="nve", timestep_fs=TIMESTEP_FS, duration_ps=duration_ps, temperature_k=300.0, seed=1,
        save_every=steps_between, compile=True,
    )[0]  # fmt: skip
    frames = list(result.trajectory)
    total = np.array([frame.get_potential_energy() + frame.get_kinetic_energy() for frame in frames])
    time_ps = np.arange(len(frames)) * steps_between * TIMESTEP_FS / 1000.0
    slopes = (np.polyfit(time_ps, e / len(atoms), 1)[0] for e in (total, total + shadow_ev(model, frames)))
    total_slope, shadow_slope = (float(abs(slope) * 50.0) for slope in slopes)
    return total_slope, shadow_slope


def shadow_ev(model: str, frames: list[Atoms]) -> NDArray[np.float64]:
    """What velocity Verlet keeps, less the total energy, to second order in the time step (eV, one per frame).

    h² (v·H v / 12 - f·f/m / 24) with the Hessian H of the energy, along v from central differences of the forces.
    """
    step, h = 0.02 * units.fs, TIMESTEP_FS * units.fs
    moved = [frame.copy() for frame in frames for _ in range(2)]
    for number, copy in enumerate(moved):
        copy.positions += (1 if number % 2 else -1) * step * copy.get_velocities()
    forces = np.array([result.forces_ev_per_ang for result in singlepoint(moved, model)])
    velocities = np.array([frame.get_velocities() for frame in frames])
    curvature = -(velocities * (forces[1::2] - forces[::2])).sum((1, 2)) / (2.0 * step)
    push = np.array([(frame.get_forces() ** 2 / frame.get_masses()[:, None]).sum() for frame in frames])
    shadow: NDArray[np.float64] = h**2 * (curvature / 12.0 - push / 24.0)
    return shadow


def lattice_constant(symbol: str, model: str) -> tuple[Atoms, float]:
    """The relaxed primitive cell and its lattice constant (Å)."""
    kind, start, _, _ = CRYSTALS[symbol]
    cell = bulk(symbol, kind, a=start)
    cell.calc = EquipotCalculator(model)
    cell.set_constraint(FixSymmetry(cell))
    BFGS(FrechetCellFilter(cell), logfile=None).run(fmax=1e-4, steps=100)  # type: ignore[arg-type]  # ASE's own use
    cell.set_constraint()
    factor = {"bcc": 2.0, "fcc": 4.0, "diamond": 4.0}[kind]
    return cell, float((factor * cell.get_volume()) ** (1 / 3))


def elastic_constants_gpa(symbol: str, a_ang: float, model: str) -> tuple[float, float, float]:
    """C11, C12, C44 from central differences of the stress, atoms relaxed."""
    conventional = bulk(symbol, CRYSTALS[symbol][0], a=a_ang, cubic=True)
    h, columns = 0.004, []
    for strain in (np.diag([h, 0, 0]), np.array([[0, 0, 0], [0, 0, h / 2], [0, h / 2, 0]])):
        stresses = []
        for sign in (1, -1):
            strained = conventional.copy()
            strained.set_cell(conventional.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
            strained.calc = EquipotCalculator(model)
            BFGS(strained, logfile=None).run(fmax=1e-4, steps=60)
            stresses.append(strained.get_stress())
        columns.append((stresses[0] - stresses[1]) / (2 * h) * GPA)
    return float(columns[0][0]), float(columns[0][1]), float(columns[1][3])


def vacancy_energy_ev(symbol: str, a_ang: float, model: str) -> float:
    """Formation energy of a vacancy in about 100 atoms, positions relaxed."""
    kind = CRYSTALS[symbol][0]
    repeats = {"bcc": 4, "fcc": 3, "diamond": 2}[kind]
    perfect = bulk(symbol, kind, a=a_ang, cubic=True).repeat(repeats)
    calculator = EquipotCalculator(model)
    per_atom = _energy(perfect, calculator) / len(perfect)
    defect = perfect[1:]
    defect.calc = calculator
    BFGS(defect, logfile=None).run(fmax=0.01, steps=150)
    return float(defect.get_potential_energy() - per_atom * len(defect))


def lowest_phonon_thz(symbol: str, a_ang: float, model: str, repeats: int = 4) -> float:
    """The lowest frequency at the wave vectors of a supercell, the acoustic modes at Γ apart; imaginary is negative."""
    primitive = bulk(symbol, CRYSTALS[symbol][0], a=a_ang)
    n, shape = len(primitive), (repeats,) * 3
    supercell = primitive.repeat(repeats)
    supercell.calc = EquipotCalculator(model)
    constants = np.zeros((n, 3, len(supercell), 3))
    for atom, axis in itertools.product(range(n), range(3)):
        forces = []
        for sign in (1, -1):
            moved = supercell.copy()
            moved.calc = supercell.calc
            moved.positions[atom, axis] += sign * 0.01
            forces.append(moved.get_forces())
        constants[atom, axis] = -(forces[0] - forces[1]) / 0.02
    by_cell = constants.reshape(n, 3, *shape, n, 3)
    dynamical = np.fft.fftn(by_cell, axes=(2, 3, 4)) / primitive.get_masses()[0]
    lowest = np.inf
    for q in itertools.product(range(repeats), repeat=3):
        matrix = dynamical[:, :, *q].reshape(3 * n, 3 * n)
        squares = np.sort(np.linalg.eigvalsh(0.5 * (matrix + matrix.conj().T)))
        squares = squares[3:] if q == (0, 0, 0) else squares
        if len(squares):
            lowest = min(lowest, float(squares[0]))
    to_thz = np.sqrt(units._e / units._amu * 1e20) / (2e12 * np.pi)
    return float(np.sign(lowest) * np.sqrt(abs(lowest)) * to_thz)


def check_of_crystal(symbol: str, model: str) -> CrystalCheck:
    """Everything of one element, rounded to what it is worth."""
    _, a = lattice_constant(symbol, model)
    elastic = elastic_constants_gpa(symbol, a, model)
    found = _crystal(a, elastic, vacancy_energy_ev(symbol, a, model), lowest_phonon_thz(symbol, a, model))
    return CrystalCheck(found=found, reference=_crystal(*CRYSTALS[symbol][1:]))


def _crystal(
    a_ang: float, elastic_gpa: tuple[float, float, float], vacancy_ev: float, phonon_thz: float | None = None
) -> Crystal:
    c11, c12, c44 = (round(c, 1) for c in elastic_gpa)
    return Crystal(
        a_ang=round(a_ang, 3),
        c11_gpa=c11,
        c12_gpa=c12,
        c44_gpa=c44,
        vacancy_ev=round(vacancy_ev, 2),
        lowest_phonon_thz=None if phonon_thz is None else round(phonon_thz, 2),
    )


def check(model: str, drift_ps: float) -> Sanity:
    """All that can be asked of a potential, printed as it is found."""
    potential = load_potential(model)
    print(f"\n{potential.name}: {potential.level_of_theory}")
    holes, n = attractive_pairs(model), len(potential.elements)
    found = Sanity(
        attractive_pairs=holes, n_pairs=n * (n + 1) // 2, additivity_error_ev=float(f"{additivity_error_ev(model):.1e}")
    )
    print(f"pairs of elements that attract below 0.65 of a bond, down to 0.5 Å: {len(holes)} of {found.n_pairs}", holes)
    print(f"|E(A+B far) - E(A) - E(B)|: {found.additivity_error_ev:.1e} eV")
    if drift_ps:
        system = molecule("CH3CH2OH") if {"H", "C", "O"} <= set(potential.elements) else bulk("Si", cubic=True)
        total, shadow = drift_ev_per_atom(model, system, drift_ps)
        found = found.model_copy(update={"nve_drift_ev_per_atom": float(f"{shadow:.1e}")})
        print(f"NVE drift of {system.symbols} in {drift_ps:g} ps, slope x 50 ps: {shadow:.1e} eV/atom", end=" ")
        print(f"({total:.1e} with what Verlet's energy swings by)")
    symbols = [symbol for symbol in CRYSTALS if symbol in potential.elements and potential.card.has_stress]
    if symbols:
        print("\n| | a, Å (PBE) | C11 | C12 | C44, GPa (experiment) | vacancy, eV (reference) | lowest phonon, THz |")
        print("|---|---|---|---|---|---|---|")
    crystals = {}
    for symbol in symbols:
        crystals[symbol] = check_of_crystal(symbol, model)
        ours, theirs = crystals[symbol].found, crystals[symbol].reference
        print(
            f"| {symbol} | {ours.a_ang:.3f} ({theirs.a_ang}) "
            f"| {ours.c11_gpa:.0f} ({theirs.c11_gpa:.0f}) | {ours.c12_gpa:.0f} ({theirs.c12_gpa:.0f}) "
            f"| {ours.c44_gpa:.0f} ({theirs.c44_gpa:.0f}) | {ours.vacancy_ev:.2f} ({theirs.vacancy_ev}) "
            f"| {ours.lowest_phonon_thz:.2f} |",
            flush=True,
        )
    return found.model_copy(update={"crystals": crystals})


def write_on_card(model: str, sanity: Sanity) -> None:
    """Put it on the card; the weights, and so what the card says of them, stay."""
    path, card = (Path(model), read_card(Path(model))) if model.endswith(".json") else find_model(model)
    card = card.model_copy(update={"sanity": sanity})
    write_whole(path, (card.model_dump_json(indent=2, exclude_none=True) + "\n").encode())
    print(f"written: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["organic", "elements"], help="names, or paths of cards")
    parser.add_argument("--drift-ps", type=float, default=50.0, help="length of the NVE dynamics; 0: none")
    parser.add_argument("--write", action="store_true", help="put what was found on the potential's card")
    arguments = parser.parse_args()
    for model in arguments.models:
        found = check(model, arguments.drift_ps)
        if arguments.write:
            write_on_card(model, found)


if __name__ == "__main__":
    main()
