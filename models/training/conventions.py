"""Whose words and units a file speaks: the keys its labels stand under, their units and signs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from equipot.elements import formula
from equipot.models.potential import VOIGT
from equipot.models.training.extxyz import RawFrame
from equipot.models.training.frames import Floats, Frame
from equipot.units import ANG_PER_BOHR, GPA_PER_EV_PER_ANG3

#: CODATA 2014, the set of equipot.units: 1 Hartree in eV; 1 mol of kJ is 1 / 96.48533289 eV for each particle
EV_PER_HARTREE = 27.21138602
EV_PER_KJ_PER_MOL = 1.0 / 96.48533289

EV_PER = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": EV_PER_HARTREE,
    "rydberg": EV_PER_HARTREE / 2,
    "kcal/mol": 4.184 * EV_PER_KJ_PER_MOL,
    "kj/mol": EV_PER_KJ_PER_MOL,
}
ANG_PER = {"å": 1.0, "bohr": ANG_PER_BOHR, "nm": 10.0}
EV_PER_ANG3_PER = {
    "ev/å3": 1.0,
    "gpa": 1.0 / GPA_PER_EV_PER_ANG3,
    "kbar": 0.1 / GPA_PER_EV_PER_ANG3,
    "bar": 1e-4 / GPA_PER_EV_PER_ANG3,
    "hartree/bohr3": EV_PER_HARTREE / ANG_PER_BOHR**3,
}
#: where labels are looked for, in this order and in any case, unless a configuration names the key
ENERGY_KEYS = ("ref_energy", "dft_energy", "energy", "free_energy", "total_energy", "potential_energy")
FORCES_KEYS = ("ref_forces", "dft_forces", "forces", "ref_force", "dft_force", "force")
STRESS_KEYS = ("ref_stress", "dft_stress", "stress")
VIRIAL_KEYS = ("ref_virial", "dft_virial", "virial", "ref_virials", "virials")
ASE_ORDER = "xx yy zz yz xz xy"
MAX_CHARGE_E = 100


class Convention(BaseModel):
    """Base: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Keys(Convention):
    """Under which keys a file has its labels; None looks for the usual ones and says which was taken."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None
    config_type: str = "config_type"
    charge: str = Field("charge", description="total charge of a frame in e, a whole number; without it 0")


def _factor(unit: str, units: dict[str, float]) -> float:
    """The size of a unit, however it is written: eV/Å3, ev/ang^3."""
    name = unit.lower().replace("^", "").replace("angstrom", "å").replace("ang", "å")
    if name not in units:
        raise ValueError(f"there is no unit {unit!r}; known are {', '.join(units)}")
    return units[name]


def _known(units: dict[str, float]) -> AfterValidator:
    def check(unit: str) -> str:
        _factor(unit, units)
        return unit

    return AfterValidator(check)


def _stress_order(text: str) -> str:
    words = ["".join(sorted(word)) for word in text.lower().split()]
    if sorted(words) != sorted(ASE_ORDER.split()):
        raise ValueError(f"the order of a stress names six components, as in {ASE_ORDER!r}")
    return " ".join(words)


class Units(Convention):
    """Units and signs of a file's numbers."""

    energy: Annotated[str, _known(EV_PER)] = "eV"
    length: Annotated[str, _known(ANG_PER)] = Field("Å", description="of positions, cells and, below, of forces")
    force_energy: Annotated[str, _known(EV_PER)] | None = Field(None, description="energy in forces; None: as energy")
    force_length: Annotated[str, _known(ANG_PER)] | None = Field(None, description="length in forces; None: as length")
    force_sign: Literal[1, -1] = Field(1, description="-1 if the file has gradients")
    stress: Annotated[str, _known(EV_PER_ANG3_PER)] = "eV/Å3"
    stress_sign: Literal[1, -1] = Field(1, description="1 is ASE's: stretched is positive; -1 is that of a pressure")
    stress_order: Annotated[str, AfterValidator(_stress_order)] = Field(ASE_ORDER, description="of six components")

    @property
    def ev(self) -> float:
        """eV in a unit of energy."""
        return _factor(self.energy, EV_PER)

    @property
    def ang(self) -> float:
        """Å in a unit of length."""
        return _factor(self.length, ANG_PER)

    @property
    def ev_per_ang(self) -> float:
        """eV/Å in a unit of force, with its sign."""
        energy, length = self.force_energy or self.energy, self.force_length or self.length
        return self.force_sign * _factor(energy, EV_PER) / _factor(length, ANG_PER)

    @property
    def ev_per_ang3(self) -> float:
        """eV/Å³ in a unit of stress, with its sign."""
        return self.stress_sign * _factor(self.stress, EV_PER_ANG3_PER)


class Labels(Convention):
    """The keys that one file's labels were found under; None where there are none."""

    energy: str | None
    forces: str | None
    stress: str | None
    virial: str | None
    config_type: str
    charge: str
    passed_over: list[str] = []

    @classmethod
    def found(cls, keys: Keys, present: Iterable[str]) -> Labels:
        """Choose among the keys that occur anywhere in a file."""
        by_lower = {name.lower(): name for name in sorted(present)}
        passed_over: list[str] = []

        def choose(given: str | None, usual: tuple[str, ...]) -> str | None:
            if given is not None:
                return given
            there = [by_lower[name] for name in usual if name in by_lower]
            passed_over.extend(there[1:])
            return there[0] if there else None

        return cls(
            energy=choose(keys.energy, ENERGY_KEYS),
            forces=choose(keys.forces, FORCES_KEYS),
            stress=choose(keys.stress, STRESS_KEYS),
            virial=choose(keys.virial, VIRIAL_KEYS),
            config_type=keys.config_type,
            charge=keys.charge,
            passed_over=passed_over,
        )

    @property
    def sentence(self) -> str:
        """What is read from where."""
        parts = [
            f"{what} from {key}"
            for what in ("energy", "forces", "stress", "virial")
            if (key := getattr(self, what)) is not None
        ]
        over = f"; {', '.join(self.passed_over)} not used" if self.passed_over else ""
        return ", ".join(parts) + over


def frame_in_ev_and_ang(raw: RawFrame, labels: Labels, units: Units) -> Frame:
    """A frame as it is trained on. Missing forces and stresses are NaN; ValueError says what is wrong."""

    def value(key: str | None) -> Any:
        return None if key is None else raw.info.get(key, raw.arrays.get(key))

    n_atoms = len(raw.numbers)
    energy = value(labels.energy)
    if energy is None:
        raise ValueError(f"has no energy (looked for {labels.energy or ', '.join(ENERGY_KEYS)})")
    forces = value(labels.forces)
    cell = raw.cell * units.ang
    return Frame(
        numbers=raw.numbers,
        positions_ang=np.asarray(raw.positions, dtype=np.float64).reshape(n_atoms, 3) * units.ang,
        forces_ev_per_ang=_array(forces, (n_atoms, 3), "forces") * units.ev_per_ang,
        energy_ev=float(_array(energy, (), "energy")) * units.ev,
        cell_ang=cell,
        pbc=raw.pbc,
        stress_ev_per_ang3=_stress(value(labels.stress), value(labels.virial), cell, units),
        config_type=str(raw.info.get(labels.config_type, "unknown")),
        group=str(raw.info.get("group") or "") or formula(raw.numbers),
        charge=_charge(raw.info.get(labels.charge, 0)),
    )


def _charge(given: Any) -> int:
    try:
        charge = float(given)
    except (ValueError, TypeError):
        raise ValueError(f"has a charge that is not a number: {given!r}") from None
    if not charge.is_integer() or abs(charge) > MAX_CHARGE_E:
        raise ValueError(f"has a charge of {charge:g} e, not a whole number up to {MAX_CHARGE_E}")
    return int(charge)


def _stress(stress: Any, virial: Any, cell_ang: Floats, units: Units) -> Floats:
    """(6,) in ASE's sign and order. A virial is minus the stress times the volume, as QUIP and MACE write it."""
    if stress is not None:
        return _voigt(stress, "stress", units.stress_order) * units.ev_per_ang3
    if virial is None:
        return np.full(6, np.nan)
    volume = abs(float(np.linalg.det(cell_ang)))
    if volume < 1e-3:
        raise ValueError("has a virial but no cell")
    return -_voigt(virial, "virial", units.stress_order) * units.ev / volume


def _voigt(given: Any, what: str, order: str) -> Floats:
    values = np.asarray(given, dtype=np.float64)
    if values.size == 9:
        matrix = values.reshape(3, 3)
        matrix = 0.5 * (matrix + matrix.T)
        return np.array([matrix[component] for component in VOIGT])
    flat = _array(given, (6,), what)
    places = order.split()
    return np.array([flat[places.index(component)] for component in ASE_ORDER.split()])


def _array(given: Any, shape: tuple[int, ...], what: str) -> Floats:
    if given is None:
        return np.full(shape, np.nan)
    try:
        values = np.asarray(given, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"has {what} that are not numbers") from None
    if values.size != int(np.prod(shape)):
        raise ValueError(f"has {what} of shape {values.shape}, not {shape}")
    return values.reshape(shape)
