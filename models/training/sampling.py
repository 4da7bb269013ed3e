"""Paths on an energy surface that training geometries are picked from: a BFGS descent and Langevin dynamics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from equipot.models.training.frames import Floats, Ints
from equipot.models.training.labels import LabelError, Point, Surface

BOLTZMANN_EV_PER_K = 8.617333262e-5
ACCELERATION = 9.648533212e-3  # (eV/Å)/u in Å/fs²
MASSES_U = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 9: 18.998, 15: 30.974, 16: 32.06, 17: 35.45, 35: 79.904}


def relaxation(
    surface: Surface, positions_ang: Floats, max_steps: int, fmax: float = 0.02, hessian: Floats | None = None
) -> list[Point]:
    """Every point of a BFGS descent from `positions_ang`, first to last.

    The Hessian starts at 70 eV/Å², as in ASE's BFGS, or at `hessian` with its soft modes at 3 eV/Å²; a step moves no
    atom by more than 0.2 Å.
    """
    if hessian is None:
        hessian = 70.0 * np.eye(positions_ang.size)
    else:
        stiffness, modes = np.linalg.eigh(hessian)
        hessian = (modes * np.maximum(np.abs(stiffness), 3.0)) @ modes.T
    points = [Point(positions_ang, *surface(positions_ang))]
    for _ in range(max_steps):
        point = points[-1]
        force = point.forces_ev_per_ang.ravel()
        if np.linalg.norm(point.forces_ev_per_ang, axis=1).max() < fmax:
            break
        omega, vectors = np.linalg.eigh(hessian)
        step = (vectors @ ((force @ vectors) / np.abs(omega))).reshape(-1, 3)
        longest = np.linalg.norm(step, axis=1).max()
        step *= min(1.0, 0.2 / longest)
        moved = point.positions_ang + step
        try:
            points.append(Point(moved, *surface(moved)))
        except LabelError:
            break
        dx = step.ravel()
        df = points[-1].forces_ev_per_ang.ravel() - force
        hx = hessian @ dx
        if np.abs(dx).max() > 1e-7:
            hessian = hessian - np.outer(df, df) / (dx @ df) - np.outer(hx, hx) / (dx @ hx)
    return points


def langevin(
    surface: Surface, numbers: Ints, start: Floats, temperature_k: float, n_steps: int, random: np.random.Generator
) -> Iterator[Point]:
    """Points of a Langevin trajectory (BAOAB, 1 fs, friction 0.02/fs) started at `start`, one per step.

    Velocities start at twice the temperature, since a relaxed structure has no potential energy to share.
    """
    dt, friction = 1.0, 0.02
    mass = np.array([MASSES_U[int(z)] for z in numbers])[:, None]
    thermal = np.sqrt(BOLTZMANN_EV_PER_K * temperature_k / mass * ACCELERATION)
    keep = np.exp(-friction * dt)
    positions, velocity = start.copy(), np.sqrt(2.0) * thermal * random.standard_normal(start.shape)
    force = surface(positions)[1]
    for _ in range(n_steps):
        velocity = velocity + 0.5 * dt * ACCELERATION * force / mass
        positions = positions + 0.5 * dt * velocity
        velocity = keep * velocity + np.sqrt(1 - keep**2) * thermal * random.standard_normal(start.shape)
        positions = positions + 0.5 * dt * velocity
        energy, force = surface(positions)
        velocity = velocity + 0.5 * dt * ACCELERATION * force / mass
        yield Point(positions, energy, force)
