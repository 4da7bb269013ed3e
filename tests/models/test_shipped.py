"""The potentials in the wheel do what their cards say, and what any potential must."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from equipot.cards import SHIPPED_WEIGHTS, find_model, read_card
from equipot.elements import COVALENT_RADII_ANG, NUMBERS
from equipot.models.loading import load_potential
from equipot.models.potential import Potential
from equipot.structure import Structure
from tests.models.conftest import ethanol, graph_of

SHIPPED = ("organic", "elements")
#: from here inwards, in units of the sum of covalent radii, two atoms alone must push each other apart
REPULSION_FROM = 0.65

#: lattice constants in Å with PBE (Tran, Stelzl and Blaha, J. Chem. Phys. 144, 204120, 2016; Ge: the training data)
PBE_LATTICE_CONSTANTS_ANG = {
    "Li": ("bcc", 3.434), "Si": ("diamond", 5.469), "Ni": ("fcc", 3.518), "Cu": ("fcc", 3.632),
    "Ge": ("diamond", 5.76), "Nb": ("bcc", 3.312), "Mo": ("bcc", 3.164), "Ta": ("bcc", 3.320), "W": ("bcc", 3.184),
}  # fmt: skip
PRIMITIVE_CELLS = {
    "bcc": (0.5 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]), [[0.0, 0.0, 0.0]]),
    "fcc": (0.5 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), [[0.0, 0.0, 0.0]]),
    "diamond": (0.5 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]]),
}


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Potential:
    return load_potential(request.param, device="cpu")


def test_every_shipped_card_is_valid_and_small() -> None:
    cards = [read_card(path) for path in SHIPPED_WEIGHTS.glob("*.json")]
    assert {alias for card in cards for alias in card.aliases} == set(SHIPPED)
    for card in cards:
        assert card.test_errors
        assert card.limits
        assert (SHIPPED_WEIGHTS / f"{card.name}.safetensors").stat().st_size < 10_000_000


def test_two_close_atoms_repel_for_every_pair_of_elements(shipped: Potential) -> None:
    for pair in itertools.combinations_with_replacement(shipped.elements, 2):
        numbers = np.array([NUMBERS[symbol] for symbol in pair])
        start = REPULSION_FROM * COVALENT_RADII_ANG[numbers].sum()
        energies = []
        for distance in np.arange(start, 0.3, -0.02):
            structure = Structure(numbers, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]))
            energies.append(shipped.evaluate(graph_of(structure, shipped.cutoff_ang)).energy_ev)
        assert np.all(np.diff(energies) > 0.0), f"{pair} attract somewhere below {start:.2f} Å"


def test_an_atom_alone_has_the_energy_on_the_card(shipped: Potential) -> None:
    for symbol, energy_ev in shipped.card.isolated_atom_energies_ev.items():
        alone = shipped.evaluate(graph_of(Structure(np.array([NUMBERS[symbol]]), np.zeros((1, 3))), 5.0))
        assert alone.energy_ev == energy_ev


@pytest.mark.parametrize("symbol", PBE_LATTICE_CONSTANTS_ANG)
def test_the_lattice_constant_of_every_element_is_that_of_pbe_within_one_percent(symbol: str) -> None:
    elements = load_potential("elements", device="cpu")
    lattice, expected = PBE_LATTICE_CONSTANTS_ANG[symbol]
    cell, fractional = PRIMITIVE_CELLS[lattice]
    scales = np.linspace(0.97, 1.03, 13)
    energies = []
    for scale in scales:
        vectors = expected * scale * cell
        positions = np.array(fractional) @ (np.eye(3) * expected * scale)
        structure = Structure(np.full(len(positions), NUMBERS[symbol]), positions, vectors, (True, True, True))
        energies.append(elements.evaluate(graph_of(structure, elements.cutoff_ang)).energy_ev)
    lowest = int(np.argmin(energies))
    assert 0 < lowest < len(scales) - 1, "the minimum lies within three percent"
    curvature, slope, _ = np.polyfit(scales[lowest - 1 : lowest + 2], energies[lowest - 1 : lowest + 2], 2)
    assert -slope / (2 * curvature) == pytest.approx(1.0, abs=0.01)


def test_an_ordinary_molecule_is_inside_the_training_domain_and_a_crushed_one_outside() -> None:
    organic = load_potential("organic", device="cpu")
    ordinary, crushed = ethanol(), ethanol()
    crushed = crushed.moved_to(0.7 * crushed.positions_ang)
    inside, outside = (
        organic.evaluate(graph_of(structure, organic.cutoff_ang)).domain_distance for structure in (ordinary, crushed)
    )
    assert inside is not None
    assert outside is not None
    assert inside < 1.0 < outside


def test_the_card_names_the_weights_it_comes_with(shipped: Potential) -> None:
    path, card = find_model(shipped.name)
    assert shipped.sha256 == card.weights_sha256
    assert path.with_suffix(".safetensors").exists()
