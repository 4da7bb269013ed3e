"""Voigt order, ASE's: xx, yy, zz, yz, xz, xy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def symmetric_matrix(components: np.ndarray | Sequence[float]) -> np.ndarray:
    """The symmetric matrix (3, 3) of six components in Voigt order."""
    xx, yy, zz, yz, xz, xy = components
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
