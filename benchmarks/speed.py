r"""Energy + forces: potentials of ours against MACE and NequIP on this machine, all in one run, turn by turn.

    python benchmarks/speed.py                                     ours alone
    python benchmarks/speed.py --mace-python VENV/bin/python       and MACE, from an environment that has mace-torch
    python benchmarks/speed.py --nequip-python VENV/bin/python --nequip 5.0=MODEL.nequip.pt2
    python benchmarks/speed.py --mace-python VENV/bin/python --mace acac=5.0 --systems acetylacetone \
        --model benchmarks/weights/acac-seed0.json             one of ours beside MACE's own of the same molecule

Every contestant is a process of its own (speed_contestant.py) and only one of them works at a time: each round lets all
of them compute the same system, so that a busy machine is unfair to nobody. Times are milliseconds of processor time
per call (of several threads by the clock, for which the machine must be idle), the median over rounds; ratios are
taken round by round. Peers have random weights in their published architectures (speed does not depend on weights), at
their own cutoff and once more at ours. Where one of our potentials does not know an element, `elements` stands in for
it; the architecture is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read
from scipy.spatial.transform import Rotation
from systems import show, systems_for

HERE = Path(__file__).parent
WATER_SPACING_ANG = 3.1045  # 216 molecules at 1 g/cm³
OURS = ("organic", "elements")


def water() -> Atoms:
    """216 molecules of water on a grid, each turned at random."""
    rng = np.random.default_rng(0)
    one, box = molecule("H2O"), Atoms()
    for place in np.ndindex(6, 6, 6):
        turned = one.copy()
        turned.positions = Rotation.random(rng=rng).apply(one.positions - one.positions[0])
        turned.positions += WATER_SPACING_ANG * np.array(place)
        box += turned
    box.set_cell([6 * WATER_SPACING_ANG] * 3)
    box.pbc = True
    return box


@dataclass
class Contestant:
    """A process that times calls, and what it has measured: system -> [ms per round], system -> MiB."""

    name: str
    python: str
    threads: int
    ms: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None
    _complaints: IO[str] = field(default_factory=lambda: tempfile.TemporaryFile("w+"))  # noqa: SIM115

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self.python, str(HERE / "speed_contestant.py"), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
        )
        if "ready" not in self._answer():
            self._complaints.seek(0)
            raise SystemExit(f"{self.name} does not start:\n{self._complaints.read()[-2000:]}")

    def time(self, label: str, atoms: Atoms, seconds: float) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        system = {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist()}
        system |= {"cell": atoms.cell.tolist(), "pbc": atoms.pbc.tolist()}
        self._process.stdin.write(json.dumps({"system": system, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer:
            self.ms.setdefault(label, []).append(answer["ms" if self.threads == 1 else "clock_ms"])
            self.peak_mib[label] = answer["peak_mib"]

    def stop(self) -> None:
        assert self._process is not None
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer


def ours_for(atoms: Atoms) -> str:
    """The shipped potential that knows these elements."""
    return "elements" if set(atoms.symbols) & {"Si"} else "organic"


def contestants(given: argparse.Namespace, threads: int) -> list[Contestant]:
    names = [
        (f"equipot:{model}:{dtype}:{execution}", sys.executable)
        for model in given.model or OURS
        for dtype in given.dtype
        for execution in given.execution
    ]
    if given.mace_python:
        names += [(f"mace:{which}:{dtype}:{cutoff}", given.mace_python) for dtype in given.dtype
                  for which, cutoff in [part.split("=") for part in given.mace]]  # fmt: skip
    if given.nequip_python:
        names += [(f"nequip:{part.split('=')[1]}", given.nequip_python) for part in given.nequip]
    return [Contestant(name, python, threads) for name, python in names]


def measure(given: argparse.Namespace, threads: int, systems: dict[str, Atoms]) -> list[Contestant]:
    everyone = contestants(given, threads)
    for contestant in everyone:
        contestant.start()
    for _ in range(given.rounds):
        for label, atoms in systems.items():
            for contestant in everyone:
                family, model, *_ = contestant.name.split(":")
                if family != "equipot" or given.model or model == ours_for(atoms):
                    contestant.time(label, atoms, given.seconds)
    for contestant in everyone:
        contestant.stop()
    return everyone


def report(everyone: list[Contestant], systems: dict[str, Atoms], threads: int) -> None:
    rows = []
    for contestant in everyone:
        cells = [contestant.name.replace(str(Path.cwd()) + "/", "")]
        for label in systems:
            rounds = contestant.ms.get(label)
            cells.append("" if not rounds else f"{statistics.median(rounds):.2f}")
        rows.append([*cells, f"{max(contestant.peak_mib.values(), default=0):.0f}"])
    clock = "of processor time" if threads == 1 else "by the clock"
    show(f"energy + forces, ms {clock}, {threads} thread(s)", ["", *systems, "peak MiB"], rows)
    ours = [one for one in everyone if one.name.startswith("equipot")]
    peers = [one for one in everyone if not one.name.startswith("equipot")]
    for peer in peers:
        rows = []
        for one in ours:
            ratios = {
                label: [
                    theirs / mine for theirs, mine in zip(peer.ms.get(label, []), one.ms.get(label, []), strict=False)
                ]
                for label in systems
            }
            rows.append([one.name, *(f"{statistics.median(r):.1f}" if r else "" for r in ratios.values())])
        show(f"times faster than {Path(peer.name).name}", ["", *systems], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="one of ours for every system (organic, elements)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "float64"])
    parser.add_argument("--execution", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each system, contestant and round (1)")
    parser.add_argument(
        "--systems", nargs="+", default=["aspirin", "Si (64", "Si (512", "water"], help="beginnings of names"
    )
    parser.add_argument("--mace-python", help="interpreter of an environment with mace-torch")
    parser.add_argument("--mace", nargs="+", default=["off-small=4.5", "off-small=5.0"], help="NAME=CUTOFF, see mace()")
    parser.add_argument("--nequip-python", help="interpreter of an environment with nequip")
    parser.add_argument("--nequip", nargs="+", default=[], help="CUTOFF=PACKAGE of nequip-compile")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    given = parser.parse_args()
    every = {**systems_for(("H", "C", "O", "Si")), "water (648 atoms)": water()}
    every["acetylacetone (15 atoms)"] = read(HERE / "acetylacetone.xyz")
    systems = {label: atoms for label, atoms in every.items() if label.startswith(tuple(given.systems))}
    written = []
    for threads in given.threads:
        everyone = measure(given, threads, systems)
        report(everyone, systems, threads)
        written += [{"name": c.name, "threads": threads, "ms": c.ms, "peak_mib": c.peak_mib} for c in everyone]
    if given.json:
        given.json.write_text(json.dumps({"load": os.getloadavg(), "contestants": written}, indent=1))


if __name__ == "__main__":
    main()
