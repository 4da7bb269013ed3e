"""What every test shares: the data folder, the tiny potential, and one thread per process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
TINY_MODELS = DATA / "potentials"

# Set here, before torch is loaded, so that the processes the tests start inherit them.
os.environ["EQUIPOT_MODEL_PATH"] = str(TINY_MODELS)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("EQUIPOT_REDIS_URL", None)

# A shell's background job ignores Ctrl-C, and so would every process the tests start from it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Files the tests read: tests/data, with sources and licences in its README."""
    return DATA
