"""Reference frames as flat arrays: what a potential is trained on and judged by.

A `FrameSet` holds many structures of different sizes without padding and without objects: one array per
quantity, the atoms of all frames one after the other. It is saved as a plain ``.npz`` (never pickled), and its
sha256 depends on the content alone, so that a model card can name exactly what a potential has seen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipot.errors import InvalidStructureError
from equipot.pairs import closest_pair

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Strings = NDArray[np.str_]

FORMAT_VERSION = 2
OLDEST_VERSION = 1  # without charges and spins: everything in it is neutral and closed-shell
MAX_ATOMIC_NUMBER = 118
# Beyond these a label is in other units (Hartree, kbar, gradient of a cell) or a failed calculation.
MAX_FORCE_EV_PER_ANG = 1e3
MAX_STRESS_EV_PER_ANG3 = 20.0  # 3200 GPa
MAX_ENERGY_EV_PER_ATOM = 1e5
MAX_POSITION_ANG = 1e4
MIN_DISTANCE_ANG = 0.2
ARE_UNITS_RIGHT = "are the units right?"


class FrameError(InvalidStructureError):
    """Frames that cannot be trained on; the message names them."""

    title = "Training data cannot be used"


class Frame(NamedTuple):
    """One structure with its labels; arrays are views into the set it came from.

    `numbers` (n_atoms,), `positions_ang` and `forces_ev_per_ang` (n_atoms, 3), `energy_ev` of the whole frame,
    `cell_ang` (3, 3) with rows as vectors (zeros = no cell), `pbc` (3,), `stress_ev_per_ang3` (6,) in ASE's sign
    and Voigt order xx, yy, zz, yz, xz, xy (NaN = no label), `charge` in e and `spin_multiplicity` of the whole frame.
    """

    numbers: Ints
    positions_ang: Floats
    forces_ev_per_ang: Floats
    energy_ev: float
    cell_ang: Floats
    pbc: Bools
    stress_ev_per_ang3: Floats
    config_type: str
    group: str
    charge: int = 0
    spin_multiplicity: int = 1


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Labelled structures of one level of theory, as flat arrays.

    Per atom, frames one after the other: `numbers` (n_total,), `positions_ang` (n_total, 3) in Å,
    `forces_ev_per_ang` (n_total, 3). Per frame: `n_atoms` (n_frames,), `energy_ev` (n_frames,) of the whole
    frame, `cell_ang` (n_frames, 3, 3) with rows as vectors (zeros = no cell), `pbc` (n_frames, 3),
    `stress_ev_per_ang3` (n_frames, 6) in ASE's sign and Voigt order xx, yy, zz, yz, xz, xy (NaN rows = no
    label), `config_type` (how the frame was made) and `group` (what must not be split between training and
    test: a molecule's canonical SMILES, or a set of elements), `charge` (n_frames,) in e and `spin_multiplicity`
    (n_frames,) of the whole frame.

    Shapes are checked when the set is made; values are checked by `validate`.
    """

    numbers: Ints
    positions_ang: Floats
    forces_ev_per_ang: Floats
    n_atoms: Ints
    energy_ev: Floats
    cell_ang: Floats
    pbc: Bools
    stress_ev_per_ang3: Floats
    config_type: Strings
    group: Strings
    charge: Ints
    spin_multiplicity: Ints
    level_of_theory: str

    def __post_init__(self) -> None:
        n_frames, n_total = len(self.n_atoms), int(np.sum(self.n_atoms))
        wanted: dict[str, tuple[int, ...]] = {
            "numbers": (n_total,),
            "positions_ang": (n_total, 3),
            "forces_ev_per_ang": (n_total, 3),
            "n_atoms": (n_frames,),
            "energy_ev": (n_frames,),
            "cell_ang": (n_frames, 3, 3),
            "pbc": (n_frames, 3),
            "stress_ev_per_ang3": (n_frames, 6),
            "config_type": (n_frames,),
            "group": (n_frames,),
            "charge": (n_frames,),
            "spin_multiplicity": (n_frames,),
        }
        for name, shape in wanted.items():
            got = getattr(self, name).shape
            if got != shape:
                raise FrameError(f"{name} must have shape {shape} for {n_frames} frames, got {got}")

    # ---- size and access

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.n_atoms)

    def __len__(self) -> int:
        return self.n_frames

    @property
    def offsets(self) -> Ints:
        """(n_frames + 1,) index of each frame's first atom; the last entry is the number of atoms."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.n_atoms)])

    @property
    def frame_idx(self) -> Ints:
        """(n_total,) the frame each atom belongs to."""
        return np.repeat(np.arange(self.n_frames, dtype=np.int64), self.n_atoms)

    def frame(self, i: int) -> Frame:
        """Frame `i` (negative counts from the end)."""
        if not -self.n_frames <= i < self.n_frames:
            raise IndexError(f"frame {i} of a set of {self.n_frames}")
        i %= self.n_frames
        start = int(np.sum(self.n_atoms[:i]))
        atoms = slice(start, start + int(self.n_atoms[i]))
        return self._frame(i, atoms)

    def __iter__(self) -> Iterator[Frame]:
        offsets = self.offsets
        for i in range(self.n_frames):
            yield self._frame(i, slice(int(offsets[i]), int(offsets[i + 1])))

    def _frame(self, i: int, atoms: slice) -> Frame:
        return Frame(
            numbers=self.numbers[atoms],
            positions_ang=self.positions_ang[atoms],
            forces_ev_per_ang=self.forces_ev_per_ang[atoms],
            energy_ev=float(self.energy_ev[i]),
            cell_ang=self.cell_ang[i],
            pbc=self.pbc[i],
            stress_ev_per_ang3=self.stress_ev_per_ang3[i],
            config_type=str(self.config_type[i]),
            group=str(self.group[i]),
            charge=int(self.charge[i]),
            spin_multiplicity=int(self.spin_multiplicity[i]),
        )

    def select(self, indices: Sequence[int] | Ints | Bools) -> FrameSet:
        """The frames at `indices`, in that order (or where a boolean mask of shape (n_frames,) is true)."""
        picked = np.arange(self.n_frames, dtype=np.int64)[np.asarray(indices, dtype=_index_dtype(indices))]
        offsets = self.offsets
        atoms = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(offsets[i], offsets[i + 1]) for i in picked)])
        return FrameSet(
            numbers=self.numbers[atoms],
            positions_ang=self.positions_ang[atoms],
            forces_ev_per_ang=self.forces_ev_per_ang[atoms],
            n_atoms=self.n_atoms[picked],
            energy_ev=self.energy_ev[picked],
            cell_ang=self.cell_ang[picked],
            pbc=self.pbc[picked],
            stress_ev_per_ang3=self.stress_ev_per_ang3[picked],
            config_type=self.config_type[picked],
            group=self.group[picked],
            charge=self.charge[picked],
            spin_multiplicity=self.spin_multiplicity[picked],
            level_of_theory=self.level_of_theory,
        )

    # ---- identity and files

    def sha256(self) -> str:
        """Digest of the content: the same for the same frames in the same order, however they were stored."""
        digest = hashlib.sha256(f"equipot frames 1\n{self.level_of_theory}\n".encode())
        for name, dtype in _ARRAYS.items():
            array = getattr(self, name)
            if name in _DEFAULTS and (array == _DEFAULTS[name]).all():
                continue  # as if there were no such array: the digest of sets from before there was one
            digest.update(f"{name} {array.shape}\n".encode())
            if dtype is np.str_:
                digest.update("\0".join(array.tolist()).encode())
            else:
                digest.update(np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz``, each array in the smallest type that keeps its values.

        Readers see the old file or the whole new one, never a part.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        arrays: dict[str, Any] = {name: _smallest(getattr(self, name)) for name in _ARRAYS}
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                format_version=np.array(FORMAT_VERSION),
                level_of_theory=np.array(self.level_of_theory),
                **arrays,
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FrameSet:
        """Read what `save` wrote. Raises FrameError when it is something else or of a newer format."""
        with np.load(path, allow_pickle=False) as file:
            missing = {*_ARRAYS, "format_version", "level_of_theory"} - set(file.files) - set(_DEFAULTS)
            if missing:
                raise FrameError(f"{path} is not a set of frames: it lacks {', '.join(sorted(missing))}")
            version = int(file["format_version"])
            if not OLDEST_VERSION <= version <= FORMAT_VERSION:
                raise FrameError(
                    f"{path} has format version {version}, this program reads {OLDEST_VERSION} to {FORMAT_VERSION}"
                )
            arrays = {name: file[name] for name in _ARRAYS if name in file.files}
            return cls.from_arrays(arrays, level_of_theory=str(file["level_of_theory"]))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], level_of_theory: str) -> FrameSet:
        """A set from anything array-like, in the types it is computed with; without charges everything is neutral."""
        absent = {name: np.full(len(arrays["n_atoms"]), v) for name, v in _DEFAULTS.items() if name not in arrays}
        arrays = {**arrays, **absent}
        typed: dict[str, Any] = {name: np.asarray(arrays[name], dtype=dtype) for name, dtype in _ARRAYS.items()}
        return cls(**typed, level_of_theory=level_of_theory)

    @classmethod
    def from_frames(cls, frames: Sequence[Frame], level_of_theory: str) -> FrameSet:
        """A set from single frames; an empty sequence gives an empty set."""
        per_atom: dict[str, list[Any]] = {
            "numbers": [f.numbers for f in frames],
            "positions_ang": [np.reshape(f.positions_ang, (-1, 3)) for f in frames],
            "forces_ev_per_ang": [np.reshape(f.forces_ev_per_ang, (-1, 3)) for f in frames],
        }
        empty = {"numbers": np.zeros(0), "positions_ang": np.zeros((0, 3)), "forces_ev_per_ang": np.zeros((0, 3))}
        n = len(frames)
        arrays: dict[str, Any] = {k: np.concatenate([empty[k], *v]) for k, v in per_atom.items()}
        arrays["n_atoms"] = [len(f.numbers) for f in frames]
        arrays["energy_ev"] = [f.energy_ev for f in frames]
        arrays["cell_ang"] = np.reshape([f.cell_ang for f in frames], (n, 3, 3))
        arrays["pbc"] = np.reshape([f.pbc for f in frames], (n, 3))
        arrays["stress_ev_per_ang3"] = np.reshape([f.stress_ev_per_ang3 for f in frames], (n, 6))
        arrays["config_type"] = [f.config_type for f in frames]
        arrays["group"] = [f.group for f in frames]
        arrays["charge"] = [f.charge for f in frames]
        arrays["spin_multiplicity"] = [f.spin_multiplicity for f in frames]
        return cls.from_arrays(arrays, level_of_theory)

    # ---- checks

    def validate(self) -> FrameSet:
        """Return the set if every value can be trained on, else raise FrameError naming the first bad frame."""
        for i, what in self.problems():
            raise FrameError(f"frame {i} ({self.group[i]}, {self.config_type[i]}) {what}")
        return self

    def problems(self, *, need_forces: bool = True, copies: bool = True) -> list[tuple[int, str]]:
        """Index of every frame that cannot be trained on, and why, in words that follow "frame 3".

        Named are empty frames, impossible atomic numbers, non-finite or absurd positions, forces, energies, cells or
        stresses (other units, failed calculations), atoms at one place, periodic frames without a cell, stress
        without a cell, and, with `copies`, exact copies of another frame. A frame whose forces are all NaN has
        none, which is a problem only where they are needed.
        """
        found: list[tuple[int, str]] = []

        def note(bad: Any, what: str) -> None:
            found.extend((int(i), what) for i in np.flatnonzero(bad))

        note(self.n_atoms < 1, "has no atoms")
        self._check_atoms(note, need_forces)
        note(~np.isfinite(self.energy_ev), "has an energy that is not finite")
        per_atom = np.abs(self.energy_ev) / np.maximum(self.n_atoms, 1)
        note(
            per_atom > MAX_ENERGY_EV_PER_ATOM,
            f"has an energy above {MAX_ENERGY_EV_PER_ATOM:g} eV per atom; {ARE_UNITS_RIGHT}",
        )
        self._check_cells(note)
        note(self.group == "", "has no group, so it cannot be kept out of a split")
        found += self._overlaps({i for i, _ in found})
        found += self._copies() if copies else []
        return sorted(found, key=lambda problem: problem[0])

    def _check_atoms(self, note: Any, need_forces: bool) -> None:
        owner = self.frame_idx

        def frames_of(bad_atoms: Any) -> Bools:
            frames = np.zeros(self.n_frames, dtype=np.bool_)
            frames[owner[bad_atoms]] = True
            return frames

        note(
            frames_of((self.numbers < 1) | (self.numbers > MAX_ATOMIC_NUMBER)),
            "has an impossible atomic number",
        )
        note(frames_of(~np.isfinite(self.positions_ang).all(axis=1)), "has a position that is not finite")
        far = np.abs(self.positions_ang).max(axis=1, initial=0) > MAX_POSITION_ANG
        note(frames_of(far), f"has a position beyond {MAX_POSITION_ANG:g} Å")
        unlabelled = self.has_no_forces
        if need_forces:
            note(unlabelled, "has no forces, or none that are finite")
        bad = frames_of(~np.isfinite(self.forces_ev_per_ang).all(axis=1))
        note(bad & ~unlabelled, "has a force that is not finite")
        large = np.abs(self.forces_ev_per_ang).max(axis=1, initial=0) > MAX_FORCE_EV_PER_ANG
        note(frames_of(large), f"has a force above {MAX_FORCE_EV_PER_ANG:g} eV/Å; {ARE_UNITS_RIGHT}")

    def _check_cells(self, note: Any) -> None:
        finite = np.isfinite(self.cell_ang).all(axis=(1, 2))
        has_cell = (self.cell_ang != 0).any(axis=(1, 2))
        volume = np.abs(np.linalg.det(np.where(np.isfinite(self.cell_ang), self.cell_ang, 0.0)))
        note(~finite, "has a cell that is not finite")
        note(has_cell & finite & (volume < 1e-3), "has a cell without volume")
        note(self.pbc.any(axis=1) & ~has_cell, "is periodic but has no cell")
        missing = np.isnan(self.stress_ev_per_ang3)
        note(missing.any(axis=1) != missing.all(axis=1), "has a stress with some components missing")
        note(~missing.any(axis=1) & ~has_cell, "has a stress but no cell")
        stress = np.where(missing, 0.0, self.stress_ev_per_ang3)
        infinite = ~np.isfinite(stress).all(axis=1)
        note(infinite, "has a stress that is not finite")
        note(
            ~infinite & (np.abs(stress).max(axis=1, initial=0) > MAX_STRESS_EV_PER_ANG3),
            f"has a stress above {MAX_STRESS_EV_PER_ANG3:g} eV/Å³; {ARE_UNITS_RIGHT}",
        )

    def _overlaps(self, broken: set[int]) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for i, frame in enumerate(self):
            periodic = (bool(frame.pbc[0]), bool(frame.pbc[1]), bool(frame.pbc[2]))
            if i in broken or (not any(periodic) and closest_ang(frame.positions_ang) >= MIN_DISTANCE_ANG):
                continue
            cell = frame.cell_ang if any(periodic) else None
            pair = closest_pair(frame.positions_ang, cell, periodic, MIN_DISTANCE_ANG)
            if pair is not None:
                where = f"atoms {pair.first} and {pair.second}, {pair.distance_ang:.3f} Å apart"
                found.append((i, f"has two atoms closer than {MIN_DISTANCE_ANG} Å: {where}"))
        return found

    def _copies(self) -> list[tuple[int, str]]:
        seen: dict[bytes, int] = {}
        found = []
        for i, frame in enumerate(self):
            key = frame_key(frame)
            if key in seen:
                found.append((i, f"is an exact copy of frame {seen[key]}"))
            seen.setdefault(key, i)
        return found

    @property
    def has_no_forces(self) -> Bools:
        """(n_frames,) true where all forces are NaN: no label. A frame without atoms counts as labelled."""
        labelled = np.zeros(self.n_frames, dtype=np.int64)
        np.add.at(labelled, self.frame_idx, np.isfinite(self.forces_ev_per_ang).any(axis=1))
        missing: Bools = (labelled == 0) & (self.n_atoms > 0)
        return missing


_ARRAYS: dict[str, type] = {
    "numbers": np.int64,
    "positions_ang": np.float64,
    "forces_ev_per_ang": np.float64,
    "n_atoms": np.int64,
    "energy_ev": np.float64,
    "cell_ang": np.float64,
    "pbc": np.bool_,
    "stress_ev_per_ang3": np.float64,
    "config_type": np.str_,
    "group": np.str_,
    "charge": np.int64,
    "spin_multiplicity": np.int64,
}
#: what a frame has that says nothing of it
_DEFAULTS = {"charge": 0, "spin_multiplicity": 1}
assert [f.name for f in fields(FrameSet)] == [*_ARRAYS, "level_of_theory"]


def concatenate(sets: Sequence[FrameSet]) -> FrameSet:
    """One set from several of the same level of theory, in the order given.

    Raises FrameError for an empty sequence and for two levels of theory: their energies have different zeros.
    """
    if not sets:
        raise FrameError("nothing to concatenate: give at least one set")
    levels = sorted({s.level_of_theory for s in sets})
    if len(levels) > 1:
        raise FrameError(f"sets of different levels of theory cannot be one set: {', '.join(levels)}")
    arrays = {name: np.concatenate([getattr(s, name) for s in sets]) for name in _ARRAYS}
    return FrameSet.from_arrays(arrays, levels[0])


def _smallest(array: np.ndarray) -> np.ndarray:
    """The same values in the smallest of a few types that holds every one of them exactly."""
    narrow = {"f": (np.float32,), "i": (np.int8, np.int16, np.int32)}.get(array.dtype.kind, ())
    with np.errstate(over="ignore"):
        return next((a for a in map(array.astype, narrow) if np.array_equal(a, array, equal_nan=True)), array)


def minimum_distances_ang(frames: FrameSet) -> dict[tuple[int, int], float]:
    """Smallest distance (Å) seen for each pair of atomic numbers (smaller first), periodic images included.

    Images are searched in the 26 neighbouring cells, which finds the smallest distance of any cell that is not
    extremely skewed.
    """
    smallest: dict[tuple[int, int], float] = {}
    steps = np.array([(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)], dtype=np.float64)
    for frame in frames:
        allowed = steps[(np.abs(steps) <= frame.pbc).all(axis=1)]
        positions, kinds = frame.positions_ang, np.unique(frame.numbers)
        if frame.pbc.all():  # wrapped, so that the nearest image is a neighbouring one
            scaled = np.linalg.solve(frame.cell_ang.T, positions.T).T
            positions = (scaled - np.floor(scaled)) @ frame.cell_ang
        difference = positions[None, :, None] + (allowed @ frame.cell_ang) - positions[:, None, None]
        distance = np.linalg.norm(difference, axis=-1)
        distance[distance < 1e-6] = np.inf
        nearest = distance.min(axis=2)
        for a in kinds:
            for b in kinds[kinds >= a]:
                found = float(nearest[np.ix_(frame.numbers == a, frame.numbers == b)].min())
                pair = (int(a), int(b))
                if np.isfinite(found):
                    smallest[pair] = min(found, smallest.get(pair, np.inf))
    return dict(sorted(smallest.items()))


def frame_key(frame: Frame) -> bytes:
    """A digest of the structure alone: equal for exact copies, whatever their labels."""
    content = frame.numbers.tobytes() + frame.positions_ang.tobytes() + frame.cell_ang.tobytes()
    if frame.charge or frame.spin_multiplicity != 1:
        content += f"{frame.charge} {frame.spin_multiplicity}".encode()
    return hashlib.sha256(content).digest()


def closest_ang(positions_ang: Floats) -> float:
    """Smallest distance (Å) between two of the atoms (n_atoms, 3), images apart; infinite for a single atom."""
    if len(positions_ang) < 2:
        return float("inf")
    distance = np.linalg.norm(positions_ang[:, None] - positions_ang[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return float(distance.min())


def _index_dtype(indices: Any) -> type:
    return np.bool_ if np.asarray(indices).dtype == np.bool_ else np.int64
