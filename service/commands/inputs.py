"""Structure files given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equipot.errors import EquipotError, InvalidStructureError
from equipot.structure import Structure


def read_inputs(
    files: Sequence[Path], format: str | None, index: int | slice | None, skip_invalid: bool
) -> tuple[list[str], list[Structure | EquipotError], list[str]]:
    """Names, structures and remarks from files; with `skip_invalid` a file that cannot be read is its error."""
    from equipot.calculator.reading import read_structures

    names: list[str] = []
    structures: list[Structure | EquipotError] = []
    warnings: list[str] = []
    for file in files:
        try:
            parsed = read_structures(file, format=format, index=index)
        except OSError as error:
            raise InvalidStructureError(f"{file} cannot be read: {error.strerror}.", hint="Check the path.") from error
        except EquipotError as error:
            if not skip_invalid:
                raise
            names.append(file.name)
            structures.append(error)
            continue
        several = len(parsed) > 1
        names += [f"{file.name}#{number}" if several else file.name for number in range(len(parsed))]
        structures += parsed.structures
        warnings += parsed.warnings
    return names, structures, warnings
