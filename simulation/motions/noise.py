"""Random numbers that depend on nothing but where they are used.

Every normal is a function of (seed, stream, step, atom, component) alone: no generator state is carried along, so a
system draws the same noise alone, in any batch, on any worker, and after a restart. The integers are Philox4x64-10
(Salmon, Moraes, Dror, Shaw, SC11, 2011) with one counter block per atom; the normals come from them by the
Box-Muller transform.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

WORDS_PER_ATOM = 4  # one Philox block: two words make two normals, three of four normals are used


class Stream(IntEnum):
    """What the noise is for; streams of one seed are independent. The numbers are part of the format."""

    VELOCITIES = 0
    LANGEVIN = 1
    THERMOSTAT = 2
    BAROSTAT = 3


def noise_words(seed: int, stream: Stream, step: int, n_atoms: int) -> np.ndarray:
    """The integers behind the noise of one step, (n_atoms, 4) uint64.

    The key is (seed, stream), the counter (atom, step, 0, 0).
    """
    # numpy counts up before it makes a block, so it is started one before atom 0
    counter = (step << 64) - 1 if step else 2**256 - 1
    words = [(counter >> (64 * place)) & 0xFFFF_FFFF_FFFF_FFFF for place in range(4)]
    generator = np.random.Philox(
        key=np.array([seed, int(stream)], dtype=np.uint64), counter=np.array(words, dtype=np.uint64)
    )
    raw: np.ndarray = generator.random_raw(WORDS_PER_ATOM * n_atoms)
    return raw.reshape(n_atoms, WORDS_PER_ATOM)


def normals(seed: int, stream: Stream, step: int, n_atoms: int) -> np.ndarray:
    """Standard normals of one step, (n_atoms, 3)."""
    uniform = (noise_words(seed, stream, step, n_atoms) >> np.uint64(11)) * 2.0**-53  # [0, 1), 53 bits
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 0::2]))
    angle = 2.0 * np.pi * uniform[:, 1::2]
    return np.stack(
        [radius[:, 0] * np.cos(angle[:, 0]), radius[:, 0] * np.sin(angle[:, 0]), radius[:, 1] * np.cos(angle[:, 1])],
        axis=1,
    )
