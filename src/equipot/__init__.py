"""equipot: a trained E(3)-equivariant interatomic potential, and a service that runs simulations with it.

    from equipot import EquipotCalculator
    atoms.calc = EquipotCalculator("organic")

Importing the package is cheap; torch and ASE are loaded when a name that needs them is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Threads of torch that wait for each other must sleep, not spin; OpenMP reads this when torch is loaded. With two
# threads on two busy cores, spinning made a step of molecular dynamics 40 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "EquipotCalculator": "equipot.calculator.ase",
    "load_potential": "equipot.models.loading",
    "relax": "equipot.simulation.api",
    "run_md": "equipot.simulation.api",
    "singlepoint": "equipot.simulation.api",
    "AsyncClient": "equipot.service.client",
    "Client": "equipot.service.client",
    "RemoteCalculator": "equipot.service.remote_calculator",
}
__all__ = [
    "AsyncClient",
    "Client",
    "EquipotCalculator",
    "RemoteCalculator",
    "__version__",
    "load_potential",
    "relax",
    "run_md",
    "singlepoint",
]

if TYPE_CHECKING:
    from equipot.calculator.ase import EquipotCalculator
    from equipot.models.loading import load_potential
    from equipot.service.client import AsyncClient, Client
    from equipot.service.remote_calculator import RemoteCalculator
    from equipot.simulation.api import relax, run_md, singlepoint


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'equipot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
