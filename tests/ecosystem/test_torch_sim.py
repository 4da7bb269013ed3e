"""Our potentials as models of TorchSim."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equipot import EquipotCalculator, load_potential
from equipot.errors import UnsupportedElementError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of TorchSim's own imports
    ts = pytest.importorskip("torch_sim")

from equipot.calculator.torch_sim import EquipotModel

pytestmark = pytest.mark.filterwarnings("ignore:::torch_sim")


@pytest.fixture(scope="module")
def elements() -> EquipotModel:
    return EquipotModel("elements", device="cpu")


def crystals() -> list[Atoms]:
    found = [bulk("Cu", cubic=True), bulk("Si"), bulk("W", cubic=True).repeat((2, 1, 1))]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed)
    return found


def test_energies_forces_and_stresses_of_a_state_are_those_of_the_calculator(elements: EquipotModel) -> None:
    systems = crystals()
    state = ts.io.atoms_to_state(systems, torch.device("cpu"), torch.float64)
    out = elements(state)
    forces = out["forces"].split([len(atoms) for atoms in systems])
    for k, atoms in enumerate(systems):
        atoms.calc = EquipotCalculator(elements.potential)
        assert out["energy"][k].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(forces[k].numpy(), atoms.get_forces(), atol=1e-9)
        np.testing.assert_allclose(out["stress"][k].numpy(), atoms.get_stress(voigt=False), atol=1e-10)


def test_a_state_without_a_cell_is_a_molecule() -> None:
    water = molecule("H2O", vacuum=2.0)
    model = EquipotModel("organic", device="cpu")
    out = model(ts.io.atoms_to_state([water], torch.device("cpu"), torch.float64))
    water.calc = EquipotCalculator(model.potential)
    assert out["energy"].item() == pytest.approx(water.get_potential_energy(), abs=1e-9)


def test_torch_sims_own_validation_of_a_model_passes() -> None:
    """Its systems are silicon and iron; the potential here is `elements` with nickel said to be iron."""
    from torch_sim.models.interface import validate_model_outputs

    class NickelForIron(EquipotModel):
        def forward(self, state: Any, **unused: Any) -> dict[str, torch.Tensor]:
            state = state.clone()
            state.atomic_numbers[state.atomic_numbers == 26] = 28
            return super().forward(state)

    validate_model_outputs(NickelForIron("elements", device="cpu"), torch.device("cpu"), torch.float64)


def test_torch_sim_relaxes_crystals_to_the_minima_that_we_find(elements: EquipotModel) -> None:
    from equipot import relax

    systems = crystals()[:2]
    state = ts.optimize(
        system=systems,
        model=elements,
        optimizer=ts.optimizers.fire,
        convergence_fn=ts.generate_force_convergence_fn(0.005, include_cell_forces=False),
        max_steps=300,
    )
    ours = relax(systems, elements.potential, fmax_ev_per_ang=0.005)
    assert state.energy.numpy() == pytest.approx([result.energy_ev for result in ours], abs=1e-4)


def test_an_element_that_the_potential_does_not_know_is_refused_by_name(elements: EquipotModel) -> None:
    state = ts.io.atoms_to_state([bulk("Au")], torch.device("cpu"), torch.float64)
    with pytest.raises(UnsupportedElementError, match="does not know Au"):
        elements(state)


def test_single_precision_and_a_loaded_potential_are_taken() -> None:
    model = EquipotModel(load_potential("elements", device="cpu", dtype="float32"))
    out = model(ts.io.atoms_to_state([bulk("Cu")], torch.device("cpu"), torch.float32))
    assert {value.dtype for value in out.values()} == {torch.float32}
