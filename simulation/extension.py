"""Making a dynamics that has ended longer: it goes on as if it had been asked for more from the start.

No torch: the API does this. What the run wrote only because it ended, its results and perhaps a last frame and a last
row between two that were due, is dropped; everything else stays as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from equipot.errors import NotResumableError
from equipot.simulation.checkpoint import load_checkpoint, save_checkpoint
from equipot.simulation.disk import LASTING
from equipot.simulation.segments import read_index
from equipot.simulation.trajectory import REQUEST, RESULTS, THERMO, read_request

COMPLETED = "completed"


def extend_run(directory: Path, params: Mapping[str, Any]) -> int:
    """Give the run in this directory other resolved parameters with more `n_steps`; gives how many systems go on.

    Systems that ended otherwise than by completing stay as they ended. May be done again if it was interrupted.
    Raises NotResumableError for a run whose last checkpoint does not hold its systems (begun by an older version).
    """
    checkpoint = load_checkpoint(directory)
    if checkpoint is None:
        raise NotResumableError("A part of the job has no checkpoint.", hint="Submit a new job for the longer run.")
    header, tensors = checkpoint
    going_on = header["systems"]
    if header["complete"]:
        going_on = header.get(COMPLETED, [])
        results = _lines(directory / RESULTS, header["results_bytes"])
        if not going_on and any(result["outcome"] == COMPLETED for result in results):
            raise NotResumableError(
                "The run was begun by an older version, which did not keep the last step of what had completed.",
                hint="Submit a new job that starts from its last structures and velocities.",
            )
        if going_on:
            save_checkpoint(directory, _opened(directory, header, results, params), tensors)
    if going_on:
        _replace(directory / REQUEST, json.dumps({**read_request(directory), "params": dict(params)}))
        LASTING.sync_folder(directory)
    return len(going_on)


def _opened(
    directory: Path, header: Mapping[str, Any], results: list[dict[str, Any]], params: Mapping[str, Any]
) -> dict[str, Any]:
    """The header of a complete checkpoint as it would be if the run had not ended there."""
    steps = {entry["idx"]: entry["step"] for entry in header[COMPLETED]}
    kept = [result for result in results if result["system_idx"] not in steps]
    text = "".join(json.dumps(result) + "\n" for result in kept)
    _replace(directory / RESULTS, text)
    segments, last_saved = _without_last_frames(directory, header, steps, params["save_every"])
    return {
        **header,
        "complete": False,
        "systems": header[COMPLETED],
        COMPLETED: [],
        "segments": segments,
        "last_saved": last_saved,
        "thermo_bytes": _without_last_rows(directory, header["thermo_bytes"], steps, params["thermo_every"]),
        "results_bytes": len(text.encode()),
    }


def _without_last_frames(
    directory: Path, header: Mapping[str, Any], steps: Mapping[int, int], save_every: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Segments and last saved steps without the frames at the end that were not due."""
    *earlier, last = header["segments"]
    index = read_index(directory, last["name"], last["n_frames"])
    n_frames, last_saved = last["n_frames"], dict(header["last_saved"])
    while n_frames:
        system, step = int(index[n_frames - 1]["system"]), int(index[n_frames - 1]["step"])
        if steps.get(system) != step or step % save_every == 0:
            break
        n_frames -= 1
        last_saved[str(system)] = step - step % save_every
    return [*earlier, {**last, "n_frames": n_frames}], last_saved


def _without_last_rows(directory: Path, n_bytes: int, steps: Mapping[int, int], thermo_every: int) -> int:
    """How much of the time series is left without the rows at its end that were not due."""
    if not any(step % thermo_every for step in steps.values()):
        return n_bytes
    with (directory / THERMO).open("rb") as file:
        lines = file.read(n_bytes).splitlines(keepends=True)
    while lines:
        row = json.loads(lines[-1])
        if steps.get(row["system"]) != row["step"] or row["step"] % thermo_every == 0:
            break
        n_bytes -= len(lines.pop())
    return n_bytes


def _lines(path: Path, n_bytes: int) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [json.loads(line) for line in file.read(n_bytes).splitlines()]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
