"""Systems of every kind and networks small enough to be tested to the last bit."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipot.models.graph import AtomGraph
from equipot.models.loading import load_potential
from equipot.models.neighbours import NeighbourSearch
from equipot.models.network import Architecture, Network
from equipot.models.potential import Potential, Prediction
from equipot.structure import Structure

Predict = Callable[[Structure], Prediction]


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips where nothing can be compiled, as on a newcomer's machine without g++."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"there is no C++ compiler: {error}")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("Python's headers, which compiling needs, are not installed")


def small_network(seed: int = 0, **changes: Any) -> Network:
    """A network with random weights in every part, float64."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"n_channels": 8, "n_pair_channels": 4, "n_message_channels": 4, "n_basis": 5}
    architecture = Architecture(elements=(1, 6, 8, 14, 29), **{**sizes, **changes})
    network = Network(architecture).double()
    with torch.no_grad():
        network.linear_readout.normal_()
        network.output_readout.normal_()
        network.binding_ev.normal_()
    return network


def graph_of(structure: Structure, cutoff_ang: float) -> AtomGraph:
    return NeighbourSearch(cutoff_ang).graph(
        structure.numbers, structure.positions_ang, structure.cell_ang, structure.pbc
    )


@pytest.fixture(scope="session")
def tiny() -> Potential:
    """The trained potential for tests, float64 on the CPU."""
    return load_potential("tiny", device="cpu")


@pytest.fixture(scope="session")
def predict(tiny: Potential) -> Predict:
    return lambda structure: tiny.evaluate(graph_of(structure, tiny.cutoff_ang))


def ethanol(seed: int = 0) -> Structure:
    positions = np.array(
        [
            [1.1879, -0.3829, 0.0], [0.0, 0.5526, 0.0], [-1.1867, -0.2472, 0.0], [-1.9237, 0.3850, 0.0],
            [2.0985, 0.2306, 0.0], [1.1184, -1.0093, 0.8869], [1.1184, -1.0093, -0.8869],
            [-0.0227, 1.1812, 0.8852], [-0.0227, 1.1812, -0.8852],
        ]
    )  # fmt: skip
    positions = positions + np.random.default_rng(seed).normal(scale=0.05, size=positions.shape)
    return Structure(np.array([6, 6, 8, 1, 1, 1, 1, 1, 1]), positions)


def triclinic_crystal(seed: int = 0) -> Structure:
    """A skewed cell of silicon and copper, smaller than the cutoff, with atoms outside it."""
    rng = np.random.default_rng(seed)
    cell = np.array([[3.1, 0.2, 0.1], [0.9, 3.4, -0.3], [-0.4, 0.8, 3.9]])
    fractional = np.array([[0.0, 0.0, 0.0], [0.45, 0.5, 0.55], [1.9, -0.1, 0.4]])
    positions = fractional @ cell + rng.normal(scale=0.05, size=(3, 3))
    return Structure(np.array([14, 29, 14]), positions, cell, (True, True, True))


def slab(seed: int = 0) -> Structure:
    """Copper, periodic in two directions, with a carbon monoxide on it."""
    rng = np.random.default_rng(seed)
    cell = np.array([[3.6, 0.0, 0.0], [0.0, 3.6, 0.0], [0.0, 0.0, 20.0]])
    metal = np.array([[0.0, 0.0, 5.0], [1.8, 1.8, 5.0], [1.8, 0.0, 6.8], [0.0, 1.8, 6.8]])
    positions = np.vstack([metal, [[0.9, 0.9, 8.6], [0.9, 0.9, 9.75]]]) + rng.normal(scale=0.03, size=(6, 3))
    return Structure(np.array([29, 29, 29, 29, 6, 8]), positions, cell, (True, True, False))


ALL_KINDS = [ethanol, triclinic_crystal, slab]
