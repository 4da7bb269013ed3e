"""FIRE: downhill with inertia (Bitzek, Koskinen, Gähler, Moseler, Gumbsch, Phys. Rev. Lett. 97, 170201, 2006)."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import ClassVar

import numpy as np

from equipot.params import RelaxParams
from equipot.simulation.motions.base import Bodies, State, Tensors, Timeless, dot
from equipot.simulation.verdicts import Outcome, Verdict
from equipot.structure import Structure

# The values of ASE's FIRE, so that steps and minima are the same.
DT_START = 0.1
DT_MAX = 1.0
N_MIN = 5
F_INC = 1.1
F_DEC = 0.5
ALPHA_START = 0.1
F_ALPHA = 0.99


class Fire(Timeless):
    """FIRE as ASE has it: unit masses, Euler steps, and a bound on the norm of the whole system's step.

    Tensors: velocity (n_atoms, 3); dt; alpha; n_downhill, steps since the power was last not positive.
    """

    name: ClassVar[str] = "fire"
    format_version: ClassVar[int] = 1

    def __init__(self, structure: Structure, params: RelaxParams) -> None:
        self._structure = structure
        self._bodies = Bodies.of(structure)
        self._params = params

    def start(self) -> State:
        tensors: Tensors = {
            "velocity": np.zeros_like(self._structure.positions_ang),
            "dt": np.float64(DT_START),
            "alpha": np.float64(ALPHA_START),
            "n_downhill": np.float64(0.0),
        }
        return State(0, self._structure.positions_ang, self._structure.cell_ang, tensors=tensors)

    def move(self, state: State) -> State:
        forces = state.forces_ev_per_ang * self._bodies.free
        velocity, dt = np.asarray(state.tensors["velocity"]), float(state.tensors["dt"])
        alpha, n_downhill = float(state.tensors["alpha"]), float(state.tensors["n_downhill"])
        power = dot(forces, velocity)
        if power > 0.0:
            speed_over_force = sqrt(dot(velocity, velocity)) / sqrt(dot(forces, forces))
            velocity = (1.0 - alpha) * velocity + alpha * speed_over_force * forces
            if n_downhill > N_MIN:
                dt = min(dt * F_INC, DT_MAX)
                alpha *= F_ALPHA
            n_downhill += 1.0
        elif state.step > 0:  # at the first step there is no velocity yet, which is no sign of going uphill
            velocity, alpha, dt, n_downhill = np.zeros_like(velocity), ALPHA_START, dt * F_DEC, 0.0
        velocity = velocity + dt * forces
        displacement = dt * velocity
        length = sqrt(dot(displacement, displacement))
        if length > self._params.max_step_ang:
            displacement = self._params.max_step_ang * displacement / length
        tensors: Tensors = {
            "velocity": velocity,
            "dt": np.float64(dt),
            "alpha": np.float64(alpha),
            "n_downhill": np.float64(n_downhill),
        }
        return replace(
            state,
            step=state.step + 1,
            positions_ang=state.positions_ang + displacement,
            tensors=tensors,
            evaluation=None,
        )

    def settle(self, moved: State) -> State:
        return moved

    def verdict(self, state: State) -> Verdict | None:
        fmax = self.fmax_ev_per_ang(state)
        limit = self._params.fmax_ev_per_ang
        criterion = f"largest force on a free atom < {limit:g} eV/Å"
        if fmax < limit:
            return Verdict(Outcome.CONVERGED, criterion)
        return Verdict(Outcome.MAX_STEPS, criterion) if state.step >= self._params.max_steps else None
