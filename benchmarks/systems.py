"""The systems that are timed, and the table the results are printed in."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.io import read

HERE = Path(__file__).parent


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
