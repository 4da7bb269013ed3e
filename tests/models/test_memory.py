"""What a pass needs grows with the number of atoms, slowly enough for ten thousand of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from equipot.models.allocation import keep_memory

#: float64, 28 neighbours; 10,000 atoms then stay below 8 GiB
MOST_KIB_PER_ATOM = 700

MEASURE = """
from ase.build import bulk
from equipot import EquipotCalculator
def peak_kib():  # of this program: ru_maxrss would begin with that of the process that started it
    status = open("/proc/self/status")
    with status: return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
small = bulk("Si", cubic=True)
calculator = EquipotCalculator("elements", device="cpu")
small.calc = calculator
small.get_forces()
before = peak_kib()
large = small.repeat(5)
large.calc = calculator
large.get_forces()
print((peak_kib() - before) / len(large))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_the_peak_of_memory_per_atom_stays_where_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < MOST_KIB_PER_ATOM


def test_memory_can_be_kept_on_linux() -> None:
    assert keep_memory() == sys.platform.startswith("linux")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc tells what it keeps")
def test_what_is_kept_is_known_and_can_be_given_back() -> None:
    script = """
import numpy as np
from equipot.models.allocation import give_memory_back, keep_memory, kept_bytes
assert keep_memory()
before = kept_bytes()
block = np.ones(2**25)
del block
kept = kept_bytes() - before
give_memory_back()
resident = int(open("/proc/self/statm").read().split()[1]) * 4096
print(kept, resident)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    kept, resident = map(int, done.stdout.split())
    assert kept > 0.9 * 2**28
    assert resident < 2**28
