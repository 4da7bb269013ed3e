"""Room for more atoms and slots: the same numbers as the plain pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equipot.models.graph import batch_graphs
from equipot.models.loading import load_potential
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import eager_pass, graph_tensors
from equipot.models.recorded import padded, room_for

ROUNDING = 1e-10  # eV, eV/Å: sums of other lengths round differently


def systems() -> list[Atoms]:
    crystal = bulk("Si", cubic=True)
    cluster = bulk("Cu", cubic=True)
    cluster.pbc, cluster.cell = False, None
    atom = molecule("Si2H6")[:1]
    return [crystal, cluster, atom]


@pytest.mark.parametrize(("n_atoms", "n_slots"), [(13, 28), (16, 31), (40, 40)])
def test_empty_atoms_and_slots_change_nothing(n_atoms: int, n_slots: int) -> None:
    potential = load_potential("elements", device="cpu")
    search = NeighbourSearch(potential.cutoff_ang)
    graph = batch_graphs([search.graph(a.numbers, a.positions, np.array(a.cell), a.pbc) for a in systems()])
    inputs = graph_tensors(graph, torch.float64, torch.device("cpu"))
    roomy = padded(inputs, *np.maximum((n_atoms, n_slots), inputs[2].shape))
    for plain, other in zip(eager_pass(potential.network, *inputs), eager_pass(potential.network, *roomy), strict=True):
        assert torch.allclose(plain, other[: len(plain)], rtol=0, atol=ROUNDING)


def test_there_is_always_room_and_never_much_more() -> None:
    for n in (1, 2, 7, 8, 9, 21, 64, 100, 1000, 12345):
        n_atoms, n_slots = room_for(n, n)
        assert n <= n_atoms < n + max(8, n / 7)
        assert n <= n_slots < n + 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_recorded_pass_is_the_eager_one_for_every_size() -> None:
    eager = load_potential("elements", device="cuda")
    recorded = load_potential("elements", device="cuda", compile=True)
    assert recorded.execution == "compiled"
    for n in (1, 2, 3, 2):
        atoms = bulk("Si", cubic=True).repeat(n)
        atoms.rattle(0.05, seed=n)
        graph = NeighbourSearch(eager.cutoff_ang).graph(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc)
        expected, got = eager.evaluate(graph), recorded.evaluate(graph)
        assert got.energy_ev == pytest.approx(expected.energy_ev, abs=1e-9)
        np.testing.assert_allclose(got.forces_ev_per_ang, expected.forces_ev_per_ang, rtol=0, atol=1e-9)
