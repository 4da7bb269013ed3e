"""Start velocities, and the temperature they stand for."""

from __future__ import annotations

import numpy as np

from equipot.params import MDParams
from equipot.simulation.motions.base import Bodies
from equipot.simulation.motions.noise import Stream, normals
from equipot.structure import Structure
from equipot.units import ANG_PER_FS2_PER_EV_PER_ANG_U, EV_PER_U_ANG2_PER_FS2, KB_EV_PER_K

SMALLEST_MOMENT_RATIO = 1e-9  # a principal moment of inertia below this share of the largest is that of a line
SMALLEST_SHARE = 1e-6  # a drift with less than this share of the energy of one atom's motion is none


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
    return np.asarray(velocities - _rigid_rotation(velocities, positions_ang, masses_u)[0])


def degrees_of_freedom(
    bodies: Bodies, positions_ang: np.ndarray, velocities_ang_per_fs: np.ndarray, keeps_momentum: bool
) -> int:
    """How many there are for the temperature to be shared among, of a system that starts like this.

    Three for each free atom. In a dynamics that keeps momentum, what is not there at the start never comes: three less
    without a drift, and up to three less without a rotation if the system is not periodic. Fixed atoms hold a system,
    and a Langevin thermostat pushes each atom on its own: then nothing is kept.
    """
    count = 3 * bodies.n_free
    if not keeps_momentum or not bodies.all_free:
        return count
    masses, velocities = bodies.masses_u, velocities_ang_per_fs
    little = SMALLEST_SHARE * kinetic_energy_ev(masses, velocities) / len(masses)
    drift = (masses * velocities).sum(axis=0) / masses.sum()
    if kinetic_energy_ev(masses, np.broadcast_to(drift, velocities.shape)) <= little:
        count -= 3
    if not bodies.is_periodic:
        rotation, n_axes = _rigid_rotation(velocities, positions_ang, masses)
        count -= n_axes if kinetic_energy_ev(masses, rotation) <= little else 0
    return count


def kinetic_energy_ev(masses_u: np.ndarray, velocities_ang_per_fs: np.ndarray) -> float:
    """Kinetic energy in eV of masses (n_atoms, 1) and velocities (n_atoms, 3)."""
    squares = velocities_ang_per_fs * velocities_ang_per_fs
    return float(0.5 * EV_PER_U_ANG2_PER_FS2 * (masses_u * squares).sum())


def temperature_k(kinetic_ev: float, n_degrees: int) -> float:
    """Kinetic temperature, K; 0 without degrees of freedom."""
    return 2.0 * kinetic_ev / (n_degrees * KB_EV_PER_K) if n_degrees else 0.0


def _rigid_rotation(velocities: np.ndarray, positions_ang: np.ndarray, masses_u: np.ndarray) -> tuple[np.ndarray, int]:
    """The rigid rotation in velocities (n_atoms, 3), as velocities, and about how many axes the system can rotate."""
    arm = positions_ang - (masses_u * positions_ang).sum(axis=0) / masses_u.sum()
    products = (masses_u[:, :, None] * arm[:, :, None] * arm[:, None, :]).sum(axis=0)
    inertia = np.trace(products) * np.eye(3) - products  # u Å²
    momentum = np.cross(arm, masses_u * velocities).sum(axis=0)
    omega = np.linalg.pinv(inertia, rcond=SMALLEST_MOMENT_RATIO, hermitian=True) @ momentum
    moments = np.linalg.eigvalsh(inertia)
    return np.cross(omega, arm), int((moments > SMALLEST_MOMENT_RATIO * moments.max()).sum())
