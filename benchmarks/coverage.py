"""What an organic potential covers: python benchmarks/coverage.py MODEL --data data/organic [--dynamics-ps 100]

On molecules the potential has never seen: errors of each class of molecules against GFN2-xTB and against the DFT set
of each of its levels of theory, relative energies of conformers, and dynamics at 500 K in which no bond may break; and
what a call costs beside GFN2-xTB (tblite). Every part prints a table; --skip leaves parts out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from equipot import EquipotCalculator, load_potential, run_md
from equipot.elements import COVALENT_RADII_ANG
from equipot.models.training.batches import FrameStore
from equipot.models.training.evaluation import Comparison, compare
from equipot.models.training.frames import FrameSet
from equipot.models.training.geometries import build_molecule
from equipot.models.training.labels import Gfn2, LabelError
from equipot.models.training.molecules import EXTERNAL_TEST, canonical
from equipot.models.training.sampling import relaxation

KCAL_PER_MOL_EV = 0.0433641153
HEADS = {
    "PBE/def2-SVP": "pbe",
    "PBE-D3/def2-SVP": "pbe-d3",
    "wB97X/6-31G(d)": "wb97x",
    "wB97M-D3(BJ)/def2-TZVPPD": "wb97m",
}
PARTS = ("errors", "levels", "conformers", "dynamics", "cost")
#: a bond is broken when it is longer than so many sums of covalent radii
BROKEN = 1.6
FLEXIBLE = (
    "ibuprofen", "captopril", "cimetidine", "fosfomycin", "alanine dipeptide", "glucose", "lidocaine", "aspirin",
    "sulfamethoxazole", "nicotine",
)  # fmt: skip


def classes_of(frames: FrameSet) -> Iterator[tuple[str, np.ndarray]]:
    """Names of classes and their frames, as masks."""
    n = frames.n_atoms
    yield "all", n > 0
    for kind in sorted(set(frames.config_type.tolist())):
        yield kind, frames.config_type == kind
    single = np.array(["." not in group for group in frames.group.tolist()])
    for name, mask in (("2 to 8 atoms", n <= 8), ("9 to 20 atoms", (n > 8) & (n <= 20)), ("over 20 atoms", n > 20)):
        yield name, mask & single
    yield "cations", frames.charge > 0
    yield "anions", frames.charge < 0
    for name, numbers in (("with S", [16]), ("with F, Cl, Br", [9, 17, 35]), ("with P", [15])):
        has = np.zeros(len(frames), dtype=bool)
        has[frames.frame_idx[np.isin(frames.numbers, numbers)]] = True
        yield name, has
    known = {canonical(s) for s in EXTERNAL_TEST.values()}
    yield "medicines and published test molecules", np.isin(frames.group, sorted(known))


def comparison(model: str, frames: FrameSet, level: str | None = None) -> Comparison:
    """Labels and predictions, of the frames whose elements and charges the level knows."""
    potential = load_potential(model, device="cpu", dtype="float32", level_of_theory=level)
    head = np.full(len(frames), potential.head)
    return compare(
        potential.network,
        FrameStore(frames, potential.cutoff_ang, potential.reference_ev, potential.network.architecture, head),
    )


def error_table(model: str, frames: FrameSet) -> None:
    """Errors of each class of molecules."""
    potential = load_potential(model, device="cpu")
    known = np.isin(frames.numbers, [int(z) for z in potential.network.architecture.elements])
    fits = np.isin(frames.charge, potential.charges)
    fits[frames.frame_idx[~known]] = False
    frames = frames.select(fits)
    found = comparison(model, frames)
    print(
        f"\n{len(frames)} of {len(fits)} frames are of elements and charges it knows; "
        f"{len(set(frames.group.tolist()))} molecules and groups of them"
    )
    print("| class | frames | energy MAE, meV/atom | force MAE, meV/Å | force RMSE, meV/Å |\n|---|--:|--:|--:|--:|")
    for name, mask in classes_of(frames):
        if mask.any():
            s = found.of_frames(mask).summary()
            print(
                f"| {name} | {int(mask.sum())} | {s['energy_mae_mev_per_atom']:.1f} "
                f"| {s['force_mae_mev_per_ang']:.0f} | {s['force_rmse_mev_per_ang']:.0f} |"
            )


def level_table(model: str, folder: Path) -> None:
    """Errors of every further level of theory on its own test set; energies without their mean difference too."""
    print("\n| level | frames | energy MAE, meV/atom | relative, meV/atom | force MAE, meV/Å |\n|---|--:|--:|--:|--:|")
    for level in load_potential(model, device="cpu").card.level_names[1:]:
        frames = FrameSet.load(folder / f"{HEADS[level]}-test.npz")
        found = comparison(model, frames, level)
        s = found.summary()
        error = 1000.0 * (found.energy_ev[:, 1] - found.energy_ev[:, 0])
        groups = np.array([f"{g} {n}" for g, n in zip(frames.group.tolist(), frames.n_atoms.tolist(), strict=True)])
        for group in set(groups.tolist()):
            error[groups == group] -= np.median(error[groups == group])
        relative = float(np.abs(error / frames.n_atoms).mean())
        print(
            f"| {level} | {len(frames)} | {s['energy_mae_mev_per_atom']:.1f} | {relative:.1f} "
            f"| {s['force_mae_mev_per_ang']:.0f} |",
            flush=True,
        )


def conformer_table(model: str) -> None:
    """Relative energies of conformers relaxed with GFN2-xTB, against GFN2-xTB, in kcal/mol."""
    calculator = EquipotCalculator(model, device="cpu")
    print("\n| molecule | conformers | spread | MAE, kcal/mol | largest |\n|---|--:|--:|--:|--:|")
    everything = []
    for name in FLEXIBLE:
        smiles = canonical(EXTERNAL_TEST[name])
        energies = []
        if not set(Atoms(build_molecule(smiles, 0).numbers).symbols) <= set(calculator.potential.elements):
            continue
        try:
            shapes = [c for seed in range(3) for c in build_molecule(smiles, seed).conformers_ang]
            molecule = build_molecule(smiles, 0)
            surface = Gfn2(molecule.numbers)
            for shape in shapes[:6]:
                point = relaxation(surface, shape, 12, hessian=molecule.hessian_ev_per_ang2(shape))[-1]
                atoms = Atoms(molecule.numbers, point.positions_ang, calculator=calculator)
                energies.append((point.energy_ev, atoms.get_potential_energy()))
        except (ValueError, LabelError):
            continue
        pairs = np.array(energies) / KCAL_PER_MOL_EV
        first, second = np.triu_indices(len(pairs), 1)
        difference = pairs[first] - pairs[second]
        error = np.abs(difference[:, 1] - difference[:, 0])
        everything += error.tolist()
        print(
            f"| {name} | {len(pairs)} | {np.ptp(pairs[:, 0]):.1f} | {error.mean():.2f} | {error.max():.2f} |",
            flush=True,
        )
    print(f"| all pairs | | | {np.mean(everything):.2f} | {np.max(everything):.2f} |")


def bonds_of_run(numbers: np.ndarray, bonds: np.ndarray, positions_ang: np.ndarray) -> tuple[float, int]:
    """The longest bond of a run (n_frames, n_atoms, 3) in sums of covalent radii, and how many hydrogens moved.

    bonds (n_bonds, 2). A hydrogen is bonded to whichever heavy atom is nearest: a proton that goes from one to another,
    as in enols, has moved, and no bond is broken.
    """
    radii, heavy = COVALENT_RADII_ANG[numbers], np.flatnonzero(numbers != 1)
    longest, moved = 0.0, 0
    for first, second in bonds:
        hydrogen, other = (first, second) if numbers[first] == 1 else (second, first)
        others = heavy if numbers[hydrogen] == 1 and numbers[other] != 1 else np.array([other])
        away = np.linalg.norm(positions_ang[:, [hydrogen]] - positions_ang[:, others], axis=-1)
        away /= radii[hydrogen] + radii[others]
        longest = max(longest, float(away.min(axis=1).max()))
        moved += bool((others[away.argmin(axis=1)] != other).any())
    return longest, moved


def dynamics_table(
    model: str, duration_ps: float, timestep_fs: float, only: list[str], temperature_k: float = 500.0, most: int = 20
) -> None:
    """Dynamics of unseen molecules (all, or only some names), one by one; one fails when a bond breaks or its run ends
    early."""
    compiled = load_potential(model, device="cpu", dtype="float32", compile=True)
    print(f"\n{duration_ps:g} ps at {temperature_k:g} K (nvt), steps of {timestep_fs:g} fs")
    print("| molecule | atoms | outcome | longest bond, sums of radii | broken | protons moved | s |")
    print("|---|--:|---|--:|---|--:|--:|")
    n_molecules = n_whole = 0
    for name in only or EXTERNAL_TEST:
        molecule = build_molecule(canonical(EXTERNAL_TEST[name]), 0)
        if n_molecules == most or not set(Atoms(molecule.numbers).symbols) <= set(compiled.elements):
            continue
        start = time.perf_counter()
        (result,) = run_md(
            [Atoms(molecule.numbers, molecule.conformers_ang[0])], compiled, ensemble="nvt",
            temperature_k=temperature_k, duration_ps=duration_ps, timestep_fs=timestep_fs, save_every=100, seed=1,
        )  # fmt: skip
        bonds = np.array([bond[:2] for bond in molecule.bonds])
        longest, moved = bonds_of_run(molecule.numbers, bonds, np.array([f.positions for f in result.trajectory]))
        is_whole = longest < BROKEN and result.outcome == "completed"
        n_molecules, n_whole = n_molecules + 1, n_whole + is_whole
        print(
            f"| {name} | {len(molecule.numbers)} | {result.outcome} | {longest:.2f} | {'no' if is_whole else 'YES'} "
            f"| {moved or ''} | {time.perf_counter() - start:.0f} |",
            flush=True,
        )
    print(f"{n_whole} of {n_molecules} stay whole")


def cost_table(model: str) -> None:
    """Milliseconds of energy and forces beside GFN2-xTB, in turn, on one thread."""
    compiled = load_potential(model, device="cpu", dtype="float32", compile=True)
    print("\n| atoms | this, ms | GFN2-xTB (tblite), ms | ratio |\n|--:|--:|--:|--:|")
    for carbons in (3, 16, 33, 99):
        atoms = _alkane(carbons)
        atoms.calc = EquipotCalculator(compiled)
        gfn2 = Gfn2(atoms.numbers)
        ours, theirs = [], []
        for k in range(7 if carbons < 50 else 2):
            atoms.positions += 0.001
            atoms.rattle(0.002, seed=k)
            ours.append(_seconds(atoms.get_forces))
            theirs.append(_seconds(partial(gfn2, atoms.positions)))
        a, b = 1000 * float(np.median(ours[1:])), 1000 * float(np.median(theirs))
        print(f"| {len(atoms)} | {a:.2f} | {b:.1f} | {b / a:.0f} |", flush=True)


def _alkane(carbons: int) -> Atoms:
    """A zigzag alkane of so many carbon atoms."""
    positions, numbers = [], []
    for k in range(carbons):
        y = 0.43 * (-1) ** k
        positions.append((1.27 * k, y, 0.0))
        numbers.append(6)
        for z in (0.89, -0.89):
            positions.append((1.27 * k, y + 0.63 * (-1) ** k, z))
            numbers.append(1)
    for k, side in ((0, -1.0), (carbons - 1, 1.0)):
        positions.append((1.27 * k + 0.89 * side, -0.2 * (-1) ** k, 0.0))
        numbers.append(1)
    return Atoms(numbers, positions)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name, or the path of a card")
    parser.add_argument("--data", type=Path, default=Path("data/organic"))
    parser.add_argument("--dynamics-ps", type=float, default=100.0)
    parser.add_argument("--timestep-fs", type=float, default=0.5)
    parser.add_argument("--molecules", nargs="*", default=[], choices=list(EXTERNAL_TEST), help="of the dynamics only")
    parser.add_argument("--skip", nargs="*", default=[], choices=PARTS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    parts: dict[str, Callable[[], None]] = {
        "errors": lambda: error_table(arguments.model, FrameSet.load(arguments.data / "test.npz")),
        "levels": lambda: level_table(arguments.model, arguments.data / "heads"),
        "conformers": lambda: conformer_table(arguments.model),
        "cost": lambda: cost_table(arguments.model),
        "dynamics": lambda: dynamics_table(
            arguments.model, arguments.dynamics_ps, arguments.timestep_fs, arguments.molecules
        ),
    }
    for name, part in parts.items():
        if name not in arguments.skip:
            part()


if __name__ == "__main__":
    main()
