"""The shapes of what the API takes and gives, for its OpenAPI description, with an example of each kind of job."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from equipot.params import JOB_REQUEST
from equipot.service.records import JobRecord, JobWarning

REF = "#/components/schemas/{model}"


class Schema(BaseModel):
    """Base of the shapes of answers."""

    model_config = ConfigDict(extra="allow")


class ProblemEntry(Schema):
    """One culprit."""

    pointer: str = Field(description="JSON pointer into the body, or `query:name`, `header:name`, `path:name`")
    code: str
    message: str
    hint: str


class Problem(Schema):
    """What every error looks like (RFC 9457)."""

    type: str = Field(description="stable, `/problems/<code>`; open it to read what it means")
    title: str
    status: int
    detail: str
    instance: str
    hint: str
    errors: list[ProblemEntry]
    request_id: str


class StructureSchema(Schema):
    """A structure. Lengths in Å, velocities in Å/fs, masses in u, charge in e. `pbc` is required beside a cell."""

    model_config = ConfigDict(extra="forbid")

    numbers: list[int] | None = Field(None, description="atomic numbers; or give symbols")
    symbols: list[str] | None = Field(None, description="element symbols; or give numbers")
    positions: list[list[float]]
    cell: list[list[float]] | None = None
    pbc: list[bool] = [False, False, False]
    velocities: list[list[float]] | None = None
    masses: list[float] | None = None
    charge: float | None = None
    spin_multiplicity: int | None = None
    fixed_atoms: list[int] | None = None
    info: dict[str, Any] | None = None


class JobList(Schema):
    items: list[JobRecord]
    next_page_token: str


class Estimate(Schema):
    """What a valid request would cost."""

    valid: bool
    kind: str
    model: str
    model_sha256: str
    params: dict[str, Any]
    n_systems: int
    n_atoms: int
    n_edges: int
    queue_position: int
    warnings: list[JobWarning]


class SystemResult(Schema):
    """What became of one system. Energies in eV, forces in eV/Å, stress in eV/Å³ with ASE's sign."""

    system_idx: int
    outcome: str


class EvaluationItem(Schema):
    """Numbers of one structure, in eV and Å with ASE's signs, or the problem that kept them from being computed."""

    energy_ev: float | None = None
    energies_ev: list[float] | None = None
    forces_ev_per_ang: list[list[float]] | None = None
    stress_ev_per_ang3: list[float] | None = Field(None, description="xx, yy, zz, yz, xz, xy; of crystals only")
    domain_distance: float | None = Field(None, description="above 1: outside the training data")
    uncertainty_ev_per_ang: float | None = Field(None, description="largest expected error of a force, if calibrated")
    error: Problem | None = None


class EvaluationList(Schema):
    model: str
    model_sha256: str
    level_of_theory: str
    dtype: str
    device: str
    items: list[EvaluationItem]


class SystemList(Schema):
    items: list[SystemResult]
    next_page_token: str


class ThermoTable(Schema):
    """Rows of the time series; units are in the names."""

    items: list[dict[str, Any]]


class UploadedStructure(Schema):
    """A file that was read. `structure_ids` has every structure in it, `structure` shows the first."""

    structure_id: str
    structure: StructureSchema
    structure_ids: list[str]
    n_atoms: int
    formula: str
    warnings: list[str]


class StoredStructure(Schema):
    structure_id: str
    structure: StructureSchema


class ModelSummary(Schema):
    name: str
    aliases: list[str]
    elements: list[str]
    cutoff_ang: float
    level_of_theory: str
    sha256: str


class ModelList(Schema):
    items: list[ModelSummary]
    next_page_token: str


class Limits(Schema):
    max_body_bytes: int
    max_atoms: int
    max_structures: int
    max_queued_jobs: int


class WorkerList(Schema):
    items: list[dict[str, Any]]
    next_page_token: str


class Health(Schema):
    status: str


WATER = {
    "symbols": ["O", "H", "H"],
    "positions": [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]],
}
SILICON = {
    "symbols": ["Si", "Si"],
    "positions": [[0.0, 0.0, 0.0], [1.3575, 1.3575, 1.3575]],
    "cell": [[0.0, 2.715, 2.715], [2.715, 0.0, 2.715], [2.715, 2.715, 0.0]],
    "pbc": [True, True, True],
}
JOB_EXAMPLES: dict[str, Any] = {
    "singlepoint": {
        "summary": "Energy, forces and stress of a crystal",
        "value": {"kind": "singlepoint", "model": "elements", "structures": [SILICON]},
    },
    "relax": {
        "summary": "Relax a molecule",
        "value": {
            "kind": "relax",
            "model": "organic",
            "structures": [WATER],
            "params": {"fmax_ev_per_ang": 0.01},
            "tags": ["first-try"],
        },
    },
    "md": {
        "summary": "One picosecond of molecular dynamics at 300 K",
        "value": {
            "kind": "md",
            "model": "organic",
            "structures": [WATER],
            "params": {"ensemble": "nvt", "temperature_k": 300, "duration_ps": 1.0, "seed": 1},
        },
    },
    "from_text": {
        "summary": "Relax the structure in a file",
        "value": {
            "kind": "relax",
            "model": "organic",
            "structures": [{"format": "xyz", "text": "2\n\nH 0 0 0\nH 0 0 0.8\n"}],
        },
    },
}


def job_request_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON schema of the body of `POST /v1/jobs` and the definitions it refers to."""
    schema = JOB_REQUEST.json_schema(ref_template=REF)
    definitions = schema.pop("$defs")
    entry = {
        "anyOf": [
            {"$ref": REF.format(model="StructureSchema")},
            {
                "type": "object",
                "properties": {"structure_id": {"type": "string"}},
                "required": ["structure_id"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"format": {"type": "string"}, "text": {"type": "string"}},
                "required": ["format", "text"],
                "additionalProperties": False,
            },
        ]
    }
    for name in ("SinglepointJob", "RelaxJob", "MDJob"):
        definitions[name]["properties"]["structures"]["items"] = entry
    definitions["StructureSchema"] = StructureSchema.model_json_schema(ref_template=REF)
    return schema, definitions
