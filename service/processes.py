"""Child processes that end with the process that started them, even if that was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

PR_SET_PDEATHSIG = 1
WATCHDOG = 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; kill "$1" 2>/dev/null'


def start_child(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, output: IO[Any] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C is for the parent, which ends its children in order.

    If the parent dies the child gets SIGTERM: from the kernel on Linux, from a small watchdog elsewhere. To the kernel
    the parent is the thread that calls this, so call it from the main thread.
    """
    on_linux = sys.platform.startswith("linux")
    child = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
        preexec_fn=_DieWithParent() if on_linux else None,
    )
    if not on_linux:
        watch(os.getpid(), child.pid)
    return child


def watch(parent: int, child: int) -> subprocess.Popen[bytes]:
    """Send SIGTERM to `child` when `parent` is gone."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, str(parent), str(child)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class _DieWithParent:
    """Run in the child between fork and exec."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._parent = os.getpid()

    def __call__(self) -> None:
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != self._parent:  # it died before the call
            os._exit(1)


def n_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
