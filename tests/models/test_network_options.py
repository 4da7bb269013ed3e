"""Options of the network beyond the default obey the same physics, and absent ones change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipot.models.graph import batch_graphs
from equipot.models.network import Layer, Network
from equipot.models.potential import forces_and_virials, graph_tensors
from equipot.models.radial import Repulsion
from equipot.structure import Structure
from tests.models.conftest import ALL_KINDS, ethanol, graph_of, slab, small_network

OPTIONS: dict[str, dict[str, Any]] = {
    "whole functions of neighbours": {"n_tensor_channels": 3},
    "the same, three layers, low degrees": {"n_tensor_channels": 2, "n_layers": 3, "l_hidden": 1, "l_max": 2},
    "scaled to the data": {"is_calibrated": True},
    "short repulsion": {"repulsion_reach": 0.7},
    "a mixing of its own for each element": {"mixes_by_element": True},
    "everything": {"mixes_by_element": True, "n_tensor_channels": 3, "is_calibrated": True, "repulsion_reach": 0.7},
}
CPU = torch.device("cpu")


def network_with(options: dict[str, Any]) -> Network:
    network = small_network(**options)
    if network.architecture.is_calibrated:
        graphs = [graph_of(make(), network.architecture.cutoff_ang) for make in ALL_KINDS]
        network.calibrate(*graph_tensors(batch_graphs(graphs), torch.float64, CPU))
    return network


def energies_and_forces(network: Network, structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    tensors = graph_tensors(graph_of(structure, network.architecture.cutoff_ang), torch.float64, CPU)
    vectors = tensors[1].requires_grad_(True)
    out = network(*tensors)
    (gradient,) = torch.autograd.grad((out.learned_ev + out.fixed_ev).sum(), vectors)
    forces, _ = forces_and_virials(gradient, vectors.detach(), tensors[4])
    return (out.learned_ev + out.fixed_ev).detach().numpy(), forces.numpy()


@pytest.fixture(params=list(OPTIONS))
def network(request: pytest.FixtureRequest) -> Network:
    return network_with(OPTIONS[request.param])


@pytest.mark.parametrize("inversion", [1.0, -1.0])
def test_forces_turn_with_the_system(network: Network, inversion: float) -> None:
    structure = slab()
    assert structure.cell_ang is not None
    matrix = inversion * Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    turned = replace(
        structure, positions_ang=structure.positions_ang @ matrix.T, cell_ang=structure.cell_ang @ matrix.T
    )
    (energies, forces), (energies_turned, forces_turned) = (
        energies_and_forces(network, s) for s in (structure, turned)
    )
    assert np.abs(energies - energies_turned).max() < 1e-10 * max(1.0, np.abs(energies).max())
    assert np.abs(forces @ matrix.T - forces_turned).max() < 1e-10 * max(1.0, np.abs(forces).max())


def test_names_of_atoms_do_not_matter(network: Network) -> None:
    structure = ethanol()
    order = np.random.default_rng(4).permutation(structure.n_atoms)
    other = replace(structure, numbers=structure.numbers[order], positions_ang=structure.positions_ang[order])
    (energies, forces), (energies_other, forces_other) = (energies_and_forces(network, s) for s in (structure, other))
    assert np.abs(energies[order] - energies_other).max() < 1e-10 * max(1.0, np.abs(energies).max())
    assert np.abs(forces[order] - forces_other).max() < 1e-10 * max(1.0, np.abs(forces).max())


def test_forces_are_minus_the_gradient_of_the_energy(network: Network) -> None:
    structure, step_ang = ethanol(), 1e-4
    _, forces = energies_and_forces(network, structure)
    for atom, axis in [(0, 0), (2, 1), (8, 2)]:
        step = np.zeros((structure.n_atoms, 3))
        step[atom, axis] = step_ang
        up, down = (
            energies_and_forces(network, structure.moved_to(structure.positions_ang + s))[0].sum()
            for s in (step, -step)
        )
        assert -(up - down) / (2 * step_ang) == pytest.approx(forces[atom, axis], abs=2e-6 * np.abs(forces).max())


def test_systems_far_apart_add_up_and_a_lone_atom_has_nothing_learned(network: Network) -> None:
    one, other = ethanol(1), ethanol(2)
    both = Structure(
        np.concatenate([one.numbers, other.numbers]),
        np.vstack([one.positions_ang, other.positions_ang + np.array([30.0, 0.0, 0.0])]),
    )
    apart = [energies_and_forces(network, s)[0] for s in (one, other)]
    assert np.abs(energies_and_forces(network, both)[0] - np.concatenate(apart)).max() < 1e-9
    assert energies_and_forces(network, Structure(np.array([6]), np.zeros((1, 3))))[0] == pytest.approx([0.0], abs=0.0)


def test_a_third_atom_enters_the_cutoff_smoothly(network: Network) -> None:
    """Energy like the third power of the distance to the cutoff, force like the second."""

    def chain(beyond_ang: float) -> tuple[float, float]:
        x = network.architecture.cutoff_ang + beyond_ang
        structure = Structure(np.array([6, 8, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.9, 0.8], [x, 0.0, 0.0]]))
        energies, forces = energies_and_forces(network, structure)
        return float(energies.sum()), float(np.abs(forces[2]).max())

    outside, near, nearer = chain(0.2), chain(-0.02), chain(-0.01)
    assert outside[1] == 0.0
    assert near[1] > 0.0
    assert abs(nearer[0] - outside[0]) < abs(near[0] - outside[0]) / 7
    assert nearer[1] < near[1] / 3.5


def test_a_calibrated_network_makes_functions_of_size_one() -> None:
    network = network_with({"is_calibrated": True})
    graphs = [graph_of(make(), 5.0) for make in ALL_KINDS]
    tensors = graph_tensors(batch_graphs(graphs), torch.float64, CPU)
    gains = dict(network.named_buffers())
    before = {name: value.clone() for name, value in gains.items() if name.endswith("gain")}
    network.calibrate(*tensors)
    assert len(before) == 2
    assert all(torch.allclose(gains[name], value) for name, value in before.items())
    seen: list[torch.Tensor] = []
    layer = network.layers[1]
    assert isinstance(layer, Layer)
    layer.mix_messages.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    network(*tensors)
    on_sphere = seen[0].detach().square().sum(0).mean() / (4 * np.pi)  # mean of f² over directions, by Parseval
    assert float(on_sphere) == pytest.approx(1.0, rel=1e-6)


def test_options_left_out_add_no_weights() -> None:
    names = set(small_network().state_dict())
    assert not [name for name in names if "tensor" in name or "gain" in name]


def test_what_lies_across_the_bond_reaches_the_neighbour_only_on_request() -> None:
    """Turning one end of a chain about its axis changes nothing that is seen along the axis."""

    def middle_sees(network: Network, angle: float) -> torch.Tensor:
        """What the second layer sees from the first atom of a chain whose far end, out of its reach, is turned."""
        cutoff = network.architecture.cutoff_ang
        far = np.array([2.9, 1.4 * np.cos(angle), 1.4 * np.sin(angle)])
        near = np.array([-0.3, 1.2, 0.0])
        positions = np.vstack([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], far, near])
        graph = graph_of(Structure(np.array([6, 6, 8, 1]), positions), cutoff)
        seen: list[torch.Tensor] = []
        layer = network.layers[1]
        assert isinstance(layer, Layer)
        layer.product.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        network(*graph_tensors(graph, torch.float64, CPU))
        return seen[0][:, 0].detach()

    for n_channels, differs in ((0, False), (3, True)):
        network = small_network(cutoff_ang=2.5, n_tensor_channels=n_channels)
        a, b = (middle_sees(network, angle) for angle in (0.3, 1.9))
        change = float((a - b).abs().max() / a.abs().max())
        assert (change > 1e-3) == differs, change


def test_the_repulsion_ends_where_it_is_told_to() -> None:
    pair = (torch.tensor([0, 0]), torch.tensor([1, 1]))
    reach = 0.76 + 0.66
    distance = torch.tensor([0.49, 0.51], dtype=torch.float64) * reach
    inside, outside = Repulsion([6, 8], reach=0.5)(distance, pair).tolist()
    assert inside > 0.0
    assert outside == 0.0
