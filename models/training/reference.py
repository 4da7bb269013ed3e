"""The energies of free atoms: the zero that energies are counted from.

They are given in the configuration, or taken from frames of single atoms, or fitted to the compositions. A fit is
refused where compositions do not tell the elements apart: any such answer is arbitrary, and a potential on it is
wrong as soon as a composition changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from equipot.elements import NUMBERS, SYMBOLS
from equipot.errors import InvalidParameterError
from equipot.models.training.frames import Bools, FrameSet

#: singular values below this, in units of the largest, mean that compositions do not determine an element
DEGENERATE = 1e-4
#: energies of one atom given twice may differ by this
SAME_ATOM_EV = 1e-3


def is_isolated_atom(frames: FrameSet) -> Bools:
    """(n_frames,) true for single atoms without a period, or in a frame whose config_type says IsolatedAtom."""
    named = np.array([kind.lower().replace("_", "") == "isolatedatom" for kind in frames.config_type.tolist()])
    alone: Bools = (frames.n_atoms == 1) & (named.astype(np.bool_) | ~frames.pbc.any(axis=1))
    return alone


def isolated_atom_energies(frames: FrameSet) -> dict[int, float]:
    """Energy (eV) of each element for which there is a frame with a single atom.

    Raises InvalidParameterError when two frames disagree.
    """
    found: dict[int, float] = {}
    for frame in frames.select(is_isolated_atom(frames)):
        number = int(frame.numbers[0])
        if abs(found.setdefault(number, frame.energy_ev) - frame.energy_ev) > SAME_ATOM_EV:
            raise InvalidParameterError(
                f"Two frames give a single {SYMBOLS[number]} the energies {found[number]:.4f} and "
                f"{frame.energy_ev:.4f} eV.",
                pointer="/isolated_atom_energies_ev",
                hint="Leave one out, or give the energies in the configuration.",
            )
    return found


def fit_isolated_atom_energies(frames: FrameSet, elements: Sequence[int]) -> dict[int, float]:
    """Energy (eV) of each element by least squares on energies per atom.

    Raises InvalidParameterError naming the elements that compositions do not tell apart.
    """
    counts = compositions(frames, elements)
    shares = counts / counts.sum(axis=1, keepdims=True)
    _, sizes, directions = np.linalg.svd(shares, full_matrices=True)
    sizes = np.concatenate([sizes, np.zeros(len(elements) - len(sizes))])
    undetermined = directions[sizes < DEGENERATE * sizes[0]]
    if len(undetermined):
        mixed = [SYMBOLS[z] for z, part in zip(elements, np.abs(undetermined).max(axis=0), strict=True) if part > 1e-3]
        different = len(np.unique(np.round(shares, 9), axis=0))
        raise InvalidParameterError(
            f"The energies of free atoms cannot be fitted: {different} different compositions do not tell "
            f"{', '.join(mixed[:-1])} and {mixed[-1]} apart.",
            pointer="/isolated_atom_energies_ev",
            hint="Give isolated_atom_energies_ev of the elements, or a file with a frame of each single atom "
            "(config_type IsolatedAtom), or frames of other compositions.",
        )
    energies = frames.energy_ev / counts.sum(axis=1)
    solution = np.linalg.lstsq(shares, energies, rcond=None)[0]
    return {z: float(energy) for z, energy in zip(elements, solution, strict=True)}


def compositions(frames: FrameSet, elements: Sequence[int]) -> np.ndarray:
    """(n_frames, n_elements) how many atoms of each element."""
    counts = np.zeros((len(frames), len(elements)))
    place = np.searchsorted(elements, frames.numbers)
    np.add.at(counts, (frames.frame_idx, place), 1.0)
    return counts


def by_number(energies_ev: dict[str, float]) -> dict[int, float]:
    """Energies by atomic number. Raises InvalidParameterError for what is not an element."""
    unknown = [symbol for symbol in energies_ev if symbol not in NUMBERS]
    if unknown:
        raise InvalidParameterError(f"There is no element {unknown[0]!r}.", pointer="/isolated_atom_energies_ev")
    return {NUMBERS[symbol]: energy for symbol, energy in energies_ev.items()}
