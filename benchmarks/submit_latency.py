"""Milliseconds of POST /v1/jobs against a running server, over one kept-open connection."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import httpx
from systems import show, systems_for


def body(model: str, elements: tuple[str, ...]) -> dict[str, Any]:
    """A single point of the first system the model knows."""
    atoms = next(iter(systems_for(elements).values()))
    structure = {
        "symbols": list(atoms.symbols),
        "positions": atoms.get_positions().tolist(),
        "cell": atoms.cell.tolist() if atoms.pbc.any() else None,
        "pbc": atoms.pbc.tolist(),
    }
    return {"kind": "singlepoint", "model": model, "structures": [structure], "tags": ["benchmark"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--model", default="organic", help="model name (organic)")
    parser.add_argument("--jobs", type=int, default=100, help="how many jobs are submitted (100)")
    given = parser.parse_args()
    with httpx.Client(base_url=given.server, timeout=30.0) as client:
        models = client.get("/v1/models").raise_for_status().json()["items"]
        card = next(item for item in models if given.model in (item["name"], *item["aliases"]))
        request = body(given.model, tuple(card["elements"]))
        times_ms = []
        for _ in range(given.jobs):
            before = time.perf_counter()
            answer = client.post("/v1/jobs", json=request)
            times_ms.append(1000 * (time.perf_counter() - before))
            answer.raise_for_status()
        n_atoms = len(request["structures"][0]["symbols"])
    quantiles = statistics.quantiles(times_ms, n=100)
    row = [f"{given.model}, {n_atoms} atoms", *(f"{quantiles[i - 1]:.1f}" for i in (50, 90, 99)), str(given.jobs)]
    show("POST /v1/jobs, ms", ["job", "p50", "p90", "p99", "jobs"], [row])


if __name__ == "__main__":
    main()
