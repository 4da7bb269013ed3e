"""The files that a run leaves for people, here or fetched from a service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAJECTORY = "trajectory.traj"
FINAL = "final.extxyz"
RESULT = "result.json"
SUMMARY = "summary.png"  # a picture of the run
NOTE = "command.json"  # what `equipot resume` must know of a run here, beside the run itself
JOB_NOTE = "job.json"  # which job of which service is kept in a folder
FILE_FORMATS = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".npz": "npz", ".jsonl": "jsonl"}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document so that nobody sees half of it."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
