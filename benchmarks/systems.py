"""The systems that are timed, and the table the results are printed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2, s22
from ase.io import read

HERE = Path(__file__).parent
RATTLE_ANG = 0.08


def molecules(n: int, elements: Sequence[str]) -> list[Atoms]:
    """n different molecules and dimers of 10 to 40 atoms, away from their minima."""
    named = [molecule(name) for name in g2.names] + [s22[name] for name in s22.names] + [read(HERE / "aspirin.xyz")]
    fit = [atoms for atoms in named if 10 <= len(atoms) <= 40 and set(atoms.symbols) <= set(elements)]
    found = []
    for number in range(n):
        atoms = Atoms(fit[number % len(fit)].symbols, fit[number % len(fit)].positions)
        atoms.rattle(RATTLE_ANG, seed=number)
        found.append(atoms)
    return found


def systems_for(elements: tuple[str, ...]) -> dict[str, Atoms]:
    """Aspirin and two silicon crystals, those of them whose elements are all known."""
    silicon = bulk("Si", cubic=True)
    every = {
        "aspirin (21 atoms)": read(HERE / "aspirin.xyz"),
        "Si (64 atoms)": silicon.repeat(2),
        "Si (512 atoms)": silicon.repeat(4),
    }
    return {name: atoms for name, atoms in every.items() if set(atoms.symbols) <= set(elements)}


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints one table; numbers to the right, names to the left."""
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    print(title)
    for line in lines:
        cells = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells))
    print(flush=True)
