"""The files of a job: listed, and fetched whole or in part."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import Response

from equipot.service.api.context import Job, Services, Use, finite, json_response
from equipot.service.api.downloads import Selection, Trajectory, thermo_chunks, thermo_rows
from equipot.service.api.ranges import file_response
from equipot.service.api.schemas import ArtifactList
from equipot.service.artifacts import EXPORTS, MEDIA_TYPES, KeptFile, kept_files, state_tag
from equipot.service.manifest import MANIFEST, read_manifest
from equipot.service.records import JobRecord, utc_text

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["results"])

LARGEST_EXPORT_PAGE = 1000
Name = Annotated[str, Path(max_length=100, description="as the list has it")]
CONTENT: dict[str, Any] = {kind.partition(";")[0]: {} for kind in (*EXPORTS.values(), *MEDIA_TYPES.values())}
FILE = {"content": CONTENT, "description": "the file, or the part asked for by Range"}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: FILE,
    206: FILE,
    304: {"description": "what you have (If-None-Match) is the file"},
}


@router.get("", responses={200: {"model": ArtifactList}})
def list_artifacts(request: Request, use: Use, job: Job) -> Response:
    """The files that can be fetched now. Exports have no size and digest before they are first fetched.

    While the job runs, files that grow are given up to the last checkpoint. `signed_url` works without an API key
    until `signed_url_expires_at`.
    """
    items = [_item(use, job, found.name, found.role, found.n_bytes, sha256) for found, sha256 in _kept(use, job)]
    if job.is_over:
        path = use.store.files.job(job.id) / MANIFEST
        items.append(_item(use, job, MANIFEST, "manifest", path.stat().st_size, None))
        for name in EXPORTS:
            made = use.exports.made(job.id, _version(job), name)
            n_bytes, sha256 = (made[0].stat().st_size, made[1]) if made else (None, None)
            items.append(_item(use, job, name, "export", n_bytes, sha256))
    return json_response({"items": items, "next_page_token": ""})


@router.get("/{name}", response_class=Response, responses=ANSWERS)
def get_artifact(
    request: Request,
    use: Use,
    job: Job,
    name: Name,
    expires: Annotated[str, Query(max_length=20, description="of a signed address")] = "",
    signature: Annotated[str, Query(max_length=64, description="of a signed address")] = "",
) -> Response:
    """A file of the job, with an ETag (its sha256 once the job has ended); Range, If-Range and If-None-Match count."""
    if name == MANIFEST and job.is_over:
        read_manifest(use.store.files, job)
        path = use.store.files.job(job.id) / MANIFEST
        found = KeptFile(MANIFEST, path, "manifest", path.stat().st_size)
        return file_response(request, path, found.n_bytes, state_tag(found), found.media_type, _filename(job, name))
    if name in EXPORTS and job.is_over:
        version = _version(job)
        made = use.exports.made(job.id, version, name)
        path, sha256 = made or use.exports.make(job.id, version, name, _export(use, job, name))
        return file_response(request, path, path.stat().st_size, sha256, EXPORTS[name], _filename(job, name))
    for found, digest in _kept(use, job):
        if found.name == name:
            tag = digest or state_tag(found)
            return file_response(request, found.path, found.n_bytes, tag, found.media_type, _filename(job, name))
    raise HTTPException(404)


router.add_api_route("/{name}", get_artifact, methods=["HEAD"], include_in_schema=False)


def _kept(use: Services, job: JobRecord) -> Iterator[tuple[KeptFile, str | None]]:
    """The files of the job's directory, with their digests once the job has ended."""
    files = use.store.files
    digests: dict[str, str] = {}
    if job.is_over:
        digests = {entry["name"]: entry["sha256"] for entry in read_manifest(files, job)["files"]}
    for found in kept_files(files, job.id, len(files.read_request(job.id)["shards"]), is_over=job.is_over):
        yield found, digests.get(found.name)


def _item(
    use: Services, job: JobRecord, name: str, role: str, n_bytes: int | None, sha256: str | None
) -> dict[str, Any]:
    path = f"/v1/jobs/{job.id}/artifacts/{name}"
    expires = int(time.time()) + use.settings.signed_url_s
    return {
        "name": name,
        "role": role,
        "size_bytes": n_bytes,
        "sha256": sha256,
        "url": path,
        "signed_url": f"{path}?{use.signer.signed_query(path, expires)}",
        "signed_url_expires_at": utc_text(expires),
    }


def _version(job: JobRecord) -> str:
    """Which end of the job an export shows."""
    return f"{job.finished_at} {job.attempt}"


def _filename(job: JobRecord, name: str) -> str:
    return f"{job.id}.{name}"


def _export(use: Services, job: JobRecord, name: str) -> Iterator[bytes]:
    run_dirs = use.store.shard_dirs(job.id)
    what, _, format = name.partition(".")
    if what == "trajectory":
        yield from Trajectory(run_dirs, Selection()).chunks(format)
    elif what == "thermo":
        yield from thermo_chunks(thermo_rows(run_dirs, Selection()), format)
    else:
        token = "0"
        while token:
            items, token = use.store.systems(job.id, LARGEST_EXPORT_PAGE, token)
            for item in items:
                yield json.dumps(finite(item), allow_nan=False).encode() + b"\n"
