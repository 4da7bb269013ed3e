"""What parameters ask of a structure: checked before anything runs, the same in Python and over HTTP."""

from __future__ import annotations

import numpy as np

from equipot.errors import InvalidStructureError
from equipot.params import AnyParams, MDParams, RelaxParams
from equipot.structure import Structure

WIDEST_GAP_ANG = 8.0  # wider ones are vacuum more often than the pores of a crystal


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
    if isinstance(params, RelaxParams) and params.fix_symmetry and not all(structure.pbc):
        raise InvalidStructureError(
            "fix_symmetry keeps a space group, and only a structure periodic in all three directions has one.",
            pointer=f"{pointer}/pbc",
            hint="Give cell and pbc, or leave out fix_symmetry.",
        )
    if isinstance(params, MDParams) and params.ensemble == "npt" and structure.fixed_atoms:
        raise InvalidStructureError(
            "npt moves every atom with the cell, but some atoms are to stay where they are.",
            pointer=f"{pointer}/fixed_atoms",
            hint="Leave out fixed_atoms, or choose ensemble nvt.",
        )


CHAIN_AND_SHAPE = (
    "A Nosé-Hoover chain holds the energy of all six ways in which a flexible cell swings, but in a crystal it does "
    "not share it among them: the temperature comes out right, volumes may fluctuate several times too widely. "
    "Take langevin or bussi if anything is read from fluctuations."
)


def doubts(structure: Structure, params: AnyParams) -> list[str]:
    """What makes it doubtful that these parameters are meant for this structure, in sentences; it runs all the same."""
    if not moves_cell(params) or structure.cell_ang is None:
        return []
    inverse = np.linalg.inv(structure.cell_ang)
    warnings = [CHAIN_AND_SHAPE] if _is_chain_on_shape(params) else []
    for axis, name in enumerate("abc"):
        normal = inverse[:, axis] / np.linalg.norm(inverse[:, axis])
        gap_ang = _largest_gap(structure.positions_ang @ inverse[:, axis]) / float(np.linalg.norm(inverse[:, axis]))
        if gap_ang > WIDEST_GAP_ANG and _may_strain_along(normal, params):
            warnings.append(
                f"There is a gap of {gap_ang:.1f} Å between the atoms along {name}. If it is the vacuum around a slab "
                "or a molecule, the size of the cell along it means nothing: keep it fixed."
            )
    return warnings


def _is_chain_on_shape(params: AnyParams) -> bool:
    """Whether one Nosé-Hoover chain holds all six ways in which a cell may change."""
    if not isinstance(params, MDParams) or params.barostat is None or params.thermostat is None:
        return False
    return params.thermostat.type == "nose_hoover" and not params.barostat.isotropic


def _largest_gap(fractional: np.ndarray) -> float:
    """The widest stretch without an atom along a lattice vector, in its lengths."""
    places = np.sort(fractional % 1.0)
    return float(np.diff(places, append=places[0] + 1.0).max())


def _may_strain_along(normal: np.ndarray, params: AnyParams) -> bool:
    """Whether the length of the cell in this direction may change."""
    mask = params.cell_mask if isinstance(params, RelaxParams) else None
    xx, yy, zz, yz, xz, xy = mask or [True] * 6
    allowed = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return bool((np.abs(np.outer(normal, normal))[allowed] > 1e-6).any())


def moves_cell(params: AnyParams) -> bool:
    """Whether a run with these parameters changes the cell."""
    if isinstance(params, RelaxParams):
        return params.cell_filter != "none"
    return isinstance(params, MDParams) and params.ensemble == "npt"
