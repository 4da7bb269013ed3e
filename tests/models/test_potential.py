"""The potential obeys physics: symmetry, exact derivatives, locality, size-extensivity, smoothness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipot.models.graph import AtomGraph, batch_graphs
from equipot.models.network import Network
from equipot.models.potential import Potential, graph_tensors
from equipot.structure import Structure
from tests.models.conftest import ALL_KINDS, Predict, ethanol, graph_of, slab, small_network, triclinic_crystal

ROTATION_EV_PER_ANG = 1e-10  # the promise of the documentation, float64
STEP_ANG = 1e-4
DERIVATIVE = 2e-6  # relative; a central difference of step 1e-4 Å is good to about 1e-7


def learned_energies(network: Network, *graphs: AtomGraph) -> torch.Tensor:
    """What the network says of the atoms of graphs computed together, float64."""
    with torch.no_grad():
        tensors = graph_tensors(batch_graphs(graphs), torch.float64, torch.device("cpu"))
        energies: torch.Tensor = network(*tensors).learned_ev
    return energies


def turned(structure: Structure, matrix: np.ndarray) -> Structure:
    cell = None if structure.cell_ang is None else structure.cell_ang @ matrix.T
    return replace(structure, positions_ang=structure.positions_ang @ matrix.T, cell_ang=cell)


@pytest.mark.parametrize("make", ALL_KINDS)
@pytest.mark.parametrize("inversion", [1.0, -1.0])
def test_forces_and_virial_turn_with_the_system(make: type, inversion: float, predict: Predict) -> None:
    structure = make()
    matrix = inversion * Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    before, after = predict(structure), predict(turned(structure, matrix))
    assert abs(before.energy_ev - after.energy_ev) < ROTATION_EV_PER_ANG
    assert np.abs(before.forces_ev_per_ang @ matrix.T - after.forces_ev_per_ang).max() < ROTATION_EV_PER_ANG
    assert np.abs(matrix @ before.virial_ev @ matrix.T - after.virial_ev).max() < 1e-9


@pytest.mark.parametrize("make", ALL_KINDS)
def test_nothing_changes_when_the_system_is_shifted_or_its_atoms_are_renamed(make: type, predict: Predict) -> None:
    structure = make()
    order = np.random.default_rng(2).permutation(structure.n_atoms)
    other = replace(
        structure,
        numbers=structure.numbers[order],
        positions_ang=structure.positions_ang[order] + np.array([3.3, -7.1, 0.4]),
    )
    before, after = predict(structure), predict(other)
    assert abs(before.energy_ev - after.energy_ev) < 1e-10
    assert np.abs(before.forces_ev_per_ang[order] - after.forces_ev_per_ang).max() < 1e-10


@pytest.mark.parametrize("make", ALL_KINDS)
def test_forces_are_minus_the_gradient_of_the_energy(make: type, predict: Predict) -> None:
    structure = make()
    forces = predict(structure).forces_ev_per_ang
    for atom, axis in [(0, 0), (1, 1), (structure.n_atoms - 1, 2)]:
        step = np.zeros((structure.n_atoms, 3))
        step[atom, axis] = STEP_ANG
        up = predict(structure.moved_to(structure.positions_ang + step)).energy_ev
        down = predict(structure.moved_to(structure.positions_ang - step)).energy_ev
        assert -(up - down) / (2 * STEP_ANG) == pytest.approx(
            forces[atom, axis], abs=DERIVATIVE * max(1.0, np.abs(forces).max())
        )


def test_the_virial_is_the_derivative_with_respect_to_strain_of_a_triclinic_cell(predict: Predict) -> None:
    structure = triclinic_crystal()
    virial = predict(structure).virial_ev
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1.0, -1.0):
                strain = np.eye(3)
                strain[a, b] += 0.5 * sign * STEP_ANG
                strain[b, a] += 0.5 * sign * STEP_ANG
                energies.append(predict(turned(structure, strain)).energy_ev)
            slope = (energies[0] - energies[1]) / (2 * STEP_ANG)
            assert slope == pytest.approx(virial[a, b], abs=1e-5 * max(1.0, np.abs(virial).max()))


def test_forces_on_a_whole_system_sum_to_zero(predict: Predict) -> None:
    for make in ALL_KINDS:
        assert np.abs(predict(make()).forces_ev_per_ang.sum(0)).max() < 1e-10


def test_a_supercell_has_its_cells_times_the_energy(predict: Predict) -> None:
    structure = triclinic_crystal()
    assert structure.cell_ang is not None
    shifts = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1, 2], indexing="ij"), axis=-1).reshape(-1, 3)
    copies = shifts @ structure.cell_ang
    large = replace(
        structure,
        numbers=np.tile(structure.numbers, len(copies)),
        positions_ang=(structure.positions_ang[None] + copies[:, None]).reshape(-1, 3),
        cell_ang=structure.cell_ang * np.array([[2], [2], [3]]),
    )
    one, many = predict(structure), predict(large)
    assert many.energy_ev == pytest.approx(12 * one.energy_ev, abs=1e-9)
    assert np.abs(many.virial_ev - 12 * one.virial_ev).max() < 1e-9


def test_systems_far_apart_add_up(predict: Predict) -> None:
    one, other = ethanol(1), ethanol(2)
    both = Structure(
        np.concatenate([one.numbers, other.numbers]),
        np.vstack([one.positions_ang, other.positions_ang + np.array([30.0, 0.0, 0.0])]),
    )
    assert predict(both).energy_ev == pytest.approx(predict(one).energy_ev + predict(other).energy_ev, abs=1e-9)


def test_an_isolated_atom_has_its_reference_energy(predict: Predict, tiny: Potential) -> None:
    for symbol, number in (("H", 1), ("C", 6), ("Cu", 29)):
        alone = predict(Structure(np.array([number]), np.zeros((1, 3))))
        assert alone.energy_ev == tiny.card.isolated_atom_energies_ev[symbol]
        assert np.all(alone.forces_ev_per_ang == 0.0)


def test_energy_and_force_fade_where_a_neighbour_crosses_the_cutoff(predict: Predict, tiny: Potential) -> None:
    """Towards the cutoff the energy goes like the third power of the distance to it, the force like the second."""

    def pair(distance_ang: float) -> tuple[float, float]:
        p = predict(Structure(np.array([6, 8]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance_ang]])))
        return p.energy_ev, float(p.forces_ev_per_ang[1, 2])

    beyond = pair(tiny.cutoff_ang + 0.1)
    assert beyond[1] == 0.0
    near, nearer = pair(tiny.cutoff_ang - 0.02), pair(tiny.cutoff_ang - 0.01)
    assert abs(nearer[0] - beyond[0]) < abs(near[0] - beyond[0]) / 7
    assert abs(nearer[1]) < abs(near[1]) / 3.5


def test_a_network_of_three_layers_is_equivariant_too() -> None:
    network = small_network(n_layers=3)
    structure = slab()
    matrix = -Rotation.random(rng=np.random.default_rng(7)).as_matrix()
    energies = [learned_energies(network, graph_of(s, 5.0)) for s in (structure, turned(structure, matrix))]
    assert (energies[0] - energies[1]).abs().max() < 1e-10 * max(1.0, float(energies[0].abs().max()))


def test_a_system_in_a_batch_has_the_energies_it_has_alone() -> None:
    network = small_network()
    graphs = [graph_of(make(), 5.0) for make in ALL_KINDS]
    together = learned_energies(network, *graphs)
    alone = torch.cat([learned_energies(network, graph) for graph in graphs])
    assert (together - alone).abs().max() < 1e-10


def test_systems_evaluated_side_by_side_are_each_what_they_are_alone(tiny: Potential) -> None:
    lone_atom = Structure(np.array([6]), np.zeros((1, 3)))
    graphs = [graph_of(s, tiny.cutoff_ang) for s in (ethanol(), lone_atom, triclinic_crystal(), slab(), ethanol(3))]
    together = tiny.evaluate_many(batch_graphs(graphs))
    assert len(together) == len(graphs)
    for graph, one in zip(graphs, together, strict=True):
        alone = tiny.evaluate(graph)
        assert one.energies_ev.shape == (graph.n_atoms,)
        assert abs(one.energy_ev - alone.energy_ev) < 1e-10
        assert np.abs(one.forces_ev_per_ang - alone.forces_ev_per_ang).max() < 1e-10
        assert np.abs(one.virial_ev - alone.virial_ev).max() < 1e-9
        assert one.domain_distance == pytest.approx(alone.domain_distance, rel=1e-9)


def test_the_same_graph_gives_the_same_bits(predict: Predict) -> None:
    first, second = predict(slab()), predict(slab())
    assert first.energy_ev == second.energy_ev
    assert np.array_equal(first.forces_ev_per_ang, second.forces_ev_per_ang)


def test_strange_surroundings_lie_outside_the_training_domain(predict: Predict) -> None:
    familiar, strange = ethanol(), slab()
    inside, outside = predict(familiar).domain_distance, predict(strange).domain_distance
    assert inside is not None
    assert outside is not None
    assert outside > 1.0
    assert outside > inside
