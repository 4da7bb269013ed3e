"""Steps per second of molecular dynamics (NVT, Langevin) through run_md, with trajectory and checkpoints on disk."""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from systems import show, systems_for

from equipot import load_potential, run_md


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="model name, may be repeated (organic and elements)")
    parser.add_argument("--steps", type=int, default=500, help="steps of each run (500)")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for model in given.model or ["organic", "elements"]:
        for name, atoms in systems_for(load_potential(model).elements).items():
            with tempfile.TemporaryDirectory() as folder:
                warm = {"model": model, "dtype": given.dtype, "temperature_k": 300.0, "seed": 0}
                run_md([atoms], n_steps=5, output=f"{folder}/warm-up", **warm)
                started = time.perf_counter()
                (result,) = run_md([atoms], n_steps=given.steps, output=f"{folder}/run", **warm)
                took_s = time.perf_counter() - started
            assert result.outcome == "completed", result.outcome
            rows.append([model, name, f"{given.steps / took_s:.1f}", f"{1000 * took_s / given.steps:.2f}"])
    title = f"molecular dynamics, {given.dtype}, {given.threads} thread(s), {given.steps} steps"
    show(title, ["model", "system", "steps/s", "ms/step"], rows)


if __name__ == "__main__":
    main()
