"""What a run can be asked to do: one definition for Python, the command line and HTTP.

Every field says its unit in its name; `*_every` counts steps. Unknown fields are refused. The values are frozen:
`resolved` gives a new object in which nothing is left to default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from equipot.errors import Culprit, InvalidParameterError

JobKind = Literal["singlepoint", "relax", "md"]
Dtype = Literal["float64", "float32"]
Device = Literal["auto", "cpu", "cuda"]
GuardPolicy = Literal["ignore", "warn", "stop"]

TrajectoryDtype = Literal["float64", "float32"]

TIMESTEP_WITH_HYDROGEN_FS = 0.5
TIMESTEP_WITHOUT_HYDROGEN_FS = 2.0
LARGEST_TIMESTEP_FS = 10.0
MOST_STEPS = 1_000_000_000
MOST_SYSTEMS_WITH_ALL_FRAMES = 16  # more keep their first and last frame unless `save_every` is given
RELAX_SAVE_EVERY = 1
MD_SAVE_EVERY = 100


class Params(BaseModel):
    """Base of every parameter object: frozen, finite, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Guard(Params):
    """A limit and what to do when a system crosses it."""

    limit: float
    policy: GuardPolicy = "stop"


class Guards(Params):
    """Limits watched while a system runs. Energies and forces that are not finite always stop a system."""

    max_force_ev_per_ang: Guard | None = Field(None, description="largest force on any atom, eV/Å")
    max_temperature_k: Guard | None = Field(None, description="kinetic temperature, K (md only)")
    min_distance_ang: Guard | None = Field(None, description="smallest distance between two atoms, Å")
    max_drift_ev_per_atom: Guard | None = Field(
        None, description="change of the conserved quantity since the start, eV/atom (md only)"
    )
    max_displacement_ang: Guard | None = Field(None, description="way of any atom from where it started, Å")
    max_uncertainty_ev_per_ang: Guard | None = Field(
        None, description="largest expected error of a force on any atom, eV/Å (potentials that were calibrated)"
    )
    max_domain_distance: Guard | None = Field(
        None, description="how far outside the training data; 1 is the border (potentials that can tell)"
    )


class SinglepointParams(Params):
    """A single point has nothing to set."""

    def resolved(self, numbers: Sequence[np.ndarray]) -> Self:
        """The same object: there is nothing to resolve."""
        return self


class RelaxParams(Params):
    """How to relax: downhill until the largest force on a free atom, and on the cell if it moves, is small."""

    fmax_ev_per_ang: float = Field(0.05, gt=0, le=10, description="stop when every force is below this, eV/Å")
    max_steps: int = Field(500, ge=0, le=1_000_000, description="give up after this many steps")
    optimizer: Literal["fire", "lbfgs"] = Field("fire", description="the minimiser")
    max_step_ang: float = Field(
        0.2, gt=0, le=1, description="longest move in one step, Å: of the whole system (fire), of an atom (lbfgs)"
    )
    cell_filter: Literal["none", "frechet", "unit_cell"] = Field(
        "none", description="what the cell may do: stay fixed, or relax too by the exponential map or linearly"
    )
    pressure_gpa: float = Field(0.0, ge=-1000, le=1000, description="target pressure of a cell that relaxes, GPa")
    cell_mask: Annotated[list[bool], Field(min_length=6, max_length=6)] | None = Field(
        None, description="which strains may change: xx, yy, zz, yz, xz, xy; all if absent"
    )
    hydrostatic: bool = Field(False, description="let the cell grow and shrink only, keeping its shape")
    constant_volume: bool = Field(False, description="let the cell change its shape only, keeping its volume")
    fix_symmetry: bool = Field(False, description="keep the space group that the structure has at the start")
    symmetry_tolerance_ang: float = Field(
        0.01, gt=0, le=1, description="how far atoms may be off a symmetric place, Å (for fix_symmetry)"
    )
    save_every: int | None = Field(
        None,
        ge=1,
        description=f"steps between saved frames beside the first and the last; if absent {RELAX_SAVE_EVERY}, "
        f"or none between them for more than {MOST_SYSTEMS_WITH_ALL_FRAMES} systems",
    )
    checkpoint_every_s: float = Field(10.0, gt=0, description="seconds between checkpoints")
    trajectory_dtype: TrajectoryDtype = Field("float64", description="precision of the arrays in saved frames")
    guards: Guards = Guards()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cell_filter == "none":
            for field in ("pressure_gpa", "cell_mask", "hydrostatic", "constant_volume"):
                if getattr(self, field):
                    raise _inconsistent(
                        field, "the cell stays fixed", "Set cell_filter to frechet or unit_cell, or leave this out."
                    )
        if self.cell_mask is not None and not any(self.cell_mask):
            raise _inconsistent("cell_mask", "nothing may change", "Set cell_filter to none to keep the cell.")
        if self.hydrostatic and self.cell_mask is not None and not all(self.cell_mask):
            raise _inconsistent("cell_mask", "hydrostatic changes all lengths at once", "Choose one of the two.")
        if self.constant_volume and self.cell_mask is not None and sum(self.cell_mask) == sum(self.cell_mask[:3]) == 1:
            raise _inconsistent("cell_mask", "one length cannot change at constant volume", "Choose one of the two.")
        if self.hydrostatic and self.constant_volume:
            raise _inconsistent("constant_volume", "hydrostatic leaves nothing to change", "Choose one of the two.")
        if self.constant_volume and self.pressure_gpa:
            raise _inconsistent("pressure_gpa", "the volume is constant", "Leave out the pressure or constant_volume.")
        return self

    def resolved(self, numbers: Sequence[np.ndarray]) -> Self:
        """The parameters with every default filled in, for a job of systems of these atomic numbers."""
        save_every = self.save_every or _save_every(RELAX_SAVE_EVERY, self.max_steps, len(numbers))
        return self.model_copy(update={"save_every": save_every})


def _save_every(default: int, n_steps: int, n_systems: int) -> int:
    """A job of many systems keeps first and last frames only: nobody looks at the rest, and they fill disks."""
    return default if n_systems <= MOST_SYSTEMS_WITH_ALL_FRAMES else max(1, n_steps)


class LangevinThermostat(Params):
    """Langevin dynamics in the BAOAB splitting (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013)."""

    type: Literal["langevin"] = "langevin"
    friction_per_fs: float = Field(0.01, gt=0, le=10, description="friction γ, 1/fs")


class NoseHooverThermostat(Params):
    """A chain of Nosé-Hoover thermostats (Martyna, Klein, Tuckerman, J. Chem. Phys. 97, 2635, 1992)."""

    type: Literal["nose_hoover"]
    tdamp_fs: float = Field(
        100.0, gt=0, le=1e6, description="characteristic time of the chain, fs; its first mass is 3N kT tdamp²"
    )
    chain_length: int = Field(3, ge=1, le=10, description="thermostats in the chain")


class BussiThermostat(Params):
    """Stochastic velocity rescaling (Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101, 2007)."""

    type: Literal["bussi"]
    tau_fs: float = Field(100.0, gt=0, le=1e6, description="relaxation time of the kinetic energy, fs")


class TemperaturePoint(Params):
    """A corner of a temperature ramp."""

    time_ps: float = Field(ge=0, description="time since the start, ps")
    temperature_k: float = Field(ge=0, le=100_000, description="temperature then, K")


class PressurePoint(Params):
    """A corner of a pressure ramp."""

    time_ps: float = Field(ge=0, description="time since the start, ps")
    pressure_gpa: float = Field(ge=-1000, le=1000, description="pressure then, GPa")


class MTKBarostat(Params):
    """The barostat of Martyna, Tobias and Klein (J. Chem. Phys. 101, 4177, 1994)."""

    type: Literal["mtk"] = "mtk"
    pressure_gpa: Annotated[float, Field(ge=-1000, le=1000)] | list[PressurePoint] = Field(
        0.0, description="pressure, GPa: a number, or a ramp [{time_ps, pressure_gpa}, ...]"
    )
    pdamp_fs: float = Field(
        1000.0, gt=0, le=1e7, description="characteristic time of the cell, fs; its mass is 3(N + 1) kT pdamp²"
    )
    isotropic: bool = Field(True, description="the cell keeps its shape; false: it may change all six ways")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_ramp("pressure_gpa", self.pressure_gpa)
        return self


def _with_type(thermostat: Any) -> Any:
    """What does not say its type is a Langevin thermostat."""
    return {"type": "langevin", **thermostat} if isinstance(thermostat, Mapping) else thermostat


Thermostat = Annotated[
    LangevinThermostat | NoseHooverThermostat | BussiThermostat,
    Field(discriminator="type"),
    BeforeValidator(_with_type),
]


class MDParams(Params):
    """How to run molecular dynamics. Give exactly one of `n_steps` and `duration_ps`."""

    ensemble: Literal["nve", "nvt", "npt"] = Field(
        "nvt", description="nve: constant energy; nvt: with a thermostat; npt: with a thermostat and a barostat"
    )
    timestep_fs: float | None = Field(
        None, gt=0, description="time step, fs; if absent 0.5 when there is hydrogen, else 2"
    )
    n_steps: int | None = Field(None, ge=0, le=MOST_STEPS, description="number of steps")
    duration_ps: float | None = Field(None, ge=0, description="simulated time, ps, instead of n_steps")
    temperature_k: Annotated[float, Field(ge=0, le=100_000)] | list[TemperaturePoint] = Field(
        300.0,
        description="temperature, K: a number, or a ramp [{time_ps, temperature_k}, ...]; in nve it sets the start "
        "velocities only",
    )
    thermostat: Thermostat | None = Field(
        None, description='nvt and npt: {"type": "langevin", "nose_hoover" or "bussi", ...}; langevin if absent'
    )
    barostat: MTKBarostat | None = Field(None, description="npt only; mtk at 0 GPa if absent")
    velocities: Literal["maxwell_boltzmann", "given", "zero"] = Field(
        "maxwell_boltzmann", description="start velocities: drawn at temperature_k, those of the structure, or none"
    )
    remove_com: bool = Field(True, description="take out the drift of the centre of mass from the start velocities")
    remove_rotation: bool = Field(False, description="take out the rotation too (not for periodic systems)")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(
        None, description="one integer for every system, or one for each; drawn and recorded if absent"
    )
    save_every: int | None = Field(
        None,
        ge=1,
        description=f"steps between saved frames beside the first and the last; if absent {MD_SAVE_EVERY}, "
        f"or none between them for more than {MOST_SYSTEMS_WITH_ALL_FRAMES} systems",
    )
    thermo_every: int = Field(10, ge=1, description="steps between rows of the thermo table")
    checkpoint_every_s: float = Field(10.0, gt=0, description="seconds between checkpoints")
    trajectory_dtype: TrajectoryDtype = Field("float64", description="precision of the arrays in saved frames")
    allow_large_timestep: bool = Field(False, description=f"allow time steps above {LARGEST_TIMESTEP_FS:g} fs")
    guards: Guards = Guards(max_force_ev_per_ang=Guard(limit=1000.0))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_steps is None and self.duration_ps is None:
            raise _inconsistent("", "n_steps or duration_ps is missing", "Give exactly one of n_steps and duration_ps.")
        if self.n_steps is not None and self.duration_ps is not None:
            raise _inconsistent("duration_ps", "n_steps is given too", "Give exactly one of n_steps and duration_ps.")
        if (self.timestep_fs or 0.0) > LARGEST_TIMESTEP_FS and not self.allow_large_timestep:
            raise _inconsistent(
                "timestep_fs",
                f"{self.timestep_fs:g} fs is above {LARGEST_TIMESTEP_FS:g} fs",
                "Set allow_large_timestep if that is meant.",
            )
        if self.ensemble == "nve" and self.thermostat is not None:
            raise _inconsistent("thermostat", "nve has no thermostat", "Leave it out or choose ensemble nvt.")
        if self.ensemble != "npt" and self.barostat is not None:
            raise _inconsistent("barostat", f"{self.ensemble} has no barostat", "Leave it out or choose ensemble npt.")
        _check_ramp("temperature_k", self.temperature_k)
        if self.ensemble == "nve" and not isinstance(self.temperature_k, float):
            raise _inconsistent("temperature_k", "nve cannot follow a ramp", "Give one number, or choose ensemble nvt.")
        chained = self.thermostat is not None and self.thermostat.type == "nose_hoover"
        if (chained or self.ensemble == "npt") and self.highest_temperature_k == 0.0:
            what = "a barostat" if self.ensemble == "npt" else "a nose_hoover thermostat"
            raise _inconsistent(
                "temperature_k",
                f"{what} takes its mass from the temperature, and it is 0 K",
                "Give a temperature above 0 K; to cool to rest, use ensemble nvt with a langevin thermostat.",
            )
        return self

    @property
    def highest_temperature_k(self) -> float:
        """The temperature, or the highest of the ramp."""
        if isinstance(self.temperature_k, list):
            return max((point.temperature_k for point in self.temperature_k), default=0.0)
        return self.temperature_k

    def temperature_at_k(self, time_fs: float) -> float:
        """The temperature asked for at a time: on a ramp straight lines between its corners, flat outside."""
        if isinstance(self.temperature_k, list):
            times = [point.time_ps for point in self.temperature_k]
            return float(np.interp(time_fs / 1000.0, times, [point.temperature_k for point in self.temperature_k]))
        return self.temperature_k

    def pressure_at_gpa(self, time_fs: float) -> float:
        """The pressure asked for at a time, as for the temperature; 0 without a barostat."""
        pressure = self.barostat.pressure_gpa if self.barostat else 0.0
        if isinstance(pressure, list):
            times = [point.time_ps for point in pressure]
            return float(np.interp(time_fs / 1000.0, times, [point.pressure_gpa for point in pressure]))
        return pressure

    def resolved(self, numbers: Sequence[np.ndarray]) -> Self:
        """The parameters with every default filled in, for systems of these atomic numbers.

        A seed is drawn here if none was given, so a resolved object describes one run exactly.
        """
        has_hydrogen = any(bool(np.any(z == 1)) for z in numbers)
        timestep_fs = self.timestep_fs or (TIMESTEP_WITH_HYDROGEN_FS if has_hydrogen else TIMESTEP_WITHOUT_HYDROGEN_FS)
        n_steps = self.n_steps
        if n_steps is None:
            assert self.duration_ps is not None
            n_steps = _n_steps(self.duration_ps, timestep_fs)
        if isinstance(self.seed, list) and len(self.seed) != len(numbers):
            raise InvalidParameterError(
                f"seed has {len(self.seed)} entries for {len(numbers)} structures.",
                pointer="/seed",
                hint="Give one integer, or one for each structure.",
            )
        seed = self.seed if self.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        thermostat = self.thermostat or (None if self.ensemble == "nve" else LangevinThermostat())
        barostat = self.barostat or (MTKBarostat() if self.ensemble == "npt" else None)
        self._refuse_ramp_beyond(n_steps * timestep_fs / 1000.0)
        return self.model_copy(
            update={
                "timestep_fs": timestep_fs,
                "n_steps": n_steps,
                "duration_ps": None,
                "seed": seed,
                "thermostat": thermostat,
                "barostat": barostat,
                "save_every": self.save_every or _save_every(MD_SAVE_EVERY, n_steps, len(numbers)),
            }
        )

    def _refuse_ramp_beyond(self, end_ps: float) -> None:
        pressure = self.barostat.pressure_gpa if self.barostat else 0.0
        for pointer, ramp in (("/temperature_k", self.temperature_k), ("/barostat/pressure_gpa", pressure)):
            if isinstance(ramp, list) and ramp[-1].time_ps > end_ps * (1.0 + 1e-9):
                raise InvalidParameterError(
                    f"The ramp goes on to {ramp[-1].time_ps:g} ps, beyond the end of the run at {end_ps:g} ps.",
                    pointer=f"{pointer}/{len(ramp) - 1}/time_ps",
                    hint="Run for longer, or end the ramp earlier.",
                )


def _check_ramp(field: str, ramp: float | Sequence[TemperaturePoint] | Sequence[PressurePoint]) -> None:
    """At least two corners, one after the other."""
    if isinstance(ramp, float):
        return
    times = [point.time_ps for point in ramp]
    if len(times) < 2 or times[0] != 0.0 or any(b <= a for a, b in pairwise(times)):
        raise _inconsistent(
            field,
            "a ramp has at least two points, the first at time_ps 0, each later than the one before",
            'As in [{"time_ps": 0, ...}, {"time_ps": 10, ...}].',
        )


def _n_steps(duration_ps: float, timestep_fs: float) -> int:
    """The steps in a simulated time. Raises InvalidParameterError if they are too many."""
    n_steps = duration_ps * 1000.0 / timestep_fs
    if n_steps > MOST_STEPS:
        raise InvalidParameterError(
            f"{duration_ps:g} ps are {n_steps:g} steps of {timestep_fs:g} fs; at most {MOST_STEPS:g} are accepted.",
            pointer="/duration_ps",
            hint="Simulate for less time.",
        )
    return round(n_steps)


def _inconsistent(field: str, message: str, hint: str) -> PydanticCustomError:
    """The complaint about a field ("" for none) that does not fit the others."""
    return PydanticCustomError("inconsistent", "{message}", {"field": field, "message": message, "hint": hint})


AnyParams = SinglepointParams | RelaxParams | MDParams
PARAMS_OF_KIND: dict[str, type[SinglepointParams] | type[RelaxParams] | type[MDParams]] = {
    "singlepoint": SinglepointParams,
    "relax": RelaxParams,
    "md": MDParams,
}


class JobFields(Params):
    """What every job says beside its kind and parameters."""

    model: str = Field("organic", min_length=1, max_length=100, description="a registry name, see /v1/models")
    structures: list[dict[str, Any]] = Field(
        min_length=1, max_length=10_000, description='structures as JSON, {"structure_id"} or {"format", "text"}'
    )
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        [], max_length=32, description="up to 32 words to find the job by, each of at most 64 characters"
    )
    name: str = Field("", max_length=200, description="what you call the job, at most 200 characters")
    priority: int = Field(0, ge=-10, le=10, description="from -10 to 10; larger goes first")
    dtype: Dtype = Field("float64", description="the precision of the potential")
    device: Device = Field("auto", description="where to compute")
    max_wall_time_s: float | None = Field(None, gt=0, description="end the job after this much running time")
    level_of_theory: str | None = Field(
        None, max_length=100, description="one that the model was trained on, if absent its first; see /v1/models"
    )


class SinglepointJob(JobFields):
    kind: Literal["singlepoint"]
    params: SinglepointParams = SinglepointParams()


class RelaxJob(JobFields):
    kind: Literal["relax"]
    params: RelaxParams = RelaxParams()


class MDJob(JobFields):
    kind: Literal["md"]
    params: MDParams = Field(description="an object with at least n_steps or duration_ps")


JobRequest = Annotated[SinglepointJob | RelaxJob | MDJob, Field(discriminator="kind")]
JOB_OF_KIND: dict[str, type[JobFields]] = {"singlepoint": SinglepointJob, "relax": RelaxJob, "md": MDJob}
JOB_REQUEST: TypeAdapter[SinglepointJob | RelaxJob | MDJob] = TypeAdapter(JobRequest)


def parse_params(kind: JobKind, given: Mapping[str, Any]) -> AnyParams:
    """The parameters of a run of this kind.

    Raises InvalidParameterError with a JSON pointer to each culprit.
    """
    try:
        return PARAMS_OF_KIND[kind].model_validate(dict(given))
    except ValidationError as error:
        raise invalid_parameters(error, known=PARAMS_OF_KIND[kind]) from error


def invalid_parameters(
    error: ValidationError, known: type[BaseModel] | None = None, prefix: str = ""
) -> InvalidParameterError:
    """A pydantic error in our words: a pointer and a hint for each culprit, never the value itself."""
    culprits: dict[str, Culprit] = {}  # of the members of a union, the first that complains
    for item in error.errors(include_url=False, include_input=False):
        culprit = _culprit(item, known, prefix)
        culprits.setdefault(culprit.pointer, culprit)
    for pointer in list(culprits):  # a list was meant if something in it is wrong, and not the other kinds of value
        if any(other.startswith(f"{pointer}/") for other in culprits):
            del culprits[pointer]
    first = next(iter(culprits.values()))
    where = first.pointer.lstrip("/").replace("/", ".")
    detail = f"{where}: {first.message}" if where else first.message
    if len(culprits) > 1:
        detail += f" (and {len(culprits) - 1} more)"
    return InvalidParameterError(detail, hint=first.hint, culprits=culprits.values())


def _culprit(item: ErrorDetails, known: type[BaseModel] | None, prefix: str) -> Culprit:
    """One complaint of pydantic: where it is in the request, and what belongs there."""
    *place, last = item["loc"] or ("",)
    unknown = item["type"] == "extra_forbidden"
    if place and place[0] in PARAMS_OF_KIND:
        place = place[1:]  # the tag that chose the kind of job
    place = [part for part in (*place, *([] if unknown else [last])) if isinstance(part, int) or part.isidentifier()]
    place, model, description = _described(known, place)
    context = item.get("ctx", {})
    message, hint = item["msg"].removeprefix("Value error, "), str(context.get("hint", description))
    if unknown:
        place.append(last)
        message = f"unknown parameter {last!r}"
        hint = "Known here: " + ", ".join(model.model_fields) + "." if model else ""
    if context.get("field"):
        place.append(context["field"])
    return Culprit(prefix + "".join(f"/{_escaped(part)}" for part in place if part != ""), message, hint)


def _described(
    model: type[BaseModel] | None, place: Sequence[int | str]
) -> tuple[list[int | str], type[BaseModel] | None, str]:
    """A place within `model` without the tags that chose between kinds of objects, the model there, if there is one,
    and what its field is described as."""
    models, description = [model] if model else [], ""
    kept: list[int | str] = []
    for part in place:
        field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
        tagged = [m for m in models if "type" in m.model_fields and part in get_args(m.model_fields["type"].annotation)]
        if isinstance(part, str) and field is None and tagged:
            models = tagged
            continue
        kept.append(part)
        if isinstance(part, str):
            models = _models_in(field.annotation) if field else []
            description = (field.description or "") if field else ""
    return kept, models[0] if models else None, f"What belongs here: {description}." if description else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _escaped(part: int | str) -> str:
    """A step of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")
