"""FIRE: downhill with inertia (Bitzek, Koskinen, Gähler, Moseler, Gumbsch, Phys. Rev. Lett. 97, 170201, 2006)."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

import numpy as np

from equipot.simulation.motions.base import State, Tensors, dot
from equipot.simulation.motions.descent import Descent

# The values of ASE's FIRE, so that steps and minima are the same.
DT_START = 0.1
DT_MAX = 1.0
N_MIN = 5
F_INC = 1.1
F_DEC = 0.5
ALPHA_START = 0.1
F_ALPHA = 0.99


class Fire(Descent):
    """FIRE as ASE has it: unit masses, Euler steps, and a bound on the norm of the whole system's step.

    Tensors: velocity (n_rows, 3); dt; alpha; n_downhill, steps since the power was last not positive.
    """

    name: ClassVar[str] = "fire"
    format_version: ClassVar[int] = 1

    def _first_tensors(self, n_rows: int) -> Tensors:
        return {
            "velocity": np.zeros((n_rows, 3)),
            "dt": np.float64(DT_START),
            "alpha": np.float64(ALPHA_START),
            "n_downhill": np.float64(0.0),
        }

    def _step(self, state: State, places: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, Tensors]:
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
        step = dt * velocity
        length = sqrt(dot(step, step))
        if length > self._params.max_step_ang:
            step = self._params.max_step_ang * step / length
        return step, {
            "velocity": velocity,
            "dt": np.float64(dt),
            "alpha": np.float64(alpha),
            "n_downhill": np.float64(n_downhill),
        }
