"""What the odd paths are for: telling a surrounding from its mirror image, without an energy that prefers one hand.

A Gaunt product makes true tensors of true tensors only, so nothing in a network of it knows left from right. Two
chiral ends that face each other across a bond have the same energy whether they are of one hand or of both, when no
atom of one end sees an atom of the other. The products with odd paths tell the two apart (diastereomers), and still
give an enantiomer the energy of its mirror image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipot.models.network import Network
from equipot.models.potential import graph_tensors
from equipot.models.tensor_product import FACTORISATIONS, PolynomialProduct
from equipot.structure import Structure
from tests.models.conftest import ALL_KINDS, ethanol, graph_of, slab, small_network
from tests.models.test_spherical import wigner
from tests.models.test_tensor_product import random_features, turn

CUTOFF_ANG = 3.0
CHIRAL = [name for name in FACTORISATIONS if name != "gaunt"]
MIRROR = np.diag([-1.0, 1.0, 1.0])
ROUNDING = 1e-11  # relative to the spread of the energies of atoms
#: the four atoms of a chiral end: one on the bond, three around it, all different
END = np.array([[0.0, 0.0, 0.0], [1.5, 0.2, -0.9], [-0.7, 1.2, -1.4], [-0.5, -1.6, -0.6]])


def network_of(factorisation: str, cutoff_ang: float = CUTOFF_ANG, **changes: object) -> Network:
    """A random network of strong messages, so that its higher powers, and with them what it knows, show."""
    return small_network(seed=4, factorisation=factorisation, mean_neighbours=0.003, cutoff_ang=cutoff_ang, **changes)


def energies(network: Network, structure: Structure) -> np.ndarray:
    """What is learned of the atoms, (n_atoms,)."""
    graph = graph_of(structure, network.architecture.cutoff_ang)
    tensors = graph_tensors(graph, torch.float64, torch.device("cpu"))
    with torch.no_grad():
        learned: np.ndarray = network(*tensors).learned_ev.numpy()
    return learned


def seen_from_one_hand(network: Network, structure: Structure) -> np.ndarray:
    """The same before the mean over both hands is taken: true plus pseudo part."""
    network.is_chiral = False
    try:
        return energies(network, structure)
    finally:
        network.is_chiral = True


def moved(structure: Structure, matrix: np.ndarray) -> Structure:
    cell = None if structure.cell_ang is None else structure.cell_ang @ matrix.T
    return replace(structure, positions_ang=structure.positions_ang @ matrix.T, cell_ang=cell)


def chiral_end() -> Structure:
    return Structure(np.array([6, 1, 8, 14]), END)


def two_ends(mirrored: bool) -> Structure:
    """Two chiral ends 2 Å apart, back to back and turned; an atom of one end sees at most the hub of the other."""
    hands = END @ MIRROR if mirrored else END
    turned = hands @ np.diag([1.0, -1.0, -1.0]) @ Rotation.from_rotvec([0.0, 0.0, 0.4]).as_matrix()
    return Structure(np.array([6, 1, 8, 14] * 2), np.vstack([END, turned + np.array([0.0, 0.0, 2.0])]))


@pytest.mark.parametrize("n_tensor_channels", [0, 2])
@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("make", ALL_KINDS)
def test_energies_do_not_change_when_the_system_is_turned_inverted_or_its_atoms_renamed(
    factorisation: str, make: type, n_tensor_channels: int
) -> None:
    structure, network = make(), network_of(factorisation, n_tensor_channels=n_tensor_channels)
    here = energies(network, structure)
    rotation = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    for matrix in (rotation, -rotation, MIRROR):
        assert np.abs(energies(network, moved(structure, matrix)) - here).max() < ROUNDING * np.ptp(here)
    order = np.random.default_rng(2).permutation(structure.n_atoms)
    renamed = replace(structure, numbers=structure.numbers[order], positions_ang=structure.positions_ang[order])
    assert np.abs(energies(network, renamed) - here[order]).max() < ROUNDING * np.ptp(here)


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_networks_of_the_three_full_products_are_the_same_function(l_max: int) -> None:
    outputs = [
        energies(network_of(factorisation, l_max=l_max, l_hidden=min(l_max, 2)), ethanol()) for factorisation in CHIRAL
    ]
    for output in outputs[1:]:
        assert np.abs(output - outputs[0]).max() < ROUNDING * np.ptp(outputs[0])


@pytest.mark.parametrize("factorisation", CHIRAL)
def test_one_layer_makes_pseudo_vectors_and_no_pseudo_scalar(factorisation: str) -> None:
    """The third power of one function has pseudo-tensors of degree 1 and 2; a pseudo-scalar needs another layer."""
    product, mirror = PolynomialProduct(factorisation, 3, 2), torch.tensor(wigner(3, MIRROR))
    x, coefficients = random_features(3, 1), torch.ones(5, 3, 3, dtype=torch.float64)
    difference = product(turn(mirror, x), coefficients) - turn(mirror, product(x, coefficients))
    by_degree = [float(difference[d * d : (d + 1) ** 2].norm()) for d in range(3)]
    assert by_degree[0] < 1e-10
    assert min(by_degree[1:]) > 1.0


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_only_odd_paths_tell_a_surrounding_from_its_mirror_image(factorisation: str) -> None:
    """The pseudo-scalar of every atom is zero for a Gaunt network of any depth; with odd paths it changes sign."""
    for n_layers in (2, 3):
        network = network_of(factorisation, n_layers=n_layers)
        end = chiral_end()
        left, right = (seen_from_one_hand(network, s) for s in (end, moved(end, MIRROR)))
        pseudo, size = 0.5 * (left - right), np.ptp(left)
        if factorisation == "gaunt":
            assert np.abs(pseudo).max() < ROUNDING * size
        else:
            assert np.abs(pseudo).max() > 1e-4 * size
            assert np.abs(0.5 * (left + right) - energies(network, end)).max() < ROUNDING * size


@pytest.mark.parametrize("factorisation", CHIRAL)
def test_a_surrounding_that_is_its_own_mirror_image_has_no_pseudo_scalar(factorisation: str) -> None:
    flat = replace(chiral_end(), positions_ang=END * np.array([1.0, 1.0, 0.0]))
    network = network_of(factorisation)
    left, right = (seen_from_one_hand(network, s) for s in (flat, moved(flat, np.diag([1.0, 1.0, -1.0]))))
    assert np.abs(left - right).max() < ROUNDING * np.ptp(left)


def test_no_atom_of_one_end_sees_more_than_the_hub_of_the_other() -> None:
    for mirrored in (False, True):
        positions = two_ends(mirrored).positions_ang
        distance = np.linalg.norm(positions[:4, None] - positions[None, 4:], axis=-1)
        assert distance[0, 0] < CUTOFF_ANG
        distance[0, 0] = np.inf
        assert distance.min() > CUTOFF_ANG


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_only_odd_paths_tell_two_ends_of_one_hand_from_two_of_both(factorisation: str) -> None:
    network = network_of(factorisation)
    alike, unlike = energies(network, two_ends(False)), energies(network, two_ends(True))
    difference = np.abs(alike - unlike).max() / np.ptp(alike)
    if factorisation == "gaunt":
        assert difference < ROUNDING
    else:
        assert difference > 1e-8
    enantiomer = energies(network, moved(two_ends(False), MIRROR))
    assert np.abs(alike - enantiomer).max() < ROUNDING * np.ptp(alike)


@pytest.mark.parametrize("changes", [{"cutoff_ang": 5.0}, {"n_tensor_channels": 2}])
def test_true_tensors_tell_them_too_where_an_atom_sees_both_ends_or_whole_functions(changes: dict[str, float]) -> None:
    network = network_of("gaunt", **changes)
    alike, unlike = energies(network, two_ends(False)), energies(network, two_ends(True))
    assert np.abs(alike - unlike).max() > 0.01 * np.ptp(alike)


@pytest.mark.parametrize("factorisation", CHIRAL)
def test_forces_are_minus_the_gradient_of_the_energy_with_odd_paths_too(factorisation: str) -> None:
    network, structure, step_ang = network_of(factorisation), slab(), 1e-4
    tensors = list(graph_tensors(graph_of(structure, CUTOFF_ANG), torch.float64, torch.device("cpu")))
    tensors[1].requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(*tensors).learned_ev.sum(), tensors[1])
    force = (gradient.sum(1) - gradient.flatten(0, 1)[tensors[4]].view_as(gradient).sum(1)).numpy()
    ahead, behind = structure.positions_ang.copy(), structure.positions_ang.copy()
    ahead[4, 1] += step_ang
    behind[4, 1] -= step_ang
    slope = [energies(network, structure.moved_to(positions)).sum() for positions in (ahead, behind)]
    assert -(slope[0] - slope[1]) / (2 * step_ang) == pytest.approx(force[4, 1], rel=1e-5)
