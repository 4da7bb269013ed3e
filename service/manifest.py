"""Where the numbers of a job come from, and the digests by which anybody can check that they are still the same.

Written to the job's directory when the job ends. No torch: the API reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from equipot import __version__
from equipot.errors import JobNotFoundError
from equipot.service.artifacts import kept_files
from equipot.service.job_files import JobFiles, write_atomically
from equipot.service.records import JobRecord, utc_now
from equipot.simulation.trajectory import read_request
from equipot.structure import Structure

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def digest_of(structures: Iterable[Structure]) -> str:
    """One sha256 for all structures of a job, in order."""
    return hashlib.sha256("".join(structure.sha256() for structure in structures).encode()).hexdigest()


def input_digest(
    kind: str, model_sha256: str, level_of_theory: str, dtype: str, params: Mapping[str, Any], structures_sha256: str
) -> str:
    """The sha256 of everything that decides the numbers of a job: two jobs with one digest compute the same."""
    what = [kind, model_sha256, level_of_theory, dtype, dict(params), structures_sha256]
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def manifest_of(files: JobFiles, record: JobRecord) -> dict[str, Any]:
    """The manifest of a job as it is now; `files` has digests once the job has ended."""
    request = files.read_request(record.id)
    structures_sha256 = request.get("structures_sha256")
    out: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "job_id": record.id,
        "kind": record.kind,
        "state": record.state.value,
        "model": {"name": record.model, "sha256": record.model_sha256, "level_of_theory": record.level_of_theory},
        "params": record.params,
        "seed": record.params.get("seed"),
        "dtype": record.dtype,
        "device": record.device,
        "attempt": record.attempt,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "extensions": request.get("extensions", []),
        "cached_from": request.get("cached_from"),
        "outcomes": record.outcomes,
        "warnings": [warning.model_dump() for warning in record.warnings],
        "versions": {"equipot": __version__},
        "structures_sha256": structures_sha256,
        "input_sha256": structures_sha256
        and input_digest(
            record.kind,
            record.model_sha256,
            record.level_of_theory,
            record.dtype,
            record.params,
            structures_sha256,
        ),
        "shards": list(_shards(files, record.id, len(request["shards"]))),
        "files": [],
    }
    if record.is_over:
        files.fetch(record.id, often=True)
        out["files"] = [
            {"name": found.name, "role": found.role, "n_bytes": found.n_bytes, "sha256": sha256_of(found.path)}
            for found in kept_files(files, record.id, len(request["shards"]), is_over=True)
        ]
        out["written_at"] = utc_now()
    return out


def write_manifest(files: JobFiles, record: JobRecord) -> dict[str, Any]:
    """Make the manifest of an ended job and keep it in its directory."""
    manifest = manifest_of(files, record)
    write_atomically(files.job(record.id) / MANIFEST, json.dumps(manifest, indent=1), durable=True)
    files.push(record.id, MANIFEST)
    return manifest


def read_manifest(files: JobFiles, record: JobRecord) -> dict[str, Any]:
    """The manifest that was written when the job ended; of a job that has not ended, as it is now."""
    if not record.is_over:
        return manifest_of(files, record)
    with suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads((files.job(record.id) / MANIFEST).read_bytes())
        if kept["finished_at"] == record.finished_at:
            return kept
    return write_manifest(files, record)


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(files: JobFiles, job_id: str, n_shards: int) -> Iterable[dict[str, Any]]:
    """What each part that has begun was computed with."""
    for shard_idx in range(n_shards):
        with suppress(JobNotFoundError):
            request = read_request(files.shard(job_id, shard_idx))
            yield {"shard_idx": shard_idx, "provider": request["provider"], "seeds": request["params"].get("seed")}
