"""L-BFGS: downhill by Newton steps, the Hessian learned on the way (Liu, Nocedal, Math. Program. 45, 503, 1989)."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

import numpy as np

from equipot.simulation.motions.base import State, Tensors, dot
from equipot.simulation.motions.descent import Descent

# The values of ASE's LBFGS, so that steps and minima are the same.
MEMORY = 100
STIFFNESS_EV_PER_ANG2 = 70.0


class Lbfgs(Descent):
    """L-BFGS as ASE has it: no line search, and a bound on the longest move of an atom.

    Tensors: place and force (n_rows, 3) of the step before; of the last m <= 100 steps, oldest first, steps and
    changes (m, n_rows, 3), what the places and the gradient changed by, and curvatures (m,), 1 / (step . change).
    """

    name: ClassVar[str] = "lbfgs"
    format_version: ClassVar[int] = 1

    def _first_tensors(self, n_rows: int) -> Tensors:
        none = np.zeros((0, n_rows, 3))
        return {
            "place": np.zeros((n_rows, 3)),
            "force": np.zeros((n_rows, 3)),
            "steps": none,
            "changes": none,
            "curvatures": np.zeros(0),
        }

    def _step(self, state: State, places: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, Tensors]:
        steps, changes, curvatures = (np.asarray(state.tensors[name]) for name in ("steps", "changes", "curvatures"))
        if state.step > 0:
            step = places - np.asarray(state.tensors["place"])
            change = np.asarray(state.tensors["force"]) - forces
            curvature = dot(change, step)
            if curvature != 0.0:  # 0 only where nothing moved, and nothing is learned
                steps = np.concatenate([steps, step[None]])[-MEMORY:]
                changes = np.concatenate([changes, change[None]])[-MEMORY:]
                curvatures = np.append(curvatures, 1.0 / curvature)[-MEMORY:]
        direction = newton_step(forces, steps, changes, curvatures)
        longest = sqrt(float((direction * direction).sum(axis=1).max(initial=0.0)))
        if longest >= self._params.max_step_ang:
            direction = direction * (self._params.max_step_ang / longest)
        tensors: Tensors = {
            "place": places,
            "force": forces,
            "steps": steps,
            "changes": changes,
            "curvatures": curvatures,
        }
        return direction, tensors


def newton_step(forces: np.ndarray, steps: np.ndarray, changes: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
    """The inverse Hessian times the forces (n_rows, 3), by the two loops over what was learned (Nocedal 1980)."""
    rest, weights = forces.copy(), []
    for step, change, curvature in zip(steps[::-1], changes[::-1], curvatures[::-1], strict=True):
        weights.append(curvature * dot(step, rest))
        rest -= weights[-1] * change
    direction = rest * (1.0 / STIFFNESS_EV_PER_ANG2)
    for step, change, curvature, weight in zip(steps, changes, curvatures, reversed(weights), strict=True):
        direction += (weight - curvature * dot(change, direction)) * step
    return direction
