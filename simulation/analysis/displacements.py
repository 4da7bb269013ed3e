"""Anisotropic displacement parameters U_ij of crystals, as a refinement against diffraction gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from equipot.elements import SYMBOLS
from equipot.errors import InvalidParameterError, InvalidStructureError
from equipot.simulation.analysis.figures import COLOURS, legend, single
from equipot.simulation.analysis.result import Analysis
from equipot.simulation.analysis.statistics import block_edges
from equipot.simulation.analysis.track import Track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from equipot.simulation.analysis.track import Source

FEWEST_FRAMES = 20
SAME_SITE_ANG = 0.7
CIF_ORDER = {"11": (0, 0), "22": (1, 1), "33": (2, 2), "12": (0, 1), "13": (0, 2), "23": (1, 2)}
#: squared shift of the mean place between the halves of a track, in U: 4 for a hop half-way, 3 for a steady drift, and
#: 4 over the number of independent frames for an atom that stays
MOVED_ON = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class DisplacementParameters(Analysis):
    """Mean places and U of each site of the unit cell.

    numbers, n_members (n_sites,); cell_ang (3, 3), fractions (n_sites, 3); u_cart_ang2 (n_sites, 3, 3) = <u uᵀ> in
    Cartesian axes; u_cif_ang2 (n_sites, 3, 3) with respect to the reciprocal axes, as in CIF's _atom_site_aniso_U_ij,
    where exp[-2π² Σ h_i h_j a*_i a*_j U_ij] is the factor of reflection h; u_iso_ang2 (n_sites,), a third of the trace
    of u_cart. Each error has the shape of its value.
    """

    name: ClassVar[str] = "adp"
    numbers: np.ndarray
    n_members: np.ndarray
    cell_ang: np.ndarray
    fractions: np.ndarray
    u_cart_ang2: np.ndarray
    u_cart_error_ang2: np.ndarray
    u_cif_ang2: np.ndarray
    u_cif_error_ang2: np.ndarray
    u_iso_ang2: np.ndarray
    u_iso_error_ang2: np.ndarray
    drift_removed: bool

    @property
    def labels(self) -> list[str]:
        """A name for each site, as in Si1, Si2, O1."""
        seen: dict[str, int] = {}
        labels = []
        for number in self.numbers:
            symbol = SYMBOLS[number]
            seen[symbol] = seen.get(symbol, 0) + 1
            labels.append(f"{symbol}{seen[symbol]}")
        return labels

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {"n_sites": len(self.numbers), "drift_removed": self.drift_removed}
        for number in np.unique(self.numbers):
            own = self.numbers == number
            out[f"{SYMBOLS[number]}_u_iso_ang2"] = float(np.average(self.u_iso_ang2[own], weights=self.n_members[own]))
        return out

    def columns(self) -> dict[str, np.ndarray]:
        columns = {"label": np.array(self.labels), "atomic_number": self.numbers, "n_members": self.n_members}
        columns |= {f"fraction_{axis}": self.fractions[:, i] for i, axis in enumerate("abc")}
        columns |= {"u_iso_ang2": self.u_iso_ang2, "u_iso_error_ang2": self.u_iso_error_ang2}
        for name, (i, j) in CIF_ORDER.items():
            columns[f"u_cif_{name}_ang2"] = self.u_cif_ang2[:, i, j]
            columns[f"u_cif_{name}_error_ang2"] = self.u_cif_error_ang2[:, i, j]
        for i, j in CIF_ORDER.values():
            columns[f"u_cart_{'xyz'[i]}{'xyz'[j]}_ang2"] = self.u_cart_ang2[:, i, j]
        return columns

    def draw(self, figure: Figure) -> None:
        axes = single(figure, "site", "$U$ (10$^{-3}$ Å$^2$)")
        places = np.arange(len(self.numbers))
        principal = 1000.0 * np.linalg.eigvalsh(self.u_cart_ang2)
        for i, number in enumerate(np.unique(self.numbers)):
            own = self.numbers == number
            colour = COLOURS[i % len(COLOURS)]
            axes.vlines(places[own], principal[own, 0], principal[own, 2], color=colour, alpha=0.35, linewidth=3)
            axes.errorbar(
                places[own],
                1000.0 * self.u_iso_ang2[own],
                1000.0 * self.u_iso_error_ang2[own],
                fmt="o",
                markersize=2.5,
                color=colour,
                elinewidth=0.8,
                capsize=1.5,
                label=SYMBOLS[number],
            )
        axes.set_ylim(0, 1.15 * float(principal.max()))
        axes.set_xlim(-0.7, len(places) - 0.3)
        if len(places) <= 16:
            axes.set_xticks(places, self.labels, rotation=0 if len(places) <= 8 else 90)
        axes.set_title("dots: $U_{iso}$; bars: smallest to largest principal $U$", fontsize=6.5, pad=3)
        legend(axes)

    def to_cif(self, path: str | Path) -> Path:
        """The mean structure with its U_ij as CIF, without symmetry (P 1)."""
        lengths = np.linalg.norm(self.cell_ang, axis=1)
        cosines = [self.cell_ang[i] @ self.cell_ang[j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
        lines = ["data_equipot", "_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1"]
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'"]
        lines += [f"_cell_length_{axis} {length:.6f}" for axis, length in zip("abc", lengths, strict=True)]
        angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        lines += [
            f"_cell_angle_{name} {angle:.5f}" for name, angle in zip(("alpha", "beta", "gamma"), angles, strict=True)
        ]
        lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
        lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
        lines += ["_atom_site_U_iso_or_equiv", "_atom_site_adp_type"]
        for label, number, place, u in zip(self.labels, self.numbers, self.fractions, self.u_iso_ang2, strict=True):
            words = " ".join(f"{x:.6f}" for x in place)
            lines.append(f"{label} {SYMBOLS[number]} {words} {u:.6f} Uani")
        lines += ["loop_", "_atom_site_aniso_label", *(f"_atom_site_aniso_U_{name}" for name in CIF_ORDER)]
        for label, u_ij in zip(self.labels, self.u_cif_ang2, strict=True):
            lines.append(" ".join([label, *(f"{u_ij[place]:.6f}" for place in CIF_ORDER.values())]))
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Path(path)


def displacement_parameters(
    source: Source,
    system: int | None = None,
    *,
    remove_drift: bool | None = None,
    supercell: tuple[int, int, int] = (1, 1, 1),
    n_blocks: int = 5,
    **selection: Any,
) -> DisplacementParameters:
    """U_ij of each atom about its mean place, or of each site of the unit cell if the system is a supercell of it.

    remove_drift keeps the centre of mass in its place (done if absent, unless atoms are fixed); in a cell of N equal
    atoms it takes 1/N from U. Classical motion has no zero-point share, which matters below the Debye temperature.
    Where the cell moves, displacements are in fractions of it, shown in the mean cell. Errors are those of n_blocks
    stretches of the track about the common mean. The other keywords are those of Track.of. Raises
    InvalidStructureError (not periodic, the supercell does not fit) or InvalidParameterError (too few frames).
    """
    track = Track.of(source, system, velocities=False, **selection)
    if track.cells_ang is None or not all(track.pbc):
        raise InvalidStructureError(
            "Displacement parameters are of crystals: the system must be periodic in all three directions.",
            hint="Atoms of a molecule have no mean place.",
        )
    if track.n_frames < FEWEST_FRAMES:
        raise InvalidParameterError(
            f"{track.n_frames} frames are too few for displacement parameters: {FEWEST_FRAMES} at least.",
            hint="Save more frames.",
        )
    drift = track.removes_drift(remove_drift)
    cell = track.cells_ang.mean(axis=0)
    moved = track.displaced_ang(drift)
    places = np.linalg.solve(track.cells_ang[0].T, track.positions_ang[0].T).T @ cell + moved.mean(axis=0)
    away = moved - moved.mean(axis=0)
    site_of = _sites(track.numbers, places, cell, supercell)
    unit = cell / np.array(supercell)[:, None]
    n_sites = int(site_of.max()) + 1
    n_members = np.bincount(site_of, minlength=n_sites)
    first = np.array([int(np.flatnonzero(site_of == site)[0]) for site in range(n_sites)])
    u = _mean_squares(away, site_of, n_sites)
    blocks = [_mean_squares(away[b], site_of, n_sites) for b in block_edges(track.n_frames, n_blocks)]
    cif, cif_blocks = _cif_convention(u, unit), np.stack([_cif_convention(b, unit) for b in blocks])
    isotropic = np.stack([np.trace(b, axis1=1, axis2=2) / 3.0 for b in blocks])
    return DisplacementParameters(
        numbers=track.numbers[first],
        n_members=n_members,
        cell_ang=unit,
        fractions=np.linalg.solve(unit.T, places[first].T).T % 1.0,
        u_cart_ang2=u,
        u_cart_error_ang2=_error(np.stack(blocks)),
        u_cif_ang2=cif,
        u_cif_error_ang2=_error(cif_blocks),
        u_iso_ang2=np.trace(u, axis1=1, axis2=2) / 3.0,
        u_iso_error_ang2=_error(isotropic),
        drift_removed=drift,
        remarks=_remarks(moved, u, site_of),
        provenance=track.provenance,
    )


def _mean_squares(away_ang: np.ndarray, site_of: np.ndarray, n_sites: int) -> np.ndarray:
    """<u uᵀ> (n_sites, 3, 3) of displacements (n_frames, n_atoms, 3), over frames and the atoms of each site."""
    of_atoms = np.einsum("fai,faj->aij", away_ang, away_ang) / len(away_ang)
    sums = np.zeros((n_sites, 3, 3))
    np.add.at(sums, site_of, of_atoms)
    return sums / np.bincount(site_of, minlength=n_sites)[:, None, None]


def _cif_convention(u_cart_ang2: np.ndarray, cell_ang: np.ndarray) -> np.ndarray:
    """U_ij = <Δx_i Δx_j> / (a*_i a*_j) with fractions x, since q·u = Σ h_i Δx_i.

    Trueblood et al., Acta Cryst. A52, 770 (1996).
    """
    to_fractions = np.linalg.inv(cell_ang)  # x = r @ inverse, its columns the reciprocal vectors
    scaled = to_fractions / np.linalg.norm(to_fractions, axis=0)
    return np.asarray(scaled.T @ u_cart_ang2 @ scaled)


def _error(blocks: np.ndarray) -> np.ndarray:
    n = len(blocks)
    return np.asarray(blocks.std(axis=0, ddof=1) / np.sqrt(n)) if n > 1 else np.full(blocks.shape[1:], np.nan)


def _sites(
    numbers: np.ndarray, places_ang: np.ndarray, cell_ang: np.ndarray, supercell: tuple[int, int, int]
) -> np.ndarray:
    """For each atom the site of the unit cell whose copy it is (n_atoms,)."""
    if supercell == (1, 1, 1):
        return np.arange(len(numbers))
    unit = cell_ang / np.array(supercell)[:, None]
    fractions = places_ang @ np.linalg.inv(unit)
    site_of = np.full(len(numbers), -1)
    founders: list[int] = []
    for atom, fraction in enumerate(fractions):
        for site, founder in enumerate(founders):
            apart = fraction - fractions[founder]
            near = np.linalg.norm((apart - np.round(apart)) @ unit) < SAME_SITE_ANG
            if near and numbers[founder] == numbers[atom]:
                site_of[atom] = site
                break
        else:
            site_of[atom] = len(founders)
            founders.append(atom)
    n_cells = int(np.prod(supercell))
    if (np.bincount(site_of) != n_cells).any():
        raise InvalidStructureError(
            f"The system is no {' x '.join(map(str, supercell))} supercell: not every site has {n_cells} atoms.",
            pointer="/supercell",
            hint="Leave supercell out to get U of every atom.",
        )
    return site_of


def _remarks(moved_ang: np.ndarray, u_cart_ang2: np.ndarray, site_of: np.ndarray) -> tuple[str, ...]:
    """Say which atoms have no one place."""
    half = len(moved_ang) // 2
    shifts = moved_ang[:half].mean(axis=0) - moved_ang[half:].mean(axis=0)
    spread = np.trace(u_cart_ang2, axis1=1, axis2=2)[site_of]
    gone = np.flatnonzero((shifts**2).sum(axis=1) > MOVED_ON * np.maximum(spread, 1e-12))
    if not len(gone):
        return ()
    named = ", ".join(map(str, gone[:10])) + (" and others" if len(gone) > 10 else "")
    return (f"Atoms {named} moved on: their mean place in the first half of the frames is another than in the second.",)
