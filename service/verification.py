"""Checking a job again: that its files are still those its manifest names, and that its numbers can be had again.

Everything is fetched and hashed here; nothing the service says about itself is believed but the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from equipot.cards import checked_weights, find_model
from equipot.errors import EquipotError, UnknownModelError
from equipot.service.client import RemoteJob
from equipot.service.manifest import digest_of, input_digest
from equipot.structure import structure_from_json

TOLERANCE_EV = {"float64": 1e-9, "float32": 1e-4}  #: relative to the energy of a recomputed system, at least absolute


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `holds` is None where it could not be checked here."""

    name: str
    holds: bool | None
    detail: str = ""


def verify(job: RemoteJob, n_recomputed: int = 0) -> Iterator[Check]:
    """The checks of an ended job, one after the other; the energy of the first systems is computed again if asked."""
    manifest = job.manifest()
    if not manifest["files"]:
        yield Check("manifest", False, f"the job is {manifest['state']}: files are vouched for once it has ended")
        return
    contents: dict[str, bytes] = {}
    for entry in manifest["files"]:
        yield _file(job, entry, contents)
    yield _input(manifest, contents)
    yield _record(job, manifest)
    yield _weights(manifest)
    for result in _results(contents)[:n_recomputed]:
        yield _recomputed(manifest, result)


def _file(job: RemoteJob, entry: dict[str, Any], contents: dict[str, bytes]) -> Check:
    """Fetch a file and compare its digest; small ones are kept for the other checks."""
    digest, n_bytes, kept = hashlib.sha256(), 0, bytearray()
    wanted = entry["name"] == "request.json" or entry["name"].startswith(("inputs.", "results."))
    try:
        for chunk in job.artifact_chunks(entry["name"]):
            digest.update(chunk)
            n_bytes += len(chunk)
            if wanted:
                kept += chunk
    except EquipotError as error:
        return Check(entry["name"], False, error.detail)
    contents[entry["name"]] = bytes(kept)
    if digest.hexdigest() != entry["sha256"]:
        return Check(entry["name"], False, f"sha256 {digest.hexdigest()[:12]}… instead of {entry['sha256'][:12]}…")
    return Check(entry["name"], True, f"{n_bytes} bytes")


def _input(manifest: dict[str, Any], contents: dict[str, bytes]) -> Check:
    """The structures and parameters are those whose digest the manifest names."""
    names = sorted(name for name in contents if name.startswith("inputs."))
    structures = [structure_from_json(data) for name in names for data in json.loads(contents[name])]
    digest = input_digest(
        manifest["kind"],
        manifest["model"]["sha256"],
        manifest["model"]["level_of_theory"],
        manifest["dtype"],
        manifest["params"],
        digest_of(structures),
    )
    return Check("input", digest == manifest["input_sha256"], f"{len(structures)} structures and all parameters")


def _record(job: RemoteJob, manifest: dict[str, Any]) -> Check:
    """The record says the same as the manifest."""
    record = job.refresh().record
    pairs = {
        "params": (record.params, manifest["params"]),
        "model": (record.model_sha256, manifest["model"]["sha256"]),
        "dtype": (record.dtype, manifest["dtype"]),
        "outcomes": (record.outcomes, manifest["outcomes"]),
        "state": (record.state.value, manifest["state"]),
    }
    different = [name for name, (has, said) in pairs.items() if has != said]
    return Check("record", not different, f"differs in {', '.join(different)}" if different else record.state.value)


def _weights(manifest: dict[str, Any]) -> Check:
    """The potential here, if there is one of that name, has the weights of the job."""
    name, sha256 = manifest["model"]["name"], manifest["model"]["sha256"]
    try:
        path, card = find_model(name)
        checked_weights(path, card)
    except UnknownModelError:
        return Check("weights", None, f"there is no {name} here to compare with")
    except EquipotError as error:
        return Check("weights", False, error.detail)
    return Check("weights", card.weights_sha256 == sha256, f"{name} {sha256[:12]}…")


def _results(contents: dict[str, bytes]) -> list[dict[str, Any]]:
    lines = [line for name in sorted(contents) if name.startswith("results.") for line in contents[name].splitlines()]
    results = [json.loads(line) for line in lines]
    with_numbers = [r for r in results if r.get("structure") and r.get("energy_ev") is not None]
    return sorted(with_numbers, key=lambda result: int(result["system_idx"]))


def _recomputed(manifest: dict[str, Any], result: dict[str, Any]) -> Check:
    """The energy of a final structure, computed here."""
    from equipot.calculator.ase import EquipotCalculator
    from equipot.calculator.convert import to_atoms
    from equipot.simulation.results import final_structure

    name = f"energy of system {result['system_idx']}"
    atoms = to_atoms(final_structure(result["structure"]))
    atoms.calc = EquipotCalculator(manifest["model"]["name"], device="cpu", dtype=manifest["dtype"])
    energy_ev, said_ev = float(atoms.get_potential_energy()), float(result["energy_ev"])
    off_ev = abs(energy_ev - said_ev)
    holds = off_ev <= TOLERANCE_EV[manifest["dtype"]] * max(1.0, abs(said_ev))
    return Check(name, holds, f"{energy_ev:.9f} eV, {off_ev:.1e} eV off")
