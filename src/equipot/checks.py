"""What parameters ask of a structure: checked before anything runs, the same in Python and over HTTP."""

from __future__ import annotations

from equipot.errors import InvalidStructureError
from equipot.params import AnyParams, MDParams, RelaxParams
from equipot.structure import Structure


def check_against_params(structure: Structure, params: AnyParams, pointer: str = "") -> None:
    """Refuse a structure that cannot be run like this; `pointer` is where it sits in the request.

    Raises InvalidStructureError, pointing at what is missing.
    """
    if isinstance(params, MDParams) and params.velocities == "given" and structure.velocities_ang_per_fs is None:
        raise InvalidStructureError(
            "The parameters ask for given velocities, but the structure has none.",
            pointer=f"{pointer}/velocities",
            hint='Give velocities in Å/fs, or set velocities to "maxwell_boltzmann" or "zero".',
        )
    if moves_cell(params) and (structure.cell_ang is None or not all(structure.pbc)):
        what = "npt" if isinstance(params, MDParams) else f"cell_filter {params.cell_filter}"  # type: ignore[union-attr]
        raise InvalidStructureError(
            f"{what} moves the cell, but the structure has none that is periodic in all three directions.",
            pointer=f"{pointer}/{'pbc' if structure.cell_ang is not None else 'cell'}",
            hint="Give cell and pbc, or keep the cell fixed.",
        )
    if isinstance(params, MDParams) and params.ensemble == "npt" and structure.fixed_atoms:
        raise InvalidStructureError(
            "npt moves every atom with the cell, but some atoms are to stay where they are.",
            pointer=f"{pointer}/fixed_atoms",
            hint="Leave out fixed_atoms, or choose ensemble nvt.",
        )


def moves_cell(params: AnyParams) -> bool:
    """Whether a run with these parameters changes the cell."""
    if isinstance(params, RelaxParams):
        return params.cell_filter != "none"
    return isinstance(params, MDParams) and params.ensemble == "npt"
