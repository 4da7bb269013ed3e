"""Errors of a potential on labelled frames, kind by kind.

python -m equipot.models.training.report organic data/organic/test.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from equipot.models.loading import load_potential
from equipot.models.potential import Potential
from equipot.models.training.batches import labelled_graphs
from equipot.models.training.evaluation import errors_of
from equipot.models.training.frames import FrameSet

ALL = "all"


def errors_by_kind(potential: Potential, frames: FrameSet) -> dict[str, dict[str, float]]:
    """Number of frames and errors (Errors.summary) of every config_type, and of all frames together."""
    network = potential.network.float()
    graphs = labelled_graphs(frames, potential.cutoff_ang, potential.reference_ev)
    kinds = {ALL: np.arange(len(graphs))}
    for kind in sorted(set(frames.config_type.tolist())):
        kinds[kind] = np.flatnonzero(frames.config_type == kind)
    return {
        kind: {"n_frames": len(indices), **errors_of(network, [graphs[i] for i in indices]).summary()}
        for kind, indices in kinds.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model name or the path of a card")
    parser.add_argument("frames", type=Path, help="a .npz file of frames")
    given = parser.parse_args()
    errors = errors_by_kind(load_potential(given.model, device="cpu", dtype="float32"), FrameSet.load(given.frames))
    table = Table(title=f"{given.model} on {given.frames}")
    for heading in ("kind", "frames", "E MAE", "E RMSE (meV/atom)", "F MAE", "F RMSE (meV/Å)", "stress MAE (GPa)"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, e in errors.items():
        table.add_row(
            kind,
            f"{e['n_frames']:.0f}",
            f"{e['energy_mae_mev_per_atom']:.2f}",
            f"{e['energy_rmse_mev_per_atom']:.2f}",
            f"{e['force_mae_mev_per_ang']:.1f}",
            f"{e['force_rmse_mev_per_ang']:.1f}",
            f"{e['stress_mae_gpa']:.2f}" if "stress_mae_gpa" in e else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
