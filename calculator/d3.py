"""Grimme's D3 dispersion with Becke-Johnson damping, for molecules and crystals, added to any ASE calculator.

    E = -1/2 Σ_ij C6_ij [s6 / (r⁶ + f⁶) + s8 3 Q_i Q_j / (r⁸ + f⁸)],  f = a1 √(3 Q_i Q_j) + a2

over all pairs and periodic images within 60 Bohr (the last 8 of them fading), C6 by the coordination numbers of both
atoms (Grimme et al., J. Chem. Phys. 132, 154104, 2010; Grimme, Ehrlich, Goerigk, J. Comput. Chem. 32, 1456, 2011). The
three-body term is left out, as it is in most programs. Reference C6, radii and damping parameters are those of
tad-dftd3, whose energy of a molecule this equals; the sum over images, forces and stress are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree
from vesin import NeighborList

from equipot.calculator.base import has_volume
from equipot.errors import InvalidParameterError, UnsupportedElementError

if TYPE_CHECKING:
    from tad_dftd3.reference import Reference

CUTOFF_BOHR = 60.0  # of the energy, and
COORDINATION_CUTOFF_BOHR = 40.0  # of coordination numbers, as in s-dftd3 and tad-dftd3; both are reached smoothly
SWITCH_WIDTH_BOHR = 8.0  # so that energies of crystals have no jumps where a shell of neighbours crosses the cutoff
STEEPNESS = 16.0  # of the counting function (k1 of the paper)
HEAVIEST = 103  # the last element with reference data
INSTALL = "Install it: pip install 'equipot[d3]'"


class DispersionCalculator(Calculator):
    """The numbers of `calculator` plus those of D3(BJ) with the parameters of a functional, such as "pbe".

    atoms.calc = DispersionCalculator(EquipotCalculator("elements"), "pbe")

    Raises InvalidParameterError if tad-dftd3 is not installed or the functional has no parameters.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  # declared so by ASE

    def __init__(self, calculator: BaseCalculator, functional: str) -> None:
        self.calculator = calculator
        self.dispersion = Dispersion(functional)
        super().__init__()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy, forces and, if the atoms have a volume and the calculator can, stress."""
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms
        assert atoms is not None
        energy, forces, virial = self.dispersion.evaluate(atoms)
        energy += float(self.calculator.get_property("energy", atoms))
        forces = forces + self.calculator.get_property("forces", atoms)
        results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}
        if has_volume(atoms):
            try:
                stress = np.asarray(self.calculator.get_property("stress", atoms))
            except PropertyNotImplementedError:
                if "stress" in properties:
                    raise
            else:
                stress = full_3x3_to_voigt_6_stress(stress) if stress.shape == (3, 3) else stress
                results["stress"] = stress + full_3x3_to_voigt_6_stress(virial) / atoms.get_volume()
        self.results = results

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, in the eyes of either part (a charge in info, for one)."""
        changes: list[str] = list(super().check_state(atoms, tol=tol))
        inner = getattr(self.calculator, "check_state", None)
        return changes or (list(inner(atoms)) if inner is not None else [])

    def reset(self) -> None:
        """Forget what was computed, in both parts."""
        super().reset()
        if hasattr(getattr(self, "calculator", None), "reset"):
            self.calculator.reset()


class Dispersion:
    """D3(BJ) of a functional."""

    def __init__(self, functional: str) -> None:
        self.functional = functional
        self.parameters = _parameters(functional)

    def evaluate(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy in eV, forces (n_atoms, 3) in eV/Å and dE/dstrain (3, 3) in eV.

        Raises UnsupportedElementError for elements heavier than lawrencium.
        """
        if len(atoms) and atoms.numbers.max() > HEAVIEST:
            raise UnsupportedElementError("D3 has no reference data beyond element 103.", pointer="/structures")
        positions = torch.tensor(atoms.positions / Bohr, dtype=torch.float64, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        first, second, offsets = _pairs(atoms)
        if len(first) == 0:
            return 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
        vectors = positions[second] - positions[first] + offsets
        vectors = vectors + vectors @ strain
        energy = self._energy(torch.tensor(atoms.numbers, dtype=torch.int64), first, second, vectors.norm(dim=1))
        gradient, virial = torch.autograd.grad(energy, (positions, strain))
        virial = 0.5 * (virial + virial.T)  # the energy knows no rotation
        return energy.item() * Hartree, -gradient.numpy() * Hartree / Bohr, virial.numpy() * Hartree

    def _energy(
        self, numbers: torch.Tensor, first: torch.Tensor, second: torch.Tensor, distances: torch.Tensor
    ) -> torch.Tensor:
        """In Hartree, from a list in which every pair stands twice; distances in Bohr."""
        from tad_dftd3 import data, model
        from tad_mctc.data import radii

        radius = radii.COV_D3(dtype=torch.float64)[numbers]
        counts = torch.sigmoid(STEEPNESS * ((radius[first] + radius[second]) / distances - 1.0))
        counts = counts * _switched_off(distances, COORDINATION_CUTOFF_BOHR)
        coordination = torch.zeros(len(numbers), dtype=torch.float64).index_add(0, first, counts)
        weights = model.weight_references(numbers, coordination, _reference())
        c6 = model.atomic_c6(numbers, weights, _reference())[first, second]
        quotient = data.R4R2(dtype=torch.float64)[numbers]
        c8_over_c6 = 3.0 * quotient[first] * quotient[second]
        s6, s8, a1, a2 = self.parameters
        damping = a1 * c8_over_c6.sqrt() + a2
        sixth = s6 / (distances**6 + damping**6)
        eighth = s8 * c8_over_c6 / (distances**8 + damping**8)
        return -0.5 * (c6 * (sixth + eighth) * _switched_off(distances, CUTOFF_BOHR)).sum()


def _switched_off(distances: torch.Tensor, cutoff: float) -> torch.Tensor:
    """One up to the width before the cutoff, zero beyond it; first and second derivatives are continuous."""
    x = ((distances - cutoff + SWITCH_WIDTH_BOHR) / SWITCH_WIDTH_BOHR).clamp(0.0, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def _pairs(atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices of both atoms of every pair within the cutoff, each pair twice, and the offsets of the second in Bohr."""
    search = NeighborList(cutoff=CUTOFF_BOHR * Bohr, full_list=True, n_threads=1, sorted=True)
    cell = np.array(atoms.cell.complete()) if atoms.pbc.any() else np.zeros((3, 3))
    first, second, shifts = search.compute(
        points=np.ascontiguousarray(atoms.positions), box=cell, periodic=np.array(atoms.pbc), quantities="ijS"
    )
    offsets = shifts.astype(np.float64) @ cell / Bohr
    return (
        torch.from_numpy(first.astype(np.int64)),
        torch.from_numpy(second.astype(np.int64)),
        torch.from_numpy(offsets),
    )


@cache
def _reference() -> Reference:
    from tad_dftd3.reference import Reference

    return Reference(dtype=torch.float64)


def _parameters(functional: str) -> tuple[float, float, float, float]:
    """s6, s8, a1 and a2."""
    try:
        from tad_dftd3.param import get_functional_params
    except ImportError as error:
        raise InvalidParameterError(
            "The package tad-dftd3, which D3 needs, is not installed.", pointer="/model", hint=INSTALL
        ) from error
    try:
        found = get_functional_params(functional, damping="bj", dtype=torch.float64)
    except (KeyError, ValueError) as error:
        raise InvalidParameterError(
            f"There are no D3(BJ) parameters for {functional!r}.",
            pointer="/model",
            hint="Those of other functionals are named as in s-dftd3: pbe, r2scan, b3lyp, ...",
        ) from error
    values = {name: float(value) for name, value in found.items()}
    return values.get("s6", 1.0), values["s8"], values["a1"], values["a2"]
