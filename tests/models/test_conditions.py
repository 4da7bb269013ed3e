"""Levels of theory and charges: heads and conditioning change nothing where they are not asked for, and one network
tells them apart where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import molecule

from equipot.calculator.ase import EquipotCalculator
from equipot.errors import InvalidParameterError, InvalidStructureError, UnsupportedElementError
from equipot.models.graph import AtomGraph, batch_graphs
from equipot.models.loading import load_potential
from equipot.models.neighbours import NeighbourSearch
from equipot.models.network import Architecture, Network
from equipot.models.potential import eager_pass, graph_tensors
from equipot.models.training.api import evaluate, train
from equipot.models.training.frames import Frame, FrameSet, concatenate
from equipot.models.training.uncertainty import add_to
from equipot.simulation.api import relax

CPU = torch.device("cpu")
ROUNDING_EV = 1e-9
SIZES: dict[str, Any] = {"n_channels": 8, "n_message_channels": 6, "n_pair_channels": 4, "readout_width": 4}
CONDITIONED = Architecture(elements=(1, 6, 8), n_heads=2, charges=(-1, 0, 1), **SIZES)
FIRST, SECOND = "one level", "another level"


def network_of(architecture: Architecture, seed: int = 0) -> Network:
    """A network with every parameter away from zero."""
    torch.manual_seed(seed)
    network = Network(architecture).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def graph_of(atoms: Atoms, charge: int = 0, head: int = 0) -> AtomGraph:
    graph = NeighbourSearch(5.0).graph(atoms.numbers, atoms.positions, None, (False, False, False))
    return replace(graph, charge=np.array([charge]), head=np.array([head]))


def energies_of(network: Network, graph: AtomGraph) -> np.ndarray:
    return eager_pass(network, *graph_tensors(graph, torch.float64, CPU, network.architecture))[0].numpy()


def test_a_network_without_conditions_knows_nothing_of_them() -> None:
    plain = Architecture(elements=(1, 6, 8), **SIZES)
    assert not {"n_heads", "charges"} & set(plain.as_dict())
    names = set(Network(plain).state_dict())
    assert not any("film" in name for name in names)
    assert names < set(Network(CONDITIONED).state_dict())


def test_level_and_charge_change_the_energy_and_turning_the_molecule_does_not() -> None:
    network, ethanol = network_of(CONDITIONED), molecule("CH3CH2OH")
    found = {(q, head): energies_of(network, graph_of(ethanol, q, head)).sum() for q in (-1, 0, 1) for head in (0, 1)}
    assert len({round(value, 4) for value in found.values()}) == 6
    turned = ethanol.copy()
    turned.rotate(77.0, (1.0, 2.0, 3.0))
    for (charge, head), energy in found.items():
        assert energies_of(network, graph_of(turned, charge, head)).sum() == pytest.approx(energy, abs=ROUNDING_EV)


def test_systems_of_two_levels_and_charges_in_one_batch_are_as_alone() -> None:
    network = network_of(CONDITIONED)
    graphs = [graph_of(molecule("H2O"), 1, 0), graph_of(molecule("CH3OH"), -1, 1), graph_of(molecule("CH4"))]
    together = energies_of(network, batch_graphs(graphs))
    alone = np.concatenate([energies_of(network, graph) for graph in graphs])
    np.testing.assert_allclose(together, alone, atol=ROUNDING_EV)


@pytest.mark.parametrize(("charge", "head"), [(0, 0), (1, 0), (-1, 1)])
def test_a_lone_atom_has_its_reference_energy_at_every_level_and_charge(charge: int, head: int) -> None:
    assert energies_of(network_of(CONDITIONED), graph_of(Atoms("O"), charge, head)) == pytest.approx(0.0, abs=1e-12)


def shaken(name: str, n: int, level: float, charge: int, seed: int) -> list[Frame]:
    """A molecule with noise, labelled by springs between all its atoms, and a shift for the level and the charge."""
    start, rng = molecule(name), np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        positions = start.positions + 0.05 * rng.standard_normal(start.positions.shape)
        difference = positions[:, None] - positions[None]
        rest = np.linalg.norm(start.positions[:, None] - start.positions[None], axis=-1)
        distance = np.linalg.norm(difference, axis=-1) + np.eye(len(start))
        stretch = (distance - rest) * (1.0 - np.eye(len(start)))
        forces = -2.0 * level * ((stretch / distance)[..., None] * difference).sum(axis=1)
        energy = 0.5 * level * (stretch**2).sum() + (level - 4.0 + 0.2 * charge) * len(start)
        frames.append(
            Frame(start.numbers, positions, forces, float(energy), np.zeros((3, 3)), np.zeros(3, dtype=bool),
                  np.full(6, np.nan), "shaken", name, charge)
        )  # fmt: skip
    return frames


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FrameSet]:
    """A small potential of two levels and two charges, with expected errors; and its training frames."""
    folder = tmp_path_factory.mktemp("conditions")
    first = [*shaken("H2O", 30, 1.0, 0, 0), *shaken("CH3OH", 30, 1.0, 0, 1), *shaken("CH4", 20, 1.0, 1, 2)]
    base, other = FrameSet.from_frames(first, FIRST), FrameSet.from_frames(shaken("H2O", 30, 2.0, 0, 3), SECOND)
    base.save(folder / "base.npz")
    other.save(folder / "other.npz")
    zero = {"H": 0.0, "C": 0.0, "O": 0.0}
    config = {
        "name": "two-levels",
        "level_of_theory": FIRST,
        "isolated_atom_energies_ev": zero,
        "is_told_charge": True,
        "data": {"train": [str(folder / "base.npz")], "valid": {"n_frames": 8}, "trust_units": True},
        "heads": [
            {
                "level_of_theory": SECOND,
                "isolated_atom_energies_ev": {"H": 0.0, "O": 0.0},
                "data": {"train": [str(folder / "other.npz")], "valid": {"n_frames": 4}, "trust_units": True},
            }
        ],
        "network": {**SIZES, "is_calibrated": True},
        "optimiser": {"n_steps": 200, "atoms_per_batch": 60, "kind": "muon", "learning_rate": 0.01},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    card_path = train(folder / "config.yaml", folder / "run", plots=False, quiet=True).card_path
    held_out = [*shaken("H2O", 10, 1.0, 0, 5), *shaken("CH3OH", 10, 1.0, 0, 6), *shaken("CH4", 10, 1.0, 1, 7)]
    add_to(card_path, base, FrameSet.from_frames(held_out, FIRST), card_path.parent)
    return card_path, concatenate([base])


def test_one_potential_speaks_both_levels(trained: tuple[Path, FrameSet]) -> None:
    card_path, _ = trained
    for level, factor in ((None, 1.0), (SECOND, 2.0)):
        calculator = EquipotCalculator(card_path, level_of_theory=level)
        label = shaken("H2O", 1, factor, 0, 11)[0]
        atoms = Atoms(label.numbers, label.positions_ang)
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(label.energy_ev, abs=0.3)
        assert calculator.results["level_of_theory"] == level or level is None


def test_what_was_not_trained_is_refused_with_what_is_known(trained: tuple[Path, FrameSet]) -> None:
    card_path, _ = trained
    with pytest.raises(InvalidParameterError, match="does not know the level of theory 'CCSD'") as refusal:
        EquipotCalculator(card_path, level_of_theory="CCSD")
    assert SECOND in str(refusal.value.hint)
    water = molecule("H2O")
    water.calc = EquipotCalculator(card_path, charge=-1)
    with pytest.raises(InvalidParameterError, match=r"charge 0, \+1 e"):
        water.get_potential_energy()
    methanol = molecule("CH3OH")
    methanol.calc = EquipotCalculator(card_path, level_of_theory=SECOND)
    with pytest.raises(UnsupportedElementError, match="does not know C"):
        methanol.get_potential_energy()


@pytest.mark.filterwarnings("ignore::equipot.calculator.base.OutsideTrainingDomainWarning")
@pytest.mark.parametrize(("level", "name", "charge"), [(None, "H2O", 0), (None, "CH4", 1), (SECOND, "H2O", 0)])
def test_evaluate_asks_at_the_level_and_charge_of_the_frames(
    trained: tuple[Path, FrameSet], tmp_path: Path, level: str | None, name: str, charge: int
) -> None:
    card_path, _ = trained
    frames = shaken(name, 3, 1.0, charge, 21)
    blocks = []
    for frame in frames:
        rows = [[s, *frame.positions_ang[i], *frame.forces_ev_per_ang[i]] for i, s in enumerate(molecule(name).symbols)]
        head = f'Properties=species:S:1:pos:R:3:forces:R:3 energy={frame.energy_ev} charge={charge} pbc="F F F"'
        blocks.append("\n".join([str(len(rows)), head, *(" ".join(map(str, row)) for row in rows)]))
    path = tmp_path / "frames.extxyz"
    path.write_text("\n".join(blocks) + "\n")
    evaluation = evaluate(card_path, [path], level_of_theory=level)
    assert evaluation.level_of_theory == (level or FIRST)
    expected = []
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions_ang)
        atoms.calc = EquipotCalculator(card_path, level_of_theory=level, charge=charge)
        expected.append(atoms.get_potential_energy())
    np.testing.assert_allclose(evaluation.together.energy_ev[:, 1], expected, atol=1e-8)


@pytest.mark.parametrize(
    ("charge", "reason"), [("-1", r"charge of -1 e.*knows 0, \+1"), ("0.5", "0.5 e, not a whole"), ("some", "'some'")]
)
def test_frames_of_a_charge_that_cannot_be_judged_are_named(
    trained: tuple[Path, FrameSet], tmp_path: Path, charge: str, reason: str
) -> None:
    path = tmp_path / "frames.extxyz"
    path.write_text(f"1\nProperties=species:S:1:pos:R:3 energy=0.0 charge={charge}\nO 0 0 0\n")
    with pytest.raises(InvalidStructureError, match=reason):
        evaluate(trained[0], [path])


def test_a_conditioned_network_that_is_told_nothing_refuses_to_guess() -> None:
    tensors = graph_tensors(graph_of(molecule("H2O")), torch.float64, CPU, CONDITIONED)
    with pytest.raises(ValueError, match="must be told"):
        network_of(CONDITIONED)(*tensors[:5])


@pytest.mark.filterwarnings("ignore::equipot.calculator.base.OutsideTrainingDomainWarning")  # neutral methane is new
def test_a_charge_in_info_counts_more_than_the_calculators(trained: tuple[Path, FrameSet]) -> None:
    card_path, _ = trained
    methane = molecule("CH4")
    methane.calc = EquipotCalculator(card_path, charge=1)
    charged = methane.get_potential_energy()
    methane.info["charge"] = 0
    assert methane.get_potential_energy() != pytest.approx(charged, abs=1e-3)


def test_records_say_the_level_and_the_expected_error(trained: tuple[Path, FrameSet]) -> None:
    card_path, _ = trained
    result = relax(molecule("H2O"), str(card_path), max_steps=3, level_of_theory=SECOND)[0]
    assert result.level_of_theory == SECOND
    assert result.uncertainty_ev_per_ang is not None
    assert result.uncertainty_ev_per_ang > 0


def test_the_expected_error_grows_away_from_what_was_learned(trained: tuple[Path, FrameSet]) -> None:
    card_path, _ = trained
    potential = load_potential(card_path)
    near, far = molecule("H2O"), molecule("H2O")
    far.positions *= 1.5
    errors = [potential.evaluate(graph_of(atoms)).uncertainty_ev_per_ang for atoms in (near, far)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[1] > errors[0]
    assert load_potential("elements").uncertainty is None


@pytest.mark.filterwarnings("ignore::equipot.calculator.base.OutsideTrainingDomainWarning")
def test_a_shipped_potential_says_how_wrong_its_forces_may_be_and_a_run_can_be_stopped_by_it() -> None:
    potential = load_potential("organic-3", device="cpu")
    assert potential.card.uncertainty is not None
    expected, found = np.array(potential.card.uncertainty.curve).T
    assert (np.diff(expected) > 0).all()
    assert (found < 1.15 * expected).all()  # never much worse than said
    assert (found > 0.75 * expected).all()
    errors = []
    for stretch in (1.0, 1.2, 1.4):
        ethanol = molecule("CH3CH2OH")
        ethanol.positions *= stretch
        ethanol.calc = EquipotCalculator(potential)
        ethanol.get_forces()
        errors.append(ethanol.calc.results["uncertainty"])
        assert ethanol.calc.results["uncertainties"].shape == (9,)
        assert ethanol.calc.results["uncertainties"].max() == errors[-1]
    assert 0.02 < errors[0] < 0.3  # eV/Å
    assert errors == sorted(errors)
    hot = molecule("CH3CH2OH")
    hot.positions *= 1.4
    limit = {"limit": 0.5 * errors[-1], "policy": "stop"}
    result = relax(hot, potential, max_steps=50, guards={"max_uncertainty_ev_per_ang": limit})[0]
    assert result.outcome == "guard_stopped"
    assert result.guard is not None
    assert result.guard["name"] == "max_uncertainty_ev_per_ang"
