"""Start velocities, and the temperature they stand for."""

from __future__ import annotations

import numpy as np

from equipot.params import MDParams
from equipot.simulation.motions.base import Bodies
from equipot.simulation.motions.noise import Stream, normals
from equipot.structure import Structure
from equipot.units import ANG_PER_FS2_PER_EV_PER_ANG_U, EV_PER_U_ANG2_PER_FS2, KB_EV_PER_K

SMALLEST_MOMENT_RATIO = 1e-9  # a principal moment of inertia below this share of the largest is that of a line


def start_velocities_ang_per_fs(structure: Structure, bodies: Bodies, params: MDParams, seed: int) -> np.ndarray:
    """The velocities (n_atoms, 3) a run starts with, in Å/fs; fixed atoms have none.

    Drift and rotation are taken out of drawn velocities only, without rescaling: what is left is the Maxwell-Boltzmann
    distribution of the remaining degrees of freedom. Given velocities are used as they are.
    """
    if params.velocities == "given" and structure.velocities_ang_per_fs is not None:
        return np.asarray(structure.velocities_ang_per_fs * bodies.free)
    if params.velocities != "maxwell_boltzmann":
        return np.zeros((structure.n_atoms, 3))
    thermal = thermal_speeds_ang_per_fs(params.temperature_at_k(0.0), bodies.masses_u)
    velocities: np.ndarray = thermal * normals(seed, Stream.VELOCITIES, 0, structure.n_atoms) * bodies.free
    if removes_drift(params, bodies):
        velocities = velocities - (bodies.masses_u * velocities).sum(axis=0) / bodies.masses_u.sum()
    if removes_rotation(params, bodies):
        velocities = without_rotation(velocities, structure.positions_ang, bodies.masses_u)
    return velocities


def thermal_speeds_ang_per_fs(temperature_k: float, masses_u: np.ndarray) -> np.ndarray:
    """Standard deviation of each velocity component, sqrt(kT/m), shaped like the masses."""
    return np.sqrt(KB_EV_PER_K * temperature_k * ANG_PER_FS2_PER_EV_PER_ANG_U / masses_u)


def removes_drift(params: MDParams, bodies: Bodies) -> bool:
    """Fixed atoms hold the system: then there is no drift to remove."""
    return params.velocities == "maxwell_boltzmann" and params.remove_com and bodies.all_free


def removes_rotation(params: MDParams, bodies: Bodies) -> bool:
    """A periodic system does not rotate."""
    chosen = params.velocities == "maxwell_boltzmann" and params.remove_rotation
    return chosen and bodies.all_free and not bodies.is_periodic


def without_rotation(velocities: np.ndarray, positions_ang: np.ndarray, masses_u: np.ndarray) -> np.ndarray:
    """The velocities (n_atoms, 3) less a rigid rotation, so that the angular momentum about the centre is zero."""
    arm, inertia = _arms_and_inertia(positions_ang, masses_u)
    momentum = np.cross(arm, masses_u * velocities).sum(axis=0)
    omega = np.linalg.pinv(inertia, rcond=SMALLEST_MOMENT_RATIO, hermitian=True) @ momentum
    return np.asarray(velocities - np.cross(omega, arm))


def degrees_of_freedom(params: MDParams, bodies: Bodies, positions_ang: np.ndarray) -> int:
    """How many there are for the temperature to be shared among.

    Three for each free atom. In nve, what was taken out of the start velocities stays out (three for the drift, up
    to three for the rotation); a Langevin thermostat puts it back.
    """
    count = 3 * bodies.n_free
    if params.ensemble == "nve" and removes_drift(params, bodies):
        count -= 3
    if params.ensemble == "nve" and removes_rotation(params, bodies):
        moments = np.linalg.eigvalsh(_arms_and_inertia(positions_ang, bodies.masses_u)[1])
        count -= int((moments > SMALLEST_MOMENT_RATIO * moments.max()).sum())
    return max(count, 0)


def kinetic_energy_ev(masses_u: np.ndarray, velocities_ang_per_fs: np.ndarray) -> float:
    """Kinetic energy in eV of masses (n_atoms, 1) and velocities (n_atoms, 3)."""
    squares = velocities_ang_per_fs * velocities_ang_per_fs
    return float(0.5 * EV_PER_U_ANG2_PER_FS2 * (masses_u * squares).sum())


def temperature_k(kinetic_ev: float, n_degrees: int) -> float:
    """Kinetic temperature, K; 0 without degrees of freedom."""
    return 2.0 * kinetic_ev / (n_degrees * KB_EV_PER_K) if n_degrees else 0.0


def _arms_and_inertia(positions_ang: np.ndarray, masses_u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions about the centre of mass (n_atoms, 3), and the tensor of inertia (3, 3), u Å²."""
    arm = positions_ang - (masses_u * positions_ang).sum(axis=0) / masses_u.sum()
    squares = (masses_u * arm * arm).sum()
    products = (masses_u[:, :, None] * arm[:, :, None] * arm[:, None, :]).sum(axis=0)
    return arm, squares * np.eye(3) - products
