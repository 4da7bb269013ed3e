"""Wrong units, found by asking the data whether they agree with themselves.

Distances are held against covalent radii, energies against those of the free atoms, and both energies and stresses
against what the forces imply for them (force_checks.py). That is good to a factor of a few, and units are wrong by
factors of 23, 27, 51, 96, 160 or 1602. What the data do not decide is not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from equipot.elements import COVALENT_RADII_ANG
from equipot.models.training.conventions import EV_PER_HARTREE, EV_PER_KJ_PER_MOL
from equipot.models.training.force_checks import CUTOFF_ANG, PairFit, edges_of, work_between_frames
from equipot.models.training.frames import Floats, Frame, FrameSet
from equipot.units import ANG_PER_BOHR, GPA_PER_EV_PER_ANG3

SAMPLED_FRAMES, SAMPLED_ATOMS = 60, 2000
#: how well labels and what forces ask for must go together before their ratio means something
LEAST_CORRELATION = {"work": 0.4, "sign": 0.8, "pair": 0.8}
#: ratios closer to 1 than this may be the fault of the rough models
TRUSTED_FACTOR = 8.0
LEAST_NUMBER = 12
#: a unit is named if its factor is within this of the ratio; several may be
NEAR = 2.2
#: forces in smaller cells do not determine a pair potential
LEAST_ATOMS = 6
#: nearest neighbours in units of the sum of covalent radii: 0.8 to 1.3 in nearly everything
SHORTEST_BOND, LONGEST_BOND = 0.62, 1.55
NOBLE_GASES = (2, 10, 18, 36, 54, 86)
#: binding energies of atoms are between 0 and 9 eV in nature
MAX_BINDING_EV_PER_ATOM = 15.0

EV_PER_KCAL_PER_MOL = 4.184 * EV_PER_KJ_PER_MOL
#: energies as labelled over energies as the labelled forces ask for
ENERGY_TO_FORCE = {
    "forces in Hartree/Bohr beside energies in eV": EV_PER_HARTREE / ANG_PER_BOHR,
    "forces in Hartree/Å beside energies in eV": EV_PER_HARTREE,
    "energies in Hartree beside forces in eV/Å": 1.0 / EV_PER_HARTREE,
    "energies in kcal/mol beside forces in eV/Å": 1.0 / EV_PER_KCAL_PER_MOL,
    "forces in kcal/mol/Å beside energies in eV": EV_PER_KCAL_PER_MOL,
    "energies in kJ/mol beside forces in eV/Å": 1.0 / EV_PER_KJ_PER_MOL,
    "forces in kJ/mol/Å beside energies in eV": EV_PER_KJ_PER_MOL,
    "energies in kcal/mol beside forces in Hartree/Å": EV_PER_HARTREE / EV_PER_KCAL_PER_MOL,
    "energies in kcal/mol beside forces in Hartree/Bohr": EV_PER_HARTREE / ANG_PER_BOHR / EV_PER_KCAL_PER_MOL,
}
STRESS_TO_FORCE = {
    "a stress in GPa": GPA_PER_EV_PER_ANG3,
    "a stress in kbar": 10 * GPA_PER_EV_PER_ANG3,
    "a stress in bar": 1e4 * GPA_PER_EV_PER_ANG3,
    "a stress in Hartree/Bohr³": ANG_PER_BOHR**3 / EV_PER_HARTREE,
}
#: what an energy must be multiplied with
ENERGY_UNITS = {
    "Hartree": EV_PER_HARTREE,
    "Rydberg": EV_PER_HARTREE / 2,
    "kcal/mol": EV_PER_KCAL_PER_MOL,
    "kJ/mol": EV_PER_KJ_PER_MOL,
}


def doubts_about(frames: FrameSet, reference_ev: Mapping[int, float] | None) -> list[str]:
    """What speaks against the units of frames of one file, each a sentence without its subject.

    `reference_ev` holds the energies of free atoms (eV) where they are known independently of the frames.
    """
    sample = _sample(frames)
    doubts = [_doubt_of_distances(sample), _doubt_of_energies(sample, reference_ev)]
    large = [frame for frame in sample if len(frame.numbers) >= LEAST_ATOMS]
    fitted = PairFit.of(large)
    doubts.append(_doubt_of_forces(frames, large, fitted))
    if fitted is not None:
        doubts.append(_doubt_of_stresses(large, fitted))
    return [doubt for doubt in doubts if doubt]


def _sample(frames: FrameSet) -> list[Frame]:
    """Frames spread evenly over the set, few enough for a second of work."""
    small = np.flatnonzero((frames.n_atoms > 1) & (frames.n_atoms <= SAMPLED_ATOMS // 5) & ~frames.has_no_forces)
    chosen: list[Frame] = []
    n_atoms = 0
    for i in small[np.linspace(0, len(small) - 1, min(SAMPLED_FRAMES, len(small))).astype(int)]:
        frame = frames.frame(int(i))
        n_atoms += len(frame.numbers)
        if n_atoms > SAMPLED_ATOMS:
            break
        chosen.append(frame)
    return chosen


def _doubt_of_distances(sample: Sequence[Frame]) -> str:
    ratios = [_nearest_bonds(frame) for frame in sample if len(frame.numbers) > 2]
    ratios = [ratio for ratio in ratios if len(ratio)]
    if not ratios:
        return ""
    typical = float(np.median(np.concatenate(ratios)))
    if typical > LONGEST_BOND:
        right, unit, wrong = typical * ANG_PER_BOHR, "Bohr", "long"
    elif typical < SHORTEST_BOND:
        right, unit, wrong = typical / ANG_PER_BOHR, "Å that were converted once too often", "short"
    else:
        return ""
    guess = f"; in {unit} they would be {right:.2f}" if 0.75 < right < 1.35 else ""
    return f"nearest neighbours are too {wrong} ({typical:.2f} of the sum of covalent radii{guess})"


def _nearest_bonds(frame: Frame) -> Floats:
    first, second, vectors = edges_of(frame, 2 * CUTOFF_ANG)
    numbers = frame.numbers
    noble = np.isin(numbers[first], NOBLE_GASES) | np.isin(numbers[second], NOBLE_GASES)
    radii = COVALENT_RADII_ANG[numbers[first]] + COVALENT_RADII_ANG[numbers[second]]
    ratio = np.where(noble, np.inf, np.linalg.norm(vectors, axis=1) / radii)
    nearest = np.full(len(numbers), np.inf)
    np.minimum.at(nearest, first, ratio)
    found: Floats = nearest[np.isfinite(nearest)]
    return found


def _doubt_of_energies(sample: Sequence[Frame], reference_ev: Mapping[int, float] | None) -> str:
    if reference_ev is None or not sample:
        return ""
    total = np.array([frame.energy_ev / len(frame.numbers) for frame in sample])
    free = np.array([np.mean([reference_ev.get(int(z), np.nan) for z in frame.numbers]) for frame in sample])
    bound = float(np.nanmedian(total - free))
    if not abs(bound) > MAX_BINDING_EV_PER_ATOM:
        return ""
    text = f"energies are {bound:.1f} eV per atom away from those of the free atoms"
    for unit, factor in ENERGY_UNITS.items():
        if abs(float(np.nanmedian(factor * total - free))) < MAX_BINDING_EV_PER_ATOM:
            return f"{text}; times {factor:.4g} they would fit: are they in {unit}?"
    if abs(float(np.median(total))) < MAX_BINDING_EV_PER_ATOM:
        return f"{text}; they fit free atoms of energy 0: have those been subtracted already?"
    return f"{text}: are the free atoms those of the same method?"


def _doubt_of_forces(frames: FrameSet, sample: Sequence[Frame], fitted: PairFit | None) -> str:
    """Energies of equal compositions must change as the forces say."""
    labelled, work = work_between_frames(frames)
    correlation, ratio = _relation(labelled, work)
    if correlation < -LEAST_CORRELATION["sign"] and 0.5 < ratio < 2.0:
        return "energies rise where the forces point: are they gradients (units: {force_sign: -1})?"
    if correlation > LEAST_CORRELATION["work"]:
        return _explained("energies change", ratio, ENERGY_TO_FORCE)
    if fitted is None:
        return ""
    correlation, ratio = _relation(*_energies_of_pairs(sample, fitted))
    if correlation > LEAST_CORRELATION["pair"]:
        return _explained("energies change", ratio, ENERGY_TO_FORCE)
    return ""


def _energies_of_pairs(sample: Sequence[Frame], fitted: PairFit) -> tuple[Floats, Floats]:
    """Energies as labelled and of the pair potential, relative to the mean of their composition."""
    compositions: dict[bytes, list[int]] = {}
    for i, frame in enumerate(sample):
        compositions.setdefault(np.sort(frame.numbers).tobytes(), []).append(i)
    labelled, asked_for = [], []
    for members in compositions.values():
        energies = np.array([sample[i].energy_ev for i in members])
        labelled.append(energies - energies.mean())
        asked_for.append(fitted.energies_ev[members] - fitted.energies_ev[members].mean())
    return np.concatenate(labelled), np.concatenate(asked_for)


def _doubt_of_stresses(sample: Sequence[Frame], fitted: PairFit) -> str:
    """Stresses must change as the forces say; their mean is left to what a pair potential cannot know."""
    labelled, asked_for = np.array([f.stress_ev_per_ang3 for f in sample]), fitted.stresses_ev_per_ang3
    both = np.isfinite(labelled).all(axis=1) & np.isfinite(asked_for).all(axis=1)
    if not both.any():
        return ""
    labelled, asked_for = labelled[both] - labelled[both].mean(axis=0), asked_for[both] - asked_for[both].mean(axis=0)
    correlation, ratio = _relation(labelled.ravel(), asked_for.ravel())
    if abs(correlation) < LEAST_CORRELATION["pair"]:
        return ""
    size = _explained("stresses are", ratio, STRESS_TO_FORCE)
    if correlation > 0:
        return size
    sign = "stresses have the opposite sign of what the forces ask for (units: {stress_sign: -1})"
    return f"{sign}; {size}" if size else sign


def _relation(labelled: Floats, asked_for: Floats) -> tuple[float, float]:
    """Correlation, and how much larger the labels are than what the forces ask for; (0, 1) if that cannot be said."""
    if len(labelled) < LEAST_NUMBER or not labelled.any() or not asked_for.any():
        return 0.0, 1.0
    sizes = float(labelled @ labelled), float(asked_for @ asked_for)
    return float(labelled @ asked_for) / np.sqrt(sizes[0] * sizes[1]), float(np.sqrt(sizes[0] / sizes[1]))


def _explained(what: str, ratio: float, factors: Mapping[str, float]) -> str:
    if 1.0 / TRUSTED_FACTOR < ratio < TRUSTED_FACTOR:
        return ""
    near = [f"{text} ({factor:.4g})" for text, factor in factors.items() if max(ratio / factor, factor / ratio) < NEAR]
    guess = f"; that fits {' or '.join(near)}" if near else ""
    return f"{what} {ratio:.3g} times as much as the forces ask for{guess}"
