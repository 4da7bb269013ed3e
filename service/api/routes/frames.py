"""What a viewer needs of a job: positions of many frames in one piece, and the structures as they were submitted."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response

from equipot.errors import InvalidParameterError
from equipot.service.api.context import Job, Use, json_response, pointing_at_query
from equipot.service.api.routes.jobs import LARGEST_PAGE
from equipot.service.api.schemas import StructureList
from equipot.simulation.trajectory import RunFrames, read_request

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

MOST_BYTES = 8_000_000  # of one answer
ALIGNMENT = 8  # bytes, so that a browser can look at the arrays where they lie
OCTETS = "application/octet-stream"


@router.get("/frames", response_class=Response, responses={200: {"content": {OCTETS: {}}}})
def frames(
    use: Use,
    job: Job,
    system: Annotated[int, Query(ge=0, description="the system to look at")] = 0,
    start: Annotated[int, Query(ge=0, le=10**12, description="first frame")] = 0,
    stride: Annotated[int, Query(ge=1, le=10**9, description="every so many")] = 1,
) -> Response:
    """Positions of one system for a viewer: binary, single precision, up to the last checkpoint, a few MB at a time.

    A little-endian uint32 says how long the JSON header after it is; then come the arrays, little-endian and one after
    the other: `step` and `time_fs` float64 (n_frames,), `cell` float32 (n_frames, 3, 3) in Å, zero where there is
    none, and `positions` float32 (n_frames, n_atoms, 3) in Å. The header has `n_frames`, `n_total` (frames there are
    now, without the stride), `n_atoms`, `numbers` and `pbc`. Ask again from `start + n_frames * stride` for the rest.
    """
    if system >= job.progress.n_systems:
        raise InvalidParameterError(
            f"The job has {job.progress.n_systems} systems.",
            pointer="query:system",
            hint=f"Give 0 to {job.progress.n_systems - 1}.",
        )
    found = _frames_of(use.store.shard_dirs(job.id), system)
    headers = {"Cache-Control": "no-cache"}
    return Response(_packed(found, start, stride), media_type=OCTETS, headers=headers)


@router.get("/structures", responses={200: {"model": StructureList}})
def structures(
    use: Use,
    job: Job,
    page_size: Annotated[int, Query(ge=1, description=f"at most {LARGEST_PAGE} are given")] = 50,
    page_token: Annotated[str, Query(max_length=20, json_schema_extra={"pattern": "^[0-9]*$"})] = "",
) -> Response:
    """The structures as they were submitted, in order: what to send to have the same computed again."""
    with pointing_at_query("page_token"):
        if page_token and not page_token.isdecimal():
            raise InvalidParameterError("page_token is not one that a list answered with.")
    first, size = int(page_token or 0), min(page_size, LARGEST_PAGE)
    page = [structure.to_json() for structure in islice(use.store.structures(job.id), first, first + size + 1)]
    token = str(first + size) if len(page) > size else ""
    return json_response({"items": page[:size], "next_page_token": token})


def _frames_of(run_dirs: list[Path], system: int) -> RunFrames | None:
    """The frames of a system, None if its part of the job has not begun."""
    for run_dir in run_dirs:
        if not (run_dir / "request.json").exists():
            continue
        request = read_request(run_dir)
        if 0 <= system - request["system_offset"] < len(request["structures"]):
            return RunFrames(run_dir, system)
    return None


def _packed(frames: RunFrames | None, start: int, stride: int) -> bytes:
    """Frames from `start` on, as many as fit in an answer; a header alone if there are none."""
    n_total = 0 if frames is None else len(frames)
    header: dict[str, Any] = {"n_frames": 0, "n_total": n_total, "start": start, "stride": stride}
    if frames is None or start >= n_total:
        return _with_header(header)
    _, described = frames.record(start)
    n_atoms = len(described.numbers)
    n_frames = min(len(range(start, n_total, stride)), max(1, MOST_BYTES // (12 * n_atoms + 52)))
    header |= {"n_frames": n_frames, "n_atoms": n_atoms, "numbers": described.numbers.tolist()}
    header["pbc"] = [bool(periodic) for periodic in described.pbc]
    steps, times = np.zeros(n_frames, "<f8"), np.zeros(n_frames, "<f8")
    cells, positions = np.zeros((n_frames, 3, 3), "<f4"), np.zeros((n_frames, n_atoms, 3), "<f4")
    for k in range(n_frames):
        steps[k], times[k], positions[k], cell, _, _ = frames.row(start + k * stride, velocities=False)
        if cell is not None:
            cells[k] = cell
    return _with_header(header, steps, times, cells, positions)


def _with_header(header: dict[str, Any], *arrays: np.ndarray) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 4) % ALIGNMENT)
    return b"".join([len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in arrays)])
