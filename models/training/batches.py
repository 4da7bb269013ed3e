"""Frames turned into graphs with labels, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from equipot.elements import COVALENT_RADII_ANG
from equipot.models.graph import AtomGraph, batch_graphs
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import VOIGT, GraphTensors, graph_tensors
from equipot.models.training.frames import FrameSet

#: range of distances at which pairs of atoms must repel: from here in Å to this share of the sum of covalent radii
CLOSE_FROM_ANG, CLOSE_TO = 0.25, 0.68


@dataclass(frozen=True, eq=False)
class LabelledGraph:
    """A frame ready for training; the energy is relative to free atoms. virial_ev is NaN where there is none."""

    graph: AtomGraph
    energy_ev: float
    forces_ev_per_ang: np.ndarray
    virial_ev: np.ndarray
    volume_ang3: float = float("nan")


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of several frames. Of the systems the first `n_labelled` carry labels; the rest are close pairs."""

    inputs: GraphTensors
    system_idx: torch.Tensor
    n_systems: int
    n_labelled: int
    n_atoms: torch.Tensor  # (n_labelled,)
    energy_ev: torch.Tensor  # (n_labelled,)
    forces_ev_per_ang: torch.Tensor  # (atoms of labelled systems, 3)
    virial_ev: torch.Tensor  # (n_labelled, 3, 3)


def labelled_graphs(frames: FrameSet, cutoff_ang: float, reference_ev: np.ndarray) -> list[LabelledGraph]:
    """The graph and labels of every frame."""
    out = []
    for index in range(len(frames.n_atoms)):
        frame = frames.frame(index)
        periodic = tuple(bool(p) for p in frame.pbc)
        graph = NeighbourSearch(cutoff_ang, skin_ang=0.0).graph(
            frame.numbers, frame.positions_ang, frame.cell_ang, np.array(periodic)
        )
        virial, volume = np.full((3, 3), np.nan), float("nan")
        if any(periodic):
            volume = float(abs(np.linalg.det(frame.cell_ang)))
            for component, (a, b) in enumerate(VOIGT):
                virial[a, b] = virial[b, a] = frame.stress_ev_per_ang3[component] * volume
        energy = frame.energy_ev - reference_ev[frame.numbers].sum()
        out.append(LabelledGraph(graph, float(energy), frame.forces_ev_per_ang, virial, volume))
    return out


def close_pairs(elements: Sequence[int], n_pairs: int, rng: np.random.Generator) -> list[AtomGraph]:
    """Pairs of atoms much closer than a bond, which must push each other apart."""
    graphs = []
    for _ in range(n_pairs):
        numbers = rng.choice(elements, size=2)
        far = CLOSE_TO * COVALENT_RADII_ANG[numbers].sum()
        position = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, rng.uniform(CLOSE_FROM_ANG, far)]])
        search = NeighbourSearch(cutoff_ang=far + 1.0, skin_ang=0.0)
        graphs.append(search.graph(numbers, position, None, (False, False, False)))
    return graphs


def make_batch(labelled: Sequence[LabelledGraph], pairs: Sequence[AtomGraph] = ()) -> Batch:
    """Lay frames (and close pairs behind them) side by side, float32 on the CPU."""
    graph = batch_graphs([item.graph for item in labelled] + list(pairs))
    float32 = torch.float32
    return Batch(
        inputs=graph_tensors(graph, float32, torch.device("cpu")),
        system_idx=torch.as_tensor(graph.system_idx),
        n_systems=graph.n_systems,
        n_labelled=len(labelled),
        n_atoms=torch.tensor([item.graph.n_atoms for item in labelled], dtype=float32),
        energy_ev=torch.tensor([item.energy_ev for item in labelled], dtype=float32),
        forces_ev_per_ang=torch.as_tensor(np.concatenate([i.forces_ev_per_ang for i in labelled]), dtype=float32),
        virial_ev=torch.as_tensor(np.stack([item.virial_ev for item in labelled]), dtype=float32),
    )


def shuffled_batches(
    graphs: Sequence[LabelledGraph], atoms_per_batch: int, rng: np.random.Generator
) -> Iterator[list[LabelledGraph]]:
    """Endless batches of about `atoms_per_batch` atoms, of frames with similar numbers of neighbours.

    Every pass takes each frame once. Rows are padded to the longest of the batch, so frames are sorted by that
    length within chunks of the shuffled order: little padding, still random batches.
    """
    while True:
        order = rng.permutation(len(graphs))
        batches: list[list[LabelledGraph]] = []
        for start in range(0, len(order), 512):
            chunk = sorted(order[start : start + 512], key=lambda k: graphs[k].graph.neighbours.shape[1])
            current: list[LabelledGraph] = []
            for index in chunk:
                current.append(graphs[index])
                if sum(item.graph.n_atoms for item in current) >= atoms_per_batch:
                    batches.append(current)
                    current = []
            if current:
                batches.append(current)
        for index in rng.permutation(len(batches)):
            yield batches[index]
