"""Would a table of the radial functions pay? Sines against a cubic table, values and gradients, beside a whole pass.

The table holds, for each interval of the distance, the four coefficients of every function times its envelope (Hermite,
continuous derivatives). Both are what autograd makes of them; times are the least processor time of a call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from ase.build import bulk
from systems import show

from equipot import load_potential
from equipot.models.neighbours import NeighbourSearch
from equipot.models.potential import eager_pass, graph_tensors
from equipot.models.radial import BesselBasis


class Table(torch.nn.Module):
    """A cubic Hermite table of a basis in the distance."""

    def __init__(self, basis: BesselBasis, n_intervals: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.step = basis.cutoff_ang / n_intervals
        knots = (torch.arange(n_intervals + 1, dtype=torch.float64) * self.step).clamp(min=1e-3).requires_grad_(True)
        exact = BesselBasis(len(basis.frequencies), basis.cutoff_ang)(knots)
        slopes = torch.stack([torch.autograd.grad(column.sum(), knots, retain_graph=True)[0] for column in exact.T], 1)
        value, slope = exact.detach(), slopes * self.step
        rise = value[1:] - value[:-1]
        second, third = 3 * rise - 2 * slope[:-1] - slope[1:], slope[:-1] + slope[1:] - 2 * rise
        self.coefficients = torch.stack([value[:-1], slope[:-1], second, third], 1).to(dtype)

    def forward(self, distance_ang: torch.Tensor) -> torch.Tensor:
        """(n, n_slots) -> (n, n_basis, n_slots), as the basis."""
        place = distance_ang / self.step
        interval = place.detach().floor().clamp(0, len(self.coefficients) - 1)
        t = (place - interval).unsqueeze(-1)
        c = self.coefficients.index_select(0, interval.long().flatten()).view(*distance_ang.shape, 4, -1).unbind(-2)
        return (c[0] + t * (c[1] + t * (c[2] + t * c[3]))).transpose(1, 2)


def least_us(run: Callable[[], object], n: int = 60) -> float:
    times_s = []
    for _ in range(n):
        before = time.process_time()
        run()
        times_s.append(time.process_time() - before)
    return 1e6 * min(times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--intervals", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dtype in ("float32", "float64"):
        potential = load_potential("elements", device="cpu", dtype=dtype)
        atoms = bulk("Si", cubic=True).repeat(2)
        atoms.rattle(0.05, seed=0)
        search = NeighbourSearch(potential.cutoff_ang)
        graph = search.graph(atoms.numbers, atoms.positions, np.array(atoms.cell), atoms.pbc)
        inputs = graph_tensors(graph, potential.torch_dtype, potential.torch_device, potential.network.architecture)
        distance = inputs[1].square().sum(-1).sqrt().clamp(min=1.0).requires_grad_(True)
        basis = potential.network.basis
        table = Table(basis, given.intervals, potential.torch_dtype)
        weight = torch.randn_like(basis(distance))

        def both(
            functions: torch.nn.Module, distance: torch.Tensor = distance, weight: torch.Tensor = weight
        ) -> torch.Tensor:
            return torch.autograd.grad(functions(distance), distance, weight)[0]

        error = float((both(table) - both(basis)).norm() / both(basis).norm())
        whole = least_us(lambda potential=potential, inputs=inputs: eager_pass(potential.network, *inputs), 20)
        sines, tabulated = least_us(lambda b=basis, f=both: f(b)), least_us(lambda t=table, f=both: f(t))
        rows.append([dtype, *(f"{value:.0f}" for value in (sines, tabulated, whole)), f"{error:.0e}"])
    show(
        f"values and gradients of {len(basis.frequencies)} functions of {graph.neighbours.size} bonds, µs",
        ["", "sines", f"table of {given.intervals}", "the whole eager pass", "relative difference of gradients"],
        rows,
    )


if __name__ == "__main__":
    main()
